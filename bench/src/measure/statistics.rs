//! Medians, percentiles and the uncertainty of ratios.
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The middle of a list; of an even number, the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// The smallest value that at least `percent` of the sorted samples do not exceed.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: f64) -> Option<T> {
    #[expect(clippy::cast_precision_loss, reason = "samples of seconds")]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    sorted.get((rank as usize).saturating_sub(1)).copied()
}

/// A median, or another statistic, with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Its 95 % confidence interval.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        Self::of_statistic(values, median)
    }

    /// A percentile in place of the median.
    pub(crate) fn of_percentile(values: &[f64], percent: f64) -> Self {
        Self::of_statistic(values, |values| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            percentile(&sorted, percent).unwrap_or(f64::NAN)
        })
    }

    /// One value, known exactly.
    pub(crate) const fn exactly(value: f64) -> Self {
        Self { median: value, least: value, most: value, low: value, high: value }
    }

    fn of_statistic(values: &[f64], statistic: impl Fn(&[f64]) -> f64) -> Self {
        let (low, high) = confidence(values, &statistic);
        Self {
            median: statistic(values),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            low,
            high,
        }
    }
}

/// The bootstrap's 95 % confidence interval of a statistic. The same values give the same interval.
fn confidence(values: &[f64], statistic: impl Fn(&[f64]) -> f64) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut random = StdRng::seed_from_u64(1);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> =
                values.iter().map(|_| values[random.random_range(0..values.len())]).collect();
            statistic(&sample)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let at = |percent| percentile(&resampled, percent).unwrap_or(f64::NAN);
    (at(2.5), at(97.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&samples, 50.0), Some(500));
        assert_eq!(percentile(&samples, 99.0), Some(990));
        assert_eq!(percentile(&samples, 100.0), Some(1000));
        assert_eq!(percentile::<u32>(&[], 50.0), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_is_reproducible() {
        let values = [1.0, 1.1, 0.9, 1.05, 0.97, 1.2, 0.8, 1.0, 1.02, 0.99, 1.01];
        let spread = Spread::of(&values);
        assert!(spread.low <= spread.median && spread.median <= spread.high, "{spread:?}");
        assert!(spread.least < spread.low && spread.high < spread.most, "{spread:?}");
        assert_eq!(spread, Spread::of(&values));
    }
}
