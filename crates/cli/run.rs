//! `maskmill run`: a job, with a progress bar or a line per shard, and a summary.

use std::net::SocketAddr;

use anyhow::Context;
use maskmill_job::{Job, Selection, format_bytes};
use maskmill_pipeline::{RunOptions, StopAfter, Summary, run as run_job, run_input};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::args::{RunArguments, StopAfterArgument};
use crate::failure::Failure;
use crate::interrupt::exit_on_signals;
use crate::job_files::{VERSION, read_job, start_logging};
use crate::progress::Reporter;

pub(crate) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let job = read_job(&arguments.job)?;
    start_logging(&job.config.log)?;
    exit_on_signals()?;
    let configured = job.config.log.metrics_addr.as_deref();
    let configured = configured.map(|address| {
        let parsed = address.parse::<SocketAddr>();
        parsed.expect("the config's address was checked when it was read")
    });
    if let Some(address) = arguments.metrics_addr.or(configured) {
        serve_metrics(address)?;
    }
    let selection = arguments.worker.clone().or(arguments.shards.clone());
    let options = RunOptions {
        selection: selection.unwrap_or(Selection::All),
        retry_failed: arguments.retry_failed,
        retry_rejects: arguments.retry_rejects,
    };
    if let Some(stop) = arguments.stop_after {
        return read_only(&job, &options, stop);
    }
    let progress = Reporter::new(&job.config);
    let summary =
        run_job(&job, &options, VERSION, &|event| progress.report(event)).map_err(|error| {
            match error.had_started() {
                true => Failure::incomplete(error),
                false => Failure::from(error),
            }
        });
    progress.finish();
    let summary = summary?;
    print_summary(&job, &summary);
    let (now, before) = (summary.failed.len(), summary.failed_before.len());
    let note = match (now, before) {
        (0, 0) => return Ok(()),
        (0, before) => format!(
            "{before} of {} shards failed in an earlier run",
            summary.shards
        ),
        (now, 0) => format!("{now} of {} shards failed", summary.shards),
        (now, before) => {
            format!(
                "{now} of {} shards failed, {before} more in an earlier run",
                summary.shards
            )
        }
    };
    Err(Failure::incomplete(anyhow::anyhow!(
        "{note}; --retry-failed tries them again"
    )))
}

/// Answers Prometheus in a thread of its own.
fn serve_metrics(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (recorder, server) = runtime
        .block_on(async { PrometheusBuilder::new().with_http_listener(address).build() })
        .with_context(|| format!("metrics cannot be served at {address}; is the port taken?"))?;
    metrics::set_global_recorder(recorder).context("metrics are recorded already")?;
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            if let Err(error) = runtime.block_on(server) {
                tracing::error!(?error, "metrics are no longer served");
            }
        })?;
    Ok(())
}

/// `--stop-after`: the first stages alone.
fn read_only(job: &Job, options: &RunOptions, stop: StopAfterArgument) -> Result<(), Failure> {
    let (stop, done) = match stop {
        StopAfterArgument::Fetch => (StopAfter::Fetch, "fetched"),
        StopAfterArgument::Decode => (StopAfter::Decode, "decoded"),
    };
    let progress = Reporter::new(&job.config);
    let rate = run_input(job, options, stop, &|event| progress.report(event));
    progress.finish();
    let rate = rate?;
    let end = &rate.end;
    println!(
        "{} images {done} ({} rejected), {} in {:.1} s: {:.2} images/s; {} requests, {} of them repeated; nothing was written",
        end.images,
        end.rejected,
        format_bytes(end.bytes),
        end.elapsed.as_secs_f64(),
        end.images_per_second,
        rate.requests,
        rate.retries,
    );
    match rate.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::incomplete(anyhow::anyhow!(
            "{failed} shard(s) could not be read"
        ))),
    }
}

fn print_summary(job: &Job, summary: &Summary) {
    let output = &summary.output;
    if summary.resumed == summary.shards {
        println!(
            "All {} shards were committed before; nothing to do.",
            summary.shards
        );
        println!("New images in the source are added by `maskmill plan ... --extend`.");
    } else {
        let seconds = summary.elapsed.as_secs_f64();
        let rejected: u64 = summary.rejects.values().sum();
        println!(
            "{} images -> {} masks in {seconds:.1} s ({:.2} images/s); {} shards committed, {} resumed, {} failed",
            summary.images,
            summary.masks,
            match seconds > 0.0 {
                true => summary.images as f64 / seconds,
                false => 0.0,
            },
            summary.committed,
            summary.resumed,
            summary.failed.len() + summary.failed_before.len(),
        );
        if rejected > 0 {
            let reasons = summary.rejects.iter();
            let reasons: Vec<String> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
            println!("{rejected} images rejected: {}", reasons.join(", "));
        }
        if !summary.load.is_empty() {
            let busy = summary.load.iter();
            let busy: Vec<String> = busy
                .map(|(stage, busy)| format!("{} {:.0} %", stage.as_str(), 100.0 * busy))
                .collect();
            let idle = summary.device_idle.map_or(String::new(), |idle| {
                format!(
                    "; the warm device waited for images {:.1} % of the time",
                    100.0 * idle
                )
            });
            println!("Busy:   {}{idle}", busy.join(", "));
        }
    }
    for (shard, cause) in &summary.failed_before {
        println!("Shard {shard} failed in an earlier run: {cause}");
    }
    println!("Masks:  {output}/masks/*.parquet");
    println!("Images: {output}/images/*.parquet (rejected ones too, with a reason)");
    println!("Look at one:  maskmill view {output} --image KEY");
    println!("Check all:    maskmill verify {output}");
    println!("As SA-1B:     maskmill export {output} --format sa1b");
    for label in &summary.overlong_labels {
        println!("Label:  {label}");
    }
    if let Some(about) = &summary.about_model {
        let model = &job.pipeline.model;
        println!(
            "Model:  {} in {} ({about})",
            model.checkpoint, model.precision
        );
        if about.contains("UNTRAINED") {
            println!(
                "        Its masks show that everything works, not what is in the images: set model.checkpoint \
                 to an official SAM checkpoint for real masks."
            );
        }
    }
}
