//! `maskmill plan`: what a job would do, how long it would take and what it would cost.

use std::time::Duration;

use indicatif::HumanDuration;
use maskmill_job::format_bytes;
use maskmill_pipeline::{Changes, PlanMode, PlanReport, make_plan};

use crate::args::PlanArguments;
use crate::failure::Failure;
use crate::job_files::{VERSION, read_job, start_logging};

/// Keys shown of what changed or vanished.
const SHOWN: usize = 10;

pub(crate) fn plan(arguments: &PlanArguments) -> Result<(), Failure> {
    let job = read_job(&arguments.job)?;
    start_logging(&job.config.log)?;
    let mode = match (arguments.write, arguments.extend) {
        (true, _) => PlanMode::Write,
        (_, true) => PlanMode::Extend,
        _ => PlanMode::Show,
    };
    let report = make_plan(&job, mode, arguments.measure, VERSION)?;
    print_plan(&report, mode);
    if let Some(changes) = &report.changes {
        print_changes(changes);
    }
    print_time(&report, arguments);
    Ok(())
}

fn print_plan(report: &PlanReport, mode: PlanMode) {
    let images = match report.images {
        Some(images) => format!("{images} images"),
        None => "images counted when the tars are read".to_owned(),
    };
    println!(
        "{} shards, {images}, {} to read; {} shards committed (planned in {:.1} s)",
        report.shards,
        format_bytes(report.bytes),
        report.committed,
        report.planned_in.as_secs_f64(),
    );
    for (reason, count) in &report.rejects {
        println!("  {count} rejected already: {reason}");
    }
    match (&report.digest, mode) {
        (Some(digest), _) => println!("Plan {} in {}/_plan", &digest[..12], report.output),
        (None, _) => println!(
            "Nothing was written; --write freezes this plan in {}",
            report.output
        ),
    }
}

fn print_changes(changes: &Changes) {
    println!(
        "{} new in {} shards, {} unchanged, {} changed, {} vanished",
        changes.new,
        changes.shards,
        changes.unchanged,
        changes.changed.len(),
        changes.vanished.len()
    );
    let note = "stays planned as it was: its rows, if committed, are of what it was then";
    for (what, keys) in [
        ("changed", &changes.changed),
        ("vanished", &changes.vanished),
    ] {
        for key in keys.iter().take(SHOWN) {
            println!("  {what}: {key}");
        }
        if keys.len() > SHOWN {
            println!("  {what}: {} more", keys.len() - SHOWN);
        }
        if !keys.is_empty() {
            println!("  What {what} {note}");
        }
    }
}

fn print_time(report: &PlanReport, arguments: &PlanArguments) {
    let Some(pace) = &report.pace else {
        println!("Time: not measured");
        return;
    };
    let origin = match pace.from_output {
        true => "of committed shards",
        false => "run now",
    };
    println!(
        "Pace: {:.3} s an image, measured on {} images {origin}",
        pace.seconds_per_image, pace.images
    );
    let Some(left) = report.images_left else {
        println!("Time: known when the first tars are committed");
        return;
    };
    let seconds = pace.seconds_per_image * left;
    let workers = f64::from(arguments.workers);
    let wall = Duration::try_from_secs_f64((seconds / workers).round()).unwrap_or(Duration::MAX);
    println!(
        "Time: {} for {left:.0} images on {} worker(s) like this machine",
        HumanDuration(wall),
        arguments.workers
    );
    if let Some(price) = arguments.price_per_hour {
        println!(
            "Cost: {:.2} at {price} an hour and worker",
            seconds / 3600.0 * price
        );
    }
}
