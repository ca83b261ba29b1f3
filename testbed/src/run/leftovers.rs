//! The folder of a run, and what runs that were killed left behind.
//!
//! Namespaces and interfaces end with their processes, and processes with the testbed (parent-death signal). What can stay
//! is the folder with keys and configuration, and, where somebody's program ignores that signal across exec, a process: each
//! is written down in the folder, with its start time, so that the next start can tell it from another process of the same id.

use anyhow::Context;
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "mahp-testbed-";
const CHILDREN: &str = "children";

/// A folder that is removed at the end.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes it, and removes what dead runs left.
    pub fn new() -> anyhow::Result<RunFolder> {
        sweep(&std::env::temp_dir());
        let own = std::process::id();
        let start = start_time(own).unwrap_or(0);
        // Several runs of one process follow each other.
        let nonce = fastrand::u32(..);
        let path = std::env::temp_dir().join(format!("{PREFIX}{own}-{start}-{nonce:08x}"));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(RunFolder { path })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes down a process.
    pub fn note_child(&self, pid: u32) {
        let Some(start) = start_time(pid) else { return };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.path.join(CHILDREN));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{pid} {start}");
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Ends processes and removes folders of runs whose process is gone. Returns how many folders that were.
pub fn sweep(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let mut swept = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((pid, start)) = name.to_str().and_then(owner) else { continue };
        if start_time(pid) == Some(start) || !is_ours(&entry.path()) {
            continue;
        }
        let children = std::fs::read_to_string(entry.path().join(CHILDREN)).unwrap_or_default();
        for (pid, start) in children.lines().filter_map(|l| parse_pair(l, ' ')) {
            if start_time(pid) == Some(start)
                && let Ok(pid) = i32::try_from(pid)
            {
                // SAFETY: kill(2) takes two integers; the start time says that it is the process that was written down.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        swept += usize::from(std::fs::remove_dir_all(entry.path()).is_ok());
    }
    swept
}

/// Others may make folders of that name in a shared place for temporary files.
fn is_ours(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == user)
}

fn owner(name: &str) -> Option<(u32, u64)> {
    let (pair, _) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    parse_pair(pair, '-')
}

fn parse_pair(text: &str, by: char) -> Option<(u32, u64)> {
    let (pid, start) = text.split_once(by)?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`); `None`: there is none.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_runs_go_and_others_stay() {
        let place = std::env::temp_dir().join(format!("mahp-sweep-{}", fastrand::u64(..)));
        let own = std::process::id();
        let start = start_time(own).expect("a process has a start time");
        let alive = place.join(format!("{PREFIX}{own}-{start}-1"));
        let dead = place.join(format!("{PREFIX}{own}-{}-1", start + 1));
        let other = place.join("mahp-something-else");
        for path in [&alive, &dead, &other] {
            std::fs::create_dir_all(path).expect("a folder for temporary files");
        }
        // A process id that was given to another process since: it must live.
        std::fs::write(dead.join(CHILDREN), format!("{own} {}\nrubbish\n", start + 1)).expect("a file");
        assert_eq!(sweep(&place), 1);
        assert!(alive.is_dir() && other.is_dir() && !dead.exists());
        std::fs::remove_dir_all(&place).expect("it is there");
    }
}
