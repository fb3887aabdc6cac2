//! In which numbers a model computes.

use std::fmt;

/// In which numbers the products of a model are computed. It changes results, beyond rounding in the last places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// The factors of matrix products have at least 16 significant bits, sums and everything else 32: on AMX each factor is
    /// the sum of two bfloat16, elsewhere it is as [`F32`](Self::F32). PyTorch's `float32_matmul_precision` of "high".
    High,
    /// The factors of matrix products are rounded to bfloat16 (8 significant bits); sums, norms and softmax stay in
    /// 32 bits.
    Bf16,
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
