//! Which box is to show which object: the assignment of least cost (Kuhn 1955; Munkres 1957), as in DETR.

use maskmill_job::GrounderLoss;
use pathfinding::prelude::{Matrix, kuhn_munkres_min};

use super::queries::ImageTruth;

/// Costs are compared in steps of this: the algorithm wants numbers that add up exactly.
const STEP: f64 = 1e-6;
/// Kept away from 0 under a logarithm, as Deformable DETR has it.
const TINY: f64 = 1e-8;

/// A box and the object that it is to show, by their numbers in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The box, or patch.
    pub patch: usize,
    /// In [`ImageTruth::objects`].
    pub object: usize,
}

/// Assigns boxes to the objects of an image: `settings.boxes_per_object` to each, fewer where there are not enough boxes.
/// Ordered by box.
///
/// The cost of a box for an object is that of `HungarianMatcher` (Deformable DETR, Zhu et al. 2021), by the weights of the
/// loss: what the focal loss would change by, the mean over the queries that are true of the object; the L1 distance of
/// boxes; less the generalised IoU.
///
/// # Shapes
/// - `logits`: `[boxes, queries]`, row-major
/// - `boxes`: centre x, centre y, width, height in fractions of the input
pub fn matches(
    logits: &[f32],
    boxes: &[[f32; 4]],
    truth: &ImageTruth,
    settings: &GrounderLoss,
) -> Vec<Match> {
    let objects = truth.objects.len();
    if objects == 0 {
        return Vec::new();
    }
    let queries = logits.len() / boxes.len();
    let copies = (boxes.len() / objects).clamp(1, settings.boxes_per_object as usize);
    let class_costs: Vec<f64> = logits
        .iter()
        .map(|logit| class_cost(f64::from(*logit), settings))
        .collect();
    let cost = |object: usize, patch: usize| {
        let (target, trues) = &truth.objects[object];
        let costs = &class_costs[patch * queries..][..queries];
        let class: f64 = trues.iter().map(|query| costs[*query]).sum();
        let class = class / trues.len().max(1) as f64;
        let differences = boxes[patch].iter().zip(target);
        let l1: f64 = differences.map(|(a, b)| f64::from((a - b).abs())).sum();
        let giou = generalised_iou(boxes[patch], *target);
        settings.class * class + settings.l1 * l1 - settings.giou * giou
    };
    let mut costs = Vec::with_capacity(objects * copies * boxes.len());
    for object in 0..objects {
        let first = costs.len();
        costs.extend((0..boxes.len()).map(|patch| cost(object, patch)));
        for _ in 1..copies {
            costs.extend_from_within(first..first + boxes.len());
        }
    }
    let assigned = assigned(&costs, boxes.len()).into_iter().enumerate();
    let mut matches: Vec<Match> = assigned
        .filter_map(|(row, patch)| {
            let object = row / copies;
            patch.map(|patch| Match { patch, object })
        })
        .collect();
    matches.sort_unstable();
    matches
}

/// For each row of `costs`, `[rows, columns]`, the column that it is assigned: none twice, as many as there can be, and of
/// the least sum.
///
/// # Panics
/// If a cost is no finite number.
pub fn assigned(costs: &[f64], columns: usize) -> Vec<Option<usize>> {
    let rows = costs.len() / columns;
    let stepped = |cost: f64| {
        assert!(cost.is_finite(), "a cost of {cost}");
        (cost / STEP).round() as i64
    };
    let at = |(row, column): (usize, usize)| stepped(costs[row * columns + column]);
    if rows <= columns {
        let matrix = Matrix::from_fn(rows, columns, at);
        let (_, assigned) = kuhn_munkres_min(&matrix);
        return assigned.into_iter().map(Some).collect();
    }
    // The algorithm wants no fewer columns than rows.
    let matrix = Matrix::from_fn(columns, rows, |(column, row)| at((row, column)));
    let (_, rows_of_columns) = kuhn_munkres_min(&matrix);
    let mut assigned = vec![None; rows];
    for (column, row) in rows_of_columns.into_iter().enumerate() {
        assigned[row] = Some(column);
    }
    assigned
}

/// What a query that is true adds to the focal loss of a logit, less what one that is not does.
fn class_cost(logit: f64, settings: &GrounderLoss) -> f64 {
    let (alpha, gamma) = (settings.focal_alpha, settings.focal_gamma);
    let p = (1.0 + (-logit).exp()).recip();
    let not = (1.0 - alpha) * p.powf(gamma) * -(1.0 - p + TINY).ln();
    let is = alpha * (1.0 - p).powf(gamma) * -(p + TINY).ln();
    is - not
}

fn generalised_iou(a: [f32; 4], b: [f32; 4]) -> f64 {
    let corners = |cxcywh: [f32; 4]| {
        let [cx, cy, w, h] = cxcywh.map(f64::from);
        [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
    };
    let area = |[x0, y0, x1, y1]: [f64; 4]| (x1 - x0).max(0.0) * (y1 - y0).max(0.0);
    let (a, b) = (corners(a), corners(b));
    let inner = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    let hull = [
        a[0].min(b[0]),
        a[1].min(b[1]),
        a[2].max(b[2]),
        a[3].max(b[3]),
    ];
    let intersection = area(inner);
    let union = area(a) + area(b) - intersection;
    let hull = area(hull);
    intersection / union.max(TINY) - (hull - union) / hull.max(TINY)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// The least sum of all assignments of `rows` to columns that are free.
    fn least(costs: &[f64], columns: usize, row: usize, taken: &mut Vec<bool>) -> f64 {
        if row * columns == costs.len() {
            return 0.0;
        }
        let mut best = f64::INFINITY;
        for column in 0..columns {
            if !taken[column] {
                taken[column] = true;
                let rest = least(costs, columns, row + 1, taken);
                best = best.min(costs[row * columns + column] + rest);
                taken[column] = false;
            }
        }
        best
    }

    #[test]
    fn assignments_are_those_of_brute_force() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..200 {
            let [a, b] = [rng.usize(1..6), rng.usize(1..6)];
            let (rows, columns) = (a.min(b), a.max(b));
            let costs: Vec<f64> = (0..rows * columns).map(|_| rng.f64() * 4.0 - 2.0).collect();
            let wanted = least(&costs, columns, 0, &mut vec![false; columns]);
            let found = assigned(&costs, columns);
            let sum = |found: &[Option<usize>]| -> f64 {
                let pairs = found.iter().enumerate();
                pairs
                    .map(|(row, c)| costs[row * columns + c.unwrap()])
                    .sum()
            };
            assert!((sum(&found) - wanted).abs() < 1e-4, "{costs:?}");
            // The other way around: some rows go without.
            let across: Vec<f64> = (0..columns)
                .flat_map(|c| (0..rows).map(move |r| (r, c)))
                .map(|(r, c)| costs[r * columns + c])
                .collect();
            let mut back = vec![None; rows];
            for (column, row) in assigned(&across, rows).into_iter().enumerate() {
                if let Some(row) = row {
                    back[row] = Some(column);
                }
            }
            assert!((sum(&back) - wanted).abs() < 1e-4, "{costs:?}");
        }
    }

    fn settings(boxes_per_object: u32) -> GrounderLoss {
        GrounderLoss {
            class: 2.0,
            l1: 5.0,
            giou: 2.0,
            objectness: 1.0,
            focal_alpha: 0.25,
            focal_gamma: 2.0,
            boxes_per_object,
            dense: 0.0,
        }
    }

    #[test]
    fn boxes_go_to_the_objects_they_fit_and_name() {
        let boxes = [
            [0.2, 0.2, 0.2, 0.2],
            [0.8, 0.8, 0.2, 0.2],
            [0.21, 0.2, 0.2, 0.2],
            [0.5, 0.5, 0.9, 0.9],
        ];
        let truth = ImageTruth {
            objects: vec![
                ([0.8, 0.8, 0.2, 0.3], vec![]),
                ([0.2, 0.2, 0.2, 0.2], vec![1]),
            ],
            uncounted: Vec::new(),
            shown: Vec::new(),
        };
        // The third box says the phrase, the first fits a little better.
        let logits = [-5.0, -5.0, -5.0, -5.0, -5.0, 4.0, -5.0, -5.0];
        let of = |patch, object| Match { patch, object };
        let found = matches(&logits, &boxes, &truth, &settings(1));
        assert_eq!(found, [of(1, 0), of(2, 1)]);
        let twice = matches(&logits, &boxes, &truth, &settings(5));
        assert_eq!(twice, [of(0, 1), of(1, 0), of(2, 1), of(3, 0)]);
    }

    #[test]
    fn generalised_iou_is_torchvisions() {
        // torchvision.ops.generalized_box_iou([[0, 0, 2, 2]], [[1, 1, 3, 3]]) and of [[4, 4, 5, 6]]
        let a = [1.0, 1.0, 2.0, 2.0];
        assert!((generalised_iou(a, [2.0, 2.0, 2.0, 2.0]) - (1.0 / 7.0 - 2.0 / 9.0)).abs() < 1e-9);
        assert!((generalised_iou(a, [4.5, 5.0, 1.0, 2.0]) + 24.0 / 30.0).abs() < 1e-9);
    }
}
