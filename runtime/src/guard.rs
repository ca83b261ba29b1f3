//! Which addresses a proxy may answer or reach: never an open proxy, never a way into private networks.

use std::net::IpAddr;

/// Loopback, private, link-local, unique-local, shared (100.64/10), unspecified, multicast, benchmarking, documentation and
/// IPv4-mapped forms of these: addresses that a public origin cannot have.
pub fn is_private(address: IpAddr) -> bool {
    let _ = address;
    todo!("helper runtime")
}

/// Peers that a receiver serves by default: loopback, private, link-local, unique-local, shared.
pub fn is_local_peer(address: IpAddr) -> bool {
    let _ = address;
    todo!("helper runtime")
}
