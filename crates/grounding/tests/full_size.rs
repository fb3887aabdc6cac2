//! The base sizes against transformers, where `MASKMILL_GROUNDING_FIXTURES` names the folder that
//! `generate.py --full` filled:
//!
//! ```text
//! MASKMILL_GROUNDING_FIXTURES=DIR cargo test --release -p maskmill-grounding --test full_size -- --nocapture
//! ```

mod support;

use std::path::PathBuf;
use std::time::Instant;

use maskmill_grounding::ClipInput;

use support::clip::check_clip;
use support::owl::check_owl;
use support::photos;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("MASKMILL_GROUNDING_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        println!("not asked for: see tests/reference/grounding/README.md");
    }
    folder
}

/// Median seconds of three runs.
fn median_of_three(mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[1]
}

#[test]
fn clip_base_patch32() {
    let Some(folder) = folder() else { return };
    let clip = check_clip(&folder, "clip-vit-base-patch32");
    let side = clip.architecture().image.image_size;
    let [cat, ..] = photos().map(|photo| ClipInput::new(&photo, side));
    let seconds = median_of_three(|| drop(clip.embed_images(&[&cat])));
    println!("{}: {seconds:.3} s an image", clip.architecture());
}

#[test]
fn owlv2_base_patch16() {
    check_detector("owlv2-base-patch16", 9);
}

#[test]
fn owl_vit_base_patch32() {
    check_detector("owlvit-base-patch32", 7);
}

fn check_detector(name: &str, at_least: usize) {
    let Some(folder) = folder() else { return };
    let owl = check_owl(&folder, name, at_least);
    let input = owl.input(&photos()[0]);
    let seconds = median_of_three(|| {
        // Reading the boxes waits for the device.
        let image = owl.embed(&input);
        let none = maskmill_grounding::Embeddings::new(Vec::new(), 1);
        drop(owl.score(&image, &owl.queries(&none), |_, _| {}));
    });
    println!("{}: {seconds:.3} s an image", owl.architecture());
}
