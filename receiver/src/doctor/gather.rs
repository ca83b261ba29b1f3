//! Looks at the box: `/proc`, interfaces, routes, the wire.

use super::facts::{Facts, FlowLook, Iface, Membership, Socket};
use super::{Flow, probe, wire};
use mahp_common::Tsi;
use mahp_common::catalog::Endpoint;
use mahp_runtime::udp;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Flows that are looked at: the rest is left out.
const FLOWS_MAX: usize = 64;

/// Looks for `look` time at what becomes of these flows' packets. Those that nobody has joined are joined meanwhile.
pub fn gather(flows: impl Fn() -> Vec<Flow>, look: Duration) -> Facts {
    let mut before = flows();
    before.truncate(FLOWS_MAX);
    let start = Instant::now();
    let interfaces = udp::interfaces().unwrap_or_default();
    let mut blind = Vec::new();
    let probes = probe::Probes::join(&before);
    let (rp_before, sockets_before) = (rp_dropped(), sockets());
    let seen = match wire::Sniffer::open() {
        Ok(sniffer) => Some(sniffer.listen(&before, look)),
        Err(e) => {
            blind.push(format!("the wire: {e} (needs CAP_NET_RAW: run `mahp-receiver doctor` as root)"));
            std::thread::sleep(look);
            None
        }
    };
    let (rp_after, sockets_after) = (rp_dropped(), sockets());
    let memberships = memberships();
    let probed = probes.end();
    let after = flows();
    let looks = before.into_iter().enumerate().map(|(i, flow)| {
        let now = after.iter().find(|f| f.name == flow.name && f.port == flow.port && f.group == flow.group);
        let interface = interface_of(&flow);
        let key = flow.group.map(|g| (g, flow.port));
        FlowLook {
            route: flow.source.and_then(|s| udp::route_to(s).ok()).map(|(i, _)| i.name),
            received: match probed.get(&i) {
                Some(probe) => probe.packets,
                None => now.map_or(0, |n| n.packets.saturating_sub(flow.packets)),
            },
            membership: membership(&memberships, &interfaces, &interface, flow.group),
            socket: key.and_then(|k| difference(sockets_before.get(&k), sockets_after.get(&k))),
            wire: seen.as_ref().map(|s| s.of(i)),
            interface,
            flow: Flow {
                join_error: probed.get(&i).map_or(flow.join_error.clone(), |p| p.error.clone()),
                ..now.cloned().unwrap_or(flow)
            },
        }
    });
    Facts {
        look_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        flows: looks.collect(),
        interfaces: interfaces.iter().map(describe).collect(),
        rp_dropped: rp_after.saturating_sub(rp_before),
        rmem_max: read_number("/proc/sys/net/core/rmem_max"),
        sessions: Vec::new(),
        blind,
    }
}

/// The interface of the join, or the one a join would use.
fn interface_of(flow: &Flow) -> String {
    if !flow.interface.is_empty() {
        return flow.interface.clone();
    }
    let Some(group) = flow.group else { return String::new() };
    let endpoint = Endpoint { source: flow.source, group, port: flow.port, tsi: Tsi(0) };
    crate::flow::choose_interface(None, &endpoint).map(|i| i.name).unwrap_or_default()
}

fn describe(i: &udp::Interface) -> Iface {
    let own = read_number(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", i.name));
    let all = read_number("/proc/sys/net/ipv4/conf/all/rp_filter");
    let loopback = i.addresses.iter().any(IpAddr::is_loopback);
    Iface {
        name: i.name.clone(),
        up: i.up,
        multicast: i.multicast || loopback,
        rp_filter: own.max(all).and_then(|n| u8::try_from(n).ok()),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn rp_dropped() -> u64 {
    counter(&fs::read_to_string("/proc/net/netstat").unwrap_or_default(), "TcpExt:", "IPReversePathFilter")
        .unwrap_or(0)
}

/// A counter of `/proc/net/netstat`: a line of names, then a line of values.
pub(super) fn counter(text: &str, section: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|l| l.starts_with(section));
    let at = lines.next()?.split_whitespace().position(|n| n == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

type Sockets = BTreeMap<(IpAddr, u16), u64>;

fn sockets() -> Sockets {
    let mut all = udp_sockets(&fs::read_to_string("/proc/net/udp").unwrap_or_default());
    all.extend(udp_sockets(&fs::read_to_string("/proc/net/udp6").unwrap_or_default()));
    all
}

/// Drops of all sockets by local address and port: `/proc/net/udp{,6}`.
pub(super) fn udp_sockets(text: &str) -> Sockets {
    let mut out = Sockets::new();
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let Some((address, port)) = fields.nth(1).and_then(|f| f.split_once(':')) else { continue };
        let (Some(address), Ok(port)) = (proc_address(address), u16::from_str_radix(port, 16)) else {
            continue;
        };
        let drops = fields.last().and_then(|d| d.parse::<u64>().ok()).unwrap_or(0);
        *out.entry((address, port)).or_default() += drops;
    }
    out
}

/// An address as `/proc/net` writes it: 32-bit words in the order of the machine.
pub(super) fn proc_address(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for i in 0..4 {
                bytes[i * 4..i * 4 + 4].copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn difference(before: Option<&u64>, after: Option<&u64>) -> Option<Socket> {
    let after = *after?;
    Some(Socket { dropped: after.saturating_sub(before.copied().unwrap_or(after)), dropped_ever: after })
}

/// Joined groups by interface index.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    groups: Vec<(u32, IpAddr)>,
    /// Included sources.
    sources: Vec<(u32, IpAddr, IpAddr)>,
}

#[cfg(test)]
impl Memberships {
    pub(super) fn groups(&self) -> &[(u32, IpAddr)] {
        &self.groups
    }

    pub(super) fn add_sources(&mut self, sources: Vec<(u32, IpAddr, IpAddr)>) {
        self.sources.extend(sources);
    }
}

fn memberships() -> Memberships {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut all = igmp(&read("/proc/net/igmp"));
    all.groups.extend(igmp6(&read("/proc/net/igmp6")));
    all.sources.extend(mcfilter(&read("/proc/net/mcfilter")));
    all.sources.extend(mcfilter(&read("/proc/net/mcfilter6")));
    all
}

/// `/proc/net/igmp`: a line per interface, then one per group, indented.
pub(super) fn igmp(text: &str) -> Memberships {
    let mut out = Memberships::default();
    let mut index = 0;
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            if let Some(group) = proc_address(first) {
                out.groups.push((index, group));
            }
        } else {
            index = first.parse().unwrap_or(0);
        }
    }
    out
}

/// `/proc/net/igmp6`: index, name, group, users.
pub(super) fn igmp6(text: &str) -> Vec<(u32, IpAddr)> {
    let line = |l: &str| {
        let mut fields = l.split_whitespace();
        let index = fields.next()?.parse().ok()?;
        Some((index, network_order_v6(fields.nth(1)?)?))
    };
    text.lines().filter_map(line).collect()
}

/// 32 hexadecimal digits in network order.
fn network_order_v6(hex: &str) -> Option<IpAddr> {
    (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok()).flatten().map(|n| Ipv6Addr::from(n).into())
}

/// `/proc/net/mcfilter{,6}`: index, name, group, source, includes, excludes. IPv4 addresses are written `0xe8010101`.
pub(super) fn mcfilter(text: &str) -> Vec<(u32, IpAddr, IpAddr)> {
    let address = |f: &str| match f.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(|n| Ipv4Addr::from(n).into()),
        None => network_order_v6(f),
    };
    let line = |l: &str| {
        let fields: Vec<&str> = l.split_whitespace().collect();
        let included: u64 = fields.get(4)?.parse().ok()?;
        let entry = (fields.first()?.parse().ok()?, address(fields.get(2)?)?, address(fields.get(3)?)?);
        (included > 0).then_some(entry)
    };
    text.lines().skip(1).filter_map(line).collect()
}

pub(super) fn membership(
    all: &Memberships,
    interfaces: &[udp::Interface],
    name: &str,
    group: Option<IpAddr>,
) -> Membership {
    let Some(index) = interfaces.iter().find(|i| i.name == name).map(|i| i.index) else {
        return Membership::None;
    };
    let Some(group) = group.filter(|g| all.groups.contains(&(index, *g))) else { return Membership::None };
    let of_group = all.sources.iter().filter(|(i, g, _)| *i == index && *g == group);
    let sources: Vec<IpAddr> = of_group.map(|(_, _, s)| *s).collect();
    if sources.is_empty() { Membership::AnySource } else { Membership::Sources(sources) }
}
