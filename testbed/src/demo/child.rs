//! The sender and the receiver as processes of their own: children of the demo that run another entry point of the same
//! executable. They end when the demo ends, however it ends.

use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::sync::Notify;

/// Output lines that are kept for error messages.
const LINES: usize = 200;
/// Time to finish after SIGTERM.
const GRACE: Duration = Duration::from_secs(4);

/// A running child.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    process: Process,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<VecDeque<String>>,
    more: Notify,
}

impl Output {
    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.more.notify_waiters();
    }

    fn find(&self, prefix: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find_map(|l| l.strip_prefix(prefix)).map(str::to_owned)
    }

    fn last(&self, count: usize) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = lines.len().saturating_sub(count);
        lines.iter().skip(skip).map(|l| format!("    {l}\n")).collect()
    }
}

impl Child {
    /// Starts `mahp-testbed NAME ARGS…`. Must be called from the thread that lives as long as the demo: the kernel ends the
    /// child when that thread ends.
    pub fn start(name: &'static str, args: Vec<OsString>, verbose: bool) -> anyhow::Result<Child> {
        let executable = std::env::current_exe().context("cannot find the program's own file")?;
        let mut command = Command::new(executable);
        command.arg(name).args(args).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings of the person's own sender or receiver must not leak into the demo.
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy();
            if text.starts_with("MAHP_SENDER_") || text.starts_with("MAHP_RECEIVER_") {
                command.env_remove(&key);
            }
        }
        command.env(PARENT, std::process::id().to_string());
        let mut process = command.spawn().with_context(|| format!("cannot start the {name}"))?;
        let output = Arc::new(Output::default());
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(collect(stdout, name, verbose, output.clone()));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(collect(stderr, name, verbose, output.clone()));
        }
        Ok(Child { name, process, output })
    }

    /// Waits for an output line that starts with `prefix` and returns the rest of it.
    pub async fn says(&mut self, prefix: &str, within: Duration) -> anyhow::Result<String> {
        let output = self.output.clone();
        let wait = async {
            loop {
                let more = output.more.notified();
                if let Some(rest) = output.find(prefix) {
                    return rest;
                }
                // The line may come between the look and the wait.
                let _ = tokio::time::timeout(Duration::from_millis(100), more).await;
            }
        };
        tokio::select! {
            said = tokio::time::timeout(within, wait) => match said {
                Ok(rest) => Ok(rest),
                Err(_) => bail!("the {} did not start within {within:?}:\n{}", self.name, output.last(20)),
            },
            error = exited(self.name, &mut self.process, &output) => Err(error),
        }
    }

    /// Returns when the child has ended, with what it said last.
    pub async fn ended(&mut self) -> anyhow::Error {
        exited(self.name, &mut self.process, &self.output).await
    }

    /// SIGTERM, then after a while SIGKILL.
    pub async fn stop(mut self) {
        if let Some(pid) = self.process.id().and_then(|p| i32::try_from(p).ok()) {
            // SAFETY: kill(2) takes two integers; the child is ours and not yet waited for, so the id is its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            if tokio::time::timeout(GRACE, self.process.wait()).await.is_ok() {
                return;
            }
        }
        let _ = self.process.kill().await;
    }
}

async fn exited(name: &str, process: &mut Process, output: &Output) -> anyhow::Error {
    let status = process.wait().await;
    // Let the readers see the last lines.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let how = status.map_or_else(|e| e.to_string(), |s: ExitStatus| s.to_string());
    anyhow::anyhow!("the {name} ended ({how}):\n{}", output.last(20))
}

async fn collect(from: impl AsyncRead + Unpin, name: &str, verbose: bool, output: Arc<Output>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if verbose {
            eprintln!("{name}: {line}");
        }
        output.push(line);
    }
}

/// Environment variable with the process id of the demo.
const PARENT: &str = "MAHP_TESTBED_PARENT";

/// In the child: end when the demo ends, even if it is killed.
pub fn follow_parent() {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|p| p.parse::<u32>().ok()) else { return };
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // It may have ended before that.
    if std::os::unix::process::parent_id() != parent {
        std::process::exit(1);
    }
}
