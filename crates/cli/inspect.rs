//! `maskmill models inspect`: what a checkpoint is.

use std::collections::BTreeSet;
use std::path::Path;

use maskmill_grounding::{
    ClipArchitecture, ClipTokenizer, LoadError, OwlArchitecture, tokenizer_place, weights_file,
};
use maskmill_pipeline::describe;
use maskmill_sam::Architecture;
use maskmill_weights::{Checkpoint, ModelKind};

use crate::args::InspectArguments;
use crate::failure::Failure;

pub(crate) fn inspect(arguments: &InspectArguments) -> Result<(), Failure> {
    let path = weights_file(&arguments.file)?;
    let checkpoint = Checkpoint::open(&path)?;
    let kind = ModelKind::of(&checkpoint);
    println!("{}: {kind}", path.display());
    if let Some(about) = checkpoint.about() {
        println!("  about:        {about}");
    }
    println!("  tensors:      {}", tensors(&checkpoint));
    let (architecture, vocabulary) = match architecture(&checkpoint, kind) {
        Ok(found) => found,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return Err(Failure::incomplete(error));
        }
    };
    let Some(architecture) = architecture else {
        let first = checkpoint.shapes().take(8);
        for (key, shape) in first {
            println!("  begins with:  {key} {shape:?}");
        }
        return Err(Failure::incomplete(anyhow::anyhow!(
            "{} is of no model that maskmill knows",
            path.display()
        )));
    };
    println!("  architecture: {architecture}");
    if let Some(vocabulary) = vocabulary {
        println!("  tokenizer:    {}", tokenizer(&path, vocabulary));
    }
    if let Some(setting) = kind.belongs_in() {
        println!("  belongs in:   {setting} of a pipeline file");
    }
    Ok(())
}

/// How many, how large, of which types.
fn tensors(checkpoint: &Checkpoint) -> String {
    let mut values = 0_u64;
    let mut types = BTreeSet::new();
    for (key, shape) in checkpoint.shapes() {
        values += shape.iter().map(|side| *side as u64).product::<u64>();
        types.extend(checkpoint.element_type(key).map(str::to_owned));
    }
    let types: Vec<String> = types.into_iter().collect();
    format!(
        "{} with {:.1} million values, {}",
        checkpoint.shapes().count(),
        values as f64 / 1e6,
        types.join(" and ")
    )
}

/// The architecture in words, and the number of token embeddings of a model that reads texts.
fn architecture(
    checkpoint: &Checkpoint,
    kind: ModelKind,
) -> Result<(Option<String>, Option<usize>), LoadError> {
    Ok(match kind {
        ModelKind::Sam => (Some(Architecture::of(checkpoint)?.to_string()), None),
        ModelKind::Clip | ModelKind::OpenClip => {
            let found = ClipArchitecture::of(checkpoint)?;
            (Some(found.to_string()), Some(found.text.vocabulary))
        }
        ModelKind::OwlVit | ModelKind::Owlv2 => {
            let found = OwlArchitecture::of(checkpoint)?;
            (Some(found.to_string()), Some(found.text.vocabulary))
        }
        ModelKind::Unknown => (None, None),
    })
}

fn tokenizer(path: &Path, vocabulary: usize) -> String {
    let loaded = ClipTokenizer::load(&tokenizer_place(path, None));
    let fits = loaded.and_then(|tokenizer| {
        tokenizer.check_fits(path, vocabulary)?;
        Ok(tokenizer)
    });
    match fits {
        Ok(tokenizer) => format!(
            "{} ({} tokens)",
            tokenizer.path().display(),
            tokenizer.size()
        ),
        Err(error) => describe(&error),
    }
}
