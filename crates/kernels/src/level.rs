//! What the CPU can do, found at run time.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Names the environment variable that holds kernels to a level: `portable`, `avx2`, `avx512` or `amx`.
pub const LEVEL_VARIABLE: &str = "MASKMILL_CPU_LEVEL";

/// A set of instructions that kernels are written for. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Whatever the compiler makes of plain Rust: any machine, aarch64 with its NEON among them.
    Portable,
    /// AVX2 and FMA: x86-64 machines from 2013 on.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AMX tiles of bfloat16, with AVX-512 BF16 to fill them.
    Amx,
}

/// The level that [`LEVEL_VARIABLE`] asks for cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// No level has this name.
    Unknown(String),
    /// The CPU lacks it.
    Unsupported {
        /// The level asked for.
        asked: Level,
        /// The highest that there is.
        best: Level,
    },
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "{LEVEL_VARIABLE}={name} is not known: use portable, avx2, avx512 or amx, or unset it"
            ),
            Self::Unsupported { asked, best } => write!(
                f,
                "{LEVEL_VARIABLE}={asked}: this CPU has no {asked}; its best level is {best}; unset the variable to use that"
            ),
        }
    }
}

impl std::error::Error for LevelError {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, LevelError> {
        let mut levels = Self::ALL.into_iter();
        let level = levels.find(|level| level.to_string() == name);
        level.ok_or_else(|| LevelError::Unknown(name.to_owned()))
    }
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// The levels of this CPU, lowest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        let best = Self::best();
        Self::ALL.into_iter().filter(move |&level| level <= best)
    }

    /// The highest level of this CPU and operating system.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// The level to use: the one that [`LEVEL_VARIABLE`] names, or else the best.
    ///
    /// # Errors
    /// The variable names no level, or one that this CPU lacks.
    pub fn choose() -> Result<Self, LevelError> {
        let best = Self::best();
        match std::env::var(LEVEL_VARIABLE) {
            Err(_) => Ok(best),
            Ok(name) => match name.parse()? {
                asked if asked > best => Err(LevelError::Unsupported { asked, best }),
                asked => Ok(asked),
            },
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let amx = avx512 && is_x86_feature_detected!("avx512bf16") && crate::amx::available();
    match (avx2, avx512, amx) {
        (_, _, true) => Level::Amx,
        (_, true, _) => Level::Avx512,
        (true, _, _) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        let error = "avx".parse::<Level>().unwrap_err().to_string();
        assert!(
            error.contains("avx is not known") && error.contains("avx512"),
            "{error}"
        );
    }

    #[test]
    fn levels_are_ordered() {
        let levels: Vec<Level> = Level::supported().collect();
        assert_eq!(levels[0], Level::Portable);
        assert_eq!(levels.last(), Some(&Level::best()));
        assert!(levels.is_sorted());
    }
}
