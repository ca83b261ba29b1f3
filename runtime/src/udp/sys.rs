//! Calls of the C library that neither `std` nor `socket2` wraps. Every `unsafe` block passes pointers to values that live on
//! this function's stack together with their exact size, and the kernel keeps none of them.

use socket2::{SockAddr, Socket};
use std::ffi::CString;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `SO_MEMINFO` (Linux 4.12), which libc does not name on every target.
const SO_MEMINFO: libc::c_int = 55;
/// Index of the drop count in what `SO_MEMINFO` answers (`SK_MEMINFO_DROPS`).
const MEMINFO_DROPS: usize = 8;
/// Room for one control message of two bytes, on every target: `CMSG_SPACE(2)` is 24 at most.
const CONTROL_BYTES: usize = 64;

/// `setsockopt` with a value of any plain type.
fn set<T: Copy>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("option values are small");
    // SAFETY: `value` is valid for `length` bytes for the duration of the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `setsockopt` with an integer.
pub(super) fn set_int(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set(socket, level, name, &value)
}

/// Until `fd` is readable; registered with the runtime only for the time of this wait. Cancel safe.
pub(super) async fn readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the borrow keeps the descriptor open, and the same, for as long as this future holds the registration.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    registered.readable().await.map(drop)
}

/// Sets the interface of outgoing IPv4 multicast by index, with the source address to use.
pub(super) fn set_multicast_interface_v4(
    socket: &Socket,
    index: u32,
    source: std::net::Ipv4Addr,
) -> io::Result<()> {
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        imr_ifindex: signed(index)?,
    };
    set(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
}

fn signed(index: u32) -> io::Result<libc::c_int> {
    libc::c_int::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
    let mut out: libc::sockaddr_storage = unsafe { zeroed() };
    let from = SockAddr::from(SocketAddr::new(address, 0));
    let length = (from.len() as usize).min(size_of::<libc::sockaddr_storage>());
    // SAFETY: both pointers are valid for `length` bytes, which is at most the size of the smaller, and they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            from.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut out).cast::<u8>(),
            length,
        );
    }
    out
}

fn level(address: IpAddr) -> libc::c_int {
    if address.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

/// Joins `group` on the interface with `index`: from `source` alone (SSM), or from anyone (ASM). RFC 3678 section 5.
pub(super) fn join(socket: &Socket, index: u32, group: IpAddr, source: Option<IpAddr>) -> io::Result<()> {
    match source {
        Some(source) => {
            let request = libc::group_source_req {
                gsr_interface: index,
                gsr_group: storage(group),
                gsr_source: storage(source),
            };
            set(socket, level(group), libc::MCAST_JOIN_SOURCE_GROUP, &request)
        }
        None => {
            let request = libc::group_req { gr_interface: index, gr_group: storage(group) };
            set(socket, level(group), libc::MCAST_JOIN_GROUP, &request)
        }
    }
}

/// Datagrams (after GRO: merged ones) the kernel dropped at this socket.
pub(super) fn drops(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut info = [0u32; 16];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).expect("64 bytes");
    // SAFETY: `info` is valid for writes of `length` bytes, and `length` is valid for reads and writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < (MEMINFO_DROPS + 1) * size_of::<u32>() {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(u64::from(info[MEMINFO_DROPS]))
}

/// The kernel's index of an interface; none: there is none of that name.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a string with a terminating zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Aligned as the kernel reads control messages.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One `sendmsg`. With `segment_size`, the kernel (or the network card) cuts `bytes` into datagrams of that size (UDP GSO).
///
/// quinn-udp has the same call, but it writes an `IP_TOS` control message with every packet, which overrides the socket's DSCP.
pub(super) fn send(
    socket: &impl AsRawFd,
    to: &SockAddr,
    bytes: &[u8],
    segment_size: Option<u16>,
) -> io::Result<()> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if let Some(size) = segment_size {
        write_segment_size(&mut header, &mut control, size);
    }
    loop {
        // SAFETY: every pointer in `header` is to a value that outlives the call; sendmsg writes to none of them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn write_segment_size(header: &mut libc::msghdr, control: &mut Control, size: u16) {
    header.msg_control = control.0.as_mut_ptr().cast();
    let data = u32::try_from(size_of::<u16>()).expect("2");
    // SAFETY: `CONTROL_BYTES` exceeds CMSG_SPACE(2) on every target, so header and data lie inside `control`, which is
    // aligned for a cmsghdr; `write_unaligned` needs no alignment for the data.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(data) as _;
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(data) as _;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(size);
    }
}
