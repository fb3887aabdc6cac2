//! Whole training files through [`load_training`]: what is accepted, what is reported, what the
//! fingerprint sees.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::schema::FileKind;
use crate::{
    ConfigError, SceneSettings, TextFile, TrainingJob, load_training, load_training_pipeline,
};

const TRAINING: &str = r#"
name = "nano"
[architecture]
[[data]]
kind = "scenes"
seed = 1
[optimiser]
learning_rate = 1e-3
steps = 2000
"#;

const CONFIG: &str = "[output]\nroot = \"runs\"\n";

fn read(text: &str) -> Result<TrainingPipeline, ConfigError> {
    let name = "nano.toml";
    load_training_pipeline(TextFile { name, text }, &[])
}

fn job(overrides: &[&str]) -> Result<TrainingJob, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|set| set.to_string()).collect();
    let file = |name, text| TextFile { name, text };
    load_training(
        file("nano.toml", TRAINING),
        file("here.toml", CONFIG),
        &overrides,
    )
}

fn messages<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<String> {
    let problems = result.expect_err("accepted").problems;
    problems.iter().map(ToString::to_string).collect()
}

fn print(pipeline: &TrainingPipeline) -> crate::Fingerprint {
    training_fingerprint(pipeline, &BTreeMap::new())
}

#[test]
fn defaults_are_those_of_the_segment_anything_paper() {
    let pipeline = read(TRAINING).unwrap();
    let loss = &pipeline.loss;
    assert_eq!((loss.focal, loss.dice, loss.iou), (20.0, 1.0, 1.0));
    assert_eq!((loss.focal_alpha, loss.focal_gamma), (0.25, 2.0));
    let optimiser = &pipeline.optimiser;
    assert_eq!(optimiser.betas, [0.9, 0.999]);
    assert_eq!((optimiser.weight_decay, optimiser.layer_decay), (0.1, 0.8));
    assert_eq!(optimiser.encoder, EncoderTraining::Trained);
    let prompts = &pipeline.prompts;
    assert_eq!((prompts.box_probability, prompts.box_noise), (0.5, 0.1));
    assert!(prompts.multimask);
    assert_eq!(pipeline.validation, None);
}

#[test]
fn a_run_has_a_directory_of_its_own_under_the_root() {
    assert_eq!(job(&[]).unwrap().directory(), Path::new("runs/nano"));
}

#[test]
fn the_learning_rate_rises_and_falls_as_the_schedule_says() {
    let rates = |lines: &str, steps: &[u32]| -> Vec<f64> {
        let text = format!("{TRAINING}warmup_steps = 4\n{lines}");
        let text = text.replace("2000", "14").replace("1e-3", "1");
        let optimiser = read(&text).unwrap().optimiser;
        let rate = |step: &u32| optimiser.learning_rate_at(*step);
        steps.iter().map(rate).collect()
    };
    assert_eq!(rates("", &[0, 1, 3]), [0.25, 0.5, 1.0]);
    let cosine = "final_fraction = 0.2";
    // Ten steps after the warm-up: the first at 1, the last at 0.2, symmetric around their mean.
    assert_eq!(rates(cosine, &[4, 13]), [1.0, 0.2]);
    let pair = rates(cosine, &[6, 11]);
    assert!((pair[0] + pair[1] - 1.2).abs() < 1e-12, "{pair:?}");
    assert!(pair[0] > 0.8 && pair[1] < 0.4, "{pair:?}");
    let step = "schedule = \"step\"\nstep_at = [6, 9]\nstep_factor = 0.5";
    let expected = [1.0, 0.5, 0.5, 0.25, 0.25];
    assert_eq!(rates(step, &[5, 6, 8, 9, 13]), expected);
    assert_eq!(rates("schedule = \"constant\"", &[4, 13]), [1.0, 1.0]);
    // No warm-up, one step.
    let one = TRAINING.replace("2000", "1");
    assert_eq!(read(&one).unwrap().optimiser.learning_rate_at(0), 1e-3);
}

#[test]
fn each_kind_of_data_is_read_with_its_settings() {
    let data = |table: &str| {
        let text = TRAINING.replace("kind = \"scenes\"\nseed = 1\n", table);
        read(&text).map(|pipeline| pipeline.data)
    };
    let of = |kind, weight, min_area| {
        vec![TrainingData {
            kind,
            weight,
            min_area,
        }]
    };
    let scenes = "kind = 'scenes'\nseed = 7\ncount = 50\nwidth = 64\nheight = [48, 96]\n\
                  objects = [1, 3]\nweight = 2\nmin_area = 0.01\n";
    let expected = TrainingDataKind::Scenes {
        seed: 7,
        count: 50,
        scenes: SceneSettings {
            width: [64, 64],
            height: [48, 96],
            objects: [1, 3],
            ..SceneSettings::default()
        },
    };
    assert_eq!(data(scenes).unwrap(), of(expected, 2.0, 0.01));
    let path = "photos".to_string();
    assert_eq!(
        data("kind = 'sa1b'\npath = 'photos'\n").unwrap(),
        of(TrainingDataKind::Sa1b { path }, 1.0, 0.0)
    );
    let (annotations, images) = ("a.json".to_string(), "photos".to_string());
    assert_eq!(
        data("kind = 'coco'\nannotations = 'a.json'\nimages = 'photos'\n").unwrap(),
        of(
            TrainingDataKind::Coco {
                annotations,
                images
            },
            1.0,
            0.0
        )
    );
    let (output, images) = ("out/cats".to_string(), "photos".to_string());
    assert_eq!(
        data("kind = 'maskmill'\noutput = 'out/cats'\nimages = 'photos'\n").unwrap(),
        of(TrainingDataKind::Maskmill { output, images }, 1.0, 0.0)
    );
}

#[test]
fn a_file_full_of_mistakes_is_reported_at_once_by_line() {
    let text = include_str!("../../testdata/training-mistakes.toml");
    let config = "[output]\nroot = \"s3://bucket/runs\"\n[train]\ncheckpoint_minutes = 0\n\
                  batch_images = 4\n";
    let file = |name, text| TextFile { name, text };
    let sets = ["loss.iou=heavy", "optimizer.steps=4", "train.log_steps=0"];
    let error = load_training(
        file("training-mistakes.toml", text),
        file("here.toml", config),
        &sets.map(String::from),
    )
    .unwrap_err();
    let expected = include_str!("../../testdata/training-mistakes.expected.txt");
    assert_eq!(error.to_string().trim(), expected.trim());
}

#[test]
fn an_empty_file_says_what_it_needs() {
    assert_eq!(
        messages(read("")),
        [
            "nano.toml: model.checkpoint is missing: a SAM checkpoint to begin with; or \
             [architecture], to begin with fresh weights",
            "nano.toml: optimiser.learning_rate is missing: such as 1e-3 from scratch, 1e-4 from a \
             checkpoint",
            "nano.toml: optimiser.steps is missing: how often the weights are changed, in all",
            "nano.toml: name is missing: a name for the run, which also names its directory",
            "nano.toml: data is missing: at least one [[data]] with images and masks to learn from",
        ]
    );
}

#[test]
fn a_model_begins_with_a_checkpoint_or_with_fresh_weights() {
    let with = |model: &str| read(&TRAINING.replace("[architecture]\n", model));
    let start = |lines: &str| {
        with(&format!(
            "[model]\ncheckpoint = \"sam.safetensors\"\n{lines}"
        ))
    };
    let checkpoint = |image_size| StartingWeights::Checkpoint {
        checkpoint: "sam.safetensors".to_owned(),
        image_size,
    };
    assert_eq!(start("").unwrap().start, checkpoint(None));
    let wide = start("image_size = 512\n").unwrap();
    assert_eq!(wide.start, checkpoint(Some(512)));
    assert_ne!(print(&wide), print(&start("").unwrap()));
    assert_eq!(
        messages(start("image_size = 8\n")),
        ["nano.toml:5: model.image_size = 8 is outside [32, 4096]"]
    );
    let text = TRAINING.replace(
        "[architecture]\n",
        "[model]\ncheckpoint = \"sam.safetensors\"\nimage_size = 512\n",
    );
    let name = "nano.toml";
    let frozen = ["optimiser.encoder=frozen".to_owned()];
    let file = TextFile { name, text: &text };
    assert_eq!(
        messages(load_training_pipeline(file, &frozen)),
        [
            "--set optimiser.encoder=frozen: optimiser.encoder = \"frozen\" with \
             model.image_size: an encoder for another size has to learn; \"last:N\" trains its \
             last blocks"
        ]
    );
    assert_eq!(
        messages(with("[model]\nimage_size = 512\n[architecture]\n")),
        [
            "nano.toml:4: model.image_size is of a checkpoint: with [architecture] it is \
             architecture.image_size"
        ]
    );
    let both = with("[model]\ncheckpoint = \"sam.safetensors\"\n[architecture]\n");
    assert_eq!(
        messages(both),
        [
            "nano.toml:5: model.checkpoint and [architecture] are both given: a checkpoint says \
             its architecture itself. Remove one"
        ]
    );
    assert_eq!(messages(with("")).len(), 1);
}

#[test]
fn sizes_that_do_not_fit_each_other_are_refused() {
    for (set, message) in [
        (
            "patch_size=24",
            "patch_size = 24 does not divide image_size = 512",
        ),
        (
            "encoder_heads=5",
            "encoder_heads = 5 does not divide encoder_dim = 192",
        ),
        (
            "window=32",
            "window = 32 must be below the 32 tokens of a side, image_size / patch_size; for \
             blocks that see everything put them into global_blocks",
        ),
        (
            "embed_dim=100",
            "embed_dim = 100 is no multiple of the decoder's 8 heads",
        ),
        (
            "cross_attention_dim=60",
            "cross_attention_dim = 60 is no multiple of the decoder's 8 heads",
        ),
        (
            "mask_in_channels=6",
            "mask_in_channels = 6 is no multiple of 4",
        ),
        (
            "global_blocks=[2, 6]",
            "global_blocks[1] = 6 is outside [0, 5]: there are encoder_depth = 6 blocks",
        ),
        (
            "global_blocks=[2, 2]",
            "global_blocks[1] = 2 is there twice",
        ),
        ("mask_tokens=1", "mask_tokens = 1 is outside [2, 16]"),
    ] {
        let set = format!("architecture.{set}");
        let expected = format!("--set {set}: architecture.{message}");
        assert_eq!(messages(job(&[&set])), [expected]);
    }
    // Without a windowed block the window is not used.
    job(&[
        "architecture.global_blocks=[5,4,3,2,1,0]",
        "architecture.window=32",
    ])
    .unwrap();
}

#[test]
fn blocks_are_global_in_whatever_order_they_are_written() {
    let blocks = |sets: &[&str]| match job(sets).unwrap().pipeline.start {
        StartingWeights::Fresh(architecture) => architecture.global_blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocks(&["architecture.global_blocks=[5, 2]"]), [2, 5]);
    assert_eq!(blocks(&[]), [2, 5]);
    assert_eq!(blocks(&["architecture.encoder_depth=8"]), [2, 5]);
    assert_eq!(blocks(&["architecture.global_blocks=[]"]), [0; 0]);
}

#[test]
fn fresh_weights_are_trained_all() {
    let message = |word: &str| {
        format!(
            "--set optimiser.encoder={word}: optimiser.encoder = {word:?} would leave weights of \
             the encoder as they were drawn; with [architecture] it must be \"trained\""
        )
    };
    for word in ["frozen", "last:2"] {
        let set = format!("optimiser.encoder={word}");
        assert_eq!(messages(job(&[&set])), [message(word)]);
    }
    let text = TRAINING.replace("[architecture]", "[model]\ncheckpoint = 'sam.pth'");
    for (word, encoder) in [
        ("trained", EncoderTraining::Trained),
        ("frozen", EncoderTraining::Frozen),
        ("last:2", EncoderTraining::Last(2)),
    ] {
        let pipeline = read(&format!("{text}encoder = {word:?}\n")).unwrap();
        assert_eq!(pipeline.optimiser.encoder, encoder);
        assert_eq!(serde_json::to_value(encoder).unwrap(), word);
    }
    for word in ["last:0", "last:", "last:-1", "first:2", "Frozen"] {
        let found = messages(read(&format!("{text}encoder = {word:?}\n")));
        assert!(
            found[0].contains("is unknown; it can be \"trained\""),
            "{found:?}"
        );
    }
}

#[test]
fn scenes_that_are_learned_do_not_measure_what_was_learned() {
    let validation = "[[validation.data]]\nkind = \"sa1b\"\npath = \"photos\"\n\
                      [[validation.data]]\nkind = \"scenes\"\nseed = SEED\n";
    let with = |seed: &str| read(&format!("{TRAINING}{}", validation.replace("SEED", seed)));
    assert_eq!(with("2").unwrap().validation.unwrap().data.len(), 2);
    assert_eq!(
        messages(with("1")),
        [
            "nano.toml:13: data[0].seed is also the seed of validation.data[1]: the scenes that \
             are learned would be those that measure what was learned"
        ]
    );
}

#[test]
fn validation_needs_data() {
    let found = messages(read(&format!("{TRAINING}[validation]\nimages = 10\n")));
    let expected = "nano.toml:10: validation.data is missing: at least one [[validation.data]] \
                    with images and masks";
    assert_eq!(found, [expected]);
}

#[test]
fn a_file_given_to_the_wrong_command_is_told_the_right_one() {
    let error = crate::load_pipeline(
        TextFile {
            name: "nano.toml",
            text: TRAINING,
        },
        &[],
    );
    let found = messages(error);
    for section in ["architecture", "optimiser"] {
        let message =
            format!("[{section}] belongs in a training file, which `maskmill train` takes");
        assert!(
            found.iter().any(|line| line.ends_with(&message)),
            "{found:?}"
        );
    }
    let found = messages(read("[masks]\nmin_area = 3\n"));
    let message = "[masks] belongs in a pipeline file, which `maskmill run` takes";
    assert!(
        found.iter().any(|line| line.ends_with(message)),
        "{found:?}"
    );
}

#[test]
fn every_key_of_the_training_file_changes_the_fingerprint() {
    const VALIDATION: &str = "validation.data=[{kind=\"scenes\",seed=2}]";
    const STEP: &[&str] = &["optimiser.schedule=step", "optimiser.step_at=[900]"];
    for (section, keys) in FileKind::Training.sections() {
        for key in *keys {
            // Settings without which there is no such key.
            let base = match (*section, *key) {
                ("validation", "data") => &[][..],
                ("validation", _) => &[VALIDATION],
                (_, "step_at" | "step_factor") => STEP,
                _ => &[],
            };
            let value = match (*section, *key) {
                // There is one.
                ("optimiser", "name") | ("", "task") => continue,
                // In place of [architecture], and of a fresh encoder: the tests above.
                ("model", _) | ("optimiser", "encoder") => continue,
                (_, "name") => "another",
                ("", "data") => "[{kind=\"scenes\",seed=1,count=9}]",
                (_, "data") => "[{kind=\"scenes\",seed=3}]",
                (_, "image_size" | "embed_dim") => "256",
                (_, "patch_size" | "cross_attention_dim" | "mask_in_channels") => "32",
                (_, "encoder_dim" | "encoder_mlp_dim" | "decoder_mlp_dim") => "96",
                (_, "iou_head_dim") => "96",
                (_, "encoder_depth") => "7",
                (_, "global_blocks") => "[1]",
                (_, "scale") => "[1.0, 1.0]",
                (_, "flip" | "multimask") => "false",
                (_, "vertical_flip") => "true",
                (_, "betas") => "[0.9, 0.95]",
                (_, "schedule") => "constant",
                (_, "step_at") => "[800]",
                ("optimiser", "precision") => "high",
                (_, "precision") => "f16",
                (_, "rounds") => "4",
                (_, "decoder_depth") => "3",
                (_, "iou_head_depth" | "mask_tokens") => "2",
                ("architecture", _) => "4",
                (_, "batch_images" | "steps" | "every_steps" | "warmup_steps") => "64",
                (_, "seed" | "images" | "masks_per_image" | "accumulate" | "pixels_per_image") => {
                    "3"
                }
                _ => "0.3",
            };
            let set = format!("{}={value}", crate::schema::path(section, key));
            let mut all = base.to_vec();
            let unchanged = job(&all).unwrap_or_else(|e| panic!("{base:?}: {e}"));
            all.push(&set);
            let changed = job(&all).unwrap_or_else(|e| panic!("{set}: {e}"));
            let (changed, unchanged) = (print(&changed.pipeline), print(&unchanged.pipeline));
            assert_ne!(changed, unchanged, "{set} changes no fingerprint");
        }
    }
}

#[test]
fn every_key_of_data_changes_the_fingerprint() {
    let base = |kind: &str| match kind {
        "scenes" => "kind=\"scenes\",seed=1",
        "coco" => "kind=\"coco\",annotations=\"a\",images=\"b\"",
        "maskmill" => "kind=\"maskmill\",output=\"a\",images=\"b\"",
        other => panic!("{other}"),
    };
    let with = |table: &str| {
        let job = job(&[&format!("data=[{{{table}}}]")]).unwrap_or_else(|e| panic!("{e}"));
        print(&job.pipeline)
    };
    for (kind, more) in [
        ("scenes", "count=3"),
        ("scenes", "width=64"),
        ("scenes", "height=[64,128]"),
        ("scenes", "objects=2"),
        ("scenes", "shapes=[\"disc\"]"),
        ("scenes", "textures=[\"plain\"]"),
        ("scenes", "radius=[0.1,0.2]"),
        ("scenes", "parts=0"),
        ("scenes", "weight=2"),
        ("coco", "weight=2"),
    ] {
        let base = base(kind);
        assert_ne!(with(&format!("{base},{more}")), with(base), "{more}");
    }
    assert_ne!(with(base("scenes")), with("kind=\"scenes\",seed=2"));
    assert_ne!(with(base("coco")), with(base("maskmill")));
    assert_ne!(with(base("coco")), with(&base("coco").replace('b', "c")));
    assert_ne!(
        with(base("maskmill")),
        with(&base("maskmill").replace("\"a\"", "\"c\""))
    );
}

#[test]
fn a_record_reads_back_from_its_json_and_names_what_differs() {
    let files = |digest: &str| BTreeMap::from([("data[0].annotations".into(), digest.into())]);
    let record = |sets: &[&str], digest: &str, version: &str| {
        TrainingRecord::new(&job(sets).unwrap().pipeline, &files(digest), version)
    };
    let first = record(&[], "ab", "0.1.0");
    let json = serde_json::to_string(&first).unwrap();
    assert_eq!(
        serde_json::from_str::<TrainingRecord>(&json).unwrap(),
        first
    );

    assert_eq!(first.differences(&record(&[], "ab", "0.2.0")), [""; 0]);
    let sets = [
        "optimiser.steps=4000",
        "optimiser.schedule=constant",
        "data=[{kind=\"scenes\",seed=1,count=7},{kind=\"sa1b\",path=\"p\"}]",
        "validation.data=[{kind=\"scenes\",seed=2}]",
    ];
    let other = record(&sets, "cd", "0.1.0");
    assert_eq!(
        first.differences(&other),
        [
            "data[0].count: 100000 -> 7",
            "data[1]: none -> {\"kind\":\"sa1b\",\"min_area\":0.0,\"path\":\"p\",\"weight\":1.0}",
            "optimiser.final_fraction: 0.01 -> none",
            "optimiser.schedule: \"cosine\" -> \"constant\"",
            "optimiser.steps: 2000 -> 4000",
            "optimiser.warmup_steps: 200 -> 250",
            "validation: none -> {\"data\":[{\"count\":100000,\"height\":[512,512],\
             \"kind\":\"scenes\",\"min_area\":0.0,\"objects\":[4,24],\"seed\":2,\"weight\":1.0,\
             \"width\":[512,512]}],\"every_steps\":500,\"images\":100,\"masks_per_image\":8}",
            "sha256 of data[0].annotations: \"ab\" -> \"cd\"",
        ]
    );
    // Another maskmill whose training is another: nothing else to name.
    let mut old = first.clone();
    old.fingerprint = other.fingerprint.clone();
    old.tool_version = "0.0.9".to_string();
    assert_eq!(
        old.differences(&first),
        ["version of maskmill: 0.0.9 -> 0.1.0"]
    );
}
