//! The sending socket.

use super::iface::Interface;
use super::{scoped, scoped_raw, sys};
use crate::error::StartupError;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// UDP_MAX_SEGMENTS of Linux before 6.9; later kernels take 128, but 64 KiB end first at our packet sizes.
const MAX_SEGMENTS: usize = 64;
/// Largest UDP payload over IPv4: 65 535 less the IPv4 and UDP headers. IPv6 would take 20 bytes more.
const MAX_PAYLOAD: usize = 65_507;
const SEND_BUFFER: usize = 2 << 20;
/// A full device queue (ENOBUFS) signals no writability when it drains: wait and try again, this often.
const NO_BUFFER_WAIT: Duration = Duration::from_millis(1);
const NO_BUFFER_TRIES: u32 = 50;

/// Options of a sending socket.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Local address: the S of (S,G).
    pub source: IpAddr,
    /// Outgoing interface.
    pub interface: Interface,
    /// TTL or hop limit, 0 to 255. 0 does not leave this machine.
    pub ttl: u32,
    /// DSCP, 0 to 63.
    pub dscp: u8,
}

/// A sending socket (non-blocking, with UDP GSO). One serves any number of groups of its family.
///
/// Packets carry DF and are never fragmented: one larger than the interface's MTU is an error (EMSGSIZE).
#[derive(Debug)]
pub struct MulticastSender {
    io: UdpSocket,
    index: u32,
    gso: AtomicBool,
    calls: AtomicU64,
}

impl MulticastSender {
    /// Binds `source:0`, sets interface, TTL, DSCP, loop on. Must be called inside a tokio runtime.
    /// Errors: `E-SOURCE` (not an address of this machine), `E-TTL`, `E-DSCP`, `E-SOCKET`.
    pub fn new(options: &SendOptions) -> Result<MulticastSender, StartupError> {
        MulticastSender::with_gso(options, true)
    }

    /// As `new`; with `gso` false every packet is a system call of its own, so that a loss model on the path drops packets
    /// and not whole batches.
    pub fn with_gso(options: &SendOptions, gso: bool) -> Result<MulticastSender, StartupError> {
        check(options)?;
        let socket = open(options).map_err(|e| bind_error(options, &e))?;
        let io = UdpSocket::from_std(socket.into()).map_err(|e| bind_error(options, &e))?;
        Ok(MulticastSender {
            io,
            index: options.interface.index,
            gso: AtomicBool::new(gso),
            calls: AtomicU64::new(0),
        })
    }

    /// The bound address: the S of (S,G) and the UDP source port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Whether batches go out with GSO. Turns false for good at the first refusal of the kernel or the driver.
    pub fn gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// Successful `sendmsg` calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many packets of `segment_size` bytes one call takes at most: the useful size of a batch.
    pub fn batch(segment_size: usize) -> usize {
        (MAX_PAYLOAD / segment_size.max(1)).clamp(1, MAX_SEGMENTS)
    }

    /// Sends `packets` (all `segment_size` long but the last, which may be shorter) to `to`, in one call where the kernel can,
    /// awaiting writability. Longer runs than [`MulticastSender::batch`] take more calls. If dropped at its await point, a
    /// whole number of leading packets has left. Errors are of the kernel (EMSGSIZE: larger than the MTU; EPERM: firewall;
    /// ENETUNREACH; ENODEV: the interface is gone), and `InvalidInput` for a zero `segment_size`.
    pub async fn send(&self, to: SocketAddr, packets: &[u8], segment_size: usize) -> io::Result<()> {
        if packets.is_empty() {
            return Ok(());
        }
        if segment_size == 0 || segment_size > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let to = scoped_raw(to.ip(), to.port(), self.index);
        let mut rest = packets;
        while !rest.is_empty() {
            let batch = if self.gso() { MulticastSender::batch(segment_size) } else { 1 };
            let (now, later) = rest.split_at(rest.len().min(batch * segment_size));
            self.send_batch(&to, now, segment_size).await?;
            rest = later;
        }
        Ok(())
    }

    async fn send_batch(&self, to: &SockAddr, batch: &[u8], segment_size: usize) -> io::Result<()> {
        if batch.len() <= segment_size {
            return self.send_once(to, batch, None).await;
        }
        let size = u16::try_from(segment_size).map_err(|_| io::ErrorKind::InvalidInput)?;
        match self.send_once(to, batch, Some(size)).await {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                // Some drivers cannot, and nothing tells before. A batch that fails packet by packet too was the caller's fault.
                for packet in batch.chunks(segment_size) {
                    self.send_once(to, packet, None).await?;
                }
                if self.gso.swap(false, Ordering::Relaxed) {
                    tracing::info!(error = %e, "the kernel refuses UDP segmentation offload here: sending packet by packet");
                }
                Ok(())
            }
            other => other,
        }
    }

    async fn send_once(&self, to: &SockAddr, bytes: &[u8], segment: Option<u16>) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let call = || sys::send(&self.io, to, bytes, segment);
            match self.io.async_io(Interest::WRITABLE, call).await {
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) && tries < NO_BUFFER_TRIES => {
                    tries += 1;
                    tokio::time::sleep(NO_BUFFER_WAIT).await;
                }
                Ok(()) => {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn check(options: &SendOptions) -> Result<(), StartupError> {
    if options.ttl > 255 {
        return Err(StartupError::usage(
            "E-TTL",
            format!("TTL {} is out of range", options.ttl),
            "use 0 to 255: 1 stays on this link, 16 within a site",
        ));
    }
    if options.dscp > 63 {
        return Err(StartupError::usage(
            "E-DSCP",
            format!("DSCP {} is out of range", options.dscp),
            "use 0 to 63, for example 34 (AF41) for video",
        ));
    }
    Ok(())
}

fn open(options: &SendOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(options.source, 0));
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let index = options.interface.index;
    let tos = libc::c_int::from(options.dscp) << 2;
    match options.source {
        IpAddr::V4(source) => {
            sys::set_multicast_interface_v4(&socket, index, source)?;
            socket.set_multicast_ttl_v4(options.ttl)?;
            socket.set_multicast_loop_v4(true)?;
            sys::set_int(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos)?;
            let probe = libc::IP_PMTUDISC_PROBE;
            sys::set_int(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(options.ttl)?;
            socket.set_multicast_loop_v6(true)?;
            sys::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos)?;
            let probe = libc::IPV6_PMTUDISC_PROBE;
            sys::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            sys::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        }
    }
    let wanted = libc::c_int::try_from(SEND_BUFFER).expect("2 MiB");
    if sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?; // the kernel caps it at net.core.wmem_max
    }
    socket.bind(&SockAddr::from(scoped(options.source, 0, index)))?;
    Ok(socket)
}

fn bind_error(options: &SendOptions, error: &io::Error) -> StartupError {
    let SendOptions { source, interface, .. } = options;
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::EAFNOSUPPORT) => StartupError::usage(
            "E-SOURCE",
            format!(
                "cannot send from {source} on {}: this machine does not have that address",
                interface.name
            ),
            format!("use one of {}", addresses(interface)),
        ),
        Some(libc::ENODEV | libc::ENXIO) => StartupError::runtime(
            "E-IFACE",
            format!("cannot send on {}: the interface is gone or has no address", interface.name),
            "check it with: ip addr show",
        ),
        _ => StartupError::runtime(
            "E-SOCKET",
            format!("cannot open a UDP socket at {source} on {}: {error}", interface.name),
            "check limits (ulimit -n) and sandboxing (RestrictAddressFamilies, seccomp)",
        ),
    }
}

fn addresses(interface: &Interface) -> String {
    let list: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
    if list.is_empty() {
        format!("another interface: {} has no address", interface.name)
    } else {
        format!("the addresses of {}: {}", interface.name, list.join(", "))
    }
}
