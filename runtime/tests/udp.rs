//! Multicast sockets on the loopback interface, IPv4, without privileges.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_runtime::udp::{
    DEFAULT_RECEIVE_BUFFER, Interface, MulticastReceiver, MulticastSender, ReceiveOptions, SendOptions,
    interface, interfaces, route_to,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Long enough for a busy machine; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// The last packet of a run; loopback keeps the order, so nothing comes after it.
const END: &[u8] = b"end";

fn lo() -> Interface {
    interface("lo").unwrap()
}

/// A group of this test process alone, and another for each `n`.
fn group(n: u8) -> IpAddr {
    let [a, b] = u16::try_from(std::process::id() & 0xffff).unwrap().to_be_bytes();
    Ipv4Addr::new(232, a, b, n).into()
}

/// A UDP port that nobody had a moment ago.
fn port() -> u16 {
    std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn sender(gso: bool) -> MulticastSender {
    let options = SendOptions { source: HERE, interface: lo(), ttl: 0, dscp: 0 };
    MulticastSender::with_gso(&options, gso).unwrap()
}

fn join(source: Option<&str>, group: IpAddr, port: u16) -> MulticastReceiver {
    let source = source.map(|s| s.parse().unwrap());
    let receive_buffer = DEFAULT_RECEIVE_BUFFER;
    MulticastReceiver::join(&ReceiveOptions { source, group, port, interface: lo(), receive_buffer }).unwrap()
}

/// Everything that comes up to and without the end mark, with the senders' addresses.
async fn until_end(receiver: &mut MulticastReceiver) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut got = Vec::new();
    while got.last().is_none_or(|(_, bytes): &(_, Vec<u8>)| bytes != END) {
        let wait = receiver.receive(|from, bytes| got.push((from, bytes.to_vec())));
        timeout(PATIENCE, wait).await.expect("packets come").unwrap();
    }
    got.pop();
    got
}

fn packets(count: usize, size: usize, last: usize) -> Vec<u8> {
    (0..(count - 1) * size + last).map(|i| u8::try_from((i / size * 7 + i % size) % 251).unwrap()).collect()
}

async fn a_batch_arrives_split(gso: bool, expected_calls: u64) {
    let (to, sender) = (SocketAddr::new(group(1 + u8::from(gso)), port()), sender(gso));
    let mut receiver = join(Some("127.0.0.1"), to.ip(), to.port());
    let sent = packets(100, 1360, 41);
    sender.send(to, &sent, 1360).await.unwrap();
    assert_eq!(sender.calls(), expected_calls);
    sender.send(to, END, 1360).await.unwrap();
    let got = until_end(&mut receiver).await;
    let from = SocketAddr::new(HERE, sender.local_addr().unwrap().port());
    assert!(got.iter().all(|(f, _)| *f == from), "{from} in {:?}", got.first());
    let lengths: Vec<usize> = got.iter().map(|(_, b)| b.len()).collect();
    assert_eq!(lengths, [vec![1360; 99], vec![41]].concat());
    assert!(
        got.iter().map(|(_, b)| &b[..]).collect::<Vec<_>>().concat() == sent,
        "same bytes in the same order"
    );
    assert_eq!(receiver.kernel_drops().unwrap(), 0);
}

#[tokio::test]
async fn a_gso_batch_arrives_split() {
    a_batch_arrives_split(true, 100usize.div_ceil(48) as u64).await;
}

#[tokio::test]
async fn without_gso_every_packet_is_a_call() {
    a_batch_arrives_split(false, 100).await;
}

#[tokio::test]
async fn only_the_joined_source_is_heard() {
    let (to, sender) = (SocketAddr::new(group(3), port()), sender(true));
    let mut right = join(Some("127.0.0.1"), to.ip(), to.port());
    let mut wrong = join(Some("127.0.0.9"), to.ip(), to.port());
    let mut any = join(None, to.ip(), to.port());
    sender.send(to, b"data", 1360).await.unwrap();
    sender.send(to, END, 1360).await.unwrap();
    assert_eq!(until_end(&mut right).await.len(), 1);
    assert_eq!(until_end(&mut any).await.len(), 1);
    // Both others have heard the end, so the packets have passed every socket of this group.
    let nothing = timeout(Duration::ZERO, wrong.receive(|from, _| panic!("heard {from}"))).await;
    assert!(nothing.is_err());
    assert_eq!(wrong.kernel_drops().unwrap(), 0);
}

#[tokio::test]
async fn groups_on_one_port_do_not_mix() {
    let (port, sender) = (port(), sender(true));
    let (a, b) = (SocketAddr::new(group(4), port), SocketAddr::new(group(5), port));
    let mut at_a = join(Some("127.0.0.1"), a.ip(), port);
    let mut at_b = join(Some("127.0.0.1"), b.ip(), port);
    sender.send(a, b"for a", 1360).await.unwrap();
    sender.send(b, b"for b", 1360).await.unwrap();
    for to in [a, b] {
        sender.send(to, END, 1360).await.unwrap();
    }
    let bytes = |got: Vec<(SocketAddr, Vec<u8>)>| got.into_iter().map(|(_, b)| b).collect::<Vec<_>>();
    assert_eq!(bytes(until_end(&mut at_a).await), [b"for a"]);
    assert_eq!(bytes(until_end(&mut at_b).await), [b"for b"]);
}

#[tokio::test]
async fn dropping_the_future_loses_nothing() {
    let (to, sender) = (SocketAddr::new(group(6), port()), sender(true));
    let mut receiver = join(Some("127.0.0.1"), to.ip(), to.port());
    let mut got = 0;
    for round in 0u8..50 {
        let _ = timeout(Duration::ZERO, receiver.receive(|_, _| got += 1)).await;
        sender.send(to, &[round], 1360).await.unwrap();
        let _ = timeout(Duration::ZERO, receiver.receive(|_, _| got += 1)).await;
    }
    sender.send(to, END, 1360).await.unwrap();
    assert_eq!(got + until_end(&mut receiver).await.len(), 50);
}

/// The last column of /proc/net/udp for the socket bound to `to`.
fn listed_drops(to: SocketAddr) -> u64 {
    let IpAddr::V4(ip) = to.ip() else { panic!("{to}") };
    let address = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), to.port());
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let line = table.lines().find(|l| l.split_whitespace().nth(1) == Some(&address)).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_overflowing_socket_counts_its_drops() {
    let (to, sender) = (SocketAddr::new(group(7), port()), sender(false));
    let options = ReceiveOptions {
        source: Some(HERE),
        group: to.ip(),
        port: to.port(),
        interface: lo(),
        receive_buffer: 16 << 10,
    };
    let mut receiver = MulticastReceiver::join(&options).unwrap();
    assert!(receiver.receive_buffer() < 64 << 10);
    sender.send(to, &packets(500, 1360, 1360), 1360).await.unwrap();
    let dropped = receiver.kernel_drops().unwrap();
    assert!(dropped > 0);
    assert_eq!(dropped, listed_drops(to));
    let mut got = 0;
    while got + dropped < 500 {
        let wait = receiver.receive(|_, _| got += 1);
        timeout(PATIENCE, wait).await.expect("what was not dropped is there").unwrap();
    }
    assert_eq!((got + dropped, receiver.kernel_drops().unwrap()), (500, dropped));
}

#[tokio::test]
async fn a_packet_above_the_mtu_is_an_error_and_gso_stays() {
    let sender = sender(true);
    let to = SocketAddr::new(group(8), port());
    let error = sender.send(to, &[0; 65_508], 65_508).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(sender.send(to, b"x", 0).await.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    sender.send(to, b"", 0).await.unwrap();
    assert!(sender.gso());
}

#[tokio::test]
async fn what_cannot_be_joined_is_told() {
    let options = |source: Option<&str>, group: &str, port| ReceiveOptions {
        source: source.map(|s| s.parse().unwrap()),
        group: group.parse().unwrap(),
        port,
        interface: lo(),
        receive_buffer: DEFAULT_RECEIVE_BUFFER,
    };
    for (bad, words) in [
        (options(None, "10.0.0.1", 5000), "10.0.0.1 is not a multicast address"),
        (options(Some("::1"), "232.1.1.1", 5000), "different families"),
        (options(Some("232.1.1.2"), "232.1.1.1", 5000), "not the address of a sender"),
        (options(Some("127.0.0.1"), "232.1.1.1", 0), "port 0"),
    ] {
        let error = MulticastReceiver::join(&bad).unwrap_err();
        assert_eq!((error.code, error.exit), ("E-GROUP", 2), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    let mut gone = options(Some("127.0.0.1"), "232.1.1.1", port());
    gone.interface.index = 0x7fff_0000;
    let error = MulticastReceiver::join(&gone).unwrap_err();
    assert_eq!((error.code, error.exit), ("E-JOIN-IFACE", 1), "{error}");
    assert!(error.hint.contains("lo (127.0.0.1"), "{error}");
}

#[tokio::test]
async fn what_cannot_send_is_told() {
    let options =
        |source: &str, ttl, dscp| SendOptions { source: source.parse().unwrap(), interface: lo(), ttl, dscp };
    for (bad, code) in [
        (options("192.0.2.77", 1, 0), "E-SOURCE"),
        (options("127.0.0.1", 256, 0), "E-TTL"),
        (options("127.0.0.1", 1, 64), "E-DSCP"),
    ] {
        let error = MulticastSender::new(&bad).unwrap_err();
        assert_eq!((error.code, error.exit), (code, 2), "{error}");
        assert!(!error.hint.is_empty());
    }
}

#[test]
fn interfaces_are_found_by_name_address_and_route() {
    let lo = lo();
    assert!(lo.up && lo.addresses.contains(&HERE) && lo.index > 0);
    assert_eq!(interface("127.0.0.1").unwrap(), lo);
    assert!(interfaces().unwrap().contains(&lo));
    assert_eq!(route_to(HERE).unwrap(), (lo.clone(), HERE));
    assert_eq!(route_to("127.9.9.9".parse().unwrap()).unwrap().0, lo);
    for unknown in ["nope0", "192.0.2.77"] {
        let error = interface(unknown).unwrap_err();
        assert_eq!((error.code, error.exit), ("E-IFACE", 2));
        assert!(error.message.contains(unknown) && error.hint.contains("lo ("), "{error}");
    }
}
