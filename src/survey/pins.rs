//! What fixes the bits of CPU arithmetic beyond the thread count: the instructions that libtorch and oneDNN choose. The
//! plan names them, and every rank pins both libraries to them before it uses either.

use crate::{Error, Result};

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
