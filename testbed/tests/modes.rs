//! The same scenario without root, in a user namespace, and without namespaces, on the loopback interface; and an origin that is
//! known by its URL only.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Nobody in particular.
const NOBODY: u32 = 65534;
const SCENARIO: &str = "title = \"a short one\"\nduration = \"9s\"\nwarm-up = \"2s\"\n\
    [[impair]]\nleg = \"receivers\"\nloss = \"3%\"\n[pass]\nstalls = 0\n";

/// A folder that anybody may use, with a copy of the program and a scenario.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(name: &str, scenario: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("mahp-modes-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder for temporary files");
        // By another process: a program that a test beside this one starts meanwhile would inherit the file, open for writing,
        // and as long as it does "Text file busy" is the answer to who wants to run it.
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_mahp-testbed"))
            .arg(&folder)
            .status()
            .expect("cp starts");
        assert!(copied.success(), "a copy in {}", folder.display());
        std::fs::write(folder.join("scenario.toml"), scenario).expect("a file");
        Place { folder }
    }

    /// The run as `mahp-testbed` under a command in front of it.
    fn run(&self, before: &[&str], options: &[&str]) -> Output {
        let program = self.folder.join("mahp-testbed");
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["run", "scenario.toml", "--out", "result"]).args(options);
        command.current_dir(&self.folder).stdin(Stdio::null()).output().expect("it starts")
    }

    fn report(&self) -> Value {
        let text = std::fs::read(self.folder.join("result/report.json")).expect("a report");
        serde_json::from_slice(&text).expect("JSON")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

#[test]
fn without_root_it_runs_in_a_user_namespace() {
    let place = Place::new("user", SCENARIO);
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let before = if is_root() { &as_nobody[..] } else { &[] };
    if is_root() {
        std::os::unix::fs::chown(&place.folder, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let output = place.run(before, &[]);
    if said(&output).contains("E-NAMESPACE") {
        assert!(std::env::var_os("CI").is_none(), "{}", said(&output));
        println!("NOT RUN: no user namespaces here: {}", said(&output));
        return;
    }
    assert!(output.status.success(), "{}", said(&output));
    let report = place.report();
    assert_eq!(report["mode"], "namespaces");
    assert!(report["figures"]["loss"].as_f64().is_some_and(|l| l > 0.01), "{}", report["figures"]);
}

#[test]
fn without_namespaces_it_says_what_it_cannot_show() {
    let place = Place::new("loopback", SCENARIO);
    let output = place.run(&[], &["--no-namespaces"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("cannot show: reordering"), "{}", said(&output));
    let report = place.report();
    assert_eq!(report["mode"], "loopback");
    assert!(report["limits"].as_array().is_some_and(|l| !l.is_empty()));
    assert!(report["figures"]["loss"].as_f64().is_some_and(|l| l > 0.01), "{}", report["figures"]);
    assert!(report["figures"]["egress_share"].is_null(), "the loopback interface cannot tell");
}

/// A web server somewhere: a program of its own, ended when dropped. It wants to be listened to while it speaks.
struct Server {
    child: Child,
    _said: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(folder: &Path) -> (Server, String) {
    let mut command = Command::new(folder.join("mahp-testbed"));
    command.args(["origin", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    out.read_line(&mut line).expect("it says its URL");
    let url = line
        .trim()
        .strip_suffix("/live/master.m3u8")
        .expect("the first URL is of the live channel")
        .to_owned();
    (Server { child, _said: out }, url)
}

#[test]
fn an_origin_known_by_its_url_is_compared_byte_by_byte() {
    let place = Place::new("url", SCENARIO);
    let (_server, url) = serve(&place.folder);
    let scenario = format!("{SCENARIO}[origin]\ncontent = \"url\"\nurl = \"{url}\"\n");
    std::fs::write(place.folder.join("scenario.toml"), scenario).expect("a file");
    let output = place.run(&[], &["--no-namespaces"]);
    assert!(output.status.success(), "{}", said(&output));
    let report = place.report();
    let players = report["players"].as_array().expect("players");
    let segments = players.iter().flat_map(|p| p["report"]["segments"].as_array().into_iter().flatten());
    let verdicts: Vec<&str> = segments.filter_map(|s| s["verdict"].as_str()).collect();
    assert!(verdicts.len() > 8, "{} segments", verdicts.len());
    assert!(verdicts.iter().all(|v| *v == "same"), "{verdicts:?}");

    let refused = place.run(&[], &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("--no-namespaces"), "{}", said(&refused));
}
