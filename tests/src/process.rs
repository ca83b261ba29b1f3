//! Child programs: output kept for the failure report, ended by TERM and then KILL, never left behind.

use anyhow::{Context, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program with its output in a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with standard output and standard error in `logs/NAME.log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> anyhow::Result<Process> {
        std::fs::create_dir_all(logs)?;
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it has printed, under its name.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        format!("--- {} ---\n{}\n", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`; it is ended then.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > until {
                self.stop();
                bail!("{} still ran after {patience:?}\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: a plain system call; the child is not reaped yet, so the id is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it: TERM, and KILL when it has not gone after 5 s.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.terminate();
        let until = Instant::now() + Duration::from_secs(5);
        while self.ended().is_none() {
            if Instant::now() > until {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Polls until `condition` gives a value.
///
/// # Errors
/// Names `what` when it has not happened within `patience`.
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() > until {
            bail!("{what}: not within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
