//! The shapes that scenes are made of.

use std::fmt;

use crate::outline::{Bone, Outline};
use crate::random::Random;

/// What an outline is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A circle.
    Disc,
    /// An ellipse that is clearly longer than wide.
    Oval,
    /// Four equal sides.
    Square,
    /// A rectangle.
    Rectangle,
    /// A rectangle with rounded corners.
    RoundedRectangle,
    /// Three corners.
    Triangle,
    /// Four to eight corners without an order.
    Polygon,
    /// Spikes around a centre.
    Star,
    /// A plus sign.
    Cross,
    /// A disc with a concentric hole.
    Ring,
    /// A disc with a bite.
    Crescent,
    /// Pointed at both ends.
    Leaf,
    /// Round at one end, narrow at the other.
    Drop,
    /// A smooth outline of no particular form.
    Blob,
    /// Several round lobes that melt into each other.
    Cloud,
    /// A straight elongated thing with round ends.
    Bar,
    /// A long curved limb.
    Limb,
    /// A body with limbs.
    Figure,
    /// A part that the outline of its whole bounds: an end of it, a belt, its middle.
    Section,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 19] = [
        Shape::Disc,
        Shape::Oval,
        Shape::Square,
        Shape::Rectangle,
        Shape::RoundedRectangle,
        Shape::Triangle,
        Shape::Polygon,
        Shape::Star,
        Shape::Cross,
        Shape::Ring,
        Shape::Crescent,
        Shape::Leaf,
        Shape::Drop,
        Shape::Blob,
        Shape::Cloud,
        Shape::Bar,
        Shape::Limb,
        Shape::Figure,
        Shape::Section,
    ];

    /// Every shape that wholes have: all but [`Shape::Section`].
    pub const WHOLES: [Shape; 18] = match Self::ALL.first_chunk() {
        Some(wholes) => *wholes,
        None => unreachable!(),
    };

    /// The noun of phrases.
    pub fn word(self) -> &'static str {
        match self {
            Shape::Disc => "disc",
            Shape::Oval => "oval",
            Shape::Square => "square",
            Shape::Rectangle => "rectangle",
            Shape::RoundedRectangle => "rounded rectangle",
            Shape::Triangle => "triangle",
            Shape::Polygon => "polygon",
            Shape::Star => "star",
            Shape::Cross => "cross",
            Shape::Ring => "ring",
            Shape::Crescent => "crescent",
            Shape::Leaf => "leaf",
            Shape::Drop => "drop",
            Shape::Blob => "blob",
            Shape::Cloud => "cloud",
            Shape::Bar => "bar",
            Shape::Limb => "limb",
            Shape::Figure => "figure",
            Shape::Section => "section",
        }
    }

    /// The shape that `word` is the noun of.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.word() == word)
    }

    /// How frequent it is among wholes: smooth, organic ones are the most frequent, as they are in photos.
    fn weight(self) -> f32 {
        match self {
            Shape::Blob => 4.0,
            Shape::Disc | Shape::Oval | Shape::Rectangle => 2.0,
            Shape::Limb => 1.6,
            Shape::RoundedRectangle | Shape::Polygon | Shape::Cloud | Shape::Figure => 1.5,
            Shape::Leaf | Shape::Bar => 1.2,
            Shape::Drop => 1.0,
            Shape::Triangle => 0.8,
            Shape::Square | Shape::Ring => 0.7,
            Shape::Star | Shape::Crescent => 0.6,
            Shape::Cross => 0.4,
            Shape::Section => 0.0,
        }
    }

    /// A shape for a whole, one of `shapes`.
    pub(crate) fn random(random: &mut Random, shapes: &[Shape]) -> Self {
        random.weighted_by(shapes, Shape::weight)
    }

    /// An outline of this shape, as large as a disc of `radius` pixels, roughly.
    pub(crate) fn outline(self, random: &mut Random, radius: f32) -> Outline {
        let r = radius;
        // Half sides of equal product, so that the area stays.
        let stretched = |aspect: f32| [r * aspect.sqrt(), r / aspect.sqrt()];
        match self {
            Shape::Disc => Outline::Ellipse { half: [r; 2] },
            Shape::Oval => Outline::Ellipse {
                half: stretched(random.range(1.3, 2.6)),
            },
            Shape::Square => Outline::Box {
                half: [r * 0.88; 2],
                round: r * 0.02,
            },
            Shape::Rectangle => Outline::Box {
                half: stretched(random.log_range(1.3, 4.0)).map(|side| side * 0.88),
                round: r * 0.02,
            },
            Shape::RoundedRectangle => {
                let half = stretched(random.log_range(1.0, 3.0)).map(|side| side * 0.92);
                let round = half[1] * random.range(0.25, 0.8);
                Outline::Box { half, round }
            }
            Shape::Triangle => {
                let apex = random.range(-0.9, 0.9);
                let tall = random.range(0.8, 1.5);
                let corners = vec![
                    [-r * 1.2, r * 0.7],
                    [r * 1.2, r * 0.7],
                    [apex * r, -r * tall],
                ];
                let round = r * random.range(0.02, 0.15);
                Outline::Polygon { corners, round }
            }
            Shape::Polygon => polygon(random, r),
            Shape::Star => star(random, r),
            Shape::Cross => {
                let (arm, long) = (r * random.range(0.25, 0.45), r * 1.2);
                // One quarter, turned four times.
                let quarter = [[arm, long], [arm, arm], [long, arm]];
                let turn = |p: [f32; 2], times: usize| (0..times).fold(p, |[x, y], _| [y, -x]);
                let corners = (0..4)
                    .flat_map(|times| quarter.map(|p| turn(p, times)))
                    .collect();
                let round = r * random.range(0.01, 0.1);
                Outline::Polygon { corners, round }
            }
            Shape::Ring => Outline::Ring {
                radius: r,
                half_width: r * random.range(0.12, 0.4),
            },
            Shape::Crescent => {
                let radius = r * 1.2;
                let bite = radius * random.range(0.75, 1.1);
                let shift = radius * random.range(0.45, 0.8) + (bite - radius).max(0.0);
                Outline::Crescent {
                    radius,
                    bite,
                    shift,
                }
            }
            Shape::Leaf => {
                let (half_length, half_width) = (r * 1.5, r * random.range(0.35, 0.8));
                // The circle through both tips whose middle is `half_width` above the axis.
                let radius =
                    (half_length * half_length + half_width * half_width) / (2.0 * half_width);
                Outline::Leaf {
                    radius,
                    shift: radius - half_width,
                }
            }
            Shape::Drop => {
                let (thick, thin) = (r * 0.85, r * random.range(0.05, 0.4));
                Outline::Bones {
                    bones: vec![Bone {
                        from: [-r * 0.5, 0.0],
                        to: [r * random.range(0.8, 1.6), 0.0],
                        radius: [thick, thin],
                    }],
                    blend: 0.0,
                }
            }
            Shape::Blob => {
                let stretch = stretched(random.log_range(1.0, 2.2));
                let roughness = random.range(0.3, 1.1);
                Outline::lobed(random, stretch, roughness)
            }
            Shape::Cloud => cloud(random, r),
            Shape::Bar => {
                let thick = r * random.log_range(0.08, 0.4);
                let half = r * random.range(1.4, 2.6);
                let thin = thick * random.range(0.5, 1.0);
                Outline::Bones {
                    bones: vec![Bone {
                        from: [-half, 0.0],
                        to: [half, 0.0],
                        radius: [thick, thin],
                    }],
                    blend: 0.0,
                }
            }
            Shape::Limb => limb(random, r),
            Shape::Figure => figure(random, r),
            Shape::Section => unreachable!("sections are bounded by their wholes"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn at(angle: f32, radius: f32) -> [f32; 2] {
    [libm::cosf(angle) * radius, libm::sinf(angle) * radius]
}

fn polygon(random: &mut Random, r: f32) -> Outline {
    let count = random.int(4, 8);
    let regular = random.chance(0.35);
    let jitter = if regular { 0.0 } else { 0.35 };
    let squeeze = if regular {
        1.0
    } else {
        random.range(0.55, 1.0)
    };
    let step = std::f32::consts::TAU / count as f32;
    let corners = (0..count)
        .map(|i| {
            let angle = (i as f32 + random.range(-jitter, jitter)) * step;
            let [x, y] = at(angle, r * random.range(1.1 - jitter, 1.1 + jitter));
            [x, y * squeeze]
        })
        .collect();
    let round = r * random.range(0.0, 0.12);
    Outline::Polygon { corners, round }
}

fn star(random: &mut Random, r: f32) -> Outline {
    let spikes = random.int(4, 9);
    let inner = random.range(0.35, 0.7);
    let step = std::f32::consts::PI / spikes as f32;
    let corners = (0..2 * spikes)
        .map(|i| {
            at(
                i as f32 * step,
                r * if i % 2 == 0 { 1.3 } else { 1.3 * inner },
            )
        })
        .collect();
    let round = r * random.range(0.0, 0.1);
    Outline::Polygon { corners, round }
}

fn cloud(random: &mut Random, r: f32) -> Outline {
    let spread = [r * random.range(0.4, 1.0), r * random.range(0.2, 0.6)];
    let bones = (0..random.int(3, 6))
        .map(|_| {
            let centre = [
                random.range(-spread[0], spread[0]),
                random.range(-spread[1], spread[1]),
            ];
            Bone {
                from: centre,
                to: centre,
                radius: [r * random.range(0.4, 0.75); 2],
            }
        })
        .collect();
    Outline::Bones {
        bones,
        blend: r * 0.25,
    }
}

/// A walk that turns slowly, centred, thinner towards its end.
fn limb(random: &mut Random, r: f32) -> Outline {
    let count = random.int(4, 8);
    let step = 4.2 * r / count as f32;
    let thick = r * random.log_range(0.1, 0.35);
    let taper = random.range(0.35, 1.0);
    let mut angle = 0.0_f32;
    let mut bend = random.range(-0.6, 0.6);
    let mut points = vec![[0.0, 0.0]];
    for _ in 0..count {
        bend = (bend + random.range(-0.45, 0.45)).clamp(-0.9, 0.9);
        angle += bend;
        let [x, y] = points[points.len() - 1];
        let [dx, dy] = at(angle, step);
        points.push([x + dx, y + dy]);
    }
    centre(&mut points);
    let radius_at = |i: usize| thick * (1.0 - (1.0 - taper) * i as f32 / count as f32);
    let bones = points
        .windows(2)
        .enumerate()
        .map(|(i, ends)| Bone {
            from: ends[0],
            to: ends[1],
            radius: [radius_at(i), radius_at(i + 1)],
        })
        .collect();
    Outline::Bones {
        bones,
        blend: thick * 0.5,
    }
}

/// Moves points so that the box around them is centred.
fn centre(points: &mut [[f32; 2]]) {
    for axis in 0..2 {
        let low = points.iter().fold(f32::INFINITY, |low, p| low.min(p[axis]));
        let high = points
            .iter()
            .fold(f32::NEG_INFINITY, |high, p| high.max(p[axis]));
        let middle = (low + high) / 2.0;
        points.iter_mut().for_each(|p| p[axis] -= middle);
    }
}

/// A body, a head and two to five limbs with a joint each.
fn figure(random: &mut Random, r: f32) -> Outline {
    let long = r * random.range(0.5, 0.9);
    let body = r * random.range(0.35, 0.6);
    let mut bones = vec![Bone {
        from: [-long, 0.0],
        to: [long, 0.0],
        radius: [body, body * random.range(0.7, 1.0)],
    }];
    let neck = [
        long + body * random.range(0.6, 1.1),
        random.range(-0.6, 0.6) * body,
    ];
    bones.push(Bone {
        from: neck,
        to: [neck[0] + body * random.range(0.0, 0.7), neck[1]],
        radius: [body * random.range(0.5, 0.8), body * random.range(0.3, 0.6)],
    });
    let count = random.int(2, 5);
    let thick = body * random.range(0.2, 0.45);
    for i in 0..count {
        let x = -long + 2.0 * long * (i as f32 + random.range(0.2, 0.8)) / count as f32;
        let knee = [x + random.range(-0.3, 0.3) * r, r * random.range(0.5, 0.8)];
        let foot = [
            knee[0] + random.range(-0.3, 0.3) * r,
            knee[1] + r * random.range(0.2, 0.6),
        ];
        bones.push(Bone {
            from: [x, body * 0.5],
            to: knee,
            radius: [thick * 1.3, thick],
        });
        bones.push(Bone {
            from: knee,
            to: foot,
            radius: [thick, thick * 0.7],
        });
    }
    Outline::Bones {
        bones,
        blend: body * 0.4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outline::length;

    #[test]
    fn outlines_have_about_the_area_of_their_disc() {
        for shape in Shape::ALL {
            if shape == Shape::Section {
                continue;
            }
            for seed in 0..40 {
                let outline = shape.outline(&mut Random::new(seed), 20.0);
                let pixels =
                    (-100..100).flat_map(|y| (-100..100).map(move |x| [x as f32, y as f32]));
                let area = pixels.filter(|&p| outline.distance(p) < 0.0).count() as f32;
                let ratio = area / (std::f32::consts::PI * 400.0);
                assert!((0.1..2.6).contains(&ratio), "{shape} {seed}: {ratio}");
                assert!(length(outline.half_extent()) < 100.0, "{shape} {seed}");
            }
        }
    }

    #[test]
    fn words_are_distinct() {
        let words: std::collections::HashSet<&str> =
            Shape::ALL.iter().map(|shape| shape.word()).collect();
        assert_eq!(words.len(), Shape::ALL.len());
    }
}
