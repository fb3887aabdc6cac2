//! In which numbers a model computes.

use std::fmt;

/// In which numbers the products of a model are computed. It changes results, beyond rounding in the last places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// The factors of matrix products are rounded to bfloat16 (8 significant bits); sums, norms and softmax stay in
    /// 32 bits.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}
