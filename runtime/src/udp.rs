//! Multicast sockets: joins (SSM, ASM, IPv4, IPv6), GSO out, GRO and recvmmsg in, TTL, DSCP, interface, buffer, drop counts.

use crate::error::StartupError;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// An interface by name or address, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// IFF_MULTICAST (loopback works without).
    pub multicast: bool,
    /// IFF_UP.
    pub up: bool,
}

/// All interfaces (getifaddrs).
pub fn interfaces() -> io::Result<Vec<Interface>> {
    todo!("helper runtime")
}

/// The interface called `name`, or having the address `name`. `E-IFACE` lists the ones there are.
pub fn interface(name: &str) -> Result<Interface, StartupError> {
    let _ = name;
    todo!("helper runtime")
}

/// The interface and local address the kernel routes `destination` through (a connected UDP socket tells).
pub fn route_to(destination: IpAddr) -> Result<(Interface, IpAddr), StartupError> {
    let _ = destination;
    todo!("helper runtime")
}

/// Options of a sending socket.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Local address: the S of (S,G).
    pub source: IpAddr,
    /// Outgoing interface.
    pub interface: Interface,
    /// TTL or hop limit.
    pub ttl: u32,
    /// DSCP, 0 to 63.
    pub dscp: u8,
}

/// A sending socket (non-blocking, GSO through quinn-udp). One serves any number of groups of its family.
#[derive(Debug)]
pub struct MulticastSender {}

impl MulticastSender {
    /// Binds `source:0`, sets interface, TTL, DSCP, loop on.
    pub fn new(options: &SendOptions) -> Result<MulticastSender, StartupError> {
        let _ = options;
        todo!("helper runtime")
    }

    /// Sends `packets` (all `segment_size` long but the last) to `to` in one call where the kernel can, awaiting writability.
    pub async fn send(&self, to: SocketAddr, packets: &[u8], segment_size: usize) -> io::Result<()> {
        let _ = (to, packets, segment_size);
        todo!("helper runtime")
    }
}

/// A join.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// Sender address: SSM; none: ASM.
    pub source: Option<IpAddr>,
    /// Group.
    pub group: IpAddr,
    /// Port.
    pub port: u16,
    /// Interface to join on.
    pub interface: Interface,
    /// Receive buffer to ask for, bytes.
    pub receive_buffer: usize,
}

/// A joined socket bound to group:port (IP_MULTICAST_ALL off, SO_REUSEADDR), GRO and recvmmsg through quinn-udp. Dropping leaves.
#[derive(Debug)]
pub struct MulticastReceiver {}

impl MulticastReceiver {
    /// Joins by MCAST_JOIN_SOURCE_GROUP or MCAST_JOIN_GROUP. Errors: `E-JOIN-IFACE`, `E-GROUP`, `E-JOIN-LIMIT` (igmp_max_memberships).
    pub fn join(options: &ReceiveOptions) -> Result<MulticastReceiver, StartupError> {
        let _ = options;
        todo!("helper runtime")
    }

    /// Receive buffer the kernel gave, bytes (SO_RCVBUF / 2).
    pub fn receive_buffer(&self) -> usize {
        todo!("helper runtime")
    }

    /// Awaits packets and calls `each` once per datagram (already split from GRO) with its source address. Returns how many.
    /// Cancel safe: no datagram is lost when dropped at its await point.
    pub async fn receive(&mut self, each: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        let _ = each;
        todo!("helper runtime")
    }

    /// Datagrams the kernel dropped at this socket so far (from /proc/net/udp{,6} by inode).
    pub fn kernel_drops(&self) -> io::Result<u64> {
        todo!("helper runtime")
    }
}
