//! What a run is of: its training file, and the files that it names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use maskmill_job::{
    GrounderPipeline, StartingWeights, TrainingData, TrainingDataKind, TrainingPipeline,
    TrainingRecord,
};
use sha2::{Digest, Sha256};

use crate::error::TrainError;

/// The record of a run of `pipeline`, with the digests of the checkpoint it begins with and of lists of annotations.
/// Folders of images are not read for it: an image that changes there changes the weights unnoticed.
///
/// # Errors
/// [`TrainError::Read`] of a file that cannot be read.
pub fn record_of(
    pipeline: &TrainingPipeline,
    tool_version: &str,
) -> Result<TrainingRecord, TrainError> {
    let mut named: Vec<(String, &str)> = Vec::new();
    if let StartingWeights::Checkpoint { checkpoint, .. } = &pipeline.start {
        named.push(("model.checkpoint".to_owned(), checkpoint));
    }
    let held_out = pipeline.validation.as_ref().map(|settings| &settings.data);
    named.extend(annotations("data", &pipeline.data));
    named.extend(
        held_out
            .into_iter()
            .flat_map(|data| annotations("validation.data", data)),
    );

    Ok(TrainingRecord::new(
        pipeline,
        &digests(named)?,
        tool_version,
    ))
}

/// The record of a run of a grounder, with the digest of the model that it begins with.
///
/// # Errors
/// [`TrainError::Read`] of a file that cannot be read.
pub fn record_of_grounder(
    pipeline: &GrounderPipeline,
    tool_version: &str,
) -> Result<TrainingRecord<GrounderPipeline>, TrainError> {
    let model = &pipeline.model;
    let named = [
        ("model.image_encoder", &model.image_encoder),
        ("model.checkpoint", &model.checkpoint),
    ];
    let named = named.into_iter().filter_map(|(setting, path)| {
        let path = path.as_ref()?;
        Some((setting.to_owned(), path.as_str()))
    });
    let digests = digests(named.collect())?;
    Ok(TrainingRecord::new(pipeline, &digests, tool_version))
}

/// Of files by the settings that name them.
fn digests(named: Vec<(String, &str)>) -> Result<BTreeMap<String, String>, TrainError> {
    let digest = |(setting, path)| {
        let path = Path::new(path);
        let digest = sha256_of(path).map_err(|source| TrainError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok((setting, digest))
    };
    named.into_iter().map(digest).collect()
}

/// The lists of annotations of `data`, by their settings.
fn annotations<'d>(
    setting: &'d str,
    data: &'d [TrainingData],
) -> impl Iterator<Item = (String, &'d str)> {
    data.iter()
        .enumerate()
        .filter_map(move |(at, data)| match &data.kind {
            TrainingDataKind::Coco { annotations, .. } => {
                Some((format!("{setting}[{at}].annotations"), annotations.as_str()))
            }
            _ => None,
        })
}

/// The SHA-256 of a file, in lower-case hex.
fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use maskmill_job::{TextFile, load_training_pipeline};

    use super::*;

    #[test]
    fn the_files_that_are_named_are_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("sam.pth"), "weights").unwrap();
        fs::write(at("a.json"), "abc").unwrap();
        let coco = format!(
            "kind = 'coco'\nannotations = '{}'\nimages = 'i'",
            at("a.json")
        );
        let text = format!(
            "name = 'n'\nmodel.checkpoint = '{}'\n[[data]]\nkind = 'scenes'\nseed = 1\n[[data]]\n{coco}\n\
             [[validation.data]]\n{coco}\n[optimiser]\nlearning_rate = 1e-4\nsteps = 10\n",
            at("sam.pth")
        );
        let file = TextFile {
            name: "n.toml",
            text: &text,
        };
        let pipeline = load_training_pipeline(file, &[]).unwrap();
        let first = record_of(&pipeline, "0.1.0").unwrap();
        let settings: Vec<&String> = first.files.keys().collect();
        let expected = [
            "data[1].annotations",
            "model.checkpoint",
            "validation.data[0].annotations",
        ];
        assert_eq!(settings, expected);
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(first.files["data[1].annotations"], abc);

        fs::write(at("sam.pth"), "other weights").unwrap();
        let second = record_of(&pipeline, "0.1.0").unwrap();
        let differences = first.differences(&second);
        assert_eq!(differences.len(), 1);
        assert!(
            differences[0].starts_with("sha256 of model.checkpoint: "),
            "{differences:?}"
        );

        fs::remove_file(at("a.json")).unwrap();
        let error = record_of(&pipeline, "0.1.0").unwrap_err().to_string();
        assert!(error.contains("a.json"), "{error}");
    }
}
