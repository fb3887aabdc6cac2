//! Boxes of other programs: COCO files and YOLO labels.

use maskmill_formats::detections::{
    CocoDetections, CocoFile, Detection, YoloNames, check, parse_yolo,
};
use maskmill_masks::ImageSize;

use crate::panics::guarded;
use crate::{is_set, split};

/// What an image is called that a file may have detections of.
const KEYS: &[&str] = &["a.jpg", "day/a.jpg", "t.tar/a", "000000000139.jpg", ""];

/// Reads detections: those that pass lie on the image, every one of a COCO file is found by its image's own name.
///
/// The options modulo 4 are the kind: a COCO file, a list of results and behind a zero byte its dataset, YOLO labels, or
/// the names of YOLO's classes. Bit 7, 6: of YOLO labels, whether it is known that they have scores, and whether they do.
pub fn detections(data: &[u8]) {
    guarded(|| check_file(data));
}

fn check_file(data: &[u8]) {
    let (options, file) = split(data);
    match options % 4 {
        0 => check_coco(file, None),
        1 => {
            let end = file.iter().position(|byte| *byte == 0);
            let (results, rest) = file.split_at(end.unwrap_or(file.len()));
            check_coco(results, Some(rest.strip_prefix(&[0]).unwrap_or(rest)));
        }
        2 => {
            let scores = is_set(options, 7).then_some(is_set(options, 6));
            check_yolo(&String::from_utf8_lossy(file), scores);
        }
        _ => check_names(&String::from_utf8_lossy(file)),
    }
}

fn check_coco(bytes: &[u8], dataset: Option<&[u8]>) {
    let file = |name, bytes| CocoFile { name, bytes };
    let dataset = dataset.map(|bytes| file("d.json", bytes));
    let coco = match CocoDetections::read(file("r.json", bytes), dataset) {
        Ok(coco) => coco,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains(".json"), "{message} names no file");
            return;
        }
    };
    assert!(coco.images_with_detections() <= coco.detections());
    let mut matches = false;
    for key in KEYS {
        match coco.of(key) {
            Ok(found) => {
                matches |= found.is_some();
                let found = found.unwrap_or_default();
                assert!(found.len() <= coco.detections());
                check_boxes(found.to_vec());
            }
            Err(error) => {
                matches = true;
                assert_eq!(error.key, *key);
            }
        }
    }
    assert_eq!(coco.matches_any(KEYS.iter().copied()), matches);
    if matches {
        assert!(coco.require_match(KEYS.iter().copied()).is_ok());
    }
}

fn check_yolo(text: &str, scores: Option<bool>) {
    let size = ImageSize::new(60, 80);
    match parse_yolo(text, None, size, scores) {
        Ok(found) => {
            assert!(found.len() <= text.lines().count());
            let have = found.iter().filter(|one| one.score.is_some()).count();
            assert!(have == 0 || have == found.len(), "some have scores");
            assert!(found.is_empty() || scores.is_none_or(|scores| scores == (have > 0)));
            check_boxes(found);
        }
        Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
    }
}

fn check_names(text: &str) {
    for names in [
        YoloNames::from_classes_txt(text).ok(),
        YoloNames::from_data_yaml(text).ok(),
    ] {
        let Some(names) = names else { continue };
        assert!(names.len() > 0);
        let found = (0..1000).filter_map(|class| names.get(class));
        assert!(found.count() <= names.len());
    }
}

fn check_boxes(found: Vec<Detection>) {
    let size = ImageSize::new(60, 80);
    let count = found.len();
    match check(found, size) {
        Ok(found) => {
            assert_eq!(found.len(), count);
            for one in &found {
                let [x0, y0, x1, y1] = one.box_xyxy_px;
                assert!(0.0 <= x0 && x0 < x1 && x1 <= 80.0, "{one:?}");
                assert!(0.0 <= y0 && y0 < y1 && y1 <= 60.0, "{one:?}");
                assert!(one.score.is_none_or(f32::is_finite), "{one:?}");
            }
            assert_eq!(check(found.clone(), size), Ok(found));
        }
        Err(error) => {
            let reasons = ["bad_boxes", "bad_scores"];
            assert!(reasons.contains(&error.reason()), "{error}");
        }
    }
}
