//! What scenes are asked for.

use std::ops::RangeInclusive;

use maskmill_masks::ImageSize;

use crate::shape::Shape;
use crate::texture::Texture;

/// Sizes and contents of scenes.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneOptions {
    /// Rows of the image, in pixels, drawn evenly from the range: 8 to 8192.
    pub height: RangeInclusive<u32>,
    /// Columns of the image, likewise.
    pub width: RangeInclusive<u32>,
    /// Wholes that are painted, drawn evenly from the range: 0 to 1000. Fewer may be seen.
    pub objects: RangeInclusive<u32>,
    /// Shapes that wholes may have; each as often as it is among all, in proportion. Empty: [`Shape::WHOLES`].
    pub shapes: Vec<Shape>,
    /// Textures that wholes may have, likewise; wholes too small for a pattern are plain all the same. Empty: [`Texture::ALL`].
    pub textures: Vec<Texture>,
    /// Radii of discs as large as a whole is, in square roots of the image's pixels: uniform in ratio, in `(0, 0.45]`, and then
    /// each whole's own by a factor of up to 1.4. In four of ten scenes the first whole is larger, 0.26 to 0.45.
    pub radius: RangeInclusive<f32>,
    /// Probability that a whole has parts.
    pub parts: f32,
    /// Probability that an object hardly differs from what is behind it.
    pub low_contrast: f32,
    /// Objects with fewer visible pixels are left out of [`Scene::objects`](crate::Scene::objects); at least 1.
    pub min_visible_px: u64,
    /// Likewise, as a share of the image's pixels, in `[0, 1]`. The larger of both bounds counts.
    pub min_visible_fraction: f64,
}

impl Default for SceneOptions {
    /// 512 x 512 pixels, 3 to 24 wholes of which a third have parts; objects from 64 pixels on.
    fn default() -> Self {
        Self {
            height: 512..=512,
            width: 512..=512,
            objects: 3..=24,
            shapes: Vec::new(),
            textures: Vec::new(),
            radius: 0.02..=0.28,
            parts: 0.35,
            low_contrast: 0.06,
            min_visible_px: 64,
            min_visible_fraction: 0.0002,
        }
    }
}

/// Sides that scenes may have, in pixels: below, nothing has a shape; above, single scenes take gigabytes.
pub(crate) const SIDES: RangeInclusive<u32> = 8..=8192;
/// Wholes that a scene may have: with their parts they are numbered in 16 bits.
pub(crate) const MAX_OBJECTS: u32 = 1000;

/// The radius of the largest wholes, in square roots of the image's pixels.
pub(crate) const RADIUS_MAX: f32 = 0.45;

/// Options that no scene can be made of.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// A range whose end is before its start.
    #[error("{option} = {start}..={end} holds no number: its end is below its start")]
    EmptyRange {
        /// The field.
        option: &'static str,
        /// The range's start.
        start: u32,
        /// The range's end.
        end: u32,
    },
    /// A range that leaves what is allowed.
    #[error("{option} = {start}..={end} is not within {}..={}", allowed.start(), allowed.end())]
    OutsideLimits {
        /// The field.
        option: &'static str,
        /// The range's start.
        start: u32,
        /// The range's end.
        end: u32,
        /// What is allowed.
        allowed: RangeInclusive<u32>,
    },
    /// A probability or share outside `[0, 1]`, or not a number.
    #[error("{option} = {value} is outside [0, 1]")]
    NotAShare {
        /// The field.
        option: &'static str,
        /// The value.
        value: f64,
    },
    /// Radii that no whole can have.
    #[error("radius = {start}..={end} is not a range within (0, {RADIUS_MAX}]")]
    Radius {
        /// The range's start.
        start: f32,
        /// The range's end.
        end: f32,
    },
    /// A shape that only parts have.
    #[error("shapes: {shape} is no shape of wholes")]
    NoWhole {
        /// It.
        shape: Shape,
    },
    /// Masks without pixels would be objects.
    #[error("min_visible_px = 0 would list objects that cannot be seen; it is at least 1")]
    NothingVisible,
}

impl SceneOptions {
    /// The default options for images of one size.
    pub fn of_size(size: ImageSize) -> Self {
        Self {
            height: size.height..=size.height,
            width: size.width..=size.width,
            ..Self::default()
        }
    }

    /// Every problem of these options; none if scenes can be made.
    pub fn problems(&self) -> Vec<OptionsError> {
        let objects = 0..=MAX_OBJECTS;
        let ranges = [
            ("height", &self.height, &SIDES),
            ("width", &self.width, &SIDES),
            ("objects", &self.objects, &objects),
        ];
        let shares = [
            ("parts", f64::from(self.parts)),
            ("low_contrast", f64::from(self.low_contrast)),
            ("min_visible_fraction", self.min_visible_fraction),
        ];
        let mut problems = Vec::new();
        for (option, range, allowed) in ranges {
            let (start, end) = (*range.start(), *range.end());
            if start > end {
                problems.push(OptionsError::EmptyRange { option, start, end });
            } else if !allowed.contains(&start) || !allowed.contains(&end) {
                problems.push(OptionsError::OutsideLimits {
                    option,
                    start,
                    end,
                    allowed: allowed.clone(),
                });
            }
        }
        for (option, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                problems.push(OptionsError::NotAShare { option, value });
            }
        }
        let (start, end) = (*self.radius.start(), *self.radius.end());
        // No comparison holds of what is no number.
        if !(0.0 < start && start <= end && end <= RADIUS_MAX) {
            problems.push(OptionsError::Radius { start, end });
        }
        for &shape in &self.shapes {
            if !Shape::WHOLES.contains(&shape) {
                problems.push(OptionsError::NoWhole { shape });
            }
        }
        if self.min_visible_px == 0 {
            problems.push(OptionsError::NothingVisible);
        }
        problems
    }

    /// The shapes that objects of scenes may have, those of parts included.
    pub fn possible_shapes(&self) -> &[Shape] {
        match self.parts > 0.0 {
            true => &Shape::ALL,
            false => self.shapes_of_wholes(),
        }
    }

    /// The textures that objects of scenes may have, those of parts included.
    pub fn possible_textures(&self) -> &[Texture] {
        match self.parts > 0.0 {
            true => &Texture::ALL,
            false => self.textures_of_wholes(),
        }
    }

    /// The textures of wholes: those that are asked for, or all.
    pub(crate) fn textures_of_wholes(&self) -> &[Texture] {
        or_all(&self.textures, &Texture::ALL)
    }

    /// The shapes of wholes: those that are asked for, or all.
    pub(crate) fn shapes_of_wholes(&self) -> &[Shape] {
        or_all(&self.shapes, &Shape::WHOLES)
    }

    /// The fewest visible pixels of an object in an image of `size`.
    pub(crate) fn min_area(&self, size: ImageSize) -> u64 {
        let share = (size.pixels() as f64 * self.min_visible_fraction).ceil() as u64;
        self.min_visible_px.max(share).max(1)
    }
}

/// `asked`, or `all` where nothing is asked for.
fn or_all<'a, T>(asked: &'a [T], all: &'a [T]) -> &'a [T] {
    match asked {
        [] => all,
        some => some,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(SceneOptions::default().problems(), []);
        assert_eq!(
            SceneOptions::of_size(ImageSize::new(97, 333)).problems(),
            []
        );
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges, reason = "the mistake that is tested")]
    fn all_problems_are_told_at_once() {
        let options = SceneOptions {
            height: 4..=200,
            width: 90..=80,
            objects: 5..=2000,
            shapes: vec![Shape::Disc, Shape::Section],
            textures: vec![Texture::Plain],
            radius: 0.0..=0.3,
            parts: f32::NAN,
            low_contrast: 1.5,
            min_visible_px: 0,
            min_visible_fraction: -0.5,
        };
        let problems: Vec<String> = options.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "height = 4..=200 is not within 8..=8192",
                "width = 90..=80 holds no number: its end is below its start",
                "objects = 5..=2000 is not within 0..=1000",
                "parts = NaN is outside [0, 1]",
                "low_contrast = 1.5 is outside [0, 1]",
                "min_visible_fraction = -0.5 is outside [0, 1]",
                "radius = 0..=0.3 is not a range within (0, 0.45]",
                "shapes: section is no shape of wholes",
                "min_visible_px = 0 would list objects that cannot be seen; it is at least 1",
            ]
        );
    }

    #[test]
    fn the_larger_bound_on_visible_pixels_counts() {
        let options = SceneOptions::default();
        assert_eq!(options.min_area(ImageSize::new(100, 200)), 64);
        assert_eq!(options.min_area(ImageSize::new(1000, 2000)), 400);
    }
}
