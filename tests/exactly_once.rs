//! Exactly once, whatever happens: processes are killed at random moments and at every step of a commit,
//! alone and in a race, against a store that fails in every way it can. At the end the rows are those of a
//! run that nobody disturbed.
//!
//! The seed of the random moments and faults is printed; `MASKMILL_TEST_SEED` repeats it.

mod support;

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use maskmill_loopback_s3::{Act, Faults, LoopbackS3, Phase, Seen};
use support::{Job, MASKMILL, OUT, Rows, picture, png, small_sample};

const SHARDS: usize = 6;
/// Kills at random moments, in all.
const RANDOM_KILLS: usize = 50;

/// Two images a shard: pictures, a photo, and one that is none.
fn job(server: &Arc<LoopbackS3>) -> Job {
    let mut job = Job::in_store("images", server);
    for index in 0..2 * SHARDS as u32 {
        let image = match index {
            5 => b"not an image".to_vec(),
            index if index % 4 == 2 => png(&small_sample("cat.png", 60 + 5 * index), None),
            index => png(&picture(40 + 7 * index, 90 - 3 * index, index), None),
        };
        job.put(&format!("{index:02}.png"), &image);
    }
    job.set("source.images_per_shard=2");
    job
}

fn undisturbed() -> Rows {
    let server = Arc::new(LoopbackS3::start());
    let job = job(&server);
    let rows = job.rows_of_run();
    assert_eq!(rows.images.len(), 2 * SHARDS);
    assert!(rows.masks.len() > 2 * SHARDS, "masks to compare");
    rows
}

fn start(job: &Job) -> Child {
    job.command(MASKMILL)
        .args(job.arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ends the job, and compares.
#[track_caller]
fn expect_same(job: &Job, expected: &Rows, what: &str) {
    job.run().expect_code(0);
    assert_eq!(&job.rows(), expected, "{what}");
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
    assert!(verified.stdout.contains("nothing is missing or twice"));
}

fn seed() -> u64 {
    let given = std::env::var("MASKMILL_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("MASKMILL_TEST_SEED={seed}");
    seed
}

#[test]
fn killed_at_random_moments() {
    let begun = Instant::now();
    let expected = undisturbed();
    // How long a whole run takes here and now, so that kills fall everywhere in it.
    let whole = begun.elapsed();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut killed = 0;
    let mut jobs = 0;
    // How many shards were committed at each kill.
    let mut progress = [0; SHARDS + 1];
    while killed < RANDOM_KILLS {
        let server = Arc::new(LoopbackS3::start());
        let job = job(&server);
        while kill_after(&job, whole.mul_f64(random.f64())) {
            killed += 1;
            progress[server.keys(OUT, "job/_commits/").len()] += 1;
        }
        jobs += 1;
        expect_same(&job, &expected, &format!("job {jobs} after {killed} kills"));
    }
    eprintln!("{killed} kills over {jobs} jobs; by shards committed: {progress:?}");
}

/// Starts the job and kills it after `moment`; false if it was done by then.
fn kill_after(job: &Job, moment: Duration) -> bool {
    let mut child = start(job);
    let deadline = Instant::now() + moment;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "it ended by itself with {status}");
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    // Done between the last look and the kill?
    !child.wait().unwrap().success()
}

/// A step of a job at which something is written: the folder or name below the output.
const STEPS: [&str; 6] = [
    "_job.json",
    "_plan/000000-",
    "_plan/000000.json",
    "masks/",
    "images/",
    "_commits/",
];

#[test]
fn killed_at_every_step_of_the_commit() {
    let expected = undisturbed();
    for step in STEPS {
        for phase in [Phase::Before, Phase::After] {
            // The first of its kind, and one in the middle of the job.
            let nths: &[usize] = match step.starts_with('_') && step != "_commits/" {
                true => &[1],
                false => &[1, 4],
            };
            for &nth in nths {
                let server = Arc::new(LoopbackS3::start());
                let job = job(&server);
                kill_at(&job, &server, step, phase, nth);
                let what = format!("killed at {step} number {nth}, {phase:?}");
                expect_same(&job, &expected, &what);
            }
        }
    }
}

/// Runs the job and kills it when it puts the `nth` object of `step`, before or after the store has it.
fn kill_at(job: &Job, server: &Arc<LoopbackS3>, step: &str, phase: Phase, nth: usize) {
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    let victim = child.clone();
    let met = AtomicUsize::new(0);
    let prefix = format!("job/{step}");
    server.hook(move |seen: &Seen, now| {
        let is_it = seen.is_create() && seen.bucket == OUT && seen.key.starts_with(&prefix);
        if !is_it || now != phase || met.fetch_add(1, Ordering::SeqCst) + 1 != nth {
            return Act::Go;
        }
        // Waits for the child to be there: it was started just now.
        let mut victim = victim.lock().unwrap();
        victim.as_mut().expect("it is running").kill().unwrap();
        Act::Drop
    });
    {
        let mut running = child.lock().unwrap();
        *running = Some(start(job));
    }
    let status = loop {
        if let Some(status) = child.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    server.clear_hook();
    assert!(
        !status.success(),
        "{step} {phase:?} {nth}: it was not killed"
    );
    assert_eq!(status.code(), None, "it did not end by itself");
}

#[test]
fn two_workers_race() {
    race(2);
}

#[test]
fn four_workers_race() {
    race(4);
}

/// Workers on the same shards, all at once, in front of a store that fails; one of them is killed again
/// and again.
fn race(workers: usize) {
    let expected = undisturbed();
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut faults = 0;
    for round in 0..3 {
        let server = Arc::new(LoopbackS3::start());
        let mut job = job(&server);
        job.set("store.request_timeout_seconds=1")
            .set("store.max_retries=20");
        let timeout = Duration::from_secs(2);
        server.fault(Faults::every_kind(seed + round, 0.15, timeout));
        let mut running: Vec<Child> = (0..workers).map(|_| start(&job)).collect();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(random.u64(50..1200)));
            let victim = &mut running[0];
            // It may be done already.
            let _ = victim.kill();
            victim.wait().unwrap();
            *victim = start(&job);
        }
        for child in &mut running {
            let status = child.wait().unwrap();
            assert!(status.success(), "a worker ended with {status}");
        }
        let hit = server.requests();
        faults += hit.iter().filter(|seen| seen.fault.is_some()).count();
        assert_eq!(job.rows(), expected, "{workers} workers, round {round}");
        server.fault(Faults::none());
        expect_same(&job, &expected, "and nothing is left to do");
    }
    // One round alone may have few: how many requests it takes depends on who is killed when.
    assert!(faults >= 10, "only {faults} requests met a fault");
}
