//! In which numbers SAM computes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// In which numbers the products of SAM are computed. It changes rows; the detector and the labeller
/// compute in 32 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout, as the reference computes.
    #[default]
    F32,
    /// The factors of matrix products have at least 16 significant bits, which is faster on CPUs with AMX.
    High,
    /// The factors of matrix products are rounded to bfloat16; the rest stays in 32 bits.
    Bf16,
}

/// The word for each.
pub(crate) const PRECISIONS: [(&str, Precision); 3] = [
    ("f32", Precision::F32),
    ("high", Precision::High),
    ("bf16", Precision::Bf16),
];

impl Precision {
    /// For serde: what files from before there was a choice do not have.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::High => "high",
            Self::Bf16 => "bf16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_the_one_in_json_and_in_messages() {
        for (word, precision) in PRECISIONS {
            assert_eq!(precision.to_string(), word);
            assert_eq!(serde_json::to_value(precision).unwrap(), word);
        }
    }
}
