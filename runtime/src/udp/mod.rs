//! Multicast sockets: joins (SSM, ASM, IPv4, IPv6), GSO out, GRO and recvmmsg in, TTL, DSCP, interface, buffer, drop counts.
//!
//! | File | What |
//! |---|---|
//! | `iface.rs` | interfaces and routes |
//! | `send.rs` | [`MulticastSender`] |
//! | `receive.rs` | [`MulticastReceiver`] |
//! | `sys.rs` | calls of the C library |

mod iface;
mod receive;
mod send;
#[allow(unsafe_code)]
mod sys;

pub use iface::{Interface, interface, interfaces, route_to};
pub use receive::{MulticastReceiver, ReceiveOptions};
pub use send::{MulticastSender, SendOptions};

use socket2::SockAddr;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Asked of the kernel by default for a receiving socket.
pub const DEFAULT_RECEIVE_BUFFER: usize = 4 << 20;

/// The socket address of `ip` and `port`; with the interface's index as scope where the address means nothing without one
/// (link-local unicast, interface-local and link-local multicast).
fn scoped(ip: IpAddr, port: u16, index: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || (v6.is_multicast() && v6.octets()[1] & 0x0f <= 2) => {
            SocketAddr::V6(SocketAddrV6::new(v6, port, 0, index))
        }
        _ => SocketAddr::new(ip, port),
    }
}

fn scoped_raw(ip: IpAddr, port: u16, index: u32) -> SockAddr {
    SockAddr::from(scoped(ip, port, index))
}
