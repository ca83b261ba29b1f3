//! Each cause for which nothing arrives, made for real, and what `mahp-receiver doctor` says of it. Two network namespaces joined by
//! a veth pair: this box, and one that sends. Where namespaces are forbidden nothing is run, which is printed; with `CI` in the
//! environment that is a failure.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_common::auth::SigningKey;
use mahp_common::catalog::{
    Channel, Endpoint, Flow, Format, Rendition, Role, SessionDescription, WireProfile,
};
use mahp_common::{Tsi, WallTime};
use mahp_receiver::doctor::{Finding, Report};
use mahp_runtime::udp::{MulticastSender, SendOptions, interface};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "MAHP_TEST_ROLE";
const PROGRAM: &str = env!("CARGO_BIN_EXE_mahp-receiver");
const PATIENCE: Duration = Duration::from_secs(30);
/// This box's end, and the sender's.
const BOX: &str = "mahp0";
const FAR: &str = "mahp1";
const SOURCE: &str = "10.77.0.5";
const OTHER: &str = "10.77.0.6";
/// Not in the network of the link.
const REMOTE: &str = "10.99.0.5";
const GROUP: &str = "232.1.1.1";
const PORT: u16 = 5000;
/// Where the sender's namespace is started from: it must be there before the link can be moved into it.
const SENDER: &str = "sender";

/// Runs `role` of this binary in a namespace of its own.
fn in_namespace(role: &str, needs: &[&str]) {
    let missing: Vec<&str> = needs
        .iter()
        .chain(&["ip -V", "unshare --map-root-user --net true"])
        .filter(|line| !Command::new("sh").args(["-c", line]).output().is_ok_and(|o| o.status.success()))
        .copied()
        .collect();
    if !missing.is_empty() {
        let why = format!("NOT RUN: {role}: these do not work here: {}", missing.join("; "));
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let output = in_new_namespace(role).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}:\n{text}");
    assert!(text.contains(&format!("{role}: done")), "{role} did not run:\n{text}");
}

fn in_new_namespace(role: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "role", "--nocapture"]).env(ROLE, role).env_remove("CI");
    command
}

#[test]
fn a_healthy_path_is_well() {
    in_namespace("healthy", &[]);
}

#[test]
fn the_interface_is_down() {
    in_namespace("down", &[]);
}

#[test]
fn nobody_has_joined() {
    in_namespace("not-joined", &[]);
}

#[test]
fn the_source_is_another() {
    in_namespace("wrong-source", &[]);
}

#[test]
fn the_interface_is_another() {
    in_namespace("wrong-interface", &[]);
}

#[test]
fn the_reverse_path_filter_drops() {
    in_namespace("rp-filter", &[]);
}

#[test]
fn the_receive_buffer_is_too_small() {
    in_namespace("buffer", &[]);
}

#[test]
fn a_firewall_drops() {
    in_namespace("firewall", &["nft --version"]);
}

#[test]
fn nothing_is_on_the_wire() {
    in_namespace("nothing", &[]);
}

#[test]
fn an_interface_made_anew_is_joined_again() {
    in_namespace("made-anew", &[]);
}

/// Not a test of its own: what runs inside the namespace.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if role == SENDER {
        return sender();
    }
    shell("ip link set lo up");
    match role.as_str() {
        "healthy" => healthy(),
        "down" => down(),
        "not-joined" => not_joined(),
        "wrong-source" => wrong_source(),
        "wrong-interface" => wrong_interface(),
        "rp-filter" => rp_filter(),
        "buffer" => buffer(),
        "firewall" => firewall(),
        "nothing" => nothing(),
        "made-anew" => made_anew(),
        other => panic!("{other}"),
    }
    println!("{role}: done");
}

fn healthy() {
    let _link = Link::new(SOURCE, Pace::STEADY);
    let (finding, status) = doctor_of(SOURCE, &[]);
    assert_eq!((finding.code.as_str(), status), ("D-OK", 0), "{finding:?}");
    assert!(finding.message.contains("on mahp0"), "{finding:?}");
    let receiver = Receiver::start(&["--join=always"]);
    let (finding, status) = receiver.doctor();
    assert_eq!((finding.code.as_str(), status), ("D-OK", 0), "{finding:?}");
    assert!(finding.subject.starts_with("news/high 10.77.0.5@232.1.1.1:5000"), "{finding:?}");
    // The page's button says the same.
    let page: Report = serde_json::from_slice(&get("127.0.0.1:7790", "/api/doctor")).unwrap();
    assert_eq!((page.findings[0].code.as_str(), &page.findings[0].subject), ("D-OK", &finding.subject));
    // For people.
    let text = run(&["doctor"]);
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("ok[D-OK]: news/high"), "{text:?}");
}

fn down() {
    let _link = Link::new(SOURCE, Pace::STEADY);
    shell("ip link set mahp0 down");
    assert_broken("D-IFACE-DOWN", &["no route to 10.77.0.5"], &doctor_of(SOURCE, &[]));
    let found = doctor_of(SOURCE, &["--interface", BOX]);
    assert_broken("D-IFACE-DOWN", &["interface mahp0 is down", "ip link set mahp0 up"], &found);
    apply(&found);
    assert_well(&doctor_of(SOURCE, &["--interface", BOX]));
}

fn not_joined() {
    let _link = Link::new(SOURCE, Pace::STEADY);
    // No receiver, and no flow named: nobody can have joined.
    let nobody = run(&["doctor"]);
    let text = String::from_utf8_lossy(&nobody.stderr);
    assert_eq!(nobody.status.code(), Some(2), "{text}");
    assert!(text.contains("error[E-ADMIN]") && text.contains("is mahp-receiver running?"), "{text}");
    assert!(!text.contains("os error"), "{text}");
    // A receiver that nobody watches by.
    let receiver = Receiver::start(&[]);
    let (finding, status) = receiver.doctor();
    assert_eq!((finding.code.as_str(), status), ("D-NOT-JOINED", 0), "{finding:?}");
    assert!(
        finding.message.contains("nobody watches") && finding.message.contains("/s on mahp0"),
        "{finding:?}"
    );
    drop(receiver);
    let receiver = Receiver::start(&["--join=always"]);
    assert_well(&receiver.doctor());
}

fn wrong_source() {
    let _link = Link::new(OTHER, Pace::STEADY);
    let says = ["joined for source 10.77.0.5", "come from 10.77.0.6", "--announce-source 10.77.0.6"];
    assert_broken("D-WRONG-SOURCE", &says, &doctor_of(SOURCE, &[]));
    assert_well(&doctor_of(OTHER, &[]));
}

fn wrong_interface() {
    let _link = Link::new(SOURCE, Pace::STEADY);
    second_interface();
    let found = doctor_of(SOURCE, &["--interface", "mahp2"]);
    assert_broken("D-WRONG-IFACE", &["joined on mahp2", "arrive on mahp0", "--interface mahp0"], &found);
    assert_well(&doctor_of(SOURCE, &["--interface", BOX]));
}

fn rp_filter() {
    let _link = Link::new(REMOTE, Pace::STEADY);
    second_interface();
    let set = |mode| {
        shell(&format!(
            "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo {mode} > /proc/sys/net/ipv4/conf/mahp0/rp_filter"
        ));
    };
    let ask = || doctor_of(REMOTE, &["--interface", BOX]);
    set(2);
    let found = ask();
    assert_broken("D-RP-FILTER", &["loose on mahp0", "no route to 10.99.0.5"], &found);
    shell("ip route add 10.99.0.0/24 dev mahp2");
    set(1);
    let found = ask();
    assert_broken("D-RP-FILTER", &["strict on mahp0", "leads through mahp2"], &found);
    apply(&found); // a route
    assert_well(&ask());
    shell("ip route del 10.99.0.5 dev mahp0");
    // A route of the box's own: what the box would send there says nothing of what the filter looks up.
    shell("ip route add 10.99.0.5/32 dev lo");
    let found = ask();
    assert_broken("D-RP-FILTER", &["strict on mahp0"], &found);
    apply(&found);
    assert_well(&ask());
    shell("ip route del 10.99.0.5 dev mahp0");
    set(0);
    assert_well(&ask());
}

fn buffer() {
    let _link = Link::new(SOURCE, Pace { packets: 150, every_ms: 100 });
    let receiver = Receiver::start(&["--join=always", "--recv-buffer=64KiB"]);
    let (finding, status) = receiver.doctor();
    assert_eq!((finding.code.as_str(), status), ("D-RCVBUF", 1), "{finding:?}");
    assert!(
        finding.message.contains("packets arrive") && finding.message.contains("the kernel dropped"),
        "{finding:?}"
    );
    let grows = finding.fix.contains("--recv-buffer") || finding.fix.contains("net.core.rmem_max");
    assert!(grows, "{finding:?}");
    let drops = || {
        let metrics = String::from_utf8(get("127.0.0.1:7791", "/metrics")).unwrap();
        let line = metrics.lines().find_map(|l| l.strip_prefix("mahp_receiver_socket_drops_total "));
        line.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
    };
    until(|| drops() > 0.0);
    drop(receiver);
    let receiver = Receiver::start(&["--join=always"]);
    assert_well(&receiver.doctor());
}

fn firewall() {
    let _link = Link::new(SOURCE, Pace::STEADY);
    shell("nft add table inet filter");
    shell("nft add chain inet filter input '{ type filter hook input priority 0; }'");
    shell("nft add rule inet filter input meta l4proto udp drop");
    let found = doctor_of(SOURCE, &[]);
    assert_broken("D-FIREWALL", &["reached mahp0", "drops UDP to 232.1.1.1:5000"], &found);
    apply(&found);
    assert_well(&doctor_of(SOURCE, &[]));
}

fn nothing() {
    let link = Link::new(SOURCE, Pace { packets: 0, every_ms: 100 });
    let found = doctor_of(SOURCE, &[]);
    assert_broken("D-NO-DATA", &["nothing of it reaches this box", "querier", "PIM", "AMT"], &found);
    drop(link);
    // Packets of another flow on the same link change nothing.
    let _link = Link::new(SOURCE, Pace::STEADY);
    let other = run(&["doctor", "--json", &format!("{SOURCE}@232.1.1.2:{PORT}")]);
    assert_broken("D-NO-DATA", &["232.1.1.2"], &read(&other));
    assert_well(&doctor_of(SOURCE, &[]));
}

/// What a restart of the network on a router does: the membership goes with the old interface.
fn made_anew() {
    let link = Link::new(SOURCE, Pace::STEADY);
    let receiver = Receiver::start(&["--join=always"]);
    assert_well(&receiver.doctor());
    drop(link);
    until(|| !interfaces().contains(BOX));
    until(|| receiver.status().contains("cannot be joined"));
    let _link = Link::new(SOURCE, Pace::STEADY);
    until(|| receiver.doctor().0.code == "D-OK");
}

fn interfaces() -> String {
    std::fs::read_to_string("/proc/net/dev").unwrap()
}

/// A second network, where nothing comes from.
fn second_interface() {
    shell("ip link add mahp2 type veth peer name mahp3");
    shell("ip addr add 10.88.0.1/24 dev mahp2");
    shell("ip link set mahp3 up");
    shell("ip link set mahp2 up");
}

fn shell(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Does what the first line of the fix says.
fn apply((finding, _): &(Finding, i32)) {
    // What follows four spaces is an explanation.
    let line = finding.fix.lines().next().unwrap();
    shell(line.split("    ").next().unwrap());
}

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

fn doctor_of(source: &str, more: &[&str]) -> (Finding, i32) {
    let flow = format!("{source}@{GROUP}:{PORT}");
    read(&run(&[&["doctor", "--json", &flow], more].concat()))
}

/// The worst finding, and the exit status.
fn read(output: &Output) -> (Finding, i32) {
    let text = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(report.blind, Vec::<String>::new(), "root in its namespace sees the wire");
    (report.findings[0].clone(), output.status.code().unwrap())
}

#[track_caller]
fn assert_well((finding, status): &(Finding, i32)) {
    assert_eq!((finding.code.as_str(), *status), ("D-OK", 0), "{finding:?}");
}

#[track_caller]
fn assert_broken(code: &str, says: &[&str], (finding, status): &(Finding, i32)) {
    assert_eq!((finding.code.as_str(), *status), (code, 2), "{finding:?}");
    let text = format!("{} {}\n{}", finding.subject, finding.message, finding.fix);
    for words in says {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// So many packets at once, again and again.
#[derive(Clone, Copy)]
struct Pace {
    packets: u64,
    every_ms: u64,
}

impl Pace {
    const STEADY: Pace = Pace { packets: 1, every_ms: 10 };
}

/// The link and a sender at its other end. Both are gone when it is dropped.
struct Link(Child);

impl Link {
    fn new(source: &str, pace: Pace) -> Link {
        let mut command = in_new_namespace(SENDER);
        command.env("MAHP_TEST_SEND", format!("{source} {} {}", pace.packets, pace.every_ms));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |word: &str| while !lines.next().unwrap().unwrap().contains(word) {};
        wait_for("in a namespace");
        shell(&format!("ip link add {BOX} type veth peer name {FAR}"));
        shell(&format!("ip link set {FAR} netns {}", child.id()));
        shell(&format!("ip addr add 10.77.0.1/24 dev {BOX}"));
        shell(&format!("ip link set {BOX} up"));
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        wait_for("sending");
        // What it prints is of no interest any more, but it must not block.
        std::thread::spawn(move || lines.for_each(drop));
        Link(child)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        // The kernel takes the namespace, and the link, away a little later.
        until(|| !interfaces().contains(BOX));
    }
}

/// The other end.
fn sender() {
    println!("in a namespace");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    shell(&format!("ip addr add {SOURCE}/24 dev {FAR}"));
    shell(&format!("ip addr add {OTHER}/24 dev {FAR}"));
    shell(&format!("ip addr add {REMOTE}/32 dev {FAR}"));
    shell(&format!("ip link set {FAR} up"));
    let order = std::env::var("MAHP_TEST_SEND").unwrap();
    let order: Vec<&str> = order.split(' ').collect();
    let (source, packets, every) = (order[0], order[1].parse().unwrap(), order[2].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = SendOptions {
            source: source.parse().unwrap(),
            interface: interface(FAR).unwrap(),
            ttl: 1,
            dscp: 0,
        };
        let sender = MulticastSender::new(&options).unwrap();
        let to = SocketAddr::new(GROUP.parse().unwrap(), PORT);
        println!("sending");
        let mut tick = tokio::time::interval(Duration::from_millis(every));
        loop {
            tick.tick().await;
            for _ in 0..packets {
                _ = sender.send(to, &[0; 1400], 1400).await;
            }
        }
    });
}

/// A running `mahp-receiver` whose session description comes from this process.
struct Receiver(Child);

impl Receiver {
    fn start(args: &[&str]) -> Receiver {
        let session = serve(description());
        let mut child = Command::new(PROGRAM)
            .args(["--listen=127.0.0.1:7790", "--admin=127.0.0.1:7791", "--state-dir"])
            .arg(state_dir())
            .args(args)
            .arg(format!("http://{session}/"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut banner = BufReader::new(child.stdout.take().unwrap()).lines();
        until(|| banner.next().unwrap().unwrap().starts_with("open http"));
        std::thread::spawn(move || banner.for_each(drop));
        Receiver(child)
    }

    fn doctor(&self) -> (Finding, i32) {
        read(&run(&["doctor", "--json"]))
    }

    fn status(&self) -> String {
        String::from_utf8(run(&["status", "--json"]).stdout).unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        _ = std::fs::remove_dir_all(state_dir());
    }
}

fn state_dir() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mahp-doctor-{}", std::process::id()))
}

/// One channel with one rendition, no repair flow.
fn description() -> Vec<u8> {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let endpoint = Endpoint { source: Some(ip(SOURCE)), group: ip(GROUP), port: PORT, tsi: Tsi(1) };
    let rendition = Rendition {
        id: "high".into(),
        role: Role::Video,
        bitrate_bps: 1_000_000,
        playlist_url: None,
        url_patterns: vec!["http://o.example/news/*.ts".into()],
        codecs: None,
        resolution: None,
        language: None,
        flow: Flow {
            endpoint,
            repair: None,
            repair_layer_2: None,
            profile: WireProfile::Mabr,
            symbol_size: 1344,
            repair_percent: 15,
            rate_bps: 4_000_000,
        },
    };
    let channel = Channel {
        name: "news".into(),
        title: "News".into(),
        format: Format::Hls,
        live: true,
        manifest_url: "http://o.example/news/master.m3u8".into(),
        prefixes: vec!["http://o.example/news/".into()],
        token_parameters: Vec::new(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        part_target_ms: None,
        renditions: vec![rendition],
    };
    let key = SigningKey::from_seed(&[9; 32]);
    let now = WallTime::from_unix_secs(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
    );
    let description = SessionDescription {
        mahp: 1,
        session: "01".into(),
        name: "test".into(),
        issued: now.unix_secs(),
        expires: now.unix_secs() + 3600,
        public_key: key.verifying_key().to_base64(),
        announcement: None,
        channels: vec![channel],
    };
    description.seal(&key).unwrap()
}

/// A web server that has one document.
fn serve(document: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                if line.is_ok_and(|l| l.is_empty()) {
                    break;
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                document.len()
            );
            _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&document));
        }
    });
    address
}

fn get(address: &str, path: &str) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(body)
}
