//! HTTP from inside a host's namespace: a thread there that fetches what it is asked for.

use crate::net::ns::Namespace;
use bytes::Bytes;
use mahp_runtime::fetch::{Fetcher, Request};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use url::Url;

/// A program that does not answer for this long has no sample of this second.
const PATIENCE: Duration = Duration::from_millis(1500);

type Question = (Url, oneshot::Sender<Option<Bytes>>);

/// See the module. Dropping it ends the thread.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    questions: mpsc::UnboundedSender<Question>,
}

impl Agent {
    pub(crate) fn start(namespace: Option<&Namespace>) -> anyhow::Result<Agent> {
        let (questions, mut asked) = mpsc::unbounded_channel::<Question>();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let fetcher = Fetcher::new("mahp-testbed-agent/0.1");
                while let Some((url, answer)) = asked.recv().await {
                    let fetcher = fetcher.clone();
                    tokio::spawn(async move {
                        let request = Request { timeout: Some(PATIENCE), ..Request::default() };
                        let body = fetcher.get(&url, request).await.ok().map(|r| r.body);
                        let _ = answer.send(body);
                    });
                }
            });
        };
        match namespace {
            Some(namespace) => namespace.spawn("agent", work)?,
            None => std::thread::Builder::new().name("agent".into()).spawn(work)?,
        };
        Ok(Agent { questions })
    }

    /// The body of a good answer; `None`: there was none in time.
    pub(crate) async fn get(&self, url: &str) -> Option<Bytes> {
        let (answer, answered) = oneshot::channel();
        self.questions.send((Url::parse(url).ok()?, answer)).ok()?;
        answered.await.ok().flatten()
    }
}
