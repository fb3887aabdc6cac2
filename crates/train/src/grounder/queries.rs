//! What is asked about the images of a batch: phrases, and of which objects each is true.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use maskmill_job::QuerySettings;
use maskmill_scenes::{Colour, SizeClass, Texture, phrase};

use super::data::{GroundedObject, Kinds};
use super::held_out::is_held_out;
use super::matching::Match;

/// Draws of a phrase that is not asked yet, before one of another kind is drawn, and then before a batch is content with fewer.
const TRIES: usize = 200;
/// The part of the phrases that are not true of an image that differ from a true one in one word: the hard ones.
const HARD: f64 = 0.6;

/// The queries of a batch and what is true of each image.
#[derive(Clone, Debug, PartialEq)]
pub struct Questions {
    /// Phrases, all different.
    pub queries: Vec<String>,
    /// Of each image.
    pub images: Vec<ImageTruth>,
}

/// What the queries of a batch are true of in one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTruth {
    /// Of each object to learn its box, centre x, centre y, width, height in fractions of the square input, and the
    /// queries that are true of it, perhaps none.
    pub objects: Vec<([f32; 4], Vec<usize>)>,
    /// Queries that are true of an object that is too small to be learned: that a box does not fit them is no mistake.
    pub uncounted: Vec<usize>,
    /// Patches that show one of `objects`, where that is known: at most one object each.
    pub shown: Vec<Match>,
}

impl Questions {
    /// Draws `settings.per_image` phrases for each image, and looks up what each is true of in all of them. Phrases that are not
    /// true name `kinds`, which objects may be of. The result is a function of the arguments alone. No phrase names a pair that is
    /// held out.
    pub(crate) fn draw(
        images: &[&[GroundedObject]],
        kinds: &Kinds,
        settings: &QuerySettings,
        rng: &mut Rng,
    ) -> Self {
        let mut asked = BTreeSet::new();
        let mut queries = Vec::new();
        let positives = (f64::from(settings.per_image) * settings.positives).round() as u32;
        for objects in images {
            let phrases: BTreeSet<&str> = all_phrases(objects).collect();
            for number in 0..settings.per_image {
                // Where an image has no further phrase that is true, one that is not takes its place.
                for attempt in 0..2 * TRIES {
                    let drawn = match number < positives && attempt < TRIES {
                        true => positive(objects, settings.held_out, rng),
                        false => negative(objects, kinds, settings.held_out, rng)
                            .filter(|phrase| !phrases.contains(phrase.as_str())),
                    };
                    let Some(drawn) = drawn else {
                        continue;
                    };
                    if asked.insert(drawn.clone()) {
                        queries.push(drawn);
                        break;
                    }
                }
            }
        }
        Self::given(queries, images)
    }

    /// Looks up what given queries, all different, are true of. Which patch shows what is left open.
    pub fn given(queries: Vec<String>, images: &[&[GroundedObject]]) -> Self {
        let numbers: BTreeMap<&str, usize> = queries
            .iter()
            .enumerate()
            .map(|(number, query)| (query.as_str(), number))
            .collect();
        let of = |object: &GroundedObject| -> Vec<usize> {
            let phrases = object.phrases.iter();
            phrases
                .filter_map(|phrase| numbers.get(phrase.as_str()).copied())
                .collect()
        };
        let truth = |objects: &&[GroundedObject]| {
            let (targets, small): (Vec<_>, Vec<_>) = objects.iter().partition(|o| o.is_target);
            ImageTruth {
                objects: targets.iter().map(|o| (o.cxcywh_norm, of(o))).collect(),
                uncounted: small.into_iter().flat_map(of).collect(),
                shown: Vec::new(),
            }
        };
        let images = images.iter().map(truth).collect();
        Self { queries, images }
    }
}

fn all_phrases(objects: &[GroundedObject]) -> impl Iterator<Item = &str> {
    objects
        .iter()
        .flat_map(|object| object.phrases.iter().map(String::as_str))
}

/// A phrase of one of the objects to learn; none where the draw names a pair that is held out.
fn positive(objects: &[GroundedObject], held_out: f64, rng: &mut Rng) -> Option<String> {
    let targets: Vec<&GroundedObject> = objects.iter().filter(|o| o.is_target).collect();
    let object = targets.get(rng.usize(0..targets.len().max(1)))?;
    let phrase = &object.phrases[rng.usize(0..object.phrases.len())];
    let named = object.says_colour(phrase) && is_held_out(object.colour, object.shape, held_out);
    (!named).then(|| phrase.clone())
}

/// A phrase of what could be in a scene; most often one of an object with another word. None where it names a pair that is
/// held out.
fn negative(
    objects: &[GroundedObject],
    kinds: &Kinds,
    held_out: f64,
    rng: &mut Rng,
) -> Option<String> {
    let any = |rng: &mut Rng| {
        (
            Colour::ALL[rng.usize(0..Colour::ALL.len())],
            kinds.textures[rng.usize(0..kinds.textures.len())],
            kinds.shapes[rng.usize(0..kinds.shapes.len())],
        )
    };
    let (mut colour, mut texture, mut shape) = any(rng);
    let sizes = [SizeClass::Small, SizeClass::Medium, SizeClass::Large];
    let mut size = sizes[rng.usize(0..sizes.len())];
    if rng.f64() < HARD {
        let object = &objects[rng.usize(0..objects.len())];
        let changed = rng.usize(0..4);
        if changed != 0 {
            colour = object.colour;
        }
        if changed != 1 {
            shape = object.shape;
        }
        if changed != 2 {
            texture = object.texture;
        }
        if changed != 3 {
            size = object.size;
        }
    }
    // The forms that phrases of objects have.
    let (size, colour, texture) = match rng.usize(0..5) {
        0 => (size, Some(colour), texture),
        1 => (SizeClass::Medium, Some(colour), texture),
        2 => (SizeClass::Medium, Some(colour), Texture::Plain),
        3 => (SizeClass::Medium, None, texture),
        _ => (SizeClass::Medium, None, Texture::Plain),
    };
    let named = colour.is_some_and(|colour| is_held_out(colour, shape, held_out));
    (!named).then(|| phrase(size, colour, texture, shape))
}

#[cfg(test)]
mod tests {
    use maskmill_job::{SceneSettings, TrainingData};
    use maskmill_scenes::Shape;

    use super::*;
    use crate::grounder::SceneData;

    fn scenes(count: usize, settings: SceneSettings) -> (Vec<Vec<GroundedObject>>, Kinds) {
        let data = TrainingData {
            kind: maskmill_job::TrainingDataKind::Scenes {
                seed: 4,
                count: 100,
                scenes: SceneSettings {
                    width: [96, 128],
                    height: [96, 128],
                    objects: [3, 9],
                    ..settings
                },
            },
            weight: 1.0,
            min_area: 0.01,
        };
        let data = SceneData::open(&[data], "data").unwrap();
        let places = data.first(count).into_iter();
        let objects = places.map(|place| data.at(place).unwrap().objects);
        (objects.collect(), data.kinds())
    }

    #[test]
    fn queries_are_true_of_what_they_say_and_name_no_pair_that_is_held_out() {
        let (scenes, kinds) = scenes(6, SceneSettings::default());
        let images: Vec<&[GroundedObject]> = scenes.iter().map(Vec::as_slice).collect();
        let settings = QuerySettings {
            per_image: 10,
            positives: 0.5,
            held_out: 0.3,
        };
        assert_eq!(kinds.shapes, Shape::ALL);
        let draw = |seed| Questions::draw(&images, &kinds, &settings, &mut Rng::with_seed(seed));
        let questions = draw(1);
        assert_eq!(questions, draw(1));
        assert_ne!(questions, draw(2));
        assert_eq!(questions.queries.len(), 60);
        let mut trues = 0;
        for (truth, objects) in questions.images.iter().zip(&scenes) {
            let targets = objects.iter().filter(|object| object.is_target);
            assert_eq!(truth.objects.len(), targets.clone().count());
            for ((_, queries), object) in truth.objects.iter().zip(targets) {
                trues += queries.len();
                for (number, query) in questions.queries.iter().enumerate() {
                    assert_eq!(queries.contains(&number), object.phrases.contains(query));
                }
            }
            let small = objects.iter().filter(|object| !object.is_target);
            assert!(small.count() == 0 || !objects.is_empty());
        }
        assert!(trues >= 30, "{trues}");
        for query in &questions.queries {
            for colour in Colour::ALL {
                for shape in Shape::ALL {
                    let words: Vec<&str> = query.split(' ').collect();
                    let names = words.contains(&colour.word()) && query.ends_with(shape.word());
                    // "rectangle" is the end of "rounded rectangle" as well.
                    let rounded = words.contains(&"rounded") != (shape == Shape::RoundedRectangle);
                    if names && !rounded {
                        assert!(!is_held_out(colour, shape, 0.3), "{query}");
                    }
                }
            }
        }
    }

    #[test]
    fn queries_name_no_shape_or_texture_that_nothing_has() {
        let (scenes, kinds) = scenes(
            4,
            SceneSettings {
                shapes: vec!["star".into(), "disc".into()],
                textures: vec!["plain".into(), "checked".into()],
                parts: 0.0,
                ..SceneSettings::default()
            },
        );
        let images: Vec<&[GroundedObject]> = scenes.iter().map(Vec::as_slice).collect();
        let settings = QuerySettings {
            per_image: 20,
            positives: 0.2,
            held_out: 0.0,
        };
        let queries = Questions::draw(&images, &kinds, &settings, &mut Rng::with_seed(5)).queries;
        assert!(queries.iter().any(|query| query.contains("checked")));
        let known = ["a", "an", "small", "large", "checked", "star", "disc"];
        for word in queries.iter().flat_map(|query| query.split(' ')) {
            let colour = Colour::ALL.into_iter().any(|c| c.word() == word);
            assert!(colour || known.contains(&word), "{word}");
        }
    }
}
