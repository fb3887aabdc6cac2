//! Every stage on a GPU backend against the CPU, on the seeded small checkpoints.
//!
//! ```text
//! CARGO_TARGET_DIR=target-wgpu cargo test --release -p maskmill-sam --features wgpu --test devices
//! CARGO_TARGET_DIR=target-cuda cargo test --release -p maskmill-sam --features cuda --test devices
//! ```
//!
//! Needs a device: Mesa's software Vulkan (`apt-get install mesa-vulkan-drivers`) is one for wgpu.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

mod support;

use burn::tensor::{Device, Tensor, TensorData};
use maskmill_sam::{
    AutomaticOptions, DeviceName, MaskOutput, ModelInput, PointLabel, PromptPoints, Sam, generate,
};

use support::{fixture, max_norm_error, photo, root};

/// Relative to the largest value of a tensor; the same bound as for PyTorch.
const TOLERANCE: f32 = 1e-4;

fn gpu() -> Device {
    #[cfg(feature = "cuda")]
    let name = DeviceName::Cuda(0);
    #[cfg(not(feature = "cuda"))]
    let name = DeviceName::Wgpu(0);
    name.open().unwrap()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// Every tensor between the image and the low-resolution logits, by name.
fn stages(sam: &Sam) -> Vec<(String, Vec<f32>)> {
    let image = photo(&root().join("samples/cat.png"));
    let networks = sam.networks();
    let side = sam.architecture().low_res_side();
    let input = ModelInput::new(&image, sam.architecture().image_size);
    let encoded = networks.image_encoder.stages(sam.normalised(&input));
    let mut stages: Vec<(String, Vec<f32>)> = Vec::new();
    for (i, stage) in encoded.iter().enumerate() {
        stages.push((format!("encoder stage {i}"), values(stage.clone())));
    }
    let point = |x: f64, label| ([x, 0.7 * x], label);
    let prompts: [Vec<PromptPoints>; 3] = [
        (1..5)
            .map(|i| {
                vec![
                    point(f64::from(i) * 20.0, PointLabel::Foreground),
                    point(f64::from(i) * 9.0, PointLabel::Background),
                    point(0.0, PointLabel::Padding),
                ]
            })
            .collect(),
        vec![vec![
            point(20.0, PointLabel::BoxTopLeft),
            point(90.0, PointLabel::BoxBottomRight),
        ]],
        vec![vec![]],
    ];
    let mask: Vec<f32> = (0..side * side)
        .map(|i| ((i % side) as f32 - 12.0) * 0.3)
        .collect();
    for (case, prompts) in prompts.iter().enumerate() {
        let sparse = networks.prompt_encoder.embed_points(prompts, sam.device());
        let dense = match case {
            2 => {
                let mask = TensorData::new(mask.clone(), [1, side, side, 1]);
                let mask = Tensor::from_data(mask, sam.device());
                networks.prompt_encoder.embed_masks(mask)
            }
            _ => networks.prompt_encoder.no_mask(),
        };
        let decoder = &networks.mask_decoder;
        let embedding = encoded[encoded.len() - 1].clone();
        let positions = sam.dense_positions().clone();
        let decoded = decoder.decode(embedding, positions, sparse.clone(), dense.clone());
        let (tokens, image) = decoded.stages();
        let wanted: Vec<usize> = (0..prompts.len()).rev().collect();
        if let Some(sparse) = sparse {
            stages.push((format!("case {case}: sparse"), values(sparse)));
        }
        stages.push((format!("case {case}: dense"), values(dense)));
        stages.push((format!("case {case}: tokens"), values(tokens)));
        stages.push((format!("case {case}: image tokens"), values(image)));
        for output in [MaskOutput::Single, MaskOutput::Multi] {
            let iou = decoder.predicted_iou(&decoded, output);
            let logits = decoder.low_res_logits(&decoded, output, &wanted);
            stages.push((format!("case {case}: {output:?} IoU"), values(iou)));
            stages.push((format!("case {case}: {output:?} logits"), values(logits)));
        }
    }
    stages
}

#[test]
fn every_stage_equals_the_cpu() {
    let gpu = gpu();
    for checkpoint in [
        root().join("models/sam-seeded-tiny.safetensors"),
        fixture("sam-seeded-compact.pth"),
        fixture("sam-seeded-stretched.safetensors"),
    ] {
        let on_cpu = stages(&Sam::load(&checkpoint, &Device::flex()).unwrap());
        let on_gpu = stages(&Sam::load(&checkpoint, &gpu).unwrap());
        assert_eq!(on_cpu.len(), on_gpu.len());
        let mut worst = 0.0_f32;
        for ((name, cpu), (_, gpu)) in on_cpu.iter().zip(&on_gpu) {
            let error = max_norm_error(gpu, cpu, name);
            assert!(
                error <= TOLERANCE,
                "{}: {name}: {error:e}",
                checkpoint.display()
            );
            worst = worst.max(error);
        }
        println!(
            "{}: {} stages, worst {worst:.1e}",
            checkpoint.display(),
            on_cpu.len()
        );
    }
}

#[test]
fn automatic_masks_equal_the_cpus() {
    let checkpoint = root().join("models/sam-seeded-tiny.safetensors");
    let image = photo(&root().join("samples/cat.png"));
    let options = AutomaticOptions {
        point_grids: AutomaticOptions::regular_grids(8, 0, 1),
        ..AutomaticOptions::default()
    };
    let on = |device: &Device| {
        let sam = Sam::load(&checkpoint, device).unwrap();
        generate(&sam, &options, 64, &image)
    };
    let (cpu, gpu) = (on(&Device::flex()), on(&gpu()));
    assert!(!cpu.is_empty());
    assert_eq!(cpu.len(), gpu.len());
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert_eq!(cpu.prompted_by, gpu.prompted_by);
        assert!(cpu.rle.iou(&gpu.rle).unwrap() >= 0.999);
    }
}
