//! Parts of things: what one would point at within, or at, a whole.

use crate::colour::Rgb;
use crate::field::{Field, Pose};
use crate::light::Relief;
use crate::outline::{Outline, dot};
use crate::random::Random;
use crate::shape::Shape;
use crate::texture::{Surface, Texture};
use crate::thing::Palette;
use crate::window::Window;

/// A part of a whole, or of another part.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) shape: Shape,
    pub(crate) region: Region,
    pub(crate) surface: Surface,
    pub(crate) relief: Relief,
    pub(crate) parts: Vec<Part>,
}

/// Where a part is, in the frame of its whole.
#[derive(Clone, Debug)]
pub(crate) enum Region {
    /// What is further inside than a share of the whole's depth.
    Middle(f32),
    /// The whole where `[x, y] . normal > from`: an end of it, a lid.
    End { normal: [f32; 2], from: f32 },
    /// The whole where `|[x, y] . normal - at| < half_width`.
    Belt {
        normal: [f32; 2],
        at: f32,
        half_width: f32,
    },
    /// An outline within the whole: a window, a spot, a button.
    Within(Outline, Pose),
    /// An outline that reaches out of the whole, before it or behind it: a handle, an ear, a stem.
    Attached {
        outline: Outline,
        pose: Pose,
        behind: bool,
    },
}

impl Region {
    /// The field of this region of a whole of field `whole` and frame `pose`, and the region's own frame.
    pub(crate) fn field(&self, whole: &Field, pose: &Pose, image: Window) -> (Field, Pose) {
        let line = |signed: &dyn Fn([f32; 2]) -> f32| {
            Field::from_fn(whole.window, |x, y| {
                whole.at(x, y).max(signed(pose.local(x, y)))
            })
        };
        match self {
            Region::Middle(share) => {
                let inset = share * whole.depth();
                (
                    Field::from_fn(whole.window, |x, y| whole.at(x, y) + inset),
                    *pose,
                )
            }
            Region::End { normal, from } => (line(&|p| from - dot(p, *normal)), *pose),
            Region::Belt {
                normal,
                at,
                half_width,
            } => (line(&|p| (dot(p, *normal) - at).abs() - half_width), *pose),
            Region::Within(outline, inner) => {
                let inner = pose.within(inner);
                let mut field = Field::of(outline, &inner, 0.0, whole.window);
                field.clip(whole);
                (field, inner)
            }
            Region::Attached {
                outline,
                pose: inner,
                ..
            } => {
                let inner = pose.within(inner);
                (Field::of(outline, &inner, 0.0, image), inner)
            }
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Region::Attached { behind: true, .. })
    }
}

/// Smaller parts would not be seen.
const MIN_RADIUS_PX: f32 = 2.5;

/// One or two kinds of parts for a whole of colour `base`.
pub(crate) fn random_parts(
    random: &mut Random,
    palette: &Palette,
    outline: &Outline,
    base: Rgb,
    radius: f32,
) -> Vec<Part> {
    #[derive(Clone, Copy)]
    enum Kind {
        Middle,
        End,
        Belt,
        Windows,
        Spot,
        Attached,
    }
    let mut parts = Vec::new();
    for _ in 0..random.int(1, 2) {
        let kind = random.weighted(&[
            (Kind::Middle, 1.5),
            (Kind::End, 1.5),
            (Kind::Belt, 1.0),
            (Kind::Windows, 2.0),
            (Kind::Spot, 2.0),
            (Kind::Attached, 3.0),
        ]);
        let mut random = random.fork();
        let random = &mut random;
        let colour = palette.colour_beside(random, base);
        let half = outline.half_extent();
        match kind {
            Kind::Middle => {
                let region = Region::Middle(random.range(0.25, 0.65));
                let inner = radius * 0.5;
                parts.push(part(random, Shape::Section, region, colour, inner));
            }
            Kind::End => {
                let (normal, half_along) = axis(random, half);
                let from = half_along * random.range(0.25, 0.75);
                let region = Region::End { normal, from };
                parts.push(part(random, Shape::Section, region, colour, radius * 0.5));
            }
            Kind::Belt => {
                let (normal, half_along) = axis(random, half);
                let region = Region::Belt {
                    normal,
                    at: half_along * random.range(-0.5, 0.5),
                    half_width: half_along * random.range(0.08, 0.2),
                };
                parts.push(part(random, Shape::Section, region, colour, radius * 0.4));
            }
            Kind::Windows => parts.extend(windows(random, outline, colour, radius)),
            Kind::Spot => {
                let size = radius * random.range(0.2, 0.5);
                if let Some(centre) = inside(random, outline, size * 0.5) {
                    let mut spot = patch(random, centre, colour, size);
                    if random.chance(0.35) {
                        // A part of a part: a pupil, a bolt.
                        let inner = palette.colour_beside(random, colour);
                        let region = Region::Middle(random.range(0.3, 0.6));
                        spot.parts
                            .push(part(random, Shape::Section, region, inner, size * 0.5));
                    }
                    parts.push(spot);
                }
            }
            Kind::Attached => parts.extend(attached(random, outline, colour, radius)),
        }
    }
    parts
}

fn part(random: &mut Random, shape: Shape, region: Region, colour: Rgb, radius: f32) -> Part {
    Part {
        shape,
        region,
        surface: Surface::random(random, &Texture::ALL, colour, radius),
        relief: Relief::random(random, radius),
        parts: Vec::new(),
    }
}

/// An axis of the frame as a unit vector, either way, and the half side along it.
fn axis(random: &mut Random, half: [f32; 2]) -> ([f32; 2], f32) {
    let sign = if random.chance(0.5) { 1.0 } else { -1.0 };
    if random.chance(0.6) {
        ([sign, 0.0], half[0])
    } else {
        ([0.0, sign], half[1])
    }
}

/// A point at least `margin` pixels inside the outline, if a few tries find one.
fn inside(random: &mut Random, outline: &Outline, margin: f32) -> Option<[f32; 2]> {
    let half = outline.half_extent();
    (0..12)
        .map(|_| half.map(|side| random.range(-side, side)))
        .find(|&p| outline.distance(p) < -margin)
}

/// A piece of another colour, of any compact shape.
fn patch(random: &mut Random, centre: [f32; 2], colour: Rgb, size: f32) -> Part {
    let shape = random.weighted(&[
        (Shape::Disc, 3.0),
        (Shape::Oval, 2.0),
        (Shape::Rectangle, 2.0),
        (Shape::Square, 1.0),
        (Shape::Triangle, 0.7),
        (Shape::Star, 0.5),
        (Shape::Blob, 2.0),
    ]);
    let outline = shape.outline(random, size.max(MIN_RADIUS_PX));
    let axis = if random.chance(0.5) {
        [1.0, 0.0]
    } else {
        random.direction()
    };
    part(
        random,
        shape,
        Region::Within(outline, Pose { centre, axis }),
        colour,
        size,
    )
}

/// A row or two of equal windows, where they fit.
fn windows(random: &mut Random, outline: &Outline, colour: Rgb, radius: f32) -> Vec<Part> {
    let half = outline.half_extent();
    let columns = random.int(2, 4);
    let rows = random.int(1, 3);
    let pitch = [half[0] * 1.7 / columns as f32, half[1] * 1.5 / rows as f32];
    let size = pitch[0].min(pitch[1]) * random.range(0.25, 0.36);
    let model = patch(random, [0.0; 2], colour, size);
    let Region::Within(window, upright) = &model.region else {
        unreachable!("patches lie within")
    };
    let mut parts = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            let centre = [
                (column as f32 - (columns - 1) as f32 / 2.0) * pitch[0],
                (row as f32 - (rows - 1) as f32 / 2.0) * pitch[1],
            ];
            if size >= MIN_RADIUS_PX && radius > 14.0 && outline.distance(centre) < -size {
                let pose = Pose {
                    centre,
                    axis: upright.axis,
                };
                parts.push(Part {
                    region: Region::Within(window.clone(), pose),
                    ..model.clone()
                });
            }
        }
    }
    parts
}

/// One to four equal things around the edge: ears, legs, wheels; or a stem or handle.
fn attached(random: &mut Random, outline: &Outline, colour: Rgb, radius: f32) -> Vec<Part> {
    let count = random.weighted(&[(1, 4.0), (2, 3.0), (3, 1.0), (4, 1.0)]);
    let shape = random.weighted(&[
        (Shape::Disc, 1.5),
        (Shape::Oval, 1.5),
        (Shape::Bar, 2.0),
        (Shape::Limb, 1.0),
        (Shape::Leaf, 1.5),
        (Shape::Drop, 1.0),
        (Shape::Ring, 1.0),
        (Shape::RoundedRectangle, 1.0),
    ]);
    let size = (radius * random.range(0.2, 0.45)).max(MIN_RADIUS_PX);
    let form = shape.outline(random, size);
    let behind = random.chance(0.55);
    let surface_of = random.fork();
    let first = random.range(0.0, std::f32::consts::TAU);
    let spread = random.range(0.5, std::f32::consts::TAU / count as f32);
    (0..count)
        .map(|i| {
            let angle = first + i as f32 * spread;
            let direction = [libm::cosf(angle), libm::sinf(angle)];
            let edge = edge_along(outline, direction);
            let pose = Pose {
                centre: [direction[0] * edge, direction[1] * edge],
                axis: direction,
            };
            let region = Region::Attached {
                outline: form.clone(),
                pose,
                behind,
            };
            part(&mut surface_of.clone(), shape, region, colour, size)
        })
        .collect()
}

/// How far from the centre the outline's last inside point in a direction is; 0 if there is none.
fn edge_along(outline: &Outline, [x, y]: [f32; 2]) -> f32 {
    let half = outline.half_extent();
    let reach = half[0] + half[1];
    (0..64)
        .rev()
        .map(|step| reach * step as f32 / 64.0)
        .find(|&r| outline.distance([x * r, y * r]) < 0.0)
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Window = Window {
        x0: 0,
        y0: 0,
        x1: 80,
        y1: 60,
    };
    const POSE: Pose = Pose {
        centre: [40.0, 30.0],
        axis: [1.0, 0.0],
    };

    fn areas(region: &Region) -> (usize, usize) {
        let whole = Field::of(
            &Outline::Box {
                half: [30.0, 20.0],
                round: 0.0,
            },
            &POSE,
            0.0,
            IMAGE,
        );
        let (field, _) = region.field(&whole, &POSE, IMAGE);
        let all = (0..60).flat_map(|y| (0..80).map(move |x| (x, y)));
        let inside: Vec<bool> = all
            .filter(|&(x, y)| field.at(x, y) < 0.0)
            .map(|(x, y)| whole.at(x, y) < 0.0)
            .collect();
        (
            inside.len(),
            inside.iter().filter(|inside| **inside).count(),
        )
    }

    #[test]
    fn regions_are_cut_by_their_whole() {
        let end = Region::End {
            normal: [1.0, 0.0],
            from: 20.0,
        };
        assert_eq!(areas(&end), (10 * 40, 10 * 40));
        let belt = Region::Belt {
            normal: [0.0, 1.0],
            at: 5.0,
            half_width: 4.0,
        };
        assert_eq!(areas(&belt), (60 * 8, 60 * 8));
        let corner = Pose {
            centre: [30.0, 20.0],
            axis: [1.0, 0.0],
        };
        let square = Outline::Box {
            half: [6.0; 2],
            round: 0.0,
        };
        assert_eq!(areas(&Region::Within(square.clone(), corner)), (36, 36));
        let attached = Region::Attached {
            outline: square,
            pose: corner,
            behind: true,
        };
        assert_eq!(areas(&attached), (144, 36));
        let (middle, within) = areas(&Region::Middle(0.5));
        assert_eq!(middle, within);
        assert!((800..900).contains(&middle), "{middle}");
    }

    #[test]
    fn attached_parts_begin_at_the_edge() {
        let outline = Outline::Ellipse { half: [30.0, 10.0] };
        assert!((edge_along(&outline, [1.0, 0.0]) - 30.0).abs() < 1.0);
        assert!((edge_along(&outline, [0.0, -1.0]) - 10.0).abs() < 1.0);
    }
}
