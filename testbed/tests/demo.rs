//! The demo as a program: real processes, real multicast on the loopback interface. That its check passes where all is well
//! says something only because it fails where it must.

use std::process::{Command, Output};
use std::time::Duration;
use tokio::sync::Mutex;

/// One demo at a time: each has six programs, and several of them at once would show what too few processors do to players.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Runs `mahp-testbed demo --check` and returns what it printed.
async fn check(args: &[&str]) -> Output {
    let _alone = ALONE.lock().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mahp-testbed"));
    command.args(["demo", "--check", "--port", "0"]).args(args);
    let run = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(Duration::from_secs(240), run).await;
    ended.expect("the check ends by itself").expect("no panic").expect("the program starts")
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn without_loss_everything_comes_by_multicast() {
    let output = check(&["--loss", "0%", "--for", "10s"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("check passed"), "{}", text(&output));
}

#[tokio::test]
async fn five_per_cent_loss_is_not_seen_by_players() {
    let output = check(&["--loss", "5%", "--seed", "7", "--for", "12s"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn loss_beyond_repair_without_unicast_fails_the_check() {
    let output = check(&["--loss", "60%", "--unicast", "off", "--for", "6s"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("check FAILED"), "{}", text(&output));
}

#[tokio::test]
async fn loss_beyond_repair_is_mended_by_unicast_but_does_not_pass() {
    let output = check(&["--loss", "60%", "--for", "8s"]).await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("of media bytes came by multicast"), "{text}");
    assert!(!text.contains("other bytes"), "{text}");
}

#[tokio::test]
async fn children_end_with_a_killed_demo() {
    let _alone = ALONE.lock().await;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_mahp-testbed"))
        .args(["demo", "--no-open", "--port", "0"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let children = children_of(demo.id(), 2).await;
    demo.kill().expect("it runs");
    demo.wait().expect("it was killed");
    for _ in 0..600 {
        if children.iter().all(|pid| !runs(*pid)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("of {children:?} some still run");
}

/// Waits until a process has that many children.
async fn children_of(pid: u32, count: usize) -> Vec<u32> {
    for _ in 0..1200 {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let children: Vec<u32> = tasks
            .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
            .collect();
        if children.len() >= count {
            return children;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the demo did not start its processes");
}

/// Whether a process runs; a zombie does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}
