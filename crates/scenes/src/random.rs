//! Random numbers that stay the same: between runs, platforms and versions of libraries.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
///
/// A generator of our own, because libraries reserve the right to change the numbers of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A generator of its own, so that how much it is used moves nothing that is drawn after it.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// A seed for [`Noise`](crate::noise::Noise).
    pub(crate) fn noise_seed(&mut self) -> u32 {
        (self.bits() >> 32) as u32
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24: every value is exact.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in ratio: as often between 1 and 2 as between 2 and 4. `low` is above 0.
    pub(crate) fn log_range(&mut self, low: f32, high: f32) -> f32 {
        low * libm::expf(libm::logf(high / low) * self.unit())
    }

    /// Uniform in `[low, high]`. The bias of the multiplication is below 2^-32 for 32-bit ranges.
    pub(crate) fn int(&mut self, low: u32, high: u32) -> u32 {
        let values = u64::from(high - low) + 1;
        low + (((self.bits() >> 32) * values) >> 32) as u32
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// A unit vector `[x, y]` of uniform angle.
    pub(crate) fn direction(&mut self) -> [f32; 2] {
        let angle = self.range(0.0, std::f32::consts::TAU);
        [libm::cosf(angle), libm::sinf(angle)]
    }

    /// One of `choices`, in proportion to its weight.
    pub(crate) fn weighted<T: Copy>(&mut self, choices: &[(T, f32)]) -> T {
        self.weighted_by(choices, |(_, weight)| weight).0
    }

    /// One of `choices`, each as often as its `weight` is of the sum.
    pub(crate) fn weighted_by<T: Copy>(&mut self, choices: &[T], weight: impl Fn(T) -> f32) -> T {
        let total: f32 = choices.iter().map(|&choice| weight(choice)).sum();
        let mut left = self.unit() * total;
        for &choice in choices {
            if left < weight(choice) {
                return choice;
            }
            left -= weight(choice);
        }
        // Rounding may leave a rest.
        choices[choices.len() - 1]
    }
}

/// 32 bits of a lattice point: `lowbias32` (Wellons, "Prospecting for hash functions", 2018) of mixed coordinates.
pub(crate) fn hash(x: i32, y: i32, seed: u32) -> u32 {
    let mut h = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77) ^ seed;
    h ^= h >> 16;
    h = h.wrapping_mul(0x7feb_352d);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// [`hash`] as a number in `[-1, 1)`.
pub(crate) fn hash_signed(x: i32, y: i32, seed: u32) -> f32 {
    (hash(x, y, seed) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_splitmix64s() {
        // The first values of the reference implementation (prng.di.unimi.it/splitmix64.c) for seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
        assert_eq!(random.bits(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn ranges_reach_both_ends_and_no_further() {
        let mut random = Random::new(3);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[random.int(2, 6) as usize - 2] += 1;
            assert!((0.5..8.0001).contains(&random.log_range(0.5, 8.0)));
        }
        assert!(seen.iter().all(|&count| count > 140), "{seen:?}");
        assert_eq!(random.int(7, 7), 7);
    }

    #[test]
    fn weights_are_proportions() {
        let mut random = Random::new(4);
        let heavy = (0..4000)
            .filter(|_| random.weighted(&[(true, 3.0), (false, 1.0)]))
            .count();
        assert!((2850..3150).contains(&heavy), "{heavy}");
    }

    #[test]
    fn hashes_of_neighbours_are_unrelated() {
        let mean = |f: &dyn Fn(i32, i32) -> f32| {
            (0..64)
                .flat_map(|y| (0..64).map(move |x| (x, y)))
                .map(|(x, y)| f(x, y))
                .sum::<f32>()
                / 4096.0
        };
        let value = |x, y| hash_signed(x, y, 9);
        assert!(mean(&value).abs() < 0.04);
        // The product's mean is the correlation, times the variance of 1/3.
        assert!(mean(&|x, y| value(x, y) * value(x + 1, y)).abs() < 0.02);
        assert!(mean(&|x, y| value(x, y) * value(x, y + 1)).abs() < 0.02);
        assert!(mean(&|x, y| value(x, y) * hash_signed(x, y, 10)).abs() < 0.02);
    }
}
