//! Random numbers that are the same on every machine and in every version.

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter, and a mixing function of it that passes BigCrush.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

/// The golden ratio's fraction: the counter's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// One of the independent streams of a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // Mixed twice, so that neighbouring seeds and streams are no neighbours on the counter.
        let mut first = Self { state: seed };
        let mut second = Self {
            state: first.next() ^ stream.wrapping_mul(STEP),
        };
        Self {
            state: second.next(),
        }
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        // As many bits as a double's fraction has.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `[low, high]`.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number in `[0, most]`.
    pub(crate) fn up_to(&mut self, most: u32) -> u32 {
        // The bias, below 2^-32, does not matter here.
        (((u64::from(most) + 1) * (self.next() >> 32)) >> 32) as u32
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_paper_s_generator() {
        // The first outputs for the state 1234567, as published with the reference code.
        let mut random = Random { state: 1_234_567 };
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn ranges_are_filled_to_both_ends() {
        let mut random = Random::new(1, 0);
        let mut met = [0; 4];
        for _ in 0..4000 {
            met[random.up_to(3) as usize] += 1;
            let value = random.between(-2.0, 3.0);
            assert!((-2.0..=3.0).contains(&value));
        }
        assert!(
            met.iter().all(|count| (900..1100).contains(count)),
            "{met:?}"
        );
        assert_eq!(random.up_to(0), 0);
        assert!(!random.chance(0.0) && random.chance(1.0));
    }

    #[test]
    fn streams_differ() {
        let first = |seed, stream| Random::new(seed, stream).next();
        assert_ne!(first(1, 0), first(1, 1));
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(0, 1), first(1, 0));
    }
}
