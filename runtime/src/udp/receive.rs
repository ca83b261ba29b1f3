//! The receiving socket.

use super::iface::{self, Interface};
use super::{scoped_raw, sys};
use crate::error::StartupError;
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

/// With GRO a buffer holds up to 64 datagrams, and what does not fit is cut off: it must take the largest.
const BUFFER_BYTES: usize = 65_536;
/// Buffers per recvmmsg. They belong to the thread, not to the socket, so a receiver with many flows stays small; pages are
/// touched only as they are filled.
const BUFFERS: usize = 16;

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
pub struct MulticastReceiver {
    io: UdpSocket,
    state: UdpSocketState,
    /// Name and index of the interface of the join.
    interface: (String, u32),
    receive_buffer: usize,
    calls: u64,
}

impl MulticastReceiver {
    /// Joins by MCAST_JOIN_SOURCE_GROUP or MCAST_JOIN_GROUP. Must be called inside a tokio runtime. Errors: `E-JOIN-IFACE`,
    /// `E-GROUP`, `E-JOIN-LIMIT` (igmp_max_memberships), `E-PORT-IN-USE`, `E-SOCKET`.
    pub fn join(options: &ReceiveOptions) -> Result<MulticastReceiver, StartupError> {
        check(options)?;
        let socket = open(options).map_err(|e| open_error(options, &e))?;
        let ReceiveOptions { source, group, interface, .. } = options;
        sys::join(&socket, interface.index, *group, *source).map_err(|e| join_error(options, &e))?;
        let receive_buffer = enlarge(&socket, options.receive_buffer).map_err(|e| open_error(options, &e))?;
        let state = UdpSocketState::new((&socket).into()).map_err(|e| open_error(options, &e))?;
        // quinn-udp asks for a time stamp with every packet; nobody reads it here.
        let _ = sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0);
        let interface = (interface.name.clone(), interface.index);
        Ok(MulticastReceiver { io: socket.into(), state, interface, receive_buffer, calls: 0 })
    }

    /// Joins the group from another source too (SSM): its packets come to the same socket.
    ///
    /// # Errors
    /// `E-JOIN-IFACE`, `E-JOIN-LIMIT`, as [`MulticastReceiver::join`].
    pub fn join_also(&self, options: &ReceiveOptions) -> Result<(), StartupError> {
        check(options)?;
        let ReceiveOptions { source, group, interface, .. } = options;
        sys::join(&SockRef::from(&self.io), interface.index, *group, *source)
            .map_err(|e| join_error(options, &e))
    }

    /// Receive buffer the kernel gave, bytes (SO_RCVBUF / 2).
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// The interface of the join is gone, or another has its name now (a router's network was restarted): the kernel has
    /// forgotten the membership without a word, and only a new join brings packets.
    ///
    /// # Errors
    /// `ENODEV`, in words.
    pub fn check_interface(&self) -> io::Result<()> {
        let (name, index) = &self.interface;
        match sys::interface_index(name) {
            Some(now) if now == *index => Ok(()),
            Some(_) => Err(io::Error::other(format!("interface {name} was made anew"))),
            None => Err(io::Error::other(format!("interface {name} is gone"))),
        }
    }

    /// `recvmmsg` calls that brought something, so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Awaits packets and calls `each` once per datagram (already split from GRO) with its source address. Returns how many.
    /// Cancel safe: no datagram is lost when dropped at its await point. Must be called inside a tokio runtime.
    pub async fn receive(&mut self, mut each: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        loop {
            match self.try_receive(&mut each)? {
                0 => self.readable().await?,
                count => return Ok(count),
            }
        }
    }

    /// One `recvmmsg`: as [`MulticastReceiver::receive`], but does not wait; 0 when nothing is there.
    pub fn try_receive(&mut self, mut each: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        let MulticastReceiver { io, state, calls, .. } = self;
        let taken = with_buffers(|buffers, meta| {
            let filled = state.recv((&*io).into(), buffers, meta)?;
            Ok::<_, io::Error>(deliver(buffers, &meta[..filled], &mut each))
        });
        match taken {
            Ok(count) => {
                *calls += 1;
                Ok(count)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Until something is there to take. The socket is registered only while somebody waits: a registered one wakes the
    /// runtime at every packet that arrives, wanted or not. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        sys::readable(self.io.as_fd()).await
    }

    /// Packets the kernel dropped at this socket so far because its receive buffer was full (SO_MEMINFO; the same number as
    /// the last column of /proc/net/udp). Packets that GRO had merged count as one.
    pub fn kernel_drops(&self) -> io::Result<u64> {
        sys::drops(&self.io)
    }
}

fn deliver(buffers: &[IoSliceMut<'_>], meta: &[RecvMeta], each: &mut impl FnMut(SocketAddr, &[u8])) -> usize {
    let mut count = 0;
    for (buffer, meta) in buffers.iter().zip(meta) {
        let bytes = &buffer[..meta.len.min(buffer.len())];
        if bytes.is_empty() {
            each(meta.addr, bytes); // an empty datagram is one too
            count += 1;
        }
        for datagram in bytes.chunks(meta.stride.max(1)) {
            each(meta.addr, datagram);
            count += 1;
        }
    }
    count
}

thread_local! {
    /// Taken out while in use, so that a nested call only allocates.
    static BUFFER: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

fn with_buffers<R>(run: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> R) -> R {
    let mut memory = BUFFER.take().unwrap_or_else(|| vec![0; BUFFERS * BUFFER_BYTES]);
    let mut chunks = memory.chunks_exact_mut(BUFFER_BYTES);
    let mut slices: [IoSliceMut<'_>; BUFFERS] =
        std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("BUFFERS chunks")));
    let result = run(&mut slices, &mut [RecvMeta::default(); BUFFERS]);
    BUFFER.set(Some(memory));
    result
}

fn check(options: &ReceiveOptions) -> Result<(), StartupError> {
    let ReceiveOptions { source, group, port, .. } = options;
    let fault = if !group.is_multicast() {
        format!("{group} is not a multicast address")
    } else if let Some(source) = source.filter(|s| s.is_ipv4() != group.is_ipv4()) {
        format!("source {source} and group {group} are of different families")
    } else if let Some(source) = source.filter(|s| s.is_multicast() || s.is_unspecified()) {
        format!("source {source} is not the address of a sender")
    } else if *port == 0 {
        format!("group {group} has port 0")
    } else {
        return Ok(());
    };
    let hint = "write SOURCE@GROUP:PORT, for example 10.0.0.5@232.1.1.1:5000; SSM groups are 232.0.0.0/8 and ff3x::/32";
    Err(StartupError::usage("E-GROUP", fault, hint))
}

fn open(options: &ReceiveOptions) -> io::Result<Socket> {
    let ReceiveOptions { group, port, interface, .. } = options;
    let address = scoped_raw(*group, *port, interface.index);
    let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // other receivers of the group on this machine
    // Only what this socket joined, not what any process on the machine joined.
    if group.is_ipv4() {
        sys::set_int(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)?;
    } else {
        socket.set_only_v6(true)?;
        // Linux 4.20; before that, sockets that joined with a source were filtered all the same.
        let _ = sys::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, 0);
    }
    socket.bind(&address)?;
    Ok(socket)
}

/// Asks for `wanted` bytes, past `net.core.rmem_max` where privileged. Returns what the kernel gave.
fn enlarge(socket: &Socket, wanted: usize) -> io::Result<usize> {
    let size = libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX / 2);
    if sys::set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        socket.set_recv_buffer_size(wanted)?;
    }
    // The kernel doubles the number for its own bookkeeping.
    Ok(socket.recv_buffer_size()? / 2)
}

fn what(options: &ReceiveOptions) -> String {
    let ReceiveOptions { source, group, port, interface, .. } = options;
    let from = source.map_or_else(String::new, |s| format!(" from {s}"));
    format!("{group} port {port}{from} on {}", interface.name)
}

fn open_error(options: &ReceiveOptions, error: &io::Error) -> StartupError {
    let message = format!("cannot receive {}: {error}", what(options));
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => StartupError::runtime(
            "E-PORT-IN-USE",
            format!(
                "cannot receive {}: another program holds UDP port {} for itself",
                what(options),
                options.port
            ),
            format!("find it with: ss -ulnp 'sport = :{}'", options.port),
        ),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => StartupError::runtime(
            "E-JOIN-IFACE",
            message,
            "this machine has no such address family: is IPv6 switched off (net.ipv6.conf.all.disable_ipv6)?",
        ),
        _ => StartupError::runtime(
            "E-SOCKET",
            message,
            "check limits (ulimit -n) and sandboxing (RestrictAddressFamilies, seccomp)",
        ),
    }
}

fn join_error(options: &ReceiveOptions, error: &io::Error) -> StartupError {
    let what = what(options);
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => StartupError::runtime(
            "E-JOIN-LIMIT",
            format!("cannot join {what}: the kernel's limit of memberships or source filters is reached"),
            "sysctl -w net.ipv4.igmp_max_memberships=200 net.ipv4.igmp_max_msf=200 net.core.optmem_max=131072",
        ),
        Some(libc::EINVAL) => StartupError::usage(
            "E-GROUP",
            format!("cannot join {what}: the kernel refuses the address"),
            "check group and source",
        ),
        _ => {
            let list = iface::interfaces().unwrap_or_default();
            let state = if options.interface.up { "cannot be joined on" } else { "is down:" };
            StartupError::runtime(
                "E-JOIN-IFACE",
                format!("cannot join {what}: interface {state} {} ({error})", options.interface.name),
                format!("use --interface (interfaces with multicast: {})", iface::usable(&list)),
            )
        }
    }
}
