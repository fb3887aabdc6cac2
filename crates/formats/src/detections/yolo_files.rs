//! A folder of YOLO label files, found by the names of the images they belong to.

use super::coco::AmbiguousImage;
use super::image_index::ImageIndex;

/// What label files are called behind their image's name.
const EXTENSION: &str = ".txt";

/// Label files by name, not parsed: the size of an image is needed for that.
#[derive(Debug)]
pub struct YoloFiles {
    index: ImageIndex,
    texts: Vec<String>,
}

impl YoloFiles {
    /// `files`: names below the folder, with `/`, and what is in them.
    pub fn new(files: Vec<(String, String)>) -> Self {
        let (names, texts): (Vec<String>, Vec<String>) = files.into_iter().unzip();
        let stem = |name: String| {
            name.strip_suffix(EXTENSION)
                .map(str::to_owned)
                .unwrap_or(name)
        };
        let stems = names.into_iter().map(stem).collect();
        Self {
            index: ImageIndex::new(stems, false),
            texts,
        }
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// The label file of an image; `None` if it has none, which in YOLO's convention means that nothing is on it.
    ///
    /// `images/train/a.jpg` has `train/a.txt`, or the only `a.txt` in any folder: names are compared without
    /// extensions, as those of COCO files are.
    ///
    /// # Errors
    /// [`AmbiguousImage`] if it may be either of two files.
    pub fn of(&self, image_key: &str) -> Result<Option<&str>, AmbiguousImage> {
        let name = |place| format!("{}{EXTENSION}", self.index.name(place));
        match self.index.find(image_key) {
            Ok(place) => Ok(place.map(|place| self.texts[place].as_str())),
            Err((first, second)) => Err(AmbiguousImage {
                key: image_key.to_owned(),
                first: name(first),
                second: name(second),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> YoloFiles {
        let of = |name: &&str| ((*name).to_owned(), format!("in {name}"));
        YoloFiles::new(names.iter().map(of).collect())
    }

    #[test]
    fn an_image_has_the_file_of_its_name() {
        let files = files(&["train/a.txt", "val/a.txt", "val/b.txt"]);
        assert_eq!(files.of("train/a.jpg").unwrap(), Some("in train/a.txt"));
        assert_eq!(files.of("images/val/a.png").unwrap(), Some("in val/a.txt"));
        assert_eq!(files.of("tars/000.tar/b").unwrap(), Some("in val/b.txt"));
        assert_eq!(files.of("c.jpg").unwrap(), None);
        assert_eq!(files.count(), 3);
    }

    #[test]
    fn two_files_for_an_image_are_an_error() {
        let error = files(&["train/a.txt", "val/a.txt"])
            .of("a.jpg")
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("train/a.txt") && said.contains("val/a.txt"),
            "{said}"
        );
    }
}
