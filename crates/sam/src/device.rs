//! Which device runs the model: a name from the config to a Burn [`Device`], checked before use.
//!
//! Burn creates GPU devices lazily and panics at the first kernel when there is no driver, so every
//! GPU is looked up with [`Device::enumerate`] first and its absence is an ordinary error.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use maskmill_kernels::{Level, LevelError};

/// A device by name, not yet opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// `cpu`: Burn's flex backend.
    Cpu,
    /// `cuda:N`: the N-th NVIDIA GPU, with the build feature `cuda`.
    Cuda(usize),
    /// `wgpu:N`: the N-th adapter that wgpu lists, with the build feature `wgpu`.
    Wgpu(usize),
}

/// Why no device could be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The name is none of the known forms.
    #[error("device `{0}` is not known: use `cpu`, `cuda:0` (or another index) or `wgpu:0`")]
    UnknownName(String),
    /// The binary was built without the backend.
    #[error(
        "device `{name}` needs the build feature `{feature}`: rebuild with `cargo build --release --features {feature}`, or set device = \"cpu\""
    )]
    NotCompiledIn {
        /// The device asked for.
        name: DeviceName,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// The backend is there but the device is not.
    #[error(
        "device `{name}` was not found: {found} such device(s) on this machine (is the driver installed, and the device visible to this process?); set device = \"cpu\" to run without it"
    )]
    NotFound {
        /// The device asked for.
        name: DeviceName,
        /// How many devices of that kind the driver lists.
        found: usize,
    },
    /// The environment asks for instructions that the CPU lacks.
    #[error(transparent)]
    Level(#[from] LevelError),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::UnknownName(name.to_owned());
        let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
        let index = index.parse().map_err(|_| unknown())?;
        match kind {
            "cpu" if name == "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(index)),
            "wgpu" => Ok(Self::Wgpu(index)),
            _ => Err(unknown()),
        }
    }
}

impl DeviceName {
    /// Opens the device, without panicking where the driver or the card is missing.
    ///
    /// # Errors
    /// [`DeviceError::NotCompiledIn`] without the build feature, [`DeviceError::NotFound`] where the
    /// driver lists no such device, [`DeviceError::Level`] where `MASKMILL_CPU_LEVEL` asks for what the CPU lacks.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => {
                Level::choose()?;
                Ok(Device::flex())
            }
            Self::Cuda(index) => open_cuda(self, index),
            Self::Wgpu(index) => open_wgpu(self, index),
        }
    }
}

/// Picks one of the listed devices. A driver library that cannot be loaded makes the listing itself
/// panic in some backends, so the listing runs under `catch_unwind` and counts as "none found".
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn pick(
    name: DeviceName,
    index: usize,
    list: impl FnOnce() -> Vec<Device> + std::panic::UnwindSafe,
) -> Result<Device, DeviceError> {
    let devices = std::panic::catch_unwind(list).unwrap_or_default();
    let found = devices.len();
    devices
        .into_iter()
        .nth(index)
        .ok_or(DeviceError::NotFound { name, found })
}

#[cfg(feature = "cuda")]
fn open_cuda(name: DeviceName, index: usize) -> Result<Device, DeviceError> {
    pick(name, index, || {
        Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec()
    })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(name: DeviceName, _index: usize) -> Result<Device, DeviceError> {
    let feature = "cuda";
    Err(DeviceError::NotCompiledIn { name, feature })
}

#[cfg(feature = "wgpu")]
fn open_wgpu(name: DeviceName, index: usize) -> Result<Device, DeviceError> {
    pick(name, index, || {
        Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec()
    })
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(name: DeviceName, _index: usize) -> Result<Device, DeviceError> {
    let feature = "wgpu";
    Err(DeviceError::NotCompiledIn { name, feature })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["cpu", "cuda:0", "cuda:7", "wgpu:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["", "gpu", "cpu:1", "cuda:", "cuda:-1", "cuda:0:1", "CUDA:0"] {
            assert_eq!(
                name.parse::<DeviceName>(),
                Err(DeviceError::UnknownName(name.to_owned()))
            );
        }
    }

    #[test]
    fn the_cpu_always_opens() {
        assert_eq!(DeviceName::Cpu.open().unwrap(), Device::flex());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_left_out_names_its_feature() {
        let error = DeviceName::Cuda(0).open().unwrap_err().to_string();
        assert!(
            error.contains("`cuda:0`") && error.contains("--features cuda"),
            "{error}"
        );
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    #[test]
    fn an_absent_gpu_is_an_error_and_not_a_panic() {
        #[cfg(feature = "cuda")]
        let name = DeviceName::Cuda(999);
        #[cfg(not(feature = "cuda"))]
        let name = DeviceName::Wgpu(999);
        assert!(matches!(name.open(), Err(DeviceError::NotFound { .. })));
    }
}
