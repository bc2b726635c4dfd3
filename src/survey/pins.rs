//! What fixes the bits beyond the config, the inputs and the thread count. The program's own part, and the libraries': the plan
//! names them, and another program refuses to go on with it. The instructions that libtorch and oneDNN choose on a CPU: the plan
//! names them too, and every rank pins both libraries to them before it uses either.

use serde::{Deserialize, Serialize};

use crate::config::DeviceKind;
use crate::device::{self, Fact};
use crate::product::schema;
use crate::{Error, Result};

/// Version of all that turns inputs into numbers: observation, likelihood, network, sampler, random numbers, merging,
/// measurements. To be raised with every change that moves a bit of a product, in the commit that makes it. What does not
/// move bits needs no new version: a survey that was begun with one build is finished with the next.
pub const ARITHMETIC: u32 = 15;

/// What of the program moves bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// `ARITHMETIC` of the program that planned.
    pub arithmetic: u32,
    /// Format version of the product files.
    pub products: u64,
    pub libtorch: String,
    /// `MKL_CBWR` (CPU runs).
    pub mkl: Option<String>,
    /// The kind of GPU (CUDA runs that were planned where there is one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Code {
    /// That of this program on such a device.
    pub fn this(device: DeviceKind) -> Result<Code> {
        Ok(Code {
            arithmetic: ARITHMETIC,
            products: schema::FORMAT_VERSION,
            libtorch: device::describe(Fact::Version)?,
            mkl: (device == DeviceKind::Cpu).then(device::mkl_path),
            gpu: if device == DeviceKind::Cuda { device::gpu_kind() } else { None },
        })
    }

    /// What differs from the code that planned, each with the way out; `version` is that program's.
    pub fn drifts(&self, planned: &Code, version: &str) -> Vec<String> {
        let mut drifts = Vec::new();
        let ours = env!("CARGO_PKG_VERSION");
        let mut differ = |what: &str, old: String, new: String, way_out: String| {
            if old != new {
                drifts.push(format!("{what} was {old} and is {new} ({way_out})"));
            }
        };
        let program = format!("finish with the program that planned, unseeing {version}; this is {ours}");
        let numbers = [
            ("the program's arithmetic", u64::from(planned.arithmetic), u64::from(self.arithmetic)),
            ("the format of its products", planned.products, self.products),
        ];
        for (what, old, new) in numbers {
            differ(what, format!("version {old}"), format!("version {new}"), program.clone());
        }
        let library = format!("build with libtorch {}, see LIBTORCH", planned.libtorch);
        differ("libtorch", planned.libtorch.clone(), self.libtorch.clone(), library);
        let path = |code: &Code| code.mkl.clone().unwrap_or_else(|| "not used".into());
        differ("MKL's code path", path(planned), path(self), format!("set MKL_CBWR={}", path(planned)));
        // A plan of a login node does not know, and `status` there does not either.
        if let (Some(old), Some(new)) = (&planned.gpu, &self.gpu) {
            let mend = "finish on GPUs of that kind, with those libraries, or plan in another folder";
            differ("the kind of GPU", old.clone(), new.clone(), mend.into());
        }
        drifts
    }
}

const ATEN: &str = "ATEN_CPU_CAPABILITY";
const DNNL: &str = "DNNL_MAX_CPU_ISA";

/// Capabilities that can be pinned, from the least, with oneDNN's name.
const LEVELS: [(&str, &str); 3] = [("default", "SSE41"), ("avx2", "AVX2"), ("avx512", "AVX512_CORE")];

/// The capability to plan with: that of the environment if it is set, of this machine if not.
pub fn capability() -> String {
    std::env::var(ATEN).unwrap_or_else(|_| machine().to_string())
}

fn machine() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq");
        if has_avx512 {
            return "avx512";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    "default"
}

/// Pins this process to the plan's capability. Must be called before libtorch is used and before threads are started.
pub fn pin(planned: &str) -> Result<()> {
    let level = |name: &str| LEVELS.iter().position(|(known, _)| *known == name);
    let wanted = level(planned).ok_or_else(|| {
        Error::usage(format!("the plan's CPU capability is `{planned}`; {ATEN} knows default, avx2 and avx512"))
    })?;
    if level(machine()) < Some(wanted) {
        return Err(Error::usage(format!(
            "the survey was planned for {planned} instructions and this machine ({}) has only {}: run it on other \
             machines, or plan a new survey with {ATEN}={} set",
            crate::cluster::host(),
            machine(),
            machine()
        )));
    }
    // SAFETY: the caller promises that no other thread of this program runs yet.
    unsafe {
        std::env::set_var(ATEN, planned);
        std::env::set_var(DNNL, LEVELS[wanted].1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_code_is_named_with_its_way_out() {
        let planned = Code::this(DeviceKind::Cpu).unwrap();
        assert_eq!(Code::this(DeviceKind::Cpu).unwrap().drifts(&planned, "0.0.9"), Vec::<String>::new());
        let said = |change: fn(&mut Code)| {
            let mut code = planned.clone();
            change(&mut code);
            let drifts = code.drifts(&planned, "0.0.9");
            assert_eq!(drifts.len(), 1, "{drifts:?}");
            drifts[0].clone()
        };
        assert!(said(|code| code.arithmetic += 1).contains("program that planned, unseeing 0.0.9"));
        assert!(said(|code| code.products += 1).contains("format of its products"));
        assert!(said(|code| code.libtorch = "1.0".into()).contains("build with libtorch"));
        assert!(said(|code| code.mkl = Some("COMPATIBLE".into())).contains("set MKL_CBWR="));
        // Only where both know.
        let with = |gpu: Option<&str>| Code { gpu: gpu.map(String::from), ..planned.clone() };
        let drifts = |now, then| with(now).drifts(&with(then), "0.0.9").concat();
        assert!(drifts(Some("8.0"), Some("9.0")).contains("the kind of GPU was 9.0 and is 8.0 (finish on GPUs"));
        assert_eq!(
            [drifts(None, Some("9.0")), drifts(Some("9.0"), None), drifts(Some("9.0"), Some("9.0"))].concat(),
            ""
        );
        assert!(planned.mkl.is_some() && Code::this(DeviceKind::Cuda).unwrap().mkl.is_none());
    }
}
