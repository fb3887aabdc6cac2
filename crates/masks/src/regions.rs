//! Small holes and islands of a mask.

use crate::rle::RunBuilder;
use crate::{Bitmap, Rle};

/// Which small regions to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionMode {
    /// Fills small regions outside the mask.
    Holes,
    /// Clears small regions inside the mask; keeps the largest if all are small.
    Islands,
}

/// [`Rle::remove_small_regions`] for a bitmap.
///
/// # Panics
/// If the mask has more than `u32::MAX` pixels.
pub fn remove_small_regions(
    mask: &Bitmap,
    area_threshold: u64,
    mode: RegionMode,
) -> (Bitmap, bool) {
    let (cleaned, changed) = Rle::encode(mask).remove_small_regions(area_threshold, mode);
    if changed {
        (cleaned.decode(), true)
    } else {
        (mask.clone(), false)
    }
}

impl Rle {
    /// Removes regions of fewer than `area_threshold` pixels, and tells whether there were any.
    ///
    /// A region's pixels touch at sides or corners (8-connectivity), in holes as in islands. If no island is large
    /// enough the largest stays; the mask then counts as changed even if it was the only one.
    ///
    /// Follows `remove_small_regions` (segment-anything). Of several largest islands, the reference keeps the one that
    /// `cv2.connectedComponentsWithStats` labels first: OpenCV numbers regions by the first 2x2 block they reach, block
    /// rows before block columns. Works on the runs: the cost follows the outline, not the area.
    #[must_use]
    pub fn remove_small_regions(&self, area_threshold: u64, mode: RegionMode) -> (Rle, bool) {
        let inside = mode == RegionMode::Islands;
        let spans: Vec<Span> = self
            .column_spans(inside)
            .map(|(x, y0, y1)| Span { x, y0, y1 })
            .collect();
        let region_of = connect(&spans);
        let regions = measure(&spans, &region_of);

        // Regions are known by their first span; the other entries have no pixels.
        let small = |region: &Region| region.area > 0 && region.area < area_threshold;
        if !regions.iter().any(small) {
            return (self.clone(), false);
        }
        let mut keep: Vec<bool> = regions
            .iter()
            .map(|region| region.area > 0 && !small(region))
            .collect();
        if inside && !keep.contains(&true) {
            let largest = (0..regions.len())
                .min_by_key(|&i| (std::cmp::Reverse(regions[i].area), regions[i].first_block));
            if let Some(largest) = largest {
                keep[largest] = true;
            }
        }

        let height = self.size().height;
        let mut runs = RunBuilder::new(self.size());
        let mut position = 0;
        for (span, &region) in spans.iter().zip(&region_of) {
            if keep[region] {
                let start = span.x * height + span.y0;
                runs.push(!inside, start - position);
                runs.push(inside, span.y1 - span.y0);
                position = start + (span.y1 - span.y0);
            }
        }
        runs.push(!inside, self.size().pixels() as u32 - position);
        (runs.finish(), true)
    }
}

/// Rows `[y0, y1)` of column `x`.
#[derive(Clone, Copy)]
struct Span {
    x: u32,
    y0: u32,
    y1: u32,
}

/// What a region is ranked by.
#[derive(Clone, Copy)]
struct Region {
    area: u64,
    /// Block row and column of the first 2x2 block, in OpenCV's order.
    first_block: (u32, u32),
}

/// The region of every span, as the index of the region's first span. `spans` are in column-major order.
fn connect(spans: &[Span]) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..spans.len()).collect();
    // `left` runs over the spans of the previous column, `i` over those of the current one.
    let mut left = 0;
    for i in 0..spans.len() {
        let span = spans[i];
        while spans[left].x + 1 < span.x || (spans[left].x < span.x && spans[left].y1 < span.y0) {
            left += 1;
        }
        let mut neighbour = left;
        // Half-open rows that meet or overlap touch at least at a corner.
        while spans[neighbour].x < span.x && spans[neighbour].y0 <= span.y1 {
            unite(&mut parents, neighbour, i);
            neighbour += 1;
        }
    }
    (0..spans.len()).map(|i| root(&mut parents, i)).collect()
}

/// The first span of the region of span `i`, as far as is known.
fn root(parents: &mut [usize], mut i: usize) -> usize {
    while parents[i] != i {
        parents[i] = parents[parents[i]]; // halves the path for the next search
        i = parents[i];
    }
    i
}

fn unite(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b)] = a.min(b);
}

/// Area and first block of every region, at the index of its first span; area 0 at the others.
fn measure(spans: &[Span], region_of: &[usize]) -> Vec<Region> {
    let mut regions = vec![
        Region {
            area: 0,
            first_block: (u32::MAX, u32::MAX),
        };
        spans.len()
    ];
    for (span, &region) in spans.iter().zip(region_of) {
        let region = &mut regions[region];
        region.area += u64::from(span.y1 - span.y0);
        region.first_block = region.first_block.min((span.y0 / 2, span.x / 2));
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rle::tests::any_mask;
    use proptest::prelude::*;

    fn removed(drawing: &str, threshold: u64, mode: RegionMode) -> (String, bool) {
        let (mask, changed) = remove_small_regions(&Bitmap::from_ascii(drawing), threshold, mode);
        (mask.to_ascii(), changed)
    }

    #[test]
    fn small_holes_are_filled() {
        let ring = "
            #######.
            #.##..#.
            #.##..#.
            #######.
        ";
        let (filled, changed) = removed(ring, 3, RegionMode::Holes);
        assert!(changed);
        assert_eq!(filled, "#######.\n####..#.\n####..#.\n#######.\n");
    }

    #[test]
    fn holes_connect_at_corners() {
        let diagonal = "
            #####
            #.###
            ##.##
            #####
        ";
        let unchanged = Bitmap::from_ascii(diagonal).to_ascii();
        assert_eq!(removed(diagonal, 2, RegionMode::Holes), (unchanged, false));
        assert!(removed(diagonal, 3, RegionMode::Holes).1);
    }

    #[test]
    fn small_islands_are_cleared() {
        let islands = "
            ##....#
            ##...#.
            ......#
            #......
        ";
        let (cleared, changed) = removed(islands, 3, RegionMode::Islands);
        assert!(changed);
        assert_eq!(cleared, "##....#\n##...#.\n......#\n.......\n");
    }

    #[test]
    fn the_largest_island_stays_if_all_are_small() {
        let islands = "#..#.\n...#.\n#....\n";
        let (kept, changed) = removed(islands, 100, RegionMode::Islands);
        assert!(changed);
        assert_eq!(kept, "...#.\n...#.\n.....\n");
        // The only island counts as changed, as in the reference.
        assert_eq!(removed(&kept, 100, RegionMode::Islands), (kept, true));
    }

    #[test]
    fn of_equal_islands_the_first_block_stays() {
        // The right island is first in rows of pixels, the left one in rows of 2x2 blocks.
        let (kept, _) = removed("...#..\n#.....\n......\n", 9, RegionMode::Islands);
        assert_eq!(kept, "......\n#.....\n......\n");
    }

    #[test]
    fn all_of_a_mask_is_a_region_like_any_other() {
        let (empty, full) = ("....\n....\n", "####\n####\n");
        let outcome = |drawing: &str, changed| (drawing.to_owned(), changed);
        // An empty mask is one hole of 8 pixels, a full one is one island.
        assert_eq!(removed(empty, 8, RegionMode::Holes), outcome(empty, false));
        assert_eq!(removed(empty, 9, RegionMode::Holes), outcome(full, true));
        assert_eq!(removed(full, 8, RegionMode::Islands), outcome(full, false));
        assert_eq!(removed(full, 9, RegionMode::Islands), outcome(full, true));
        assert_eq!(
            removed(empty, 9, RegionMode::Islands),
            outcome(empty, false)
        );
        assert_eq!(removed(full, 9, RegionMode::Holes), outcome(full, false));
    }

    /// The definition on pixels: flood fill, then keep or drop. Regions come in OpenCV's order.
    fn by_flood_fill(mask: &Bitmap, threshold: u64, mode: RegionMode) -> (Bitmap, bool) {
        let size = mask.size();
        let inside = mode == RegionMode::Islands;
        let mut seen = Bitmap::new(size);
        let mut regions: Vec<Vec<(u32, u32)>> = Vec::new();
        for y in 0..size.height {
            for x in 0..size.width {
                if mask.get(y, x) != inside || seen.get(y, x) {
                    continue;
                }
                let mut region = vec![(y, x)];
                seen.set(y, x, true);
                let mut next = 0;
                while let Some(&(y, x)) = region.get(next) {
                    next += 1;
                    for ny in y.saturating_sub(1)..(y + 2).min(size.height) {
                        for nx in x.saturating_sub(1)..(x + 2).min(size.width) {
                            if mask.get(ny, nx) == inside && !seen.get(ny, nx) {
                                seen.set(ny, nx, true);
                                region.push((ny, nx));
                            }
                        }
                    }
                }
                regions.push(region);
            }
        }
        regions.sort_by_key(|region| region.iter().map(|&(y, x)| (y / 2, x / 2)).min());
        let is_small = |region: &Vec<(u32, u32)>| (region.len() as u64) < threshold;
        if !regions.iter().any(is_small) {
            return (mask.clone(), false);
        }
        let largest = regions.iter().map(Vec::len).max();
        let mut kept: Vec<&Vec<(u32, u32)>> = regions.iter().filter(|r| !is_small(r)).collect();
        if inside && kept.is_empty() {
            kept.extend(regions.iter().find(|region| Some(region.len()) == largest));
        }
        let mut result = Bitmap::from_fn(size, |_, _| !inside);
        for &(y, x) in kept.into_iter().flatten() {
            result.set(y, x, inside);
        }
        (result, true)
    }

    proptest! {
        #[test]
        fn regions_on_runs_are_regions_on_pixels(mask in any_mask(), threshold in 0u64..12) {
            for mode in [RegionMode::Holes, RegionMode::Islands] {
                let expected = by_flood_fill(&mask, threshold, mode);
                prop_assert_eq!(remove_small_regions(&mask, threshold, mode), expected);
            }
        }
    }
}
