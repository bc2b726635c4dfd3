//! Compute devices: the one place that chooses between CPU and GPU, fixes threads and precision, and says what else moves
//! bits. Nothing falls back silently: a missing GPU is an error that names what is missing.

use std::ffi::{c_char, c_int};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::Serialize;
use tch::{Cuda, Device};

use crate::config::DeviceKind;
use crate::{Error, Result};

// Of `device/shim.cpp`: the switches that libtorch's C interface lacks.
unsafe extern "C" {
    fn unseeing_set_precision(allow_tf32: c_int) -> c_int;
    fn unseeing_half(cuda: c_int, which: c_int) -> c_int;
    fn unseeing_set_threads(threads: c_int) -> c_int;
    fn unseeing_describe(what: c_int, out: *mut c_char, size: usize) -> c_int;
}

/// Settings that libraries read from the environment once, at their first use. A user's own value is left alone.
/// `CUBLAS_WORKSPACE_CONFIG`: cuBLAS repeats its sums only with a fixed workspace. `MKL_CBWR`: MKL then takes the same
/// code path whatever the alignment of its arguments.
const ENVIRONMENT: [(&str, &str); 2] = [("CUBLAS_WORKSPACE_CONFIG", ":4096:8"), ("MKL_CBWR", "AUTO,STRICT")];

/// Sets the environment that repeatable arithmetic needs. To be called first thing in `main`, while the process has one
/// thread.
pub fn prepare_environment() {
    for (name, value) in ENVIRONMENT {
        if std::env::var_os(name).is_none() {
            // SAFETY: the caller promises that no other thread runs yet, so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
    }
    // Tensors of a step are all alike: what one frees the next one takes. By default large blocks go back to the system
    // each time, and come back as page faults, which cost more than the arithmetic of the forward model.
    #[cfg(target_env = "gnu")]
    // SAFETY: plain settings of the allocator, made before other threads run.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// MKL's code path, as this process was told or will be.
pub fn mkl_path() -> String {
    let [_, (name, value)] = ENVIRONMENT;
    std::env::var(name).unwrap_or_else(|_| value.into())
}

/// A device made ready for the calling thread.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Where tensors go.
    pub device: Device,
    /// Threads of one operation on the CPU, as libtorch itself reports them on the calling thread.
    pub threads: u32,
}

impl Compute {
    /// Makes the device ready. To be called on the thread that will run the network, since libtorch's number of threads
    /// belongs to the thread that sets it.
    ///
    /// `local_rank` is the rank's place among the `local_ranks` ranks of this node; with CUDA it is the device's index.
    /// `Error::Usage` names what is missing: a library, a device, enough devices for the ranks.
    pub fn open(kind: DeviceKind, local_rank: u32, local_ranks: u32, threads: u32) -> Result<Compute> {
        Compute::open_shared(kind, local_rank, local_ranks, 1, threads)
    }

    /// The same where `ranks_per_device` ranks use a CUDA device together: consecutive ranks, so that the device's index is
    /// `local_rank / ranks_per_device`.
    pub fn open_shared(
        kind: DeviceKind,
        local_rank: u32,
        local_ranks: u32,
        ranks_per_device: u32,
        threads: u32,
    ) -> Result<Compute> {
        // CUDA first: its library must be there before libtorch looks for devices.
        let device = match kind {
            DeviceKind::Cpu => Device::Cpu,
            DeviceKind::Cuda => open_cuda(local_rank, local_ranks, ranks_per_device)?,
        };
        set_precision(false)?;
        Ok(Compute { device, threads: set_threads(threads)? })
    }

    /// What moves bits on this machine besides the plan's own numbers: products of equal bytes are promised between
    /// machines whose text is the same.
    pub fn fingerprint(&self) -> Result<String> {
        let setting = |name: &str| std::env::var(name).unwrap_or_else(|_| "default".into());
        let mut text = format!(
            "libtorch {}; cpu {}; threads {}; DNNL_MAX_CPU_ISA {}; MKL_CBWR {}",
            describe(Fact::Version)?,
            describe(Fact::CpuCapability)?,
            self.threads,
            setting("DNNL_MAX_CPU_ISA"),
            setting("MKL_CBWR"),
        );
        if let Device::Cuda(_) = self.device {
            text += &format!("; cuda {}; cudnn {}", tch::utils::version_cudart(), tch::utils::version_cudnn());
        }
        Ok(text)
    }
}

/// Number of CUDA devices, or the reason why there is none (a library that is missing, or no device).
pub fn cuda_devices() -> Result<u32> {
    load_cuda()?;
    match Cuda::device_count() {
        count if count > 0 => Ok(count as u32),
        _ => Err(Error::usage(
            "device = \"cuda\": libtorch_cuda.so is there but no CUDA device is: check `nvidia-smi`, the driver's \
             version and CUDA_VISIBLE_DEVICES, or set run.device = \"cpu\"",
        )),
    }
}

/// What of a node's first CUDA device and its libraries moves bits: which kernels are chosen, and how sums are cut. `None`
/// where there is no device (a login node).
pub fn gpu_kind() -> Option<String> {
    cuda_devices().ok()?;
    // cudaDeviceAttr: cudaDevAttrComputeCapabilityMajor and -Minor, cudaDevAttrMultiProcessorCount.
    let [major, minor, multiprocessors] = [device_attribute(75)?, device_attribute(76)?, device_attribute(16)?];
    Some(format!(
        "compute capability {major}.{minor}, {multiprocessors} multiprocessors, CUDA {}, cuDNN {}",
        tch::utils::version_cudart(),
        tch::utils::version_cudnn()
    ))
}

/// A number that the CUDA runtime, which came with libtorch's CUDA library, tells of device 0.
fn device_attribute(attribute: c_int) -> Option<c_int> {
    type Get = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
    let mut value: c_int = 0;
    // SAFETY: the signature is that of cudaDeviceGetAttribute(int*, enum, int) in all versions of the runtime; the library
    // is never unloaded.
    let code = unsafe {
        let get = Library::this().get::<Get>(b"cudaDeviceGetAttribute\0").ok()?;
        get(&mut value, attribute, 0)
    };
    (code == 0).then_some(value)
}

fn open_cuda(local_rank: u32, local_ranks: u32, ranks_per_device: u32) -> Result<Device> {
    Ok(Device::Cuda(device_index(local_rank, local_ranks, ranks_per_device, cuda_devices()?)?))
}

/// Which of the node's devices a rank takes.
fn device_index(local_rank: u32, local_ranks: u32, ranks_per_device: u32, devices: u32) -> Result<usize> {
    if ranks_per_device == 0 {
        return Err(Error::usage(
            "ranks_per_device = 0: give the number of ranks that share a CUDA device, at least 1",
        ));
    }
    let index = local_rank / ranks_per_device;
    if local_ranks.div_ceil(ranks_per_device) > devices || index >= devices {
        let shared = if ranks_per_device > 1 { format!(", {ranks_per_device} ranks to each") } else { String::new() };
        return Err(Error::usage(format!(
            "{local_ranks} ranks on this node but {devices} CUDA device(s){shared}: each rank takes the device of its local \
             rank; start as many ranks a node as it has devices, and let every rank see all of them (or let several ranks \
             share a device: run.ranks_per_device)"
        )));
    }
    Ok(index as usize)
}

/// Loads libtorch's CUDA half, which registers itself. The binary is not linked to it, so that one binary serves both
/// kinds of machine.
fn load_cuda() -> Result<()> {
    // SAFETY: the library's initialisers are libtorch's own registration code; it is never unloaded.
    let loaded = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    match loaded {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(Error::usage(format!(
            "device = \"cuda\" needs libtorch's CUDA library, which cannot be loaded: {error}. The lean CPU libtorch does \
             not have it: build with LIBTORCH naming a full libtorch 2.13.0, or set run.device = \"cpu\""
        ))),
    }
}

/// Full f32 products and convolutions unless `allow_tf32`; deterministic algorithms always.
pub fn set_precision(allow_tf32: bool) -> Result<()> {
    // SAFETY: a plain function that catches its exceptions.
    match unsafe { unseeing_set_precision(c_int::from(allow_tf32)) } {
        0 => Ok(()),
        _ => Err(Error::internal("libtorch refused its precision settings")),
    }
}

/// Numbers of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Half {
    /// 8 bits, and the range of f32.
    Bf16 = 1,
    /// 11 bits, from 6e-8 to 65504.
    F16 = 2,
}

/// While it lives, the calling thread's products and convolutions on one kind of device are made of 16-bit numbers; weights,
/// sums and normalisations stay f32. Gradients are taken after it is dropped.
#[derive(Debug)]
pub struct HalfPrecision {
    cuda: bool,
}

impl HalfPrecision {
    pub fn begin(half: Half, device: Device) -> Result<HalfPrecision> {
        let cuda = device.is_cuda();
        // SAFETY: a plain function that catches its exceptions.
        match unsafe { unseeing_half(c_int::from(cuda), half as c_int) } {
            0 => Ok(HalfPrecision { cuda }),
            _ => Err(Error::internal(format!("libtorch refused to compute in {half:?}"))),
        }
    }
}

impl Drop for HalfPrecision {
    fn drop(&mut self) {
        // SAFETY: as above. Nothing can be done about a refusal to go back, and none is known.
        let _ = unsafe { unseeing_half(c_int::from(self.cuda), 0) };
    }
}

/// Sets the number of threads for the calling thread's operations and checks that libtorch took it.
pub fn set_threads(threads: u32) -> Result<u32> {
    if threads == 0 {
        return Err(Error::usage("run.threads = 0: give the number of CPU threads of each rank, at least 1"));
    }
    // SAFETY: a plain function that catches its exceptions.
    let got = unsafe { unseeing_set_threads(threads as c_int) };
    if got != threads as c_int {
        return Err(Error::internal(format!(
            "libtorch uses {got} threads where the plan wants {threads}: the results would differ in their last bits"
        )));
    }
    Ok(threads)
}

/// What libtorch can say about itself. The numbers are those of the shim.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub enum Fact {
    Version = 0,
    /// The instruction set that its own kernels use (`ATEN_CPU_CAPABILITY` lowers it).
    CpuCapability = 1,
    Mkl = 2,
    OneDnn = 3,
    Parallel = 4,
    Build = 5,
}

/// One fact about libtorch, as its own text.
pub fn describe(fact: Fact) -> Result<String> {
    let mut buffer = vec![0u8; 1 << 14];
    // SAFETY: the shim writes at most the length it is given, and ends the text with a zero.
    let code = unsafe { unseeing_describe(fact as c_int, buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    match code {
        0 => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        _ => Err(Error::internal(format!("libtorch does not say its {fact:?}"))),
    }
}

/// Waits until the device has done all work given to it (a CPU always has).
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// Settings that were found in the environment, for the record.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    pub name: &'static str,
    pub value: Option<String>,
}

/// The environment variables that change the arithmetic of libtorch and its libraries.
pub fn settings() -> Vec<Setting> {
    let names = ["ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS"];
    names.into_iter().map(|name| Setting { name, value: std::env::var(name).ok() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_hold_on_the_calling_thread() {
        std::thread::spawn(|| {
            for threads in [2, 1] {
                let compute = Compute::open(DeviceKind::Cpu, 0, 1, threads).unwrap();
                assert_eq!(compute.threads, threads);
                assert_eq!(tch::get_num_threads(), threads as i32);
                assert!(compute.fingerprint().unwrap().contains(&format!("threads {threads};")));
            }
            assert_eq!(Compute::open(DeviceKind::Cpu, 0, 1, 0).unwrap_err().exit_code(), 2);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn ranks_take_devices_in_order_and_never_one_too_many() {
        let index = |rank, ranks, each, devices| device_index(rank, ranks, each, devices).ok();
        assert_eq!([0, 3].map(|rank| index(rank, 4, 1, 4)), [Some(0), Some(3)]);
        assert_eq!([0, 1, 2, 7].map(|rank| index(rank, 8, 2, 4)), [0, 0, 1, 3].map(Some));
        assert_eq!([index(0, 5, 1, 4), index(0, 9, 2, 4), index(0, 2, 1, 1)], [None; 3]);
        assert!(device_index(0, 1, 0, 1).unwrap_err().to_string().contains("ranks_per_device = 0"));
        let message = device_index(0, 5, 2, 2).unwrap_err().to_string();
        assert!(
            message.contains("5 ranks") && message.contains("2 CUDA") && message.contains("2 ranks to each"),
            "{message}"
        );
    }

    #[test]
    fn libtorch_says_what_it_is() {
        assert_eq!(describe(Fact::Version).unwrap(), "2.13.0");
        assert!(!describe(Fact::CpuCapability).unwrap().is_empty());
        assert!(describe(Fact::Build).unwrap().contains("PyTorch built with"));
    }

    #[test]
    fn a_missing_gpu_is_an_error_that_says_what_is_missing() {
        if cuda_devices().is_ok() {
            return;
        }
        let error = Compute::open(DeviceKind::Cuda, 0, 1, 1).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("cuda"), "{error}");
        assert_eq!(gpu_kind(), None);
    }
}
