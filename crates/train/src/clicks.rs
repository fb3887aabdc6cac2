//! Where a user would click: prompts drawn for training, and the fixed ones that evaluation uses.

use fastrand::Rng;
use maskmill_masks::{Bitmap, BoxPx, ImageSize};

/// A click: x and y in pixels, the centre of the clicked one being a whole number, and whether it lies on the object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Click {
    /// x and y, in pixels.
    pub xy_px: [f64; 2],
    /// Whether it is on the object.
    pub foreground: bool,
}

/// The widest that noise moves an edge of a box, as a fraction of the longer side of its image: 20 pixels of SAM's 1024
/// (appendix A).
const LARGEST_BOX_NOISE: f64 = 20.0 / 1024.0;

/// A pixel of `mask`, each as likely as any other, or none if it is empty.
pub fn random_inside(mask: &Bitmap, rng: &mut Rng) -> Option<[u32; 2]> {
    let area = usize::try_from(mask.area()).expect("a mask fits the memory");
    if area == 0 {
        return None;
    }
    let wanted = rng.usize(0..area);
    let mut inside = mask.as_slice().iter().enumerate().filter(|(_, v)| **v);
    let (index, _) = inside.nth(wanted).expect("an index below the area");
    Some(place(index, mask.size()))
}

/// x and y of a row-major index.
fn place(index: usize, size: ImageSize) -> [u32; 2] {
    let width = size.width as usize;
    [(index % width) as u32, (index / width) as u32]
}

/// A box whose edges each moved by a normally distributed distance of deviation `noise` times its side, at most a 51st
/// of the image's longer side, within the image; x0, y0, x1, y1 in pixels.
pub fn noisy_box(tight: BoxPx, size: ImageSize, noise: f64, rng: &mut Rng) -> [f64; 4] {
    let [x0, y0, x1, y1] = [tight.x0, tight.y0, tight.x1, tight.y1].map(f64::from);
    let largest = LARGEST_BOX_NOISE * f64::from(size.width.max(size.height));
    let mut moved = |edge: f64, side: f64, limit: u32| {
        let distance = (normal(rng) * noise * side).clamp(-largest, largest);
        (edge + distance).clamp(0.0, f64::from(limit))
    };
    let (width, height) = (x1 - x0, y1 - y0);
    let [a, b] = [moved(x0, width, size.width), moved(x1, width, size.width)];
    let [c, d] = [
        moved(y0, height, size.height),
        moved(y1, height, size.height),
    ];
    [a.min(b), c.min(d), a.max(b), c.max(d)]
}

/// Standard normal (Box and Muller).
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// A cell where prediction and target differ, each as likely as any other, and whether it belongs to the target; where
/// they agree, any cell of the target.
///
/// Both are row-major; the result is an index into them, or none where the target is empty and predicted so.
pub fn random_error(
    predicted: impl Iterator<Item = bool> + Clone,
    target: &[bool],
    rng: &mut Rng,
) -> Option<(usize, bool)> {
    let pairs = predicted.zip(target.iter().copied());
    let errors = pairs.clone().filter(|(p, t)| p != t).count();
    let wanted: fn(&(usize, (bool, bool))) -> bool = match errors {
        0 => |(_, (_, t))| *t,
        _ => |(_, (p, t))| p != t,
    };
    let count = match errors {
        0 => target.iter().filter(|t| **t).count(),
        _ => errors,
    };
    if count == 0 {
        return None;
    }
    let nth = rng.usize(0..count);
    let (index, (_, inside)) = pairs.enumerate().filter(wanted).nth(nth)?;
    Some((index, inside))
}

/// The click of a careful user: in the middle of the larger of what is missing and what is too much, or in the middle
/// of the object where nothing is wrong or nothing was predicted.
///
/// The middle is the pixel farthest from the region's outline (the protocol of RITM, Sofiiuk et al. 2021, and of SAM's
/// own evaluation), the first in reading order of several. None where the target is empty and predicted so.
///
/// # Panics
/// If the sizes differ.
pub fn middle_of_error(predicted: Option<&Bitmap>, target: &Bitmap) -> Option<Click> {
    let size = target.size();
    let of = |wanted: bool| match predicted {
        None => match wanted {
            true => target.clone(),
            false => Bitmap::new(size),
        },
        Some(predicted) => {
            assert_eq!(predicted.size(), size, "sizes of prediction and target");
            Bitmap::from_fn(size, |y, x| {
                target.get(y, x) == wanted && predicted.get(y, x) != wanted
            })
        }
    };
    let candidates = [(of(true), true), (of(false), false), (target.clone(), true)];
    let middles = candidates.iter().map(|(region, foreground)| {
        let (index, distance) = farthest_inside(region)?;
        Some((index, distance, *foreground))
    });
    let [missing, extra, whole] = middles.collect::<Vec<_>>().try_into().ok()?;
    let error = match (missing, extra) {
        (Some(m), Some(e)) if e.1 > m.1 => Some(e),
        (m, e) => m.or(e),
    };
    let (index, _, foreground) = error.or(whole)?;
    let [x, y] = place(index, size);
    Some(Click {
        xy_px: [f64::from(x), f64::from(y)],
        foreground,
    })
}

/// The pixel farthest from everything outside the region, the image's outside included, and its squared distance.
fn farthest_inside(region: &Bitmap) -> Option<(usize, u64)> {
    let bounds = region.bounds();
    let (width, height) = (
        (bounds.x1 - bounds.x0) as usize,
        (bounds.y1 - bounds.y0) as usize,
    );
    if width == 0 || height == 0 {
        return None;
    }
    // A border of outside around the region's box.
    let (columns, rows) = (width + 2, height + 2);
    let mut distances = vec![0_u64; columns * rows];
    let far = (columns * columns + rows * rows) as u64;
    for y in 0..height {
        let row = &region.row(bounds.y0 + y as u32)[bounds.x0 as usize..][..width];
        for (x, inside) in row.iter().enumerate() {
            distances[(y + 1) * columns + x + 1] = if *inside { far } else { 0 };
        }
    }
    squared_distances(&mut distances, columns, rows);
    let (mut best, mut best_distance) = (0, 0);
    for (index, distance) in distances.iter().enumerate() {
        if *distance > best_distance {
            (best, best_distance) = (index, *distance);
        }
    }
    let (x, y) = (best % columns - 1, best / columns - 1);
    let index = (bounds.y0 as usize + y) * region.size().width as usize + bounds.x0 as usize + x;
    Some((index, best_distance))
}

/// Squared Euclidean distances to the nearest 0, exactly: columns and then rows, each the lower envelope of parabolas
/// (Felzenszwalb and Huttenlocher, 2012).
fn squared_distances(values: &mut [u64], columns: usize, rows: usize) {
    let mut line = vec![0; columns.max(rows)];
    let mut envelope = Envelope::default();
    for x in 0..columns {
        for y in 0..rows {
            line[y] = values[y * columns + x];
        }
        envelope.lower(&line[..rows], |y, value| values[y * columns + x] = value);
    }
    for row in values.chunks_exact_mut(columns) {
        line[..columns].copy_from_slice(row);
        envelope.lower(&line[..columns], |x, value| row[x] = value);
    }
}

/// Parabolas by the place of their tops, and from where on each is the lowest.
#[derive(Default)]
struct Envelope {
    tops: Vec<usize>,
    from: Vec<f64>,
}

impl Envelope {
    fn lower(&mut self, heights: &[u64], mut set: impl FnMut(usize, u64)) {
        self.tops.clear();
        self.from.clear();
        let value = |at: usize| heights[at] as f64 + (at * at) as f64;
        for top in 0..heights.len() {
            let mut begins = f64::NEG_INFINITY;
            while let Some(&last) = self.tops.last() {
                begins = (value(top) - value(last)) / (2.0 * (top - last) as f64);
                if begins > self.from[self.from.len() - 1] {
                    break;
                }
                self.tops.pop();
                self.from.pop();
                begins = f64::NEG_INFINITY;
            }
            self.tops.push(top);
            self.from.push(begins);
        }
        let mut which = 0;
        for at in 0..heights.len() {
            while which + 1 < self.tops.len() && self.from[which + 1] < at as f64 {
                which += 1;
            }
            let top = self.tops[which];
            set(at, heights[top] + (at.abs_diff(top) as u64).pow(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_equal_those_of_a_search() {
        let mut rng = Rng::with_seed(3);
        for (columns, rows) in [(1, 7), (9, 1), (13, 8), (6, 17)] {
            let far = (columns * columns + rows * rows) as u64;
            let mut values: Vec<u64> = (0..columns * rows)
                .map(|_| if rng.u8(0..4) > 0 { far } else { 0 })
                .collect();
            values[rng.usize(0..columns * rows)] = 0;
            let zeros: Vec<usize> = (0..values.len()).filter(|i| values[*i] == 0).collect();
            squared_distances(&mut values, columns, rows);
            for (i, found) in values.iter().enumerate() {
                let to = |z: &usize| {
                    let dx = (i % columns).abs_diff(z % columns) as u64;
                    let dy = (i / columns).abs_diff(z / columns) as u64;
                    dx * dx + dy * dy
                };
                assert_eq!(*found, zeros.iter().map(to).min().unwrap());
            }
        }
    }

    fn target() -> Bitmap {
        Bitmap::from_ascii(
            "..........
             .#####....
             .#####....
             .#####..#.
             .#####....
             .#####....",
        )
    }

    #[test]
    fn the_first_click_is_in_the_middle() {
        let click = middle_of_error(None, &target()).unwrap();
        assert_eq!(
            click,
            Click {
                xy_px: [3.0, 3.0],
                foreground: true
            }
        );
    }

    #[test]
    fn later_clicks_go_where_most_is_wrong() {
        let target = target();
        // Two columns are missing at the left, and a block of three is too much at the right.
        let predicted = Bitmap::from_ascii(
            "......###.
             ...#####..
             ...#####..
             ...##.....
             ...###....
             ...###....",
        );
        let click = middle_of_error(Some(&predicted), &target).unwrap();
        assert!(click.foreground || click.xy_px[0] >= 6.0);
        assert!(target.get(click.xy_px[1] as u32, click.xy_px[0] as u32) == click.foreground);
        let right = middle_of_error(Some(&target), &target).unwrap();
        assert!(right.foreground);
        let nothing = Bitmap::new(target.size());
        assert_eq!(middle_of_error(Some(&nothing), &nothing), None);
        let only_extra = middle_of_error(Some(&target), &nothing).unwrap();
        assert_eq!(
            only_extra,
            Click {
                xy_px: [3.0, 3.0],
                foreground: false
            }
        );
    }

    #[test]
    fn random_clicks_are_inside_and_reach_everywhere() {
        let target = target();
        let mut rng = Rng::with_seed(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let [x, y] = random_inside(&target, &mut rng).unwrap();
            assert!(target.get(y, x));
            seen.insert((y, x));
        }
        assert_eq!(seen.len() as u64, target.area());
        assert_eq!(random_inside(&Bitmap::new(target.size()), &mut rng), None);
    }

    #[test]
    fn errors_are_drawn_where_they_are() {
        let target = [true, true, false, false];
        let mut rng = Rng::with_seed(1);
        for _ in 0..50 {
            let predicted = [true, false, true, false];
            let (index, inside) = random_error(predicted.into_iter(), &target, &mut rng).unwrap();
            assert!(index == 1 && inside || index == 2 && !inside);
            let (index, inside) = random_error(target.into_iter(), &target, &mut rng).unwrap();
            assert!(index < 2 && inside);
        }
        assert_eq!(random_error([false].into_iter(), &[false], &mut rng), None);
    }

    #[test]
    fn noise_moves_edges_within_the_image() {
        let size = ImageSize::new(60, 1024);
        let tight = BoxPx {
            x0: 10,
            y0: 5,
            x1: 90,
            y1: 45,
        };
        let mut rng = Rng::with_seed(2);
        let mut sum = 0.0;
        for _ in 0..2000 {
            let [x0, y0, x1, y1] = noisy_box(tight, size, 0.1, &mut rng);
            assert!(0.0 <= x0 && x0 <= x1 && x1 <= 1024.0 && 0.0 <= y0 && y0 <= y1 && y1 <= 60.0);
            assert!((y1 - 45.0).abs() <= 20.0);
            sum += (y1 - 45.0).powi(2);
        }
        let deviation = (sum / 2000.0_f64).sqrt();
        assert!((3.5..4.5).contains(&deviation), "{deviation}");
        assert_eq!(
            noisy_box(tight, size, 0.0, &mut rng),
            [10.0, 5.0, 90.0, 45.0]
        );
        // On an image of half the size, half as far.
        let half = ImageSize::new(512, 512);
        let moved = (0..100).map(|_| (noisy_box(tight, half, 1.0, &mut rng)[3] - 45.0).abs());
        assert_eq!(moved.fold(0.0, f64::max), 10.0);
    }
}
