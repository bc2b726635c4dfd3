//! The steps of the default sampler: down the noise levels, with sweeps at two of them.
//!
//! A step takes p(x0 | x_t) for the Gaussian N(D, C). Far up, where noise hides what kind of galaxy it is, that is wrong, and draws of
//! a galaxy that the data leave open keep some of it all the way down: against exact posteriors of a network prior at S/N 0 to 21 the
//! variance of fluxes was 1.25 and that of the outskirts 3 times what it should be. Lower down it is right: exact draws to which noise
//! of level 3.4 was added came out as exact ones. So draws are made to forget where they came from, by sweeps of a Gibbs sampler
//!
//! ```text
//! x0 ~ p(x0 | x_t, y),   x_t = x0 + t e
//! ```
//!
//! at a level where the step is right. Each leaves p(x_t | y) as it is, and takes what is wrong with x_t down by
//! (1/t^2) / (1/t^2 + 1/v), v the posterior variance of x0 without x_t. Going back up serves the same in RePaint (Lugmayr et al. 2022,
//! arXiv:2201.09865) and Restart (Xu et al. 2023, arXiv:2306.14878).
//!
//! Above the sweeps a step then need not be precise, and few are needed: with three steps instead of nine, and with a single one, draws
//! of the shipped prior were the same to 0.01 of their standard deviations (24 simulations of 8 draws with the same random numbers, S/N 5
//! to 300). Faint galaxies of its twin were 0.05 fainter with three instead of eight, so there are five.

use super::chain;
use crate::Result;

/// The upper one of the two noise levels with sweeps, in the prior's stretched space, where pixels of a galaxy are e-folds of flux. Lower
/// down a sweep forgets less.
pub const SWEEP_LEVEL: f64 = 4.5;

/// Karras' grid goes through powers: a level below this is that level.
const ROUNDED: f64 = SWEEP_LEVEL * 1.000_001;

/// One of so many noise levels lies above the sweeps.
const LEVELS_TO_ONE_ABOVE: u32 = 4;

/// One step of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Which of the noise levels.
    pub level: usize,
    /// That level, and the one that comes after this step; the same one where the step is a sweep.
    pub t: f64,
    pub next: f64,
    /// What its noise is drawn by: the number of the level, and for sweeps numbers beyond those.
    pub key: u32,
    /// Whether sweeps follow at lower levels: what is wrong here will be forgotten.
    pub forgotten: bool,
}

impl Stage {
    pub fn is_sweep(&self) -> bool {
        self.t == self.next
    }

    pub fn is_last(&self) -> bool {
        self.next == 0.0
    }
}

/// The `count` noise levels of a chain from `t_max` to `t_min`, and 0 after the last: Karras' grid. With sweeps, where there is a place
/// for them, it has a point at `SWEEP_LEVEL`, and few above. `method` is for the message.
pub fn levels(method: &str, t_max: f64, t_min: f64, count: u32, sweeps: u32) -> Result<Vec<f64>> {
    let above = (count / LEVELS_TO_ONE_ABOVE).max(1);
    if sweeps == 0 || !can_sweep(t_max, t_min, count) {
        return chain::levels(method, t_max, t_min, count);
    }
    let mut grid = chain::levels(method, t_max, SWEEP_LEVEL, above + 1)?;
    grid.truncate(above as usize);
    grid.extend(chain::levels(method, SWEEP_LEVEL, t_min, count - above)?);
    Ok(grid)
}

/// Whether so many levels have a place for sweeps: one above, and two where they are made.
pub fn can_sweep(t_max: f64, t_min: f64, count: u32) -> bool {
    t_max > ROUNDED && t_min < SWEEP_LEVEL && count > 2
}

/// The steps down a `grid` of decreasing levels that ends with 0, with so many `sweeps`; none where the grid has no place for them.
pub fn stages(grid: &[f64], sweeps: u32) -> Vec<Stage> {
    let count = grid.len().saturating_sub(1);
    let place = if sweeps > 0 { swept(grid) } else { None };
    let mut stages = Vec::with_capacity(count + sweeps as usize);
    let mut key = count as u32;
    for level in 0..count {
        let (t, next) = (grid[level], grid[level + 1]);
        let made = match place {
            Some(upper) if level == upper => sweeps.div_ceil(2),
            Some(upper) if level == upper + 1 => sweeps / 2,
            _ => 0,
        };
        let forgotten = place.is_some_and(|upper| level < upper);
        for _ in 0..made {
            stages.push(Stage { level, t, next: t, key, forgotten });
            key += 1;
        }
        stages.push(Stage { level, t, next, key: level as u32, forgotten });
    }
    stages
}

/// The upper one of the levels with sweeps; the other one is the next.
fn swept(grid: &[f64]) -> Option<usize> {
    let upper = grid.iter().position(|t| *t < ROUNDED)?;
    (upper > 0 && grid.get(upper + 1).is_some_and(|t| *t > 0.0)).then_some(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_made_at_two_levels_and_have_keys_of_their_own() {
        let grid = [20.0, 8.0, 4.0, 2.0, 0.5, 0.0];
        let stages = stages(&grid, 3);
        let path: Vec<_> = stages.iter().map(|stage| (stage.t, stage.next, stage.key, stage.forgotten)).collect();
        let expected = [
            (20.0, 8.0, 0, true),
            (8.0, 4.0, 1, true),
            (4.0, 4.0, 5, false),
            (4.0, 4.0, 6, false),
            (4.0, 2.0, 2, false),
            (2.0, 2.0, 7, false),
            (2.0, 0.5, 3, false),
            (0.5, 0.0, 4, false),
        ];
        assert_eq!(path, expected);
        assert!(stages.iter().all(|stage| stage.t == grid[stage.level]));
        assert!(stages[7].is_last() && stages[2].is_sweep() && !stages[4].is_sweep());
    }

    #[test]
    fn few_levels_are_above_the_sweeps() {
        // The shipped prior's: five above, and as many below as Karras' grid of 24 levels has, of which nine are above.
        let grid = levels("test", 48.0, 0.005, 20, 8).unwrap();
        let whole = chain::levels("test", 48.0, 0.005, 24).unwrap();
        assert!((grid[5] / SWEEP_LEVEL - 1.0).abs() < 1e-9);
        for (few, all) in [(0, 0), (5, 9), (6, 10), (19, 23), (20, 24)] {
            assert!((grid[few] - whole[all]).abs() <= 0.02 * whole[all], "{few}: {grid:?} {whole:?}");
        }
        assert_eq!(levels("test", 48.0, 0.005, 20, 0).unwrap(), chain::levels("test", 48.0, 0.005, 20).unwrap());
        // Always as many as asked for, from t_max to t_min and 0.
        let with = [(48.0, 3), (48.0, 7), (150.0, 23), (1e4, 400), (4.6, 20), (4.5001, 20)].map(|case| (case, 4));
        let without = [(4.500_001, 20), (4.5, 20), (2.0, 20), (48.0, 2)].map(|case| (case, 0));
        for ((t_max, count), expected) in with.into_iter().chain(without) {
            let grid = levels("test", t_max, 0.005, count, 4).unwrap();
            assert_eq!(grid.len(), count as usize + 1);
            assert!(grid.windows(2).all(|pair| pair[0] > pair[1]), "{grid:?}");
            let last = grid.len() - 2;
            assert!((grid[0] / t_max - 1.0).abs() < 1e-9 && (grid[last] / 0.005 - 1.0).abs() < 1e-9, "{grid:?}");
            assert_eq!(can_sweep(t_max, 0.005, count), swept(&grid).is_some(), "{grid:?}");
            let sweeps = stages(&grid, 4).iter().filter(|stage| stage.is_sweep()).count();
            assert_eq!(sweeps, expected, "{grid:?}");
        }
    }

    #[test]
    fn without_sweeps_or_a_place_for_them_the_steps_are_the_levels() {
        for (grid, sweeps) in [(&[20.0, 4.0, 2.0, 0.0][..], 0), (&[3.0, 1.0, 0.0], 4), (&[20.0, 4.0, 0.0], 4)] {
            let stages = stages(grid, sweeps);
            assert_eq!(stages.len(), grid.len() - 1);
            for (index, stage) in stages.iter().enumerate() {
                assert_eq!((stage.t, stage.next, stage.key), (grid[index], grid[index + 1], index as u32));
                assert!(!stage.forgotten && !stage.is_sweep());
            }
        }
        assert!(
            can_sweep(20.0, 0.1, 3) && !can_sweep(20.0, 0.1, 2) && !can_sweep(3.0, 0.1, 3) && !can_sweep(20.0, 5.0, 9)
        );
    }
}
