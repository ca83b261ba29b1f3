//! Detached tasks have names and are joined at the end.

use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest that running tasks may take after a signal.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Tasks with names.
#[derive(Default)]
pub struct Tasks {
    /// These end when the content ends.
    work: JoinSet<String>,
    /// These are ended.
    background: JoinSet<()>,
}

impl Tasks {
    /// A task that ends when its content ends.
    pub fn work(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(async move {
            task.await;
            name
        });
    }

    /// A task that is ended when all work is done.
    pub fn background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(async move {
            task.await;
            tracing::debug!(name, "ended");
        });
    }

    /// Until all work is done, or `stop` and a moment more. Cancel safe.
    pub async fn done(&mut self, stop: &CancellationToken) {
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN).await;
        };
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                done = self.work.join_next() => match done {
                    Some(Ok(name)) => tracing::debug!(name, "ended"),
                    Some(Err(e)) => tracing::error!("task failed: {e}"),
                    None => return,
                },
                () = &mut deadline => {
                    tracing::warn!(tasks = self.work.len(), "did not end in time");
                    return;
                }
            }
        }
    }

    /// Ends what is left and waits for it.
    pub async fn close(mut self) {
        self.work.shutdown().await;
        self.background.shutdown().await;
    }
}
