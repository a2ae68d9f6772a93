//! Medians and their intervals over rounds.

use serde::Serialize;

/// A median with a distribution-free interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Number of values.
    pub(crate) n: usize,
    /// The middle value; for an even count, the mean of the two middle values.
    pub(crate) median: f64,
    /// Lower end of the interval of the median.
    pub(crate) low: f64,
    /// Upper end of the interval of the median.
    pub(crate) high: f64,
    /// Probability that the interval contains the true median. Below 0.95 only for 5 or fewer values;
    /// the interval is min to max then.
    pub(crate) coverage: f64,
    /// Smallest value.
    pub(crate) min: f64,
    /// Largest value.
    pub(crate) max: f64,
}

/// The median alone; 0 without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    spread(values).map_or(0.0, |spread| spread.median)
}

/// Median, interval and range of `values`; `None` if `values` is empty or contains NaN or infinity.
///
/// The interval runs between two order statistics: the k-th smallest and k-th largest, with the
/// largest k for which the binomial distribution (n, 1/2) leaves at most 5 % outside.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let n = v.len();
    let median = (v[(n - 1) / 2] + v[n / 2]) / 2.0;
    let (k, coverage) = interval_rank(n);
    Some(Spread {
        n,
        median,
        low: v[k - 1],
        high: v[n - k],
        coverage,
        min: v[0],
        max: v[n - 1],
    })
}

/// The rank k (from 1) of the interval's ends and its coverage.
fn interval_rank(n: usize) -> (usize, f64) {
    let mut best = (1, 1.0 - 2.0 * 0.5f64.powi(n as i32));
    let mut term = 0.5f64.powi(n as i32);
    let mut below = term;
    for k in 1..=n.div_ceil(2) {
        let coverage = 1.0 - 2.0 * below;
        if coverage < 0.95 {
            break;
        }
        best = (k, coverage);
        term *= (n - k + 1) as f64 / k as f64;
        below += term;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn the_interval_takes_the_ranks_of_the_binomial_table() {
        // Published ranks for the 95 % interval of a median: n=6: 1, 10: 2, 20: 6, 30: 10, 50: 18.
        for (n, k) in [(6, 1), (10, 2), (20, 6), (30, 10), (50, 18)] {
            assert_eq!(interval_rank(n).0, k, "n = {n}");
            assert!(interval_rank(n).1 >= 0.95);
        }
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let s = spread(&values).unwrap();
        assert_eq!((s.low, s.high, s.min, s.max), (6.0, 15.0, 1.0, 20.0));
    }

    #[test]
    fn few_values_give_min_to_max_and_say_so() {
        let s = spread(&[1.0, 2.0, 9.0]).unwrap();
        assert_eq!((s.low, s.high, s.coverage), (1.0, 9.0, 0.75));
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        // 4,000 samples of 20 from a skewed distribution with the median ln 2.
        let mut seed = 42u64;
        let mut uniform = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let hits = (0..4_000)
            .filter(|_| {
                let sample: Vec<f64> = (0..20).map(|_| -uniform().ln()).collect();
                let s = spread(&sample).unwrap();
                (s.low..=s.high).contains(&std::f64::consts::LN_2)
            })
            .count();
        assert!((3_760..=3_920).contains(&hits), "{hits} of 4,000");
    }
}
