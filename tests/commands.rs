//! `view`, `predict`, `verify` and `export`, on real outputs.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use maskmill_formats::rows::{ParquetMeta, masks_to_parquet, read_masks, read_meta};
use maskmill_masks::{ImageSize, Rle};
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Job, Ran, files_below, picture, png, small_sample, snapshot};

/// Two shards of images: three good, one of them turned, and a bad one.
fn finished_job() -> Job {
    let mut job = Job::of_images();
    job.put("cat.png", &png(&small_sample("cat.png", 90), None))
        .put("sub/turned.png", &png(&picture(60, 40, 3), Some(6)))
        .put("sub/text.jpg", b"no image")
        .put("z.png", &png(&picture(50, 70, 4), None));
    job.set("source.images_per_shard=2");
    job.run().expect_code(0);
    job
}

fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// A mask as `segmentation` has it, decoded: its size and its area.
fn decoded(segmentation: &Value) -> ([u64; 2], u64) {
    let number = |index: usize| segmentation["size"][index].as_u64().unwrap();
    let size = [number(0), number(1)];
    let counts = segmentation["counts"].as_str().unwrap();
    let rle = Rle::from_coco_string(ImageSize::new(size[0] as u32, size[1] as u32), counts);
    (size, rle.unwrap().decode().area())
}

#[test]
fn run_says_what_it_did_and_where_to_look() {
    let mut job = Job::of_images();
    job.put("a.png", &png(&picture(48, 40, 1), None))
        .put("b.png", b"");
    let ran = job.run();
    ran.expect_code(0);
    for words in [
        "1 images -> ",
        "1 shards committed, 0 resumed, 0 failed",
        "1 images rejected: 1 empty",
        "out/job/masks/*.parquet",
        "maskmill view out/job --image KEY",
        "UNTRAINED",
    ] {
        assert!(ran.stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    let events = ran.events();
    assert_eq!(events[0]["event"], "planned");
    assert_eq!(events[0]["images"], 2);
    assert_eq!(events[1]["event"], "committed");
    assert_eq!(events[1]["rejects"]["empty"], 1);

    // Logs as JSON: every line of stderr is an object.
    job.set("log.format=json").set("output.root=out2");
    let ran = job.run();
    assert_eq!(ran.events().len(), ran.stderr.lines().count());
}

#[test]
fn view_draws_the_masks_on_the_upright_image() {
    let job = finished_job();
    for (key, file, size) in [
        ("cat.png", "cat.png.masks.png", (90, 60)),
        ("sub/turned.png", "sub_turned.png.masks.png", (40, 60)),
    ] {
        let ran = job.maskmill(&["view", "out/job", "--image", key]);
        ran.expect_code(0);
        assert!(ran.stdout.contains(file), "{ran:#?}");
        let drawn = image::open(job.path(file)).unwrap().to_rgb8();
        assert_eq!(drawn.dimensions(), size);
        let original = image::open(job.path("source").join(key)).unwrap().to_rgb8();
        assert_ne!(drawn.as_raw(), original.as_raw(), "nothing is drawn");
    }
    let out = ["view", "out/job", "--image", "z.png", "--out", "here.png"];
    job.maskmill(&out).expect_code(0);
    assert!(job.path("here.png").exists());
}

#[test]
fn view_explains_what_it_cannot_draw() {
    let job = finished_job();
    let view = |key: &str| job.maskmill(&["view", "out/job", "--image", key]);
    view("cta.png")
        .expect_code(2)
        .expect_error(&["no image \"cta.png\"", "did you mean \"cat.png\"?"]);
    view("turned.png")
        .expect_code(2)
        .expect_error(&["did you mean \"sub/turned.png\"?"]);
    let nothing_like_it = view("elephant");
    nothing_like_it.expect_code(2);
    assert!(!nothing_like_it.stderr.contains("did you mean"));
    view("sub/text.jpg")
        .expect_code(2)
        .expect_error(&["was rejected", "not_an_image"]);

    // Masks are drawn on the image that they were made for, or not at all.
    job.put("cat.png", &png(&picture(90, 60, 9), None));
    view("cat.png")
        .expect_code(2)
        .expect_error(&["its bytes changed"]);
    fs::remove_file(job.path("source/cat.png")).unwrap();
    view("cat.png")
        .expect_code(2)
        .expect_error(&["cannot be read from the source"]);
    assert!(!job.path("cat.png.masks.png").exists());

    let no_job = job.maskmill(&["view", "source", "--image", "cat.png"]);
    no_job.expect_code(2).expect_error(&["holds no job"]);
    let nowhere = job.maskmill(&["view", "nowhere", "--image", "cat.png"]);
    nowhere
        .expect_code(2)
        .expect_error(&["there is no output at nowhere"]);
}

#[test]
fn a_sample_of_a_tar_can_be_viewed_and_exported() {
    let job = Job::of_tars();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, seed) in [("a.png", 1), ("deep/b.png", 2)] {
        let bytes = png(&picture(48, 40, seed), None);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    job.put("train/0.tar", &tar.into_inner().unwrap());
    job.run().expect_code(0);

    let key = "train/0.tar/deep/b";
    job.maskmill(&["view", "out/job", "--image", key, "--out", "b.png"])
        .expect_code(0);
    assert_eq!(
        image::image_dimensions(job.path("b.png")).unwrap(),
        (48, 40)
    );
    job.maskmill(&["export", "out/job", "--format", "sa1b"])
        .expect_code(0);
    let document = json(&job.path("out/job/sa1b/train/0.tar/deep/b.json"));
    assert_eq!(document["image"]["file_name"], key);
}

/// `maskmill predict` on a photo of 100 x 67 pixels, and the JSON it wrote.
fn predict(arguments: &[&str]) -> Value {
    let job = Job::of_images();
    let photo = png(&small_sample("cat.png", 100), None);
    fs::write(job.path("cat.png"), photo).unwrap();
    let checkpoint = support::repository(support::TINY);
    let mut all = vec!["predict", "cat.png", "--checkpoint"];
    all.push(checkpoint.to_str().unwrap());
    all.extend(arguments);
    let ran = job.maskmill(&all);
    ran.expect_code(0);
    assert!(ran.stdout.contains("cat.masks.png\ncat.masks.json\n"));
    let drawn = image::image_dimensions(job.path("cat.masks.png"));
    assert_eq!(drawn.unwrap(), (100, 67));
    let answer = json(&job.path("cat.masks.json"));
    assert_eq!([&answer["width"], &answer["height"]], [100, 67]);
    for prompt in answer["prompts"].as_array().unwrap() {
        let masks = prompt["masks"].as_array().unwrap();
        for mask in masks {
            let (size, area) = decoded(&mask["segmentation"]);
            assert_eq!(size, [67, 100]);
            assert_eq!(mask["area"], area);
        }
        let best: Vec<&Value> = masks.iter().filter(|mask| mask["best"] == true).collect();
        assert_eq!(best.len(), 1);
        let iou = |mask: &Value| mask["predicted_iou"].as_f64().unwrap();
        assert!(masks.iter().all(|mask| iou(mask) <= iou(best[0])));
    }
    answer
}

fn masks_per_prompt(answer: &Value) -> Vec<usize> {
    let prompts = answer["prompts"].as_array().unwrap().iter();
    prompts
        .map(|prompt| prompt["masks"].as_array().unwrap().len())
        .collect()
}

#[test]
fn predict_takes_points_and_boxes() {
    let point = predict(&["--point", "50,30"]);
    assert_eq!(masks_per_prompt(&point), [3]);
    assert_eq!(
        point["prompts"][0]["points"],
        serde_json::json!([[50.0, 30.0, 1.0]])
    );
    assert!(point["prompts"][0]["box"].is_null());

    let points = predict(&["--point", "50,30", "--point", "10,60,0", "--single"]);
    assert_eq!(masks_per_prompt(&points), [1]);
    assert_eq!(points["prompts"][0]["points"][1][2], 0.0);

    let one_box = predict(&["--box", "20,10,80,60"]);
    assert_eq!(masks_per_prompt(&one_box), [3]);

    // Each box is a prompt of its own, and all points go with each; together or alone gives the same.
    let boxes = predict(&["--box", "20,10,80,60", "--box", "0,0,30,30.5"]);
    assert_eq!(masks_per_prompt(&boxes), [3, 3]);
    assert_eq!(boxes["prompts"][0], one_box["prompts"][0]);
    assert_eq!(
        boxes["prompts"][1]["box"],
        serde_json::json!([0.0, 0.0, 30.0, 30.5])
    );
    let mixed = predict(&["--point", "50,30", "--box", "20,10,80,60"]);
    assert_eq!(masks_per_prompt(&mixed), [3]);
    assert_ne!(mixed["prompts"][0]["masks"], point["prompts"][0]["masks"]);
}

#[test]
fn predict_computes_in_the_precision_that_it_is_told() {
    let point = ["--point", "50,30"];
    let default = predict(&point);
    assert_eq!(default["precision"], "f32");
    let with = |precision: &str| predict(&[&point[..], &["--precision", precision]].concat());
    assert_eq!(with("f32"), default);
    let bf16 = with("bf16");
    assert_eq!(bf16["precision"], "bf16");
    assert_eq!(masks_per_prompt(&bf16), [3]);
    assert_ne!(bf16["prompts"], default["prompts"]);
}

#[test]
fn predict_refuses_what_it_cannot_use() {
    let job = Job::of_images();
    fs::write(job.path("a.png"), png(&picture(40, 30, 1), None)).unwrap();
    fs::write(job.path("text.jpg"), "no image").unwrap();
    let before = files_below(&job.path(""));
    let refused = |arguments: &[&str], words: &[&str]| -> Ran {
        let ran = job.maskmill(&[&["predict"], arguments].concat());
        ran.expect_code(2).expect_error(words);
        ran
    };
    let point = ["--point", "1,1"];
    refused(&["a.png"], &["give --point x,y, --box", "--text"]);
    refused(&["a.png", "--point", "1"], &["a point is x,y"]);
    refused(&["a.png", "--point", "1,2,3"], &["a point is x,y"]);
    refused(&["a.png", "--point", "1,nan"], &["`nan` is not a number"]);
    refused(&["a.png", "--box", "9,9,1,1"], &["a box needs x0 < x1"]);
    refused(&["a.png", "--box", "1,2,3"], &["a box is x0,y0,x1,y1"]);
    refused(
        &["none.png", point[0], point[1]],
        &["none.png cannot be read"],
    );
    refused(
        &["text.jpg", point[0], point[1]],
        &["text.jpg cannot be decoded", "begins with \"no image\""],
    );
    let with = |option: &str, value: &str, words: &[&str]| {
        refused(&["a.png", point[0], point[1], option, value], words)
    };
    with("--checkpoint", "none.pth", &["none.pth", "cannot be read"]);
    with("--precision", "half", &["half", "f32", "bf16"]);
    with("--device", "gpu", &["gpu"]);
    with("--device", "cuda:99", &["cuda:99"]);
    assert_eq!(files_below(&job.path("")), before, "nothing was written");
}

#[test]
fn verify_finds_nothing_wrong_with_a_good_output() {
    let job = finished_job();
    let before = snapshot(&job.output());
    let ran = job.maskmill(&["verify", "out/job"]);
    ran.expect_code(0);
    let masks = job.rows().masks.len();
    let words = format!("2 of 2 shards committed, 4 images, {masks} masks");
    assert!(ran.stdout.contains(&words), "{ran:#?}");
    assert_eq!(snapshot(&job.output()), before, "verify writes nothing");
}

/// Each damage to an output of its own: exit code 1, and a line that names the shard and the file.
#[test]
fn verify_finds_every_damage() {
    let masks_part = "out/job/masks/part-000001.parquet";
    let images_part = "out/job/images/part-000000.parquet";
    let marker = "out/job/_commits/000000.json";
    type Damage<'a> = (&'a str, &'a dyn Fn(&Job), &'a [&'a str]);
    let damages: &[Damage<'_>] = &[
        (
            "a byte flipped",
            &|job| {
                let mut bytes = fs::read(job.path(masks_part)).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(job.path(masks_part), bytes).unwrap();
            },
            &[
                "shard 000001",
                "masks/part-000001.parquet",
                "not what was committed",
            ],
        ),
        (
            "a part cut short",
            &|job| {
                let bytes = fs::read(job.path(images_part)).unwrap();
                fs::write(job.path(images_part), &bytes[..bytes.len() - 9]).unwrap();
            },
            &[
                "shard 000000",
                "images/part-000000.parquet",
                "not what was committed",
            ],
        ),
        (
            "a part deleted",
            &|job| fs::remove_file(job.path(images_part)).unwrap(),
            &[
                "shard 000000",
                "images/part-000000.parquet is committed but missing",
            ],
        ),
        (
            "a marker deleted",
            &|job| fs::remove_file(job.path(marker)).unwrap(),
            &["shard 000000 is not committed"],
        ),
        (
            "a marker cut short",
            &|job| fs::write(job.path(marker), "{\"shard\": 0").unwrap(),
            &["_commits/000000.json", "is not a marker of its shard"],
        ),
        (
            "a marker too many",
            &|job| {
                let mut extra = json(&job.path(marker));
                extra["shard"] = 7.into();
                let path = job.path("out/job/_commits/000007.json");
                fs::write(path, extra.to_string()).unwrap();
            },
            &["shard 000007 is committed, the plan has 2 shards"],
        ),
        (
            "a mask that is not its row's",
            &|job| {
                let mut rows = read_masks(fs::read(job.path(masks_part)).unwrap().into()).unwrap();
                rows[0].area += 1;
                replace_masks(
                    job,
                    1,
                    &masks_to_parquet(&rows, &meta(job, masks_part)).unwrap(),
                );
            },
            &["shard 000001", "mask 0: it decodes to area"],
        ),
        (
            "a mask lost",
            &|job| {
                let mut rows = read_masks(fs::read(job.path(masks_part)).unwrap().into()).unwrap();
                rows.pop();
                replace_masks(
                    job,
                    1,
                    &masks_to_parquet(&rows, &meta(job, masks_part)).unwrap(),
                );
            },
            &["shard 000001", "the marker says"],
        ),
    ];
    for (name, damage, words) in damages {
        let job = finished_job();
        damage(&job);
        let ran = job.maskmill(&["verify", "out/job"]);
        ran.expect_code(1).expect_error(&["problem(s) in out/job"]);
        // One shard's damage hides no other's rows.
        assert!(!ran.stdout.contains(" 0 images"), "{name}: {ran:#?}");
        let line = ran
            .stdout
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "{name}: {words:?} are not in {ran:#?}");
    }
}

fn meta(job: &Job, part: &str) -> ParquetMeta {
    read_meta(fs::read(job.path(part)).unwrap().into()).unwrap()
}

/// Writes a shard's masks and has its marker agree on the digest, so that only the rows can be found wrong.
fn replace_masks(job: &Job, shard: u32, bytes: &[u8]) {
    let part = job.path(&format!("out/job/masks/part-{shard:06}.parquet"));
    fs::write(part, bytes).unwrap();
    let path = job.path(&format!("out/job/_commits/{shard:06}.json"));
    let mut marker = json(&path);
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    marker["masks"]["sha256"] = hex.into();
    fs::write(path, serde_json::to_vec(&marker).unwrap()).unwrap();
}

#[test]
fn export_writes_a_json_per_image_as_sa1b_does() {
    let job = finished_job();
    let ran = job.maskmill(&["export", "out/job", "--format", "sa1b", "--out", "sa1b"]);
    ran.expect_code(0);
    assert!(ran.stdout.contains("3 JSON files in sa1b"), "{ran:#?}");
    let files = ["cat.png.json", "sub/turned.png.json", "z.png.json"]
        .map(|name| job.path("sa1b").join(name));
    assert_eq!(files_below(&job.path("sa1b")), files);

    let rows = job.rows();
    let mut image_ids = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for file in files {
        let document = json(&file);
        let image = &document["image"];
        image_ids.insert(image["image_id"].as_u64().unwrap());
        let key = image["file_name"].as_str().unwrap();
        let row = rows.expect_masks(key);
        assert_eq!(image["width"], row.width);
        assert_eq!(image["height"], row.height);
        let annotations = document["annotations"].as_array().unwrap();
        let masks = rows.masks(key);
        assert_eq!(annotations.len(), masks.len());
        for (annotation, mask) in annotations.iter().zip(masks) {
            ids.insert(annotation["id"].as_u64().unwrap());
            let (size, area) = decoded(&annotation["segmentation"]);
            assert_eq!(size, [row.height, row.width].map(u64::from));
            assert_eq!(annotation["area"], area);
            assert_eq!(area, mask.area);
            assert_eq!(annotation["bbox"], serde_json::json!(mask.bbox));
            assert_eq!(annotation["crop_box"], serde_json::json!(mask.crop_box));
            assert_eq!(
                annotation["point_coords"],
                serde_json::json!(mask.point_coords)
            );
        }
    }
    assert_eq!(image_ids.len(), 3);
    assert_eq!(ids.len(), rows.masks.len(), "ids are unique in the output");

    job.maskmill(&["export", "out/job", "--format", "xml"])
        .expect_code(2)
        .expect_error(&["sa1b"]);
    job.maskmill(&["export", "source", "--format", "sa1b"])
        .expect_code(2)
        .expect_error(&["holds no job"]);
}
