//! bfloat16 against 32 bits, on the seeded small checkpoints.

mod support;

use burn::tensor::{DType, Device};
use maskmill_sam::{
    AutomaticOptions, ModelInput, PointLabel, Precision, PromptPoints, Sam, generate,
};
use maskmill_weights::to_host;

use support::{fixture, implementations, load_as, max_norm_error, photo, root};

/// The embedding, then of 12 points the predicted IoU and the low-resolution logits of all masks.
fn outputs(sam: &Sam) -> [Vec<f32>; 3] {
    let image = photo(&root().join("samples/cat.png"));
    let input = ModelInput::new(&image, sam.architecture().image_size);
    let encoded = sam.encoder_stages(sam.normalised(&input));
    let embedding = encoded[encoded.len() - 1].clone();
    let prompts: Vec<PromptPoints> = (1..=12)
        .map(|i| {
            let xy = [f64::from(i) * 9.0, f64::from(i) * 6.0];
            vec![
                (xy, PointLabel::Foreground),
                ([0.0, 0.0], PointLabel::Padding),
            ]
        })
        .collect();
    let sparse = sam.prompt_encoder().embed_points(&prompts, sam.device());
    let made = sam.prompt_stages(&embedding, sparse, sam.prompt_encoder().no_mask());
    assert_eq!(embedding.dtype(), DType::F32);
    [to_host(embedding), made.predicted_iou, made.low_res_logits]
}

#[test]
fn high_and_bf16_are_close_to_f32() {
    for checkpoint in [
        root().join("models/sam-seeded-tiny.safetensors"),
        fixture("sam-seeded-compact.pth"),
        fixture("sam-seeded-stretched.safetensors"),
    ] {
        let of = |implementation, precision| {
            let sam = load_as(&checkpoint, implementation, precision);
            assert_eq!(sam.precision(), precision);
            outputs(&sam)
        };
        for implementation in implementations() {
            let exact = of(implementation, Precision::F32);
            for (precision, least, most) in
                [(Precision::High, -1.0, 3e-4), (Precision::Bf16, 0.0, 3e-2)]
            {
                let rounded = of(implementation, precision);
                for (i, what) in ["embedding", "IoU", "logits"].into_iter().enumerate() {
                    let error = max_norm_error(&rounded[i], &exact[i], what);
                    let what = format!(
                        "{}: {implementation:?}, {precision}: {what}",
                        checkpoint.display()
                    );
                    println!("{what}: {error:.1e}");
                    assert!(error > least, "{what} was not rounded");
                    assert!(error < most, "{what}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn automatic_masks_in_high_and_bf16() {
    let checkpoint = root().join("models/sam-seeded-tiny.safetensors");
    let image = photo(&root().join("samples/cat.png"));
    let options = AutomaticOptions {
        point_grids: AutomaticOptions::regular_grids(8, 0, 1),
        ..AutomaticOptions::default()
    };
    let [exact, high, rounded] =
        [Precision::F32, Precision::High, Precision::Bf16].map(|precision| {
            let sam = Sam::load(&checkpoint, &Device::flex(), precision).unwrap();
            generate(&sam, &options, 64, &image)
        });
    assert!(!exact.is_empty());
    assert_eq!(exact.len(), high.len());
    for (exact, high) in exact.iter().zip(&high) {
        assert!(exact.rle.iou(&high.rle).unwrap() > 0.999);
    }
    let alike = exact.iter().filter(|mask| {
        let same = |other: &&maskmill_sam::GeneratedMask| mask.rle.iou(&other.rle).unwrap() > 0.9;
        rounded.iter().any(|other| same(&other))
    });
    let alike = alike.count();
    println!(
        "{} masks in f32, {} in bf16, {alike} of the former alike",
        exact.len(),
        rounded.len()
    );
    assert!(alike * 10 >= exact.len() * 8);
}
