//! Colours and their names.

use std::fmt;

use crate::random::Random;

/// Red, green and blue in `[0, 1]`, as displayed (sRGB): blending is done in this space.
pub(crate) type Rgb = [f32; 3];

/// What a colour is called: the basic colour terms of Berlin and Kay (1969), and beige.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Colour {
    Black,
    Gray,
    White,
    Red,
    Orange,
    Brown,
    Beige,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Colour; 12] = [
        Colour::Black,
        Colour::Gray,
        Colour::White,
        Colour::Red,
        Colour::Orange,
        Colour::Brown,
        Colour::Beige,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];

    /// The name of `rgb`, values 0 to 255.
    ///
    /// Decided by hue (degrees), saturation and value of the HSV hexcone: brown is dark orange, beige pale orange, pink pale red.
    pub fn of(rgb: [u8; 3]) -> Self {
        let [hue, saturation, value] = hsv(rgb.map(|channel| f32::from(channel) / 255.0));
        if value < 0.15 || (value < 0.24 && saturation < 0.4) {
            return Colour::Black;
        }
        if saturation < 0.13 || value * saturation < 0.06 {
            return if value > 0.8 {
                Colour::White
            } else {
                Colour::Gray
            };
        }
        let pale = saturation < 0.45 && value > 0.6;
        match hue {
            _ if !(12.0..345.0).contains(&hue) => {
                if pale {
                    Colour::Pink
                } else if value < 0.35 || saturation < 0.4 {
                    Colour::Brown
                } else {
                    Colour::Red
                }
            }
            _ if hue < 42.0 => {
                if pale {
                    Colour::Beige
                } else if value > 0.7 && saturation > 0.5 {
                    Colour::Orange
                } else {
                    Colour::Brown
                }
            }
            _ if hue < 66.0 => {
                if pale && saturation < 0.35 {
                    Colour::Beige
                } else if value > 0.55 {
                    Colour::Yellow
                } else if hue < 50.0 {
                    Colour::Brown
                } else {
                    Colour::Green
                }
            }
            _ if hue < 168.0 => Colour::Green,
            _ if hue < 255.0 => Colour::Blue,
            _ if hue < 295.0 => Colour::Purple,
            _ if value > 0.55 => Colour::Pink,
            _ => Colour::Purple,
        }
    }

    /// The adjective of phrases.
    pub fn word(self) -> &'static str {
        match self {
            Colour::Black => "black",
            Colour::Gray => "gray",
            Colour::White => "white",
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Brown => "brown",
            Colour::Beige => "beige",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Pink => "pink",
        }
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Hue in degrees `[0, 360)`, saturation and value in `[0, 1]`.
fn hsv([r, g, b]: Rgb) -> [f32; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma == 0.0 {
        return [0.0, 0.0, value];
    }
    let sixth = if value == r {
        (g - b) / chroma
    } else if value == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = if sixth < 0.0 {
        sixth * 60.0 + 360.0
    } else {
        sixth * 60.0
    };
    [hue, chroma / value, value]
}

/// The inverse of [`hsv`]; any hue in degrees above -360.
fn rgb(hue: f32, saturation: f32, value: f32) -> Rgb {
    let channel = |offset: f32| {
        let k = (offset + hue / 60.0 + 6.0) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// A colour as things have them: three in four are the muted ones of earth, plants, stone, skin and sky.
pub(crate) fn random_colour(random: &mut Random) -> Rgb {
    #[derive(Clone, Copy)]
    enum Kind {
        Earth,
        Plant,
        Neutral,
        Cream,
        Sky,
        Skin,
        Vivid,
    }
    let kind = random.weighted(&[
        (Kind::Earth, 3.0),
        (Kind::Plant, 2.0),
        (Kind::Neutral, 3.0),
        (Kind::Cream, 1.5),
        (Kind::Sky, 1.5),
        (Kind::Skin, 1.0),
        (Kind::Vivid, 4.0),
    ]);
    // Bounds of hue, saturation and value.
    let [h, s, v] = match kind {
        Kind::Earth => [[10.0, 42.0], [0.25, 0.65], [0.15, 0.75]],
        Kind::Plant => [[65.0, 145.0], [0.25, 0.7], [0.15, 0.75]],
        Kind::Neutral => [[0.0, 360.0], [0.0, 0.1], [0.06, 0.97]],
        Kind::Cream => [[25.0, 60.0], [0.12, 0.4], [0.65, 0.98]],
        Kind::Sky => [[195.0, 235.0], [0.2, 0.7], [0.3, 0.95]],
        Kind::Skin => [[5.0, 28.0], [0.25, 0.6], [0.45, 0.95]],
        Kind::Vivid => [[0.0, 360.0], [0.55, 0.98], [0.45, 0.97]],
    };
    let mut within = |[low, high]: [f32; 2]| random.range(low, high);
    rgb(within(h), within(s), within(v))
}

/// `colour` with hue, saturation and value moved at random by up to `amount` of their range.
pub(crate) fn vary(random: &mut Random, colour: Rgb, amount: f32) -> Rgb {
    let [h, s, v] = hsv(colour);
    let mut moved = |value: f32, by: f32| value + by * amount * random.range(-1.0, 1.0);
    rgb(
        moved(h, 180.0),
        moved(s, 1.0).clamp(0.0, 1.0),
        moved(v, 1.0).clamp(0.03, 0.98),
    )
}

/// `colour` brighter (or darker, below 1) by a factor.
pub(crate) fn scaled(colour: Rgb, factor: f32) -> Rgb {
    colour.map(|channel| channel * factor)
}

/// `a` at 0, `b` at 1.
pub(crate) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [
        a[0] + (b[0] - a[0]) * t,
        a[1] + (b[1] - a[1]) * t,
        a[2] + (b[2] - a[2]) * t,
    ]
}

/// How bright a colour looks, in `[0, 1]`: the luma of ITU-R BT.601.
pub(crate) fn luma([r, g, b]: Rgb) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// The largest difference of a channel.
pub(crate) fn difference(a: Rgb, b: Rgb) -> f32 {
    (0..3).fold(0.0, |most, i| f32::max(most, (a[i] - b[i]).abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_colours_have_their_names() {
        for (rgb, name) in [
            ([0, 0, 0], "black"),
            ([128, 128, 128], "gray"),
            ([255, 255, 255], "white"),
            ([220, 20, 30], "red"),
            ([255, 140, 0], "orange"),
            ([139, 69, 19], "brown"),
            ([245, 222, 179], "beige"),
            ([250, 230, 40], "yellow"),
            ([34, 139, 34], "green"),
            ([107, 142, 35], "green"),
            ([30, 80, 220], "blue"),
            ([0, 180, 200], "blue"),
            ([120, 40, 180], "purple"),
            ([255, 182, 193], "pink"),
            ([255, 20, 147], "pink"),
        ] {
            assert_eq!(Colour::of(rgb).word(), name, "{rgb:?}");
        }
    }

    #[test]
    fn every_name_is_some_colours() {
        let mut random = Random::new(2);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2000 {
            seen.insert(Colour::of(
                random_colour(&mut random).map(|v| (v * 255.0) as u8),
            ));
        }
        assert_eq!(seen.len(), Colour::ALL.len(), "{seen:?}");
    }

    #[test]
    fn hue_saturation_and_value_round_trip() {
        let mut random = Random::new(6);
        for _ in 0..500 {
            let colour = [random.unit(), random.unit(), random.unit()];
            let [h, s, v] = hsv(colour);
            assert!(difference(rgb(h, s, v), colour) < 1e-4, "{colour:?}");
        }
    }
}
