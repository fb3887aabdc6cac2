//! What things a scene has, and where.

use maskmill_masks::ImageSize;

use crate::field::Pose;
use crate::options::SceneOptions;
use crate::random::Random;
use crate::thing::{Palette, Thing};

/// A thing at its place.
pub(crate) struct Placed {
    pub(crate) thing: Thing,
    pub(crate) pose: Pose,
    pub(crate) radius: f32,
    /// Whether it hardly differs from what is behind it.
    pub(crate) low_contrast: bool,
}

/// Smaller things would have no shape.
const MIN_RADIUS_PX: f32 = 3.5;

/// The wholes of a scene, from the back to the front.
///
/// Radii are uniform in ratio: small things are many, large ones few, as in photos. Some scenes have a main thing that covers a good
/// part of the image; some things come in heaps or rows of their own kind.
pub(crate) fn arrange(random: &mut Random, options: &SceneOptions, size: ImageSize) -> Vec<Placed> {
    let palette = Palette::random(random);
    let (width, height) = (size.width as f32, size.height as f32);
    // In a long image things are as large as its short side allows.
    let span = (width * height).sqrt().min(1.5 * width.min(height));
    let wanted = random.int(*options.objects.start(), *options.objects.end()) as usize;
    let (smallest, limit) = (*options.radius.start(), *options.radius.end());
    // Of some scenes all things are small.
    let largest = random.log_range(smallest.max(0.1).min(limit), limit);

    let mut placed = Vec::with_capacity(wanted);
    if wanted > 0 && random.chance(0.4) {
        let radius = span * random.range(0.26, 0.45);
        let centre = [
            width * random.range(0.25, 0.75),
            height * random.range(0.25, 0.75),
        ];
        let blueprint = random.fork();
        placed.push(place(random, options, &palette, &blueprint, radius, centre));
    }
    while placed.len() < wanted {
        let left = (wanted - placed.len()) as u32;
        let radius = span * random.log_range(smallest, largest);
        let centre = [
            width * random.range(0.02, 0.98),
            height * random.range(0.02, 0.98),
        ];
        let blueprint = random.fork();
        #[derive(Clone, Copy)]
        enum Group {
            One,
            Heap,
            Row,
        }
        let centres =
            match random.weighted(&[(Group::One, 8.0), (Group::Heap, 1.5), (Group::Row, 1.0)]) {
                Group::One => vec![centre],
                Group::Heap => heap(random, centre, radius, left.min(12)),
                Group::Row => row(random, centre, radius, left.min(8)),
            };
        let spread = random.range(1.0, 1.4);
        for centre in centres {
            let radius = radius * random.log_range(1.0 / spread, spread);
            placed.push(place(random, options, &palette, &blueprint, radius, centre));
        }
    }
    // Large things are behind small ones more often than not: otherwise there would be no small ones.
    let mut ordered: Vec<(f32, Placed)> = placed
        .into_iter()
        .map(|placed| (placed.radius * random.log_range(0.5, 2.0), placed))
        .collect();
    ordered.sort_by(|a, b| b.0.total_cmp(&a.0));
    ordered.into_iter().map(|(_, placed)| placed).collect()
}

fn place(
    random: &mut Random,
    options: &SceneOptions,
    palette: &Palette,
    blueprint: &Random,
    radius: f32,
    centre: [f32; 2],
) -> Placed {
    let radius = radius.max(MIN_RADIUS_PX);
    let mut blueprint = blueprint.clone();
    let has_parts = blueprint.chance(options.parts);
    let upright = blueprint.chance(0.3);
    let thing = Thing::random(&mut blueprint, palette, options, radius, has_parts);
    let axis = if upright {
        [1.0, 0.0]
    } else {
        random.direction()
    };
    Placed {
        thing,
        pose: Pose { centre, axis },
        radius,
        low_contrast: random.chance(options.low_contrast),
    }
}

/// Up to `most` places around `centre`, closer than things of `radius` are wide: fruit, coins, pebbles.
fn heap(random: &mut Random, centre: [f32; 2], radius: f32, most: u32) -> Vec<[f32; 2]> {
    let count = random.int(2.min(most), most);
    let tightness = random.range(0.9, 1.7);
    (0..count)
        .map(|i| {
            // A sunflower's spiral: even density, no rows.
            let angle = i as f32 * 2.399_963;
            let r = radius * tightness * (i as f32).sqrt();
            [
                centre[0] + r * libm::cosf(angle) + radius * random.range(-0.3, 0.3),
                centre[1] + r * libm::sinf(angle) + radius * random.range(-0.3, 0.3),
            ]
        })
        .collect()
}

/// Up to `most` places in a line from `centre`: books, posts, beads.
fn row(random: &mut Random, centre: [f32; 2], radius: f32, most: u32) -> Vec<[f32; 2]> {
    let count = random.int(2.min(most), most);
    let direction = if random.chance(0.5) {
        [1.0, 0.0]
    } else {
        random.direction()
    };
    let pitch = radius * random.range(1.6, 3.0);
    (0..count)
        .map(|i| {
            let along = (i as f32 - count as f32 / 2.0) * pitch;
            [
                centre[0] + direction[0] * along,
                centre[1] + direction[1] * along,
            ]
        })
        .collect()
}
