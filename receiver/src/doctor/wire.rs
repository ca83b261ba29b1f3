//! A raw look at the wire (AF_PACKET): what reaches the interfaces, before anything inside the box can drop it.

use super::Flow;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Enough of a packet for its headers.
const SNAP: usize = 128;

/// A raw socket on all interfaces.
pub(super) struct Sniffer {
    socket: Socket,
}

/// Packets by flow, interface and source.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<usize, BTreeMap<(String, IpAddr), u64>>);

impl Seen {
    pub(super) fn of(&self, flow: usize) -> BTreeMap<(String, IpAddr), u64> {
        self.0.get(&flow).cloned().unwrap_or_default()
    }
}

impl Sniffer {
    pub(super) fn open() -> io::Result<Sniffer> {
        // Network order in an int, as packet(7) wants it.
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all)))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        _ = socket.set_recv_buffer_size(8 << 20);
        Ok(Sniffer { socket })
    }

    /// Counts what comes for these flows during `look`.
    pub(super) fn listen(self, flows: &[Flow], look: Duration) -> Seen {
        let names: BTreeMap<i32, String> = mahp_runtime::udp::interfaces()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|i| Some((i32::try_from(i.index).ok()?, i.name)))
            .collect();
        let mut seen = Seen::default();
        let end = Instant::now() + look;
        let mut buffer = [MaybeUninit::<u8>::uninit(); SNAP];
        while Instant::now() < end {
            let Ok((len, from)) = self.socket.recv_from(&mut buffer) else { continue };
            let packet: Vec<u8> = buffer
                .iter()
                .take(len)
                // SAFETY: the kernel has written the first `len` bytes.
                .map(|b| unsafe { b.assume_init() })
                .collect();
            let Some((index, outgoing)) = link(&from) else { continue };
            let Some((source, group, port)) = addresses(&packet).filter(|_| !outgoing) else { continue };
            let name = names.get(&index).cloned().unwrap_or_default();
            for (i, _) in flows.iter().enumerate().filter(|(_, f)| f.group == Some(group) && f.port == port) {
                *seen.0.entry(i).or_default().entry((name.clone(), source)).or_default() += 1;
            }
        }
        seen
    }
}

/// Interface index, and whether the packet is on its way out.
fn link(address: &SockAddr) -> Option<(i32, bool)> {
    if i32::from(address.family()) != libc::AF_PACKET
        || (address.len() as usize) < size_of::<libc::sockaddr_ll>()
    {
        return None;
    }
    // SAFETY: family and length say that it is a sockaddr_ll; the storage behind it is larger and aligned for any.
    let ll = unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() };
    Some((ll.sll_ifindex, ll.sll_pkttype == libc::PACKET_OUTGOING))
}

/// Source, destination and destination port of a UDP packet; first fragments only.
pub(super) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, u16)> {
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at + 2)?, *packet.get(at + 3)?]));
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            let word = |at: usize| {
                packet.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| Ipv4Addr::from(b).into())
            };
            let is_udp = *packet.get(9)? == 17 && fragment == 0 && header >= 20;
            if is_udp { Some((word(12)?, word(16)?, port(header)?)) } else { None }
        }
        6 => {
            let words = |at: usize| {
                packet.get(at..at + 16)?.try_into().ok().map(|b: [u8; 16]| Ipv6Addr::from(b).into())
            };
            if *packet.get(6)? == 17 { Some((words(8)?, words(24)?, port(40)?)) } else { None }
        }
        _ => None,
    }
}
