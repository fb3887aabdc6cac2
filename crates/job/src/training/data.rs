//! `[[data]]` and `[[validation.data]]`: where images and their masks come from.

use serde::{Deserialize, Serialize};

use crate::choice::Choice;
use crate::location;
use crate::problem::Origin;
use crate::scenes::SceneSettings;
use crate::schema;
use crate::section::Section;

/// Images with masks, and how often they are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingData {
    /// What they are.
    #[serde(flatten)]
    pub kind: TrainingDataKind,
    /// How often an image comes from here, in proportion to the other weights; above 0.
    pub weight: f64,
    /// The least part of its image that a mask covers, in [0, 0.5]; smaller ones are left out.
    pub min_area: f64,
}

/// Images with masks. Every path is one on this machine, and begins at the working directory if it
/// is relative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TrainingDataKind {
    /// Generated scenes, the same for the same settings.
    Scenes {
        /// Of all scenes.
        seed: u64,
        /// How many different scenes there are.
        count: u32,
        /// Their sizes and contents.
        #[serde(flatten)]
        scenes: SceneSettings,
    },
    /// A folder as SA-1B has it: images with a JSON file of the same stem beside each.
    Sa1b {
        /// The folder.
        path: String,
    },
    /// Instances of a COCO data set.
    Coco {
        /// The JSON file.
        annotations: String,
        /// The folder of the images that it names.
        images: String,
    },
    /// What `maskmill run` wrote.
    Maskmill {
        /// The job's output directory.
        output: String,
        /// The folder that was the job's source.
        images: String,
    },
}

impl TrainingData {
    /// The seed, if these are generated scenes.
    pub(super) fn scenes_seed(&self) -> Option<u64> {
        match self.kind {
            TrainingDataKind::Scenes { seed, .. } => Some(seed),
            _ => None,
        }
    }
}

/// The word for each kind.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Scenes,
    Sa1b,
    Coco,
    Maskmill,
}

const KIND: Choice<Kind> = Choice {
    key: "kind",
    words: &[
        ("scenes", Kind::Scenes),
        ("sa1b", Kind::Sa1b),
        ("coco", Kind::Coco),
        ("maskmill", Kind::Maskmill),
    ],
    settings: &[
        ("seed", &[Kind::Scenes]),
        ("count", &[Kind::Scenes]),
        ("width", &[Kind::Scenes]),
        ("height", &[Kind::Scenes]),
        ("objects", &[Kind::Scenes]),
        ("shapes", &[Kind::Scenes]),
        ("textures", &[Kind::Scenes]),
        ("radius", &[Kind::Scenes]),
        ("parts", &[Kind::Scenes]),
        ("path", &[Kind::Sa1b]),
        ("annotations", &[Kind::Coco]),
        ("images", &[Kind::Coco, Kind::Maskmill]),
        ("output", &[Kind::Maskmill]),
    ],
};

/// Reads the array of tables `data` of `section`; each comes with the place where it is written.
pub(super) fn read_all(section: &mut Section<'_>, header: &str) -> Vec<(TrainingData, Origin)> {
    let shape = format!("tables, each with the header {header}");
    let Some(origin) = section.origin_of("data") else {
        return Vec::new();
    };
    let Some(nodes) = section.array("data", &shape) else {
        return Vec::new();
    };
    if nodes.is_empty() {
        section.note(Some(origin), "data", " is empty");
    }
    let mut all = Vec::new();
    for (at, node) in nodes.into_iter().enumerate() {
        let origin = node.origin.clone();
        let key = format!("data[{at}]");
        if let Some(table) = section.table(&key, node, &schema::TRAINING_DATA, &shape) {
            all.push((read_one(table), origin));
        }
    }
    all
}

fn read_one(mut table: Section<'_>) -> TrainingData {
    let kind = KIND.required(&mut table);
    if let Some(kind) = kind {
        KIND.refuse_others(&mut table, kind, |_| "");
    }
    let weight = table.number("weight", 1.0, 1e-6..=1e6);
    let min_area = table.number("min_area", 0.0, 0.0..=0.5);
    let kind = match kind {
        Some(Kind::Scenes) => {
            require(&mut table, "seed", "the number that scenes are made from");
            TrainingDataKind::Scenes {
                seed: table.integer("seed", 0, 0..=u64::MAX >> 1),
                count: table.integer_u32("count", 100_000, 1..=u32::MAX),
                // A scene without an object teaches nothing.
                scenes: SceneSettings::read(&mut table, 1),
            }
        }
        Some(Kind::Sa1b) => TrainingDataKind::Sa1b {
            path: required_path(&mut table, "path", "the folder of images and JSON files"),
        },
        Some(Kind::Coco) => TrainingDataKind::Coco {
            annotations: required_path(&mut table, "annotations", "the JSON file of instances"),
            images: required_path(&mut table, "images", "the folder of its images"),
        },
        Some(Kind::Maskmill) => TrainingDataKind::Maskmill {
            output: required_path(&mut table, "output", "the output directory of a job"),
            images: required_path(&mut table, "images", "the folder that was its source"),
        },
        None => {
            KIND.ignore_all(&mut table);
            TrainingDataKind::Sa1b {
                path: String::new(),
            }
        }
    };
    table.finish();
    TrainingData {
        kind,
        weight,
        min_area,
    }
}

fn require(table: &mut Section<'_>, key: &str, what: &str) {
    if table.origin_of(key).is_none() {
        table.note(None, key, &format!(" is missing: {what}"));
    }
}

fn required_path(table: &mut Section<'_>, key: &str, what: &str) -> String {
    table.required_location(key, location::LOCAL, what)
}
