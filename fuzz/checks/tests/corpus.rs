//! Every check on every stored input, and then on changes of them for as long as a time budget lasts.
//!
//! The changes are seeded: `MASKMILL_TEST_SEED` repeats the seed that a failing test has printed. How far the budget
//! reaches depends on the machine, so what fails late there may not be reached here; the input is in the message.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use maskmill_fuzz_checks::{CHECKS, Check};

/// How long changed inputs are made, per check.
const BUDGET: Duration = Duration::from_secs(3);

/// What fuzzers try: inputs grow no further.
const MAX_BYTES: usize = 1 << 16;

/// Numbers at which readers go wrong: ends of ranges, as they are in bytes.
const ODD_NUMBERS: &[u64] = &[
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 31,
    u64::MAX >> 1,
    u64::MAX,
];

#[test]
fn config_holds() {
    replay("config");
}

#[test]
fn detections_hold() {
    replay("detections");
}

#[test]
fn image_table_holds() {
    replay("image_table");
}

#[test]
fn manifest_holds() {
    replay("manifest");
}

#[test]
fn plan_holds() {
    replay("plan");
}

#[test]
fn rle_holds() {
    replay("rle");
}

#[test]
fn tar_holds() {
    replay("tar");
}

fn replay(target: &str) {
    let found = CHECKS.iter().find(|(name, _)| *name == target);
    let (_, check) = found.expect("every target is among the checks");
    let inputs = stored(target);
    for (name, input) in &inputs {
        run(check, input, name);
    }
    let seed = match std::env::var("MASKMILL_TEST_SEED") {
        Ok(seed) => seed.parse().expect("MASKMILL_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + BUDGET;
    let mut changed = 0;
    while Instant::now() < end {
        let input = change(&inputs, &mut rng);
        run(check, &input, &format!("a changed input of seed {seed}"));
        changed += 1;
    }
    println!(
        "{target}: {} stored inputs, {changed} changed ones of seed {seed}",
        inputs.len()
    );
}

/// The stored inputs of a target with their names, in order: the changes depend on it.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("the corpus can be listed").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("the input can be read"))
        })
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs.sort();
    inputs
}

/// Runs a check; if it fails, prints the input, which can be kept as a file.
fn run(check: &Check, input: &[u8], name: &str) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        eprintln!(
            "{name} fails; {} bytes: \"{}\"",
            input.len(),
            input.escape_ascii()
        );
        resume_unwind(payload);
    }
}

/// One of the inputs with one to four changes.
fn change(inputs: &[(String, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng| inputs[rng.usize(..inputs.len())].1.clone();
    let mut input = pick(rng);
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=input.len());
        let length = rng.usize(..=(input.len() - at).min(64));
        match rng.u8(..6) {
            0 => flip(&mut input, at, rng),
            1 => overwrite(&mut input, at, rng),
            2 => input.truncate(at),
            3 => drop(input.drain(at..at + length)),
            4 => {
                let again = input[at..at + length].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = pick(rng);
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MAX_BYTES);
    input
}

fn flip(input: &mut [u8], at: usize, rng: &mut Rng) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << rng.u8(..8);
    }
}

/// Puts an odd number over one, two, four or eight bytes.
fn overwrite(input: &mut [u8], at: usize, rng: &mut Rng) {
    let number = ODD_NUMBERS[rng.usize(..ODD_NUMBERS.len())].to_le_bytes();
    let width = 1 << rng.u8(..4);
    for (byte, new) in input[at..].iter_mut().zip(&number[..width]) {
        *byte = *new;
    }
}
