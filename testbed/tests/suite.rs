//! The short suite as CI runs it: every shipped scenario with its criteria, negative controls among them; and that a testbed
//! that is killed half-way leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn testbed() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mahp-testbed"));
    command.stdin(Stdio::null());
    command
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mahp-suite-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder for temporary files");
    path
}

/// Whether this machine lets us make network namespaces. Under CI it must.
fn namespaces() -> bool {
    let probe = folder("probe").join("probe.toml");
    std::fs::write(&probe, "title = \"probe\"\nduration = \"1s\"\nwarm-up = \"0s\"\n").expect("a file");
    let output = testbed().arg("run").arg(&probe).arg("--out").arg(probe.with_extension("")).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = said.contains("E-NAMESPACE") || said.contains("cannot make host");
    if refused {
        assert!(std::env::var_os("CI").is_none(), "no network namespaces: {said}");
        println!("NOT RUN: no network namespaces here: {said}");
    }
    let _ = std::fs::remove_dir_all(probe.parent().expect("it is in a folder"));
    !refused
}

/// One test with programs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_short_suite_passes() {
    let _alone = alone();
    if !namespaces() {
        return;
    }
    let out = folder("short");
    let output = testbed().args(["suite", "short", "--jobs", "3", "--out"]).arg(&out).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // The verdict before the tables.
    let verdict =
        said.rfind("scenarios passed in").and_then(|at| said[..at].rfind('\n')).map_or(0, |at| at + 1);
    println!("{}\n{}", &said[verdict..], &said[..verdict]);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{wrong}", &said[verdict..]);
    for entry in std::fs::read_dir(&out).expect("a folder of reports").flatten() {
        for file in ["report.json", "report.html", "drops.csv"] {
            assert!(entry.path().join(file).is_file(), "{} has no {file}", entry.path().display());
        }
    }
    compare(&out.join("clean"), &out.join("loss-20"));
    let _ = std::fs::remove_dir_all(&out);
}

fn compare(a: &Path, b: &Path) {
    let page = a.with_file_name("compare.html");
    let output =
        testbed().arg("compare").args([a, b]).arg("--out").arg(&page).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("clean") && said.contains("loss-20"), "{said}");
    let page = std::fs::read_to_string(page).expect("a page");
    let plots = ["clean: Delay of segments", "loss-20: Delay of segments"];
    assert!(plots.iter().all(|p| page.contains(p)) && !page.contains("NaN"), "the page lacks plots");
}

#[test]
fn a_killed_testbed_leaves_nothing_after_the_next_start() {
    let _alone = alone();
    if !namespaces() {
        return;
    }
    let out = folder("killed");
    let start = || -> Child {
        let mut command = testbed();
        command.args(["run", "clean", "--out"]).arg(&out).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program starts")
    };
    let mut run = start();
    let pid = run.id();
    let children = wait_for(|| Some(children_of(pid)).filter(|c| c.len() >= 3), "three programs");
    assert!(!folders_of(pid).is_empty(), "a run has a folder");
    run.kill().expect("it runs");
    run.wait().expect("it was killed");
    wait_for(|| children.iter().all(|c| !runs(*c)).then_some(()), "the end of all its programs");
    // The folder is what a killed run cannot remove; the next one does.
    let mut next = start();
    let next_pid = next.id();
    wait_for(|| (!folders_of(next_pid).is_empty()).then_some(()), "the next run's folder");
    assert!(folders_of(pid).is_empty(), "leftovers of the killed run are gone");
    let interfaces = std::fs::read_dir("/sys/class/net").expect("interfaces").flatten();
    let ours = format!("-{}", pid % 1_000_000);
    let left: Vec<_> = interfaces.filter(|i| i.file_name().to_string_lossy().ends_with(&ours)).collect();
    assert!(left.is_empty(), "{left:?}");
    next.kill().expect("it runs");
    next.wait().expect("it was killed");
    for path in folders_of(next_pid) {
        let _ = std::fs::remove_dir_all(path);
    }
    let _ = std::fs::remove_dir_all(&out);
}

#[test]
fn a_wrong_scenario_is_refused_before_anything_starts() {
    let out = folder("wrong");
    let file = out.join("wrong.toml");
    std::fs::write(&file, "title = \"t\"\nduration = \"20s\"\n\n[pass]\nstals = 0\n").expect("a file");
    let output = testbed().arg("run").arg(&file).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wrong.toml:5") && said.contains("stalls"), "{said}");
    let _ = std::fs::remove_dir_all(&out);
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn folders_of(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("mahp-testbed-{pid}-");
    let entries = std::fs::read_dir(std::env::temp_dir()).expect("a folder for temporary files").flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}

fn children_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|p| parent(*p) == Some(pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A zombie that nobody has waited for yet does not run.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, r)| r.split_whitespace().next()).is_some_and(|s| s != "Z")
}
