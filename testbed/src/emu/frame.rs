//! What the emulator needs to know of an Ethernet frame: where it goes, which [`TrafficClass`] it is, and what it says about
//! membership (IGMPv3, RFC 3376; MLDv2, RFC 3810; their older versions as far as hosts still speak them).

use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Records of one report that are looked at; more than any host sends in an MTU.
const RECORDS_MAX: usize = 400;

/// What impairments tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficClass {
    /// UDP to a multicast group that is routed.
    Multicast,
    /// Everything to one host except what keeps the network itself going.
    Unicast,
    /// ARP, neighbour discovery, group membership.
    Control,
}

impl TrafficClass {
    /// All of them, in the order of [`TrafficClass::index`].
    pub const ALL: [TrafficClass; 3] =
        [TrafficClass::Multicast, TrafficClass::Unicast, TrafficClass::Control];

    /// 0, 1, 2.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// `multicast`, `unicast`, `control`.
    pub const fn as_str(self) -> &'static str {
        match self {
            TrafficClass::Multicast => "multicast",
            TrafficClass::Unicast => "unicast",
            TrafficClass::Control => "control",
        }
    }
}

/// How a membership record changes what a host wants to hear of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only these sources (none: the host left).
    Include(Vec<IpAddr>),
    /// All but these sources.
    Exclude(Vec<IpAddr>),
    /// These too.
    Allow(Vec<IpAddr>),
    /// These no more.
    Block(Vec<IpAddr>),
}

/// UDP to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Source address.
    pub source: IpAddr,
    /// Group.
    pub group: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Where in the frame the UDP header starts.
    pub udp: usize,
}

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP to a routed group.
    Multicast(Datagram),
    /// A membership report.
    Report(Vec<(IpAddr, Change)>),
    /// To one host.
    Unicast,
    /// Link-local multicast and broadcast.
    Local,
}

impl Kind {
    /// Its traffic class.
    pub fn class(&self) -> TrafficClass {
        match self {
            Kind::Multicast(_) => TrafficClass::Multicast,
            Kind::Unicast => TrafficClass::Unicast,
            Kind::Report(_) | Kind::Local => TrafficClass::Control,
        }
    }
}

/// Destination MAC address; zeros when the frame is too short to have one.
pub fn destination(frame: &[u8]) -> [u8; 6] {
    frame.get(..6).and_then(|m| m.try_into().ok()).unwrap_or_default()
}

/// Reads a frame. What is not understood is [`Kind::Unicast`] or [`Kind::Local`] by its MAC address.
pub fn classify(frame: &[u8]) -> Kind {
    let plain = if destination(frame)[0] & 1 == 0 { Kind::Unicast } else { Kind::Local };
    let read = match be16(frame, 12) {
        Some(ETHERTYPE_IPV4) => ipv4(frame),
        Some(ETHERTYPE_IPV6) => ipv6(frame),
        _ => None,
    };
    read.unwrap_or(plain)
}

fn ipv4(frame: &[u8]) -> Option<Kind> {
    let header = usize::from(frame.get(ETHERNET)? & 0xf) * 4;
    let protocol = *frame.get(ETHERNET + 9)?;
    let source = v4(frame, ETHERNET + 12)?;
    let group = v4(frame, ETHERNET + 16)?;
    let payload = ETHERNET + header;
    if protocol == IGMP {
        return Some(igmp(frame.get(payload..)?).map_or(Kind::Local, Kind::Report));
    }
    let IpAddr::V4(address) = group else { return None };
    let routed = address.is_multicast() && address.octets()[..3] != [224, 0, 0];
    (routed && protocol == UDP).then(|| datagram(frame, source, group, payload)).flatten()
}

fn ipv6(frame: &[u8]) -> Option<Kind> {
    let mut next = *frame.get(ETHERNET + 6)?;
    let source = v6(frame, ETHERNET + 8)?;
    let group = v6(frame, ETHERNET + 24)?;
    let mut payload = ETHERNET + 40;
    // MLD comes behind a hop-by-hop header with the router alert.
    if next == 0 {
        next = *frame.get(payload)?;
        payload += (usize::from(*frame.get(payload + 1)?) + 1) * 8;
    }
    let IpAddr::V6(address) = group else { return None };
    if next == ICMPV6 && address.is_multicast() {
        return Some(mld(frame.get(payload..)?).map_or(Kind::Local, Kind::Report));
    }
    // Neighbour discovery to one host keeps the network going too.
    if next == ICMPV6 && matches!(frame.get(payload)?, 133..=137) {
        return Some(Kind::Local);
    }
    // Scopes up to link-local stay on the link.
    let routed = address.is_multicast() && address.octets()[1] & 0xf > 2;
    (routed && next == UDP).then(|| datagram(frame, source, group, payload)).flatten()
}

fn datagram(frame: &[u8], source: IpAddr, group: IpAddr, udp: usize) -> Option<Kind> {
    let port = be16(frame, udp + 2)?;
    frame.get(udp + 8..)?;
    Some(Kind::Multicast(Datagram { source, group, port, udp }))
}

fn igmp(message: &[u8]) -> Option<Vec<(IpAddr, Change)>> {
    match *message.first()? {
        0x22 => records(message, 4, v4),
        0x12 | 0x16 => Some(vec![(v4(message, 4)?, Change::Exclude(Vec::new()))]),
        0x17 => Some(vec![(v4(message, 4)?, Change::Include(Vec::new()))]),
        _ => None,
    }
}

fn mld(message: &[u8]) -> Option<Vec<(IpAddr, Change)>> {
    match *message.first()? {
        143 => records(message, 16, v6),
        131 => Some(vec![(v6(message, 8)?, Change::Exclude(Vec::new()))]),
        132 => Some(vec![(v6(message, 8)?, Change::Include(Vec::new()))]),
        _ => None,
    }
}

/// Group records: the layout is the same in IGMPv3 and MLDv2 but for the length of addresses.
fn records(
    message: &[u8],
    length: usize,
    address: fn(&[u8], usize) -> Option<IpAddr>,
) -> Option<Vec<(IpAddr, Change)>> {
    let count = usize::from(be16(message, 6)?).min(RECORDS_MAX);
    let mut at = 8;
    let mut out = Vec::new();
    for _ in 0..count {
        let kind = *message.get(at)?;
        let auxiliary = usize::from(*message.get(at + 1)?) * 4;
        let sources = usize::from(be16(message, at + 2)?);
        let group = address(message, at + 4)?;
        let first = at + 4 + length;
        let list = (0..sources).map(|n| address(message, first + n * length)).collect::<Option<Vec<_>>>()?;
        out.push((
            group,
            match kind {
                1 | 3 => Change::Include(list),
                2 | 4 => Change::Exclude(list),
                5 => Change::Allow(list),
                6 => Change::Block(list),
                _ => return None,
            },
        ));
        at = first + sources * length + auxiliary;
    }
    Some(out)
}

/// Changes bytes of the UDP payload and makes the checksum right again, so that the change gets past the kernel. `change` gets
/// the payload.
pub fn alter_payload(frame: &Bytes, at: &Datagram, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut copy = frame.to_vec();
    let end = be16(&copy, at.udp + 4).map_or(copy.len(), |l| (at.udp + usize::from(l)).min(copy.len()));
    if let Some(payload) = copy.get_mut(at.udp + 8..end) {
        change(payload);
    }
    if let Some(checksum) = copy.get_mut(at.udp + 6..at.udp + 8) {
        checksum.fill(0);
    }
    let sum = udp_checksum(&copy[at.udp..end], at.source, at.group);
    if let Some(checksum) = copy.get_mut(at.udp + 6..at.udp + 8) {
        checksum.copy_from_slice(&sum.to_be_bytes());
    }
    Bytes::from(copy)
}

/// RFC 768, RFC 8200 section 8.1; never 0, which would mean that there is none.
fn udp_checksum(datagram: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    let mut sum = u64::from(UDP) + datagram.len() as u64;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    };
    for address in [source, destination] {
        match address {
            IpAddr::V4(a) => add(&a.octets()),
            IpAddr::V6(a) => add(&a.octets()),
        }
    }
    add(datagram);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or(0) {
        0 => 0xffff,
        sum => sum,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}
