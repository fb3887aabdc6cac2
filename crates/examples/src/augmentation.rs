//! How samples vary.

/// What may be done to an example at random. [`Augmentation::NONE`] does nothing.
///
/// Every value is drawn anew for each sample, uniformly within what is said here; the scale uniformly in its logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// `[least, most]` of large-scale jitter: what the longer side is scaled to, in sides of the model's input. Above 1 a
    /// random window of the scaled image is kept, below 1 more is padded. `[1, 1]` fills the input exactly.
    ///
    /// Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (2021).
    pub scale_jitter: [f64; 2],
    /// The least fraction of the height, and of the width, that a random crop keeps before anything is scaled; above 0,
    /// and 1 for no crop.
    pub least_crop: f64,
    /// Probability of left and right being exchanged.
    pub horizontal_flip: f64,
    /// Probability of top and bottom being exchanged.
    pub vertical_flip: f64,
    /// Colours.
    pub colour: Colour,
    /// The most that the image is blurred: the standard deviation of a Gaussian, in pixels of the model's input. At most 8.
    pub blur_px: f64,
    /// The most noise: the standard deviation in levels, of 255.
    pub noise_levels: f64,
}

/// How colours vary: one linear map of red, green and blue for the whole image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    /// Levels are multiplied by a factor in `1 ± brightness`; at most 1.
    pub brightness: f64,
    /// The distance from the mean gray is multiplied by a factor in `1 ± contrast`; at most 1.
    pub contrast: f64,
    /// The distance from each pixel's own gray is multiplied by a factor in `1 ± saturation`; at most 1.
    pub saturation: f64,
    /// Red, green and blue are each multiplied by a factor in `1 ± channel_gain`, as by another light; at most 1.
    pub channel_gain: f64,
    /// Probability of colours being removed.
    pub grayscale: f64,
}

impl Augmentation {
    /// Nothing is done.
    pub const NONE: Self = Self {
        scale_jitter: [1.0, 1.0],
        least_crop: 1.0,
        horizontal_flip: 0.0,
        vertical_flip: 0.0,
        colour: Colour::NONE,
        blur_px: 0.0,
        noise_levels: 0.0,
    };

    /// What suits most photographs: scales from a half to twice, mirror images, mild colours.
    pub const PHOTOGRAPHS: Self = Self {
        scale_jitter: [0.5, 2.0],
        horizontal_flip: 0.5,
        colour: Colour {
            brightness: 0.2,
            contrast: 0.2,
            saturation: 0.2,
            channel_gain: 0.05,
            grayscale: 0.05,
        },
        ..Self::NONE
    };

    /// What is wrong with it, each by its name.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |name: &str, value: f64, least: f64, most: f64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{name} = {value} is outside [{least}, {most}]"));
            }
        };
        let [least, most] = self.scale_jitter;
        check("scale_jitter[0]", least, 0.05, 20.0);
        check("scale_jitter[1]", most, 0.05, 20.0);
        check("least_crop", self.least_crop, 0.05, 1.0);
        check("horizontal_flip", self.horizontal_flip, 0.0, 1.0);
        check("vertical_flip", self.vertical_flip, 0.0, 1.0);
        check("colour.brightness", self.colour.brightness, 0.0, 1.0);
        check("colour.contrast", self.colour.contrast, 0.0, 1.0);
        check("colour.saturation", self.colour.saturation, 0.0, 1.0);
        check("colour.channel_gain", self.colour.channel_gain, 0.0, 1.0);
        check("colour.grayscale", self.colour.grayscale, 0.0, 1.0);
        check("blur_px", self.blur_px, 0.0, 8.0);
        check("noise_levels", self.noise_levels, 0.0, 128.0);
        if least > most {
            problems.push(format!(
                "scale_jitter = [{least}, {most}]: the first must not be above the second"
            ));
        }
        problems
    }
}

impl Default for Augmentation {
    /// [`Augmentation::NONE`].
    fn default() -> Self {
        Self::NONE
    }
}

impl Colour {
    /// Colours stay as they are.
    pub const NONE: Self = Self {
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        channel_gain: 0.0,
        grayscale: 0.0,
    };
}

impl Default for Colour {
    /// [`Colour::NONE`].
    fn default() -> Self {
        Self::NONE
    }
}

/// Options out of range, all of them at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the options of samples cannot be used: {}", .problems.join("; "))]
pub struct OptionsError {
    /// Each by its name: `horizontal_flip = 2 is outside [0, 1]`.
    pub problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_in_range() {
        assert_eq!(Augmentation::NONE.problems(), [""; 0]);
        assert_eq!(Augmentation::PHOTOGRAPHS.problems(), [""; 0]);
    }

    #[test]
    fn everything_out_of_range_is_named_at_once() {
        let augmentation = Augmentation {
            scale_jitter: [2.0, 0.5],
            least_crop: 0.0,
            vertical_flip: f64::NAN,
            colour: Colour {
                contrast: 1.5,
                ..Colour::NONE
            },
            ..Augmentation::NONE
        };
        assert_eq!(
            augmentation.problems(),
            [
                "least_crop = 0 is outside [0.05, 1]",
                "vertical_flip = NaN is outside [0, 1]",
                "colour.contrast = 1.5 is outside [0, 1]",
                "scale_jitter = [2, 0.5]: the first must not be above the second",
            ]
        );
    }
}
