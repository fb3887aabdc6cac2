//! Sources that change while they are listed, planned and read: there is one plan, of which everything is
//! done as it was or said to be another by now.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use maskmill_loopback_s3::{Act, Phase, Seen};
use parquet::arrow::ArrowWriter;
use support::{DATA, Job, of_images, photo, picture, png, server, tar};

fn table(seeds: &[u32]) -> Vec<u8> {
    let images = seeds.iter().map(|seed| photo(*seed));
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(images));
    let batch = RecordBatch::try_from_iter([("image", images)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn verify(job: &Job) {
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
}

/// Whether it is a request for an object of the source.
fn reads_source(seen: &Seen) -> bool {
    seen.bucket == DATA && seen.method == "GET" && !seen.is_list()
}

#[test]
fn a_listing_that_changes_while_it_is_read_makes_one_plan() {
    let server = server();
    server.set_page_size(3);
    let mut job = Job::in_store("images", &server);
    for index in 0..20 {
        job.put(&format!("{:02}.png", 2 * index), &photo(index));
    }
    job.set("source.images_per_shard=4");
    let (pages, weak) = (AtomicUsize::new(0), Arc::downgrade(&server));
    server.hook(move |seen, phase| {
        let is_page = seen.is_list() && seen.parameter("prefix") == Some("source/");
        if !is_page || phase != Phase::After {
            return Act::Go;
        }
        let server = weak.upgrade().expect("it is answering");
        match pages.fetch_add(1, Ordering::SeqCst) {
            // Of 00, 02 and 04, which are listed: one goes, one becomes another; and one comes before them.
            0 => {
                server.remove(DATA, "source/02.png");
                server.put(DATA, "source/00.png", photo(77));
                server.put(DATA, "source/01.png", photo(78));
            }
            // The last one of this page, and, of those still to come, one goes and one is new.
            1 => {
                server.remove(DATA, "source/10.png");
                server.remove(DATA, "source/30.png");
                server.put(DATA, "source/31.png", photo(79));
            }
            _ => {}
        }
        Act::Go
    });
    let rows = job.rows_of_run();
    let mut keys: Vec<String> = (0..20).map(|n| format!("{:02}.png", 2 * n)).collect();
    keys[15] = "31.png".to_owned();
    assert_eq!(rows.keys(), keys);
    for key in &keys {
        match key.as_str() {
            "02.png" | "10.png" => {
                rows.expect_reject(key, "missing");
            }
            "00.png" => {
                let detail = rows.expect_reject(key, "changed");
                assert!(detail.contains("plan again"), "{detail}");
            }
            key => {
                rows.expect_masks(key);
            }
        }
    }
    verify(&job);
    let extended = job.job("plan", &["--extend", "--measure", "0"]);
    extended.expect_code(0);
    let changes = "1 new in 1 shards, 17 unchanged, 1 changed, 2 vanished";
    assert!(extended.stdout.contains(changes), "{extended:#?}");
}

#[test]
fn an_image_that_changed_or_vanished_since_it_was_planned_is_a_row() {
    let server = server();
    let job = of_images(&server, 6);
    job.job("plan", &["--write", "--measure", "0"])
        .expect_code(0);
    server.remove(DATA, "source/01.png");
    // Of another size; and of the same, which only the etag tells.
    job.put("02.png", &png(&picture(50, 41, 2), None));
    let mut same_size = photo(4);
    *same_size.last_mut().unwrap() ^= 1;
    job.put("04.png", &same_size);
    let rows = job.rows_of_run();
    rows.expect_reject("01.png", "missing");
    let detail = rows.expect_reject("02.png", "changed");
    assert!(detail.contains("bytes, and had"), "{detail}");
    let detail = rows.expect_reject("04.png", "changed");
    assert!(detail.contains("etag"), "{detail}");
    for key in ["00.png", "03.png", "05.png"] {
        rows.expect_masks(key);
    }
    verify(&job);
}

#[test]
fn a_row_of_a_manifest_whose_object_vanished_or_has_another_length_is_a_row() {
    let server = server();
    let mut job = Job::in_store("manifest", &server);
    let mut list = "uri,bytes\n".to_owned();
    for index in 0..4 {
        job.put(&format!("{index}.png"), &photo(index));
        list += &format!("{index}.png,{}\n", photo(index).len());
    }
    job.put("list.csv", list.as_bytes());
    job.set("source.path=s3://data/source/list.csv");
    job.job("plan", &["--write", "--measure", "0"])
        .expect_code(0);
    server.remove(DATA, "source/1.png");
    job.put("2.png", &png(&picture(50, 41, 2), None));
    // What was planned is done, whatever became of the manifest.
    server.remove(DATA, "source/list.csv");
    let rows = job.rows_of_run();
    rows.expect_masks("0.png");
    rows.expect_reject("1.png", "missing");
    rows.expect_reject("2.png", "changed");
    rows.expect_masks("3.png");
    verify(&job);
}

/// A file of many images that is gone is a failed shard: how many rows it would have had, nobody knows.
#[test]
fn a_tar_or_table_that_changed_or_vanished_since_it_was_planned_fails_its_shard() {
    for (kind, extension, files) in [
        (
            "webdataset",
            "tar",
            [0, 1, 2].map(|n| tar(&[("a.png", &photo(n))])),
        ),
        ("parquet", "parquet", [0, 1, 2].map(|n| table(&[n]))),
    ] {
        let server = server();
        let mut job = Job::in_store(kind, &server);
        for (index, file) in files.iter().enumerate() {
            job.put(&format!("{index}.{extension}"), file);
        }
        if kind == "parquet" {
            job.set("source.images_per_shard=1");
        }
        job.job("plan", &["--write", "--measure", "0"])
            .expect_code(0);
        server.remove(DATA, &format!("source/0.{extension}"));
        job.put(&format!("2.{extension}"), &files[1]);
        let ran = job.run();
        ran.expect_code(1).expect_error(&[
            &format!("0.{extension}: it does not exist"),
            &format!("2.{extension}: it has changed"),
            "2 of 3 shards failed; --retry-failed tries them again",
        ]);
        let rows = job.rows();
        assert_eq!(rows.images.len(), 1, "{:?}", rows.keys());
        rows.expect_masks(&rows.images[0].image_key);

        // Once they are what they were, they are done.
        for (index, file) in files.iter().enumerate() {
            job.put(&format!("{index}.{extension}"), file);
        }
        job.job("run", &["--retry-failed"]).expect_code(0);
        assert_eq!(job.rows().images.len(), 3);
        verify(&job);
    }
}

/// The second request for the tar finds another one there, of the same length.
#[test]
fn a_tar_that_is_replaced_while_it_is_read_is_never_a_mix_of_two() {
    let padding = vec![7; 9 << 20];
    let versions = [1, 2].map(|seed| {
        let (first, last) = (photo(seed), photo(seed + 10));
        tar(&[
            ("a.png", &first),
            // As long in both: PNGs of two pictures are not.
            ("a.pad", &vec![0; 4096 - first.len()]),
            ("b.bin", &padding),
            ("c.png", &last),
            ("c.pad", &vec![0; 4096 - last.len()]),
        ])
    });
    let [old, new] = versions;
    assert_eq!(old.len(), new.len());
    let server = server();
    let mut job = Job::in_store("webdataset", &server);
    job.put("good.tar", &tar(&[("fine.png", &photo(3))]))
        .put("swapped.tar", &old);
    job.set("run.max_bytes_in_flight=16MiB");
    let (weak, swapped) = (Arc::downgrade(&server), AtomicBool::new(false));
    server.hook(move |seen, phase| {
        let later = seen
            .range
            .as_ref()
            .is_some_and(|range| !range.starts_with("bytes=0-"));
        let is_it = reads_source(seen) && seen.key == "source/swapped.tar" && later;
        if is_it && phase == Phase::Before && !swapped.swap(true, Ordering::SeqCst) {
            let server = weak.upgrade().expect("it is answering");
            server.put(DATA, "source/swapped.tar", new.clone());
        }
        Act::Go
    });
    job.run().expect_code(1).expect_error(&[
        "swapped.tar: it has changed: it is not the object that was opened",
        "1 of 2 shards failed",
    ]);
    let rows = job.rows();
    assert_eq!(rows.keys(), ["good.tar/fine"]);
    rows.expect_masks("good.tar/fine");
    server.clear_hook();

    // The plan is of the old one, and says so.
    job.job("run", &["--retry-failed"])
        .expect_code(1)
        .expect_error(&["swapped.tar", "its etag is"]);
    assert_eq!(job.rows(), rows);
    job.put("swapped.tar", &old);
    job.job("run", &["--retry-failed"]).expect_code(0);
    job.rows().expect_masks("swapped.tar/c");
    verify(&job);
}
