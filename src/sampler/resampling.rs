//! Draws taken anew by their weights.

/// The draws by their weights, as indices `[B]` in increasing order: systematic resampling (Kitagawa 1996) with one `uniform`
/// number. Each draw is taken as often as its share of the weights says, rounded up or down.
pub fn resampled(shares: &[f64], uniform: f64) -> Vec<i64> {
    let count = shares.len();
    let (mut index, mut sum) = (0, shares.first().copied().unwrap_or(0.0));
    let mut chosen = Vec::with_capacity(count);
    for slot in 0..count {
        while index + 1 < count && sum * (count as f64) <= slot as f64 + uniform {
            index += 1;
            sum += shares[index];
        }
        chosen.push(index as i64);
    }
    chosen
}

/// The number of draws of weight one that are worth as much: (sum w)^2 / sum w^2 (Kong 1992), of weights that sum to one.
pub fn worth(shares: &[f64]) -> f64 {
    1.0 / shares.iter().map(|share| share * share).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_taken_as_often_as_their_weights_say() {
        let shares = [0.5, 0.0, 0.26, 0.24, 0.0];
        for uniform in [0.0, 0.2, 0.5, 0.999] {
            let chosen = resampled(&shares, uniform);
            assert!(chosen.is_sorted() && chosen.len() == 5);
            for (index, share) in shares.iter().enumerate() {
                let times = chosen.iter().filter(|&&one| one == index as i64).count() as f64;
                assert!((times - 5.0 * share).abs() < 1.0, "{uniform}: {index} {times} times");
            }
        }
        assert_eq!(resampled(&[0.25; 4], 0.3), [0, 1, 2, 3]);
        // Shares that sum to a little less than one, by rounding.
        assert_eq!(resampled(&[0.5, 0.4999999], 0.99999999), [0, 1]);
        assert!(resampled(&[], 0.5).is_empty());
    }

    #[test]
    fn weights_are_worth_what_they_say() {
        assert!((worth(&[0.25; 4]) - 4.0).abs() < 1e-12);
        assert_eq!(worth(&[1.0, 0.0, 0.0]), 1.0);
        assert!(worth(&[f64::NAN; 3]).is_nan(), "lost draws are not taken anew");
    }
}
