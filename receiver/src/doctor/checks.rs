//! One pure function per cause; the first that fits names it.

use super::{Facts, Finding, FlowLook, Iface, Membership, Report, Severity};
use crate::snapshot::SessionSnapshot;
use std::net::IpAddr;

type Check = fn(&Facts, &FlowLook) -> Option<Finding>;

/// In this order: what makes the later ones pointless comes first.
const CHECKS: [Check; 11] = [
    arrives,
    interface_down,
    join_refused,
    not_joined,
    wrong_source,
    wrong_interface,
    buffer_too_small,
    reverse_path,
    firewall,
    querier,
    silent,
];

/// Judges all flows.
pub fn examine(facts: &Facts) -> Report {
    let judge = |look: &FlowLook| CHECKS.iter().find_map(|check| check(facts, look));
    let sessions = facts.sessions.iter().filter_map(session);
    Report::new(sessions.chain(facts.flows.iter().filter_map(judge)).collect(), facts.blind.clone())
}

/// Without its description nobody knows what to join.
fn session(s: &SessionSnapshot) -> Option<Finding> {
    if s.ok && s.error.is_empty() {
        return None;
    }
    let (severity, message) = match s.ok {
        false => (
            Severity::Broken,
            format!("no session description, so there is nothing to join: {}", s.trouble()),
        ),
        true => (Severity::Warning, format!("its last session description is in use; now: {}", s.trouble())),
    };
    let fix = match s.hint.as_str() {
        "" => "check the address, that mahp-sender runs there, and that no firewall is between",
        hint => hint,
    };
    Some(Finding { code: "D-SESSION".into(), severity, subject: s.origin.clone(), message, fix: fix.into() })
}

fn finding(look: &FlowLook, code: &str, severity: Severity, message: String, fix: String) -> Finding {
    let subject = match look.flow.name.as_str() {
        "" => look.flow.endpoint(),
        name => format!("{name} {}", look.flow.endpoint()),
    };
    Finding { code: code.into(), severity, subject, message, fix }
}

fn interface<'a>(facts: &'a Facts, look: &FlowLook) -> Option<&'a Iface> {
    facts.interfaces.iter().find(|i| i.name == look.interface)
}

/// Packets on the wire of the flow's interface, from the wanted source and from others.
fn seen(look: &FlowLook) -> Option<(u64, Vec<IpAddr>)> {
    let wire = look.wire.as_ref()?;
    let here = || wire.iter().filter(|((i, _), _)| *i == look.interface);
    let wanted = |source: &IpAddr| look.flow.source.is_none_or(|s| s == *source);
    let right = here().filter(|((_, s), _)| wanted(s)).map(|(_, n)| *n).sum();
    let others = here().map(|((_, s), _)| *s).filter(|s| !wanted(s)).collect();
    Some((right, others))
}

/// Packets of the wanted source reach the interface.
fn reaches(look: &FlowLook) -> bool {
    seen(look).is_some_and(|(right, _)| right > 0)
}

fn arrives(facts: &Facts, look: &FlowLook) -> Option<Finding> {
    if look.received == 0 {
        return None;
    }
    let per_second = look.received * 1000 / facts.look_ms.max(1);
    let dropped = look.socket.map_or(0, |s| s.dropped);
    if dropped > 0 {
        let share = dropped * 100 / (dropped + look.received);
        return Some(finding(
            look,
            "D-RCVBUF",
            Severity::Warning,
            format!(
                "packets arrive ({per_second}/s), but the kernel dropped {dropped} ({share} %) because the receive buffer was full"
            ),
            buffer_fix(facts, look),
        ));
    }
    let message = format!("packets arrive: {per_second}/s on {}", look.interface);
    if !look.flow.joined && !look.flow.name.is_empty() {
        let message = format!("not joined, as nobody watches it; joined for this look, {message}");
        return Some(finding(look, "D-NOT-JOINED", Severity::Ok, message, String::new()));
    }
    Some(finding(look, "D-OK", Severity::Ok, message, String::new()))
}

fn interface_down(facts: &Facts, look: &FlowLook) -> Option<Finding> {
    let (message, fix) = match interface(facts, look) {
        None if look.interface.is_empty() => (
            format!("there is no route to {}, so no interface to join on", source_text(look)),
            "--interface NAME, the one the sender's network is on".into(),
        ),
        None => (
            format!("there is no interface {}", look.interface),
            format!("--interface NAME; there are: {}", names(facts)),
        ),
        Some(i) if !i.up => (format!("interface {} is down", i.name), format!("ip link set {} up", i.name)),
        Some(i) if !i.multicast => (
            format!("interface {} does not do multicast", i.name),
            format!("ip link set {} multicast on", i.name),
        ),
        Some(_) => return None,
    };
    Some(finding(look, "D-IFACE-DOWN", Severity::Broken, message, fix))
}

fn names(facts: &Facts) -> String {
    facts.interfaces.iter().filter(|i| i.up).map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn source_text(look: &FlowLook) -> String {
    look.flow.source.map_or_else(|| "the group".into(), |s| s.to_string())
}

fn join_refused(_: &Facts, look: &FlowLook) -> Option<Finding> {
    let error = look.flow.join_error.as_str();
    (!error.is_empty()).then(|| {
        let mut lines = error.lines();
        let message = lines.next().unwrap_or_default().to_owned();
        let fix = lines.map(|l| l.trim().trim_start_matches("try: ")).collect::<Vec<_>>().join("\n");
        finding(look, "D-JOIN", Severity::Broken, message, fix)
    })
}

fn not_joined(_: &Facts, look: &FlowLook) -> Option<Finding> {
    (look.membership == Membership::None).then(|| {
        let message = format!("no process has joined the group on {} (/proc/net/igmp)", look.interface);
        let fix = "restart mahp-receiver: the interface was made anew since it joined, or somebody took the membership away";
        let fix = fix.to_owned();
        finding(look, "D-NOT-JOINED", Severity::Broken, message, fix)
    })
}

fn wrong_source(_: &Facts, look: &FlowLook) -> Option<Finding> {
    let wanted = look.flow.source?;
    let (right, others) = seen(look)?;
    let joined_for = match &look.membership {
        Membership::Sources(sources) if !sources.contains(&wanted) => sources.clone(),
        _ => vec![wanted],
    };
    let from = *others.first().filter(|_| right == 0)?;
    let joined: Vec<String> = joined_for.iter().map(IpAddr::to_string).collect();
    Some(finding(
        look,
        "D-WRONG-SOURCE",
        Severity::Broken,
        format!(
            "joined for source {}, but the group's packets on {} come from {from}",
            joined.join(", "),
            look.interface
        ),
        format!(
            "make the sender announce {from} (mahp-sender --announce-source {from}), or send from {wanted} (--source)"
        ),
    ))
}

fn wrong_interface(_: &Facts, look: &FlowLook) -> Option<Finding> {
    let wire = look.wire.as_ref()?;
    if reaches(look) {
        return None;
    }
    let wanted = |source: &IpAddr| look.flow.source.is_none_or(|s| s == *source);
    let ((other, _), _) = wire.iter().find(|((i, s), _)| *i != look.interface && wanted(s))?;
    let message = format!("joined on {}, but the packets arrive on {other}", look.interface);
    Some(finding(look, "D-WRONG-IFACE", Severity::Broken, message, format!("--interface {other}")))
}

fn buffer_too_small(facts: &Facts, look: &FlowLook) -> Option<Finding> {
    let dropped = look.socket.map_or(0, |s| s.dropped);
    (dropped > 0).then(|| {
        let message = format!("the kernel dropped {dropped} packets because the receive buffer was full, and the program read none");
        finding(look, "D-RCVBUF", Severity::Broken, message, buffer_fix(facts, look))
    })
}

fn buffer_fix(facts: &Facts, look: &FlowLook) -> String {
    const WANTED: u64 = 4 << 20;
    let has = look.flow.recv_buffer;
    match facts.rmem_max {
        Some(max) if max < WANTED => {
            format!("sysctl -w net.core.rmem_max={WANTED}    (it is {max}), then restart mahp-receiver")
        }
        _ if has > 0 && has < WANTED => {
            format!("--recv-buffer \"4 MiB\"    (it is {} KiB)", has >> 10)
        }
        _ => {
            "the box is too slow for this rate, or something keeps the program from reading: look at its CPU"
                .into()
        }
    }
}

fn reverse_path(facts: &Facts, look: &FlowLook) -> Option<Finding> {
    // On the wire and gone, or, where we cannot look at the wire, dropped by the filter for all we know.
    if facts.rp_dropped == 0 || !(reaches(look) || look.wire.is_none()) {
        return None;
    }
    let i = interface(facts, look)?;
    let mode = match i.rp_filter {
        Some(0) => return None,
        Some(1) => "strict",
        Some(2) => "loose",
        _ => "on",
    };
    let source = look.flow.source.filter(IpAddr::is_ipv4)?;
    let route = match &look.route {
        // The route of what we send ourselves need not be the one that the filter looks up.
        Some(route) if *route == i.name && !filter_took_them(facts, look) => return None,
        Some(route) if *route == i.name => {
            format!("as many as came, so the way back to {source} does not lead through {}", i.name)
        }
        Some(route) => format!("the route to {source} leads through {route}"),
        None => format!("there is no route to {source}"),
    };
    Some(finding(
        look,
        "D-RP-FILTER",
        Severity::Broken,
        format!(
            "the kernel dropped {} packets by its reverse path filter ({mode} on {}): {route}",
            facts.rp_dropped, i.name
        ),
        format!(
            "ip route replace {source} dev {}    (ip route get {source} shows the route there is)\nor: sysctl -w net.ipv4.conf.{}.rp_filter=0 net.ipv4.conf.all.rp_filter=0",
            i.name, i.name
        ),
    ))
}

/// The filter dropped about as many packets as the wire showed of all flows of which none arrived: its counter is the box's.
fn filter_took_them(facts: &Facts, look: &FlowLook) -> bool {
    let silent = facts.flows.iter().filter(|f| f.received == 0);
    let came: u64 = silent.filter_map(seen).map(|(right, _)| right).sum();
    reaches(look) && facts.rp_dropped >= came - came / 5
}

fn firewall(facts: &Facts, look: &FlowLook) -> Option<Finding> {
    let (right, _) = seen(look).filter(|(right, _)| *right > 0)?;
    let group = look.flow.group?;
    let port = look.flow.port;
    let ip = if group.is_ipv4() { "ip" } else { "ip6" };
    let others = match facts.rp_dropped {
        0 => "and no other counter moved".to_owned(),
        n => format!("and the reverse path filters of this box dropped {n}"),
    };
    Some(finding(
        look,
        "D-FIREWALL",
        Severity::Broken,
        format!(
            "{right} packets reached {}, none the program, {others}: a local firewall drops UDP to {group}:{port}",
            look.interface
        ),
        format!(
            "nft insert rule inet filter input {ip} daddr {group} udp dport {port} accept    (nft list ruleset shows the tables there are)"
        ),
    ))
}

/// IGMP snooping without a querier forgets a member after about 260 s.
fn querier(_: &Facts, look: &FlowLook) -> Option<Finding> {
    let heard_for = look.flow.joined_for_ms?.checked_sub(look.flow.last_packet_ms?)?;
    (235_000..=285_000).contains(&heard_for).then(|| {
        finding(
            look,
            "D-QUERIER",
            Severity::Broken,
            format!("packets stopped {} s after the join: a switch with IGMP snooping and without querier forgets members then", heard_for / 1000),
            "enable an IGMP querier (MLD querier for IPv6) in this VLAN, or switch snooping off".into(),
        )
    })
}

fn silent(_: &Facts, look: &FlowLook) -> Option<Finding> {
    if !look.flow.must_be_heard {
        let message = "nothing is being sent there now".to_owned();
        return Some(finding(look, "D-IDLE", Severity::Ok, message, String::new()));
    }
    let message = match look.wire {
        Some(_) => format!("joined on {}, and nothing of it reaches this box", look.interface),
        None => format!(
            "joined on {}, and nothing arrives; whether it reaches this box could not be seen",
            look.interface
        ),
    };
    let fix = "1. is it sent? the sender's page or `mahp-sender` output shows its rate; its TTL must cover the hops (--ttl)\n\
               2. does the switch forward it? IGMP snooping needs a querier, and IGMPv3 for SSM\n\
               3. does every router on the way route multicast (PIM)? most home routers and Wi-Fi access points do not\n\
               4. across the internet it needs a tunnel (AMT): multicast is not routed there";
    Some(finding(look, "D-NO-DATA", Severity::Broken, message, fix.into()))
}
