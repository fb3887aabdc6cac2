//! Removes what no marker and no plan names, once it is old enough.
//!
//! ```text
//!  masks/, images/    parts that no marker names: attempts that died before their marker, or lost a race
//!  _plan/             item files that no head names: a planner that lost a race
//!  _workers/          signs of life of workers that died
//!  _failures/         records of shards that were committed since
//! ```
//!
//! A worker puts its parts some seconds before its marker, so an age of hours is safe; a worker that
//! was stopped in between for longer looks after its parts again before it writes the marker (see
//! `maskmill_storage::commit`). Ages are told by the store's clock, not by this machine's.

use std::collections::HashSet;
use std::time::Duration;

use maskmill_storage::layout;

use crate::output::{JobOutput, OutputError};

/// Nothing younger is ever removed: a commit may be under way.
pub const YOUNGEST: Duration = Duration::from_secs(600);

/// What was found, and maybe removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Paths below the output's root.
    pub paths: Vec<String>,
    /// Their sizes together.
    pub bytes: u64,
    /// Objects that nothing names and that are too young.
    pub young: u64,
    /// Unfinished files of killed processes on a local disk that were removed.
    pub staging: u64,
}

impl JobOutput {
    /// Finds what is older than `older_than` (at least [`YOUNGEST`]) and not named by anything, and
    /// removes it if `remove`. Idempotent.
    ///
    /// # Errors
    /// A marker that cannot be read (what it names is unknown then), or the store fails.
    pub fn collect_garbage(
        &self,
        older_than: Duration,
        remove: bool,
    ) -> Result<Garbage, OutputError> {
        let older_than = older_than.max(YOUNGEST);
        let now = self.runtime.block_on(self.store.now())?;
        // Listed before the markers are read: a part that is committed meanwhile is named by then.
        let mut found = Vec::new();
        for folder in [
            layout::MASKS,
            layout::IMAGES,
            layout::PLAN,
            layout::WORKERS,
            layout::FAILURES,
        ] {
            found.extend(self.runtime.block_on(self.store.list(folder))?);
        }
        let named = self.named()?;
        let committed = self.committed_shards()?;
        let mut garbage = Garbage::default();
        for object in found {
            let is_needed = named.contains(&object.path)
                || layout::is_plan_head(&object.path)
                || layout::shard_of_failure(&object.path)
                    .is_some_and(|shard| !committed.contains(&shard));
            if is_needed {
                continue;
            }
            let age = now.duration_since(object.modified).unwrap_or_default();
            if age < older_than {
                garbage.young += 1;
                continue;
            }
            garbage.bytes += object.bytes;
            garbage.paths.push(object.path);
        }
        if remove {
            self.runtime.block_on(self.store.delete(&garbage.paths))?;
            garbage.staging = self
                .runtime
                .block_on(self.store.sweep_staging(older_than))?;
        }
        Ok(garbage)
    }

    /// The parts of markers and the item files of the plan.
    fn named(&self) -> Result<HashSet<String>, OutputError> {
        let mut named = HashSet::new();
        for marker in self.markers()? {
            named.extend([marker.masks.path, marker.images.path]);
        }
        let files = self.plan().segments().iter().flat_map(|s| &s.files);
        named.extend(files.map(|file| file.path.clone()));
        Ok(named)
    }
}
