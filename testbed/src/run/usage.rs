//! Processor time and memory of a process, from `/proc`.

/// At one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time so far, seconds.
    pub(super) cpu: f64,
    /// Resident bytes.
    pub(super) rss: f64,
}

/// Clock ticks a second: Linux promises 100 to user space on every architecture we run on.
const TICKS: f64 = 100.0;

pub(super) fn of(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<f64>().ok();
    // Fields 14, 15 and 24, counted from 1 with the two before the bracket.
    // SAFETY: sysconf(3) takes an integer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64;
    Some(Usage { cpu: (field(11)? + field(12)?) / TICKS, rss: field(21)? * page })
}
