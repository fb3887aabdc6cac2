//! The files beside checkpoint and source that rows depend on: boxes, weights and tokenizers of detector and
//! labeller, examples. Each is read or digested once, before an output is claimed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use maskmill_formats::detections::{
    CocoDetections, CocoError, CocoFile, YoloFiles, YoloNames, YoloNamesError,
};
use maskmill_grounding::{LoadError, files_of_model, weights_file};
use maskmill_job::{BoxesFrom, Item, ItemKind, Pipeline, PointsFrom, Prompts};
use maskmill_storage::{Expect, ReadError, SourceError, SourceStore, StoreOptions, Wanted};
use maskmill_weights::CheckpointError;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::known_prompts::{Boxes, KnownPrompts, Points};
use crate::run::sha256_of;
use crate::stages::hex;

/// A file of boxes is read whole.
const MAX_FILE_BYTES: u64 = 16 << 30;
/// Label files read at the same time.
const LABEL_FILES_AT_ONCE: usize = 32;

/// A file that prompts come from cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptFilesError {
    /// It cannot be reached.
    #[error("{setting}: the files cannot be listed")]
    Source {
        /// The setting that names them.
        setting: &'static str,
        /// Why.
        source: SourceError,
    },
    /// It cannot be read.
    #[error("{setting} = {at:?} cannot be read")]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        at: String,
        /// Why.
        source: ReadError,
    },
    /// It is no text.
    #[error("{setting} = {at:?} is not UTF-8 text")]
    NotText {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        at: String,
    },
    /// The COCO file is none, or belongs to other images.
    #[error("prompts.boxes_path")]
    Coco(#[from] CocoError),
    /// The file of class names is none.
    #[error("prompts.yolo_names = {at:?}")]
    YoloNames {
        /// The file.
        at: String,
        /// Why.
        source: YoloNamesError,
    },
    /// No label file has the name of an image.
    #[error(
        "prompts.boxes_path = {at:?}: none of its {files} label files (.txt) has the name of an image of the source, such as {key:?}"
    )]
    NoLabelFile {
        /// The folder.
        at: String,
        /// How many label files it has.
        files: usize,
        /// An image of the source.
        key: String,
    },
    /// A model's files cannot be found.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// A file on this machine cannot be read.
    #[error(transparent)]
    Local(#[from] CheckpointError),
}

/// What was read, and the digests of everything by its setting.
pub(crate) struct PromptFiles {
    pub known: KnownPrompts,
    pub digests: BTreeMap<String, String>,
}

impl PromptFiles {
    /// Reads the boxes of `pipeline` and digests its other files. Blocking; called from outside the runtime.
    pub(crate) fn read(
        pipeline: &Pipeline,
        options: &StoreOptions,
        runtime: &Handle,
    ) -> Result<Self, PromptFilesError> {
        let mut digests = BTreeMap::new();
        let model = &pipeline.model;
        for (setting, weights, tokenizer) in [
            ("model.detector", &model.detector, &model.detector_tokenizer),
            ("model.labeller", &model.labeller, &model.labeller_tokenizer),
        ] {
            let Some(weights) = weights else { continue };
            let weights = weights_file(Path::new(weights))?;
            let tokenizer = tokenizer.as_deref().map(Path::new);
            for file in files_of_model(&weights, tokenizer) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                digests.insert(format!("{setting}/{name}"), sha256_of(&file)?);
            }
        }
        let reader = Reader { options, runtime };
        let known = match &pipeline.prompts {
            Prompts::Automatic(_) | Prompts::Text(_) => KnownPrompts::None,
            Prompts::Examples(prompts) => {
                for (index, example) in prompts.examples.iter().enumerate() {
                    let digest = sha256_of(&PathBuf::from(&example.image))?;
                    digests.insert(format!("prompts.examples[{index}].image"), digest);
                }
                KnownPrompts::None
            }
            Prompts::Boxes(prompts) => KnownPrompts::Boxes {
                from: reader.boxes(&prompts.boxes_from, &mut digests)?,
                min_score: prompts.min_box_score as f32,
            },
            Prompts::Points(prompts) => KnownPrompts::Points {
                from: match &prompts.points_from {
                    PointsFrom::Columns => Points::Columns,
                    PointsFrom::Fixed { points } => Points::Fixed(points.clone()),
                },
                groups: prompts.point_groups,
            },
        };
        Ok(Self { known, digests })
    }
}

impl PromptFiles {
    /// Checks that files of boxes belong to the images of a source.
    pub(crate) fn require_match(
        &self,
        items: &[Item],
        pipeline: &Pipeline,
    ) -> Result<(), PromptFilesError> {
        let at = match &pipeline.prompts {
            Prompts::Boxes(prompts) => match &prompts.boxes_from {
                BoxesFrom::Coco { path, .. } | BoxesFrom::Yolo { path, .. } => path.as_str(),
                BoxesFrom::Columns => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.known.require_match(items, at)
    }
}

struct Reader<'a> {
    options: &'a StoreOptions,
    runtime: &'a Handle,
}

impl Reader<'_> {
    fn boxes(
        &self,
        from: &BoxesFrom,
        digests: &mut BTreeMap<String, String>,
    ) -> Result<Boxes, PromptFilesError> {
        const PATH: &str = "prompts.boxes_path";
        match from {
            BoxesFrom::Columns => Ok(Boxes::Columns),
            BoxesFrom::Coco { path, images } => {
                let boxes = self.file(PATH, path)?;
                digests.insert(PATH.to_owned(), digest(&boxes));
                let dataset = match images {
                    Some(images) => {
                        let setting = "prompts.coco_images";
                        let bytes = self.file(setting, images)?;
                        digests.insert(setting.to_owned(), digest(&bytes));
                        Some((images, bytes))
                    }
                    None => None,
                };
                let file = CocoFile {
                    name: path,
                    bytes: &boxes,
                };
                let dataset = dataset
                    .as_ref()
                    .map(|(name, bytes)| CocoFile { name, bytes });
                Ok(Boxes::Coco(CocoDetections::read(file, dataset)?))
            }
            BoxesFrom::Yolo {
                path,
                names,
                scores,
            } => {
                let files = self.label_files(PATH, path)?;
                digests.insert(PATH.to_owned(), digest_of_files(&files));
                let names = match names {
                    Some(at) => Some(self.class_names(at, digests)?),
                    None => None,
                };
                Ok(Boxes::Yolo {
                    files: YoloFiles::new(files),
                    names,
                    expect_scores: *scores,
                })
            }
        }
    }

    fn file(&self, setting: &'static str, at: &str) -> Result<Bytes, PromptFilesError> {
        let store = SourceStore::open(at, self.options)
            .map_err(|source| PromptFilesError::Source { setting, source })?;
        let name = at.rsplit('/').next().unwrap_or(at);
        self.get(&store, setting, name)
    }

    fn get(
        &self,
        store: &SourceStore,
        setting: &'static str,
        key: &str,
    ) -> Result<Bytes, PromptFilesError> {
        self.runtime
            .block_on(read(store, key))
            .map_err(|source| PromptFilesError::Read {
                setting,
                at: store.location().to_owned(),
                source,
            })
    }

    /// The label files below a folder or prefix: names and texts, sorted by name.
    fn label_files(
        &self,
        setting: &'static str,
        at: &str,
    ) -> Result<Vec<(String, String)>, PromptFilesError> {
        let of_source = |source| PromptFilesError::Source { setting, source };
        let store = SourceStore::open(at, self.options).map_err(of_source)?;
        let is_label = |name: &str| match name {
            // What labelling programs put beside the labels.
            "classes.txt" => Wanted::No,
            _ => Wanted::extension(name, &["txt"]),
        };
        let listing = self
            .runtime
            .block_on(store.list(&is_label))
            .map_err(of_source)?;
        let texts = futures::stream::iter(listing.files).map(|file| {
            let store = store.clone();
            async move {
                let read = read(&store, &file.key).await;
                let bytes = read.map_err(|source| PromptFilesError::Read {
                    setting,
                    at: file.key.clone(),
                    source,
                })?;
                let text = String::from_utf8(bytes.into());
                let text = text.map_err(|_| PromptFilesError::NotText {
                    setting,
                    at: file.key.clone(),
                })?;
                Ok((file.key, text))
            }
        });
        self.runtime
            .block_on(texts.buffered(LABEL_FILES_AT_ONCE).try_collect())
    }

    fn class_names(
        &self,
        at: &str,
        digests: &mut BTreeMap<String, String>,
    ) -> Result<YoloNames, PromptFilesError> {
        let setting = "prompts.yolo_names";
        let bytes = self.file(setting, at)?;
        digests.insert(setting.to_owned(), digest(&bytes));
        let text = String::from_utf8(bytes.into()).map_err(|_| PromptFilesError::NotText {
            setting,
            at: at.to_owned(),
        })?;
        let is_yaml = at.ends_with(".yaml") || at.ends_with(".yml");
        let names = match is_yaml {
            true => YoloNames::from_data_yaml(&text),
            false => YoloNames::from_classes_txt(&text),
        };
        names.map_err(|source| PromptFilesError::YoloNames {
            at: at.to_owned(),
            source,
        })
    }
}

async fn read(store: &SourceStore, key: &str) -> Result<Bytes, ReadError> {
    let anything = Expect::default();
    store.get(key, anything, MAX_FILE_BYTES).await?.body().await
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Over names and contents, each preceded by its length.
fn digest_of_files(files: &[(String, String)]) -> String {
    let mut hash = Sha256::new();
    for text in files.iter().flat_map(|(name, text)| [name, text]) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

impl KnownPrompts {
    /// Checks that files of boxes belong to these images: if they have none of them, they are another dataset's.
    /// Images inside tars and tables are not known yet, and are not asked for.
    fn require_match(&self, items: &[Item], at: &str) -> Result<(), PromptFilesError> {
        let Self::Boxes { from, .. } = self else {
            return Ok(());
        };
        let is_image = |item: &Item| matches!(item.kind, ItemKind::Image);
        if !items.iter().all(is_image) {
            return Ok(());
        }
        let mut keys = items
            .iter()
            .filter(|item| item.reject().is_none())
            .map(|item| &*item.key);
        match from {
            Boxes::Columns => Ok(()),
            Boxes::Coco(detections) => Ok(detections.require_match(keys)?),
            Boxes::Yolo { files, .. } => {
                let Some(first) = keys.next() else {
                    return Ok(());
                };
                let has = |key: &str| !matches!(files.of(key), Ok(None));
                if has(first) || keys.any(has) {
                    return Ok(());
                }
                Err(PromptFilesError::NoLabelFile {
                    at: at.to_owned(),
                    files: files.count(),
                    key: first.to_owned(),
                })
            }
        }
    }
}
