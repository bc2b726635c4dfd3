//! The scale of the loss in f16. Gradients of a mean over a million pixels are below the least f16 number, and would vanish;
//! the loss is therefore multiplied by a power of two before the backward pass, and the gradient divided by it afterwards, in
//! f32 (Micikevicius et al. 2018, arXiv:1710.03740). Too large a factor overflows: that step is left out and the factor
//! halved; after many good steps it is doubled. The gradient is the same on all ranks, and so is the factor.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where it starts, as a power of two.
const FIRST: i32 = 16;
/// Good steps after which it is doubled.
const PATIENCE: u32 = 2000;
/// Powers of two between which it stays: below the lower one the network itself overflows.
const RANGE: [i32; 2] = [-8, 30];

/// The factor and what is known of it; part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossScale {
    exponent: i32,
    /// Good steps since it was changed.
    good: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { exponent: FIRST, good: 0 }
    }
}

impl LossScale {
    /// What the loss is multiplied by.
    pub fn factor(self) -> f64 {
        2f64.powi(self.exponent)
    }

    /// After a step whose gradient was finite or not.
    ///
    /// Errors: no factor is small enough.
    pub fn learn(&mut self, finite: bool) -> Result<()> {
        self.good = if finite { self.good + 1 } else { 0 };
        if self.good == PATIENCE {
            (self.exponent, self.good) = ((self.exponent + 1).min(RANGE[1]), 0);
        } else if !finite {
            self.exponent -= 1;
        }
        if self.exponent < RANGE[0] {
            let what = "gradients overflow f16 at any scale of the loss: the training has diverged, or needs";
            return Err(Error::internal(format!("{what} run.precision = \"bf16\", \"tf32\" or \"f32\"")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let mut scale = LossScale::default();
        assert_eq!(scale.factor(), 65536.0);
        scale.learn(false).unwrap();
        assert_eq!(scale.factor(), 32768.0);
        (0..PATIENCE - 1).for_each(|_| scale.learn(true).unwrap());
        assert_eq!(scale.factor(), 32768.0);
        scale.learn(true).unwrap();
        assert_eq!(scale.factor(), 65536.0);
        // One that never fits is an error, not a loop.
        let steps = (0..100).position(|_| scale.learn(false).is_err());
        assert_eq!(steps, Some((FIRST - RANGE[0]) as usize));
    }
}
