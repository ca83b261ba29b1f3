//! Whom a receiver on a home router answers over IPv6, in a network namespace that has what such a router has: a network at home out
//! of a delegated prefix, and a link to a provider with neighbours on it. Where namespaces are forbidden nothing is run, which is
//! printed; with `CI` in the environment that is a failure.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

const ROLE: &str = "MAHP_TEST_ROLE";
const PROGRAM: &str = env!("CARGO_BIN_EXE_mahp-receiver");
const PATIENCE: Duration = Duration::from_secs(30);
/// The router at home, a device at home, and a neighbour at the provider.
const ROUTER: &str = "2a00:1:0:10::1";
const HOME: &str = "2a00:1:0:10::9";
const NEIGHBOUR: &str = "2a00:1:ff::6";
/// Each interface has a second address, from which its neighbours' requests are made.
const SETUP: [&str; 11] = [
    "ip link set lo up",
    "ip link add br-lan type veth peer name lan1",
    "ip link add wan type veth peer name wan1",
    "ip link set br-lan up",
    "ip link set lan1 up",
    "ip link set wan up",
    "ip link set wan1 up",
    "ip -6 addr add 2a00:1:0:10::1/60 dev br-lan nodad",
    "ip -6 addr add 2a00:1:0:10::9/60 dev br-lan nodad",
    "ip -6 addr add 2a00:1:ff::5/64 dev wan nodad",
    "ip -6 addr add 2a00:1:ff::6/64 dev wan nodad",
];

#[test]
fn who_is_at_home_is_answered_and_neighbours_at_the_provider_are_not() {
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--", program]);
        command
    };
    let works = |mut command: Command| command.output().is_ok_and(|o| o.status.success());
    let mut version = Command::new("ip");
    version.arg("-V");
    if !works(unshare("true")) || !works(version) {
        let why = "NOT RUN: network namespaces (unshare, ip) do not work here";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let mut command = unshare(std::env::current_exe().unwrap().to_str().unwrap());
    let output = command.args(["--exact", "role", "--nocapture"]).env(ROLE, "router").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("router: done"), "{text}");
}

/// What happens in the namespace.
#[tokio::test]
async fn role() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    SETUP.iter().for_each(|line| run(line));
    // Without a delegated prefix nothing tells the two links apart.
    run("ip -6 route add default via fe80::1 dev wan");
    let receiver = Receiver::start();
    assert_eq!(answer(HOME, ROUTER).await, 403);
    assert_eq!(answer(NEIGHBOUR, ROUTER).await, 403);
    assert_eq!(answer("::1", "::1").await, 200);
    assert_eq!(answer("127.0.0.1", "127.0.0.1").await, 200);
    drop(receiver);
    // As OpenWrt has it.
    run("ip -6 route del default");
    run("ip -6 route add default from 2a00:1::/56 via fe80::1 dev wan");
    run("ip -6 route add unreachable 2a00:1::/56 metric 2147483647");
    let _receiver = Receiver::start();
    assert_eq!(answer(HOME, ROUTER).await, 200);
    assert_eq!(answer(HOME, "2a00:1:ff::5").await, 200);
    assert_eq!(answer(NEIGHBOUR, ROUTER).await, 403);
    assert_eq!(answer(NEIGHBOUR, "2a00:1:ff::5").await, 403);
    println!("router: done");
}

fn run(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A receiver that waits for a sender.
struct Receiver(Child);

impl Receiver {
    fn start() -> Receiver {
        let state = std::env::temp_dir().join(format!("mahp-site-test-{}", std::process::id()));
        let child = Command::new(PROGRAM)
            .args(["http://[::1]:1/", "--state-dir"])
            .arg(state)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut receiver = Receiver(child);
        let output = BufReader::new(receiver.0.stdout.take().unwrap());
        let ready = output.lines().map_while(Result::ok).any(|line| line.starts_with("open http://"));
        assert!(ready, "it ended before it was ready");
        receiver
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The status of what a client at an address is answered.
async fn answer(from: &str, to: &str) -> u16 {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let exchange = async {
        let mut stream = socket.connect(SocketAddr::new(to, 7790)).await.unwrap();
        stream.write_all(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
}
