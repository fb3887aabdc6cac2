//! Writes scenes as PNG files, each beside a picture of its masks.
//!
//! ```text
//! cargo run --release -p maskmill-scenes --example draw -- FOLDER [FIRST_SEED [COUNT [HEIGHT WIDTH]]]
//! ```

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use maskmill_masks::ImageSize;
use maskmill_scenes::{Scene, SceneOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("a folder to write to is missing")?;
    let number = |index: usize, default: u64| -> Result<u64, Box<dyn Error>> {
        arguments
            .get(index)
            .map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let (first, count) = (number(1, 0)?, number(2, 8)?);
    let size = ImageSize::new(number(3, 512)?.try_into()?, number(4, 512)?.try_into()?);
    let options = SceneOptions::of_size(size);
    if let Some(problem) = options.problems().first() {
        return Err(problem.to_string().into());
    }

    for seed in first..first + count {
        let start = Instant::now();
        let scene = options.scene(seed);
        let elapsed = start.elapsed();
        println!(
            "scene {seed}: {} objects, {:.1} ms",
            scene.objects.len(),
            elapsed.as_secs_f64() * 1e3
        );
        for (index, object) in scene.objects.iter().enumerate() {
            let whole = object
                .part_of
                .map_or(String::new(), |whole| format!(" (part of {whole})"));
            println!(
                "  {index}: {}{whole}, {} pixels",
                object.phrase(),
                object.area
            );
        }
        let side_by_side = beside(&scene, &overlay(&scene));
        let path = Path::new(folder).join(format!("scene-{seed}.png"));
        image::save_buffer(
            path,
            &side_by_side,
            2 * size.width,
            size.height,
            image::ColorType::Rgb8,
        )?;
    }
    Ok(())
}

/// The image, dimmed, with every mask in a colour of its own and outlined; parts over their wholes.
fn overlay(scene: &Scene) -> Vec<u8> {
    let ImageSize { height, width } = scene.image.size();
    let mut pixels: Vec<u8> = scene
        .image
        .data()
        .iter()
        .map(|&value| value / 3 + 40)
        .collect();
    for (index, object) in scene.objects.iter().enumerate() {
        let mask = object.mask.decode();
        let colour = [97, 57, 23].map(|factor| ((index + 1) * factor * 7 % 256) as u8);
        for y in 0..height {
            for x in 0..width {
                if !mask.get(y, x) {
                    continue;
                }
                let neighbours = [
                    (y.wrapping_sub(1), x),
                    (y + 1, x),
                    (y, x.wrapping_sub(1)),
                    (y, x + 1),
                ];
                let at_edge = neighbours
                    .iter()
                    .any(|&(y, x)| y >= height || x >= width || !mask.get(y, x));
                let pixel = &mut pixels[(y * width + x) as usize * 3..][..3];
                for (value, colour) in pixel.iter_mut().zip(colour) {
                    *value = if at_edge {
                        255
                    } else {
                        *value / 3 + colour / 3 * 2
                    };
                }
            }
        }
    }
    pixels
}

/// The image to the left of `right`, both `[height, width, 3]`.
fn beside(scene: &Scene, right: &[u8]) -> Vec<u8> {
    let row_bytes = scene.image.size().width as usize * 3;
    let rows = scene
        .image
        .data()
        .chunks(row_bytes)
        .zip(right.chunks(row_bytes));
    rows.flat_map(|(left, right)| [left, right].concat())
        .collect()
}
