//! The program itself: every mistake gets one error that says what, where, how to mend it, and an exit status.

use crate::support::{Reply, ScriptedOrigin};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};

fn program(args: &[&str]) -> Output {
    let folder = std::env::temp_dir().join(format!("mahp-sender-cli-{}", std::process::id()));
    Command::new(env!("CARGO_BIN_EXE_mahp-sender"))
        .args(args)
        .env("XDG_STATE_HOME", folder)
        .env_remove("STATE_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

async fn run(args: Vec<String>) -> Output {
    tokio::task::spawn_blocking(move || program(&args.iter().map(String::as_str).collect::<Vec<_>>()))
        .await
        .expect("ran")
}

/// One error of this code and status, with a way out, and no debris.
fn assert_error(output: &Output, code: &str, exit: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with(&format!("error[{code}]: ")), "{stderr}");
    assert_eq!(stderr.matches("error[").count(), 1, "{stderr}");
    assert!(stderr.lines().nth(1).is_some_and(|l| l.starts_with("  try: ")), "{stderr}");
    for text in says {
        assert!(stderr.contains(text), "{text} is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(output.status.code(), Some(exit), "{stderr}");
}

const QUIET: [&str; 6] = ["--interface", "lo", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

fn with(url: &str, more: &[&str]) -> Vec<String> {
    std::iter::once(url).chain(QUIET).chain(more.iter().copied()).map(str::to_owned).collect()
}

fn vod(o: &ScriptedOrigin) -> String {
    o.set(
        "/vod/media.m3u8",
        Reply::ok("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n0.ts\n#EXT-X-ENDLIST\n"),
    );
    o.set("/vod/0.ts", Reply::ok(vec![7; 20_000]));
    o.url("/vod/media.m3u8").to_string()
}

#[test]
fn wrong_urls() {
    assert_error(&program(&["not a url"]), "E-URL", 2, &["`not a url` is not a URL", "https://"]);
    assert_error(&program(&["ftp://host/x.m3u8"]), "E-URL", 2, &["scheme `ftp`"]);
    assert_error(&program(&[]), "E-CONFIG", 2, &["nothing to send"]);
}

#[tokio::test]
async fn origins_that_do_not_serve() {
    let origin = ScriptedOrigin::start().await;
    origin.set("/page", Reply::ok("<!doctype html><title>x</title>").header("content-type", "text/html"));
    origin.set("/secret", Reply::status(403));
    let page = run(with(origin.url("/page").as_str(), &[])).await;
    assert_error(
        &page,
        "E-ORIGIN-TYPE",
        1,
        &["neither HLS nor DASH", "content-type text/html", "<!doctype html>"],
    );
    let missing = run(with(origin.url("/missing").as_str(), &[])).await;
    assert_error(&missing, "E-ORIGIN-STATUS", 1, &["404", "/missing"]);
    let secret = run(with(origin.url("/secret").as_str(), &[])).await;
    assert_error(&secret, "E-ORIGIN-STATUS", 1, &["403", "token"]);
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let gone = run(with(&format!("http://{nobody}/x.m3u8"), &[])).await;
    assert_error(&gone, "E-ORIGIN-UNREACHABLE", 1, &[&nobody.to_string()]);
    let tls = run(with(&format!("https://{}/x.m3u8", origin.url("/").authority()), &[])).await;
    let plain = format!("use http://: http://{}/x.m3u8", origin.url("/").authority());
    assert_error(&tls, "E-ORIGIN-UNREACHABLE", 1, &["does not speak TLS", &plain]);
    origin.set("/master.m3u8", Reply::ok("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=800000\npage\n"));
    let variant = run(with(origin.url("/master.m3u8").as_str(), &[])).await;
    let says = ["/page is no HLS playlist", "content-type text/html", "<!doctype html>", "error page"];
    assert_error(&variant, "E-ORIGIN-TYPE", 1, &says);

    // One of two channels: it is waited for, and why is told.
    let two = run(with(&vod(&origin), &[origin.url("/missing").as_str(), "--dry-run"])).await;
    let stderr = String::from_utf8_lossy(&two.stderr);
    let lines: Vec<&str> = stderr.lines().skip_while(|l| !l.contains("not there yet")).collect();
    assert!(two.status.success() && lines[0].contains("error[E-ORIGIN-STATUS]"), "{stderr}");
    assert!(lines[1].starts_with("  try: "), "{stderr}");
}

/// An encoder that has not begun is nothing that a configuration could mend.
#[tokio::test]
async fn manifests_that_list_nothing_yet() {
    let origin = ScriptedOrigin::start().await;
    let dynamic = "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\"/>";
    let master = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n";
    for (path, body) in [
        ("/a.mpd", "<MPD/>"),
        ("/b.mpd", dynamic),
        ("/c.m3u8", master),
        ("/d.m3u8", "#EXTM3U\n"),
        ("/e", "\n"),
    ] {
        origin.set(path, Reply::ok(body));
        let output = run(with(origin.url(path).as_str(), &[])).await;
        assert_error(&output, "E-ORIGIN-EMPTY", 1, &[path, "lists no rendition yet", "encoder", "again"]);
    }
    let url = vod(&origin);
    let filtered = run(with(&url, &["--renditions", "4k"])).await;
    assert_error(&filtered, "E-CONFIG", 2, &[&url, "no rendition left", "4k"]);
}

#[test]
fn groups_and_addresses() {
    let url = "http://127.0.0.1:9/x.m3u8";
    for (group, says) in [
        ("10.0.0.1", "outside multicast space"),
        ("239.1.1.1", "source-specific"),
        ("232.0.0.1", "reserved"),
        ("ff02::1", "source-specific"),
    ] {
        assert_error(&program(&[url, "--group-base", group]), "E-GROUP", 2, &[group, says, "232."]);
    }
    assert_error(&program(&[url, "--group-base", "232.1.1.1", "--asm"]), "E-GROUP", 2, &["--asm"]);
    assert_error(
        &program(&[url, "--source", "10.0.0.1", "--group-base", "ff3e::8000:1"]),
        "E-CONFIG",
        2,
        &["family"],
    );
    assert_error(&program(&[url, "--source", "224.0.0.1"]), "E-CONFIG", 2, &["cannot be a source"]);
}

#[tokio::test]
async fn interfaces_ports_and_keys() {
    let origin = ScriptedOrigin::start().await;
    let url = vod(&origin);
    let args = ["--interface", "nonesuch0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let iface = run(std::iter::once(url.as_str()).chain(args).map(str::to_owned).collect()).await;
    assert_error(&iface, "E-IFACE", 2, &["nonesuch0"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|a| (taken, a.to_string())).expect("address");
    for option in ["--http", "--admin"] {
        let mut args: Vec<String> = with(&url, &[]);
        let at = args.iter().position(|a| a == option).expect("there") + 1;
        args[at].clone_from(&taken.1);
        let says = [taken.1.as_str(), &format!("{option} ADDRESS:PORT")];
        assert_error(&run(args).await, "E-PORT-IN-USE", 1, &says);
    }
    let key = run(with(&url, &["--key-file", "/proc/no/such/key"])).await;
    assert_error(&key, "E-KEY", 2, &["/proc/no/such/key", "--key-file"]);
}

#[test]
fn configuration_files() {
    let folder = std::env::temp_dir().join(format!("mahp-sender-conf-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let unknown = write("unknown.toml", "[sender]\nintreface = \"eth0\"\n");
    assert_error(
        &program(&["--config", &unknown]),
        "E-CONFIG",
        2,
        &["unknown.toml:2", "intreface", "interface"],
    );
    let twice = write(
        "twice.toml",
        "[[channel]]\nurl = \"http://h/a.m3u8\"\nchannel-name = \"x\"\n[[channel]]\nurl = \"http://h/b.m3u8\"\nchannel-name = \"x\"\n",
    );
    assert_error(&program(&["--config", &twice]), "E-CONFIG", 2, &["`x` twice"]);
    let good = write(
        "good.toml",
        "[sender]\nttl = 4\n[[channel]]\nurl = \"http://h/a/master.m3u8\"\n[[channel]]\nurl = \"http://h/b/master.m3u8\"\nloop = true\n",
    );
    let output = program(&["config", "check", &good]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 channel(s)"));
    let gone = folder.join("gone.toml").display().to_string();
    assert_error(&program(&["--config", &gone]), "E-CONFIG", 2, &["gone.toml"]);
    let hint = ": mahp-sender config print --default";
    let channel = "[[channel]]\nurl = \"http://127.0.0.1:9/a.m3u8\"\n";
    for (text, code, says) in [
        (
            format!("[sender]\ninterface = \"nonesuch0\"\n{channel}"),
            "E-IFACE",
            ["wrong.toml:2: `interface`: ", "nonesuch0"],
        ),
        (
            format!("{channel}[sender]\ngroup-base = \"10.0.0.1\"\n"),
            "E-GROUP",
            ["wrong.toml:4: `group-base`: ", "10.0.0.1"],
        ),
        (
            format!("{channel}\n[[channel]]\nurl = \"x\"\n"),
            "E-URL",
            ["wrong.toml:5: `url` of channel 2: ", "`x`"],
        ),
        (format!("{channel}[sender]\nttl = \"x\"\n"), "E-CONFIG", ["wrong.toml:4: `ttl`: ", hint]),
    ] {
        let file = write("wrong.toml", &text);
        assert_error(&program(&["--config", &file]), code, 2, &says);
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn arguments_that_are_refused() {
    let url = "http://127.0.0.1:9/x.m3u8";
    let says = ["'banana' for '--group-base <GROUP>'", "mahp-sender --help"];
    assert_error(&program(&[url, "--group-base", "banana"]), "E-USAGE", 2, &says);
    let says = ["'--ttll'", "try: a similar argument exists: '--ttl'"];
    assert_error(&program(&[url, "--ttll", "3"]), "E-USAGE", 2, &says);
    assert_error(&program(&["probe"]), "E-USAGE", 2, &["<URL>"]);
}

#[test]
fn variables_that_are_none() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mahp-sender"));
    command.args(["http://127.0.0.1:9/x.m3u8", "--dry-run"]).env("MAHP_SENDER_GROUPBASE", "232.1.1.1");
    let output = command.env("MAHP_SENDER_TTL", "3").stdin(Stdio::null()).output().expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("W-ENVIRONMENT: MAHP_SENDER_GROUPBASE: "), "{stderr}");
    assert!(stderr.contains("did you mean MAHP_SENDER_GROUP_BASE?"), "{stderr}");
    assert!(!stderr.contains("MAHP_SENDER_TTL"), "{stderr}");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for args in [&["config", "print"][..], &["config", "print", "--default"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mahp-sender"));
        let output =
            command.args(args).stdout(writer).stderr(Stdio::piped()).output().expect("the program runs");
        assert_eq!(
            (String::from_utf8_lossy(&output.stderr).as_ref(), output.status.code()),
            ("", Some(0)),
            "{args:?}"
        );
    }
}

/// Whoever read the log has gone: nothing that is said there may keep a signal from ending the program.
#[tokio::test]
async fn a_reader_of_the_log_that_has_gone_keeps_nobody_running() {
    let origin = ScriptedOrigin::start().await;
    crate::support::segments(&origin, "/live", 1, 5);
    origin.set("/live/media.m3u8", Reply::ok(crate::support::playlist(1, 5, &[])));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let args = with(origin.url("/live/media.m3u8").as_str(), &[]);
    let folder = std::env::temp_dir().join(format!("mahp-sender-cli-{}", std::process::id()));
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_mahp-sender"))
        .args(args)
        .env("XDG_STATE_HOME", folder)
        .env("MAHP_LOG", "debug")
        .env_remove("STATE_DIRECTORY")
        .stdout(Stdio::piped())
        .stderr(writer)
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    while !lines.next_line().await.expect("read").expect("a banner").starts_with("status: ") {}
    let pid = child.id().expect("running").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it ends");
    assert_eq!(ended.expect("waited").code(), Some(0));
}

#[test]
fn help_lists_defaults_and_common_mistakes() {
    let help = String::from_utf8(program(&["--help"]).stdout).expect("text");
    for text in ["Common mistakes", "--ttl", "MAHP_SENDER_TTL", "[default: `[::]:7780`", "IGMP querier"] {
        assert!(help.contains(text), "{text}");
    }
}

fn list(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

#[test]
fn other_commands() {
    assert_error(&program(&["status", "--admin", "127.0.0.1:9"]), "E-ADMIN", 1, &["--admin", "mahp-sender"]);
    assert_error(&program(&["probe", "ftp://host/x"]), "E-URL", 2, &["scheme `ftp`"]);
    for shell in ["bash", "zsh", "fish"] {
        let output = program(&["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("mahp-sender") && text.contains("dry-run"),
            "{shell}"
        );
    }
    for bad in [&["probe"][..], &["completions", "csh"], &["nonesuch", "--frobnicate"]] {
        assert_eq!(program(bad).status.code(), Some(2), "{bad:?}");
    }
}

#[tokio::test]
async fn dry_run_shows_the_plan_and_sends_nothing() {
    let origin = ScriptedOrigin::start().await;
    origin.set(
        "/live/master.m3u8",
        Reply::ok("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2000000,RESOLUTION=640x360\na/media.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=5000000,RESOLUTION=1280x720\nb/media.m3u8\n"),
    );
    for name in ["a", "b"] {
        origin.set(&format!("/live/{name}/media.m3u8"), Reply::ok(crate::support::playlist(1, 5, &[])));
    }
    let url = origin.url("/live/master.m3u8");
    let output =
        run(vec![url.to_string(), "--dry-run".into(), "--json".into(), "--interface".into(), "lo".into()])
            .await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let renditions = plan["channels"][0]["renditions"].as_array().expect("renditions");
    let ids: Vec<&str> = renditions.iter().filter_map(|r| r["id"].as_str()).collect();
    assert_eq!(ids, ["manifest", "640x360", "1280x720"]);
    assert_eq!(renditions[1]["flow"]["source"], "127.0.0.1");
    assert_eq!(renditions[2]["flow"]["repair_percent"], 15);
    assert_eq!(plan["channels"][0]["live"], true);
    let segments = origin.requests().iter().filter(|(p, _)| p.ends_with(".ts")).count();
    assert_eq!(segments, 0, "no segment was asked for");
    let again =
        run(vec![url.to_string(), "--dry-run".into(), "--json".into(), "--interface".into(), "lo".into()])
            .await;
    assert_eq!(again.stdout, output.stdout, "the same groups at each start");
    let probe = run(list(&["probe", url.as_str(), "--json", "--interface", "lo"])).await;
    assert_eq!(probe.stdout, output.stdout, "the same in other words");
    let text = run(vec![
        url.to_string(),
        "--dry-run".into(),
        "--interface".into(),
        "lo".into(),
        "--renditions".into(),
        "1280x720".into(),
    ])
    .await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("1280x720") && !text.contains("640x360") && text.contains("nothing was sent"),
        "{text}"
    );
}
