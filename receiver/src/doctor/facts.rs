//! What a look at the box found: plain data, so that checks can be tested without a box.

use super::Flow;
use crate::snapshot::SessionSnapshot;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How long the look took, milliseconds.
    pub look_ms: u64,
    /// Interfaces of the box.
    pub interfaces: Vec<Iface>,
    /// Packets dropped by reverse path filters during the look (IPReversePathFilter).
    pub rp_dropped: u64,
    /// `net.core.rmem_max`, bytes.
    pub rmem_max: Option<u64>,
    /// Senders that were named by URL or announcement.
    pub sessions: Vec<SessionSnapshot>,
    /// One per flow.
    pub flows: Vec<FlowLook>,
    /// What could not be looked at, and why.
    pub blind: Vec<String>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iface {
    /// `eth0`.
    pub name: String,
    /// IFF_UP.
    pub up: bool,
    /// IFF_MULTICAST, or loopback.
    pub multicast: bool,
    /// Effective `rp_filter`: the larger of `all` and its own. 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
}

/// What the kernel says of a join on the flow's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// Nobody joined the group there.
    #[default]
    None,
    /// Joined for any source.
    AnySource,
    /// Joined for these sources.
    Sources(Vec<IpAddr>),
}

/// A UDP socket bound to a flow's group and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// Datagrams dropped during the look because its receive buffer was full.
    pub dropped: u64,
    /// The same since it was opened.
    pub dropped_ever: u64,
}

/// What was found of one flow.
#[derive(Clone, Debug, Default)]
pub struct FlowLook {
    /// The flow, as of the end of the look.
    pub flow: Flow,
    /// The interface it is joined, or should be joined, on.
    pub interface: String,
    /// The interface the kernel routes the source through; none: there is no route.
    pub route: Option<String>,
    /// Packets that the application got during the look.
    pub received: u64,
    /// The kernel's view of the join.
    pub membership: Membership,
    /// Sockets bound to group and port: the sum.
    pub socket: Option<Socket>,
    /// What a raw socket saw to this group and port: packets by interface and source. None: could not look.
    pub wire: Option<BTreeMap<(String, IpAddr), u64>>,
}
