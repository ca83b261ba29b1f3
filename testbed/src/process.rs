//! Programs as processes of their own: the sender and the receiver (other entry points of this executable, or the binaries
//! beside it), players, ffmpeg. They end when the testbed ends, however it ends.

use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::PathBuf;
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
    name: String,
    process: Process,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    log: Option<Mutex<std::fs::File>>,
    lines: Mutex<VecDeque<String>>,
    more: Notify,
}

impl Output {
    fn push(&self, line: String) {
        if let Some(log) = &self.log {
            // A full disk must not end a run.
            let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        }
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

    fn newest(&self, marker: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find_map(|l| l.split_once(marker)).map(|(_, rest)| rest.to_owned())
    }

    fn last(&self, count: usize) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = lines.len().saturating_sub(count);
        lines.iter().skip(skip).map(|l| format!("    {l}\n")).collect()
    }
}

/// What to start, and where.
#[derive(Debug)]
pub struct Launch {
    /// Name in messages.
    pub name: String,
    /// The executable; `None`: this one.
    pub program: Option<PathBuf>,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Network namespace to start it in.
    pub namespace: Option<RawFd>,
    /// File that gets all its output.
    pub log: Option<PathBuf>,
    /// Print what it says.
    pub verbose: bool,
}

impl Launch {
    /// An entry point of this executable: `mahp-testbed NAME ARGS…`.
    pub fn own(name: &str, args: impl IntoIterator<Item = OsString>) -> Launch {
        Launch {
            name: name.into(),
            program: None,
            args: std::iter::once(name.into()).chain(args).collect(),
            namespace: None,
            log: None,
            verbose: false,
        }
    }

    fn command(&self) -> anyhow::Result<Command> {
        let own = || std::env::current_exe().context("cannot find the program's own file");
        let mut command = Command::new(self.program.clone().map_or_else(own, Ok)?);
        command.args(&self.args).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings of the person's own sender or receiver must not leak into a run.
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy();
            if text.starts_with("MAHP_SENDER_") || text.starts_with("MAHP_RECEIVER_") {
                command.env_remove(&key);
            }
        }
        let parent = std::process::id();
        let namespace = self.namespace;
        // SAFETY: between fork and exec only async-signal-safe system calls are made (prctl, getppid, setns).
        unsafe {
            command.pre_exec(move || {
                follow(parent)?;
                namespace.map_or(Ok(()), crate::net::ns::set)
            });
        }
        Ok(command)
    }
}

/// In the child, before exec: end when the testbed ends, even if it is killed. Survives exec.
fn follow(parent: u32) -> std::io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // It may have ended before that.
    if std::os::unix::process::parent_id() != parent {
        return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

impl Child {
    /// Starts a program. Must be called from the thread that lives as long as the testbed: the kernel ends the child when that
    /// thread ends.
    pub fn start(launch: &Launch) -> anyhow::Result<Child> {
        let name = launch.name.clone();
        let mut process = launch.command()?.spawn().with_context(|| format!("cannot start {name}"))?;
        let log = launch.log.as_ref().map(|path| {
            let open = std::fs::OpenOptions::new().create(true).append(true).open(path);
            open.with_context(|| format!("cannot write {}", path.display()))
        });
        let output = Arc::new(Output { log: log.transpose()?.map(Mutex::new), ..Output::default() });
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(collect(stdout, name.clone(), launch.verbose, output.clone()));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(collect(stderr, name.clone(), launch.verbose, output.clone()));
        }
        Ok(Child { name, process, output })
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// SIGKILL, as a crash.
    pub async fn kill(mut self) {
        let _ = self.process.kill().await;
    }

    /// Waits for its end; `true`: with exit status 0.
    pub async fn finish(&mut self) -> bool {
        self.process.wait().await.is_ok_and(|s| s.success())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)))
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        self.output.last(20)
    }

    /// What stands behind `marker` in the newest of its last lines that has it.
    pub fn newest(&self, marker: &str) -> Option<String> {
        self.output.newest(marker)
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
            error = exited(&self.name, &mut self.process, &output) => Err(error),
        }
    }

    /// Returns when the child has ended, with what it said last.
    pub async fn ended(&mut self) -> anyhow::Error {
        exited(&self.name, &mut self.process, &self.output).await
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

async fn collect(from: impl AsyncRead + Unpin, name: String, verbose: bool, output: Arc<Output>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if verbose {
            eprintln!("{name}: {line}");
        }
        output.push(line);
    }
}
