//! Pairs of a colour and a shape that no query of the training names.

use maskmill_scenes::{Colour, Shape};
use sha2::{Digest, Sha256};

/// Whether a pair is among the `part` of all pairs that is held out: by a digest of its words, so that a larger part has all
/// pairs of a smaller one.
pub fn is_held_out(colour: Colour, shape: Shape, part: f64) -> bool {
    let digest = Sha256::digest(format!("{colour} {}", shape.word()));
    let first = digest[..8].try_into().expect("a digest has 32 bytes");
    // 2^64, the number of values.
    (u64::from_be_bytes(first) as f64) < part * 18_446_744_073_709_551_616.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_out(part: f64) -> Vec<(Colour, Shape)> {
        let pairs = Colour::ALL
            .into_iter()
            .flat_map(|colour| Shape::ALL.map(|shape| (colour, shape)));
        pairs
            .filter(|(colour, shape)| is_held_out(*colour, *shape, part))
            .collect()
    }

    #[test]
    fn a_part_of_the_pairs_is_held_out_and_more_of_a_larger_one() {
        let (tenth, fifth) = (held_out(0.1), held_out(0.2));
        // 228 pairs.
        assert!((14..=32).contains(&tenth.len()), "{tenth:?}");
        assert!((32..=60).contains(&fifth.len()), "{fifth:?}");
        assert!(tenth.iter().all(|pair| fifth.contains(pair)));
        assert!(held_out(0.0).is_empty() && held_out(1.0).len() == 228);
        // Every word is learnt in other pairs.
        for colour in Colour::ALL {
            assert!(tenth.iter().filter(|pair| pair.0 == colour).count() < 10);
        }
    }
}
