//! What a checkpoint's shapes do not tell: attention heads and the activation.
//!
//! `transformers` and `open_clip` write them to a JSON file beside the weights. A value that the file leaves
//! out is that library's default, because both leave defaults out when they save.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::transformer::Activation;

/// Why a model's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read or is no JSON.
    #[error("model configuration {path}: cannot be read: {detail}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A value is none that this version knows.
    #[error("model configuration {path}: {key} = {value} is not supported; it can be {supported}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        supported: &'static str,
    },
    /// The weights and the configuration contradict each other.
    #[error(
        "model configuration {path}: {heads} attention heads do not divide the {tower} tower's {width} channels; is it the file that came with the checkpoint?"
    )]
    Heads {
        /// The file, or the checkpoint where there is none.
        path: PathBuf,
        /// `text` or `vision`.
        tower: &'static str,
        /// Channels of the tower.
        width: usize,
        /// Heads stated.
        heads: usize,
    },
}

/// Channels of an attention head where no file says: every CLIP that OpenAI released has this.
const HEAD_WIDTH: usize = 64;

/// The two towers' heads and activations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// The file, or the checkpoint where there is none.
    path: PathBuf,
    text_heads: Heads,
    vision_heads: Heads,
    pub text_activation: Activation,
    pub vision_activation: Activation,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Heads {
    Count(usize),
    Width(usize),
}

impl ModelConfig {
    /// Reads `config.json` of `transformers` beside `checkpoint`. Without that file heads have 64 channels
    /// and the activation is quick-GELU, as in all models that OpenAI and Google released.
    pub(crate) fn hugging_face(checkpoint: &Path) -> Result<Self, ConfigFileError> {
        let path = checkpoint.with_file_name("config.json");
        let Some(config) = read(&path)? else {
            return Ok(Self::default_of(checkpoint, Activation::QuickGelu));
        };
        let tower = |name: &str, default_heads: u64| {
            let tower = &config[name];
            let heads = tower["num_attention_heads"].as_u64();
            let heads = Heads::Count(heads.unwrap_or(default_heads) as usize);
            let activation = match &tower["hidden_act"] {
                Value::Null => Activation::QuickGelu,
                other => {
                    Activation::named(other.as_str().unwrap_or_default()).ok_or_else(|| {
                        ConfigFileError::Unsupported {
                            path: path.clone(),
                            key: "hidden_act",
                            value: other.to_string(),
                            supported: "\"quick_gelu\" or \"gelu\"",
                        }
                    })?
                }
            };
            Ok((heads, activation))
        };
        // `CLIPTextConfig`, `OwlViTTextConfig`: 8 heads; `CLIPVisionConfig`, `OwlViTVisionConfig`: 12.
        let (text_heads, text_activation) = tower("text_config", 8)?;
        let (vision_heads, vision_activation) = tower("vision_config", 12)?;
        Ok(Self {
            text_heads,
            vision_heads,
            text_activation,
            vision_activation,
            path,
        })
    }

    /// Reads `open_clip_config.json` beside `checkpoint`, or else `metadata`, the entry `config` of the
    /// safetensors file. Without both heads have 64 channels and the activation is GELU, `open_clip`'s
    /// default.
    pub(crate) fn open_clip(
        checkpoint: &Path,
        metadata: Option<&str>,
    ) -> Result<Self, ConfigFileError> {
        let path = checkpoint.with_file_name("open_clip_config.json");
        let from_metadata = || {
            let parsed = metadata.map(serde_json::from_str).transpose();
            parsed.map_err(|error| ConfigFileError::Unreadable {
                path: checkpoint.to_owned(),
                detail: format!("its metadata entry `config` is not JSON: {error}"),
            })
        };
        let (path, config) = match read(&path)? {
            Some(config) => (path, Some(config)),
            None => (checkpoint.to_owned(), from_metadata()?),
        };
        let Some(config) = config else {
            return Ok(Self::default_of(checkpoint, Activation::Gelu));
        };
        let model = match &config["model_cfg"] {
            Value::Null => &config,
            model => model,
        };
        let activation = match model["quick_gelu"].as_bool() {
            Some(true) => Activation::QuickGelu,
            _ => Activation::Gelu,
        };
        // `CLIPTextCfg.heads` and `CLIPVisionCfg.head_width` (open_clip): 8 and 64.
        let text_heads = model["text_cfg"]["heads"].as_u64().unwrap_or(8);
        let head_width = model["vision_cfg"]["head_width"].as_u64();
        Ok(Self {
            text_heads: Heads::Count(text_heads as usize),
            vision_heads: Heads::Width(head_width.map_or(HEAD_WIDTH, |width| width as usize)),
            text_activation: activation,
            vision_activation: activation,
            path,
        })
    }

    fn default_of(checkpoint: &Path, activation: Activation) -> Self {
        Self {
            path: checkpoint.to_owned(),
            text_heads: Heads::Width(HEAD_WIDTH),
            vision_heads: Heads::Width(HEAD_WIDTH),
            text_activation: activation,
            vision_activation: activation,
        }
    }

    pub(crate) fn text_heads(&self, width: usize) -> Result<usize, ConfigFileError> {
        self.heads("text", self.text_heads, width)
    }

    pub(crate) fn vision_heads(&self, width: usize) -> Result<usize, ConfigFileError> {
        self.heads("vision", self.vision_heads, width)
    }

    fn heads(
        &self,
        tower: &'static str,
        stated: Heads,
        width: usize,
    ) -> Result<usize, ConfigFileError> {
        let heads = match stated {
            Heads::Count(heads) => heads,
            Heads::Width(of_head) => width / of_head.max(1),
        };
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(ConfigFileError::Heads {
                path: self.path.clone(),
                tower,
                width,
                heads,
            });
        }
        Ok(heads)
    }
}

/// The JSON of a file; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Value>, ConfigFileError> {
    let unreadable = |detail: String| ConfigFileError::Unreadable {
        path: path.to_owned(),
        detail,
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| unreadable(format!("not JSON: {error}")))
}
