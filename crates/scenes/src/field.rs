//! An outline at its place in the image, sampled at pixel centres.

use crate::noise::Noise;
use crate::outline::Outline;
use crate::window::Window;

/// Where a thing's own frame lies in the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pose {
    /// The frame's origin in the image, `[x, y]` in pixels; pixel centres are at halves.
    pub(crate) centre: [f32; 2],
    /// The frame's x axis in the image, of length 1.
    pub(crate) axis: [f32; 2],
}

impl Pose {
    /// The centre of pixel `(x, y)`, in this frame.
    pub(crate) fn local(&self, x: i32, y: i32) -> [f32; 2] {
        let dx = x as f32 + 0.5 - self.centre[0];
        let dy = y as f32 + 0.5 - self.centre[1];
        [
            dx * self.axis[0] + dy * self.axis[1],
            dy * self.axis[0] - dx * self.axis[1],
        ]
    }

    /// A vector of this frame, in the image's.
    pub(crate) fn turned(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [
            x * self.axis[0] - y * self.axis[1],
            x * self.axis[1] + y * self.axis[0],
        ]
    }

    /// A frame within this one, in the image.
    pub(crate) fn within(&self, inner: &Pose) -> Pose {
        let [x, y] = self.turned(inner.centre);
        Pose {
            centre: [self.centre[0] + x, self.centre[1] + y],
            axis: self.turned(inner.axis),
        }
    }

    /// Half sides, in the image, of the box around what reaches `half` in this frame.
    pub(crate) fn turned_extent(&self, half: [f32; 2]) -> [f32; 2] {
        let [c, s] = self.axis.map(f32::abs);
        [c * half[0] + s * half[1], s * half[0] + c * half[1]]
    }
}

/// Signed distances to an edge in pixels, negative inside, of the pixel centres of a window.
///
/// A pixel is inside when its centre is.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) window: Window,
    /// Row-major.
    pub(crate) distance: Vec<f32>,
}

/// Side of the blocks of which those far outside are skipped, in pixels.
const BLOCK: usize = 8;
/// No outline's distance grows faster, per pixel.
const STEEPEST: f32 = 2.0;

impl Field {
    /// The field of `outline` at `pose`, within `limit`; `fringe` pixels outside the outline are still in it. Further out,
    /// distances are only known to be above `fringe`.
    pub(crate) fn of(outline: &Outline, pose: &Pose, fringe: f32, limit: Window) -> Self {
        let half = pose
            .turned_extent(outline.half_extent())
            .map(|side| side + fringe);
        let window = Window::around(pose.centre, half).intersect(limit);
        let mut field = Self {
            window,
            distance: vec![f32::INFINITY; window.width() * window.height()],
        };
        // From the middle of a block to its corners it is less than a diagonal of half its side.
        let reach = STEEPEST * BLOCK as f32 * std::f32::consts::FRAC_1_SQRT_2;
        for y0 in (window.y0..window.y1).step_by(BLOCK) {
            for x0 in (window.x0..window.x1).step_by(BLOCK) {
                let middle = BLOCK as i32 / 2;
                if outline.distance(pose.local(x0 + middle, y0 + middle)) > fringe + reach {
                    continue;
                }
                for y in y0..(y0 + BLOCK as i32).min(window.y1) {
                    for x in x0..(x0 + BLOCK as i32).min(window.x1) {
                        field.distance[window.index(x, y)] = outline.distance(pose.local(x, y));
                    }
                }
            }
        }
        field
    }

    pub(crate) fn from_fn(window: Window, f: impl Fn(i32, i32) -> f32) -> Self {
        let mut distance = Vec::with_capacity(window.width() * window.height());
        for y in window.y0..window.y1 {
            distance.extend((window.x0..window.x1).map(|x| f(x, y)));
        }
        Self { window, distance }
    }

    /// Moves the edge in and out by up to `amplitude` pixels: a rough outline.
    pub(crate) fn roughen(&mut self, noise: &Noise, amplitude: f32) {
        for (distance, value) in self.distance.iter_mut().zip(noise.sample(self.window)) {
            *distance += amplitude * value;
        }
    }

    /// What lies in both.
    pub(crate) fn clip(&mut self, other: &Field) {
        let window = self.window;
        let mut distances = self.distance.iter_mut();
        for y in window.y0..window.y1 {
            for x in window.x0..window.x1 {
                if let Some(distance) = distances.next() {
                    *distance = distance.max(other.at(x, y));
                }
            }
        }
    }

    /// The distance at a pixel; far outside where the field was not sampled.
    pub(crate) fn at(&self, x: i32, y: i32) -> f32 {
        let Window { x0, y0, x1, y1 } = self.window;
        if x < x0 || x >= x1 || y < y0 || y >= y1 {
            return f32::INFINITY;
        }
        self.distance[self.window.index(x, y)]
    }

    /// How far inside the innermost pixel is; 0 if none is.
    pub(crate) fn depth(&self) -> f32 {
        self.distance
            .iter()
            .fold(0.0, |depth, &distance| depth.max(-distance))
    }

    /// The direction away from the inside at a pixel of the window: of length 1, or 0 where there is none.
    pub(crate) fn outwards(&self, x: i32, y: i32) -> [f32; 2] {
        let Window { x0, y0, x1, y1 } = self.window;
        let here = self.window.index(x, y);
        let row = self.window.width();
        let left = self.distance[if x > x0 { here - 1 } else { here }];
        let right = self.distance[if x + 1 < x1 { here + 1 } else { here }];
        let above = self.distance[if y > y0 { here - row } else { here }];
        let below = self.distance[if y + 1 < y1 { here + row } else { here }];
        let (dx, dy) = (right - left, below - above);
        if !(dx.is_finite() && dy.is_finite()) {
            return [0.0; 2];
        }
        let length = (dx * dx + dy * dy).sqrt();
        if length < 1e-6 {
            return [0.0; 2];
        }
        [dx / length, dy / length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::shape::Shape;

    const LIMIT: Window = Window {
        x0: 0,
        y0: 0,
        x1: 60,
        y1: 40,
    };

    #[test]
    fn a_quarter_turn_exchanges_the_sides() {
        let outline = Outline::Box {
            half: [12.0, 4.0],
            round: 0.0,
        };
        let pose = Pose {
            centre: [30.0, 20.0],
            axis: [0.0, 1.0],
        };
        let field = Field::of(&outline, &pose, 0.0, LIMIT);
        let inside = field
            .distance
            .iter()
            .filter(|&&distance| distance < 0.0)
            .count();
        assert_eq!(inside, 24 * 8);
        assert!(field.at(30, 31) < 0.0 && field.at(41, 20) > 0.0);
        assert!((field.depth() - 3.5).abs() < 0.01);
    }

    #[test]
    fn skipped_blocks_hold_nothing_of_the_outline() {
        let mut random = Random::new(11);
        for shape in Shape::ALL {
            if shape == Shape::Section {
                continue;
            }
            for _ in 0..20 {
                let outline = shape.outline(&mut random, 14.0);
                let pose = Pose {
                    centre: [random.range(0.0, 60.0), random.range(0.0, 40.0)],
                    axis: random.direction(),
                };
                let field = Field::of(&outline, &pose, 3.0, LIMIT);
                for y in LIMIT.y0..LIMIT.y1 {
                    for x in LIMIT.x0..LIMIT.x1 {
                        let exact = outline.distance(pose.local(x, y));
                        let same = field.at(x, y) == exact;
                        let far = field.at(x, y) == f32::INFINITY && exact > 3.0;
                        assert!(same || far, "{shape}: {exact} at {x}, {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn outwards_is_away_from_the_centre() {
        let outline = Outline::Ellipse { half: [10.0; 2] };
        let pose = Pose {
            centre: [30.0, 20.0],
            axis: [1.0, 0.0],
        };
        let field = Field::of(&outline, &pose, 0.0, LIMIT);
        let [x, y] = field.outwards(36, 27);
        assert!(x > 0.5 && y > 0.5, "{x} {y}");
    }

    #[test]
    fn frames_compose() {
        let outer = Pose {
            centre: [10.0, 5.0],
            axis: [0.6, 0.8],
        };
        let inner = Pose {
            centre: [2.0, -1.0],
            axis: [0.0, 1.0],
        };
        let both = outer.within(&inner);
        let [u, v] = outer.local(17, 3);
        let (du, dv) = (u - 2.0, v + 1.0);
        let [x, y] = both.local(17, 3);
        assert!((x - dv).abs() < 1e-4 && (y + du).abs() < 1e-4, "{x} {y}");
    }
}
