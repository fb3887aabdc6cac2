//! What a killed run goes on from: one file, replaced whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maskmill_weights::{all_to_host, write_whole};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::optimiser::OptimiserState;

/// The key of the header under which everything but the rows is kept.
const POSITION: &str = "maskmill.position";
const ROWS: [&str; 3] = ["weights", "first_moment", "second_moment"];

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Which run: the training file's fingerprint.
    pub fingerprint: String,
    /// Steps done.
    pub step: u32,
    /// Images learned from so far, each as often as it came up.
    pub images: u64,
    /// Seconds of training so far, over all starts.
    pub seconds: f64,
    /// The best validation so far, and the step it was at.
    pub best: Option<(f64, u32)>,
}

/// What a state file holds: where the run stood, and weights and moments as rows of the optimiser's layout.
pub(crate) type Saved = (Position, [Vec<f32>; 3]);

/// Writes the state; the previous one stands until this one is whole on disk.
///
/// # Errors
/// [`TrainError::Write`].
pub(crate) fn save(
    path: &Path,
    state: &OptimiserState,
    position: &Position,
) -> Result<(), TrainError> {
    let rows = all_to_host(vec![
        state.weights.clone(),
        state.first_moment.clone(),
        state.second_moment.clone(),
    ]);
    let bytes: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| row.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = ROWS
        .iter()
        .zip(rows.iter().zip(&bytes))
        .map(|(name, (row, bytes))| {
            let view = TensorView::new(Dtype::F32, vec![row.len()], bytes);
            (*name, view.expect("four bytes a number"))
        });
    let position = serde_json::to_string(position).expect("plain values");
    let header = BTreeMap::from([(POSITION.to_owned(), position)]);
    let file = serialize(views, Some(header.into_iter().collect())).expect("sizes agree");
    write_whole(path, &file).map_err(|source| TrainError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Reads the state, or none where no run has begun.
///
/// # Errors
/// [`TrainError::State`] for a damaged file, or one of another model.
pub(crate) fn load(path: &Path, numbers: usize) -> Result<Option<Saved>, TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TrainError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let state = |detail: String| TrainError::State {
        path: PathBuf::from(path),
        detail,
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| state(e.to_string()))?;
    let position = header.metadata().as_ref().and_then(|m| m.get(POSITION));
    let position = position.ok_or_else(|| state(format!("its header has no {POSITION}")))?;
    let position = serde_json::from_str(position).map_err(|e| state(e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| state(e.to_string()))?;
    let row = |name: &str| {
        let view = tensors.tensor(name).map_err(|e| state(e.to_string()))?;
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        match view.dtype() == Dtype::F32 && values.len() == numbers {
            true => Ok(values),
            false => Err(state(format!(
                "{name} has {} numbers of type {:?}, this model trains {numbers}",
                values.len(),
                view.dtype()
            ))),
        }
    };
    Ok(Some((
        position,
        [row(ROWS[0])?, row(ROWS[1])?, row(ROWS[2])?],
    )))
}
