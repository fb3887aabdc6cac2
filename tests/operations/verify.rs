//! `verify` names every kind of damage, in an output in a store.

use bytes::Bytes;
use maskmill_formats::plan_items::{plan_rows_to_parquet, read_plan_rows};
use maskmill_formats::rows::{
    ImageRow, ImageStatus, MaskRow, images_to_parquet, masks_to_parquet, read_images, read_masks,
    read_meta,
};
use maskmill_loopback_s3::LoopbackS3;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::OUT;
use crate::{job, objects, start_server};

/// A finished output, to be damaged.
struct Output<'a>(&'a LoopbackS3);

impl Output<'_> {
    fn get(&self, path: &str) -> Bytes {
        let found = self.0.get(OUT, &format!("job/{path}"));
        found.unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.0.put(OUT, &format!("job/{path}"), bytes);
    }

    fn remove(&self, path: &str) {
        self.0.remove(OUT, &format!("job/{path}"));
    }

    fn swap(&self, a: &str, b: &str) {
        let (of_a, of_b) = (self.get(a), self.get(b));
        self.put(a, of_b);
        self.put(b, of_a);
    }

    fn flip_a_byte(&self, path: &str) {
        let mut bytes = self.get(path).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        self.put(path, bytes);
    }

    fn marker(&self, shard: u32) -> Value {
        let marker = self.get(&format!("_commits/{shard:06}.json"));
        serde_json::from_slice(&marker).unwrap()
    }

    fn set_marker(&self, shard: u32, marker: &Value) {
        self.put(&format!("_commits/{shard:06}.json"), marker.to_string());
    }

    /// Changes one value of a marker.
    fn edit_marker(&self, shard: u32, pointer: &str, edit: impl FnOnce(&Value) -> Value) {
        let mut marker = self.marker(shard);
        let value = marker.pointer_mut(pointer);
        let value = value.unwrap_or_else(|| panic!("a marker has {pointer}"));
        *value = edit(value);
        self.set_marker(shard, &marker);
    }

    /// Changes mask rows. The marker agrees: only the rows can be found wrong.
    fn edit_masks(&self, shard: u32, edit: impl FnOnce(&mut Vec<MaskRow>)) {
        let path = format!("masks/part-{shard:06}.parquet");
        let meta = read_meta(self.get(&path)).unwrap();
        let mut rows = read_masks(self.get(&path)).unwrap();
        edit(&mut rows);
        let bytes = masks_to_parquet(&rows, &meta).unwrap();
        self.replace_part(shard, "masks", &path, bytes, rows.len());
    }

    /// Changes image rows. The marker agrees with them.
    fn edit_images(&self, shard: u32, edit: impl FnOnce(&mut Vec<ImageRow>)) {
        let path = format!("images/part-{shard:06}.parquet");
        let meta = read_meta(self.get(&path)).unwrap();
        let mut rows = read_images(self.get(&path)).unwrap();
        edit(&mut rows);
        let bytes = images_to_parquet(&rows, &meta).unwrap();
        self.replace_part(shard, "images", &path, bytes, rows.len());
        let mut marker = self.marker(shard);
        let ok = rows
            .iter()
            .filter(|row| row.status == ImageStatus::Ok)
            .count();
        marker["images_ok"] = ok.into();
        marker["images_rejected"] = (rows.len() - ok).into();
        let mut rejects = json!({});
        for row in rows
            .iter()
            .filter(|row| row.status == ImageStatus::Rejected)
        {
            let reason = row.reason.clone().unwrap_or_default();
            rejects[&reason] = (rejects[&reason].as_u64().unwrap_or(0) + 1).into();
        }
        marker["rejects"] = rejects;
        self.set_marker(shard, &marker);
    }

    fn file_of_items(&self) -> String {
        let mut paths = objects(self.0).into_iter();
        let found = paths.find(|path| path.contains("/items-"));
        found.expect("a plan has a file of items")
    }

    fn replace_part(&self, shard: u32, kind: &str, path: &str, bytes: Vec<u8>, rows: usize) {
        let digest = Sha256::digest(&bytes);
        let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut marker = self.marker(shard);
        marker[kind] = json!({"path": path, "rows": rows, "bytes": bytes.len(), "sha256": sha256});
        self.put(path, bytes);
        self.set_marker(shard, &marker);
    }
}

struct Damage {
    name: &'static str,
    make: fn(&Output<'_>),
    /// One line of the output has all of these.
    words: &'static [&'static str],
}

/// Shards 0, 1 and 2 have the images 0 and 1, 2 and 3, 4 and 5; number 3 is rejected.
const DAMAGES: &[Damage] = &[
    Damage {
        name: "a part missing",
        make: |output| output.remove("images/part-000001.parquet"),
        words: &[
            "shard 000001",
            "images/part-000001.parquet is committed but missing",
        ],
    },
    Damage {
        name: "a byte of the masks flipped",
        make: |output| output.flip_a_byte("masks/part-000002.parquet"),
        words: &[
            "shard 000002",
            "masks/part-000002.parquet is not what was committed",
            "sha256",
        ],
    },
    Damage {
        name: "a byte of the images flipped",
        make: |output| output.flip_a_byte("images/part-000000.parquet"),
        words: &[
            "shard 000000",
            "images/part-000000.parquet is not what was committed",
        ],
    },
    Damage {
        name: "the parts of two shards swapped",
        make: |output| output.swap("masks/part-000000.parquet", "masks/part-000002.parquet"),
        words: &[
            "shard 000002",
            "masks/part-000002.parquet is not what was committed",
        ],
    },
    Damage {
        name: "the masks of two shards swapped in their markers",
        make: |output| {
            let (first, last) = (output.marker(0), output.marker(2));
            output.edit_marker(0, "/masks", |_| last["masks"].clone());
            output.edit_marker(2, "/masks", |_| first["masks"].clone());
        },
        words: &[
            "shard 000000",
            "masks/part-000002.parquet",
            "follows no row of its image",
        ],
    },
    Damage {
        name: "two whole shards swapped in their markers",
        make: |output| {
            let (mut first, mut last) = (output.marker(0), output.marker(2));
            first["shard"] = 2.into();
            last["shard"] = 0.into();
            output.set_marker(0, &last);
            output.set_marker(2, &first);
        },
        words: &["shard 000000", "\"4.png\"", "its row says shard 2"],
    },
    Damage {
        name: "the number of mask rows in a marker",
        make: |output| output.edit_marker(1, "/masks/rows", |n| (n.as_u64().unwrap() + 1).into()),
        words: &[
            "shard 000001",
            "masks/part-000001.parquet",
            "rows, the marker says",
        ],
    },
    Damage {
        name: "the number of image rows in a marker",
        make: |output| output.edit_marker(1, "/images/rows", |_| 1.into()),
        words: &[
            "shard 000001",
            "images/part-000001.parquet",
            "2 rows, the marker says 1",
        ],
    },
    Damage {
        name: "the size of a part in a marker",
        make: |output| output.edit_marker(2, "/images/bytes", |n| (n.as_u64().unwrap() - 1).into()),
        words: &[
            "shard 000002",
            "images/part-000002.parquet",
            "bytes, the marker says",
        ],
    },
    Damage {
        name: "the number of good images in a marker",
        make: |output| output.edit_marker(0, "/images_ok", |_| 3.into()),
        words: &["shard 000000", "2 images are ok", "its marker says 3"],
    },
    Damage {
        name: "the number of rejected images in a marker",
        make: |output| output.edit_marker(1, "/images_rejected", |_| 0.into()),
        words: &["shard 000001", "1 rejected", "its marker says 1 and 0"],
    },
    Damage {
        name: "the reasons in a marker",
        make: |output| output.edit_marker(1, "/rejects", |_| json!({"truncated": 1})),
        words: &[
            "shard 000001",
            "not_an_image",
            "its marker says",
            "truncated",
        ],
    },
    Damage {
        name: "the inputs in a marker",
        make: |output| output.edit_marker(0, "/inputs", |_| "0".repeat(64).into()),
        words: &["shard 000000", "it was made of other inputs"],
    },
    Damage {
        name: "a path in a marker",
        make: |output| {
            output.edit_marker(0, "/masks/path", |_| "masks/part-000009.parquet".into());
        },
        words: &[
            "shard 000000",
            "masks/part-000009.parquet is committed but missing",
        ],
    },
    Damage {
        name: "a path in a marker that climbs out",
        make: |output| output.edit_marker(0, "/masks/path", |_| "../job/_job.json".into()),
        words: &["../job/_job.json"],
    },
    Damage {
        name: "the fingerprint in a marker",
        make: |output| output.edit_marker(2, "/fingerprint", |_| "f".repeat(64).into()),
        words: &["_commits/000002.json", "was written by another job"],
    },
    Damage {
        name: "a marker that is no JSON",
        make: |output| output.put("_commits/000001.json", "{\"shard\": 1,"),
        words: &["_commits/000001.json", "is not a marker of its shard"],
    },
    Damage {
        name: "a marker missing",
        make: |output| output.remove("_commits/000001.json"),
        words: &["shard 000001 is not committed"],
    },
    Damage {
        name: "a marker beyond the plan",
        make: |output| {
            let mut stray = output.marker(1);
            stray["shard"] = 12.into();
            output.set_marker(12, &stray);
        },
        words: &["shard 000012 is committed, the plan has 3 shards"],
    },
    Damage {
        name: "a mask row removed",
        make: |output| output.edit_masks(1, |rows| drop(rows.pop())),
        words: &["shard 000001", "\"2.png\"", "masks, its row says"],
    },
    Damage {
        name: "the first mask row removed",
        make: |output| output.edit_masks(2, |rows| drop(rows.remove(0))),
        words: &["shard 000002", "\"4.png\"", "mask 1 is in place 0"],
    },
    Damage {
        name: "a planned image missing, with its masks",
        make: |output| {
            output.edit_masks(0, |rows| rows.retain(|row| row.image_key != "1.png"));
            output.edit_images(0, |rows| rows.retain(|row| row.image_key != "1.png"));
        },
        words: &["shard 000000", "\"1.png\" is planned and has no row"],
    },
    Damage {
        name: "a rejected image missing",
        make: |output| output.edit_images(1, |rows| drop(rows.pop())),
        words: &["shard 000001", "\"3.png\" is planned and has no row"],
    },
    Damage {
        name: "an image twice in its shard",
        make: |output| output.edit_images(1, |rows| rows.push(rows[1].clone())),
        words: &["shard 000001", "\"3.png\"", "it is there twice"],
    },
    Damage {
        name: "an image in another shard again",
        make: |output| {
            let masks = read_masks(output.get("masks/part-000000.parquet")).unwrap();
            let mut images = read_images(output.get("images/part-000000.parquet")).unwrap();
            images.truncate(1);
            images[0].shard = 2;
            output.edit_masks(2, |rows| {
                rows.extend(masks.into_iter().filter(|mask| mask.image_key == "0.png"));
            });
            output.edit_images(2, |rows| rows.extend(images));
        },
        words: &["shard 000002", "\"0.png\"", "it is there twice"],
    },
    Damage {
        name: "an image that nobody planned",
        make: |output| output.edit_images(1, |rows| rows[1].image_key = "33.png".to_owned()),
        words: &["shard 000001", "\"33.png\" is not planned"],
    },
    Damage {
        name: "an area that is not its mask's",
        make: |output| output.edit_masks(0, |rows| rows[0].area -= 1),
        words: &["shard 000000", "\"0.png\"", "mask 0: it decodes to area"],
    },
    Damage {
        name: "a box that is not its mask's",
        make: |output| output.edit_masks(2, |rows| rows.last_mut().unwrap().bbox[2] += 1),
        words: &["shard 000002", "\"5.png\"", "it decodes to area", "and box"],
    },
    Damage {
        name: "a mask of another image's size",
        make: |output| output.edit_images(2, |rows| rows[0].height += 1),
        words: &["shard 000002", "\"4.png\"", "mask 0: it is", "the image"],
    },
    Damage {
        name: "a rejected image without a reason",
        make: |output| output.edit_images(1, |rows| rows[1].reason = None),
        words: &[
            "shard 000001",
            "\"3.png\"",
            "a rejected image has a reason and no masks",
        ],
    },
    Damage {
        name: "an item of the plan changed",
        make: |output| {
            let path = output.file_of_items();
            let (mut items, meta) = read_plan_rows(output.get(&path)).unwrap();
            items[3].etag = Some("\"of another version\"".to_owned());
            output.put(&path, plan_rows_to_parquet(&items, &meta).unwrap());
        },
        words: &["shard 000001", "/items-00000.parquet"],
    },
    Damage {
        name: "the items of the plan missing",
        make: |output| output.remove(&output.file_of_items()),
        words: &["shard 000002", "/items-00000.parquet"],
    },
];

#[test]
fn verify_names_every_kind_of_damage() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    let verify = || job.maskmill(&["verify", &job.location()]);
    let whole: Vec<(String, Bytes)> = objects(&server)
        .into_iter()
        .map(|path| (path.clone(), Output(&server).get(&path)))
        .collect();
    verify().expect_code(0);
    for Damage { name, make, words } in DAMAGES {
        let output = Output(&server);
        make(&output);
        let ran = verify();
        assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
        ran.expect_error(&["problem(s) in s3://out/job"]);
        let mut lines = ran.stdout.lines();
        let is_named = lines.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(is_named, "{name}: {words:?} are not in a line of {ran:#?}");

        for path in objects(&server) {
            output.remove(&path);
        }
        for (path, bytes) in &whole {
            output.put(path, bytes.clone());
        }
    }
    verify().expect_code(0);
}
