//! Scenes as a detector sees them, drawn by number.

use fastrand::Rng;
use maskmill_examples::{Colour as ColourChange, OpenError, Scenes, recoloured};
use maskmill_grounding::{OwlArchitecture, OwlInput};
use maskmill_job::{GrounderAugmentation, TrainingData, TrainingDataKind};
use maskmill_masks::{BoxPx, ImageSize};
use maskmill_pixels::RgbImage;
use maskmill_scenes::{Colour, Scene, SceneObject, Shape, SizeClass, Texture};

use super::matching::Match;
use crate::data::{drawn_by, first_places};
use crate::error::TrainError;

/// Scenes in a row without an object that is large enough.
const TRIES: usize = 50;

/// The scenes of a training file.
pub struct SceneData {
    sources: Vec<Source>,
}

struct Source {
    scenes: Scenes,
    /// How likely it is drawn from.
    weight: f64,
    /// The least part of an image that an object covers to be learned.
    min_area: f64,
}

/// What objects may be, in words.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    pub shapes: Vec<Shape>,
    pub textures: Vec<Texture>,
}

/// What is on an image.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundedObject {
    /// Centre x, centre y, width, height in fractions of the model's square input.
    pub cxcywh_norm: [f32; 4],
    /// In words.
    pub size: SizeClass,
    /// In words.
    pub colour: Colour,
    /// In words.
    pub texture: Texture,
    /// In words.
    pub shape: Shape,
    /// Every phrase that is true of it, the longest first.
    pub phrases: Vec<String>,
    /// Whether it is large enough to be learned and to be looked for.
    pub is_target: bool,
}

/// An image with everything that is on it.
#[derive(Clone, Debug)]
pub struct GroundedImage {
    /// Names it, for messages.
    pub key: String,
    /// The image.
    pub image: RgbImage,
    /// Its objects; at least one is a target.
    pub objects: Vec<GroundedObject>,
    /// Which of the targets each pixel shows, counted among targets alone; row-major. Of an object and its part, the part.
    pub targets: Vec<Option<usize>>,
}

/// An image that is ready for the model.
pub(crate) struct Drawn {
    pub key: String,
    pub input: OwlInput,
    pub objects: Vec<GroundedObject>,
    /// Which target each patch shows, where it shows one.
    pub shown: Vec<Match>,
    /// Problems of scenes that were passed over on the way.
    pub skipped: Vec<String>,
}

impl GroundedObject {
    /// An object of a scene. The model's input is square: its side is the longer of the image's.
    fn of(object: &SceneObject, image: ImageSize, min_area: f64) -> Self {
        let side = image.height.max(image.width) as f32;
        let BoxPx { x0, y0, x1, y1 } = object.bounds;
        let [x0, y0, x1, y1] = [x0, y0, x1, y1].map(|edge| edge as f32 / side);
        Self {
            cxcywh_norm: [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0],
            size: object.size,
            colour: object.colour,
            texture: object.texture,
            shape: object.shape,
            phrases: object.phrases(),
            is_target: object.area as f64 >= min_area * image.pixels() as f64,
        }
    }

    /// Whether `phrase`, one of its own, says its colour.
    pub(crate) fn says_colour(&self, phrase: &str) -> bool {
        phrase.split(' ').any(|word| word == self.colour.word())
    }
}

impl SceneData {
    /// Opens every source; `setting` is their place in the training file, for errors.
    ///
    /// # Errors
    /// [`TrainError::Data`]; [`TrainError::Settings`] for data that are no scenes.
    pub fn open(data: &[TrainingData], setting: &str) -> Result<Self, TrainError> {
        let sources = data.iter().enumerate().map(|(i, data)| {
            let TrainingDataKind::Scenes {
                seed,
                count,
                scenes,
            } = &data.kind
            else {
                let what = "only generated scenes come with phrases";
                return Err(TrainError::Settings(format!("{setting}[{i}]: {what}")));
            };
            let scenes = Scenes::new(scenes.options(), *seed, *count as usize);
            let scenes = scenes.map_err(|source: OpenError| TrainError::Data {
                setting: format!("{setting}[{i}]"),
                source,
            })?;
            Ok(Source {
                scenes,
                weight: data.weight,
                min_area: data.min_area,
            })
        });
        Ok(Self {
            sources: sources.collect::<Result<_, TrainError>>()?,
        })
    }

    /// What objects may be.
    pub(crate) fn kinds(&self) -> Kinds {
        let options = || self.sources.iter().map(|from| from.scenes.options());
        let has_shape = |shape: &Shape| options().any(|o| o.possible_shapes().contains(shape));
        let has = |texture: &Texture| options().any(|o| o.possible_textures().contains(texture));
        Kinds {
            shapes: Shape::ALL.into_iter().filter(has_shape).collect(),
            textures: Texture::ALL.into_iter().filter(has).collect(),
        }
    }

    /// Source and index of the first `count` scenes, of each source in proportion to its weight: the same ones every time.
    pub(crate) fn first(&self, count: usize) -> Vec<(usize, usize)> {
        let sources = self.sources.iter();
        let sources: Vec<_> = sources
            .map(|from| (from.weight, from.scenes.len()))
            .collect();
        first_places(count, &sources)
    }

    /// The scene of a source and an index as it is.
    ///
    /// # Errors
    /// No object is large enough to be learned.
    pub fn at(&self, (source, index): (usize, usize)) -> Result<GroundedImage, String> {
        let Source {
            scenes, min_area, ..
        } = &self.sources[source];
        let key = scenes.key(index);
        let Scene { image, objects } = scenes.scene(index);
        let of = |object| GroundedObject::of(object, image.size(), *min_area);
        let grounded: Vec<GroundedObject> = objects.iter().map(of).collect();
        if !grounded.iter().any(|object| object.is_target) {
            return Err(format!(
                "{key}: no object covers the part {min_area} of the image"
            ));
        }
        let mut targets = vec![None; image.size().pixels() as usize];
        let are_targets = objects.iter().zip(&grounded).filter(|(_, g)| g.is_target);
        // Parts come after their whole.
        for (number, (object, _)) in are_targets.enumerate() {
            let mask = object.mask.decode();
            for (target, inside) in targets.iter_mut().zip(mask.as_slice()) {
                if *inside {
                    *target = Some(number);
                }
            }
        }
        Ok(GroundedImage {
            key,
            image,
            objects: grounded,
            targets,
        })
    }

    /// The image of a number, ready for the model: a function of the data, the settings and the number. Scenes without an
    /// object that is large enough are passed over.
    ///
    /// # Errors
    /// [`TrainError::NoExamples`].
    pub(crate) fn image(
        &self,
        architecture: &OwlArchitecture,
        augmentation: &GrounderAugmentation,
        number: u64,
    ) -> Result<Drawn, TrainError> {
        let mut rng = Rng::with_seed(number);
        let weights: Vec<f64> = self.sources.iter().map(|from| from.weight).collect();
        let mut skipped = Vec::new();
        for _ in 0..TRIES {
            let source = drawn_by(&weights, &mut rng);
            let index = rng.usize(0..self.sources[source].scenes.len());
            match self.at((source, index)) {
                Err(problem) => skipped.push(problem),
                Ok(drawn) => {
                    let changed = drawn.augmented(augmentation, &mut rng);
                    let shown = changed.shown(architecture.image.grid());
                    if shown.is_empty() {
                        let key = changed.key;
                        skipped.push(format!("{key}: no patch's centre shows an object"));
                        continue;
                    }
                    return Ok(Drawn {
                        input: architecture.input(&changed.image),
                        shown,
                        key: changed.key,
                        objects: changed.objects,
                        skipped,
                    });
                }
            }
        }
        Err(TrainError::NoExamples {
            tries: skipped.len(),
            last: skipped.pop().unwrap_or_default(),
        })
    }
}

impl GroundedImage {
    /// Mirrored and recoloured at random, so little that all phrases stay true.
    fn augmented(mut self, augmentation: &GrounderAugmentation, rng: &mut Rng) -> Self {
        let change = ColourChange {
            brightness: augmentation.colour,
            contrast: augmentation.colour,
            ..ColourChange::NONE
        };
        let mut mirror = |on: bool| rng.bool() && on;
        let [mirrored, upside_down] = [
            mirror(augmentation.flip),
            mirror(augmentation.vertical_flip),
        ];
        self.image = recoloured(&self.image, &change, rng.u64(..));
        if !mirrored && !upside_down {
            return self;
        }
        let size = self.image.size();
        let side = size.height.max(size.width) as f32;
        for object in &mut self.objects {
            let [cx, cy, _, _] = &mut object.cxcywh_norm;
            if mirrored {
                *cx = size.width as f32 / side - *cx;
            }
            if upside_down {
                *cy = size.height as f32 / side - *cy;
            }
        }
        let width = size.width as usize;
        self.targets = flipped(&self.targets, width, mirrored, upside_down);
        let (pixels, _) = self.image.data().as_chunks::<3>();
        let pixels = flipped(pixels, width, mirrored, upside_down).into_flattened();
        self.image = RgbImage::new(size, pixels).expect("flipping keeps the size");
        self
    }

    /// Of the patches of the square input, `grid` in a row and in a column, those whose centre shows a target.
    fn shown(&self, grid: usize) -> Vec<Match> {
        let ImageSize { height, width } = self.image.size();
        let side = height.max(width) as usize;
        let centre = |place: usize| (2 * place + 1) * side / (2 * grid);
        let of = |patch: usize| {
            let [y, x] = [patch / grid, patch % grid].map(centre);
            // Outside the image the input is padded.
            let is_image = y < height as usize && x < width as usize;
            let object = is_image.then(|| self.targets[y * width as usize + x])??;
            Some(Match { patch, object })
        };
        (0..grid * grid).filter_map(of).collect()
    }
}

/// The pixels of an image of so many columns, row-major.
fn flipped<T: Copy>(pixels: &[T], width: usize, mirrored: bool, upside_down: bool) -> Vec<T> {
    let mut flipped = Vec::with_capacity(pixels.len());
    let height = pixels.len() / width;
    for y in 0..height {
        let y = if upside_down { height - 1 - y } else { y };
        let row = &pixels[y * width..][..width];
        match mirrored {
            true => flipped.extend(row.iter().rev()),
            false => flipped.extend_from_slice(row),
        }
    }
    flipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_mirrored_with_their_image() {
        // A white block in columns 2 to 5 and rows 1 to 3 of 10 x 6.
        let size = ImageSize::new(6, 10);
        let inside = |x: u32, y: u32| (2..5).contains(&x) && (1..3).contains(&y);
        let pixels = (0..60).flat_map(|i| [255 * u8::from(inside(i % 10, i / 10)); 3]);
        let image = RgbImage::new(size, pixels.collect()).unwrap();
        let object = GroundedObject {
            cxcywh_norm: [0.35, 0.2, 0.3, 0.2],
            size: SizeClass::Medium,
            colour: Colour::White,
            texture: Texture::Plain,
            shape: Shape::Rectangle,
            phrases: Vec::new(),
            is_target: true,
        };
        let one = GroundedImage {
            key: "block".into(),
            image,
            objects: vec![object],
            targets: (0..60)
                .map(|i| inside(i % 10, i / 10).then_some(0))
                .collect(),
        };
        let settings = GrounderAugmentation {
            flip: true,
            vertical_flip: true,
            colour: 0.0,
        };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let changed = one.clone().augmented(&settings, &mut Rng::with_seed(seed));
            let [cx, cy, w, h] = changed.objects[0].cxcywh_norm.map(|v| v * 10.0);
            for y in 0..6_u32 {
                for (x, pixel) in changed.image.row(y).chunks_exact(3).enumerate() {
                    let (dx, dy) = ((x as f32 + 0.5 - cx).abs(), (y as f32 + 0.5 - cy).abs());
                    let within = 2.0 * dx < w && 2.0 * dy < h;
                    assert_eq!(pixel[0] == 255, within, "({x}, {y}) of {seed}");
                }
            }
            // Patches of 2 x 2 pixels, whose centre is their last; the last two rows of five are padding.
            let shown = changed.shown(5);
            for patch in 0..25 {
                let (x, y) = (2 * (patch % 5) + 1, 2 * (patch / 5) + 1);
                let is_white = y < 6 && changed.image.row(y as u32)[3 * x] == 255;
                let found = shown.iter().find(|shown| shown.patch == patch);
                assert_eq!(found.map(|shown| shown.object), is_white.then_some(0));
            }
            seen.insert((cx.round() as u32, cy.round() as u32));
        }
        assert_eq!(seen.len(), 4);
    }
}
