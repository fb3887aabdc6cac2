//! Comparison with what the reference packages compute: `expected.json`, made by `generate_expected.py`, which also
//! records their versions.
//!
//! Everything is compared exactly but the upscaled logits: PyTorch fuses multiplications with additions, see `Upscaler`.

use maskmill_masks::{
    Bitmap, BoxPx, ImageSize, MergeOp, RegionMode, Rle, ScanOptions, Upscaler, box_nms, crops,
    is_near_crop_edge, layer_point_grids, passes_iou, passes_stability, remove_small_regions,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    point_grids: Vec<PointGrids>,
    crops: Vec<Crops>,
    crop_edges: CropEdges,
    upscaled: Vec<Upscaled>,
    run_lengths: Vec<RunLengths>,
    long_strings: Vec<LongString>,
    pairs: Vec<Pair>,
    uncropped: Vec<Uncropped>,
    suppressed: Vec<Suppressed>,
    nan_order: NanOrder,
    regions: Vec<Regions>,
    thresholds: Vec<Threshold>,
}

fn expected() -> Expected {
    serde_json::from_str(include_str!("expected.json")).expect("expected.json has the fields above")
}

/// `[height, width]`, as the reference writes sizes.
fn size([height, width]: [u32; 2]) -> ImageSize {
    ImageSize::new(height, width)
}

fn half_open([x0, y0, x1, y1]: [u32; 4]) -> BoxPx {
    BoxPx { x0, y0, x1, y1 }
}

/// A mask drawn as rows joined by `/`.
fn mask(drawing: &str) -> Bitmap {
    Bitmap::from_ascii(&drawing.replace('/', "\n"))
}

#[derive(Deserialize)]
struct PointGrids {
    points_per_side: u32,
    layers: u32,
    factor: u32,
    sides: Vec<Vec<f64>>,
    lengths: Vec<usize>,
    last_two: Vec<[f64; 2]>,
}

#[test]
fn point_grids_are_bit_equal() {
    for case in expected().point_grids {
        let grids = layer_point_grids(case.points_per_side, case.layers, case.factor);
        let lengths: Vec<usize> = grids.iter().map(Vec::len).collect();
        assert_eq!(lengths, case.lengths);
        for (grid, side) in grids.iter().zip(&case.sides) {
            let ys: Vec<f64> = grid.iter().step_by(side.len()).map(|[_, y]| *y).collect();
            assert_eq!(&ys, side);
        }
        assert!(
            grids[0].ends_with(&case.last_two),
            "{} points",
            case.points_per_side
        );
    }
}

#[derive(Deserialize)]
struct Crops {
    size: [u32; 2],
    layers: u32,
    ratio: f64,
    boxes: Vec<[u32; 4]>,
    layer_of: Vec<u32>,
}

#[test]
fn crops_are_equal() {
    for case in expected().crops {
        let crops = crops(size(case.size), case.layers, case.ratio);
        let bounds: Vec<BoxPx> = crops.iter().map(|crop| crop.bounds).collect();
        let layer_of: Vec<u32> = crops.iter().map(|crop| crop.layer).collect();
        let expected: Vec<BoxPx> = case.boxes.into_iter().map(half_open).collect();
        assert_eq!(bounds, expected);
        assert_eq!(layer_of, case.layer_of);
    }
}

#[derive(Deserialize)]
struct CropEdges {
    size: [u32; 2],
    cases: Vec<CropEdge>,
}

#[derive(Deserialize)]
struct CropEdge {
    crop: [u32; 4],
    box_inclusive: [u32; 4],
    near: bool,
}

#[test]
fn masks_near_crop_edges_are_the_same() {
    let edges = expected().crop_edges;
    for case in edges.cases {
        let [x0, y0, x_max, y_max] = case.box_inclusive;
        let in_crop = half_open([x0, y0, x_max + 1, y_max + 1]);
        let crop = half_open(case.crop);
        let near = is_near_crop_edge(in_crop, crop, size(edges.size));
        assert_eq!(near, case.near, "{in_crop} in {crop}");
    }
}

#[derive(Deserialize)]
struct Upscaled {
    low_res_size: [u32; 2],
    model_side: u32,
    input: [u32; 2],
    original: [u32; 2],
    low_res: Vec<f32>,
    logits: Vec<f32>,
    /// Absent for NaN.
    stability_score: Option<f32>,
    rle: Vec<u32>,
    box_inclusive: [u32; 4],
}

#[test]
fn upscaled_logits_are_within_1e6_of_the_largest() {
    for case in expected().upscaled {
        let upscaler = case.upscaler();
        let logits = upscaler.logits(&case.low_res);
        assert_eq!(logits.len(), case.logits.len());
        let largest = case.low_res.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (ours, theirs) in logits.iter().zip(&case.logits) {
            assert!(
                (ours - theirs).abs() <= 1e-6 * largest,
                "{ours} instead of {theirs} at {:?}",
                case.original
            );
        }
    }
}

#[test]
fn scans_are_equal() {
    // No logit of these cases is within rounding of a threshold.
    for case in expected().upscaled {
        let scan = case.upscaler().scan(&case.low_res, ScanOptions::default());
        assert_eq!(scan.rle.counts(), case.rle);
        assert_eq!(scan.bounds.sa_xyxy(), case.box_inclusive);
        let score = Some(scan.stability_score()).filter(|score| !score.is_nan());
        assert_eq!(score, case.stability_score);
    }
}

impl Upscaled {
    fn upscaler(&self) -> Upscaler {
        Upscaler::new(
            size(self.low_res_size),
            self.model_side,
            size(self.input),
            size(self.original),
        )
    }
}

#[derive(Deserialize)]
struct RunLengths {
    mask: String,
    counts: Vec<u32>,
    string: String,
    area: u64,
    box_xywh: [u32; 4],
    box_inclusive: [u32; 4],
    bbox: [u32; 4],
}

#[test]
fn run_lengths_areas_and_boxes_are_equal() {
    for case in expected().run_lengths {
        let mask = mask(&case.mask);
        let rle = Rle::encode(&mask);
        assert_eq!(rle.counts(), case.counts);
        assert_eq!(rle.to_coco_string(), case.string);
        assert_eq!(rle.area(), case.area);
        assert_eq!(rle.bounds().xywh(), case.box_xywh);
        assert_eq!(rle.bounds().sa_xyxy(), case.box_inclusive);
        assert_eq!(rle.bounds().sa_xywh(), case.bbox);
        let read = Rle::from_coco_string(rle.size(), &case.string).unwrap();
        assert_eq!(read.decode(), mask);
    }
}

#[derive(Deserialize)]
struct LongString {
    size: [u32; 2],
    counts: Vec<u32>,
    string: String,
}

#[test]
fn strings_of_large_masks_are_equal() {
    for case in expected().long_strings {
        let rle = Rle::from_counts(size(case.size), case.counts).unwrap();
        assert_eq!(rle.to_coco_string(), case.string);
        assert_eq!(
            Rle::from_coco_string(size(case.size), &case.string),
            Ok(rle)
        );
    }
}

#[derive(Deserialize)]
struct Pair {
    left: String,
    right: String,
    iou: f64,
    containment: f64,
    union: String,
    intersection: String,
}

#[test]
fn overlaps_and_merges_are_equal() {
    for case in expected().pairs {
        let [left, right] = [&case.left, &case.right].map(|drawing| Rle::encode(&mask(drawing)));
        assert_eq!(left.iou(&right), Ok(case.iou));
        assert_eq!(left.containment(&right), Ok(case.containment));
        let merge = |op| Rle::merge(&[&left, &right], op).unwrap().to_coco_string();
        assert_eq!(merge(MergeOp::Union), case.union);
        assert_eq!(merge(MergeOp::Intersection), case.intersection);
    }
}

#[derive(Deserialize)]
struct Uncropped {
    mask: String,
    crop: [u32; 4],
    size: [u32; 2],
    counts: Vec<u32>,
}

#[test]
fn uncropped_masks_are_equal() {
    for case in expected().uncropped {
        let rle = Rle::encode(&mask(&case.mask));
        let placed = rle.uncrop(half_open(case.crop), size(case.size)).unwrap();
        assert_eq!(placed.counts(), case.counts);
    }
}

#[derive(Deserialize)]
struct Suppressed {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    threshold: f64,
    keep: Vec<usize>,
}

#[derive(Deserialize)]
struct NanOrder {
    scores: Vec<Option<f32>>,
    keep: Vec<usize>,
}

#[test]
fn kept_boxes_are_the_same_in_the_same_order() {
    for case in expected().suppressed {
        assert_eq!(
            box_nms(&case.boxes, &case.scores, case.threshold),
            case.keep
        );
    }
    let order = expected().nan_order;
    let scores: Vec<f32> = order.scores.iter().map(|s| s.unwrap_or(f32::NAN)).collect();
    let boxes: Vec<[f32; 4]> = (0..scores.len() as u16)
        .map(|i| f32::from(i) * 10.0)
        .map(|x| [x, 0.0, x + 5.0, 5.0])
        .collect();
    assert_eq!(box_nms(&boxes, &scores, 0.5), order.keep);
}

#[derive(Deserialize)]
struct Regions {
    mask: String,
    threshold: u64,
    holes: Cleaned,
    islands: Cleaned,
}

#[derive(Deserialize)]
struct Cleaned {
    mask: String,
    changed: bool,
}

#[test]
fn small_regions_are_the_same() {
    for case in expected().regions {
        let given = mask(&case.mask);
        for (mode, expected) in [
            (RegionMode::Holes, case.holes),
            (RegionMode::Islands, case.islands),
        ] {
            let (cleaned, changed) = remove_small_regions(&given, case.threshold, mode);
            assert_eq!(
                (cleaned.to_ascii(), changed),
                (mask(&expected.mask).to_ascii(), expected.changed),
                "{mode:?} below {} of\n{}",
                case.threshold,
                given.to_ascii()
            );
        }
    }
}

#[derive(Deserialize)]
struct Threshold {
    score: f32,
    threshold: f64,
    greater: bool,
    greater_or_equal: bool,
}

#[test]
fn thresholds_compare_in_f32() {
    for case in expected().thresholds {
        let (score, threshold) = (case.score, case.threshold);
        assert_eq!(passes_iou(score, threshold), case.greater, "{score}");
        assert_eq!(
            passes_stability(score, threshold),
            case.greater_or_equal,
            "{score}"
        );
    }
}
