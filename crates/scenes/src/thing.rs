//! Things before they have a place: an outline, a surface, parts.

use crate::colour::{Rgb, difference, luma, mix, random_colour, scaled, vary};
use crate::light::Relief;
use crate::noise::Noise;
use crate::options::SceneOptions;
use crate::outline::Outline;
use crate::parts::{Part, random_parts};
use crate::random::Random;
use crate::shape::Shape;
use crate::texture::Surface;

/// A whole with its parts, in its own frame.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) shape: Shape,
    pub(crate) outline: Outline,
    /// Noise that moves the edge, and by how many pixels.
    pub(crate) rough: Option<(Noise, f32)>,
    pub(crate) surface: Surface,
    pub(crate) relief: Relief,
    pub(crate) edge_px: f32,
    pub(crate) parts: Vec<Part>,
}

/// The colours of a scene: most of its things have one of them.
#[derive(Clone, Debug)]
pub(crate) struct Palette(Vec<Rgb>);

impl Palette {
    pub(crate) fn random(random: &mut Random) -> Self {
        Self(
            (0..random.int(3, 7))
                .map(|_| random_colour(random))
                .collect(),
        )
    }

    pub(crate) fn colour(&self, random: &mut Random) -> Rgb {
        if random.chance(0.35) {
            return random_colour(random);
        }
        let index = random.int(0, self.0.len() as u32 - 1) as usize;
        vary(random, self.0[index], 0.08)
    }

    /// A colour that can be told from `beside`.
    pub(crate) fn colour_beside(&self, random: &mut Random, beside: Rgb) -> Rgb {
        for _ in 0..4 {
            let colour = self.colour(random);
            if difference(colour, beside) > 0.22 {
                return colour;
            }
        }
        apart(beside, beside)
    }
}

impl Thing {
    /// A thing of one of the shapes and textures that `options` asks for, as large as a disc of `radius` pixels, roughly. The same
    /// random numbers give the same thing at every radius.
    pub(crate) fn random(
        random: &mut Random,
        palette: &Palette,
        options: &SceneOptions,
        radius: f32,
        has_parts: bool,
    ) -> Self {
        let shape = Shape::random(&mut random.fork(), options.shapes_of_wholes());
        let outline = shape.outline(&mut random.fork(), radius);
        let rough = rough(&mut random.fork(), shape, radius);
        let base = palette.colour(&mut random.fork());
        let surface = Surface::random(
            &mut random.fork(),
            options.textures_of_wholes(),
            base,
            radius,
        );
        let relief = Relief::random(&mut random.fork(), radius);
        let mut rest = random.fork();
        let edge_px = if rest.chance(0.15) {
            rest.range(1.5, 3.5)
        } else {
            1.0
        };
        let parts = if has_parts {
            random_parts(&mut rest, palette, &outline, base, radius)
        } else {
            Vec::new()
        };
        Self {
            shape,
            outline,
            rough,
            surface,
            relief,
            edge_px,
            parts,
        }
    }
}

/// Stones, leaves and fur have rough edges; what is made has not.
fn rough(random: &mut Random, shape: Shape, radius: f32) -> Option<(Noise, f32)> {
    let organic = match shape {
        Shape::Blob | Shape::Cloud | Shape::Leaf | Shape::Limb | Shape::Figure => 0.5,
        Shape::Disc | Shape::Oval | Shape::Drop | Shape::Polygon => 0.2,
        _ => 0.0,
    };
    if !random.chance(organic) {
        return None;
    }
    let cell = radius * random.log_range(0.1, 0.6);
    let noise = Noise {
        seed: random.noise_seed(),
        cell_px: [cell.max(2.0); 2],
        octaves: random.int(1, 4),
        gain: 0.5,
    };
    // More than a share of the cell would tear islands off the edge.
    Some((noise, cell * random.range(0.1, 0.35)))
}

/// `colour`, made darker or brighter until it can be told from `beside`.
pub(crate) fn apart(colour: Rgb, beside: Rgb) -> Rgb {
    if difference(colour, beside) > 0.16 {
        return colour;
    }
    if luma(beside) > 0.45 {
        scaled(colour, 0.55)
    } else {
        mix(colour, [1.0, 0.98, 0.92], 0.42)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_numbers_give_the_same_thing_at_every_size() {
        for seed in 0..50 {
            let palette = Palette::random(&mut Random::new(seed));
            let thing = |radius| {
                Thing::random(
                    &mut Random::new(seed),
                    &palette,
                    &SceneOptions::default(),
                    radius,
                    true,
                )
            };
            let (small, large) = (thing(60.0), thing(180.0));
            assert_eq!(small.shape, large.shape);
            assert_eq!(small.surface.base, large.surface.base);
            assert_eq!(small.parts.len(), large.parts.len());
            let (a, b) = (small.outline.half_extent(), large.outline.half_extent());
            assert!((a[0] * 3.0 - b[0]).abs() < 0.01 * b[0], "{a:?} {b:?}");
        }
    }

    #[test]
    fn colours_are_moved_apart() {
        for colour in [[0.0; 3], [0.3; 3], [0.5; 3], [1.0; 3], [0.8, 0.2, 0.1]] {
            assert!(
                difference(apart(colour, colour), colour) > 0.16,
                "{colour:?}"
            );
        }
    }
}
