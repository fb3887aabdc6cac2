//! `maskmill verify` and `maskmill export`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use maskmill_formats::rows::ImageStatus;
use maskmill_formats::sa1b::{Document, Naming};
use maskmill_pipeline::JobOutput;

use crate::args::{ExportArguments, ExportFormat, OutputArguments};
use crate::failure::Failure;
use crate::job_files::open_output;

pub(crate) fn verify(arguments: &OutputArguments) -> Result<(), Failure> {
    let output = open_output(arguments)?;
    let found = output.verify()?;
    println!(
        "{} of {} shards committed, {} images, {} masks",
        found.committed, found.shards, found.images, found.masks
    );
    if found.problems.is_empty() {
        println!(
            "Every part is whole, every mask decodes to its area and box, nothing is missing or twice."
        );
        return Ok(());
    }
    for problem in &found.problems {
        println!("  {problem}");
    }
    Err(Failure::incomplete(anyhow::anyhow!(
        "{} problem(s) in {}",
        found.problems.len(),
        output.location()
    )))
}

pub(crate) fn export(arguments: &ExportArguments) -> Result<(), Failure> {
    let ExportFormat::Sa1b = arguments.format;
    let output = open_output(&arguments.output)?;
    let target = match (&arguments.out, output.local_root()) {
        (Some(out), _) => out.clone(),
        (None, Some(_)) => Path::new(output.location()).join("sa1b"),
        (None, None) => {
            let error = anyhow::anyhow!("{} is not on this machine: give --out", output.location());
            return Err(error.into());
        }
    };
    let written = export_sa1b(&output, &target).map_err(Failure::incomplete)?;
    println!("{written} JSON files in {}", target.display());
    Ok(())
}

/// One JSON file per image that has been given to the model, `KEY.json`; images and annotations are
/// numbered from 1 over the whole output, as SA-1B numbers them.
fn export_sa1b(output: &JobOutput, target: &Path) -> anyhow::Result<u64> {
    let mut image_id = 0;
    let mut first_annotation_id = 1;
    for marker in output.markers()? {
        for rows in output.shard(&marker)? {
            if rows.image.status == ImageStatus::Rejected {
                continue;
            }
            image_id += 1;
            let key = &rows.image.image_key;
            let naming = Naming {
                image_id,
                file_name: key.clone(),
                first_annotation_id,
            };
            first_annotation_id += rows.masks.len() as u64;
            let document = Document::new(&rows.image, &rows.masks, naming);
            let path = below(target, key)?;
            let folder = path.parent().expect("a file below a folder has a parent");
            fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be created", folder.display()))?;
            fs::write(&path, document.to_json())
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    Ok(image_id)
}

/// `TARGET/KEY.json`; a key that would leave the folder is refused.
fn below(target: &Path, key: &str) -> anyhow::Result<PathBuf> {
    let safe = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    anyhow::ensure!(
        safe,
        "the image key {key:?} does not name a file below {}",
        target.display()
    );
    Ok(target.join(format!("{key}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_the_target() {
        let target = Path::new("out");
        assert_eq!(
            below(target, "a/b.jpg").unwrap(),
            Path::new("out/a/b.jpg.json")
        );
        for key in ["../a", "a/../../b", "/etc/a", "", "a//b", "./a"] {
            assert!(below(target, key).is_err(), "{key}");
        }
    }
}
