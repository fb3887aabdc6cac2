//! SIGINT and SIGTERM end the process at once, with exit code 130.
//!
//! Nothing has to be put away: an object is written whole or not at all, and a shard without its
//! marker is done again by the next run. So a machine that is taken away may be taken away.

use crate::failure::INTERRUPTED;
use crate::job_files::last_words;

/// Ends the process at the first of the two signals.
pub(crate) fn exit_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let name = runtime.block_on(first_signal());
            let words = "stopped. What is committed is whole; run the same command again to go on";
            last_words(name, words);
            std::process::exit(INTERRUPTED.into());
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
