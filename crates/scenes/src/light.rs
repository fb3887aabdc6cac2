//! Light and relief.

use crate::field::Field;
use crate::outline::dot;
use crate::random::Random;

/// The one light of a scene.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Light {
    /// Towards the light: `[x, y]` in the image, and towards the viewer; of length 1.
    towards: [f32; 3],
    /// Share of light that comes from everywhere.
    ambient: f32,
    /// How dark cast shadows are; 0: none.
    pub(crate) shadow: f32,
    /// Length of shadows, as a share of a thing's depth.
    reach: f32,
    /// Softness of shadows, as a share of their length.
    softness: f32,
}

/// How a thing's surface curves towards its edge.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relief {
    Flat,
    /// A slanted plane: brighter at one end by `rise` per pixel, at most 30 %.
    Slope {
        rise_per_px: f32,
    },
    /// Curved within a share `width` of the depth from the edge; 1 is a dome. `gloss` is the strength of its highlight.
    Curved {
        width: f32,
        gloss: f32,
    },
}

impl Light {
    pub(crate) fn random(random: &mut Random) -> Self {
        // Mostly from above.
        let [x, y] = random.direction();
        let y = if random.chance(0.75) { -y.abs() } else { y };
        let height = random.range(0.35, 0.9);
        let flat = (1.0 - height * height).sqrt();
        Self {
            towards: [x * flat, y * flat, height],
            ambient: random.range(0.35, 0.75),
            shadow: if random.chance(0.7) {
                random.range(0.15, 0.6)
            } else {
                0.0
            },
            reach: random.range(0.1, 0.7),
            softness: random.range(0.3, 1.2),
        }
    }

    /// Where the shadow of a thing of `depth` pixels falls: its shift in whole pixels, and its softness in pixels.
    pub(crate) fn shadow_of(&self, depth: f32) -> ([i32; 2], f32) {
        let length = (self.reach * depth).min(60.0);
        let shift = [self.towards[0], self.towards[1]].map(|part| (-part * length).round() as i32);
        (shift, (self.softness * length).max(1.0))
    }

    /// Brightness of the pixel as a factor, and the highlight to add.
    ///
    /// `depth` is the field's. A surface that faces the viewer has brightness 1.
    pub(crate) fn on(
        &self,
        relief: Relief,
        field: &Field,
        depth: f32,
        x: i32,
        y: i32,
    ) -> (f32, f32) {
        match relief {
            Relief::Flat => (1.0, 0.0),
            Relief::Slope { rise_per_px } => {
                let middle = [
                    (field.window.x0 + field.window.x1) as f32 / 2.0,
                    (field.window.y0 + field.window.y1) as f32 / 2.0,
                ];
                let along = dot(
                    [x as f32 - middle[0], y as f32 - middle[1]],
                    [self.towards[0], self.towards[1]],
                );
                (1.0 + (along * rise_per_px).clamp(-0.3, 0.3), 0.0)
            }
            Relief::Curved { width, gloss } => {
                let inwards = (-field.at(x, y) / (depth * width).max(1.0)).clamp(0.0, 1.0);
                // The profile is a quarter of a circle: the normal leans outwards by what is left to the top.
                let lean = 1.0 - inwards;
                let [ox, oy] = field.outwards(x, y).map(|part| part * lean);
                let up = (1.0 - lean * lean).sqrt();
                let facing = ox * self.towards[0] + oy * self.towards[1] + up * self.towards[2];
                let direct = (facing.max(0.0) / self.towards[2]).min(1.8);
                let brightness = self.ambient + (1.0 - self.ambient) * direct;
                (brightness, gloss * self.highlight([ox, oy, up]))
            }
        }
    }

    /// Blinn's highlight of exponent 32 (Blinn, "Models of light reflection", 1977).
    fn highlight(&self, normal: [f32; 3]) -> f32 {
        let half = [self.towards[0], self.towards[1], self.towards[2] + 1.0];
        let length = (half[0] * half[0] + half[1] * half[1] + half[2] * half[2]).sqrt();
        let cos = (normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2]) / length;
        let mut power = cos.max(0.0);
        for _ in 0..5 {
            power *= power;
        }
        power
    }
}

impl Relief {
    pub(crate) fn random(random: &mut Random, radius: f32) -> Self {
        #[derive(Clone, Copy)]
        enum Kind {
            Flat,
            Slope,
            Dome,
            Edge,
        }
        match random.weighted(&[
            (Kind::Flat, 2.0),
            (Kind::Slope, 2.0),
            (Kind::Dome, 4.0),
            (Kind::Edge, 2.0),
        ]) {
            Kind::Flat => Relief::Flat,
            Kind::Slope => Relief::Slope {
                rise_per_px: random.range(0.05, 0.4) / radius,
            },
            Kind::Dome => Relief::Curved {
                width: random.range(0.6, 1.0),
                gloss: if random.chance(0.4) {
                    random.range(0.1, 0.7)
                } else {
                    0.0
                },
            },
            Kind::Edge => Relief::Curved {
                width: random.range(0.08, 0.35),
                gloss: if random.chance(0.2) {
                    random.range(0.1, 0.4)
                } else {
                    0.0
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Pose;
    use crate::outline::Outline;
    use crate::window::Window;

    #[test]
    fn a_dome_is_bright_towards_the_light_and_its_shadow_falls_away_from_it() {
        let light = Light {
            towards: [-0.6, 0.0, 0.8],
            ambient: 0.4,
            shadow: 0.5,
            reach: 0.5,
            softness: 0.5,
        };
        let pose = Pose {
            centre: [20.0, 15.0],
            axis: [1.0, 0.0],
        };
        let limit = Window {
            x0: 0,
            y0: 0,
            x1: 40,
            y1: 30,
        };
        let field = Field::of(&Outline::Ellipse { half: [12.0; 2] }, &pose, 0.0, limit);
        let depth = field.depth();
        let dome = Relief::Curved {
            width: 1.0,
            gloss: 0.5,
        };
        let bright = |x| light.on(dome, &field, depth, x, 15).0;
        assert!(
            bright(12) > 1.1 && bright(28) < 0.7,
            "{} {}",
            bright(12),
            bright(28)
        );
        assert!((bright(20) - 1.0).abs() < 0.1, "{}", bright(20));
        assert_eq!(light.on(Relief::Flat, &field, depth, 12, 15), (1.0, 0.0));
        assert_eq!(light.shadow_of(20.0).0, [6, 0]);
    }
}
