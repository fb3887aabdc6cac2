//! Masks for what a text, an example, a box or a point names, and labels for masks: the real `maskmill` over
//! small seeded checkpoints.
//!
//! `fixtures/grounding/whole_path.json` holds what transformers and segment-anything make of the same checkpoints
//! and photos (`tests/reference/grounding`).

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod commands;
mod known_prompts;
mod labels;
mod whole_path;

use std::fs;
use std::path::PathBuf;

use support::{Job, TINY, repository};

/// A file of the grounding fixtures.
fn fixture(name: &str) -> PathBuf {
    repository("tests/reference/fixtures/grounding").join(name)
}

/// A photo of `samples/`, as it is.
fn sample(name: &str) -> Vec<u8> {
    let path = repository("samples").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A job over a folder of images whose pipeline file ends with `sections`. The SAM checkpoint is the shipped one,
/// which is untrained; every mask passes unless `sections` say otherwise. Put `model.` keys first.
fn job(model: &str, sections: &str) -> Job {
    job_of("kind = \"images\"\npath = \"source\"", model, sections)
}

/// The same with any source.
fn job_of(source: &str, model: &str, sections: &str) -> Job {
    let job = Job::of_images();
    let checkpoint = repository(TINY);
    let masks = match sections.contains("[masks]") {
        true => "",
        false => "[masks]\npred_iou_thresh = 0.0\nstability_score_thresh = 0.0\n",
    };
    let pipeline = format!(
        "name = \"job\"\n[source]\n{source}\n[model]\ncheckpoint = '{}'\n{model}\n{sections}\n{masks}",
        checkpoint.display()
    );
    fs::write(job.path("pipeline.toml"), pipeline).unwrap();
    job
}

/// `detector = ...` with the small OWLv2.
fn detector() -> String {
    format!("detector = '{}'", fixture("owlv2-small").display())
}

/// `labeller = ...` with the small CLIP.
fn labeller() -> String {
    format!("labeller = '{}'", fixture("clip-small").display())
}
