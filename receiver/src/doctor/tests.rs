//! One test per cause, over what a look found. That a box with the fault yields these facts is shown in `tests/doctor.rs`.

use super::checks::examine;
use super::*;
use std::collections::BTreeMap;

const IFACE: &str = "eth1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn flow() -> Flow {
    Flow {
        name: "news/high".into(),
        source: Some(ip("10.0.0.5")),
        group: Some(ip("232.1.1.1")),
        port: 5000,
        interface: IFACE.into(),
        joined: true,
        joined_for_ms: Some(60_000),
        recv_buffer: 4 << 20,
        must_be_heard: true,
        ..Flow::default()
    }
}

/// Joined as it should be, and nothing arrives.
fn silence() -> FlowLook {
    FlowLook {
        flow: flow(),
        interface: IFACE.into(),
        route: Some(IFACE.into()),
        received: 0,
        membership: Membership::Sources(vec![ip("10.0.0.5")]),
        socket: Some(Socket::default()),
        wire: Some(BTreeMap::new()),
    }
}

fn on_wire(interface: &str, source: &str, packets: u64) -> Option<BTreeMap<(String, IpAddr), u64>> {
    Some(BTreeMap::from([((interface.to_owned(), ip(source)), packets)]))
}

fn facts(look: FlowLook) -> Facts {
    let iface = |name: &str| Iface { name: name.into(), up: true, multicast: true, rp_filter: Some(0) };
    Facts {
        look_ms: 2000,
        interfaces: vec![iface("lo"), iface("eth0"), iface(IFACE)],
        rp_dropped: 0,
        rmem_max: Some(8 << 20),
        flows: vec![look],
        sessions: Vec::new(),
        blind: Vec::new(),
    }
}

fn verdict(facts: &Facts) -> Finding {
    let report = examine(facts);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.severity, report.findings[0].severity);
    report.findings[0].clone()
}

#[track_caller]
fn assert_verdict(facts: &Facts, code: &str, severity: Severity, says: &[&str]) {
    let finding = verdict(facts);
    assert_eq!((finding.code.as_str(), finding.severity), (code, severity), "{finding:?}");
    let text = format!("{}: {}\n{}", finding.subject, finding.message, finding.fix);
    for words in says {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

#[test]
fn what_arrives_is_well() {
    let look = FlowLook { received: 2000, wire: on_wire(IFACE, "10.0.0.5", 2000), ..silence() };
    // Whatever else is odd.
    let facts = Facts { rp_dropped: 100, ..facts(look) };
    assert_verdict(&facts, "D-OK", Severity::Ok, &["news/high 10.0.0.5@232.1.1.1:5000", "1000/s on eth1"]);
    assert_eq!(examine(&facts).severity.exit_code(), 0);
}

#[test]
fn what_nobody_watches_is_joined_for_the_look() {
    let unwatched = Flow { joined: false, ..flow() };
    let look = FlowLook { flow: unwatched, received: 20, ..silence() };
    assert_verdict(&facts(look), "D-NOT-JOINED", Severity::Ok, &["10/s", "nobody watches"]);
}

#[test]
fn interface_down_gone_or_without_multicast() {
    let mut down = facts(silence());
    down.interfaces[2].up = false;
    assert_verdict(&down, "D-IFACE-DOWN", Severity::Broken, &["eth1 is down", "ip link set eth1 up"]);
    let mut deaf = facts(silence());
    deaf.interfaces[2].multicast = false;
    assert_verdict(&deaf, "D-IFACE-DOWN", Severity::Broken, &["ip link set eth1 multicast on"]);
    let mut gone = facts(silence());
    gone.interfaces.pop();
    assert_verdict(&gone, "D-IFACE-DOWN", Severity::Broken, &["no interface eth1", "lo, eth0"]);
    let nowhere = facts(FlowLook { interface: String::new(), route: None, ..silence() });
    assert_verdict(&nowhere, "D-IFACE-DOWN", Severity::Broken, &["no route to 10.0.0.5", "--interface NAME"]);
}

#[test]
fn a_join_that_failed_says_why() {
    let error = "error[E-JOIN-LIMIT]: cannot join\n  try: sysctl -w net.ipv4.igmp_max_memberships=100";
    let failed = Flow { join_error: error.into(), joined: false, ..flow() };
    let facts = facts(FlowLook { flow: failed, membership: Membership::None, ..silence() });
    assert_verdict(&facts, "D-JOIN", Severity::Broken, &["E-JOIN-LIMIT", "\nsysctl -w"]);
}

#[test]
fn not_joined() {
    let facts = facts(FlowLook { membership: Membership::None, ..silence() });
    assert_verdict(&facts, "D-NOT-JOINED", Severity::Broken, &["on eth1", "restart mahp-receiver"]);
}

#[test]
fn wrong_source() {
    let look = FlowLook { wire: on_wire(IFACE, "10.0.0.6", 200), ..silence() };
    let says = ["joined for source 10.0.0.5", "come from 10.0.0.6", "--announce-source 10.0.0.6"];
    assert_verdict(&facts(look), "D-WRONG-SOURCE", Severity::Broken, &says);
    // Another sender on the group besides ours is none of our business.
    let mut wire = on_wire(IFACE, "10.0.0.6", 200);
    wire.as_mut().unwrap().insert((IFACE.into(), ip("10.0.0.5")), 10);
    assert_ne!(verdict(&facts(FlowLook { wire, ..silence() })).code, "D-WRONG-SOURCE");
}

#[test]
fn wrong_interface() {
    let look = FlowLook { wire: on_wire("eth0", "10.0.0.5", 200), ..silence() };
    assert_verdict(&facts(look), "D-WRONG-IFACE", Severity::Broken, &["on eth1", "--interface eth0"]);
}

#[test]
fn reverse_path_filter() {
    for (mode, route, words) in [
        (1, Some("eth0".to_owned()), "strict on eth1): the route to 10.0.0.5 leads through eth0"),
        (2, None, "loose on eth1): there is no route"),
    ] {
        let look = FlowLook { route, wire: on_wire(IFACE, "10.0.0.5", 200), ..silence() };
        let mut facts = Facts { rp_dropped: 200, ..facts(look) };
        facts.interfaces[2].rp_filter = Some(mode);
        let says = ["200 packets", words, "ip route replace 10.0.0.5 dev eth1", "rp_filter=0"];
        assert_verdict(&facts, "D-RP-FILTER", Severity::Broken, &says);
        // The counter moved for other packets: the filter is off here.
        facts.interfaces[2].rp_filter = Some(0);
        assert_eq!(verdict(&facts).code, "D-FIREWALL");
    }
}

#[test]
fn receive_buffer_too_small() {
    let socket = Some(Socket { dropped: 500, dropped_ever: 900 });
    let look = FlowLook { received: 1500, socket, ..silence() };
    let mut small = facts(look);
    small.rmem_max = Some(212_992);
    assert_verdict(
        &small,
        "D-RCVBUF",
        Severity::Warning,
        &["500 (25 %)", "sysctl -w net.core.rmem_max=4194304"],
    );
    assert_eq!(examine(&small).severity.exit_code(), 1);
    // The kernel would give more.
    small.rmem_max = Some(8 << 20);
    small.flows[0].flow.recv_buffer = 64 << 10;
    assert_verdict(&small, "D-RCVBUF", Severity::Warning, &["--recv-buffer \"4 MiB\"", "64 KiB"]);
    small.flows[0].flow.recv_buffer = 4 << 20;
    assert_verdict(&small, "D-RCVBUF", Severity::Warning, &["too slow"]);
    small.flows[0].received = 0;
    assert_verdict(&small, "D-RCVBUF", Severity::Broken, &["read none"]);
}

#[test]
fn firewall() {
    let look = FlowLook { wire: on_wire(IFACE, "10.0.0.5", 200), ..silence() };
    let says = ["200 packets reached eth1", "ip daddr 232.1.1.1 udp dport 5000 accept"];
    assert_verdict(&facts(look), "D-FIREWALL", Severity::Broken, &says);
}

#[test]
fn nothing_on_the_wire() {
    let says = ["nothing of it reaches this box", "querier", "TTL", "PIM", "AMT"];
    assert_verdict(&facts(silence()), "D-NO-DATA", Severity::Broken, &says);
    let repair = Flow { must_be_heard: false, ..flow() };
    let look = FlowLook { flow: repair, ..silence() };
    assert_verdict(&facts(look), "D-IDLE", Severity::Ok, &["nothing is being sent"]);
}

#[test]
fn stopped_after_the_time_a_switch_remembers() {
    for (joined, last, code) in
        [(300_000, 40_000, "D-QUERIER"), (300_000, 200_000, "D-NO-DATA"), (300_000, 299_000, "D-NO-DATA")]
    {
        let stopped = Flow { joined_for_ms: Some(joined), last_packet_ms: Some(last), ..flow() };
        let finding = verdict(&facts(FlowLook { flow: stopped, ..silence() }));
        assert_eq!(finding.code, code, "{finding:?}");
    }
}

#[test]
fn without_a_look_at_the_wire_it_says_so() {
    let mut blind = facts(FlowLook { wire: None, ..silence() });
    blind.blind.push("the wire: Operation not permitted".into());
    assert_verdict(&blind, "D-NO-DATA", Severity::Broken, &["could not be seen"]);
    assert!(text(&examine(&blind)).contains("not seen: the wire"));
    // The filter's counter still tells.
    blind.rp_dropped = 5;
    blind.flows[0].route = None;
    blind.interfaces[2].rp_filter = Some(1);
    assert_eq!(verdict(&blind).code, "D-RP-FILTER");
}

#[test]
fn the_worst_comes_first_and_is_the_exit_status() {
    let well = FlowLook { received: 5, ..silence() };
    let mut both = facts(well);
    both.flows.push(silence());
    let report = examine(&both);
    assert_eq!(report.findings.iter().map(|f| f.code.as_str()).collect::<Vec<_>>(), ["D-NO-DATA", "D-OK"]);
    assert_eq!(report.severity.exit_code(), 2);
    assert!(text(&report).starts_with("broken[D-NO-DATA]: news/high"));
    let nothing = examine(&Facts::default());
    assert_eq!((nothing.severity, text(&nothing).contains("nothing to look for")), (Severity::Ok, true));
}

#[test]
fn a_sender_that_does_not_answer_is_named() {
    let origin = "http://10.0.0.5:7780/.well-known/mahp/session.json";
    let session = SessionSnapshot {
        origin: origin.into(),
        error: format!("{origin}: cannot connect: connection refused"),
        hint: "check the address".into(),
        ..SessionSnapshot::default()
    };
    assert_eq!(session.trouble(), "cannot connect: connection refused");
    let mut facts = Facts { sessions: vec![session], ..Facts::default() };
    let report = examine(&facts);
    assert_eq!((report.severity.exit_code(), report.findings[0].code.as_str()), (2, "D-SESSION"));
    let says = text(&report);
    assert!(says.starts_with(&format!("broken[D-SESSION]: {origin}: no session description")), "{says}");
    assert!(says.contains(": cannot connect: connection refused") && says.contains("fix: check the address"));
    assert_eq!((says.matches(origin).count(), says.contains("nothing to look for")), (1, false), "{says}");

    // Nothing was heard of it at all.
    facts.sessions[0].error.clear();
    assert!(text(&examine(&facts)).contains("it has not answered yet"));
    // It answered once: what it said is in use.
    facts.sessions[0].ok = true;
    assert!(examine(&facts).findings.is_empty());
    facts.sessions[0].error = "gone".into();
    assert_eq!(examine(&facts).severity, Severity::Warning);
}

#[test]
fn the_filter_is_named_where_its_counter_rose_with_the_packets() {
    let mut f = facts(FlowLook { wire: on_wire(IFACE, "10.0.0.5", 330), ..silence() });
    f.interfaces[2].rp_filter = Some(1);
    // The route seems to lead where it was joined.
    f.rp_dropped = 324;
    assert_verdict(
        &f,
        "D-RP-FILTER",
        Severity::Broken,
        &["324 packets", "strict on eth1", "ip route replace"],
    );
    f.rp_dropped = 3;
    assert_verdict(&f, "D-FIREWALL", Severity::Broken, &["330 packets", "dropped 3"]);
    f.rp_dropped = 0;
    assert_verdict(&f, "D-FIREWALL", Severity::Broken, &["no other counter moved"]);
}

#[test]
fn proc_files_are_read() {
    use super::gather::*;
    let netstat = "TcpExt: A IPReversePathFilter B\nTcpExt: 1 77 3\nIpExt: X\nIpExt: 9\n";
    assert_eq!(counter(netstat, "TcpExt:", "IPReversePathFilter"), Some(77));
    assert_eq!(counter(netstat, "TcpExt:", "Other"), None);
    assert_eq!(counter("", "TcpExt:", "A"), None);

    let hex = |n: u32| format!("{:08X}", u32::from_ne_bytes(n.to_be_bytes()));
    let group = hex(0xe801_0101);
    let udp = format!(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
          12: {group}:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 41\n\
          13: {group}:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 1\n\
          14: nonsense\n"
    );
    assert_eq!(udp_sockets(&udp), BTreeMap::from([((ip("232.1.1.1"), 5000), 42)]));
    let words: String = [0xff3e_0000u32, 0, 0, 0x8000_0001].map(hex).concat();
    assert_eq!(proc_address(&words), Some(ip("ff3e::8000:1")));
    assert_eq!(proc_address("123"), None);

    let igmp_text = format!(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
         1\tlo        :     1      V3\n\t\t\t\t{}     1 0:00000000\t\t0\n\
         7\teth1      :     2      V3\n\t\t\t\t{group}     1 0:00000000\t\t0\n",
        hex(0xe000_0001)
    );
    let mut all = igmp(&igmp_text);
    assert_eq!(all.groups(), [(1, ip("224.0.0.1")), (7, ip("232.1.1.1"))]);
    assert_eq!(
        igmp6("7    eth1            ff3e0000000000000000000080000001     1 00000004 0\n"),
        [(7, ip("ff3e::8000:1"))]
    );
    let filter = "Idx Device        MCA        SRC    INC    EXC\n\
                  7   eth1 0xe8010101 0x0a000005      1      0\n7   eth1 0xe8010101 0x0a000006      0      1\n";
    assert_eq!(mcfilter(filter), [(7, ip("232.1.1.1"), ip("10.0.0.5"))]);
    let interfaces = [mahp_runtime::udp::Interface {
        index: 7,
        name: IFACE.into(),
        addresses: Vec::new(),
        up: true,
        multicast: true,
    }];
    assert_eq!(membership(&all, &interfaces, IFACE, Some(ip("232.1.1.1"))), Membership::AnySource);
    all.add_sources(mcfilter(filter));
    let sources = Membership::Sources(vec![ip("10.0.0.5")]);
    assert_eq!(membership(&all, &interfaces, IFACE, Some(ip("232.1.1.1"))), sources);
    assert_eq!(membership(&all, &interfaces, "eth0", Some(ip("232.1.1.1"))), Membership::None);
    assert_eq!(membership(&all, &interfaces, IFACE, Some(ip("232.1.1.2"))), Membership::None);
}

#[test]
fn packets_on_the_wire_are_read() {
    use super::wire::addresses;
    let mut v4 = vec![0x46, 0, 0, 60, 0, 0, 0x40, 0, 1, 17, 0, 0, 10, 0, 0, 5, 232, 1, 1, 1];
    v4.extend([1, 1, 1, 1, 0x30, 0x39, 0x13, 0x88, 0, 0, 0, 0]); // options, then UDP
    let expected = Some((ip("10.0.0.5"), ip("232.1.1.1"), 5000));
    assert_eq!(addresses(&v4), expected);
    v4[7] = 1; // a later fragment has no port
    assert_eq!(addresses(&v4), None);
    let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 1];
    v6.extend("fd77::5".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v6.extend("ff3e::8000:1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v6.extend([0x30, 0x39, 0x13, 0x88]);
    assert_eq!(addresses(&v6), Some((ip("fd77::5"), ip("ff3e::8000:1"), 5000)));
    for packet in [&v4, &v6] {
        for len in 0..packet.len() {
            _ = addresses(&packet[..len]); // never panics
        }
    }
    assert_eq!(addresses(&[0x41; 40]), None, "a header of 4 bytes");
}
