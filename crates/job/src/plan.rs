//! The frozen plan: the chain of its segments, each checked against the one before.

use crate::fingerprint::Fingerprint;
use crate::item::{Item, items_digest};
use crate::segment::{SEGMENT_VERSION, Segment, SegmentFile};
use crate::shard::{Shard, ShardId};

/// A frozen plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was written by a build with another layout of plans.
    #[error(
        "{place} is a plan of version {found}; this build of maskmill reads version \
         {SEGMENT_VERSION}. Use the build that wrote it, or another output directory"
    )]
    Version {
        /// The object.
        place: String,
        /// Its version.
        found: u32,
    },

    /// It is not as it was written.
    #[error(
        "{place}: the plan was edited by hand or is damaged: {detail}. Restore it from a copy, or \
         plan again into another output directory"
    )]
    Damaged {
        /// The object, segment or shard.
        place: String,
        /// What does not agree.
        detail: String,
    },

    /// A link of the chain is not there.
    #[error(
        "segment {number:06} of the plan is missing. Restore it from a copy, or plan again into \
         another output directory"
    )]
    Missing {
        /// The number of the first segment that is missing.
        number: u32,
    },

    /// A segment was planned for other rows.
    #[error(
        "segment {number:06} of the plan is of another job: its fingerprint is {found}, that of \
         the plan's first segment is {first}. Use another output directory"
    )]
    OtherJob {
        /// The segment.
        number: u32,
        /// Its fingerprint.
        found: Fingerprint,
        /// The fingerprint of the first segment.
        first: Fingerprint,
    },
}

impl PlanError {
    pub(crate) fn damaged(place: impl Into<String>, detail: impl Into<String>) -> Self {
        PlanError::Damaged {
            place: place.into(),
            detail: detail.into(),
        }
    }
}

/// A frozen plan: all its segments, which fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// At least one.
    segments: Vec<Segment>,
    /// The number of each segment's first shard; a segment without shards has that of the next.
    first_shards: Vec<ShardId>,
    next_shard: ShardId,
}

impl Plan {
    /// The plan of `segments`, in order.
    ///
    /// # Errors
    /// There is none, one is missing, or one does not follow from the one before: number, link,
    /// fingerprint or shards.
    pub fn of(segments: Vec<Segment>) -> Result<Self, PlanError> {
        let Some(first) = segments.first() else {
            return Err(PlanError::Missing { number: 0 });
        };
        let mut first_shards = Vec::with_capacity(segments.len());
        let mut next_shard = ShardId(0);
        let mut previous: Option<&Segment> = None;
        for (number, segment) in segments.iter().enumerate() {
            let number = u32::try_from(number).expect("fewer than 2^32 segments");
            check_link(segment, number, previous)?;
            if segment.fingerprint != first.fingerprint {
                return Err(PlanError::OtherJob {
                    number,
                    found: segment.fingerprint.clone(),
                    first: first.fingerprint.clone(),
                });
            }
            first_shards.push(next_shard);
            next_shard = end_of(segment, next_shard)?;
            previous = Some(segment);
        }
        Ok(Plan {
            segments,
            first_shards,
            next_shard,
        })
    }

    /// The links of the chain, in order; at least one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// All shards, numbered from 0 without gaps.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        let files = self.segments.iter().flat_map(|segment| &segment.files);
        files.flat_map(|file| &file.shards)
    }

    /// The shard of that number.
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        let file = self.file_of(id)?;
        file.shards.get((id.0 - file.first_shard.0) as usize)
    }

    /// The file that holds the items of the shard of that number.
    pub fn file_of(&self, id: ShardId) -> Option<&SegmentFile> {
        if id >= self.next_shard {
            return None;
        }
        // The last that begins at or before it: earlier ones with the same number have no shards.
        let segment = self.first_shards.partition_point(|first| *first <= id) - 1;
        let files = &self.segments[segment].files;
        let file = files.partition_point(|file| file.first_shard <= id) - 1;
        Some(&files[file])
    }

    /// How many images are planned, rejected ones included; `None` if there are tars. Shards that
    /// try rejected items again do not count: theirs were counted before.
    pub fn images(&self) -> Option<u64> {
        let mut shards = self.shards().filter(|shard| shard.retry_of.is_none());
        shards.try_fold(0_u64, |sum, shard| Some(sum.saturating_add(shard.images?)))
    }

    /// The bytes to read, as far as they are known, counted as [`Plan::images`] counts.
    pub fn bytes(&self) -> u64 {
        let shards = self.shards().filter(|shard| shard.retry_of.is_none());
        shards.fold(0, |sum, shard| sum.saturating_add(shard.bytes))
    }

    /// Which rows the job makes.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.segments[0].fingerprint
    }

    /// The digest of the last segment, which covers all of the plan.
    pub fn digest(&self) -> &str {
        let last = self.segments.last();
        &last.expect("a plan has a segment").digest
    }

    /// The number of the next segment's first shard, which is how many shards there are.
    pub fn next_shard(&self) -> ShardId {
        self.next_shard
    }
}

fn check_link(segment: &Segment, number: u32, previous: Option<&Segment>) -> Result<(), PlanError> {
    let damaged = |detail: String| PlanError::damaged(format!("segment {number:06}"), detail);
    if segment.number > number {
        return Err(PlanError::Missing { number });
    }
    if segment.number < number {
        let found = segment.number;
        return Err(damaged(format!("it says that it is segment {found:06}")));
    }
    segment.check().map_err(damaged)?;
    if segment.previous.as_ref() != previous.map(|previous| &previous.digest) {
        let what = "it continues another plan than that of the segment before it";
        return Err(damaged(what.to_string()));
    }
    Ok(())
}

/// The number behind the segment's last shard, if its shards begin at `next`.
fn end_of(segment: &Segment, next: ShardId) -> Result<ShardId, PlanError> {
    let damaged =
        |detail: String| PlanError::damaged(format!("segment {:06}", segment.number), detail);
    let Some((first, last)) = segment.files.first().zip(segment.files.last()) else {
        return Ok(next);
    };
    if first.first_shard != next {
        let found = first.first_shard;
        return Err(damaged(format!(
            "its shards begin at {found} instead of {next}"
        )));
    }
    let end = u32::try_from(last.end());
    end.map(ShardId)
        .map_err(|_| damaged("it has more than 2^32 shards".to_string()))
}

/// Checks that `items`, read from a file of the plan, are those that were planned for `shard`.
///
/// # Errors
/// [`PlanError::Damaged`], naming the shard; [`Plan::file_of`] names the file.
pub fn check_items(shard: &Shard, items: &[Item]) -> Result<(), PlanError> {
    let damaged =
        |detail: String| PlanError::damaged(format!("items of shard {}", shard.id), detail);
    if items.len() as u64 != u64::from(shard.items) {
        let (found, planned) = (items.len(), shard.items);
        return Err(damaged(format!("{found} were found, {planned} planned")));
    }
    let digest = items_digest(items);
    if digest != shard.digest {
        let planned = &shard.digest;
        return Err(damaged(format!("their digest is {digest}, not {planned}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::tests::{draft, fingerprint, images};
    use crate::segment::{SegmentFile, SegmentKind};

    /// Shards 0 to 2 in two files, then a night without anything new, then shards 3 and 4, then
    /// shard 1 again.
    fn chain() -> Vec<Segment> {
        let first = Segment::seal(draft(None, 0, &[&["a", "b", "c"], &["d"]]));
        let quiet = Segment::seal(draft(Some(&first), 3, &[]));
        let grown = Segment::seal(draft(Some(&quiet), 3, &[&["x", "y", "z"]]));
        let mut retry = draft(Some(&grown), 5, &[&["c"]]);
        retry.kind = SegmentKind::Retry;
        let file = retry.files.remove(0);
        let mut shards = file.shards;
        shards[0].retry_of = Some(ShardId(1));
        retry.files = vec![SegmentFile::new(file.path, ShardId(5), shards)];
        vec![first, quiet, grown, Segment::seal(retry)]
    }

    #[test]
    fn a_chain_is_one_plan() {
        let plan = Plan::of(chain()).unwrap();
        let ids: Vec<u32> = plan.shards().map(|shard| shard.id.0).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
        assert_eq!(plan.next_shard(), ShardId(6));
        assert_eq!(plan.images(), Some(7), "a, b, c, d, x, y, z; c only once");
        assert_eq!(plan.bytes(), (10 + 11 + 12) + 10 + (10 + 11 + 12));
        assert_eq!(plan.digest(), chain()[3].digest);
        assert_eq!(plan.fingerprint(), &fingerprint("f00d"));
        for shard in plan.shards() {
            assert_eq!(plan.shard(shard.id), Some(shard));
            let file = plan.file_of(shard.id).unwrap();
            assert!(file.shards.contains(shard), "{file:?}");
        }
        for none in [6, 7, u32::MAX] {
            assert_eq!(plan.shard(ShardId(none)), None);
            assert_eq!(plan.file_of(ShardId(none)), None);
        }
    }

    #[test]
    fn a_plan_of_nothing_has_no_shards() {
        let empty = Segment::seal(draft(None, 0, &[]));
        let plan = Plan::of(vec![empty]).unwrap();
        assert_eq!(plan.shards().count(), 0);
        assert_eq!((plan.images(), plan.bytes()), (Some(0), 0));
        assert_eq!(plan.shard(ShardId(0)), None);
    }

    #[test]
    fn tars_make_the_number_of_images_unknown() {
        let mut tars = draft(None, 0, &[&["a.tar"]]);
        let file = tars.files.remove(0);
        let mut shards = file.shards;
        shards[0].images = None;
        tars.files = vec![SegmentFile::new(file.path, ShardId(0), shards)];
        let plan = Plan::of(vec![Segment::seal(tars)]).unwrap();
        assert_eq!((plan.images(), plan.bytes()), (None, 10));
    }

    #[test]
    fn every_break_in_the_chain_is_refused() {
        let refused = |segments: Vec<Segment>, part: &str| {
            let said = Plan::of(segments).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        refused(Vec::new(), "segment 000000 of the plan is missing");
        let mut hole = chain();
        hole.remove(1);
        refused(hole, "segment 000001 of the plan is missing");
        let mut twice = chain();
        twice.insert(1, twice[0].clone());
        refused(
            twice,
            "segment 000001: the plan was edited by hand or is damaged: it says that it is segment 000000",
        );

        // Another plan's second segment.
        let other = Segment::seal(draft(None, 0, &[&["a", "b", "c"], &["e"]]));
        let mut swapped = chain();
        swapped[1] = Segment::seal(draft(Some(&other), 3, &[]));
        refused(swapped, "it continues another plan");

        let mut edited = chain();
        edited[2].files[0].shards[0].bytes += 1;
        refused(edited, "segment 000002: the plan was edited by hand");

        let first = chain().remove(0);
        let overlap = Segment::seal(draft(Some(&first), 2, &[&["x"]]));
        refused(
            vec![first.clone(), overlap],
            "its shards begin at 000002 instead of 000003",
        );

        let mut other_job = draft(Some(&first), 3, &[&["x"]]);
        other_job.fingerprint = fingerprint("beef");
        let other_job = Segment::seal(other_job);
        let error = Plan::of(vec![first, other_job]).unwrap_err();
        assert!(
            matches!(error, PlanError::OtherJob { number: 1, .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("its fingerprint is beef"),
            "{error}"
        );
    }

    #[test]
    fn items_of_a_shard_are_those_that_were_planned() {
        let plan = Plan::of(chain()).unwrap();
        let shard = plan.shard(ShardId(3)).unwrap();
        let items = images(&["x", "y"]);
        assert_eq!(check_items(shard, &items), Ok(()));
        let said = |items: &[Item]| check_items(shard, items).unwrap_err().to_string();
        let fewer = said(&items[..1]);
        assert!(
            fewer.starts_with(
                "items of shard 000003: the plan was edited by hand or is damaged: 1 were found, 2 planned."
            ),
            "{fewer}"
        );
        let mut edited = items.clone();
        edited[1].bytes += 1;
        let swapped = [items[1].clone(), items[0].clone()];
        for wrong in [edited.as_slice(), &swapped] {
            assert!(said(wrong).contains("their digest is"), "{}", said(wrong));
        }
    }
}
