//! Average precision of one phrase over all images, as COCO has it, at an IoU of 0.5.

/// IoU from which a box shows an object.
pub(crate) const IOU: f32 = 0.5;
/// Levels of recall at which precision is read: 0, 0.01 ... 1 (`recThrs` of pycocotools).
const LEVELS: usize = 101;

/// An object that a phrase is true of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// x0, y0, x1, y1
    pub xyxy: [f32; 4],
    /// Whether it must be found. That one is found that need not be counts neither way.
    pub counts: bool,
}

/// What is known of a phrase so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct PhraseSums {
    /// Objects that must be found.
    pub objects: usize,
    /// The score of each box that counts, and whether it shows an object.
    found: Vec<(f32, bool)>,
}

impl PhraseSums {
    /// Adds an image: its boxes for the phrase, the best first, and its objects of which the phrase is true.
    ///
    /// Each box takes the object, not yet taken, of the highest IoU that is at least [`IOU`]; those that must be found come
    /// first (`evaluateImg` of pycocotools).
    pub(crate) fn add(&mut self, boxes: impl Iterator<Item = (f32, [f32; 4])>, wanted: &[Wanted]) {
        self.objects += wanted.iter().filter(|object| object.counts).count();
        let mut taken = vec![false; wanted.len()];
        for (score, xyxy) in boxes {
            let best_of = |counts: bool, taken: &[bool]| {
                let free = (0..wanted.len()).filter(|i| wanted[*i].counts == counts && !taken[*i]);
                free.map(|i| (i, iou(xyxy, wanted[i].xyxy)))
                    .filter(|(_, iou)| *iou >= IOU)
                    .max_by(|a, b| a.1.total_cmp(&b.1))
            };
            match (best_of(true, &taken), best_of(false, &taken)) {
                (Some((object, _)), _) => {
                    taken[object] = true;
                    self.found.push((score, true));
                }
                (None, Some((object, _))) => taken[object] = true,
                (None, None) => self.found.push((score, false)),
            }
        }
    }

    /// The mean precision over the levels of recall, where precision at a recall is the best at that or a higher one; none
    /// without an object.
    pub(crate) fn average_precision(&mut self) -> Option<f64> {
        if self.objects == 0 {
            return None;
        }
        self.found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut curve = Vec::with_capacity(self.found.len());
        let mut trues = 0;
        for (i, (_, is_true)) in self.found.iter().enumerate() {
            trues += usize::from(*is_true);
            let recall = trues as f64 / self.objects as f64;
            curve.push((recall, trues as f64 / (i + 1) as f64));
        }
        for i in (1..curve.len()).rev() {
            curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
        }
        let levels = (0..LEVELS).map(|level| level as f64 / (LEVELS - 1) as f64);
        let precisions = levels.map(|level| {
            let at = curve.partition_point(|(recall, _)| *recall < level);
            curve.get(at).map_or(0.0, |(_, precision)| *precision)
        });
        Some(precisions.sum::<f64>() / LEVELS as f64)
    }
}

/// Of x0, y0, x1, y1; 0 of empty boxes.
pub(crate) fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |b: [f32; 4]| (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0);
    let inner = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    let intersection = area(inner);
    let union = area(a) + area(b) - intersection;
    match union > 0.0 {
        true => intersection / union,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
    const B: [f32; 4] = [20.0, 0.0, 30.0, 10.0];
    const NOTHING: [f32; 4] = [50.0, 50.0, 60.0, 60.0];

    fn wanted(xyxy: [f32; 4]) -> Wanted {
        Wanted { xyxy, counts: true }
    }

    /// Boxes with their scores, and what is wanted.
    type Image<'i> = (&'i [(f32, [f32; 4])], &'i [Wanted]);

    fn precision(images: &[Image<'_>]) -> Option<f64> {
        let mut sums = PhraseSums::default();
        for (boxes, wanted) in images {
            sums.add(boxes.iter().copied(), wanted);
        }
        sums.average_precision()
    }

    #[test]
    fn all_found_is_one_and_nothing_is_none() {
        assert_eq!(precision(&[(&[(0.9, A)], &[wanted(A)])]), Some(1.0));
        assert_eq!(precision(&[(&[], &[wanted(A)])]), Some(0.0));
        assert_eq!(precision(&[(&[(0.9, A)], &[])]), None);
        // A false box below all true ones costs nothing, one above does.
        let below: &[(f32, [f32; 4])] = &[(0.9, A), (0.1, NOTHING)];
        assert_eq!(precision(&[(below, &[wanted(A)])]), Some(1.0));
        let above: &[(f32, [f32; 4])] = &[(0.9, NOTHING), (0.1, A)];
        assert_eq!(precision(&[(above, &[wanted(A)])]), Some(0.5));
    }

    #[test]
    fn images_are_pooled_by_score() {
        // In the order of scores: true, false, true, of three objects. Precision 1 up to a recall of 1/3 (levels 0 to 0.33:
        // 34), 2/3 up to 2/3 (0.34 to 0.66: 33), then 0.
        let first: &[(f32, [f32; 4])] = &[(0.9, A), (0.8, NOTHING)];
        let found = precision(&[
            (first, &[wanted(A), wanted(B)]),
            (&[(0.7, B)], &[wanted(B)]),
        ]);
        let expected = (34.0 + 33.0 * 2.0 / 3.0) / 101.0;
        assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn a_second_box_of_an_object_is_false_and_what_need_not_be_found_is_neither() {
        let twice: &[(f32, [f32; 4])] = &[(0.9, A), (0.8, [0.0, 0.0, 10.0, 9.0]), (0.7, B)];
        let found = precision(&[(twice, &[wanted(A), wanted(B)])]).unwrap();
        let expected = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
        assert!((found - expected).abs() < 1e-12, "{found}");
        let small = Wanted {
            xyxy: A,
            counts: false,
        };
        let ignored: &[(f32, [f32; 4])] = &[(0.9, A), (0.7, B)];
        assert_eq!(precision(&[(ignored, &[small, wanted(B)])]), Some(1.0));
    }

    #[test]
    fn a_box_shows_an_object_from_half_on() {
        // 50 of 150 and 100 of 150 in common.
        assert!(iou(A, [5.0, 0.0, 15.0, 10.0]) < IOU);
        let near = [0.0, 0.0, 15.0, 10.0];
        assert_eq!(precision(&[(&[(0.9, near)], &[wanted(A)])]), Some(1.0));
        assert_eq!(iou([1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 5.0]), 0.0);
    }
}
