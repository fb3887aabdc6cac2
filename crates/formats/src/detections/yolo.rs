//! YOLO label files: a text for each image, a line for each object.
//!
//! ```text
//! class cx cy w h             a label: the box's centre and sides, as fractions of the image's
//! class cx cy w h confidence  a prediction (`yolo predict save_txt save_conf`)
//! ```

use maskmill_masks::ImageSize;

use super::{Detection, YoloNames};

/// How far outside [0, 1] a value may be: files are written with three digits and more, and some from half floats.
const TOLERANCE: f64 = 1e-3;

/// Why a label file cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum YoloError {
    /// A line has another number of fields than it should.
    #[error("line {line} has {} where {}", counted(*found), due(*expected, *since))]
    Fields {
        /// The line, from 1.
        line: usize,
        /// Its fields.
        found: usize,
        /// Five, or six with the confidence; none if either would do.
        expected: Option<usize>,
        /// The line before that decided what is due.
        since: Option<usize>,
    },
    /// A line has an outline instead of a box, or more than a box.
    #[error(
        "line {line} has {fields} fields: a polygon (segmentation labels: class x y x y ..) or keypoints, where a box is \
         due (class cx cy w h [confidence])"
    )]
    Outline {
        /// The line, from 1.
        line: usize,
        /// Its fields.
        fields: usize,
    },
    /// A class is not a whole number.
    #[error("line {line}: the class {found:?} is not a number from 0")]
    Class {
        /// The line, from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// A class has no name.
    #[error("line {line}: the class {class} has no name; there are {names} names, counted from 0")]
    NoName {
        /// The line, from 1.
        line: usize,
        /// The class.
        class: u32,
        /// How many names there are.
        names: usize,
    },
    /// A value is not a fraction of the image.
    #[error("line {line}: {what} is {found:?}, which is not a number in [0, 1]")]
    Value {
        /// The line, from 1.
        line: usize,
        /// `cx`, `cy`, `w`, `h` or `confidence`.
        what: &'static str,
        /// What is there.
        found: String,
    },
}

fn counted(fields: usize) -> String {
    let words = [
        "no fields",
        "one field",
        "two fields",
        "three fields",
        "four fields",
        "five fields",
        "six fields",
    ];
    match words.get(fields) {
        Some(words) => (*words).to_owned(),
        None => format!("{fields} fields"),
    }
}

fn due(expected: Option<usize>, since: Option<usize>) -> String {
    let due = match expected {
        Some(5) => "five are due (class cx cy w h)",
        Some(_) => "six are due (class cx cy w h confidence)",
        None => "five or six are due (class cx cy w h [confidence])",
    };
    match since {
        Some(line) => format!("{due}, as in line {line}"),
        None => due.to_owned(),
    }
}

/// The boxes of a label file for an image of `image_size`, in pixels; boxes may reach over its edges.
///
/// A class is called by its name, or by its number if there are no `names`. `expect_scores` says whether lines end with
/// a confidence; if it is not known, all lines of the file are to be alike. Blank lines are nothing.
///
/// # Errors
/// [`YoloError`] for the first line that is at fault.
pub fn parse_yolo(
    text: &str,
    names: Option<&YoloNames>,
    image_size: ImageSize,
    expect_scores: Option<bool>,
) -> Result<Vec<Detection>, YoloError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut expected = expect_scores.map(|scores| if scores { 6 } else { 5 });
    let mut since = None;
    let mut detections = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let found = fields.len();
        if found == 0 {
            continue;
        }
        if found > 6 {
            let fields = found;
            return Err(YoloError::Outline { line, fields });
        }
        if expected.unwrap_or(found) != found || found < 5 {
            return Err(YoloError::Fields {
                line,
                found,
                expected,
                since,
            });
        }
        if expected.is_none() {
            expected = Some(found);
            since = Some(line);
        }
        detections.push(detection(line, &fields, names, image_size)?);
    }
    Ok(detections)
}

/// `fields` are five or six.
fn detection(
    line: usize,
    fields: &[&str],
    names: Option<&YoloNames>,
    image_size: ImageSize,
) -> Result<Detection, YoloError> {
    let class = class(fields[0]).ok_or_else(|| YoloError::Class {
        line,
        found: fields[0].to_owned(),
    })?;
    let label = match names {
        None => class.to_string(),
        Some(names) => match names.get(class) {
            Some(name) => name.to_owned(),
            None => {
                return Err(YoloError::NoName {
                    line,
                    class,
                    names: names.len(),
                });
            }
        },
    };
    let value = |at: usize, what| {
        let found: &str = fields[at];
        let value = found.parse::<f64>().ok();
        let value = value.filter(|value| (-TOLERANCE..=1.0 + TOLERANCE).contains(value));
        value.ok_or_else(|| YoloError::Value {
            line,
            what,
            found: found.to_owned(),
        })
    };
    let [cx, cy] = [value(1, "cx")?, value(2, "cy")?];
    let [w, h] = [value(3, "w")?, value(4, "h")?];
    let score = match fields.len() {
        6 => Some(value(5, "confidence")? as f32),
        _ => None,
    };
    let [width, height] = [f64::from(image_size.width), f64::from(image_size.height)];
    Ok(Detection {
        box_xyxy_px: [
            (cx - w / 2.0) * width,
            (cy - h / 2.0) * height,
            (cx + w / 2.0) * width,
            (cy + h / 2.0) * height,
        ],
        label: Some(label),
        score,
    })
}

/// A class as it is, or as NumPy's `savetxt` writes it: `16.0`, `1.600000e+01`.
fn class(field: &str) -> Option<u32> {
    if let Ok(class) = field.parse() {
        return Some(class);
    }
    let number: f64 = field.parse().ok()?;
    // Saturates: what is no such number is not equal to itself behind it.
    let class = number as u32;
    (f64::from(class) == number).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 80 columns, 60 rows.
    const SIZE: ImageSize = ImageSize::new(60, 80);

    fn names() -> YoloNames {
        YoloNames::from_classes_txt("person\nred car\n").unwrap()
    }

    fn parse(text: &str, expect_scores: Option<bool>) -> Result<Vec<Detection>, String> {
        let found = parse_yolo(text, Some(&names()), SIZE, expect_scores);
        found.map_err(|error| error.to_string())
    }

    fn detection(box_xyxy_px: [f64; 4], label: &str, score: Option<f32>) -> Detection {
        Detection {
            box_xyxy_px,
            label: Some(label.to_owned()),
            score,
        }
    }

    #[test]
    fn fractions_become_pixels_of_a_landscape() {
        let text = "\u{feff}0 0.5 0.5 0.25 0.5\r\n\r\n  1\t0.125 0.25 0.25 0.5 \r\n";
        let expected = vec![
            detection([30.0, 15.0, 50.0, 45.0], "person", None),
            detection([0.0, 0.0, 20.0, 30.0], "red car", None),
        ];
        assert_eq!(parse(text, None), Ok(expected.clone()));
        assert_eq!(parse(text, Some(false)), Ok(expected));
        assert_eq!(parse("\n \r\n", Some(true)), Ok(vec![]));
        assert_eq!(parse("", None), Ok(vec![]));
    }

    #[test]
    fn predictions_have_a_confidence_and_classes_may_be_floats() {
        let text = "1.000000e+00 0.5 0.5 0.25 0.5 0.75\n0 0.5 0.5 1.0005 1 1e-2";
        let found = parse(text, Some(true)).unwrap();
        assert_eq!(parse(text, None).as_ref(), Ok(&found));
        assert_eq!(
            found[0],
            detection([30.0, 15.0, 50.0, 45.0], "red car", Some(0.75))
        );
        let [x0, y0, x1, y1] = found[1].box_xyxy_px;
        assert!((x0 + 0.02).abs() < 1e-9 && (x1 - 80.02).abs() < 1e-9);
        assert_eq!((y0, y1), (0.0, 60.0));
    }

    #[test]
    fn without_names_classes_are_their_numbers() {
        let found = parse_yolo("79 0.5 0.5 1 1", None, SIZE, None).unwrap();
        assert_eq!(found, [detection([0.0, 0.0, 80.0, 60.0], "79", None)]);
    }

    #[test]
    fn five_fields_where_six_are_due() {
        let five = "0 0.5 0.5 0.1 0.1\n";
        let six = "0 0.5 0.5 0.1 0.1 0.9\n";
        assert_eq!(
            parse(&[six, six, five].concat(), Some(true)),
            Err("line 3 has five fields where six are due (class cx cy w h confidence)".to_owned())
        );
        assert_eq!(
            parse(&["\n", six, five].concat(), None),
            Err(
                "line 3 has five fields where six are due (class cx cy w h confidence), as in line 2"
                    .to_owned()
            )
        );
        assert_eq!(
            parse(&[five, six].concat(), None),
            Err(
                "line 2 has six fields where five are due (class cx cy w h), as in line 1"
                    .to_owned()
            )
        );
        assert_eq!(
            parse(six, Some(false)),
            Err("line 1 has six fields where five are due (class cx cy w h)".to_owned())
        );
        assert_eq!(
            parse("0 0.5 0.5 0.1", None),
            Err(
                "line 1 has four fields where five or six are due (class cx cy w h [confidence])"
                    .to_owned()
            )
        );
        assert_eq!(
            parse("0", Some(true)),
            Err("line 1 has one field where six are due (class cx cy w h confidence)".to_owned())
        );
    }

    #[test]
    fn polygons_are_told_from_boxes() {
        let error = parse("0 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.2 0.1 0.2 0.2", None).unwrap_err();
        assert_eq!(
            error,
            "line 2 has 7 fields: a polygon (segmentation labels: class x y x y ..) or keypoints, where a box is due \
             (class cx cy w h [confidence])"
        );
    }

    #[test]
    fn values_that_are_no_fractions_are_named() {
        for (text, expected) in [
            (
                "2 0.5 0.5 0.1 0.1",
                "line 1: the class 2 has no name; there are 2 names, counted from 0",
            ),
            (
                "cat 0.5 0.5 0.1 0.1",
                "line 1: the class \"cat\" is not a number from 0",
            ),
            (
                "-1 0.5 0.5 0.1 0.1",
                "line 1: the class \"-1\" is not a number from 0",
            ),
            (
                "0.5 0.5 0.5 0.1 0.1",
                "line 1: the class \"0.5\" is not a number from 0",
            ),
            (
                "5e9 0.5 0.5 0.1 0.1",
                "line 1: the class \"5e9\" is not a number from 0",
            ),
            (
                "NaN 0.5 0.5 0.1 0.1",
                "line 1: the class \"NaN\" is not a number from 0",
            ),
            (
                "0 320 0.5 0.1 0.1",
                "line 1: cx is \"320\", which is not a number in [0, 1]",
            ),
            (
                "0 0.5 -0.01 0.1 0.1",
                "line 1: cy is \"-0.01\", which is not a number in [0, 1]",
            ),
            (
                "0 0.5 0.5 nan 0.1",
                "line 1: w is \"nan\", which is not a number in [0, 1]",
            ),
            (
                "0 0.5 0.5 0.1 inf",
                "line 1: h is \"inf\", which is not a number in [0, 1]",
            ),
            (
                "0 0.5 0.5 0.1 0,1",
                "line 1: h is \"0,1\", which is not a number in [0, 1]",
            ),
            (
                "\n0 0.5 0.5 0.1 0.1 97",
                "line 2: confidence is \"97\", which is not a number in [0, 1]",
            ),
        ] {
            assert_eq!(parse(text, None), Err(expected.to_owned()), "{text}");
        }
    }
}
