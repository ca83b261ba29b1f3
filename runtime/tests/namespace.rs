//! What needs an interface of our own: IPv6 multicast, the MTU, the kernel's limits. Each check runs in a network namespace
//! made for it (`unshare`), with an interface whose multicast loops back. Where namespaces are forbidden the check is
//! skipped, which is printed; with `CI` in the environment that is a failure.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_runtime::udp::{
    DEFAULT_RECEIVE_BUFFER, MulticastReceiver, MulticastSender, ReceiveOptions, SendOptions, interface,
    route_to,
};
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Socket, Type};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use tokio::time::timeout;

const ROLE: &str = "MAHP_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(20);
const END: &[u8] = b"end";
const SETUP: [&str; 6] = [
    "ip link set lo up",
    "ip link add mahp0 mtu 1500 type veth peer name mahp1",
    "ip link set mahp1 up",
    "ip link set mahp0 up",
    "ip addr add 10.77.0.5/24 dev mahp0",
    "ip -6 addr add fd77::5/64 dev mahp0 nodad",
];

/// Runs `role` of this binary in a namespace of its own.
fn in_namespace(role: &str) {
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--", program]);
        command
    };
    let possible = unshare("true").output().is_ok_and(|o| o.status.success())
        && Command::new("ip").arg("-V").output().is_ok_and(|o| o.status.success());
    if !possible {
        let why = format!("{role}: skipped, because network namespaces (unshare, ip) are not available here");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let mut command = unshare(std::env::current_exe().unwrap().to_str().unwrap());
    let output = command.args(["--exact", "role", "--nocapture"]).env(ROLE, role).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}:\n{text}");
    assert!(text.contains(&format!("{role}: done")), "{role} did not run:\n{text}");
}

#[test]
fn ipv6_ssm_hears_only_the_joined_source() {
    in_namespace("ssm");
}

#[test]
fn ipv6_link_local_scope() {
    in_namespace("link-local");
}

#[test]
fn hop_limit_and_dscp_are_on_the_wire() {
    in_namespace("marks");
}

#[test]
fn packets_above_the_mtu_are_refused_and_do_not_switch_gso_off() {
    in_namespace("mtu");
}

#[test]
fn the_limit_of_memberships_is_told() {
    in_namespace("limit");
}

#[test]
fn routes_lead_to_interfaces() {
    in_namespace("routes");
}

/// Not a test of its own: what runs inside the namespace.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    for line in SETUP {
        shell(line);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "ssm" => ssm().await,
            "link-local" => link_local().await,
            "marks" => marks().await,
            "mtu" => mtu().await,
            "limit" => limit(),
            "routes" => routes(),
            other => panic!("{other}"),
        }
    });
    println!("{role}: done");
}

fn shell(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sender(source: &str) -> MulticastSender {
    let options =
        SendOptions { source: ip(source), interface: interface("mahp0").unwrap(), ttl: 7, dscp: 34 };
    MulticastSender::new(&options).unwrap()
}

fn join(source: Option<&str>, group: &str) -> MulticastReceiver {
    MulticastReceiver::join(&options(source, group)).unwrap()
}

fn options(source: Option<&str>, group: &str) -> ReceiveOptions {
    ReceiveOptions {
        source: source.map(ip),
        group: ip(group),
        port: 5000,
        interface: interface("mahp0").unwrap(),
        receive_buffer: DEFAULT_RECEIVE_BUFFER,
    }
}

async fn until_end(receiver: &mut MulticastReceiver) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut got = Vec::new();
    while got.last().is_none_or(|(_, bytes): &(_, Vec<u8>)| bytes != END) {
        let wait = receiver.receive(|from, bytes| got.push((from, bytes.to_vec())));
        timeout(PATIENCE, wait).await.expect("packets come").unwrap();
    }
    got.pop();
    got
}

async fn ssm() {
    let group = "ff3e::8000:1";
    let mut right = join(Some("fd77::5"), group);
    let mut wrong = join(Some("fd77::9"), group);
    let mut any = join(None, group);
    let mut other = join(Some("fd77::5"), "ff3e::8000:2");
    let sender = sender("fd77::5");
    let to = SocketAddr::new(ip(group), 5000);
    let sent: Vec<u8> = (0..100 * 1360 - 1000).map(|i| u8::try_from(i / 1360).unwrap()).collect();
    sender.send(to, &sent, 1360).await.unwrap();
    sender.send(to, END, 1360).await.unwrap();
    sender.send(SocketAddr::new(ip("ff3e::8000:2"), 5000), END, 1360).await.unwrap();
    assert!(sender.gso());
    for receiver in [&mut right, &mut any] {
        let got = until_end(receiver).await;
        assert_eq!(got.len(), 100);
        assert!(got.iter().all(|(from, _)| *from == sender.local_addr().unwrap()));
        assert!(got.iter().map(|(_, b)| &b[..]).collect::<Vec<_>>().concat() == sent);
        assert_eq!(receiver.kernel_drops().unwrap(), 0);
    }
    assert_eq!(until_end(&mut other).await, []);
    let nothing = timeout(Duration::ZERO, wrong.receive(|from, _| panic!("heard {from}"))).await;
    assert!(nothing.is_err());
}

async fn link_local() {
    let own = interface("mahp0").unwrap().addresses.into_iter().find(|a| match a {
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    });
    let own = own.expect("the kernel gives one").to_string();
    let mut receiver = join(Some(&own), "ff32::8000:1");
    // The address is usable once duplicate address detection is over.
    let options = SendOptions { source: ip(&own), interface: interface("mahp0").unwrap(), ttl: 1, dscp: 0 };
    let mut sender = MulticastSender::new(&options);
    for _ in 0..100 {
        if sender.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        sender = MulticastSender::new(&options);
    }
    let to = SocketAddr::new(ip("ff32::8000:1"), 5000);
    let sender = sender.unwrap();
    sender.send(to, b"near", 1360).await.unwrap();
    sender.send(to, END, 1360).await.unwrap();
    assert_eq!(until_end(&mut receiver).await[0].1, b"near");
}

/// The control messages of the next datagram: (level, type, first byte of the data).
fn control(socket: &Socket) -> Vec<(i32, i32, u8)> {
    let mut data = [MaybeUninit::uninit(); 100];
    let mut control = [MaybeUninit::new(0); 256];
    let mut buffers = [MaybeUninitSlice::new(&mut data)];
    let mut message = MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
    socket.recvmsg(&mut message, 0).unwrap();
    let length = message.control_len();
    // SAFETY: all of it was initialised above.
    let bytes: Vec<u8> = control[..length].iter().map(|b| unsafe { b.assume_init() }).collect();
    let word = size_of::<usize>();
    let (mut at, mut out) = (0, Vec::new());
    while at + word + 8 < length {
        let size = usize::from_ne_bytes(bytes[at..at + word].try_into().unwrap());
        let number = |from: usize| i32::from_ne_bytes(bytes[from..from + 4].try_into().unwrap());
        out.push((number(at + word), number(at + word + 4), bytes[at + word + 8]));
        at += size.next_multiple_of(word);
    }
    out
}

async fn marks() {
    let index = interface("mahp0").unwrap().index;
    let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    let group: Ipv6Addr = "ff3e::8000:1".parse().unwrap();
    v6.bind(&SocketAddr::new(group.into(), 5000).into()).unwrap();
    v6.join_multicast_v6(&group, index).unwrap();
    v6.set_recv_tclass_v6(true).unwrap();
    v6.set_recv_hoplimit_v6(true).unwrap();
    v6.set_read_timeout(Some(PATIENCE)).unwrap();
    let two = [0; 50];
    // Two packets in one call: the marks must be on what GSO makes, too.
    sender("fd77::5").send(SocketAddr::new(group.into(), 5000), &two, 25).await.unwrap();
    for _ in 0..2 {
        let control = control(&v6);
        let tclass = (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 34 << 2);
        let hops = (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 7);
        assert!(control.contains(&tclass) && control.contains(&hops), "{control:?}");
    }

    let v4 = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let group = std::net::Ipv4Addr::new(232, 7, 7, 7);
    v4.bind(&SocketAddr::new(group.into(), 5000).into()).unwrap();
    v4.join_ssm_v4(&"10.77.0.5".parse().unwrap(), &group, &"10.77.0.5".parse().unwrap()).unwrap();
    v4.set_recv_tos_v4(true).unwrap();
    v4.set_read_timeout(Some(PATIENCE)).unwrap();
    sender("10.77.0.5").send(SocketAddr::new(group.into(), 5000), &two, 25).await.unwrap();
    for _ in 0..2 {
        let control = control(&v4);
        assert!(control.contains(&(libc::IPPROTO_IP, libc::IP_TOS, 34 << 2)), "{control:?}");
    }
}

async fn mtu() {
    for (source, group, largest) in [("10.77.0.5", "232.7.7.7", 1472), ("fd77::5", "ff3e::8000:1", 1452)] {
        let mut receiver = join(Some(source), group);
        let sender = sender(source);
        let to = SocketAddr::new(ip(group), 5000);
        let bytes = [7; 3000];
        for packets in [&bytes[..=largest], &bytes[..]] {
            let error = sender.send(to, packets, largest + 1).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
        }
        assert!(sender.gso());
        sender.send(to, &bytes, largest).await.unwrap();
        sender.send(to, END, largest).await.unwrap();
        let lengths: Vec<usize> = until_end(&mut receiver).await.iter().map(|(_, b)| b.len()).collect();
        assert_eq!(lengths, [largest, largest, 3000 - 2 * largest]);
    }
}

fn limit() {
    shell("echo 0 > /proc/sys/net/ipv4/igmp_max_memberships");
    let error = MulticastReceiver::join(&options(Some("10.77.0.5"), "232.7.7.7")).unwrap_err();
    assert_eq!(error.code, "E-JOIN-LIMIT", "{error}");
    assert!(error.hint.contains("igmp_max_memberships"), "{error}");
    // Only IPv4 has that limit.
    join(Some("fd77::5"), "ff3e::8000:1");
}

fn routes() {
    let (found, local) = route_to(ip("10.77.0.99")).unwrap();
    assert_eq!((found.name.as_str(), local), ("mahp0", ip("10.77.0.5")));
    assert!(found.multicast && found.up);
    assert_eq!(route_to(ip("fd77::1234")).unwrap().0.name, "mahp0");
    assert_eq!(interface("10.77.0.5").unwrap().name, "mahp0");
    assert_eq!(interface("fd77::5").unwrap().name, "mahp0");
    let error = route_to(ip("10.99.0.1")).unwrap_err();
    assert_eq!((error.code, error.exit), ("E-ROUTE", 1));
    assert!(error.message.contains("10.99.0.1: no route"), "{error}");
    assert!(error.hint.contains("mahp0 (10.77.0.5"), "{error}");
    shell("ip link set mahp0 down");
    assert!(!interface("mahp0").unwrap().up);
}
