//! Behaviour of whole processes: signals and log lines. The test binary starts itself again, with a role in its environment.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_runtime::log::{self, LogFormat};
use mahp_runtime::{notify, shutdown};
use std::io::{BufRead, BufReader, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

const ROLE: &str = "MAHP_TEST_ROLE";

/// Not a test of its own: what the child processes run.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("log-text") => log_lines(LogFormat::Text, "info"),
        Ok("log-json") => log_lines(LogFormat::Json, "warn"),
        Ok("log-bad-filter") => log_lines(LogFormat::Text, "a=b=c"),
        Ok("stop") => wait_for_signals(true),
        Ok("stuck") => wait_for_signals(false),
        _ => {}
    }
}

fn log_lines(format: LogFormat, filter: &str) {
    log::init(format, filter);
    log::init(format, "trace"); // does nothing
    tracing::debug!("a debug line");
    tracing::info!(channel = "news", "an info line");
    tracing::warn!("a warning");
}

fn wait_for_signals(orderly: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = shutdown::on_signals();
        notify::ready();
        eprintln!("running");
        stop.cancelled().await;
        eprintln!("cancelled");
        if !orderly {
            std::future::pending::<()>().await;
        }
    });
}

fn child(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env_remove("MAHP_LOG")
        .stderr(Stdio::piped());
    command.stdout(Stdio::null());
    command
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn wait_for(lines: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "ended before {wanted:?}");
    }
}

#[test]
fn the_first_signal_cancels_and_the_service_manager_is_told() {
    for name in ["TERM", "INT"] {
        let address = format!("mahp-process-{}-{name}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&address).unwrap()).unwrap();
        let mut child = child("stop").env("NOTIFY_SOCKET", format!("@{address}")).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        wait_for(&mut lines, "running");
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        for expected in ["READY=1", "STOPPING=1"] {
            let mut buffer = [0; 64];
            let n = manager.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..n]), Ok(expected));
        }
    }
}

#[test]
fn the_second_signal_ends_what_hangs() {
    let mut child = child("stuck").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut lines, "running");
    signal(&child, "TERM");
    wait_for(&mut lines, "cancelled");
    signal(&child, "TERM");
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}

fn logged(command: &mut Command) -> String {
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    text
}

#[test]
fn log_lines_are_filtered_and_formed() {
    let text = logged(&mut child("log-text"));
    assert!(text.contains("an info line channel=\"news\"") && text.contains("a warning"), "{text}");
    assert!(!text.contains("debug") && !text.contains('\u{1b}'), "{text}");

    let text = logged(&mut child("log-json"));
    let [line] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"a warning".into()));

    let text = logged(child("log-text").env("MAHP_LOG", "debug"));
    assert!(text.contains("a debug line"), "{text}");

    let text = logged(&mut child("log-bad-filter"));
    assert!(text.contains("log filter cannot be read") && text.contains("an info line"), "{text}");
}
