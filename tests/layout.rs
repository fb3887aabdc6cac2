//! The workspace's dependency table, kept true: data flows one way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on, of this workspace. Only normal dependencies count: tests may use any.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("maskmill-masks", &[]),
    ("maskmill-pixels", &["maskmill-masks"]),
    ("maskmill-weights", &[]),
    ("maskmill-kernels", &[]),
    (
        "maskmill-sam",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-weights",
            "maskmill-kernels",
        ],
    ),
    (
        "maskmill-grounding",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-weights",
            "maskmill-kernels",
        ],
    ),
    ("maskmill-formats", &["maskmill-masks", "maskmill-pixels"]),
    ("maskmill-scenes", &["maskmill-masks", "maskmill-pixels"]),
    (
        "maskmill-examples",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-formats",
            "maskmill-scenes",
        ],
    ),
    ("maskmill-storage", &[]),
    ("maskmill-job", &["maskmill-scenes"]),
    // For tests and benches.
    ("maskmill-loopback-s3", &[]),
    (
        "maskmill-pipeline",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-weights",
            "maskmill-sam",
            "maskmill-grounding",
            "maskmill-formats",
            "maskmill-scenes",
            "maskmill-storage",
            "maskmill-job",
        ],
    ),
    (
        "maskmill-train",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-weights",
            "maskmill-kernels",
            "maskmill-sam",
            "maskmill-grounding",
            "maskmill-examples",
            "maskmill-scenes",
            "maskmill-job",
        ],
    ),
    (
        "maskmill",
        &[
            "maskmill-masks",
            "maskmill-pixels",
            "maskmill-weights",
            "maskmill-sam",
            "maskmill-grounding",
            "maskmill-formats",
            "maskmill-storage",
            "maskmill-job",
            "maskmill-pipeline",
            "maskmill-train",
        ],
    ),
    (
        "maskmill-fuzz-checks",
        &["maskmill-masks", "maskmill-formats", "maskmill-job"],
    ),
];

/// Libraries that one part of the program is built on, and who may know of them.
const CONFINED: &[(&str, &[&str])] = &[
    (
        "burn",
        &[
            "maskmill-weights",
            "maskmill-kernels",
            "maskmill-sam",
            "maskmill-grounding",
            "maskmill-train",
        ],
    ),
    ("tokenizers", &["maskmill-grounding"]),
    ("safetensors", &["maskmill-weights", "maskmill-train"]),
    ("plotters", &["maskmill-train"]),
    ("object_store", &["maskmill-storage"]),
    ("polars", &["maskmill-formats"]),
    ("reqwest", &["maskmill-storage"]),
    ("parquet", &["maskmill-formats"]),
    ("arrow-array", &["maskmill-formats"]),
    ("turbojpeg", &["maskmill-formats"]),
    // The program waits for signals and answers Prometheus.
    (
        "tokio",
        &[
            "maskmill-storage",
            "maskmill-pipeline",
            "maskmill",
            "maskmill-loopback-s3",
        ],
    ),
    ("toml", &["maskmill-job"]),
    ("clap", &["maskmill"]),
    ("anyhow", &["maskmill"]),
    ("indicatif", &["maskmill"]),
];

/// Package -> its normal dependencies, of every member of the workspace.
fn normal_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("a list").iter();
            // Development and build dependencies have a kind.
            let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| text(&dependency["name"]));
            (text(&package["name"]), names.collect())
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let found = normal_dependencies();
    let members: Vec<&str> = found.keys().map(String::as_str).collect();
    let mut in_table: Vec<&str> = MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect();
    in_table.sort_unstable();
    assert_eq!(members, in_table, "the table and the workspace's members");

    for (name, allowed) in MAY_DEPEND_ON {
        let ours = found[*name].iter().filter(|name| found.contains_key(*name));
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} depends on {dependency}, which the table does not allow"
            );
        }
    }
}

#[test]
fn each_part_keeps_its_libraries_to_itself() {
    let found = normal_dependencies();
    for (library, users) in CONFINED {
        let using: Vec<&str> = found
            .iter()
            .filter(|(_, dependencies)| dependencies.contains(*library))
            .map(|(name, _)| name.as_str())
            .collect();
        assert!(!using.is_empty(), "nobody uses {library}: remove it here");
        for user in using {
            assert!(
                users.contains(&user),
                "{user} depends on {library}, which belongs to {users:?}"
            );
        }
    }
}
