//! A `maskmill` that runs beside its test, and a gate that stops it at one exact request.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use maskmill_loopback_s3::{Act, LoopbackS3, Phase, Seen};

use crate::support::{Job, MASKMILL, Ran};

/// After this long something that a test waits for is not going to happen.
pub(crate) const NEVER: Duration = Duration::from_secs(120);

/// A process; killed when it is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// `maskmill run`, with further arguments.
    pub(crate) fn start(job: &Job, further: &[&str]) -> Self {
        let child = job
            .command(MASKMILL)
            .args(job.arguments())
            .args(further)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(Some(child.expect("the program starts")))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it was not waited for")
    }

    /// Sends `TERM`, `INT` or `KILL`.
    pub(crate) fn signal(&mut self, name: &str) {
        let process = self.child().id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &process])
            .status();
        assert!(
            sent.expect("`kill` is there").success(),
            "kill -{name} {process}"
        );
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ran {
        let child = self.0.take().expect("it was not waited for");
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Whether it ends within `time`.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < time {
            if self.child().try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `is_so`, looking again from time to time.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < NEVER, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Holds requests before they are applied, until the test says what becomes of them.
pub(crate) struct Gate(Arc<Hold>);

#[derive(Default)]
struct Hold {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    waiting: usize,
    outcome: Option<Act>,
}

impl Gate {
    /// Holds those that `is_it`. Replaces the server's hook.
    pub(crate) fn at(
        server: &LoopbackS3,
        is_it: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) -> Self {
        let gate = Arc::new(Hold::default());
        let hold = gate.clone();
        server.hook(move |seen, phase| {
            if phase != Phase::Before || !is_it(seen) {
                return Act::Go;
            }
            let mut held = hold.held.lock().unwrap();
            held.waiting += 1;
            hold.changed.notify_all();
            let let_go = |held: &mut Held| held.outcome.is_none();
            let held = hold.changed.wait_while(held, let_go).unwrap();
            held.outcome.expect("it was waited for")
        });
        Gate(gate)
    }

    /// Holds the writes of an object of the output.
    pub(crate) fn at_write(server: &LoopbackS3, path: &str) -> Self {
        let key = format!("job/{path}");
        Gate::at(server, move |seen| seen.is_create() && seen.key == key)
    }

    /// Waits for the first request.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let held = self.0.held.lock().unwrap();
        let nobody = |held: &mut Held| held.waiting == 0;
        let (held, _) = self
            .0
            .changed
            .wait_timeout_while(held, NEVER, nobody)
            .unwrap();
        assert!(held.waiting > 0, "no request came to the gate");
    }

    /// Lets go what is held and what still comes.
    pub(crate) fn open(self, outcome: Act) {
        self.let_go(outcome);
    }

    fn let_go(&self, outcome: Act) {
        let mut held = self.0.held.lock().unwrap();
        held.outcome.get_or_insert(outcome);
        self.0.changed.notify_all();
    }
}

impl Drop for Gate {
    /// A test that failed leaves no thread waiting.
    fn drop(&mut self) {
        self.let_go(Act::Drop);
    }
}
