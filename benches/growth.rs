//! How the time of automatic masks grows with points, with pixels and with images.
//!
//! ```text
//! cargo bench --bench growth -- --sam FILE --plot      with docs/performance/growth-*.svg drawn
//! cargo bench --bench growth                           the checkpoint that ships with maskmill
//! ```
//!
//! From a JPEG in memory to masks, on the CPU, stage after stage as one image takes them (a job overlaps the stages of
//! several): decode, resize, encoder and prompts, selection. Points: grids of 16x16 to 64x64 on a photo of 1500x2250.
//! Pixels: a photo of 0.25 to 12 megapixels, 16x16 points. Images: 1 to 8 of half a megapixel, 16x16 points, through one
//! loaded model. The photo is always the same one, so that sizes and counts differ and masks hardly do. The runs take
//! all cases in turn; a run of a case is as many passes as fill a second, because the kernel counts CPU time in
//! hundredths. Of the runs that with the median time counts, with its parts.
//!
//! An exponent is the slope between the first and the last case of a series, both axes logarithmic: 1 is proportional.
//! Beyond points and pixels there is the encoder, which takes the same time for any image, so those exponents are far
//! below 1 where nothing grows faster than it should. Appends a line to `benches/results/growth.jsonl`; fails if an
//! exponent is above its bar.

mod support;

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_sam::{
    AutomaticOptions, DeviceName, MaskSelector, ModelInput, Precision, PreparedImage, Sam, propose,
};
use plotters::prelude::*;
use serde_json::{Value, json};

use support::{
    CHECKPOINT, ClockTicks, Enlarged, Outcome, argument, judge, median, record, repository,
};

/// Of `support::Enlarged`: every fourth of its images is the same photo, this one in its own proportions, 3:2.
const COFFEE: u32 = 1;
const PHOTOS: u32 = 4;
const POINTS_PER_BATCH: usize = 256;
const FEW_POINTS: u32 = 16;
const GRIDS: [u32; 5] = [16, 24, 32, 48, 64];
const MEGAPIXELS: [f64; 7] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0];
const IMAGES: [u32; 4] = [1, 2, 4, 8];
const IMAGE_MEGAPIXELS: f64 = 0.5;
const POINTS_PHOTO: (u32, u32) = (2250, 1500);
/// An encoder's time is constant, so whatever is above 1 here grows faster than its number.
const BAR_POINTS: f64 = 1.05;
const BAR_PIXELS: f64 = 1.05;
const BAR_IMAGES: f64 = 1.08;
const SECONDS_PER_RUN: f64 = 1.0;
/// In the order in which an image takes them.
const STAGES: [(&str, RGBColor); 5] = [
    ("decode", RGBColor(230, 159, 0)),
    ("resize", RGBColor(204, 121, 167)),
    ("encoder", RGBColor(86, 180, 233)),
    ("mask decoder", RGBColor(0, 114, 178)),
    ("post-processing", RGBColor(213, 94, 0)),
];

fn main() -> Outcome {
    let runs: usize = argument("--runs", 3)?;
    let checkpoint: PathBuf = argument("--sam", repository(CHECKPOINT))?;
    let precision = match argument("--precision", "f32".to_owned())?.as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(format!("--precision is f32 or bf16, not {other}").into()),
    };
    let sam = Sam::load(&checkpoint, &DeviceName::Cpu.open()?, precision)?;
    let mut series = [points()?, pixels()?, images()?];

    series[0].cases[0].pass(&sam)?; // warms up
    let mut encoder = Vec::new();
    for run in 0..runs {
        encoder.push(series[0].cases[0].encoder_seconds(&sam)?);
        for series in &mut series {
            for case in &mut series.cases {
                let measured = case.run(&sam)?;
                let (name, x) = (series.name, case.x);
                eprintln!("run {run}, {x} {name}: {:.3} s", measured.seconds);
                case.runs.push(measured);
            }
        }
    }
    let encoder = median(&encoder);

    let title = format!("{}, {precision}", name_of(&checkpoint));
    println!("{title}: the encoder alone takes {encoder:.3} s");
    let mut missed = Vec::new();
    let mut numbers = json!({
        "sam": name_of(&checkpoint),
        "precision": precision.to_string(),
        "threads": rayon::current_num_threads(),
        "runs": runs,
        "encoder_seconds": encoder,
    });
    for series in &series {
        let exponent = series.exponent(|median| median.seconds);
        let (name, bar) = (series.name, series.bar);
        numbers[name] = series.numbers();
        for case in &series.cases {
            println!("{:>6} {name}: {}", case.x, case.median());
        }
        let of_cpu = series.exponent(|median| median.cpu_seconds);
        println!(
            "time grows with {name} to the power of {exponent:.3}, the bar is {bar}; CPU time of {of_cpu:.3}"
        );
        if exponent > bar {
            missed.push(format!("{name} to the power of {exponent:.3}"));
        }
        if std::env::args().any(|argument| argument == "--plot") {
            series.plot(&title, encoder)?;
        }
    }
    record("growth", numbers)?;
    judge(&missed)
}

/// One number that grows, the others held.
struct Series {
    name: &'static str,
    axis: &'static str,
    held: &'static str,
    bar: f64,
    cases: Vec<Case>,
}

struct Case {
    /// What grows.
    x: f64,
    options: AutomaticOptions,
    jpegs: Vec<Vec<u8>>,
    runs: Vec<Measured>,
}

/// A pass through all images of a case.
#[derive(Clone, Copy, Default)]
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    decode: f64,
    resize: f64,
    /// Encoder and prompts.
    propose: f64,
    selection: f64,
    masks: usize,
}

fn points() -> Result<Series, Box<dyn Error>> {
    let (width, height) = POINTS_PHOTO;
    let jpeg = Enlarged::new(width, height)?.jpeg(COFFEE)?;
    let cases = GRIDS.map(|side| Case::new(f64::from(side * side), side, vec![jpeg.clone()]));
    Ok(Series {
        name: "points",
        axis: "points: grids of 16 x 16 to 64 x 64",
        held: "one photo of 1500 x 2250 pixels",
        bar: BAR_POINTS,
        cases: cases.into(),
    })
}

fn pixels() -> Result<Series, Box<dyn Error>> {
    let mut cases = Vec::new();
    for megapixels in MEGAPIXELS {
        let jpeg = enlarged(megapixels)?.jpeg(COFFEE)?;
        cases.push(Case::new(megapixels, FEW_POINTS, vec![jpeg]));
    }
    Ok(Series {
        name: "megapixels",
        axis: "size of the photo, megapixels",
        held: "one photo, 16 x 16 points",
        bar: BAR_PIXELS,
        cases,
    })
}

fn images() -> Result<Series, Box<dyn Error>> {
    let mut photos = enlarged(IMAGE_MEGAPIXELS)?;
    let mut cases = Vec::new();
    for count in IMAGES {
        let jpegs: Result<_, _> = (0..count)
            .map(|n| photos.jpeg(COFFEE + PHOTOS * n))
            .collect();
        cases.push(Case::new(f64::from(count), FEW_POINTS, jpegs?));
    }
    Ok(Series {
        name: "images",
        axis: "images",
        held: "photos of 0.5 megapixels, 16 x 16 points, one loaded model",
        bar: BAR_IMAGES,
        cases,
    })
}

/// Photos of 3:2.
fn enlarged(megapixels: f64) -> Result<Enlarged, Box<dyn Error>> {
    let height = (megapixels * 1e6 / 1.5).sqrt();
    Enlarged::new((1.5 * height).round() as u32, height.round() as u32)
}

impl Case {
    fn new(x: f64, points_per_side: u32, jpegs: Vec<Vec<u8>>) -> Self {
        let options = AutomaticOptions {
            point_grids: AutomaticOptions::regular_grids(points_per_side, 0, 1),
            ..AutomaticOptions::default()
        };
        Self {
            x,
            options,
            jpegs,
            runs: Vec::new(),
        }
    }

    /// The image encoder alone, which takes the same time for images of any size.
    fn encoder_seconds(&self, sam: &Sam) -> Result<f64, Box<dyn Error>> {
        let image = decode(&self.jpegs[0], &DecodeLimits::default())?.image;
        let input = ModelInput::new(&image, sam.architecture().image_size);
        let start = Instant::now();
        let mut passes = 0;
        while passes == 0 || start.elapsed().as_secs_f64() < SECONDS_PER_RUN {
            std::hint::black_box(sam.encode(&input));
            passes += 1;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(passes))
    }

    /// The mean of as many passes as fill a second.
    fn run(&self, sam: &Sam) -> Result<Measured, Box<dyn Error>> {
        let cpu = ClockTicks::now()?.of_this_process;
        let start = Instant::now();
        let mut sum = Measured::default();
        let mut passes = 0;
        while passes == 0 || start.elapsed().as_secs_f64() < SECONDS_PER_RUN {
            let pass = self.pass(sam)?;
            sum.decode += pass.decode;
            sum.resize += pass.resize;
            sum.propose += pass.propose;
            sum.selection += pass.selection;
            sum.masks = pass.masks;
            passes += 1;
        }
        let mean = |sum: f64| sum / f64::from(passes);
        Ok(Measured {
            seconds: mean(start.elapsed().as_secs_f64()),
            cpu_seconds: mean(ClockTicks::now()?.of_this_process - cpu),
            decode: mean(sum.decode),
            resize: mean(sum.resize),
            propose: mean(sum.propose),
            selection: mean(sum.selection),
            masks: sum.masks,
        })
    }

    /// The parts of one pass; its caller takes the time of the whole.
    fn pass(&self, sam: &Sam) -> Result<Measured, Box<dyn Error>> {
        let mut parts = Measured::default();
        for jpeg in &self.jpegs {
            let start = Instant::now();
            let image = decode(jpeg, &DecodeLimits::default())?.image;
            parts.decode += start.elapsed().as_secs_f64();

            let start = Instant::now();
            let prepared = PreparedImage::new(&image, &self.options, sam.architecture().image_size);
            parts.resize += start.elapsed().as_secs_f64();

            let start = Instant::now();
            let mut selection = 0.0;
            let filters = &self.options.filters;
            let mut selector = MaskSelector::new(sam.architecture(), filters, prepared.size());
            let done = propose(sam, &self.options, POINTS_PER_BATCH, &prepared, |batch| {
                let start = Instant::now();
                selector.push(batch);
                selection += start.elapsed().as_secs_f64();
                ControlFlow::Continue(())
            });
            parts.propose += start.elapsed().as_secs_f64() - selection;
            if done.is_break() {
                return Err("the points were not all asked".into());
            }
            let start = Instant::now();
            parts.masks += selector.finish().len();
            parts.selection += selection + start.elapsed().as_secs_f64();
        }
        Ok(parts)
    }

    /// The run whose time is the median.
    fn median(&self) -> Measured {
        let mut runs = self.runs.clone();
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        runs[runs.len() / 2]
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} s, {:.3} s of CPU: decode {:.4}, resize {:.4}, encoder and prompts {:.3}, selection {:.4}; {} masks",
            self.seconds,
            self.cpu_seconds,
            self.decode,
            self.resize,
            self.propose,
            self.selection,
            self.masks
        )
    }
}

impl Series {
    /// Of `what`, between the first and the last case.
    fn exponent(&self, what: fn(&Measured) -> f64) -> f64 {
        let (first, last) = (&self.cases[0], &self.cases[self.cases.len() - 1]);
        let growth = what(&last.median()) / what(&first.median());
        growth.ln() / (last.x / first.x).ln()
    }

    fn numbers(&self) -> Value {
        let case = |case: &Case| {
            let median = case.median();
            let of_runs: Vec<f64> = case.runs.iter().map(|run| run.seconds).collect();
            json!({
                (self.name): case.x,
                "seconds": median.seconds,
                "seconds_of_runs": of_runs,
                "cpu_seconds": median.cpu_seconds,
                "decode_seconds": median.decode,
                "resize_seconds": median.resize,
                "encoder_and_prompts_seconds": median.propose,
                "selection_seconds": median.selection,
                "masks": median.masks,
            })
        };
        let cases: Vec<Value> = self.cases.iter().map(case).collect();
        json!({
            "exponent": self.exponent(|median| median.seconds),
            "exponent_cpu": self.exponent(|median| median.cpu_seconds),
            "exponent_decode": self.exponent(|median| median.decode),
            "exponent_resize": self.exponent(|median| median.resize),
            "exponent_encoder_and_prompts": self.exponent(|median| median.propose),
            "exponent_selection": self.exponent(|median| median.selection),
            "bar": self.bar,
            "cases": cases,
        })
    }

    /// `docs/performance/growth-NAME.svg`: the stages stacked, in the order in which an image takes them, and side by side
    /// with logarithmic axes, where an exponent is a slope. `encoder` is that of one image.
    fn plot(&self, title: &str, encoder: f64) -> Outcome {
        let file = match self.name {
            "megapixels" => "pixels",
            name => name,
        };
        let path = repository("docs/performance").join(format!("growth-{file}.svg"));
        fs::create_dir_all(repository("docs/performance"))?;
        let medians: Vec<Measured> = self.cases.iter().map(Case::median).collect();
        let stages: Vec<[f64; STAGES.len()]> = self
            .cases
            .iter()
            .zip(&medians)
            .map(|(case, median)| {
                let encoders = (encoder * case.jpegs.len() as f64).min(median.propose);
                let decoder = median.propose - encoders;
                let (decode, resize) = (median.decode, median.resize);
                [decode, resize, encoders, decoder, median.selection]
            })
            .collect();
        let xs: Vec<f64> = self.cases.iter().map(|case| case.x).collect();
        let measured: Vec<(f64, f64)> = xs
            .iter()
            .zip(&medians)
            .map(|(&x, median)| (x, median.seconds))
            .collect();
        let (first_x, last_x) = (xs[0], xs[xs.len() - 1]);
        let highest = medians.iter().map(|median| median.seconds);
        let highest = highest.fold(0.0, f64::max);

        let area = SVGBackend::new(&path, (1120, 450)).into_drawing_area();
        area.fill(&WHITE)?;
        let exponent = self.exponent(|median| median.seconds);
        let caption = format!("Time against {}: exponent {exponent:.2}", self.name);
        let area = area.titled(&caption, ("sans-serif", 26))?;
        let below = format!("{title}; {}", self.held);
        let area = area.titled(&below, ("sans-serif", 19))?;
        let (charts, legend) = area.split_horizontally(960);
        let (left, right) = charts.split_horizontally(480);
        // Without the last digits of a sum of floats.
        let label = |value: &f64| format!("{}", (value * 1e6).round() / 1e6);

        let mut chart = ChartBuilder::on(&left)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..1.03 * last_x, 0.0..1.05 * highest)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_labels(7)
            .y_labels(8)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .label_style(("sans-serif", 17))
            .axis_desc_style(("sans-serif", 18))
            .x_desc(self.axis)
            .y_desc("seconds")
            .draw()?;
        // From the highest down: each covers what lies below its top.
        for (index, (_, colour)) in STAGES.iter().enumerate().rev() {
            let top = |stages: &[f64; STAGES.len()]| stages[..=index].iter().sum();
            let tops = xs.iter().copied().zip(stages.iter().map(top));
            chart.draw_series(AreaSeries::new(tops, 0.0, colour.filled()))?;
        }
        chart.draw_series(LineSeries::new(measured.clone(), &BLACK))?;
        let dots = measured
            .iter()
            .map(|&at| Circle::new(at, 4, BLACK.filled()));
        chart.draw_series(dots)?;

        let positive = stages.iter().flatten().copied().filter(|&s| s > 0.0);
        let lowest = positive.fold(highest, f64::min);
        let (x_range, y_range) = (first_x..1.03 * last_x, 0.7 * lowest..1.4 * highest);
        let mut chart = ChartBuilder::on(&right)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(x_range.log_scale().base(2.0), y_range.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_labels(7)
            .y_labels(6)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .label_style(("sans-serif", 17))
            .axis_desc_style(("sans-serif", 18))
            .x_desc("the same, logarithmic")
            .y_desc("seconds, logarithmic")
            .draw()?;
        for (index, (_, colour)) in STAGES.iter().enumerate() {
            let points = xs
                .iter()
                .zip(&stages)
                .map(|(&x, stages)| (x, stages[index]));
            let points: Vec<(f64, f64)> = points.filter(|&(_, seconds)| seconds > 0.0).collect();
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(3)))?;
            let dots = points.iter().map(|&at| Circle::new(at, 3, colour.filled()));
            chart.draw_series(dots)?;
        }
        chart.draw_series(LineSeries::new(measured.clone(), &BLACK))?;
        let dots = measured
            .iter()
            .map(|&at| Circle::new(at, 4, BLACK.filled()));
        chart.draw_series(dots)?;

        // Beside the charts, where it covers nothing; in the order of the areas.
        legend.draw(&Circle::new((7, 22), 4, BLACK.filled()))?;
        legend.draw(&Text::new("all stages", (24, 15), ("sans-serif", 18)))?;
        for (y, (name, colour)) in (48..).step_by(26).zip(STAGES.iter().rev()) {
            legend.draw(&Rectangle::new([(0, y - 7), (14, y + 7)], colour.filled()))?;
            legend.draw(&Text::new(*name, (24, y - 7), ("sans-serif", 18)))?;
        }
        area.present()?;
        eprintln!("{}", path.display());
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
