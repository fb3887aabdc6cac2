//! Outlines as signed distances.

use crate::random::Random;

/// Harmonics of a [`Outline::Lobed`] outline: 2 to 7. The first would only move the centre.
const HARMONICS: usize = 6;

/// The edge of a thing in its own frame: pixels from its centre, x along its axis.
#[derive(Clone, Debug)]
pub(crate) enum Outline {
    Ellipse {
        half: [f32; 2],
    },
    /// A rectangle whose corners are rounded with radius `round`.
    Box {
        half: [f32; 2],
        round: f32,
    },
    /// Corners in order, either way round; grown by `round`, which rounds them.
    Polygon {
        corners: Vec<[f32; 2]>,
        round: f32,
    },
    Ring {
        radius: f32,
        half_width: f32,
    },
    /// A disc without another of radius `bite` whose centre is `shift` to the right.
    Crescent {
        radius: f32,
        bite: f32,
        shift: f32,
    },
    /// Where two discs of radius `radius` whose centres are `2 * shift` apart overlap: pointed at both ends.
    Leaf {
        radius: f32,
        shift: f32,
    },
    /// A disc of radius 1 whose radius varies with the angle, stretched: any smooth blob around its centre.
    Lobed {
        stretch: [f32; 2],
        /// Amplitudes of cosine and sine, per harmonic.
        waves: [[f32; 2]; HARMONICS],
    },
    /// Segments of varying radius that melt into each other within `blend` pixels.
    Bones {
        bones: Vec<Bone>,
        blend: f32,
    },
}

/// A segment with a radius at each end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bone {
    pub(crate) from: [f32; 2],
    pub(crate) to: [f32; 2],
    pub(crate) radius: [f32; 2],
}

impl Outline {
    /// A blob: 0 is a disc, 1 a splash. `stretch` are its half sides in pixels.
    pub(crate) fn lobed(random: &mut Random, stretch: [f32; 2], roughness: f32) -> Self {
        let mut waves = [[0.0; 2]; HARMONICS];
        for (index, wave) in waves.iter_mut().enumerate() {
            // Amplitudes that fall with the square of the harmonic make an outline without corners.
            let harmonic = index as f32 + 2.0;
            let amplitude = roughness / (harmonic * harmonic) * 1.6 * random.range(0.3, 1.0);
            wave.copy_from_slice(&random.direction().map(|part| part * amplitude));
        }
        Outline::Lobed { stretch, waves }
    }

    /// Signed distance of `p` to the edge in pixels, negative inside.
    ///
    /// The sign is exact. The distance is, to first order, near smooth edges, which is what anti-aliasing needs; further away
    /// it is an estimate that grows with the distance.
    ///
    /// Boxes, polygons and smooth unions follow Quilez, "2D distance functions". Ellipses and blobs are `f / |grad f|`.
    pub(crate) fn distance(&self, p: [f32; 2]) -> f32 {
        match self {
            Outline::Ellipse { half } => ellipse(p, *half),
            Outline::Box { half, round } => {
                let x = p[0].abs() - half[0] + round;
                let y = p[1].abs() - half[1] + round;
                length([x.max(0.0), y.max(0.0)]) + x.max(y).min(0.0) - round
            }
            Outline::Polygon { corners, round } => polygon(p, corners) - round,
            Outline::Ring { radius, half_width } => (length(p) - radius).abs() - half_width,
            Outline::Crescent {
                radius,
                bite,
                shift,
            } => {
                let outer = length(p) - radius;
                outer.max(bite - length([p[0] - shift, p[1]]))
            }
            Outline::Leaf { radius, shift } => length([p[0], p[1].abs() + shift]) - radius,
            Outline::Lobed { stretch, waves } => lobed(p, *stretch, waves),
            Outline::Bones { bones, blend } => bones
                .iter()
                .map(|bone| bone.distance(p))
                .reduce(|a, b| smooth_min(a, b, *blend))
                .unwrap_or(f32::INFINITY),
        }
    }

    /// Half sides, in pixels, of a box around the centre that holds the whole outline.
    pub(crate) fn half_extent(&self) -> [f32; 2] {
        match self {
            Outline::Ellipse { half } | Outline::Box { half, .. } => *half,
            Outline::Polygon { corners, round } => {
                let side = |axis: usize| {
                    corners
                        .iter()
                        .fold(0.0_f32, |side, corner| side.max(corner[axis].abs()))
                };
                [side(0) + round, side(1) + round]
            }
            Outline::Ring { radius, half_width } => [radius + half_width; 2],
            Outline::Crescent { radius, .. } => [*radius; 2],
            Outline::Leaf { radius, shift } => [
                (radius * radius - shift * shift).max(0.0).sqrt(),
                radius - shift,
            ],
            Outline::Lobed { stretch, waves } => {
                let longest = 1.0 + waves.iter().map(|&wave| length(wave)).sum::<f32>();
                stretch.map(|side| side * longest)
            }
            Outline::Bones { bones, blend } => {
                let side = |axis: usize| {
                    bones.iter().fold(0.0_f32, |side, bone| {
                        let from = bone.from[axis].abs() + bone.radius[0];
                        side.max(from).max(bone.to[axis].abs() + bone.radius[1])
                    })
                };
                // A smooth union of several bones may bulge by a part of the blend.
                [side(0) + blend * 0.5, side(1) + blend * 0.5]
            }
        }
    }
}

impl Bone {
    fn distance(&self, p: [f32; 2]) -> f32 {
        let along = sub(self.to, self.from);
        let to_p = sub(p, self.from);
        let t = (dot(to_p, along) / dot(along, along).max(1e-6)).clamp(0.0, 1.0);
        let nearest = [to_p[0] - t * along[0], to_p[1] - t * along[1]];
        length(nearest) - (self.radius[0] + (self.radius[1] - self.radius[0]) * t)
    }
}

fn ellipse(p: [f32; 2], half: [f32; 2]) -> f32 {
    let q = [p[0] / half[0], p[1] / half[1]];
    let k = length(q);
    let slope = length([q[0] / half[0], q[1] / half[1]]);
    if slope < 1e-6 {
        // The centre, where every direction is as far.
        return -half[0].min(half[1]);
    }
    k * (k - 1.0) / slope
}

fn lobed(p: [f32; 2], stretch: [f32; 2], waves: &[[f32; 2]; HARMONICS]) -> f32 {
    let q = [p[0] / stretch[0], p[1] / stretch[1]];
    let rho = length(q);
    if rho < 1e-4 {
        return -stretch[0].min(stretch[1]);
    }
    // cos and sin of multiples of the angle are powers of the unit vector, as a complex number.
    let unit = [q[0] / rho, q[1] / rho];
    let mut power = unit;
    let (mut radius, mut slope) = (1.0, 0.0);
    for (index, &[a, b]) in waves.iter().enumerate() {
        power = [
            power[0] * unit[0] - power[1] * unit[1],
            power[0] * unit[1] + power[1] * unit[0],
        ];
        let [cos, sin] = power;
        radius += a * cos + b * sin;
        slope += (index as f32 + 2.0) * (b * cos - a * sin);
    }
    // Near the centre the slope over the radius has no bound; the sign is clear there.
    let turn = slope / rho.max(0.5);
    let gradient = [
        (unit[0] + unit[1] * turn) / stretch[0],
        (unit[1] - unit[0] * turn) / stretch[1],
    ];
    (rho - radius) / length(gradient)
}

fn polygon(p: [f32; 2], corners: &[[f32; 2]]) -> f32 {
    let mut squared = f32::INFINITY;
    let mut inside = false;
    let mut b = corners[corners.len() - 1];
    for &a in corners {
        let edge = sub(b, a);
        let to_p = sub(p, a);
        let t = (dot(to_p, edge) / dot(edge, edge).max(1e-6)).clamp(0.0, 1.0);
        let apart = [to_p[0] - edge[0] * t, to_p[1] - edge[1] * t];
        squared = squared.min(dot(apart, apart));
        // Edges that a ray to the right crosses.
        if (a[1] <= p[1]) != (b[1] <= p[1]) {
            let crossing = a[0] + edge[0] * (p[1] - a[1]) / edge[1];
            inside ^= crossing > p[0];
        }
        b = a;
    }
    if inside {
        -squared.sqrt()
    } else {
        squared.sqrt()
    }
}

fn smooth_min(a: f32, b: f32, blend: f32) -> f32 {
    let h = (blend - (a - b).abs()).max(0.0);
    a.min(b) - h * h / (4.0 * blend.max(1e-6))
}

pub(crate) fn length(v: [f32; 2]) -> f32 {
    dot(v, v).sqrt()
}

pub(crate) fn dot(a: [f32; 2], b: [f32; 2]) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

fn sub(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlines() -> Vec<Outline> {
        let mut random = Random::new(8);
        vec![
            Outline::Ellipse { half: [30.0, 12.0] },
            Outline::Box {
                half: [20.0, 9.0],
                round: 4.0,
            },
            Outline::Polygon {
                corners: vec![[-20.0, -10.0], [25.0, -8.0], [4.0, 3.0], [0.0, 24.0]],
                round: 2.0,
            },
            Outline::Ring {
                radius: 20.0,
                half_width: 5.0,
            },
            Outline::Crescent {
                radius: 20.0,
                bite: 17.0,
                shift: 9.0,
            },
            Outline::Leaf {
                radius: 40.0,
                shift: 25.0,
            },
            Outline::lobed(&mut random, [30.0, 18.0], 0.7),
            Outline::Bones {
                bones: vec![
                    Bone {
                        from: [-20.0, 0.0],
                        to: [5.0, 6.0],
                        radius: [3.0, 6.0],
                    },
                    Bone {
                        from: [5.0, 6.0],
                        to: [22.0, -9.0],
                        radius: [6.0, 2.0],
                    },
                ],
                blend: 4.0,
            },
        ]
    }

    #[test]
    fn nothing_of_an_outline_lies_outside_its_extent() {
        for outline in outlines() {
            let half = outline.half_extent();
            for y in -60..=60 {
                for x in -60..=60 {
                    let p = [x as f32, y as f32];
                    let outside = p[0].abs() > half[0] + 0.01 || p[1].abs() > half[1] + 0.01;
                    assert!(
                        !outside || outline.distance(p) > 0.0,
                        "{outline:?} at {p:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn distances_near_the_edge_are_pixels() {
        // One pixel further is about one pixel more, but for corners and creases: most edge pixels.
        for outline in outlines() {
            let (mut edge, mut good) = (0, 0);
            for y in -240..=240 {
                for x in -240..=240 {
                    let p = [x as f32 / 4.0, y as f32 / 4.0];
                    let d = outline.distance(p);
                    if d.abs() > 1.0 {
                        continue;
                    }
                    let slope = [
                        outline.distance([p[0] + 0.125, p[1]])
                            - outline.distance([p[0] - 0.125, p[1]]),
                        outline.distance([p[0], p[1] + 0.125])
                            - outline.distance([p[0], p[1] - 0.125]),
                    ];
                    edge += 1;
                    good += usize::from((length(slope) / 0.25 - 1.0).abs() < 0.2);
                }
            }
            assert!(
                edge > 100 && good * 10 > edge * 9,
                "{outline:?}: {good} of {edge}"
            );
        }
    }

    #[test]
    fn insides_and_outsides_are_told_apart() {
        let inside = |outline: &Outline, p| outline.distance(p) < 0.0;
        let all = outlines();
        let [ellipse, rounded, polygon, ring, crescent, leaf, ..] = &all[..] else {
            panic!("eight outlines");
        };
        assert!(inside(ellipse, [29.5, 0.0]) && !inside(ellipse, [25.0, 8.0]));
        assert!(inside(rounded, [19.5, 0.0]) && !inside(rounded, [19.5, 8.5]));
        assert!(inside(polygon, [-5.0, 0.0]) && !inside(polygon, [15.0, 15.0]));
        assert!(inside(ring, [0.0, 20.0]) && !inside(ring, [0.0, 0.0]));
        assert!(inside(crescent, [-15.0, 0.0]) && !inside(crescent, [5.0, 0.0]));
        assert!(inside(leaf, [30.0, 0.0]) && !inside(leaf, [0.0, 16.0]));
    }
}
