//! Generated scenes as images of a source: a key for each seed, and the PNG file that is made for it.
//!
//! A scene is planned like an object: its key names the seed, its etag the generator's version. Whoever reads it makes it, so
//! every worker has all scenes without a store. A plan of another generator's scenes gives `changed` rows, as objects that are
//! not what was listed do.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use maskmill_formats::overlay::encode_png;
use maskmill_job::{Item, ItemKind, Source};
use maskmill_scenes::{SceneOptions, VERSION};
use maskmill_storage::{Expect, ObjectFacts, ReadError};

use crate::pool::in_pool;

/// What keys begin with; the seed follows, with eight digits at least.
const KEY: &str = "scene-";

/// The scenes of a source, none of them made yet.
#[derive(Clone)]
pub(crate) struct Scenes {
    options: Arc<SceneOptions>,
    first_seed: u64,
    count: u32,
}

impl Scenes {
    /// The scenes that `source` asks for; none if it is of another kind.
    pub(crate) fn of(source: &Source) -> Option<Self> {
        let Source::Scenes {
            seed,
            count,
            scenes,
            images_per_shard: _,
        } = source
        else {
            return None;
        };
        Some(Self {
            options: Arc::new(scenes.options()),
            first_seed: *seed,
            count: *count,
        })
    }

    /// An item for each scene. How many bytes it will have is not known.
    pub(crate) fn items(&self) -> Vec<Item> {
        let seeds = self.first_seed..self.first_seed + u64::from(self.count);
        let item = |seed| Item {
            key: format!("{KEY}{seed:08}").into(),
            uri: None,
            bytes: 0,
            etag: Some(etag().into()),
            kind: ItemKind::Image,
            extras: None,
        };
        seeds.map(item).collect()
    }

    /// The PNG file of the scene `key`, made on the pool. The same bytes each time, of one build.
    ///
    /// # Errors
    /// [`ReadError::Missing`] if there is no such scene, [`ReadError::Changed`] if it was planned for another version of the
    /// generator, [`ReadError::TooLarge`].
    pub(crate) async fn png(
        &self,
        key: &str,
        expect: Expect<'_>,
        max_bytes: u64,
    ) -> Result<Bytes, ReadError> {
        let seed = self.seed_of(key).ok_or(ReadError::Missing)?;
        if let Some(planned) = expect.etag.filter(|planned| *planned != etag()) {
            let detail = format!(
                "it was planned as {planned}, and this build makes {}",
                etag()
            );
            return Err(ReadError::Changed { detail });
        }
        let options = self.options.clone();
        let made =
            tokio::task::spawn_blocking(move || in_pool(|| encode_png(&options.scene(seed).image)));
        let png = made.await.expect("a scene does not panic");
        let png = png.map_err(|error| ReadError::Unreadable {
            source: io::Error::other(error),
        })?;
        let bytes = png.len() as u64;
        if bytes > max_bytes {
            let limit = max_bytes;
            return Err(ReadError::TooLarge { bytes, limit });
        }
        Ok(png.into())
    }

    /// What is known of the scene `key` without making it.
    ///
    /// # Errors
    /// [`ReadError::Missing`] if there is no such scene.
    pub(crate) fn facts(&self, key: &str) -> Result<ObjectFacts, ReadError> {
        self.seed_of(key).ok_or(ReadError::Missing)?;
        Ok(ObjectFacts {
            bytes: 0,
            etag: Some(etag()),
        })
    }

    fn seed_of(&self, key: &str) -> Option<u64> {
        let seed: u64 = key.strip_prefix(KEY)?.parse().ok()?;
        let number = seed.checked_sub(self.first_seed)?;
        (number < u64::from(self.count)).then_some(seed)
    }
}

/// The name of scenes' content, in place of a store's.
fn etag() -> String {
    format!("scenes-{VERSION}")
}

#[cfg(test)]
mod tests {
    use maskmill_formats::decode::{DecodeLimits, decode};
    use maskmill_job::SceneSettings;
    use maskmill_masks::ImageSize;

    use super::*;

    fn scenes() -> Scenes {
        let source = Source::Scenes {
            seed: 99_999_999,
            count: 3,
            scenes: SceneSettings {
                width: [40, 40],
                height: [32, 32],
                objects: [1, 3],
                ..SceneSettings::default()
            },
            images_per_shard: 2,
        };
        Scenes::of(&source).unwrap()
    }

    fn make(key: &str, etag: Option<&str>, max_bytes: u64) -> Result<Bytes, ReadError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let expect = Expect { bytes: None, etag };
        runtime.block_on(scenes().png(key, expect, max_bytes))
    }

    #[test]
    fn a_scene_is_planned_for_each_seed() {
        let items = scenes().items();
        let keys: Vec<&str> = items.iter().map(|item| &*item.key).collect();
        assert_eq!(
            keys,
            ["scene-99999999", "scene-100000000", "scene-100000001"]
        );
        assert!(items.iter().all(|item| item.images() == Some(1)));
    }

    #[test]
    fn the_file_of_a_scene_is_its_image() {
        let etag = etag();
        let png = make("scene-100000000", Some(&etag), u64::MAX).unwrap();
        assert_eq!(png, make("scene-100000000", Some(&etag), u64::MAX).unwrap());
        let decoded = decode(&png, &DecodeLimits::default()).unwrap().image;
        assert_eq!(decoded.size(), ImageSize::new(32, 40));
        assert_eq!(decoded, scenes().options.scene(100_000_000).image);
    }

    #[test]
    fn scenes_that_were_not_planned_are_told_from_those_of_another_generator() {
        for key in ["scene-99999998", "scene-100000002", "scene-", "photo.jpg"] {
            let answer = make(key, None, u64::MAX);
            assert!(matches!(answer, Err(ReadError::Missing)), "{key}");
            assert!(scenes().facts(key).is_err());
        }
        let other = make("scene-99999999", Some("scenes-0"), u64::MAX).unwrap_err();
        assert_eq!(other.reject_reason(), Some("changed"));
        let large = make("scene-99999999", None, 100).unwrap_err();
        assert_eq!(large.reject_reason(), Some("too_large"));
        assert_eq!(scenes().facts("scene-99999999").unwrap().etag, Some(etag()));
    }
}
