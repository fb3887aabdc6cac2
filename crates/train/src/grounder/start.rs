//! The first weights of a grounder that goes on from another.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use maskmill_grounding::{BytePairs, OwlArchitecture, TrainableOwl};
use maskmill_sam::grid_stretched;

use super::image_tower::{POSITIONS, TOWER};
use crate::error::TrainError;

/// Tensors by their official keys, of the grounder at `path`, a checkpoint that a run left; for images of another side than
/// its own, positions are interpolated.
///
/// # Errors
/// [`TrainError::Detector`] of a file that is none; [`TrainError::Settings`] of a model of other sizes, or of other words.
pub(crate) fn from_grounder(
    path: &Path,
    architecture: &OwlArchitecture,
    byte_pairs: &BytePairs,
) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
    let refused = |what: String| {
        let path = path.display();
        TrainError::Settings(format!("model.checkpoint: {path} {what}"))
    };
    let owl = TrainableOwl::load(path, &Device::flex())?;
    let own = &owl.architecture().image;
    let mut alike = owl.architecture().clone();
    alike.image.image_size = architecture.image.image_size;
    if alike != *architecture {
        return Err(refused(format!(
            "is {}, but [architecture] asks for {architecture}; give it the checkpoint's sizes (image_size may differ)",
            owl.architecture()
        )));
    }
    let files = [
        ("vocab.json", byte_pairs.vocabulary_file()),
        ("merges.txt", byte_pairs.merges_file()),
    ];
    for (name, wanted) in files {
        let path = path.with_file_name(name);
        let found = std::fs::read_to_string(&path);
        let found = found.map_err(|source| TrainError::Read { path, source })?;
        if found != wanted {
            return Err(refused(format!(
                "has another {name} beside it than the words of scenes make: its tokens mean other words"
            )));
        }
    }
    let mut values = owl.values_by_key();
    let (from, to) = (own.grid(), architecture.image.grid());
    if from != to {
        let positions = values.get_mut(&format!("{TOWER}.{POSITIONS}"));
        let positions = positions.expect("a tower has positions");
        let of_patches = positions.split_off(own.transformer.width);
        positions.extend(grid_stretched(&of_patches, from, to));
    }
    Ok(values)
}
