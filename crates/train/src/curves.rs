//! `curves.svg`: the losses and the validation of a run over its steps, drawn from its tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maskmill_weights::write_whole;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::metrics::{METRICS, MetricsError, VALIDATION, read_columns};

/// The picture's name in the run's directory.
pub const CURVES: &str = "curves.svg";

/// Pixels of the picture.
const SIZE: (u32, u32) = (1120, 450);
/// Points of a line, at most: single steps are noise, and a run of a million makes a file of the same size.
const POINTS: usize = 150;
/// A column of a table, its name in the picture and its colour (Okabe and Ito, told apart by the colour-blind).
type Line = (&'static str, &'static str, RGBColor);
const LOSSES: [Line; 4] = [
    ("loss", "weighted sum", BLACK),
    ("focal", "focal", RGBColor(0, 114, 178)),
    ("dice", "dice", RGBColor(213, 94, 0)),
    ("iou", "predicted IoU", RGBColor(0, 158, 115)),
];
const VALIDATIONS: [Line; 5] = [
    (
        "miou_1_click_best",
        "1 click, best mask",
        RGBColor(0, 114, 178),
    ),
    ("miou_1_click", "1 click", RGBColor(86, 180, 233)),
    ("miou_3_clicks", "3 clicks", RGBColor(204, 121, 167)),
    ("miou_5_clicks", "5 clicks", RGBColor(213, 94, 0)),
    ("miou_box", "box", BLACK),
];

/// Those of a grounder.
const GROUNDER_LOSSES: [Line; 5] = [
    ("loss", "weighted sum", BLACK),
    ("class", "class", RGBColor(0, 114, 178)),
    ("l1", "L1", RGBColor(213, 94, 0)),
    ("giou", "1 - GIoU", RGBColor(0, 158, 115)),
    ("objectness", "objectness", RGBColor(204, 121, 167)),
];
const GROUNDER_VALIDATIONS: [Line; 2] = [
    ("ap50_held_out", "held-out pairs", RGBColor(213, 94, 0)),
    ("ap50_others", "other phrases", BLACK),
];

/// What is drawn of a run.
struct Lines {
    losses: &'static [Line],
    validations: &'static [Line],
    /// What the validations are.
    measure: &'static str,
}

impl Lines {
    /// Told by the columns of the table of steps.
    fn of(steps: &Columns) -> Self {
        match steps.contains_key("giou") {
            true => Self {
                losses: &GROUNDER_LOSSES,
                validations: &GROUNDER_VALIDATIONS,
                measure: "AP50",
            },
            false => Self {
                losses: &LOSSES,
                validations: &VALIDATIONS,
                measure: "mean IoU",
            },
        }
    }
}

/// The curves cannot be drawn. What was drawn before still stands.
#[derive(Debug, thiserror::Error)]
pub enum CurvesError {
    /// A table cannot be read.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The picture cannot be written.
    #[error("{} cannot be written ({source})", path.display())]
    Write {
        /// The picture.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// Draws `curves.svg` from the tables in the run's `directory`, replacing it whole.
///
/// # Errors
/// [`CurvesError`].
pub fn draw(directory: &Path) -> Result<(), CurvesError> {
    let steps = read_columns(&directory.join(METRICS))?;
    let validations = read_columns(&directory.join(VALIDATION))?;
    let path = directory.join(CURVES);
    let svg = picture(&steps, &validations);
    write_whole(&path, svg.as_bytes()).map_err(|source| CurvesError::Write { path, source })
}

type Columns = BTreeMap<String, Vec<f64>>;

fn picture(steps: &Columns, validations: &Columns) -> String {
    let mut svg = String::new();
    let lines = Lines::of(steps);
    let losses = points(steps, lines.losses, |loss| loss > 0.0);
    let measured = points(validations, lines.validations, |_| true);
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        let drawn = area.fill(&WHITE);
        let drawn = drawn.and_then(|()| draw_losses(&left, lines.losses, &losses));
        let drawn = drawn.and_then(|()| draw_validations(&right, &lines, &measured));
        drawn
            .and_then(|()| area.present())
            .expect("a string takes everything");
    }
    svg
}

/// A line's points, `(step, value)`.
type Points = Vec<(f64, f64)>;

/// The points of each line that can be drawn: those that are finite and `fit`, thinned out.
fn points(columns: &Columns, lines: &[Line], fit: impl Fn(f64) -> bool) -> Vec<Points> {
    let column = |name| columns.get(name).map_or(&[][..], Vec::as_slice);
    let of = |(name, _, _): &Line| {
        let all = column("step")
            .iter()
            .copied()
            .zip(column(name).iter().copied());
        let all: Points = all.filter(|(_, y)| y.is_finite() && fit(*y)).collect();
        thinned(&all)
    };
    lines.iter().map(of).collect()
}

/// Means of neighbours, so that at most [`POINTS`] are left; each at the last of its steps.
fn thinned(all: &[(f64, f64)]) -> Points {
    let neighbours = all.chunks(all.len().div_ceil(POINTS).max(1));
    let mean = |these: &[(f64, f64)]| {
        let sum: f64 = these.iter().map(|(_, y)| y).sum();
        (these[these.len() - 1].0, sum / these.len() as f64)
    };
    neighbours.map(mean).collect()
}

/// The least and the largest of the points, by `of` x or y; `None` of none.
fn range(lines: &[Points], of: impl Fn(&(f64, f64)) -> f64) -> Option<(f64, f64)> {
    let values = lines.iter().flatten().map(of);
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((least, most)) => Some((f64::min(least, value), f64::max(most, value))),
    })
}

/// From 0 to the last step; a run without rows has an axis, too.
fn steps(lines: &[Points]) -> std::ops::Range<f64> {
    // Beyond it there is room for its label.
    0.0..1.04 * range(lines, |(x, _)| *x).map_or(1.0, |(_, last)| last.max(1.0))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw_losses(area: &Area<'_>, names: &[Line], lines: &[Points]) -> Drawn {
    let (least, most) = range(lines, |(_, y)| *y).unwrap_or((0.1, 1.0));
    // Above them there is room for the names.
    let y = (0.8 * least..4.0 * most).log_scale();
    draw_chart(
        area,
        ("Losses", "logarithmic"),
        steps(lines),
        y,
        names,
        lines,
    )
}

fn draw_validations(area: &Area<'_>, of: &Lines, lines: &[Points]) -> Drawn {
    let captions = ("Validation", of.measure);
    draw_chart(
        area,
        captions,
        steps(lines),
        0.0..1.0,
        of.validations,
        lines,
    )
}

fn draw_chart<Y>(
    area: &Area<'_>,
    (title, axis): (&str, &str),
    x: std::ops::Range<f64>,
    y: Y,
    names: &[Line],
    lines: &[Points],
) -> Drawn
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let area = area.titled(title, ("sans-serif", 22))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    // Without the last digits of a sum of floats.
    let label = |value: &f64| format!("{}", (value * 1e6).round() / 1e6);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(6)
        .y_labels(8)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .x_desc("step")
        .y_desc(axis)
        .draw()?;
    for ((_, name, colour), points) in names.iter().zip(lines) {
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(*name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        // A single validation is no line.
        if let [only] = points[..] {
            chart.draw_series([Circle::new(only, 3, colour.filled())])?;
        }
    }
    chart
        .configure_series_labels()
        .position(match title {
            "Losses" => SeriesLabelPosition::UpperRight,
            _ => SeriesLabelPosition::LowerRight,
        })
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 15))
        .draw()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn columns(names: &[&str], rows: &[&[f64]]) -> Columns {
        let column = |at: usize| rows.iter().map(|row| row[at]).collect();
        let named = names.iter().enumerate();
        named
            .map(|(at, name)| (name.to_string(), column(at)))
            .collect()
    }

    /// The lines of a picture by their colours: how many points each has.
    fn polylines(svg: &str, colour: RGBColor) -> Vec<usize> {
        let stroke = format!(
            "stroke=\"#{:02X}{:02X}{:02X}\"",
            colour.0, colour.1, colour.2
        );
        let lines = svg.lines().filter(|line| line.starts_with("<polyline"));
        let of_colour = lines.filter(|line| line.contains(&stroke) && line.contains("\"2\""));
        of_colour
            .map(|line| {
                line.split("points=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
            })
            .map(|points| points.split_whitespace().count())
            .collect()
    }

    #[test]
    fn every_column_is_a_line_through_its_finite_points() {
        let steps = columns(
            &["step", "loss", "focal", "dice", "iou"],
            &[
                &[10.0, 3.0, 0.1, 0.9, 0.2],
                &[20.0, 2.0, f64::NAN, 0.8, 0.0],
                &[30.0, 1.0, 0.05, 0.7, 0.1],
            ],
        );
        let names: Vec<&str> = ["step"]
            .into_iter()
            .chain(VALIDATIONS.map(|line| line.0))
            .collect();
        let validations = columns(
            &names,
            &[
                &[10.0, 0.3, 0.2, 0.4, 0.5, 0.6],
                &[30.0, 0.5, 0.4, 0.6, 0.7, 0.8],
            ],
        );
        let svg = picture(&steps, &validations);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        // The line, then its piece in the legend.
        let dice = polylines(&svg, LOSSES[2].2);
        assert_eq!(dice, [3, 2, 2, 2], "dice, its legend; 5 clicks, its legend");
        let predicted_iou = polylines(&svg, LOSSES[3].2);
        assert_eq!(predicted_iou, [2, 2], "a loss of zero has no logarithm");
        for (_, name, _) in LOSSES.iter().chain(&VALIDATIONS) {
            assert!(svg.contains(name), "{name}");
        }
    }

    #[test]
    fn a_run_that_has_just_begun_is_drawn() {
        let none = Columns::new();
        assert!(picture(&none, &none).contains("Validation"));
        let one = columns(&["step", "loss"], &[&[10.0, 3.0]]);
        assert!(picture(&one, &none).contains("circle"));
        let constant = columns(&["step", "loss"], &[&[10.0, 3.0], &[20.0, 3.0]]);
        assert_eq!(polylines(&picture(&constant, &none), BLACK)[0], 2);
    }

    #[test]
    fn long_lines_are_thinned_to_means() {
        let all: Points = (1..=1000).map(|x| (f64::from(x), f64::from(x))).collect();
        let thin = thinned(&all);
        // Sevens, and the last six.
        assert_eq!(thin.len(), 143);
        assert_eq!((thin[0], thin[142]), ((7.0, 4.0), (1000.0, 997.5)));
        assert_eq!(thinned(&all[..150]), all[..150]);
        assert_eq!(thinned(&[]), []);
    }

    #[test]
    fn a_picture_is_drawn_from_the_tables_of_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join(METRICS), "step,loss\n10,3\n20,2\n30,").unwrap();
        draw(path).unwrap();
        let svg = fs::read_to_string(path.join(CURVES)).unwrap();
        assert_eq!(
            polylines(&svg, BLACK)[0],
            2,
            "a row that is being written is left out"
        );
        let nowhere = path.join("nowhere");
        let error = draw(&nowhere).unwrap_err();
        assert!(error.to_string().contains("nowhere/curves.svg"), "{error}");
    }
}
