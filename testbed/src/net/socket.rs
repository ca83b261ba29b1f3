//! Frames in and out of an interface (AF_PACKET), and the offloads that must be off so that a frame is a packet.

use bytes::Bytes;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `htons(ETH_P_ALL)`.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
/// For bursts of the sender while the emulator is busy elsewhere.
const BUFFER: i32 = 32 << 20;
/// Largest frame: no offload is on, so an MTU and an Ethernet header; some room tells that one still is.
const FRAME: usize = 65_600;
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Checksums, scatter-gather, TSO, GSO, GRO: `ETHTOOL_S…` of linux/ethtool.h. With them, veth carries super-packets and
/// unfinished checksums.
const OFFLOADS: [u32; 5] = [0x17, 0x19, 0x1f, 0x24, 0x2c];
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Index of an interface in the calling thread's namespace.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: the pointer is of a live C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Switches off what would make a frame something else than a packet on the wire.
pub(super) fn plain_frames(name: &str) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    // SAFETY: a socket is made, used and closed here; see below for the ioctl.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    for command in OFFLOADS {
        let mut value = Value { command, data: 0 };
        // SAFETY: ifreq is plain old data for which zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads ifr_name and the struct that ifr_data points to; both live until it returns.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// All frames of one interface.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl PacketSocket {
    pub(super) fn open(index: u32) -> io::Result<PacketSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing arrives before bind(2) names the interface.
        // SAFETY: socket(2) takes integers; the descriptor is new and ours.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let fd = socket.as_raw_fd();
        option(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        if option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER).is_err() {
            option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        }
        if option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER).is_err() {
            option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER)?;
        }
        // SAFETY: sockaddr_ll is plain old data for which zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and length are of one live sockaddr_ll.
        if unsafe { libc::bind(fd, (&raw const address).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(PacketSocket { socket, buffer: vec![0; FRAME] })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next frame; `None`: there is none now.
    pub(super) fn receive(&mut self) -> Option<Bytes> {
        // SAFETY: the pointer and length are of one live buffer.
        let got = unsafe { libc::recv(self.fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
        let length = usize::try_from(got).ok()?;
        self.buffer.get(..length).map(Bytes::copy_from_slice)
    }

    /// Sends a frame; `false`: the kernel did not take it.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the pointer and length are of one live slice.
        let sent = unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) };
        usize::try_from(sent) == Ok(frame.len())
    }

    /// Frames the kernel dropped because the emulator was too slow, since the last call.
    pub(super) fn dropped(&self) -> u64 {
        // struct tpacket_stats: packets, drops.
        let mut stats = [0u32; 2];
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the pointers are of a live array and its length.
        let got = unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if got < 0 { 0 } else { stats[1].into() }
    }
}

fn option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length are of one live integer.
    if unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
