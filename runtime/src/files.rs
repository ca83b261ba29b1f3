//! The limit of open files: each connection and each group takes one, and what a process gets by default (1024) is soon used up.

use std::io;

/// More than any of our programs uses; some systems allow a billion, and tables are sized by it.
const WANTED: u64 = 65_536;

/// Raises the limit of open files of this process as far as it may, at most to [`WANTED`]. Never lowers it.
pub fn raise_limit() {
    match limits() {
        Ok((soft, hard)) if soft < hard.min(WANTED) => match set(hard.min(WANTED), hard) {
            Ok(()) => tracing::debug!(from = soft, to = hard.min(WANTED), "limit of open files raised"),
            Err(error) => tracing::debug!(soft, %error, "the limit of open files stays"),
        },
        Ok((soft, _)) => tracing::debug!(soft, "limit of open files"),
        Err(error) => tracing::debug!(%error, "the limit of open files is not known"),
    }
}

/// How many files this process may have open; where that is not known, the usual 1024.
pub fn limit() -> u64 {
    limits().map_or(1024, |(soft, _)| soft)
}

/// How to mend an error of the system, where it is that there are too many open files.
pub fn hint(error: &io::Error) -> Option<String> {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            let limit = limits().map_or_else(|_| "reached".to_owned(), |(soft, _)| soft.to_string());
            Some(format!(
                "the limit of open files is {limit}: raise it with ulimit -n, or LimitNOFILE= of the systemd unit"
            ))
        }
        Some(libc::ENFILE) => {
            Some("the whole machine has too many open files: sysctl fs.file-nr fs.file-max".into())
        }
        _ => None,
    }
}

/// Soft and hard limit.
#[allow(unsafe_code)]
fn limits() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok((wide(limit.rlim_cur), wide(limit.rlim_max))),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn set(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: narrow(soft), rlim_max: narrow(hard) };
    // SAFETY: `limit` is valid, and only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `rlim_t` has 32 or 64 bits, by platform; all ones is “no limit” in both.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn wide(limit: libc::rlim_t) -> u64 {
    if limit == libc::RLIM_INFINITY { u64::MAX } else { u64::from(limit) }
}

#[allow(clippy::unnecessary_fallible_conversions, clippy::useless_conversion)]
fn narrow(limit: u64) -> libc::rlim_t {
    if limit == u64::MAX {
        libc::RLIM_INFINITY
    } else {
        libc::rlim_t::try_from(limit).unwrap_or(libc::RLIM_INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let (before, hard) = limits().unwrap();
        raise_limit();
        let (after, same) = limits().unwrap();
        assert_eq!((after, same), (before.max(hard.min(WANTED)), hard));
    }

    #[test]
    fn too_many_open_files_are_told_with_the_limit() {
        let error = io::Error::from_raw_os_error;
        let (soft, _) = limits().unwrap();
        let hint_of = |number| hint(&error(number));
        assert!(hint_of(libc::EMFILE).unwrap().contains("ulimit -n"), "{soft}");
        assert!(hint_of(libc::ENFILE).unwrap().contains("machine"));
        assert_eq!(hint_of(libc::EPERM), None);
    }
}
