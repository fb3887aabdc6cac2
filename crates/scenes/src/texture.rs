//! What surfaces look like before light falls on them.

use std::fmt;

use crate::colour::{Rgb, difference, luma, mix, random_colour, scaled, vary};
use crate::noise::Noise;
use crate::outline::dot;
use crate::random::Random;

/// What a surface's pattern is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Texture {
    /// One colour, with the material's grain.
    Plain,
    /// Parallel bands of two colours.
    Striped,
    /// Dots on another colour.
    Dotted,
    /// Squares of two colours.
    Checked,
    /// Irregular patches.
    Mottled,
    /// Drawn-out streaks, like wood.
    Grained,
    /// From one colour to another.
    Fading,
}

impl Texture {
    /// Every texture.
    pub const ALL: [Texture; 7] = [
        Texture::Plain,
        Texture::Striped,
        Texture::Dotted,
        Texture::Checked,
        Texture::Mottled,
        Texture::Grained,
        Texture::Fading,
    ];

    /// The texture that `word` names: its adjective, or `plain`.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|texture| texture.name() == word)
    }

    /// What it is called: its adjective, or `plain`.
    pub fn name(self) -> &'static str {
        self.word().unwrap_or("plain")
    }

    /// How frequent it is: most things are plain.
    fn weight(self) -> f32 {
        match self {
            Texture::Plain => 8.0,
            Texture::Striped => 1.6,
            Texture::Dotted => 1.2,
            Texture::Checked => 0.8,
            Texture::Mottled => 2.0,
            Texture::Grained => 1.0,
            Texture::Fading => 1.4,
        }
    }

    /// The adjective of phrases; a plain surface has none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Texture::Plain => None,
            Texture::Striped => Some("striped"),
            Texture::Dotted => Some("dotted"),
            Texture::Checked => Some("checked"),
            Texture::Mottled => Some("mottled"),
            Texture::Grained => Some("grained"),
            Texture::Fading => Some("fading"),
        }
    }
}

impl fmt::Display for Texture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Two colours in a pattern, over fractal noise that serves as the material's grain and as what bends the pattern.
#[derive(Clone, Debug)]
pub(crate) struct Surface {
    pub(crate) texture: Texture,
    pub(crate) base: Rgb,
    second: Rgb,
    /// The pattern's x axis in the thing's frame, of length 1.
    axis: [f32; 2],
    /// Length after which the pattern repeats; for [`Texture::Fading`], over which it changes.
    period_px: f32,
    /// Share of the second colour, in `[0, 1]`.
    share: f32,
    /// How far the noise moves the pattern.
    warp_px: f32,
    /// How much the noise brightens and darkens.
    grain: f32,
    pub(crate) noise: Noise,
}

/// Patterns on smaller things could not be told from noise.
const MIN_PATTERNED_RADIUS_PX: f32 = 9.0;

impl Surface {
    /// A surface of colour `base` for a thing of about `radius` pixels, in one of `textures`; plain on what is too small for a
    /// pattern.
    pub(crate) fn random(
        random: &mut Random,
        textures: &[Texture],
        base: Rgb,
        radius: f32,
    ) -> Self {
        let texture = if radius < MIN_PATTERNED_RADIUS_PX {
            Texture::Plain
        } else {
            random.weighted_by(textures, Texture::weight)
        };
        Self::of(random, texture, base, radius)
    }

    pub(crate) fn of(random: &mut Random, texture: Texture, base: Rgb, radius: f32) -> Self {
        let second = second_colour(random, base);
        let coarse = (radius * random.log_range(0.15, 1.0)).max(3.0);
        let cell_px = match texture {
            Texture::Grained => {
                let (long, thin) = (coarse * 4.0, (coarse * 0.35).max(2.0));
                if random.chance(0.5) {
                    [long, thin]
                } else {
                    [thin, long]
                }
            }
            Texture::Mottled => [(coarse * 0.6).max(2.5); 2],
            _ => [coarse; 2],
        };
        let period_px = match texture {
            Texture::Fading => radius * random.range(1.2, 2.4),
            _ => (radius * random.log_range(0.12, 0.6)).max(5.0),
        };
        let bent = random.chance(0.4);
        Self {
            texture,
            base,
            second,
            axis: random.direction(),
            period_px,
            share: random.range(0.3, 0.6),
            warp_px: if bent {
                period_px * random.range(0.1, 0.8)
            } else {
                0.0
            },
            grain: random.log_range(0.02, 0.3),
            noise: Noise {
                seed: random.noise_seed(),
                cell_px,
                octaves: random.int(2, 5),
                gain: random.range(0.4, 0.75),
            },
        }
    }

    /// The colour at `p`, pixels in the thing's frame, where the noise is `noise`.
    pub(crate) fn colour(&self, p: [f32; 2], noise: f32) -> Rgb {
        let u = dot(p, self.axis) + self.warp_px * noise;
        let share = match self.texture {
            Texture::Plain => 0.0,
            Texture::Striped => self.stripe(u),
            Texture::Dotted => self.dot(u, self.across(p)),
            Texture::Checked => self.check(u, self.across(p)),
            Texture::Mottled => ((noise - 0.5 + self.share) * 6.0 + 0.5).clamp(0.0, 1.0),
            Texture::Grained => {
                // Contour lines of the noise: the rings of a plank.
                let ring = noise * 4.0;
                ((ring - ring.floor() - 0.5).abs() * 2.5 - 0.4).clamp(0.0, 1.0)
            }
            Texture::Fading => (u / self.period_px + 0.5).clamp(0.0, 1.0),
        };
        scaled(mix(self.base, self.second, share), 1.0 + self.grain * noise)
    }

    fn across(&self, p: [f32; 2]) -> f32 {
        p[1] * self.axis[0] - p[0] * self.axis[1]
    }

    /// The second colour within `share` of each period, with edges one pixel wide.
    fn stripe(&self, u: f32) -> f32 {
        let at = u / self.period_px;
        let from_middle = (at - at.floor() - 0.5).abs();
        ((self.share * 0.5 - from_middle) * self.period_px + 0.5).clamp(0.0, 1.0)
    }

    fn dot(&self, u: f32, v: f32) -> f32 {
        let row = (v / self.period_px).floor();
        // Every other row is moved by half a period.
        let shift = (row * 0.5 - (row * 0.5).floor()) * self.period_px;
        let column = ((u + shift) / self.period_px).floor();
        let dx = u + shift - (column + 0.5) * self.period_px;
        let dy = v - (row + 0.5) * self.period_px;
        let radius = self.period_px * (0.18 + 0.35 * self.share);
        (radius - (dx * dx + dy * dy).sqrt() + 0.5).clamp(0.0, 1.0)
    }

    fn check(&self, u: f32, v: f32) -> f32 {
        // Each factor is 1 or -1, and passes 0 at the edges of squares within a pixel.
        let side = |at: f32| {
            let half = at / (2.0 * self.period_px);
            let from_middle = (half - half.floor() - 0.5).abs();
            ((0.25 - from_middle) * 4.0 * self.period_px).clamp(-1.0, 1.0)
        };
        0.5 + 0.5 * side(u) * side(v)
    }
}

/// The pattern's other colour: mostly a shade of the first, so that both are one material.
fn second_colour(random: &mut Random, base: Rgb) -> Rgb {
    let second = if random.chance(0.6) {
        let shade = if luma(base) > 0.45 {
            random.range(0.35, 0.7)
        } else {
            random.range(1.5, 2.2)
        };
        vary(random, scaled(base, shade).map(|v| v.min(1.0)), 0.04)
    } else {
        random_colour(random)
    };
    if difference(base, second) > 0.18 {
        return second;
    }
    // A pattern that nobody sees would not deserve its name.
    if luma(base) > 0.45 {
        scaled(base, 0.5)
    } else {
        mix(base, [1.0; 3], 0.45)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of pixels in the second colour, and how often it changes along the pattern's axis, in 200 pixels.
    fn measure(texture: Texture) -> (f32, usize) {
        let mut surface = Surface::of(&mut Random::new(3), texture, [0.0; 3], 40.0);
        surface.second = [1.0; 3];
        surface.grain = 0.0;
        surface.warp_px = 0.0;
        surface.axis = [1.0, 0.0];
        surface.period_px = 20.0;
        surface.share = 0.4;
        let value = |x: i32, y: i32| surface.colour([x as f32 + 0.5, y as f32 + 0.5], 0.0)[0];
        let all = (0..200).flat_map(|y| (0..200).map(move |x| (x, y)));
        let share = all.map(|(x, y)| value(x, y)).sum::<f32>() / 40_000.0;
        let line: Vec<bool> = (0..200).map(|x| value(x, 10) > 0.5).collect();
        (
            share,
            line.windows(2).filter(|pair| pair[0] != pair[1]).count(),
        )
    }

    #[test]
    fn patterns_repeat_and_keep_their_share() {
        assert_eq!(measure(Texture::Plain), (0.0, 0));
        let (share, changes) = measure(Texture::Striped);
        assert!(
            (share - 0.4).abs() < 0.02 && changes == 20,
            "{share} {changes}"
        );
        let (share, changes) = measure(Texture::Checked);
        assert!(
            (share - 0.5).abs() < 0.02 && (9..=10).contains(&changes),
            "{share} {changes}"
        );
        let (share, changes) = measure(Texture::Dotted);
        let dots = std::f32::consts::PI * (0.18_f32 + 0.35 * 0.4).powi(2);
        assert!(
            (share - dots).abs() < 0.02 && changes == 20,
            "{share} {dots} {changes}"
        );
    }

    #[test]
    fn both_colours_of_a_pattern_can_be_told_apart() {
        let mut random = Random::new(7);
        for _ in 0..500 {
            let base = random_colour(&mut random);
            let second = second_colour(&mut random, base);
            assert!(difference(base, second) > 0.1, "{base:?} {second:?}");
        }
    }
}
