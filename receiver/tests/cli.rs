//! The program itself: every mistake gets one error that says what, where, how to mend it, and an exit status.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_common::auth::SigningKey;
use mahp_common::catalog::SessionDescription;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mahp-receiver-cli-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs the program to its end, on free ports unless the arguments say others. All these mistakes end it by themselves.
fn program(args: &[&str]) -> Output {
    let mut all = args.to_vec();
    for option in ["--listen", "--admin"] {
        if !args.contains(&option) {
            all.extend([option, "127.0.0.1:0"]);
        }
    }
    Command::new(env!("CARGO_BIN_EXE_mahp-receiver"))
        .args(all)
        .env("XDG_STATE_HOME", folder("state"))
        .env_remove("STATE_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs one of the other commands.
fn command(args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mahp-receiver"));
    program.args(args).env("XDG_STATE_HOME", folder("state")).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn other_commands() {
    assert_error(&command(&["status", "--admin", "127.0.0.1:9"]), "E-ADMIN", 1, &["--admin"]);
    assert_error(
        &command(&["probe", "10.0.0.1@232.1.1.1:5000"]),
        "E-SESSION",
        2,
        &["doctor 10.0.0.1@232.1.1.1:5000"],
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = command(&["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("mahp-receiver") && text.contains("allow-origin"),
            "{shell}"
        );
    }
    assert_eq!(command(&["completions", "csh"]).status.code(), Some(2));
}

/// One error of this code and status, with a way out, and no debris.
fn assert_error(output: &Output, code: &str, exit: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with(&format!("error[{code}]: ")), "{stderr}");
    assert_eq!(stderr.matches("error[").count(), 1, "{stderr}");
    assert!(stderr.lines().nth(1).is_some_and(|line| line.starts_with("  try: ")), "{stderr}");
    for text in says {
        assert!(stderr.contains(text), "{text} is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(output.status.code(), Some(exit), "{stderr}");
}

/// Answers every request with this, for as long as the test runs.
fn serve(body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 2048]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

/// `mahp-receiver config print --default | head -1`.
#[test]
fn nobody_reads_to_the_end() {
    let admin = serve(serde_json::to_vec(&mahp_receiver::snapshot::Snapshot::default()).unwrap());
    let admin = admin.to_string();
    for args in [&["config", "print", "--default"][..], &["status", "--admin", &admin]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = Command::new(env!("CARGO_BIN_EXE_mahp-receiver"));
        let output = program.args(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{args:?}: {stderr}");
    }
}

#[test]
fn sessions_that_are_none() {
    let says = ["mahp-receiver http://", "@232.1.1.1:5000"];
    for (session, code, why) in [
        ("notaurl", "E-SESSION", "neither"),
        ("ftp://sender/session.json", "E-SESSION", "neither"),
        ("http://sender:port/", "E-SESSION", "invalid port number"),
        ("127.0.0.1@10.0.0.1:5000", "E-GROUP", "group 10.0.0.1 is outside multicast space"),
        ("127.0.0.1@232.1.1.1", "E-SESSION", "port is missing"),
        ("127.0.0.1@232.1.1.1:0", "E-SESSION", "port 0"),
        ("127.0.0.1@[ff3e::8000:1]:5000", "E-SESSION", "different families"),
    ] {
        assert_error(&program(&[session]), code, 2, &[session, why, says[0], says[1]]);
    }
}

#[test]
fn interfaces_and_ports() {
    let missing = program(&["http://127.0.0.1:9/", "--interface", "nonesuch0"]);
    assert_error(&missing, "E-IFACE", 2, &["nonesuch0", "lo"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--admin"] {
        let output = program(&["http://127.0.0.1:9/", option, &address]);
        assert_error(&output, "E-PORT-IN-USE", 1, &[&address, &format!("{option} ADDRESS:PORT")]);
    }
}

#[test]
fn configuration_files() {
    let file = folder("config").join("typo.toml");
    std::fs::write(&file, "[receiver]\nlistne = \"127.0.0.1:0\"\n").unwrap();
    let output = program(&["--config", file.to_str().unwrap()]);
    assert_error(&output, "E-CONFIG", 2, &["typo.toml:2", "`listne`", "did you mean `listen`?"]);
    let output = program(&["--config", "/no/such/file.toml"]);
    assert_error(&output, "E-CONFIG", 2, &["/no/such/file.toml"]);

    let session = "session = [\"http://127.0.0.1:9/\"]\n";
    for (text, code, says) in [
        (
            format!("[receiver]\n{session}interface = \"nonesuch0\"\n"),
            "E-IFACE",
            "wrong.toml:3: `interface`: no network",
        ),
        (
            "[receiver]\nsession = [\"http://[/\"]\n".to_owned(),
            "E-SESSION",
            "wrong.toml:2: `session`: `http://[/` is not a URL",
        ),
        (
            format!("[receiver]\n{session}\nallow-from = [\"x/y\"]\n"),
            "E-CONFIG",
            "wrong.toml:4: `allow-from`: ",
        ),
        (
            format!("[receiver]\n{session}hold = \"20s\"\n"),
            "E-CONFIG",
            "wrong.toml:3: `hold` cannot be more than 8s",
        ),
        (format!("[receiver]\n{session}listen = \"x\"\n"), "E-CONFIG", "wrong.toml:3: `listen`: "),
    ] {
        let file = folder("config").join("wrong.toml");
        std::fs::write(&file, text).unwrap();
        assert_error(&program(&["--config", file.to_str().unwrap()]), code, 2, &[says]);
    }
    assert_error(
        &output_of_typo(),
        "E-CONFIG",
        2,
        &["see the commented list", ": mahp-receiver config print --default"],
    );
}

fn output_of_typo() -> Output {
    let file = folder("config").join("value.toml");
    std::fs::write(&file, "[receiver]\nhold = 8\n").unwrap();
    program(&["--config", file.to_str().unwrap()])
}

#[test]
fn arguments_that_are_refused() {
    assert_error(
        &program(&["--hold", "banana"]),
        "E-USAGE",
        2,
        &["'banana' for '--hold <TIME>'", "mahp-receiver --help"],
    );
    assert_error(
        &program(&["--intreface", "lo"]),
        "E-USAGE",
        2,
        &["--intreface", "try: a similar argument exists: '--interface'"],
    );
    assert_error(&command(&["completions", "csh"]), "E-USAGE", 2, &["csh", "bash"]);
    let help = command(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Common mistakes"));
}

#[test]
fn variables_that_are_none() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // It ends at the address that is taken.
    let output = Command::new(env!("CARGO_BIN_EXE_mahp-receiver"))
        .args(["http://127.0.0.1:9/", "--admin", "127.0.0.1:0"])
        .env("MAHP_RECEIVER_LISTEN", &taken)
        .env("MAHP_RECEIVER_INTREFACE", "lo")
        .env("XDG_STATE_HOME", folder("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("W-ENVIRONMENT: MAHP_RECEIVER_INTREFACE: ")
            && stderr.contains("did you mean MAHP_RECEIVER_INTERFACE?"),
        "{stderr}"
    );
    assert!(stderr.contains("E-PORT-IN-USE"), "{stderr}");
    assert!(!stderr.contains("MAHP_RECEIVER_LISTEN"), "{stderr}");
}

#[test]
fn https_where_http_is_spoken() {
    let plain = serve(b"x".to_vec());
    let url = format!("https://{plain}/");
    assert_error(
        &command(&["probe", &url]),
        "E-SESSION",
        1,
        &["does not speak TLS", &format!("use http://: http://{plain}/")],
    );
}

#[test]
fn the_doctor_of_nothing_says_broken() {
    assert_error(
        &command(&["doctor", "--admin", "127.0.0.1:9"]),
        "E-ADMIN",
        2,
        &["is mahp-receiver running?"],
    );
}

#[test]
fn descriptions_that_cannot_be_trusted() {
    let page = format!("http://{}/", serve(b"<!doctype html><title>x</title>".to_vec()));
    assert_error(&program(&[&page]), "E-DESCRIPTION", 1, &[&page, "address that the sender printed"]);

    let nothing = format!("http://{}/", serve(Vec::new()));
    for output in [program(&[&nothing]), command(&["probe", &nothing])] {
        assert_error(&output, "E-DESCRIPTION", 1, &[&nothing, "empty", "address that the sender printed"]);
    }

    let template = include_bytes!("../../tests/corpus/description/one-channel.json");
    let mut description: SessionDescription = serde_json::from_slice(template).unwrap();
    let key = SigningKey::from_seed(&[7; 32]);
    (description.expires, description.public_key) = (u64::from(u32::MAX), key.verifying_key().to_base64());
    let sealed = description.seal(&key).unwrap();
    let text = String::from_utf8(sealed).unwrap();
    assert!(text.contains("\"news\""));
    let forged = format!("http://{}/", serve(text.replace("\"news\"", "\"fake\"").into_bytes()));
    assert_error(&program(&[&forged]), "E-SIGNATURE", 1, &[&forged]);

    let other = SigningKey::from_seed(&[8; 32]).verifying_key().to_base64();
    let signed = format!("http://{}/", serve(text.into_bytes()));
    for (session, code, exit) in
        [(&page, "E-DESCRIPTION", 1), (&forged, "E-SIGNATURE", 1), (&"x".to_owned(), "E-SESSION", 2)]
    {
        assert_error(&command(&["probe", session]), code, exit, &[session]);
    }
    let probed = command(&["probe", &signed]);
    let says = String::from_utf8_lossy(&probed.stdout).into_owned();
    assert!(probed.status.success() && says.contains("192.0.2.1@232.1.1.2:5000"), "{says}");
    assert!(says.contains(&key.verifying_key().to_base64()), "{says}");
    let json = command(&["probe", &signed, "--json"]).stdout;
    assert_eq!(serde_json::from_slice::<SessionDescription>(&json).unwrap(), description);
    let signer = format!("--key {}", key.verifying_key().to_base64());
    assert_error(&program(&[&signed, "--key", &other]), "E-KEY", 2, &[&signed, &signer]);
}

/// The code of the refusal of a request for an origin that is in no channel.
fn refusal_of(listen: SocketAddr) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(listen).ok()?;
    write!(stream, "GET /http/127.0.0.1:9/x HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().find_map(|line| Some(line.strip_prefix("mahp-error: ")?.to_owned()))
}

/// Status and body of `POST /api/reload`.
fn reload(admin: SocketAddr, more: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(admin).unwrap();
    let request = format!("POST /api/reload HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (first, second, admin) = (free(), free(), free());
    let file = folder("reload").join("receiver.toml");
    let write = |listen: SocketAddr, more: &str| {
        let text = format!(
            "[receiver]\nsession = [\"127.0.0.1@232.9.8.7:5000\"]\nlisten = \"{listen}\"\nadmin = \"{admin}\"\nhold = \"500ms\"\n{more}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write(first, "");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mahp-receiver"))
        .arg("--config")
        .arg(&file)
        .env("XDG_STATE_HOME", folder("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let hang_up = |child: &std::process::Child| {
        let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed().as_secs() < 30, "waited in vain: {what}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    // The sender is not heard: the origin may be of a channel of its.
    let unknown = Some("E-SESSION".to_owned());
    until("it starts", &|| refusal_of(first) == unknown);
    // Another address, and the origin is allowed: nobody answers there.
    write(second, "allow-origin = [\"127.0.0.1:9\"]");
    hang_up(&child);
    until("it starts anew", &|| refusal_of(second).as_deref() == Some("E-NO-SOURCE"));
    assert_eq!(refusal_of(first), None, "the old address is given up");
    // The same address again.
    write(second, "");
    assert_eq!(reload(admin, "Origin: http://evil.example\r\n").0, 403, "a page of another site");
    assert_eq!(reload(admin, "").0, 200);
    until("the address is taken again", &|| refusal_of(second) == unknown);
    // A mistake changes nothing.
    write(second, "nonsense = 1");
    hang_up(&child);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.any(|l| l.is_ok_and(|l| l.contains("nothing changes") && l.contains("E-CONFIG"))));
    assert_eq!(refusal_of(second), unknown);
    let (status, why) = reload(admin, "");
    assert!(status == 400 && why.contains("E-CONFIG") && why.contains("nonsense"), "{status} {why}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
