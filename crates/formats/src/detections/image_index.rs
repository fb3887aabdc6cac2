//! Which image of a file an image of the source is, by what both are called.
//!
//! A file rarely has the paths that the images have now: they were moved, packed into tars, converted. So names are
//! compared ever more loosely, and the first of these that finds any image decides:
//!
//! ```text
//! the whole path                      train/a.jpg     is  train/a.jpg
//! one path ends in the other          data/train/a.jpg is train/a.jpg, and of several the longest
//! the file name                       x/a.jpg         is  y/a.jpg
//! the same two without extensions     x/a.png         is  y/a.jpg
//! up to the first dot, as tars do     t.tar/a         is  a.left.jpg
//! the number, where names are ids     000000000139.jpg is 139
//! ```
//! If it finds more than one, there is no telling: that is an error, not a guess.

use crate::tar_shard::is_image_extension;

/// The images of a file, found by name.
#[derive(Debug)]
pub(super) struct ImageIndex {
    /// Paths with `/`; or ids as texts.
    names: Vec<String>,
    /// Places in `names`, sorted by name.
    by_name: Vec<u32>,
    /// Sorted by the file name without its extension.
    by_stem: Vec<u32>,
    /// Sorted by the file name up to its first dot.
    by_first_dot: Vec<u32>,
    are_ids: bool,
}

/// Two images that a name may mean.
pub(super) type Several = (usize, usize);

impl ImageIndex {
    /// `are_ids`: the names are ids, which may be the numbers in file names.
    ///
    /// # Panics
    /// If there are 2^32 names or more.
    pub(super) fn new(names: Vec<String>, are_ids: bool) -> Self {
        let count = u32::try_from(names.len()).expect("fewer than 2^32 images");
        let sorted = |view: fn(&str) -> &str| {
            let mut places: Vec<u32> = (0..count).collect();
            places.sort_by_key(|at| view(&names[*at as usize]));
            places
        };
        Self {
            by_name: sorted(|name| name),
            by_stem: sorted(stem_of),
            by_first_dot: sorted(first_of),
            names,
            are_ids,
        }
    }

    pub(super) fn name(&self, image: usize) -> &str {
        &self.names[image]
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The image that `key` is; `None` if it is none of them.
    pub(super) fn find(&self, key: &str) -> Result<Option<usize>, Several> {
        let whole = self.equal(&self.by_name, |name| name, key);
        if let Some(found) = only(whole.iter().copied()) {
            return found.map(Some);
        }
        let stem = without_extension(key);
        let candidates = self.equal(&self.by_stem, stem_of, file_name(stem));
        let found = self
            .nearest(candidates, |name| name, key)
            .or_else(|| self.nearest(candidates, without_extension, stem));
        if let Some(found) = found {
            return found.map(Some);
        }
        if !file_name(key).contains('.') {
            let candidates = self.equal(&self.by_first_dot, first_of, file_name(key));
            if let Some(found) = self.nearest(candidates, up_to_first_dot, key) {
                return found.map(Some);
            }
        }
        let digits = file_name(stem);
        if self.are_ids && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = match digits.trim_start_matches('0') {
                "" => "0",
                number => number,
            };
            let same = self.equal(&self.by_name, |name| name, number);
            return only(same.iter().copied()).transpose();
        }
        Ok(None)
    }

    /// Of places sorted by `view` those where it gives `wanted`.
    fn equal<'a>(&self, sorted: &'a [u32], view: fn(&str) -> &str, wanted: &str) -> &'a [u32] {
        let view = |at: &u32| view(&self.names[*at as usize]);
        let start = sorted.partition_point(|at| view(at) < wanted);
        let end = start + sorted[start..].partition_point(|at| view(at) == wanted);
        &sorted[start..end]
    }

    /// Of `candidates` the one whose path shares the longest end with `path`, one of the two paths being all of it; else
    /// the only one with its file name.
    fn nearest(
        &self,
        candidates: &[u32],
        view: fn(&str) -> &str,
        path: &str,
    ) -> Option<Result<usize, Several>> {
        let name = |at: &u32| view(&self.names[*at as usize]);
        let shared = |at: &u32| shared_end(name(at), path);
        let longest = candidates.iter().filter_map(shared).max();
        let is_nearest = |at: &&u32| match longest {
            Some(longest) => shared(at) == Some(longest),
            None => file_name(name(at)) == file_name(path),
        };
        only(candidates.iter().filter(is_nearest).copied())
    }
}

fn only(mut places: impl Iterator<Item = u32>) -> Option<Result<usize, Several>> {
    let first = places.next()? as usize;
    Some(match places.next() {
        None => Ok(first),
        Some(second) => Err((first, second as usize)),
    })
}

/// The length of the shorter path, if the longer one ends in it.
fn shared_end(a: &str, b: &str) -> Option<usize> {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let before = long.strip_suffix(short)?;
    (before.is_empty() || before.ends_with('/')).then_some(short.len())
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The path without the extension of an image. Other dots belong to the name: `v1.2` is not `v1`.
fn without_extension(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, extension)) if is_image_extension(extension) => stem,
        _ => path,
    }
}

fn up_to_first_dot(path: &str) -> &str {
    let name = file_name(path);
    let cut = name.find('.').map_or(0, |dot| name.len() - dot);
    &path[..path.len() - cut]
}

/// The file name without the extension of an image.
fn stem_of(path: &str) -> &str {
    file_name(without_extension(path))
}

/// The file name up to its first dot.
fn first_of(path: &str) -> &str {
    file_name(up_to_first_dot(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(names: &[&str]) -> ImageIndex {
        ImageIndex::new(names.iter().map(|name| name.to_string()).collect(), false)
    }

    fn ids(names: &[&str]) -> ImageIndex {
        ImageIndex::new(names.iter().map(|name| name.to_string()).collect(), true)
    }

    #[test]
    fn the_exact_match_comes_before_the_loose_ones() {
        let index = index(&["a.jpg", "train/a.jpg", "val/a.jpg", "train/a.png", "b.jpg"]);
        for (key, expected) in [
            ("a.jpg", Ok(Some(0))),
            ("train/a.jpg", Ok(Some(1))),
            ("data/val/a.jpg", Ok(Some(2))),
            ("train/a.png", Ok(Some(3))),
            // Only the file in no folder ends it.
            ("test/a.jpg", Ok(Some(0))),
            ("a.png", Ok(Some(3))),
            ("x/y/b.jpg", Ok(Some(4))),
            ("x/y/b.webp", Ok(Some(4))),
            ("t.tar/b", Ok(Some(4))),
            ("t.tar/val/a", Ok(Some(2))),
            // The extension does not say which of the two.
            ("train/a.webp", Err((1, 3))),
            ("c.jpg", Ok(None)),
            ("", Ok(None)),
        ] {
            assert_eq!(index.find(key), expected, "{key}");
        }
    }

    #[test]
    fn one_name_in_two_folders_is_not_guessed() {
        let index = index(&[
            "train/a.jpg",
            "val/a.jpg",
            "val/b.jpg",
            "same.jpg",
            "same.jpg",
        ]);
        assert_eq!(index.find("a.jpg"), Err((0, 1)));
        assert_eq!(index.find("test/a.jpg"), Err((0, 1)));
        assert_eq!(index.find("test/a.png"), Err((0, 1)));
        assert_eq!(
            index.find("retrain/a.jpg"),
            Err((0, 1)),
            "not a folder's end"
        );
        assert_eq!(index.find("test/b.jpg"), Ok(Some(2)));
        assert_eq!(index.find("same.jpg"), Err((3, 4)));
    }

    #[test]
    fn dots_in_names_are_of_the_names() {
        let index = index(&["v1.1.jpg", "v1.2.jpg", "b.left.jpg"]);
        assert_eq!(index.find("x/v1.2.png"), Ok(Some(1)));
        assert_eq!(index.find("v1.2"), Ok(Some(1)));
        assert_eq!(index.find("v1.3.jpg"), Ok(None));
        assert_eq!(index.find("b.right.jpg"), Ok(None));
        // The key of a tar's sample ends at the first dot.
        assert_eq!(index.find("t.tar/b"), Ok(Some(2)));
        assert_eq!(index.find("t.tar/v1"), Err((0, 1)));
    }

    #[test]
    fn ids_are_names_or_the_numbers_in_names() {
        let index = ids(&["139", "0", "0285", "cat-7", "val/x.jpg"]);
        for (key, expected) in [
            ("val2017/000000000139.jpg", Some(0)),
            ("t.tar/000000000139", Some(0)),
            ("0000.png", Some(1)),
            ("a/0285.jpg", Some(2)),
            ("a/285.jpg", None),
            ("a/cat-7.jpg", Some(3)),
            ("a/val/x.jpg", Some(4)),
            ("a/x.png", Some(4)),
            ("img_139.jpg", None),
        ] {
            assert_eq!(index.find(key), Ok(expected), "{key}");
        }
        // Beside a list of images, numbers are names like others.
        assert_eq!(super::tests::index(&["139"]).find("000139.jpg"), Ok(None));
    }

    proptest! {
        #[test]
        fn every_image_is_found_by_its_own_path(
            names in proptest::collection::btree_set("[ab./0]{1,5}", 1..8),
            are_ids in any::<bool>(),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let index = ImageIndex::new(names.clone(), are_ids);
            for (at, name) in names.iter().enumerate() {
                prop_assert_eq!(index.find(name), Ok(Some(at)));
            }
        }

        #[test]
        fn any_key_finds_an_image_of_its_name_or_none(
            names in proptest::collection::vec("[ab./]{0,5}", 0..6),
            key in "[ab./]{0,5}",
        ) {
            let index = ImageIndex::new(names, false);
            let found = match index.find(&key) {
                Ok(found) => found.into_iter().collect(),
                Err((first, second)) => {
                    prop_assert_ne!(first, second);
                    vec![first, second]
                }
            };
            for image in found {
                let name = index.name(image);
                prop_assert!(stem_of(name) == stem_of(&key) || first_of(name) == file_name(&key));
            }
        }
    }
}
