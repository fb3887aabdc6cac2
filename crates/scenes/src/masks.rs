//! From the owners of pixels to masks.

use maskmill_masks::{ImageSize, Rle};

use crate::canvas::NOBODY;

/// The masks of all things, each with its parts, in one sweep over the owners.
///
/// # Shapes
/// - `owners`: `[height, width]`, row-major, an index into `parents` or [`NOBODY`]
/// - `parents`: whose part a thing is; a parent comes before its parts
///
/// Run lengths are column-major, so the sweep is. A thing's run ends or begins only where the owner changes.
pub(crate) fn masks(size: ImageSize, owners: &[u16], parents: &[Option<u16>]) -> Vec<Rle> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut runs: Vec<Runs> = vec![Runs::default(); parents.len()];
    let mut previous = NOBODY;
    let mut position = 0;
    for x in 0..width {
        for y in 0..height {
            let owner = owners[y * width + x];
            if owner != previous {
                let (left, entered) = (lineage(previous, parents), lineage(owner, parents));
                for thing in left
                    .clone()
                    .filter(|thing| !entered.clone().any(|other| other == *thing))
                {
                    runs[thing].turn(position);
                }
                for thing in entered.filter(|thing| !left.clone().any(|other| other == *thing)) {
                    runs[thing].turn(position);
                }
                previous = owner;
            }
            position += 1;
        }
    }
    runs.into_iter()
        .map(|runs| runs.finish(size, position))
        .collect()
}

/// A thing, whose part it is, whose part that is, ...
fn lineage(owner: u16, parents: &[Option<u16>]) -> impl Iterator<Item = usize> + Clone + '_ {
    let first = (owner != NOBODY).then_some(owner);
    std::iter::successors(first, |&thing| parents[usize::from(thing)]).map(usize::from)
}

/// Run lengths so far, alternating between outside and inside.
#[derive(Clone, Default)]
struct Runs {
    counts: Vec<u32>,
    covered: u32,
}

impl Runs {
    fn turn(&mut self, position: u32) {
        self.counts.push(position - self.covered);
        self.covered = position;
    }

    fn finish(mut self, size: ImageSize, end: u32) -> Rle {
        self.turn(end);
        Rle::from_counts(size, self.counts).expect("the runs cover the image")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wholes_hold_their_parts() {
        // 1 is a part of 0, 2 of 1; 3 stands alone.
        let parents = [None, Some(0), Some(1), None, None];
        let drawing = ["0012", "0.13", "..33"];
        let owners: Vec<u16> = drawing
            .iter()
            .flat_map(|row| row.bytes())
            .map(|byte| {
                if byte == b'.' {
                    NOBODY
                } else {
                    u16::from(byte - b'0')
                }
            })
            .collect();
        let masks = masks(ImageSize::new(3, 4), &owners, &parents);
        let drawn: Vec<String> = masks.iter().map(|mask| mask.decode().to_ascii()).collect();
        assert_eq!(
            drawn,
            [
                "####\n#.#.\n....\n",
                "..##\n..#.\n....\n",
                "...#\n....\n....\n",
                "....\n...#\n..##\n",
                "....\n....\n....\n",
            ]
        );
    }
}
