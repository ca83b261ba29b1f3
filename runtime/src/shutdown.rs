//! SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status when a second signal cuts the orderly end short: 128 + SIGINT, as shells do.
const INTERRUPTED: i32 = 130;

/// Cancels the token at the first SIGINT or SIGTERM; exits at once at the second. Must be called inside a tokio runtime.
pub fn on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(interrupt), Ok(terminate)) => {
            tokio::spawn(watch(token.clone(), interrupt, terminate));
        }
        (Err(e), _) | (_, Err(e)) => {
            tracing::warn!(error = %e, "cannot listen for signals: Ctrl-C will end the program at once");
        }
    }
    token
}

async fn watch(token: CancellationToken, mut interrupt: Signal, mut terminate: Signal) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    };
    let name = next().await;
    tracing::info!(signal = name, "stopping; once more to stop at once");
    crate::notify::stopping();
    token.cancel();
    next().await;
    std::process::exit(INTERRUPTED);
}
