//! COCO's compressed form: the runs as printable characters.
//!
//! Each run is written as a signed integer in groups of 5 bits, least significant first, one character per group:
//! `'0' + group`, plus 32 if more groups follow; the top bit of the last group is the sign. From the fourth on, a run is
//! written as its difference to the run two before it. Follows `rleToString` and `rleFrString` (pycocotools).

use super::{Rle, RleError};
use crate::ImageSize;

/// The character of a final group of zeros.
const ZERO: u8 = b'0';
/// Set in a character's value when more groups of the same run follow.
const MORE: u8 = 0x20;
/// The sign bit of a run's last group.
const SIGN: u8 = 0x10;
/// A difference of two 32-bit runs needs 33 bits and thus 7 groups.
const MAX_GROUPS: usize = 7;

impl Rle {
    /// The mask as COCO's compressed string, the `counts` of a pycocotools RLE.
    pub fn to_coco_string(&self) -> String {
        let mut string = String::new();
        for (index, &count) in self.counts.iter().enumerate() {
            let mut rest = i64::from(count) - i64::from(self.reference_run(index));
            loop {
                let group = (rest & 0x1f) as u8;
                rest >>= 5;
                let done = rest == if group & SIGN != 0 { -1 } else { 0 };
                string.push(char::from(ZERO + group + if done { 0 } else { MORE }));
                if done {
                    break;
                }
            }
        }
        string
    }

    /// The run that run `index` is written relative to.
    fn reference_run(&self, index: usize) -> u32 {
        if index > 2 { self.counts[index - 2] } else { 0 }
    }

    /// A mask from COCO's compressed string.
    ///
    /// Safe for strings from anywhere: memory is bounded by the string's length, whatever size is claimed.
    ///
    /// # Errors
    /// [`RleError::BadCharacter`], [`RleError::Truncated`] or [`RleError::RunOutOfRange`] for a malformed string;
    /// otherwise those of [`Rle::from_counts`].
    pub fn from_coco_string(size: ImageSize, string: &str) -> Result<Self, RleError> {
        let mut counts: Vec<u32> = Vec::new();
        let bytes = string.as_bytes();
        let mut position = 0;
        while position < bytes.len() {
            let start = position;
            let mut value = read_signed(bytes, &mut position)?;
            if counts.len() > 2 {
                value += i64::from(counts[counts.len() - 2]);
            }
            let count =
                u32::try_from(value).map_err(|_| RleError::RunOutOfRange { position: start })?;
            counts.push(count);
        }
        Rle::from_counts(size, counts)
    }
}

/// Reads one signed integer and leaves `position` behind it.
fn read_signed(bytes: &[u8], position: &mut usize) -> Result<i64, RleError> {
    let start = *position;
    let mut value = 0i64;
    for group in 0..MAX_GROUPS {
        let Some(&byte) = bytes.get(*position) else {
            return Err(RleError::Truncated {
                position: *position,
            });
        };
        let bits = byte.wrapping_sub(ZERO);
        if bits >= 2 * MORE {
            return Err(RleError::BadCharacter {
                byte,
                position: *position,
            });
        }
        *position += 1;
        value |= i64::from(bits & 0x1f) << (5 * group);
        if bits & MORE == 0 {
            if bits & SIGN != 0 {
                value |= -1 << (5 * (group + 1));
            }
            return Ok(value);
        }
    }
    Err(RleError::RunOutOfRange { position: start })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bitmap;
    use crate::rle::tests::any_mask;
    use proptest::prelude::*;

    const SIZE: ImageSize = ImageSize::new(3, 4);

    #[test]
    fn known_strings() {
        // Made with pycocotools.mask.frPyObjects.
        let size = ImageSize::new(40, 50);
        for (counts, string) in [
            ([100, 3, 37, 1000, 2, 858], "T33U1Uo0mNbK"),
            ([0, 3, 37, 1000, 2, 958], "03U1Uo0mNfN"),
        ] {
            let rle = Rle::from_counts(size, counts).unwrap();
            assert_eq!(rle.to_coco_string(), string);
            assert_eq!(Rle::from_coco_string(size, string), Ok(rle));
        }
    }

    #[test]
    fn malformed_strings_are_refused_with_their_place() {
        let cases = [
            (
                "3 9",
                RleError::BadCharacter {
                    byte: b' ',
                    position: 1,
                },
            ),
            (
                "p",
                RleError::BadCharacter {
                    byte: b'p',
                    position: 0,
                },
            ),
            (
                "3/",
                RleError::BadCharacter {
                    byte: b'/',
                    position: 1,
                },
            ),
            (
                "3é",
                RleError::BadCharacter {
                    byte: 0xc3,
                    position: 1,
                },
            ),
            ("3T", RleError::Truncated { position: 2 }),
            ("3M", RleError::RunOutOfRange { position: 1 }), // -3
            ("3ooooooo1", RleError::RunOutOfRange { position: 1 }),
            ("PPPPPPPP0", RleError::RunOutOfRange { position: 0 }),
            (
                "333",
                RleError::LengthMismatch {
                    size: SIZE,
                    covered: 9,
                },
            ),
            (
                "",
                RleError::LengthMismatch {
                    size: SIZE,
                    covered: 0,
                },
            ),
        ];
        for (string, error) in cases {
            assert_eq!(
                Rle::from_coco_string(SIZE, string),
                Err(error),
                "{string:?}"
            );
        }
    }

    #[test]
    fn a_claimed_size_allocates_nothing() {
        let size = ImageSize::new(65_535, 65_535);
        assert!(matches!(
            Rle::from_coco_string(size, "3"),
            Err(RleError::LengthMismatch { covered: 3, .. })
        ));
    }

    #[test]
    fn the_longest_runs_round_trip() {
        let size = ImageSize::new(u32::MAX, 1);
        for counts in [
            vec![u32::MAX],
            vec![0, u32::MAX],
            vec![1, u32::MAX - 3, 1, 1],
            vec![1, 1, 1, u32::MAX - 3],
        ] {
            let rle = Rle::from_counts(size, counts).unwrap();
            let string = rle.to_coco_string();
            assert_eq!(Rle::from_coco_string(size, &string), Ok(rle), "{string}");
        }
    }

    proptest! {
        #[test]
        fn strings_round_trip(mask in any_mask()) {
            let rle = Rle::encode(&mask);
            let read = Rle::from_coco_string(rle.size(), &rle.to_coco_string());
            prop_assert_eq!(read, Ok(rle));
        }

        #[test]
        fn no_string_panics(string in "[0-o]{0,40}|\\PC{0,10}", height in 0u32..9, width in 0u32..9) {
            let size = ImageSize::new(height, width);
            if let Ok(rle) = Rle::from_coco_string(size, &string) {
                let decoded: Bitmap = rle.decode();
                prop_assert_eq!(Rle::encode(&decoded), rle);
            }
        }
    }
}
