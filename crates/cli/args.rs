//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The checkpoint that ships with maskmill.
const SHIPPED_CHECKPOINT: &str = "models/sam-seeded-tiny.safetensors";

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
    /// Re-read an output: every part, every mask, nothing missing or twice.
    Verify(OutputArguments),
    /// Draw one image's masks on it, as a PNG.
    View(ViewArguments),
    /// Write an output in another format.
    Export(ExportArguments),
    /// Predict masks for points and boxes on one image.
    Predict(PredictArguments),
}

#[derive(Args)]
pub(crate) struct RunArguments {
    /// What is computed: a pipeline file, such as pipelines/quickstart.toml.
    pub pipeline: PathBuf,
    /// Where and how fast: a config file, such as configs/local.toml.
    #[arg(long)]
    pub config: PathBuf,
    /// Override one key of either file: --set masks.box_nms_thresh=0.6. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

#[derive(Args)]
pub(crate) struct OutputArguments {
    /// A job's output directory.
    pub output: String,
}

#[derive(Args)]
pub(crate) struct ViewArguments {
    /// A job's output directory.
    pub output: String,
    /// The image's key, as in the column image_key.
    #[arg(long)]
    pub image: String,
    /// The PNG to write; by default the key with `/` replaced, in the working directory.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ExportArguments {
    /// A job's output directory.
    pub output: String,
    /// The format.
    #[arg(long)]
    pub format: ExportFormat,
    /// The directory to write to; by default `OUTPUT/FORMAT`.
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
    /// One mask per prompt instead of three.
    #[arg(long)]
    pub single: bool,
    /// A SAM checkpoint, .pth or .safetensors.
    #[arg(long, default_value = SHIPPED_CHECKPOINT)]
    pub checkpoint: PathBuf,
    /// Where the model runs: cpu, cuda:0, wgpu:0.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Path of the outputs without extension; by default the image's name in the working directory.
    #[arg(long, value_name = "PREFIX")]
    pub out: Option<PathBuf>,
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
