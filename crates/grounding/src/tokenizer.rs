//! CLIP's tokenizer: text to ids, as Hugging Face's `CLIPTokenizer` gives them.
//!
//! Lower-cased, white space collapsed, NFC; split at CLIP's pattern; byte pairs with `</w>` at the end of a
//! word. The byte pairs, and what is a special token, are the checkpoint's own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

/// CLIP's word pattern (`CLIPTokenizer`, transformers).
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
pub(crate) const START: &str = "<|startoftext|>";
pub(crate) const END: &str = "<|endoftext|>";

/// Why a tokenizer could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// There are no files of a tokenizer.
    #[error(
        "no tokenizer in {folder}: it needs tokenizer.json, or vocab.json and merges.txt, from the same place as the checkpoint"
    )]
    NotFound {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("tokenizer {path}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is no CLIP tokenizer.
    #[error("tokenizer {path}: not a CLIP tokenizer: {detail}")]
    NotClip {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// It belongs to another checkpoint.
    #[error(
        "tokenizer {path} has {tokens} tokens, but the checkpoint {checkpoint} has embeddings for {embeddings}: they belong to different models; give the tokenizer that came with the checkpoint"
    )]
    OtherVocabulary {
        /// The tokenizer.
        path: PathBuf,
        /// Its tokens.
        tokens: usize,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The checkpoint's token embeddings.
        embeddings: usize,
    },
}

/// A text as ids: start, content, end; not padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, at most the context's length.
    pub ids: Vec<u32>,
    /// The rest of a text that was too long for the context: what the model does not see.
    pub cut: Option<String>,
}

/// The files that a tokenizer is read from.
pub(crate) struct TokenizerFiles {
    folder: PathBuf,
    definition: Definition,
    /// Those beside it that may name its padding token.
    settings: Vec<PathBuf>,
}

enum Definition {
    /// `tokenizer.json`
    Whole(PathBuf),
    /// `vocab.json` and `merges.txt`
    BytePairs {
        vocabulary: PathBuf,
        merges: PathBuf,
    },
    Missing,
}

impl TokenizerFiles {
    /// Those in a folder, or those of a `tokenizer.json` given by its path.
    pub(crate) fn at(path: &Path) -> Self {
        let (folder, whole) = match path.is_dir() {
            true => (path.to_owned(), path.join("tokenizer.json")),
            false => (
                path.parent().unwrap_or(Path::new("")).to_owned(),
                path.to_owned(),
            ),
        };
        let vocabulary = folder.join("vocab.json");
        let merges = folder.join("merges.txt");
        let definition = if whole.is_file() {
            Definition::Whole(whole)
        } else if vocabulary.is_file() && merges.is_file() {
            Definition::BytePairs { vocabulary, merges }
        } else {
            Definition::Missing
        };
        let settings = ["tokenizer_config.json", "special_tokens_map.json"];
        let mut settings = settings.map(|name| folder.join(name)).to_vec();
        settings.retain(|file| file.is_file());
        Self {
            folder,
            definition,
            settings,
        }
    }

    /// All of them.
    pub(crate) fn paths(self) -> Vec<PathBuf> {
        let mut paths = match self.definition {
            Definition::Whole(whole) => vec![whole],
            Definition::BytePairs { vocabulary, merges } => vec![vocabulary, merges],
            Definition::Missing => Vec::new(),
        };
        paths.extend(self.settings);
        paths
    }
}

/// A CLIP tokenizer.
#[derive(Clone)]
pub struct ClipTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    size: usize,
}

impl ClipTokenizer {
    /// Loads `tokenizer.json`, or else `vocab.json` and `merges.txt`, of a folder; or such a
    /// `tokenizer.json` by its path. The padding token is told by `tokenizer_config.json` or
    /// `special_tokens_map.json` beside them; it is `<|endoftext|>` where they do not say.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let TokenizerFiles {
            folder,
            definition,
            settings,
        } = TokenizerFiles::at(path);
        let (path, definition) = match definition {
            Definition::Whole(whole) => {
                let bytes = read(&whole)?;
                (whole, bytes)
            }
            Definition::BytePairs { vocabulary, merges } => {
                let definition = of_byte_pairs(&vocabulary, &merges)?;
                (vocabulary, definition.to_string().into_bytes())
            }
            Definition::Missing => return Err(TokenizerError::NotFound { folder }),
        };
        let not_clip = |detail: String| TokenizerError::NotClip {
            path: path.clone(),
            detail,
        };
        let mut tokenizer =
            Tokenizer::from_bytes(definition).map_err(|error| not_clip(error.to_string()))?;
        tokenizer.with_padding(None);
        let plain = tokenizer.with_truncation(None);
        plain.map_err(|error| not_clip(error.to_string()))?;
        let id = |token: &str, tokenizer: &Tokenizer| {
            let id = tokenizer.token_to_id(token);
            id.ok_or_else(|| not_clip(format!("it has no token {token}")))
        };
        let start = id(START, &tokenizer)?;
        let end = id(END, &tokenizer)?;
        let pad = match pad_token(&settings)? {
            Some(token) => {
                let pad = id(&token, &tokenizer)?;
                // In transformers a padding token is a special token, even if it is `!`.
                let special = tokenizer.add_special_tokens([AddedToken::from(token, true)]);
                special.map_err(|error| not_clip(error.to_string()))?;
                pad
            }
            None => end,
        };
        let size = tokenizer.get_vocab_size(true);
        Ok(Self {
            path,
            tokenizer,
            start,
            end,
            pad,
            size,
        })
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many tokens it knows.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The end-of-text token, where CLIP reads a text's embedding.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Ids of a text, at most `context` of them with start and end.
    ///
    /// # Panics
    /// When `context` is below 2.
    pub fn encode(&self, text: &str, context: usize) -> Tokens {
        assert!(context >= 2, "a context holds at least start and end");
        // Without the file's own post-processor: it may be of any kind, start and end are CLIP's.
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.expect("byte pairs know every byte");
        let content = encoding.get_ids();
        let kept = content.len().min(context - 2);
        let mut ids = Vec::with_capacity(kept + 2);
        ids.push(self.start);
        ids.extend_from_slice(&content[..kept]);
        ids.push(self.end);
        let cut = (kept < content.len()).then(|| {
            let (from, _) = encoding.get_offsets()[kept];
            text.get(from..).unwrap_or_default().to_owned()
        });
        Tokens { ids, cut }
    }

    /// Ids filled up to `context` with the padding token, as `padding="max_length"` gives them.
    pub fn padded(&self, tokens: &Tokens, context: usize) -> Vec<u32> {
        let mut ids = tokens.ids.clone();
        ids.resize(context.max(ids.len()), self.pad);
        ids
    }

    /// Refuses a checkpoint whose embedding has another number of tokens.
    ///
    /// # Errors
    /// [`TokenizerError::OtherVocabulary`].
    pub fn check_fits(&self, checkpoint: &Path, embeddings: usize) -> Result<(), TokenizerError> {
        if self.size == embeddings {
            return Ok(());
        }
        Err(TokenizerError::OtherVocabulary {
            path: self.path.clone(),
            tokens: self.size,
            checkpoint: checkpoint.to_owned(),
            embeddings,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    fs::read(path).map_err(|source| TokenizerError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    serde_json::from_slice(&read(path)?).map_err(|error| TokenizerError::NotClip {
        path: path.to_owned(),
        detail: format!("not JSON: {error}"),
    })
}

/// What `CLIPTokenizer` (transformers) builds of a vocabulary and merges, as a `tokenizer.json`.
fn of_byte_pairs(vocabulary: &Path, merges: &Path) -> Result<Value, TokenizerError> {
    let vocab = read_json(vocabulary)?;
    let text = String::from_utf8(read(merges)?).map_err(|_| TokenizerError::NotClip {
        path: merges.to_owned(),
        detail: "not UTF-8".to_owned(),
    })?;
    // Its first line is a comment: `#version: 0.2`.
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    let pairs: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    let special = |token: &str| {
        json!({
            "id": vocab.get(token), "content": token, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let added: Vec<Value> = [START, END].map(special).into();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "NFC" },
                { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
                { "type": "Lowercase" },
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": pairs,
        },
    }))
}

/// The padding token that the files beside a tokenizer name.
fn pad_token(settings: &[PathBuf]) -> Result<Option<String>, TokenizerError> {
    for path in settings {
        let settings = read_json(path)?;
        // A string, or an object with the token's properties.
        let token = &settings["pad_token"];
        let token = token.as_str().or_else(|| token["content"].as_str());
        if let Some(token) = token {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}
