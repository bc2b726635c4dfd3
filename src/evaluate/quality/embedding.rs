//! UMAP (McInnes et al. 2018, arXiv:1802.03426) of draws and data together in three dimensions: a map for the eye, on which a
//! population that the prior lacks, or has collapsed to, stands apart. Distances on it mean nothing.

use manifolds_rs::{UmapParams, umap};

use super::Features;
use super::numbers;
use crate::random::object_seed;
use crate::{Error, Result};

/// Neighbours of each point, and the least distance of points on the map: the published defaults.
const NEIGHBOURS: usize = 15;
const LEAST_DISTANCE: f64 = 0.1;

/// Where each image is on the map.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// The features that it is a map of.
    pub features: String,
    pub draws: Vec<[f64; 3]>,
    pub train: Vec<[f64; 3]>,
    pub heldout: Vec<[f64; 3]>,
}

impl Embedding {
    /// Maps all images; `None` where they are too few to have neighbours. The numbers depend on the features and the seed only.
    pub fn of(features: &Features, seed: u64) -> Result<Option<Embedding>> {
        let sets = [&features.draws, &features.train, &features.heldout];
        let counts = sets.map(|set| set.size()[0] as usize);
        let width = features.train.size()[1] as usize;
        let all = counts.iter().sum::<usize>();
        if all <= NEIGHBOURS + 1 || width < 3 {
            return Ok(None);
        }
        let mut values = Vec::new();
        for set in sets {
            values.extend(numbers(set)?);
        }
        let points = faer::Mat::<f64>::from_fn(all, width, |row, column| values[row * width + column]);
        let mut settings = UmapParams::<f64>::new_default_2d(Some(LEAST_DISTANCE), None);
        settings.n_dim = 3;
        settings.k = NEIGHBOURS;
        settings.ann_type = "exhaustive".into();
        settings.initialisation = "pca".into();
        settings.randomised = false;
        settings.optimiser = "sgd".into();
        // The result depends on the number of threads of the pool: one, whatever the machine.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|error| Error::internal(format!("UMAP: {error}")))?;
        let seed = object_seed(seed, "umap") as usize;
        let found = pool.install(|| umap(points.as_ref(), None, &settings, seed, 0));
        let found = found.map_err(|error| Error::internal(format!("UMAP of {}: {error:?}", features.name)))?;
        if found.len() != 3 || found.iter().any(|axis| axis.len() != all) {
            return Err(Error::internal("UMAP: not three numbers for each image"));
        }
        let mut places = (0..all).map(|index| [found[0][index], found[1][index], found[2][index]]);
        let mut next = |count| places.by_ref().take(count).collect::<Vec<_>>();
        Ok(Some(Embedding {
            features: features.name.clone(),
            draws: next(counts[0]),
            train: next(counts[1]),
            heldout: next(counts[2]),
        }))
    }

    /// The sets by name.
    pub fn sets(&self) -> [(&'static str, &[[f64; 3]]); 3] {
        [("training", &self.train), ("held out", &self.heldout), ("draws", &self.draws)]
    }

    /// A table (CSV): set, number in it, three coordinates.
    pub fn table(&self) -> String {
        let mut text = String::from("set,index,x,y,z\n");
        for (name, places) in self.sets() {
            for (index, [x, y, z]) in places.iter().enumerate() {
                text += &format!("{name},{index},{x:.6},{y:.6},{z:.6}\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use tch::{Kind, Tensor};

    fn around(name: &str, count: i64, centre: f64) -> Tensor {
        let values = Key::new(1, name, 0, Purpose::Evaluation, 0).normal((count * 6) as usize);
        Tensor::from_slice(&values).view([count, 6]).to_kind(Kind::Double) + centre
    }

    fn centre(places: &[[f64; 3]]) -> [f64; 3] {
        [0, 1, 2].map(|axis| places.iter().map(|place| place[axis]).sum::<f64>() / places.len() as f64)
    }

    #[test]
    fn a_population_of_its_own_stands_apart_and_the_map_repeats() {
        let [train, heldout, draws] = [("t", 0.0), ("h", 0.0), ("d", 20.0)].map(|(name, at)| around(name, 60, at));
        let features = Features::plain("x", draws, train, heldout);
        let map = Embedding::of(&features, 1).unwrap().unwrap();
        let distance = |left: [f64; 3], right: [f64; 3]| {
            left.iter().zip(right).map(|(left, right)| (left - right).powi(2)).sum::<f64>().sqrt()
        };
        let [train, heldout, draws] = [&map.train, &map.heldout, &map.draws].map(|places| centre(places));
        assert!(distance(draws, train) > 3.0 * distance(heldout, train), "{draws:?} {train:?} {heldout:?}");
        assert_eq!(map.table(), Embedding::of(&features, 1).unwrap().unwrap().table());
        assert_ne!(map.table(), Embedding::of(&features, 2).unwrap().unwrap().table());
        assert_eq!(map.table().lines().count(), 181);
        let few = Features::plain("x", around("a", 5, 0.0), around("b", 5, 0.0), around("c", 5, 0.0));
        assert!(Embedding::of(&few, 1).unwrap().is_none());
    }
}
