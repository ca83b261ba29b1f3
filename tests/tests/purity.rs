//! `mahp-common` is the protocol and nothing else: no crate below it may own sockets, tasks or an HTTP stack.

use std::process::Command;

/// Crates that would bring I/O, tasks or a second TLS backend.
const FORBIDDEN_IN_COMMON: &[&str] =
    &["tokio", "mio", "socket2", "hyper", "reqwest", "quinn", "quinn-udp", "rustls", "nix", "async-std"];
const FORBIDDEN_ANYWHERE: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"];

fn tree(arguments: &[&str]) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .current_dir(root)
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn common_depends_on_nothing_with_io() {
    let crates = tree(&["-p", "mahp-common", "-e", "normal"]);
    assert!(crates.iter().any(|c| c == "raptorq"), "the tree was read: {crates:?}");
    for name in FORBIDDEN_IN_COMMON {
        assert!(!crates.iter().any(|c| c == name), "mahp-common depends on {name}");
    }
}

#[test]
fn there_is_one_tls_backend() {
    let crates = tree(&["--workspace", "-e", "normal,build"]);
    assert!(crates.iter().any(|c| c == "ring"));
    for name in FORBIDDEN_ANYWHERE {
        assert!(!crates.iter().any(|c| c == name), "the workspace depends on {name}");
    }
}

#[test]
fn sender_and_receiver_do_not_import_each_other() {
    for (package, other) in [("mahp-sender", "mahp-receiver"), ("mahp-receiver", "mahp-sender")] {
        let crates = tree(&["-p", package, "-e", "normal"]);
        assert!(!crates.iter().any(|c| c == other), "{package} depends on {other}");
    }
}
