//! Where a model's files are: weights, and the tokenizer beside them.

use std::path::{Path, PathBuf};

use maskmill_weights::CheckpointError;

use crate::config::ConfigFileError;
use crate::tokenizer::{TokenizerError, TokenizerFiles};

/// Names under which `transformers` and `open_clip` save weights, the safe format first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
];

/// Why a grounding model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A folder holds no weights.
    #[error(
        "no weights in {folder}: it has none of {}; name the file itself if it is called otherwise",
        WEIGHTS.join(", ")
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// The weights cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration beside them cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The weights of a model that is given as a file, or as the folder that holds it.
///
/// # Errors
/// [`LoadError::NoWeights`].
pub fn weights_file(path: &Path) -> Result<PathBuf, LoadError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let mut named = WEIGHTS.iter().map(|name| path.join(name));
    named
        .find(|file| file.is_file())
        .ok_or_else(|| LoadError::NoWeights {
            folder: path.to_owned(),
        })
}

/// Where the tokenizer of a model is: where `stated`, or else in the folder of its weights.
pub fn tokenizer_place(weights: &Path, stated: Option<&Path>) -> PathBuf {
    match stated {
        Some(place) => place.to_owned(),
        None => match weights.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        },
    }
}

/// The files that a model is read from: weights, configuration and tokenizer, as far as they are there. Rows depend
/// on every one of them.
pub fn files_of_model(weights: &Path, tokenizer: Option<&Path>) -> Vec<PathBuf> {
    let mut files = vec![
        weights.to_owned(),
        weights.with_file_name("config.json"),
        weights.with_file_name("open_clip_config.json"),
    ];
    files.retain(|file| file.is_file());
    files.extend(TokenizerFiles::at(&tokenizer_place(weights, tokenizer)).paths());
    files
}
