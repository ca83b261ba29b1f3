//! SIGINT and SIGTERM.

use tokio_util::sync::CancellationToken;

/// Cancels the token at the first SIGINT or SIGTERM; exits at once at the second.
pub fn on_signals() -> CancellationToken {
    todo!("helper runtime")
}
