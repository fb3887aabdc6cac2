//! A CLIP checkpoint against what transformers or OpenCLIP computed with it.

use std::path::Path;

use maskmill_grounding::{Clip, ClipInput};
use serde::Deserialize;

use super::{Photo, Report, Tensors, channels_first, json, load_clip};

#[derive(Deserialize)]
struct Expected {
    checkpoint: String,
    tensors: String,
    image_size: usize,
    context: usize,
    logit_scale: f32,
    texts: Vec<Text>,
    photos: Vec<Photo>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    count: usize,
}

/// Compares every stage with `folder`'s `<name>.json`; gives the model for further checks.
pub(crate) fn check_clip(folder: &Path, name: &str) -> Clip {
    let expected: Expected = json(&folder.join(format!("{name}.json")));
    let tensors = Tensors::open(&folder.join(&expected.tensors));
    let clip = load_clip(&folder.join(&expected.checkpoint));
    let sizes = clip.architecture();
    assert_eq!(sizes.image.image_size, expected.image_size);
    assert_eq!(sizes.text.context, expected.context);
    let mut report = Report::default();
    let scale = (clip.logit_scale() - expected.logit_scale).abs() / expected.logit_scale;
    report.note("logit_scale", scale, 1e-6);

    let encoder = clip.text_encoder();
    for (text, ids) in expected.texts.iter().zip(tensors.ids("token_ids")) {
        let kept = text.count.min(expected.context);
        assert_eq!(
            encoder.tokens(&text.text).ids,
            ids[..kept],
            "{:?}",
            text.text
        );
    }
    let texts: Vec<String> = expected.texts.iter().map(|t| t.text.clone()).collect();
    let (text, overlong) = encoder.embed(&texts);
    let too_long = expected.texts.iter().filter(|t| t.count > expected.context);
    assert_eq!(overlong.len(), too_long.count());
    report.compare("text_features", text.values(), &tensors, "text_features");
    let text = text.normalised();
    report.compare("text_embeds", text.values(), &tensors, "text_embeds");

    let images = expected.photos.iter().map(Photo::read);
    let inputs: Vec<ClipInput> = images
        .map(|image| ClipInput::new(&image, expected.image_size))
        .collect();
    assert_eq!(inputs.len(), 3);
    let pixels = inputs
        .iter()
        .map(|input| channels_first(input.pixels().data()));
    let pixels: Vec<u8> = pixels.flatten().collect();
    assert!(
        pixels == tensors.bytes("pixels_u8").1,
        "{name}: not as torchvision resizes"
    );
    let image = clip.embed_images(&inputs.iter().collect::<Vec<_>>());
    report.compare("image_features", image.values(), &tensors, "image_features");
    let image = image.normalised();
    report.compare("image_embeds", image.values(), &tensors, "image_embeds");

    let logit = |image: &[f32], text: &[f32]| {
        let cosine: f32 = image.iter().zip(text).map(|(a, b)| a * b).sum();
        clip.logit_scale() * cosine
    };
    let logits: Vec<f32> = image
        .rows()
        .flat_map(|image| text.rows().map(move |text| logit(image, text)))
        .collect();
    report.compare("logits_per_image", &logits, &tensors, "logits_per_image");
    report.finish(name, 6);
    clip
}
