//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use maskmill_job::Selection;

/// The checkpoint that ships with maskmill.
const SHIPPED_CHECKPOINT: &str = "models/sam-nano.safetensors";

/// Turns large image collections into mask datasets with Segment Anything.
#[derive(Parser)]
#[command(name = "maskmill", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline: images in, masks out, in Parquet. Run it again to resume.
    Run(RunArguments),
    /// Show the shards, images, bytes, time and cost of a job; freeze its plan or add what is new.
    Plan(PlanArguments),
    /// Show how far a job is: done, running and failed shards, rejects, time left.
    Status(StatusArguments),
    /// Re-read an output: every part, every mask, nothing missing or twice.
    Verify(OutputArguments),
    /// Write the table of all parts, once every shard is committed.
    Finalize(OutputArguments),
    /// Find, and with --delete remove, old parts that nothing names.
    Gc(GcArguments),
    /// Draw one image's masks on it, as a PNG.
    View(ViewArguments),
    /// Write an output in another format.
    Export(ExportArguments),
    /// Predict masks for points, boxes or texts on one image.
    Predict(PredictArguments),
    /// Train a model on images with masks, from nothing or from a checkpoint. Run it again to go on.
    Train(TrainArguments),
    /// Measure a checkpoint on images with masks: mIoU by clicks and from boxes, objects found.
    Eval(EvalArguments),
    /// Look at model files.
    #[command(subcommand)]
    Models(ModelsCommand),
}

#[derive(Subcommand)]
pub(crate) enum ModelsCommand {
    /// Say what a checkpoint is: which model, its sizes, its tokenizer, and where it belongs in a pipeline file.
    Inspect(InspectArguments),
}

#[derive(Args)]
pub(crate) struct InspectArguments {
    /// A checkpoint, .safetensors, .pth, .pt or .bin, or the folder that holds it.
    pub file: PathBuf,
}

/// The files of a job.
#[derive(Args)]
pub(crate) struct JobArguments {
    /// What is computed: a pipeline file, such as pipelines/quickstart.toml.
    pub pipeline: PathBuf,
    /// Where and how fast: a config file, such as configs/local.toml.
    #[arg(long)]
    pub config: PathBuf,
    /// Override one key of either file: --set masks.box_nms_thresh=0.6. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The form of log lines; the same as --set log.format=...
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArgument>,
}

/// Where a model is trained or measured, and what is changed in the files.
#[derive(Args)]
pub(crate) struct TrainingPlace {
    /// Where and how fast: a config file, such as configs/local.toml.
    #[arg(long)]
    pub config: PathBuf,
    /// Override one key of either file: --set optimiser.steps=500. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The form of log lines; the same as --set log.format=...
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArgument>,
}

#[derive(Args)]
pub(crate) struct TrainArguments {
    /// What is learned: a training file, such as pipelines/train-nano.toml.
    pub pipeline: PathBuf,
    #[command(flatten)]
    pub place: TrainingPlace,
    /// Save and stop after this many steps, though the training file wants more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps_at_most: Option<u32>,
}

#[derive(Args)]
pub(crate) struct EvalArguments {
    /// A SAM checkpoint, .pth or .safetensors; of a grounder the file, or the folder that holds it.
    pub checkpoint: PathBuf,
    /// The training file whose validation section says on what.
    #[arg(long, value_name = "FILE")]
    pub pipeline: PathBuf,
    #[command(flatten)]
    pub place: TrainingPlace,
    /// Also generate masks automatically, and count the objects that they find.
    #[arg(long)]
    pub automatic: bool,
    /// For --automatic: points along each side of the image.
    #[arg(long, value_name = "N", default_value_t = 32, requires = "automatic", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub points_per_side: u32,
    /// For --automatic: masks with a lower predicted IoU are dropped.
    #[arg(long, value_name = "IOU", default_value_t = 0.88, requires = "automatic", value_parser = fraction)]
    pub pred_iou_thresh: f64,
    /// For --automatic: masks with a lower stability score are dropped.
    #[arg(long, value_name = "SCORE", default_value_t = 0.95, requires = "automatic", value_parser = fraction)]
    pub stability_score_thresh: f64,
    /// For --automatic: of two masks whose boxes have a larger IoU the worse one is dropped.
    #[arg(long, value_name = "IOU", default_value_t = 0.7, requires = "automatic", value_parser = fraction)]
    pub box_nms_thresh: f64,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormatArgument {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub job: JobArguments,
    /// Do the part I of N of the shards: 0/8 to 7/8 on eight machines share a job.
    #[arg(long, value_name = "I/N", value_parser = Selection::parse_worker, conflicts_with = "shards")]
    pub worker: Option<Selection>,
    /// Do the shards from A up to and without B.
    #[arg(long, value_name = "A..B", value_parser = Selection::parse_range)]
    pub shards: Option<Selection>,
    /// Try shards again that failed in an earlier run.
    #[arg(long)]
    pub retry_failed: bool,
    /// Look again at rejected images of committed shards, in shards of their own.
    #[arg(long)]
    pub retry_rejects: bool,
    /// Only read the source, up to this stage, and say how fast; nothing is written.
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["retry_failed", "retry_rejects"])]
    pub stop_after: Option<StopAfterArgument>,
    /// Serve Prometheus metrics at this address: 127.0.0.1:9090.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_addr: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum StopAfterArgument {
    /// Fetch the images.
    Fetch,
    /// Fetch and decode them.
    Decode,
}

#[derive(Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub job: JobArguments,
    /// Freeze the plan in the output, so that all workers do the same shards.
    #[arg(long, conflicts_with = "extend")]
    pub write: bool,
    /// Add what the source has and the plan has not, as new shards.
    #[arg(long)]
    pub extend: bool,
    /// What an hour of one worker costs, in any currency.
    #[arg(long, value_name = "PRICE", value_parser = price)]
    pub price_per_hour: Option<f64>,
    /// How many workers will share the job.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// How many images are run through the model to measure the time, where no committed shard tells it;
    /// 0 measures nothing.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub measure: usize,
}

#[derive(Args)]
pub(crate) struct OutputArguments {
    /// A job's output directory: out/quickstart, s3://bucket/out/quickstart.
    pub output: String,
    /// A config file whose section `store` says how to reach it; by default the environment does.
    #[arg(long)]
    pub config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub output: OutputArguments,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(crate) struct GcArguments {
    #[command(flatten)]
    pub output: OutputArguments,
    /// Only what is older than this: 12h, 2days. At least 10 minutes.
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = age)]
    pub older_than: Duration,
    /// Remove it; otherwise it is only listed.
    #[arg(long)]
    pub delete: bool,
}

#[derive(Args)]
pub(crate) struct ViewArguments {
    #[command(flatten)]
    pub output: OutputArguments,
    /// The image's key, as in the column image_key.
    #[arg(long)]
    pub image: String,
    /// The PNG to write; by default the key with `/` replaced, in the working directory.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub output: OutputArguments,
    /// The format.
    #[arg(long)]
    pub format: ExportFormat,
    /// The directory to write to; by default `OUTPUT/FORMAT`, and needed
    /// if the output is not on this machine.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON file per image, as in the SA-1B dataset.
    Sa1b,
}

#[derive(Args)]
pub(crate) struct PredictArguments {
    /// An image file: JPEG, PNG, TIFF, BMP or WebP.
    pub image: PathBuf,
    /// A point in pixels, on the object (x,y or x,y,1) or beside it (x,y,0). Repeatable.
    #[arg(long = "point", value_name = "X,Y[,LABEL]", allow_hyphen_values = true)]
    pub points: Vec<Point>,
    /// A box around the object, in pixels; all points go with it. Repeatable: each box is a prompt of
    /// its own.
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    pub boxes: Vec<Corners>,
    /// What to look for; needs --detector. Repeatable: each text is a label. A text with phrases that mean the same
    /// is NAME=PHRASE|PHRASE.
    #[arg(long = "text", value_name = "TEXT", requires = "detector", conflicts_with_all = ["points", "boxes", "single"])]
    pub texts: Vec<String>,
    /// The detector for --text: an OWLv2 or OWL-ViT checkpoint, or the folder that holds it and its tokenizer.
    #[arg(long, value_name = "PATH", requires = "texts")]
    pub detector: Option<PathBuf>,
    /// Detections of --text with a score above this are segmented.
    #[arg(long, value_name = "SCORE", default_value_t = 0.1, value_parser = score)]
    pub score_thresh: f32,
    /// One mask per prompt instead of three; --text always gives one.
    #[arg(long)]
    pub single: bool,
    /// A SAM checkpoint, .pth or .safetensors.
    #[arg(long, default_value = SHIPPED_CHECKPOINT)]
    pub checkpoint: PathBuf,
    /// In which numbers the SAM checkpoint computes; the detector computes in f32.
    #[arg(long, default_value = "f32")]
    pub precision: PrecisionArgument,
    /// Where the model runs: cpu, cuda:0, wgpu:0.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Path of the outputs without extension; by default the image's name in the working directory.
    #[arg(long, value_name = "PREFIX")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArgument {
    /// 32-bit floats throughout.
    F32,
    /// At least 16 significant bits of the factors of matrix products, the rest in 32: on AMX twice as fast.
    High,
    /// The factors of matrix products rounded to bfloat16, the rest in 32 bits.
    Bf16,
}

fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(price) if price.is_finite() && price >= 0.0 => Ok(price),
        _ => Err("a price is a number, such as 2.5".to_owned()),
    }
}

fn score(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(score) if (0.0..=1.0).contains(&score) => Ok(score),
        _ => Err("a score is a number from 0 to 1".to_owned()),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err("it is a number from 0 to 1".to_owned()),
    }
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 12h or 2days"))
}

/// `x,y` or `x,y,label`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub xy: [f64; 2],
    pub foreground: bool,
}

/// `x0,y0,x1,y1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Corners(pub [f64; 4]);

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    let number = |part: &str| {
        let part = part.trim();
        match part.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(format!("`{part}` is not a number")),
        }
    };
    text.split(',').map(number).collect()
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x, y] | [x, y, 1.0] => Ok(Self {
                xy: [x, y],
                foreground: true,
            }),
            [x, y, 0.0] => Ok(Self {
                xy: [x, y],
                foreground: false,
            }),
            _ => Err("a point is x,y or x,y,1 (on the object) or x,y,0 (beside it)".to_owned()),
        }
    }
}

impl FromStr for Corners {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x0, y0, x1, y1] if x0 < x1 && y0 < y1 => Ok(Self([x0, y0, x1, y1])),
            [_, _, _, _] => Err("a box needs x0 < x1 and y0 < y1".to_owned()),
            _ => Err("a box is x0,y0,x1,y1".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn points_and_boxes_parse() {
        let point: Point = "3.5,-2,0".parse().unwrap();
        assert_eq!((point.xy, point.foreground), ([3.5, -2.0], false));
        assert!("3, 4".parse::<Point>().unwrap().foreground);
        for bad in ["", "1", "1,2,3", "1,2,1,1", "1,x", "nan,1", "1,inf"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
        assert_eq!("1,2,3,4".parse(), Ok(Corners([1.0, 2.0, 3.0, 4.0])));
        for bad in ["1,2,3", "3,2,1,4", "1,2,1,4", "a,b,c,d"] {
            assert!(bad.parse::<Corners>().is_err(), "{bad}");
        }
    }
}
