//! A job in a folder of its own: files in, the real `maskmill` over them, rows out.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, RgbImage};
use maskmill_formats::rows::{ImageRow, ImageStatus, MaskRow, read_images, read_masks};
use maskmill_loopback_s3::LoopbackS3;
use serde_json::Value;
use tempfile::TempDir;

/// The checkpoint that ships with maskmill.
pub(crate) const TINY: &str = "models/sam-seeded-tiny.safetensors";

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An image file that Pillow made for the decoder's tests.
pub(crate) fn decoder_data(name: &str) -> Vec<u8> {
    let path = repository("crates/formats/tests/data").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The bucket of a job's source, in a store.
pub(crate) const DATA: &str = "data";
/// The bucket of its output.
pub(crate) const OUT: &str = "out";

/// A job that is not run yet: a source to fill, settings to change. Source and output are on the local
/// disk, or in buckets of a loopback S3.
pub(crate) struct Job {
    folder: TempDir,
    settings: Vec<String>,
    server: Option<Arc<LoopbackS3>>,
}

/// How a run of `maskmill` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// All rows of an output, in the order of shards; `milliseconds`, which no two runs share, is 0.
#[derive(Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) images: Vec<ImageRow>,
    pub(crate) masks: Vec<MaskRow>,
}

impl Job {
    /// Over a folder of images.
    pub(crate) fn of_images() -> Self {
        Self::new("images", "source", "out", None)
    }

    /// Over a folder of tar shards.
    pub(crate) fn of_tars() -> Self {
        Self::new("webdataset", "source", "out", None)
    }

    /// Over a prefix of `server`, which also gets the output: `s3://data/source` and `s3://out/job`.
    /// Retries are quick. The server's buckets are made here, if it has none.
    pub(crate) fn in_store(kind: &str, server: &Arc<LoopbackS3>) -> Self {
        server.create_bucket(DATA);
        server.create_bucket(OUT);
        let (source, out) = (format!("s3://{DATA}/source"), format!("s3://{OUT}"));
        let mut job = Self::new(kind, &source, &out, Some(server.clone()));
        job.set("store.first_backoff_seconds=0.01")
            .set("store.longest_backoff_seconds=0.1");
        job
    }

    /// Of any kind, over any source.
    pub(crate) fn new(
        kind: &str,
        source: &str,
        out: &str,
        server: Option<Arc<LoopbackS3>>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let checkpoint = repository(TINY);
        // Thresholds that keep every mask: the shipped checkpoint is untrained.
        let pipeline = format!(
            "name = \"job\"\n\
             [source]\nkind = \"{kind}\"\npath = \"{source}\"\n\
             [model]\ncheckpoint = '{}'\n\
             [prompts]\nmode = \"automatic\"\npoints_per_side = 4\n\
             [masks]\npred_iou_thresh = 0.0\nstability_score_thresh = 0.0\nmin_area = 1\n",
            checkpoint.display()
        );
        fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        fs::write(
            folder.path().join("config.toml"),
            format!("[output]\nroot = \"{out}\"\n"),
        )
        .unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        Self {
            folder,
            settings: Vec::new(),
            server,
        }
    }

    /// The store, for a job that is in one.
    #[track_caller]
    pub(crate) fn server(&self) -> &Arc<LoopbackS3> {
        self.server.as_ref().expect("the job is in a store")
    }

    /// A file of the source.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> &Self {
        if let Some(server) = &self.server {
            server.put(DATA, &format!("source/{key}"), bytes.to_vec());
            return self;
        }
        let path = self.path("source").join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// A setting of either file, as `--set` takes it.
    pub(crate) fn set(&mut self, setting: &str) -> &mut Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// A path in the job's folder, where commands run: `source`, `out`, `pipeline.toml`, `config.toml`.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The output as commands take it.
    pub(crate) fn location(&self) -> String {
        match &self.server {
            None => "out/job".to_owned(),
            Some(_) => format!("s3://{OUT}/job"),
        }
    }

    /// The directory that a job on the local disk writes to.
    pub(crate) fn output(&self) -> PathBuf {
        self.path("out/job")
    }

    /// The arguments of `maskmill run` for this job.
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.arguments_of("run")
    }

    /// The arguments of another command that takes the job's files.
    pub(crate) fn arguments_of(&self, command: &str) -> Vec<String> {
        let mut arguments: Vec<String> = [command, "pipeline.toml", "--config", "config.toml"]
            .map(str::to_owned)
            .to_vec();
        for setting in &self.settings {
            arguments.extend(["--set".to_owned(), setting.clone()]);
        }
        arguments
    }

    /// Any program, in the job's folder.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        // Whatever the machine's environment says of stores is not the tests' business.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        if let Some(server) = &self.server {
            command.envs(server.environment());
        }
        command
    }

    /// Any command of maskmill, in the job's folder.
    pub(crate) fn maskmill(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(MASKMILL).args(arguments))
    }

    /// `maskmill run`.
    pub(crate) fn run(&self) -> Ran {
        Ran::of(self.command(MASKMILL).args(self.arguments()))
    }

    /// `maskmill run` or another command on the job's files, with further arguments.
    pub(crate) fn job(&self, command: &str, further: &[&str]) -> Ran {
        Ran::of(
            self.command(MASKMILL)
                .args(self.arguments_of(command))
                .args(further),
        )
    }

    /// `maskmill run`, which must do everything, and the rows of the output.
    pub(crate) fn rows_of_run(&self) -> Rows {
        self.run().expect_code(0);
        self.rows()
    }

    /// All rows that were written.
    pub(crate) fn rows(&self) -> Rows {
        let mut rows = Rows {
            images: Vec::new(),
            masks: Vec::new(),
        };
        for part in self.parts("images") {
            rows.images.extend(read_images(part.into()).unwrap());
        }
        for part in self.parts("masks") {
            rows.masks.extend(read_masks(part.into()).unwrap());
        }
        for image in &mut rows.images {
            image.milliseconds = 0.0;
        }
        rows
    }
}

impl Job {
    /// All Parquet files of a folder of the output, in the order of their names, whether or not a marker
    /// names them: as somebody sees them who reads `masks/*.parquet`.
    fn parts(&self, folder: &str) -> Vec<Vec<u8>> {
        match &self.server {
            None => {
                let mut parts = files_below(&self.output().join(folder));
                parts.retain(|part| part.extension().is_some_and(|e| e == "parquet"));
                parts.iter().map(|part| fs::read(part).unwrap()).collect()
            }
            Some(server) => {
                let keys = server.keys(OUT, &format!("job/{folder}/"));
                let part = |key: &String| server.get(OUT, key).unwrap().to_vec();
                keys.iter().map(part).collect()
            }
        }
    }
}

/// The program under test.
pub(crate) const MASKMILL: &str = env!("CARGO_BIN_EXE_maskmill");

impl Ran {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("the program starts");
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(stderr).expect("output is UTF-8"),
        }
    }

    /// Fails, with all that was printed, unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails unless the errors have each of `words`.
    #[track_caller]
    pub(crate) fn expect_error(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }

    /// The events printed as JSON lines.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.stderr.lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| serde_json::from_str(line).expect("an event is a line of JSON"))
            .collect()
    }

    /// The shards that this run committed, sorted: those decoded at the same time may overtake each other.
    pub(crate) fn committed(&self) -> Vec<u64> {
        let events = self.events().into_iter();
        let committed = events.filter(|event| event["event"] == "committed");
        let mut shards: Vec<u64> = committed
            .map(|event| event["shard"].as_u64().expect("a shard's number"))
            .collect();
        shards.sort_unstable();
        shards
    }
}

impl Rows {
    /// The row of one image.
    #[track_caller]
    pub(crate) fn image(&self, key: &str) -> &ImageRow {
        let found = self.images.iter().find(|row| row.image_key == key);
        found.unwrap_or_else(|| panic!("no row of {key:?}; there are {:?}", self.keys()))
    }

    /// The keys of all images.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let images = self.images.iter();
        images.map(|row| row.image_key.as_str()).collect()
    }

    /// The masks of one image.
    pub(crate) fn masks(&self, key: &str) -> Vec<&MaskRow> {
        let masks = self.masks.iter();
        masks.filter(|mask| mask.image_key == key).collect()
    }

    /// Fails unless the image was processed, has masks, and each decodes to its row's area and to the
    /// image's size.
    #[track_caller]
    pub(crate) fn expect_masks(&self, key: &str) -> &ImageRow {
        let image = self.image(key);
        assert_eq!(image.status, ImageStatus::Ok, "{image:?}");
        assert_eq!((&image.reason, &image.detail), (&None, &None), "{key}");
        let masks = self.masks(key);
        assert!(!masks.is_empty(), "{key} has no masks");
        assert_eq!(masks.len(), image.masks as usize, "{key}");
        for mask in masks {
            let decoded = mask.rle.decode();
            let size = decoded.size();
            assert_eq!([size.height, size.width], [image.height, image.width]);
            assert_eq!(decoded.area(), mask.area, "{key}");
            assert!(mask.area > 0, "{key} has an empty mask");
        }
        image
    }

    /// Fails unless the image was rejected for `reason`; returns the detail.
    #[track_caller]
    pub(crate) fn expect_reject(&self, key: &str, reason: &str) -> &str {
        let image = self.image(key);
        assert_eq!(image.status, ImageStatus::Rejected, "{image:?}");
        assert_eq!(image.reason.as_deref(), Some(reason), "{image:?}");
        assert_eq!(image.masks, 0);
        assert!(self.masks(key).is_empty(), "{key} was rejected, with masks");
        image.detail.as_deref().expect("a reject says why")
    }
}

/// All files below a folder, sorted; none where there is no folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

/// Everything below a folder with its bytes, to see that nothing has changed.
pub(crate) fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(folder).into_iter();
    files
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// A picture of bright discs on a shaded ground; another one for each `seed`.
pub(crate) fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let disc = (0..4).find(|disc| {
            let at = |step: u32, side: u32| ((seed + disc) * step % 97 * side / 97).cast_signed();
            let (dx, dy) = (
                x.cast_signed() - at(37, width),
                y.cast_signed() - at(59, height),
            );
            dx * dx + dy * dy < (width.min(height) / 5).pow(2).cast_signed()
        });
        let shade = |position: u32, side: u32| (40 + 90 * position / side) as u8;
        match disc {
            Some(disc) => image::Rgb([230 - 50 * disc as u8, 60 + 45 * disc as u8, 200]),
            None => image::Rgb([shade(x, width), shade(y, height), 70]),
        }
    })
}

/// A picture as a PNG file, with EXIF orientation if one is given.
pub(crate) fn png(picture: &RgbImage, exif_orientation: Option<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    if let Some(orientation) = exif_orientation {
        // TIFF, little-endian: one directory with one entry, 0x0112 (orientation), SHORT, count 1.
        let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        encoder.set_exif_metadata(exif).expect("PNG has EXIF");
    }
    let (width, height) = picture.dimensions();
    encoder
        .write_image(picture, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// A picture as a JPEG file.
pub(crate) fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90))
        .unwrap();
    bytes.into_inner()
}

/// A photo of samples/, scaled down.
pub(crate) fn small_sample(name: &str, side: u32) -> RgbImage {
    let photo = image::open(repository("samples").join(name)).unwrap();
    let small: DynamicImage = photo.thumbnail(side, side);
    small.to_rgb8()
}

/// A small picture as a file, another one for each seed.
pub(crate) fn photo(seed: u32) -> Vec<u8> {
    png(&picture(48, 40, seed), None)
}

/// A tar of plain files.
pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A loopback S3 without buckets.
pub(crate) fn server() -> Arc<LoopbackS3> {
    Arc::new(LoopbackS3::start())
}

/// A job over `count` images in a store, two to a shard.
pub(crate) fn of_images(server: &Arc<LoopbackS3>, count: u32) -> Job {
    let mut job = Job::in_store("images", server);
    for index in 0..count {
        job.put(&format!("{index:02}.png"), &photo(index));
    }
    job.set("source.images_per_shard=2");
    job
}

/// `GET /metrics`; nothing where nobody answers.
pub(crate) fn metrics(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
