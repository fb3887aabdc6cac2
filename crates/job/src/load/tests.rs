//! Whole files through [`load`]: what is accepted, what is reported, what the fingerprint sees.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::{
    Fingerprint, JobRecord, PointGrid, Precision, Prompts, SceneSettings, ShardLimits, Source,
    canonical_json,
};

pub(super) const PIPELINE: &str = r#"
name = "cats"
[source]
kind = "images"
path = "photos"
[model]
checkpoint = "models/sam_vit_b_01ec64.pth"
"#;

const CONFIG: &str = r#"
[output]
root = "out"
"#;

pub(super) fn pipeline(text: &str) -> Result<Pipeline, ConfigError> {
    let name = "cats.toml";
    load_pipeline(TextFile { name, text }, &[])
}

fn training(text: &str) -> Result<TrainingPipeline, ConfigError> {
    let name = "nano.toml";
    load_training_pipeline(TextFile { name, text }, &[])
}

fn grounder(text: &str) -> Result<GrounderPipeline, ConfigError> {
    let name = "nano.toml";
    load_grounder_pipeline(TextFile { name, text }, &[])
}

fn config(text: &str) -> Result<Config, ConfigError> {
    let name = "here.toml";
    load_config(TextFile { name, text }, &[])
}

pub(super) fn job(overrides: &[&str]) -> Result<Job, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|set| set.to_string()).collect();
    let file = |name, text| TextFile { name, text };
    load(
        file("cats.toml", PIPELINE),
        file("here.toml", CONFIG),
        &overrides,
    )
}

pub(super) fn no_files() -> BTreeMap<String, String> {
    BTreeMap::new()
}

pub(super) fn messages<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<String> {
    let problems = result.expect_err("accepted").problems;
    problems.iter().map(ToString::to_string).collect()
}

fn automatic(pipeline: &Pipeline) -> &crate::AutomaticPrompts {
    match &pipeline.prompts {
        Prompts::Automatic(prompts) => prompts,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_those_of_sam_automatic_mask_generator() {
    let pipeline = pipeline(PIPELINE).unwrap();
    let prompts = automatic(&pipeline);
    assert_eq!(prompts.grid, PointGrid::PerSide(32));
    assert_eq!((prompts.crop_n_layers, prompts.single_mask), (0, false));
    assert_eq!(prompts.crop_overlap_ratio, 512.0 / 1500.0);
    assert_eq!(prompts.crop_n_points_downscale_factor, 1);
    let masks = &pipeline.masks;
    assert_eq!(masks.pred_iou_thresh, 0.88);
    assert_eq!(masks.stability_score_thresh, 0.95);
    assert_eq!(masks.stability_score_offset, 1.0);
    assert_eq!(masks.mask_threshold, 0.0);
    assert_eq!((masks.box_nms_thresh, masks.crop_nms_thresh), (0.7, 0.7));
    assert_eq!((masks.min_mask_region_area, masks.min_area), (0, 0));
    assert_eq!(masks.max_coverage, None);
    assert_eq!(
        (masks.mask_nms_thresh, masks.containment_nms_thresh),
        (None, None)
    );
}

#[test]
fn the_shipped_local_config_shows_every_run_and_train_setting_at_its_default() {
    let text = include_str!("../../../../configs/local.toml");
    let (shipped, default) = (config(text).unwrap(), config(CONFIG).unwrap());
    assert_eq!((shipped.run, shipped.train), (default.run, default.train));
    let keys = |section| FileKind::Config.keys(section).unwrap().iter();
    for key in keys("run").chain(keys("train")) {
        let set = |line: &str| line.split(" = ").next() == Some(*key);
        assert!(text.lines().any(set), "{key} is not in configs/local.toml");
    }
}

#[test]
fn the_memory_of_prompts_holds_one_prompt_at_least() {
    let memory = |set: &str| job(&[set]).map(|job| job.config.run.prompt_memory);
    assert_eq!(memory("run.prompt_memory=1 MiB").unwrap(), 1 << 20);
    assert_eq!(
        memory("run.prompt_memory=3000000000").unwrap(),
        3_000_000_000
    );
    let error = memory("run.prompt_memory=1 MB").unwrap_err().to_string();
    let expected = "run.prompt_memory = \"1 MB\" is outside [1048576, 1125899906842624] bytes";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn every_shipped_file_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = |folder: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect()
    };
    let (pipelines, configs) = (files("pipelines"), files("configs"));
    assert!(pipelines.len() >= 2 && !configs.is_empty());
    for path in pipelines {
        let text = fs::read_to_string(&path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = if text.contains("task = \"grounder\"") {
            grounder(&text).map(|loaded| loaded.name)
        } else if text.contains("[optimiser]") {
            training(&text).map(|loaded| loaded.name)
        } else {
            pipeline(&text).map(|loaded| loaded.name)
        };
        let name = name.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(name, stem, "output directories are named after the file");
    }
    for path in configs {
        let text = fs::read_to_string(&path).unwrap();
        config(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn the_shipped_sa1b_pipeline_has_the_settings_of_the_paper() {
    let pipeline = pipeline(include_str!("../../../../pipelines/sa1b.toml")).unwrap();
    let prompts = automatic(&pipeline);
    assert_eq!(prompts.grid, PointGrid::PerSide(32));
    assert_eq!(prompts.crop_n_layers, 2);
    assert_eq!(prompts.crop_n_points_downscale_factor, 2);
    assert_eq!(pipeline.masks.max_coverage, Some(0.95));
    assert_eq!(pipeline.masks.min_mask_region_area, 100);
}

#[test]
fn a_file_full_of_mistakes_is_reported_at_once_by_line() {
    let text = include_str!("../../testdata/typos.toml");
    let file = |name, text| TextFile { name, text };
    let config = "[output]\n[run]\ndevice = \"cdua:0\"\nmax_bytes_in_flight = \"lots\"\n";
    let overrides = ["masks.min_area=big".to_string(), "speed=9".to_string()];
    let error = load(
        file("typos.toml", text),
        file("here.toml", config),
        &overrides,
    )
    .unwrap_err();
    let expected = include_str!("../../testdata/typos.expected.txt");
    assert_eq!(format!("{error}\n"), expected);
}

#[test]
fn syntax_errors_name_line_and_column_and_the_other_file_is_still_checked() {
    let file = |name, text| TextFile { name, text };
    let error = load(
        file(
            "cats.toml",
            "name = \"cats\"\n[masks\nbox_nms_thresh = 0.7\n",
        ),
        file("here.toml", "[output]\nroot = 7\n"),
        &[],
    );
    let messages = messages(error);
    assert_eq!(messages.len(), 2, "{messages:#?}");
    assert!(
        messages[0].starts_with("cats.toml:2: not TOML, column 7:"),
        "{messages:#?}"
    );
    assert_eq!(
        messages[1],
        "here.toml:2: output.root = 7 is an integer; it must be a string"
    );
}

#[test]
fn an_empty_file_says_what_it_needs() {
    assert_eq!(
        messages(pipeline("")),
        [
            "cats.toml: source.kind is missing: \"images\" or \"webdataset\" or \"parquet\" or \"manifest\" or \"scenes\"",
            "cats.toml: source.path is missing: the folder, prefix or file to read",
            "cats.toml: model.checkpoint is missing: a SAM checkpoint, .pth or .safetensors",
            "cats.toml: name is missing: a name for the job, which also names its output directory",
        ]
    );
}

#[test]
fn ranges_are_inclusive_and_enforced_on_both_ends() {
    let with = |line: &str| format!("{PIPELINE}\n[masks]\n{line}\n");
    for good in [
        "box_nms_thresh = 0",
        "box_nms_thresh = 1",
        "max_coverage = 1.0",
    ] {
        pipeline(&with(good)).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for (bad, message) in [
        (
            "box_nms_thresh = 1.4",
            "masks.box_nms_thresh = 1.4 is outside [0, 1]",
        ),
        (
            "box_nms_thresh = -0.1",
            "masks.box_nms_thresh = -0.1 is outside [0, 1]",
        ),
        (
            "box_nms_thresh = nan",
            "masks.box_nms_thresh = NaN is outside [0, 1]",
        ),
        (
            "stability_score_offset = inf",
            "masks.stability_score_offset = inf is outside [0, 100]",
        ),
        (
            "min_area = -1",
            "masks.min_area = -1 is outside [0, 10000000000]",
        ),
        (
            "min_mask_region_area = 99999999999999999999",
            "masks.min_mask_region_area = 99999999999999999999 is outside [0, 4294967295]",
        ),
        (
            "min_area = 2.5",
            "masks.min_area = 2.5 is a number; it must be an integer",
        ),
    ] {
        let found = messages(pipeline(&with(bad)));
        assert_eq!(found, [format!("cats.toml:10: {message}")], "for {bad}");
    }
}

#[test]
fn point_grids_replace_points_per_side() {
    let with = |lines: &str| format!("{PIPELINE}[prompts]\n{lines}\n");
    let loaded = pipeline(&with(
        "crop_n_layers = 1\npoint_grids = [[[0.25, 0.5], [0.75, 0.5]], [[0.5, 1]]]",
    ))
    .unwrap();
    let grids = vec![vec![[0.25, 0.5], [0.75, 0.5]], vec![[0.5, 1.0]]];
    assert_eq!(automatic(&loaded).grid, PointGrid::Explicit(grids));

    for (lines, line, part) in [
        (
            "point_grids = [[[0.5, 0.5]]]\npoints_per_side = 8",
            9,
            "are both given",
        ),
        (
            "point_grids = [[[0.5, 0.5]]]\ncrop_n_layers = 1",
            9,
            "has 1 grids, but crop_n_layers = 1 needs 2",
        ),
        (
            "point_grids = [[[0.5, 1.5]]]",
            9,
            "point_grids[0][0] is not a point",
        ),
        (
            "point_grids = [[[0.5, 0.5],\n [0.5]]]",
            10,
            "point_grids[0][1] is not a point",
        ),
        ("point_grids = [[]]", 9, "point_grids[0] has no points"),
        ("point_grids = [[0.5, 0.5]]", 9, "is not a point [x, y]"),
        ("point_grids = 3", 9, "must be an array of grids"),
    ] {
        let found = messages(pipeline(&with(lines)));
        assert!(found[0].contains(part), "{lines}: {found:#?}");
        assert!(
            found[0].starts_with(&format!("cats.toml:{line}:")),
            "{found:#?}"
        );
    }
}

#[test]
fn a_crop_layer_without_points_is_refused() {
    // The reference divides by zero here: int(4 / 3^2) points per side.
    let text = format!(
        "{PIPELINE}[prompts]\npoints_per_side = 4\ncrop_n_layers = 2\n\
         crop_n_points_downscale_factor = 3\n"
    );
    let found = messages(pipeline(&text));
    assert!(
        found[0].contains("leaves the last layer without points"),
        "{found:#?}"
    );
}

#[test]
fn each_kind_of_source_is_read_with_its_settings() {
    let with = |source: &str| {
        let text = PIPELINE.replace("kind = \"images\"\npath = \"photos\"", source);
        pipeline(&text)
            .unwrap_or_else(|e| panic!("{source}: {e}"))
            .source
    };
    let path = "s3://bucket/a b".to_string();
    assert_eq!(
        with("kind = \"webdataset\"\npath = \"s3://bucket/a b\""),
        Source::Webdataset { path: path.clone() }
    );
    assert_eq!(
        with("kind = \"images\"\npath = \"s3://bucket/a b\""),
        Source::Images {
            path: path.clone(),
            images_per_shard: 256,
            bytes_per_shard: 1 << 30,
        }
    );
    assert_eq!(
        with(
            "kind = \"parquet\"\npath = \"s3://bucket/a b\"\nimage_column = \"jpg\"\ncaption_column = \"txt\""
        ),
        Source::Parquet {
            path,
            image_column: Some("jpg".to_string()),
            key_column: None,
            caption_column: Some("txt".to_string()),
            boxes_column: None,
            labels_column: None,
            scores_column: None,
            points_column: None,
            images_per_shard: 256,
            bytes_per_shard: 1 << 30,
        }
    );
    let manifest = with(
        "kind = \"manifest\"\npath = \"list.csv.gz\"\nuri_column = \"url\"\nkey_column = \"id\"\n\
         boxes_column = \"xyxy\"\nlabels_column = \"what\"\nscores_column = \"conf\"\n\
         points_column = \"clicks\"\nimages_per_shard = 1000\nbytes_per_shard = \"64 MiB\"",
    );
    assert_eq!(
        manifest,
        Source::Manifest {
            path: "list.csv.gz".to_string(),
            uri_column: Some("url".to_string()),
            key_column: Some("id".to_string()),
            caption_column: None,
            boxes_column: Some("xyxy".to_string()),
            labels_column: Some("what".to_string()),
            scores_column: Some("conf".to_string()),
            points_column: Some("clicks".to_string()),
            images_per_shard: 1000,
            bytes_per_shard: 64 << 20,
        }
    );
    assert_eq!(
        manifest.shard_limits(),
        ShardLimits {
            images_per_shard: 1000,
            bytes_per_shard: 64 << 20,
        }
    );
    // Columns that are not named are not in the fingerprint's text.
    let json = serde_json::to_string(&manifest).unwrap();
    assert!(!json.contains("caption_column"), "{json}");
    // Nor are those that a file from before them does not have.
    let before = r#"{"kind":"parquet","path":"t","boxes_column":"xyxy","images_per_shard":256,"bytes_per_shard":1073741824}"#;
    let source: Source = serde_json::from_str(before).unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), before);
}

#[test]
fn a_setting_of_another_kind_of_source_is_refused_with_its_kinds() {
    for (kind, setting, message) in [
        (
            "webdataset",
            "images_per_shard = 10",
            "source.images_per_shard has no meaning for kind = \"webdataset\", where each tar is a \
             shard; it is for kind = \"images\" or \"parquet\" or \"manifest\" or \"scenes\". Remove it",
        ),
        (
            "webdataset",
            "bytes_per_shard = 10",
            "source.bytes_per_shard has no meaning for kind = \"webdataset\", where each tar is a \
             shard; it is for kind = \"images\" or \"parquet\" or \"manifest\". Remove it",
        ),
        (
            "images",
            "seed = 10",
            "source.seed has no meaning for kind = \"images\"; it is for kind = \"scenes\". Remove it",
        ),
        (
            "images",
            "uri_column = \"url\"",
            "source.uri_column has no meaning for kind = \"images\"; it is for kind = \
             \"manifest\". Remove it",
        ),
        (
            "manifest",
            "image_column = \"jpg\"",
            "source.image_column has no meaning for kind = \"manifest\"; it is for kind = \
             \"parquet\". Remove it",
        ),
        (
            "webdataset",
            "key_column = \"id\"",
            "source.key_column has no meaning for kind = \"webdataset\"; it is for kind = \
             \"parquet\" or \"manifest\". Remove it",
        ),
    ] {
        let text = PIPELINE.replace("\"images\"\n", &format!("\"{kind}\"\n{setting}\n"));
        let expected = format!("cats.toml:5: {message}");
        assert_eq!(messages(pipeline(&text)), [expected]);
    }
}

#[test]
fn scenes_are_made_and_not_read() {
    let with = |settings: &str| {
        let source = format!("kind = \"scenes\"\n{settings}");
        pipeline(&PIPELINE.replace("kind = \"images\"\npath = \"photos\"", &source))
    };
    let source = |settings: &str| with(settings).unwrap_or_else(|e| panic!("{e}")).source;
    let few = source("count = 9");
    assert_eq!(
        few,
        Source::Scenes {
            seed: 0,
            count: 9,
            scenes: SceneSettings::default(),
            images_per_shard: 256,
        }
    );
    assert_eq!(
        few.shard_limits(),
        ShardLimits {
            images_per_shard: 256,
            bytes_per_shard: u64::MAX,
        }
    );
    let all = "seed = 7\ncount = 50\nwidth = 64\nheight = [48, 96]\nobjects = [0, 3]\n\
               shapes = [\"star\", \"rounded rectangle\"]\ntextures = [\"plain\", \"dotted\"]\nradius = [0.1, 0.25]\nparts = 0\nimages_per_shard = 10";
    assert_eq!(
        source(all),
        Source::Scenes {
            seed: 7,
            count: 50,
            scenes: SceneSettings {
                width: [64, 64],
                height: [48, 96],
                objects: [0, 3],
                shapes: vec!["star".to_string(), "rounded rectangle".to_string()],
                textures: vec!["plain".to_string(), "dotted".to_string()],
                radius: [0.1, 0.25],
                parts: 0.0,
            },
            images_per_shard: 10,
        }
    );
    let no_number = "seed = -1\ncount = 0\nwidth = [64, 32]\nheight = [16, 64]\nobjects = \"many\"\n\
                     path = \"photos\"\nbytes_per_shard = 7\nkey_column = \"id\"";
    assert_eq!(
        messages(with(no_number)),
        [
            "cats.toml:5: source.seed = -1 is outside [0, 9223372036854775807]",
            "cats.toml:6: source.count = 0 is outside [1, 4294967295]",
            "cats.toml:7: source.width = [64, 32] is empty: the first is above the second",
            "cats.toml:8: source.height = [16, 64] is outside [32, 8192]",
            "cats.toml:9: source.objects = \"many\" is a string; it must be an integer, or [least, most]",
            "cats.toml:10: source.path has no meaning for kind = \"scenes\", which are generated; it is for \
             kind = \"images\" or \"webdataset\" or \"parquet\" or \"manifest\". Remove it",
            "cats.toml:11: source.bytes_per_shard has no meaning for kind = \"scenes\"; it is for kind = \
             \"images\" or \"parquet\" or \"manifest\". Remove it",
            "cats.toml:12: source.key_column has no meaning for kind = \"scenes\"; it is for kind = \
             \"parquet\" or \"manifest\". Remove it",
        ]
    );
    let names = "disc, oval, square, rectangle, rounded rectangle, triangle, polygon, star, cross, ring, crescent, leaf, \
                 drop, blob, cloud, bar, limb, figure";
    let contents = "count = 9\nshapes = [\"disk\", \"disc\", 3, \"disc\", \"section\"]\nradius = [0.3, 0.5]\nparts = 2\n\
                    textures = [\"spotted\"]";
    assert_eq!(
        messages(with(contents)),
        [
            format!("cats.toml:6: source.shapes[0] = \"disk\" is none of {names}"),
            "cats.toml:6: source.shapes[2] = 3 is an integer; it must be a shape".to_string(),
            "cats.toml:6: source.shapes[3] = \"disc\" is there twice".to_string(),
            format!("cats.toml:6: source.shapes[4] = \"section\" is none of {names}"),
            "cats.toml:7: source.radius = [0.3, 0.5] is not a range above 0 and up to 0.45"
                .to_string(),
            "cats.toml:8: source.parts = 2 is outside [0, 1]".to_string(),
            "cats.toml:9: source.textures[0] = \"spotted\" is none of plain, striped, dotted, checked, mottled, \
             grained, fading"
                .to_string(),
        ]
    );
    assert_eq!(
        messages(with("count = 9\nshapes = []")),
        [format!(
            "cats.toml:6: source.shapes is empty; it must be an array of shapes: {names}"
        )]
    );
    assert_eq!(
        messages(with("seed = 1")),
        ["cats.toml:3: source.count is missing: how many scenes to generate"]
    );
}

#[test]
fn every_setting_of_scenes_changes_the_fingerprint() {
    let fingerprint = |setting: &str| {
        let source = format!("kind = \"scenes\"\n{setting}");
        let text = PIPELINE.replace("kind = \"images\"\npath = \"photos\"", &source);
        let pipeline = pipeline(&text).unwrap_or_else(|e| panic!("{setting}: {e}"));
        Fingerprint::of(&pipeline, "ab", &no_files())
    };
    let base = fingerprint("count = 9");
    for other in [
        "count = 10",
        "count = 9\nseed = 1",
        "count = 9\nwidth = [64, 512]",
        "count = 9\nheight = 64",
        "count = 9\nobjects = 4",
        "count = 9\nshapes = [\"disc\"]",
        "count = 9\ntextures = [\"plain\"]",
        "count = 9\nradius = [0.1, 0.2]",
        "count = 9\nparts = 0.5",
        "count = 9\nimages_per_shard = 4",
    ] {
        assert_ne!(fingerprint(other), base, "{other}");
    }
    assert_eq!(fingerprint("count = 9\nseed = 0\nobjects = [4, 24]"), base);
}

/// `hunter2` stands for the secret: it must be in no message, wherever it was written.
#[test]
fn no_message_repeats_a_secret() {
    let from_file = |section: &str, line: &str| {
        let text = match section {
            "source" => PIPELINE.replace("path = \"photos\"", line),
            "model" => PIPELINE.replace("checkpoint = \"models/sam_vit_b_01ec64.pth\"", line),
            _ => PIPELINE.replace("name = \"cats\"", line),
        };
        let config_text = match section {
            "output" => CONFIG.replace("root = \"out\"", line),
            "store" | "run" | "log" => format!("{CONFIG}[{section}]\n{line}\n"),
            _ => CONFIG.to_string(),
        };
        let file = |name, text| TextFile { name, text };
        load(file("p.toml", &text), file("c.toml", &config_text), &[])
    };
    for (section, key, value) in [
        ("source", "path", "https://me:hunter2@h.example/list.csv"),
        (
            "source",
            "path",
            "https://h.example/l.csv?X-Amz-Signature=hunter2",
        ),
        ("source", "path", "https://h.example/list.csv#hunter2"),
        ("source", "path", "https://me:hun/hunter2@h.example/"),
        ("source", "path", "s3://AKIA:hunter2@bucket/prefix"),
        ("source", "path", "s3://AKIA:hunter2/x@bucket/prefix"),
        ("source", "path", "s3://bucket/prefix?token=hunter2"),
        ("source", "path", "s3:///hunter2"),
        ("source", "path", "hunter2://bucket/prefix"),
        ("source", "path", " https://me:hunter2@h.example/"),
        ("source", "path", "hun ter2/https://me:hunter2@h.example/"),
        ("source", "path", "ftp://me:hunter2@h.example/"),
        ("source", "path", "https:me:hunter2@h.example"),
        ("source", "path", "file://hunter2/x"),
        ("source", "path", "file:///x?hunter2"),
        ("source", "kind", "https://me:hunter2@h.example/"),
        (
            "source",
            "images_per_shard",
            "https://me:hunter2@h.example/",
        ),
        ("output", "root", "s3://AKIA:hunter2@bucket/prefix"),
        ("output", "root", "https://me:hunter2@h.example/"),
        (
            "model",
            "checkpoint",
            "https://me:hunter2@h.example/sam.pth",
        ),
        ("store", "s3_endpoint", "https://me:hunter2@h.example:9000"),
        ("store", "s3_endpoint", "me:hunter2@h.example:9000"),
        ("store", "source_s3_endpoint", "http://h.example?k=hunter2"),
        ("store", "s3_secret_access_key", "hunter2"),
        ("store", "aws_session_token", "hunter2"),
        ("store", "max_retries", "https://me:hunter2@h.example:9000"),
        (
            "source",
            "path",
            "https://h.example/https://me:hunter2@h.example/",
        ),
        ("source", "path", "set:x://me:hunter2@h.example/"),
        ("run", "device", "https://me:hunter2@h.example:9000"),
        ("log", "metrics_addr", "http://me:hunter2@h.example:9000"),
        ("", "name", "https://me:hunter2@h.example"),
    ] {
        let overriding = job(&[&format!("{}={value}", crate::schema::path(section, key))]);
        let in_file = from_file(section, &format!("{key} = \"{value}\""));
        // Without quotes it is no TOML at all.
        let unquoted = from_file(section, &format!("{key} = {value}"));
        for result in [overriding, in_file, unquoted] {
            let found = messages(result).join("\n");
            assert!(!found.contains("hunter2"), "{key} = {value}: {found}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_location_is_said() {
    for (set, part) in [
        (
            "source.path=https://me:x@h/",
            "has a user name or password in it",
        ),
        ("source.path=https://h/?a=b", "has a query or a fragment"),
        (
            "source.path=s3://",
            "names no bucket; write s3://bucket/prefix",
        ),
        ("source.path=s3:///photos", "names no bucket"),
        ("source.path=s3:/bucket", "is written with `s3://`"),
        (
            "source.path=S3://bucket",
            "has the scheme `S3`; write it `s3`",
        ),
        (
            "source.path=ftp://host/x",
            "has an unknown scheme before `://`; it can be file://, s3://",
        ),
        ("source.path=file://data/x", "has three slashes"),
        ("source.path=https:///x", "names no host"),
        (
            "output.root=https://host/x",
            "cannot be a https:// location; it can be file://, s3://",
        ),
        (
            "output.root=gs://",
            "names no bucket; write gs://bucket/prefix",
        ),
        (
            "model.checkpoint=s3://b/sam.pth",
            "must be a path on this machine; download it first",
        ),
        (
            "store.s3_endpoint=localhost:9000",
            "write it as https://host or http://127.0.0.1:9000",
        ),
        (
            "store.s3_endpoint=s3://bucket",
            "it can be http://, https://",
        ),
        (
            "store.aws_secret_key=abc",
            "credentials come from the environment",
        ),
        (
            "store.first_backoff_seconds=20",
            "= 15 is below first_backoff_seconds = 20",
        ),
        (
            "log.metrics_addr=9090",
            "is an integer; it must be a string",
        ),
        ("log.metrics_addr=localhost", "write it as 127.0.0.1:9090"),
        ("run.shard_attempts=0", "is outside [1, 100]"),
        (
            "output.max_put_bytes=4 MiB",
            "is outside [5242880, 5368709120] bytes",
        ),
        (
            "source.bytes_per_shard=1 kB",
            "is outside [1048576, 1099511627776] bytes",
        ),
    ] {
        let found = messages(job(&[set]));
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{set}: {found:#?}"
        );
    }
}

#[test]
fn locations_that_are_fine_are_kept_as_written() {
    for path in [
        "photos",
        "/data/set 1",
        "a:b/c",
        "./s3/x?y#z",
        "file:///data/a%20b",
        "s3://b",
        "s3://my-bucket.x/a/b c@2x/",
        "gs://bucket/x",
        "az://container/x",
        "https://h.example:8443/a%2Fb.csv",
        "http://[::1]:9000/x",
    ] {
        let loaded =
            job(&[&format!("source.path={path}")]).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(loaded.pipeline.source.path(), path);
    }
}

#[test]
fn the_store_of_the_source_takes_what_is_set_for_it_alone() {
    let same = job(&["store.s3_region=us-east-1", "store.s3_anonymous=true"]).unwrap();
    let store = &same.config.store;
    assert_eq!(store.for_source(), *store);
    let other = job(&[
        "store.s3_endpoint=http://127.0.0.1:9000",
        "store.s3_path_style=true",
        "store.source_s3_endpoint=https://s3.example.org",
        "store.source_s3_path_style=false",
        "store.source_s3_anonymous=true",
    ])
    .unwrap();
    let of_source = other.config.store.for_source();
    assert_eq!(of_source.s3_endpoint.unwrap(), "https://s3.example.org");
    assert_eq!(of_source.s3_path_style, Some(false));
    assert!(of_source.s3_anonymous && !other.config.store.s3_anonymous);
}

#[test]
fn the_shipped_s3_config_shows_every_store_setting_and_each_loads() {
    let text = include_str!("../../../../configs/s3.toml");
    let mut all = String::new();
    for line in text.lines() {
        let setting = line.strip_prefix("# ").filter(|line| line.contains("s3_"));
        all.push_str(setting.unwrap_or(line));
        all.push('\n');
    }
    let shown = config(&all).unwrap();
    let store = shown.store;
    assert!(store.s3_endpoint.is_some() && store.source_s3_endpoint.is_some());
    assert!(store.s3_region.is_some() && store.source_s3_region.is_some());
    for key in FileKind::Config.keys("store").unwrap() {
        let set = |line: &str| line.split(" = ").next() == Some(*key);
        assert!(all.lines().any(set), "{key} is not in configs/s3.toml");
    }
    // What is not a comment is the default.
    let (as_shipped, bare) = (config(text).unwrap(), config(CONFIG).unwrap());
    assert_eq!(as_shipped.store, bare.store);
    assert_eq!(as_shipped.output.max_put_bytes, bare.output.max_put_bytes);
}

#[test]
fn names_that_would_leave_the_output_root_are_refused() {
    for name in ["../cats", "a/b", ".hidden", "", "-rf", "caf\u{e9}"] {
        let text = PIPELINE.replace("cats", name);
        assert!(pipeline(&text).is_err(), "{name:?} was accepted");
    }
}

#[test]
fn overrides_win_over_the_file_and_go_to_the_file_that_has_the_section() {
    let changed = job(&[
        "masks.box_nms_thresh=0.5",
        "source.path=/data/set 1",
        "run.device=cuda:0",
        "run.max_bytes_in_flight=1 GiB",
        "name=dogs",
        "prompts.point_grids=[[[0.5, 0.5]]]",
    ])
    .unwrap();
    assert_eq!(changed.pipeline.masks.box_nms_thresh, 0.5);
    assert_eq!(changed.pipeline.source.path(), "/data/set 1");
    assert_eq!(changed.config.run.device, "cuda:0");
    assert_eq!(changed.config.run.max_bytes_in_flight, 1 << 30);
    assert_eq!(changed.pipeline.name, "dogs");
    let grid = PointGrid::Explicit(vec![vec![[0.5, 0.5]]]);
    assert_eq!(automatic(&changed.pipeline).grid, grid);
}

#[test]
fn overrides_are_checked_like_the_file() {
    for (set, message) in [
        (
            "masks.box_nms_thresh=1.4",
            "masks.box_nms_thresh = 1.4 is outside [0, 1]",
        ),
        (
            "masks.box_nms_tresh=0.4",
            "masks.box_nms_tresh is not a key of [masks]; did you mean `box_nms_thresh`?",
        ),
        (
            "mask.min_area=4",
            "[mask] is not a section of a pipeline file; did you mean `masks`?",
        ),
        (
            "run.points_per_side=4",
            "run.points_per_side: `points_per_side` belongs in [prompts] of the pipeline file",
        ),
        (
            "masks.min_area",
            "has no `=`; write it as section.key=value, such as masks.box_nms_thresh=0.8",
        ),
        (
            "masks.a.b=1",
            "\"masks.a.b\" is not the path of a setting; write it as section.key=value",
        ),
        (
            ".min_area=1",
            "\".min_area\" is not the path of a setting; write it as section.key=value",
        ),
    ] {
        assert_eq!(messages(job(&[set])), [format!("--set {set}: {message}")]);
    }
}

#[test]
fn the_fingerprint_sees_values_and_not_how_they_are_written() {
    let print = |text: &str| Fingerprint::of(&pipeline(text).unwrap(), "ab", &no_files());
    let same = r#"
        # the same pipeline, another hand
        model.checkpoint    = 'models/sam_vit_b_01ec64.pth'
        name = "cats"       # a comment
        [masks]
        mask_threshold = -0.0
        box_nms_thresh = 7e-1
        stability_score_offset = 1
        [source]
        path = "photos"
        images_per_shard = 0x100
        kind = "images"
        [limits]
        max_file_bytes = "256 MiB"
    "#;
    assert_eq!(print(PIPELINE), print(same));
    assert_eq!(print(PIPELINE).as_str().len(), 64);
    let other_model = Fingerprint::of(&pipeline(PIPELINE).unwrap(), "cd", &no_files());
    assert_ne!(print(PIPELINE), other_model);
}

/// Resuming an output of an earlier build relies on this very text: when the test fails because
/// rows change, raise `OUTPUT_VERSION`; when they do not change, keep the text.
#[test]
fn the_canonical_text_is_stable() {
    let pipeline = serde_json::to_value(pipeline(PIPELINE).unwrap()).unwrap();
    assert_eq!(
        canonical_json(&pipeline),
        concat!(
            r#"{"limits":{"max_file_bytes":268435456,"max_pixels":100000000,"max_side":65535},"#,
            r#""masks":{"box_nms_thresh":0.7,"containment_nms_thresh":null,"crop_nms_thresh":0.7,"#,
            r#""mask_nms_thresh":null,"mask_threshold":0.0,"max_coverage":null,"min_area":0,"#,
            r#""min_mask_region_area":0,"pred_iou_thresh":0.88,"stability_score_offset":1.0,"#,
            r#""stability_score_thresh":0.95},"#,
            r#""model":{"checkpoint":"models/sam_vit_b_01ec64.pth"},"name":"cats","#,
            r#""prompts":{"crop_n_layers":0,"crop_n_points_downscale_factor":1,"#,
            r#""crop_overlap_ratio":0.3413333333333333,"mode":"automatic","points_per_side":32,"#,
            r#""single_mask":false},"#,
            r#""source":{"bytes_per_shard":1073741824,"images_per_shard":256,"kind":"images","#,
            r#""path":"photos"}}"#,
        )
    );
}

/// Taken from a build that knew automatic prompts only: its outputs can still be resumed.
#[test]
fn the_fingerprint_of_an_automatic_pipeline_is_stable() {
    let print = Fingerprint::of(&pipeline(PIPELINE).unwrap(), "ab", &no_files());
    assert_eq!(
        print.as_str(),
        "2751d6531dae8dac442d3c86af1977a4071aba245f4d9eb2e6a48e95a5719b01"
    );
}

#[test]
fn a_precision_is_f32_unless_it_is_written() {
    let with = |line: &str| pipeline(&format!("{PIPELINE}{line}\n"));
    for (line, precision) in [
        ("", Precision::F32),
        ("precision = \"f32\"", Precision::F32),
        ("precision = \"high\"", Precision::High),
        ("precision = \"bf16\"", Precision::Bf16),
    ] {
        assert_eq!(with(line).unwrap().model.precision, precision, "{line}");
    }
    let set = job(&["model.precision=bf16"]).unwrap();
    assert_eq!(set.pipeline, with("precision = \"bf16\"").unwrap());
}

#[test]
fn a_precision_that_is_none_is_refused_with_those_there_are() {
    for (value, message) in [
        (
            "\"fp32\"",
            "precision = \"fp32\" is unknown; did you mean `f32`?",
        ),
        (
            "\"BF16\"",
            "precision = \"BF16\" is unknown; did you mean `bf16`?",
        ),
        (
            "\"half\"",
            "precision = \"half\" is unknown; it can be `f32`, `high`, `bf16`",
        ),
        ("\"\"", "precision is empty"),
        ("16", "precision = 16 is an integer; it must be a string"),
    ] {
        let found = messages(pipeline(&format!("{PIPELINE}precision = {value}\n")));
        assert_eq!(found, [format!("cats.toml:8: model.{message}")]);
    }
    for (set, message) in [
        (
            "model.precision=float32",
            "model.precision = \"float32\" is unknown; it can be `f32`, `high`, `bf16`",
        ),
        (
            "model.presicion=bf16",
            "model.presicion is not a key of [model]; did you mean `precision`?",
        ),
        (
            "run.precision=bf16",
            "run.precision: `precision` belongs in [model] of the pipeline file",
        ),
    ] {
        assert_eq!(messages(job(&[set])), [format!("--set {set}: {message}")]);
    }
}

/// Outputs from before there was a choice were made in f32, and can be resumed in f32 alone.
#[test]
fn only_another_precision_than_f32_is_in_the_fingerprint() {
    let print = |text: &str| Fingerprint::of(&pipeline(text).unwrap(), "ab", &no_files());
    let with = |precision: &str| format!("{PIPELINE}precision = \"{precision}\"\n");
    assert_eq!(print(&with("f32")), print(PIPELINE));
    assert_ne!(print(&with("bf16")), print(PIPELINE));
    assert_ne!(print(&with("high")), print(PIPELINE));
    assert_ne!(print(&with("high")), print(&with("bf16")));

    for (text, written) in [
        (PIPELINE, None),
        (&with("f32"), None),
        (&with("high"), Some("high")),
        (&with("bf16"), Some("bf16")),
    ] {
        let pipeline = pipeline(text).unwrap();
        let record = JobRecord::new(&pipeline, "ab", &no_files(), "0.1.0").to_json();
        let in_pipeline = record["pipeline"]["model"].get("precision");
        assert_eq!(in_pipeline.map(|word| word.as_str()), written.map(Some));
        assert_eq!(record["model"]["precision"], written.unwrap_or("f32"));
    }
    // A record from before.
    let record = JobRecord::new(&pipeline(PIPELINE).unwrap(), "ab", &no_files(), "0.1.0");
    let mut before = record.to_json();
    let model = before["model"].as_object_mut().unwrap();
    model.remove("precision").unwrap();
    assert_eq!(serde_json::from_value::<JobRecord>(before).unwrap(), record);
}

#[test]
fn every_key_of_the_pipeline_file_changes_the_fingerprint() {
    const TEXT: &[&str] = &[
        "prompts.mode=text",
        "model.detector=owl",
        "labels.names=[\"cat\"]",
    ];
    const LABELLED: &[&str] = &["model.labeller=clip", "labels.names=[\"cat\"]"];
    const CAPTIONS: &[&str] = &[
        "prompts.mode=text",
        "model.detector=owl",
        "source.kind=manifest",
        "prompts.labels_from=caption",
    ];
    const EXAMPLES: &[&str] = &[
        "prompts.mode=examples",
        "model.detector=owl",
        "prompts.examples=[{image = \"a.png\", label = \"a\"}]",
    ];
    const COCO: &[&str] = &[
        "prompts.mode=boxes",
        "prompts.boxes_from=coco",
        "prompts.boxes_path=b",
    ];
    const YOLO: &[&str] = &[
        "prompts.mode=boxes",
        "prompts.boxes_from=yolo",
        "prompts.boxes_path=b",
    ];
    const POINTS: &[&str] = &[
        "prompts.mode=points",
        "prompts.points_from=fixed",
        "prompts.fixed_points=[[0.5, 0.5]]",
    ];
    let print = |job: &Job| Fingerprint::of(&job.pipeline, "ab", &no_files());
    for (section, keys) in FileKind::Pipeline.sections() {
        for key in *keys {
            // Settings without which there is no such key.
            let base = match (*section, *key) {
                ("source", "image_column") => &["source.kind=parquet"],
                ("source", key) if key.ends_with("_column") => &["source.kind=manifest"],
                ("model", "detector" | "detector_tokenizer") => TEXT,
                ("model", "labeller" | "labeller_tokenizer") | ("labeller", _) => LABELLED,
                ("labels", _) => TEXT,
                ("prompts", "labels_from" | "caption_separator") => CAPTIONS,
                ("prompts", "examples") => EXAMPLES,
                ("prompts", "yolo_names" | "yolo_scores") => YOLO,
                ("prompts", key) if key.contains("box") || key.contains("coco") => COCO,
                ("prompts", key) if key.ends_with("_thresh") => TEXT,
                ("prompts", "max_detections" | "refine") => TEXT,
                ("prompts", "points_from" | "fixed_points" | "point_groups") => POINTS,
                _ => &[],
            };
            let value = match *key {
                // Each word needs other keys: see `the_modes_have_fingerprints_of_their_own`.
                "mode" | "boxes_from" | "points_from" => continue,
                // These need a source without a path: see `every_setting_of_scenes_changes_the_fingerprint`.
                "seed" | "count" | "width" | "height" | "objects" | "shapes" | "textures"
                | "radius" | "parts" => {
                    continue;
                }
                "kind" => "webdataset",
                "precision" => "bf16",
                "labels_from" => "labels",
                "caption_separator" => ";",
                "name" | "path" | "checkpoint" => "another",
                "detector" | "labeller" | "coco_images" | "yolo_names" => "another",
                "boxes_path" | "other_label" => "another",
                "point_grids" => "[[[0.5, 0.5]]]",
                "fixed_points" => "[[0.5, 0.25]]",
                "point_groups" => "together",
                "examples" => "[{image = \"a.png\", label = \"a\", box = [0, 0, 4, 3]}]",
                "single_mask" | "refine" | "yolo_scores" => "true",
                "names" => "{cat = {phrases = \"cat\", score_thresh = 0.25}}",
                "negatives" => "[\"sky\"]",
                "templates" => "[\"a {}\"]",
                "crop_background" => "blur",
                "bytes_per_shard" => "3 MiB",
                key if key.ends_with("_column") || key.ends_with("_tokenizer") => "another",
                "crop_overlap_ratio" | "max_coverage" | "mask_nms_thresh" => "0.25",
                "min_box_score" | "min_probability" | "min_similarity" => "0.25",
                key if key.ends_with("thresh") => "0.25",
                _ => "3",
            };
            let set = format!("{}={value}", crate::schema::path(section, key));
            let mut all = base.to_vec();
            let unchanged = job(&all).unwrap_or_else(|e| panic!("{base:?}: {e}"));
            all.push(&set);
            let changed = job(&all).unwrap_or_else(|e| panic!("{set}: {e}"));
            assert_ne!(
                print(&changed),
                print(&unchanged),
                "{set} changes no fingerprint"
            );
        }
    }
}

#[test]
fn every_key_of_the_config_file_is_read_and_changes_no_fingerprint() {
    let base = job(&[]).unwrap();
    for (section, keys) in FileKind::Config.sections() {
        for key in *keys {
            let value = match *key {
                "root" => "elsewhere",
                "device" => "cuda:1",
                "max_bytes_in_flight" => "1 GiB",
                "prompt_memory" => "2 GiB",
                "cache_memory" => "1 GiB",
                "max_put_bytes" => "6 MiB",
                "s3_endpoint" | "source_s3_endpoint" => "http://127.0.0.1:9000",
                "s3_region" | "source_s3_region" => "eu-central-1",
                "s3_path_style" | "source_s3_path_style" => "false",
                "s3_anonymous" | "source_s3_anonymous" => "true",
                "level" => "debug",
                "format" => "json",
                "progress" => "never",
                "metrics_addr" => "[::1]:9090",
                _ => "7",
            };
            let changed = job(&[&format!("{section}.{key}={value}")]).unwrap();
            assert_ne!(changed.config, base.config, "{section}.{key} was not read");
            assert_eq!(changed.pipeline, base.pipeline);
        }
    }
}

#[test]
fn a_record_reads_back_from_its_json() {
    let with_grid = format!("{PIPELINE}[prompts]\npoint_grids = [[[0.1, 0.7]]]\n");
    let parquet = PIPELINE.replace("\"images\"", "\"parquet\"\nkey_column = \"id\"");
    let manifest = PIPELINE.replace("\"images\"", "\"manifest\"\nuri_column = \"url\"");
    let tars = PIPELINE.replace("\"images\"", "\"webdataset\"");
    let bf16 = format!("{PIPELINE}precision = \"bf16\"\n");
    for text in [PIPELINE, &with_grid, &parquet, &manifest, &tars, &bf16] {
        let pipeline = pipeline(text).unwrap();
        let record = JobRecord::new(&pipeline, "ab", &no_files(), "0.1.0");
        let json: Value = serde_json::from_str(&record.to_json().to_string()).unwrap();
        assert_eq!(serde_json::from_value::<JobRecord>(json).unwrap(), record);
    }
}
