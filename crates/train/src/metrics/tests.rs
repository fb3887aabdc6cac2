//! Runs that are written, killed and gone on with.

use std::fs;

use super::events::{FILE, Records};
use super::*;

fn step(step: u32) -> StepReport {
    StepReport {
        step,
        images: u64::from(step) * 4,
        seconds: 0.25 * f64::from(step),
        learning_rate: 1e-4,
        loss: 20.0 / f64::from(step),
        focal: 0.1,
        dice: 0.5,
        iou: 0.0625,
        gradient_norm: 1.0 / 3.0,
        images_per_second: 16.0,
        skipped: 1,
    }
}

fn report(miou: f64) -> Report {
    Report {
        images: 100,
        masks: 700,
        miou_1_click_best: miou,
        miou_1_click: miou - 0.1,
        miou_3_clicks: miou + 0.05,
        miou_5_clicks: miou + 0.1,
        miou_box: miou + 0.15,
        iou_correlation: 0.5,
        ..Report::default()
    }
}

/// The run of steps 10, 20 ... `last`, validated every 20.
fn write(metrics: &mut Metrics, first: u32, last: u32) {
    for at in (first..=last).step_by(10) {
        metrics.stepped(&step(at)).unwrap();
        if at % 20 == 0 {
            metrics
                .validated(at, &report(f64::from(at) / 100.0))
                .unwrap();
        }
    }
}

/// The three files, without the clock that events have: tables as text, events by what they hold behind their time.
fn content(directory: &Path) -> (String, String, Vec<Vec<u8>>) {
    let text = |name| fs::read_to_string(directory.join(name)).unwrap();
    let events = fs::read(directory.join(EVENTS).join(FILE)).unwrap();
    let behind_time = Records(&events).map(|payload| payload[9..].to_vec());
    let behind_time: Vec<_> = behind_time.collect();
    (text(METRICS), text(VALIDATION), behind_time)
}

#[test]
fn rows_are_read_back_as_they_were_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut metrics = Metrics::open(directory.path(), 0).unwrap();
    write(&mut metrics, 10, 40);
    let (steps, validations, events) = content(directory.path());
    let mut lines = steps.lines();
    assert_eq!(lines.next().unwrap(), columns::<StepReport>().join(","));
    let first = "10,40,2.5,0.0001,2,0.1,0.5,0.0625,0.3333333333333333,16,1";
    assert_eq!(lines.next(), Some(first));
    assert_eq!(lines.count(), 3);
    assert_eq!(validations.lines().count(), 3);
    // The version, four of steps, two of validations.
    assert_eq!(events.len(), 7);
    assert!(events[0].ends_with(b"brain.Event:2"));
    let has = |event: &[u8], tag: &str| event.windows(tag.len()).any(|w| w == tag.as_bytes());
    assert!(has(&events[1], "train/loss") && !has(&events[1], "train/seconds"));
    assert!(has(&events[3], "validation/miou_box"));

    let columns = read_columns(&directory.path().join(METRICS)).unwrap();
    assert_eq!(columns["step"], [10.0, 20.0, 30.0, 40.0]);
    assert_eq!(columns["gradient_norm"], [1.0 / 3.0; 4]);
    assert!(read_columns(&directory.path().join("none.csv")).unwrap()[""].is_empty());
}

#[test]
fn a_run_that_goes_on_has_every_step_once() {
    let whole = tempfile::tempdir().unwrap();
    write(&mut Metrics::open(whole.path(), 0).unwrap(), 10, 60);
    for resumed_from in [0, 10, 20, 25, 40, 60] {
        let killed = tempfile::tempdir().unwrap();
        write(&mut Metrics::open(killed.path(), 0).unwrap(), 10, 60);
        let mut metrics = Metrics::open(killed.path(), resumed_from).unwrap();
        let next = resumed_from / 10 * 10 + 10;
        write(&mut metrics, next, 60);
        assert_eq!(
            content(killed.path()),
            content(whole.path()),
            "from {resumed_from}"
        );
    }
}

#[test]
fn a_kill_in_the_middle_of_a_write_leaves_nothing_behind() {
    let whole = tempfile::tempdir().unwrap();
    write(&mut Metrics::open(whole.path(), 0).unwrap(), 10, 20);
    let expected = content(whole.path());
    for name in [METRICS, VALIDATION, "events/events.out.tfevents.maskmill"] {
        let bytes = fs::read(whole.path().join(name)).unwrap();
        // A prime, so that rows and records are cut everywhere in turn.
        for length in (0..bytes.len()).step_by(13).chain([bytes.len()]) {
            let killed = tempfile::tempdir().unwrap();
            write(&mut Metrics::open(killed.path(), 0).unwrap(), 10, 20);
            fs::write(killed.path().join(name), &bytes[..length]).unwrap();
            // Whole rows are kept, and nothing else.
            drop(Metrics::open(killed.path(), 20).unwrap());
            let (steps, validations, events) = content(killed.path());
            assert!(expected.0.starts_with(&steps) && steps.ends_with('\n'));
            assert!(expected.1.starts_with(&validations) && validations.ends_with('\n'));
            assert!(expected.2.starts_with(&events) && !events.is_empty());
            // From a step before them all are written again.
            write(&mut Metrics::open(killed.path(), 0).unwrap(), 10, 20);
            assert_eq!(content(killed.path()), expected, "{name} cut at {length}");
        }
    }
}

#[test]
fn files_of_others_are_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        (METRICS, &b"epoch,loss\n1,0.5\n"[..]),
        (VALIDATION, b"not a table"),
        ("events/events.out.tfevents.maskmill", &[7; 64]),
    ] {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = Metrics::open(directory.path(), 0).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.ends_with("move it away"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(METRICS)).unwrap();
    let error = Metrics::open(directory.path(), 0).unwrap_err();
    assert!(matches!(error, MetricsError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(METRICS), "{error}");
}
