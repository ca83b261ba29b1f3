//! Memory, processor time and open files of this process, under the names every Prometheus client uses.

use std::fmt::Write;
use std::fs;

/// Clock ticks per second in /proc: the same on every Linux, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// The metrics in Prometheus' text form; what cannot be read is left out.
pub fn metrics() -> String {
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    put("process_cpu_seconds_total", "counter", "User and system time.", cpu_seconds(&stat));
    put("process_open_fds", "gauge", "Open file descriptors.", files);
    put("process_resident_memory_bytes", "gauge", "Resident memory.", resident(&status));
    out
}

/// `VmRSS:     1234 kB` of /proc/self/status.
fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

/// Fields 14 and 15 of /proc/self/stat. The second field is the program's name in parentheses, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152.0));
        assert_eq!(resident("VmRSS: much"), None);
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("7 (cut"), None);
    }

    #[test]
    fn this_process_has_all_three() {
        let text = metrics();
        let value = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
            line.and_then(|l| l.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
