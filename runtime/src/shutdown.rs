//! SIGINT and SIGTERM end a program; SIGHUP and `POST /api/reload` have it read its configuration again.

use crate::error::StartupError;
use std::sync::{Mutex, PoisonError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
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

/// Where the answer to a request goes.
type Reply = oneshot::Sender<Result<(), StartupError>>;

/// Requests to read the configuration again, as they come: SIGHUP, and [`ask_to_reload`].
#[derive(Debug)]
pub struct Reloads {
    signal: Option<Signal>,
    asked: mpsc::Receiver<Reply>,
}

/// Where [`ask_to_reload`] asks. One for the process, as signals are.
static ASK: Mutex<Option<mpsc::Sender<Reply>>> = Mutex::new(None);

/// One request to read the configuration again.
#[derive(Debug)]
pub struct Reload(Option<Reply>);

impl Reloads {
    /// Listens from now on, in place of any that listened before. Must be called inside a tokio runtime.
    pub fn new() -> Reloads {
        let signal = signal(SignalKind::hangup());
        let signal = signal.inspect_err(|e| tracing::warn!(error = %e, "cannot listen for SIGHUP")).ok();
        let (ask, asked) = mpsc::channel(1);
        *ASK.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
        Reloads { signal, asked }
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Reload {
        let signal = async {
            match &mut self.signal {
                Some(signal) => _ = signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signal => Reload(None),
            // There is always a sender: the one in `ASK`, or that of whoever took its place, which ends this one.
            asked = self.asked.recv() => match asked {
                Some(reply) => Reload(Some(reply)),
                None => std::future::pending().await,
            }
        }
    }
}

impl Default for Reloads {
    fn default() -> Self {
        Reloads::new()
    }
}

impl Reload {
    /// Tells who asked what came of it. (Who sent a signal reads the log.)
    pub fn answer(self, result: Result<(), StartupError>) {
        if let Some(reply) = self.0 {
            let _ = reply.send(result);
        }
    }
}

/// As SIGHUP, for those who wait for what comes of it.
///
/// # Errors
/// What is wrong with the configuration (everything stays as it is), or `E-RELOAD`: this program does not reload.
pub async fn ask_to_reload() -> Result<(), StartupError> {
    let ask = ASK.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (reply, answer) = oneshot::channel();
    match ask {
        Some(ask) => drop(ask.send(reply).await),
        None => drop(reply),
    }
    let nobody = |_| StartupError::runtime("E-RELOAD", "this program does not reload now", "start it anew");
    answer.await.unwrap_or_else(|e| Err(nobody(e)))
}

async fn watch(token: CancellationToken, mut interrupt: Signal, mut terminate: Signal) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    };
    let name = next().await;
    // Before anything is said: whoever listens may have gone.
    token.cancel();
    tracing::info!(signal = name, "stopping; once more to stop at once");
    crate::notify::stopping();
    next().await;
    std::process::exit(INTERRUPTED);
}
