//! `maskmill view`: one image's masks, drawn on it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use maskmill_formats::decode::decode;
use maskmill_formats::overlay::{OverlayOptions, encode_png, overlay};
use maskmill_formats::rows::ImageStatus;
use maskmill_pipeline::decode_limits;

use crate::args::ViewArguments;
use crate::failure::Failure;
use crate::job_files::{open_output, source_stores};

pub(crate) fn view(arguments: &ViewArguments) -> Result<(), Failure> {
    let output = open_output(&arguments.output)?;
    let rows = output.image(&arguments.image)?;
    let image = &rows.image;
    if image.status == ImageStatus::Rejected {
        let error = anyhow::anyhow!(
            "{:?} was rejected and has no masks: {} ({})",
            image.image_key,
            image.reason.as_deref().unwrap_or("no reason"),
            image.detail.as_deref().unwrap_or("no detail"),
        );
        return Err(error.into());
    }
    let bytes = output.source_image(image, &source_stores(&arguments.output)?)?;
    let limits = decode_limits(&output.record().pipeline.limits);
    let decoded = decode(&bytes, &limits)
        .with_context(|| format!("{:?} cannot be decoded", image.image_key))?;
    let masks: Vec<_> = rows.masks.iter().map(|mask| &mask.rle).collect();
    let picture = overlay(&decoded.image, &masks, &OverlayOptions::default())?;
    let path = arguments.out.clone().unwrap_or_else(|| {
        PathBuf::from(format!("{}.masks.png", image.image_key.replace('/', "_")))
    });
    fs::write(&path, encode_png(&picture)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    println!(
        "{} masks of {:?} in {}",
        masks.len(),
        image.image_key,
        path.display()
    );
    Ok(())
}
