//! SIGINT and SIGTERM end a program; SIGHUP has it read its configuration again.

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

/// SIGHUPs as they come.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

impl Hangups {
    /// Listens from now on. Must be called inside a tokio runtime.
    pub fn new() -> Hangups {
        Hangups(
            signal(SignalKind::hangup())
                .inspect_err(|e| tracing::warn!(error = %e, "cannot listen for SIGHUP"))
                .ok(),
        )
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => _ = signal.recv().await,
            None => std::future::pending().await,
        }
    }
}

impl Default for Hangups {
    fn default() -> Self {
        Hangups::new()
    }
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
