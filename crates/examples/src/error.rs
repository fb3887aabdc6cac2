//! What can be wrong with a source as a whole, and with one example of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use maskmill_formats::decode::DecodeError;
use maskmill_formats::rows::RowsError;
use maskmill_masks::{ImageSize, RleError};

use crate::TableError;
use crate::polygon::PolygonError;

/// Why an example cannot be used. The others of its source can be: count it and go on, or stop.
#[derive(Debug)]
pub struct ExampleError {
    /// The example's key.
    pub key: String,
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for ExampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, file, problem } = self;
        write!(f, "example {key:?}: {} {problem}", file.display())
    }
}

impl std::error::Error for ExampleError {
    /// What the problem was found by; the problem itself is in the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// What is wrong with an example. Messages continue "the file ...".
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file is not there, or may not be read.
    #[error("cannot be read; check that it is there and may be read")]
    Unreadable(#[source] io::Error),
    /// The file is no image, or a damaged one.
    #[error("cannot be decoded; replace the file, or leave the example out")]
    Image(#[source] DecodeError),
    /// The file is not the JSON it should be.
    #[error("is not {expected}; it may have been cut short, get it again")]
    Json {
        /// What it should be.
        expected: &'static str,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// The file names an image that could be outside of the folder of images.
    #[error("names the image {name:?}, which is not a path below the folder of images")]
    ImageName {
        /// The name.
        name: String,
    },
    /// The image has another size than the annotations say.
    #[error(
        "is for an image of {stated}, but the image has {image}: it was resized or turned after it was annotated, or \
         it is another image"
    )]
    ImageSize {
        /// The size in the annotations.
        stated: ImageSize,
        /// The decoded image's, upright.
        image: ImageSize,
    },
    /// A mask cannot be used.
    #[error("has a bad mask at {place}: {problem}")]
    Mask {
        /// Where in the file: `annotations[3]`.
        place: String,
        /// What is wrong with it.
        problem: MaskProblem,
    },
    /// There is no mask with a pixel.
    #[error("has no mask to learn from ({empty} without a pixel); leave the example out")]
    NoMasks {
        /// How many masks have no pixel.
        empty: usize,
    },
    /// Every mask is smaller than what was asked for.
    #[error("has no mask of at least {} % of its image; leave the example out, or ask for smaller ones", least * 100.0)]
    SmallMasks {
        /// The least part of the image.
        least: f64,
    },
    /// The image lies inside a tar or a table.
    #[error(
        "holds the image among others, which is not read for training: unpack it, so that the image is {}, and give \
         the folder", path.display()
    )]
    Packed {
        /// Where the image would be found.
        path: PathBuf,
    },
    /// The table of masks cannot be read.
    #[error(
        "cannot be read as a table of masks; `maskmill verify` tells what is wrong with an output"
    )]
    Table(#[source] TableError),
}

impl Problem {
    /// A stable code to count by: `unreadable`, `bad_image`, `bad_json`, `bad_name`, `image_size`, `bad_mask`,
    /// `mask_size`, `no_masks`, `small_masks`, `packed` or `bad_table`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Image(_) => "bad_image",
            Self::Json { .. } => "bad_json",
            Self::ImageName { .. } => "bad_name",
            Self::ImageSize { .. } => "image_size",
            Self::Mask {
                problem: MaskProblem::Size { .. },
                ..
            } => "mask_size",
            Self::Mask { .. } => "bad_mask",
            Self::NoMasks { .. } => "no_masks",
            Self::SmallMasks { .. } => "small_masks",
            Self::Packed { .. } => "packed",
            Self::Table(_) => "bad_table",
        }
    }

    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

/// What is wrong with a mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskProblem {
    /// Its runs do not make a mask.
    #[error("{0}")]
    Runs(#[from] RleError),
    /// A polygon that encloses nothing, or is not one.
    #[error("{0}")]
    Polygon(#[from] PolygonError),
    /// A run length that is none.
    #[error("a run of {count} pixels; run lengths are from 0 to 4294967295")]
    Count {
        /// The number.
        count: i64,
    },
    /// The id of an earlier mask.
    #[error(
        "its id {id} is an earlier mask's too; the file may have been put together wrongly, give it another id"
    )]
    RepeatedId {
        /// The id.
        id: String,
    },
    /// Another size than the image's.
    #[error(
        "it has {mask}, but the image has {image}: it belongs to another image or to another size of this one"
    )]
    Size {
        /// The mask's.
        mask: ImageSize,
        /// The image's, upright.
        image: ImageSize,
    },
    /// Run lengths without a size.
    #[error("the size of run lengths is [height, width], two whole numbers in pixels")]
    Shape,
}

/// Why a source cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or folder is not there, or may not be read.
    #[error("{} cannot be read; check the path", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to learn from.
    #[error("{} has no {what}; check the path", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not {expected}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// An entry of a file cannot be used, or contradicts another.
    #[error("{}: {place}: {detail}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where in the file: `images[3]`.
        place: String,
        /// What is wrong with it and what to do.
        detail: String,
    },
    /// No scene can be made of the options.
    #[error("scenes: {}", joined(problems))]
    Scenes {
        /// Everything that is wrong with them.
        problems: Vec<maskmill_scenes::OptionsError>,
    },
    /// A part of an output cannot be read.
    #[error("{} cannot be read as a table of maskmill", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RowsError,
    },
}

fn joined(problems: &[maskmill_scenes::OptionsError]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}
