//! SIGINT and SIGTERM end the process, with exit code 130.
//!
//! A job ends at once: nothing has to be put away, an object is written whole or not at all, and a
//! shard without its marker is done again by the next run. So a machine that is taken away may be
//! taken away. Training saves first, because what it has learned since it last saved is only in
//! memory; the second signal ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::INTERRUPTED;
use crate::job_files::last_words;

/// Ends the process at the first of the two signals.
pub(crate) fn exit_on_signals() -> anyhow::Result<()> {
    on_signals(|name| {
        let words = "stopped. What is committed is whole; run the same command again to go on";
        exit(name, words)
    })
}

/// Sets the flag that is returned at the first of the two signals, and ends the process at the second.
pub(crate) fn save_on_signals() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    on_signals(|name| match STOP.swap(true, Ordering::Relaxed) {
        false => last_words(name, "saving after this step; once more to stop at once"),
        true => exit(
            name,
            "stopped. What was last saved is whole; run the same command again to go on from there",
        ),
    })?;
    Ok(&STOP)
}

fn exit(name: &str, words: &str) -> ! {
    last_words(name, words);
    std::process::exit(INTERRUPTED.into());
}

/// Calls `handle` in a thread of its own with the name of each signal.
fn on_signals(handle: impl Fn(&str) + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                handle(runtime.block_on(first_signal()));
            }
        })?;
    Ok(())
}

#[cfg(unix)]
async fn first_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // Then the default holds: the process is killed, which is as good.
        return std::future::pending().await;
    };
    // The first of both, without the macros of tokio.
    let interrupt = std::pin::pin!(interrupt.recv());
    let terminate = std::pin::pin!(terminate.recv());
    match futures::future::select(interrupt, terminate).await {
        futures::future::Either::Left(_) => "SIGINT",
        futures::future::Either::Right(_) => "SIGTERM",
    }
}

#[cfg(not(unix))]
async fn first_signal() -> &'static str {
    match tokio::signal::ctrl_c().await {
        Ok(()) => "Ctrl-C",
        Err(_) => std::future::pending().await,
    }
}
