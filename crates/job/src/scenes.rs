//! Settings of generated scenes, which sources of jobs and training data share.

use maskmill_scenes::{SceneOptions, Shape, Texture};
use serde::{Deserialize, Serialize};

use crate::section::Section;

/// Sizes and contents of generated scenes.
///
/// Settings that came later are written only where they are not the default, so that other files keep their fingerprints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SceneSettings {
    /// `[least, most]`, in pixels, both included.
    pub width: [u32; 2],
    /// `[least, most]`, in pixels, both included.
    pub height: [u32; 2],
    /// Objects in a scene, not counting their parts: `[least, most]`, both included.
    pub objects: [u32; 2],
    /// The nouns of the shapes that objects have; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<String>,
    /// The patterns of their surfaces, `plain` among them; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub textures: Vec<String>,
    /// Radii of discs as large as objects are, `[least, most]`, in square roots of the image's pixels.
    #[serde(default = "usual_radius", skip_serializing_if = "is_usual_radius")]
    pub radius: [f32; 2],
    /// The part of the objects that have parts, which are objects, too.
    #[serde(default = "usual_parts", skip_serializing_if = "is_usual_parts")]
    pub parts: f32,
}

impl Default for SceneSettings {
    fn default() -> Self {
        Self {
            width: [512, 512],
            height: [512, 512],
            objects: [4, 24],
            shapes: Vec::new(),
            textures: Vec::new(),
            radius: usual_radius(),
            parts: usual_parts(),
        }
    }
}

impl SceneSettings {
    /// What the generator is asked for.
    ///
    /// # Panics
    /// If a shape or a texture has no such name, which reading a file excludes.
    pub fn options(&self) -> SceneOptions {
        let range = |[least, most]: [u32; 2]| least..=most;
        let shape = |word: &String| Shape::named(word).expect("checked where it was read");
        let texture = |word: &String| Texture::named(word).expect("checked where it was read");
        SceneOptions {
            width: range(self.width),
            height: range(self.height),
            objects: range(self.objects),
            shapes: self.shapes.iter().map(shape).collect(),
            textures: self.textures.iter().map(texture).collect(),
            radius: self.radius[0]..=self.radius[1],
            parts: self.parts,
            ..SceneOptions::default()
        }
    }

    /// Reads them; a scene has `least_objects` at least.
    pub(crate) fn read(section: &mut Section<'_>, least_objects: u32) -> Self {
        let usual = Self::default();
        Self {
            width: section.range_u32("width", usual.width, 32..=8192),
            height: section.range_u32("height", usual.height, 32..=8192),
            objects: section.range_u32("objects", usual.objects, least_objects..=1000),
            shapes: read_words(
                section,
                "shapes",
                "a shape",
                &Shape::WHOLES.map(Shape::word),
            ),
            textures: read_words(
                section,
                "textures",
                "a texture",
                &Texture::ALL.map(Texture::name),
            ),
            radius: read_radius(section),
            parts: section.number("parts", f64::from(usual.parts), 0.0..=1.0) as f32,
        }
    }
}

fn usual_radius() -> [f32; 2] {
    let radius = SceneOptions::default().radius;
    [*radius.start(), *radius.end()]
}

fn is_usual_radius(radius: &[f32; 2]) -> bool {
    *radius == usual_radius()
}

fn usual_parts() -> f32 {
    SceneOptions::default().parts
}

fn is_usual_parts(parts: &f32) -> bool {
    *parts == usual_parts()
}

/// An array of some of `words`, each once, or none where the key is left out; `noun` is what a single one is called.
fn read_words(section: &mut Section<'_>, key: &str, noun: &str, words: &[&str]) -> Vec<String> {
    let list = format!("an array of {key}: {}", words.join(", "));
    let Some(origin) = section.origin_of(key) else {
        return Vec::new();
    };
    let Some(nodes) = section.array(key, &list) else {
        return Vec::new();
    };
    if nodes.is_empty() {
        section.note(Some(origin), key, &format!(" is empty; it must be {list}"));
    }
    let mut read = Vec::new();
    for (at, node) in nodes.into_iter().enumerate() {
        let key = format!("{key}[{at}]");
        let Some((word, origin)) = section.as_string(&key, node, noun) else {
            continue;
        };
        if !words.contains(&word.as_str()) {
            let what = format!(" = \"{word}\" is none of {}", words.join(", "));
            section.note(Some(origin), &key, &what);
        } else if read.contains(&word) {
            section.note(Some(origin), &key, &format!(" = \"{word}\" is there twice"));
        } else {
            read.push(word);
        }
    }
    read
}

fn read_radius(section: &mut Section<'_>) -> [f32; 2] {
    const KEY: &str = "radius";
    let usual = usual_radius();
    let Some(origin) = section.origin_of(KEY) else {
        return usual;
    };
    let Some([least, most]) = section.numbers(KEY, "[least, most]") else {
        return usual;
    };
    let radius = [least as f32, most as f32];
    let options = SceneOptions {
        radius: radius[0]..=radius[1],
        ..SceneOptions::default()
    };
    if options.problems().is_empty() {
        return radius;
    }
    let what = format!(" = [{least}, {most}] is not a range above 0 and up to 0.45");
    section.note(Some(origin), KEY, &what);
    usual
}
