//! As much of rtnetlink as the testbed needs: make a veth pair, bring links up, give addresses and a default route.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const ACK: u16 = libc::NLM_F_REQUEST as u16 | libc::NLM_F_ACK as u16;
const NEW: u16 = ACK | libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// Addresses are usable at once: duplicate address detection would wait a second for nobody.
const NO_DAD: u8 = 0x02;

/// A netlink socket of the calling thread's namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        // SAFETY: socket(2) takes three integers and returns a new descriptor or -1.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made above and belongs to nobody else.
        Ok(Netlink { socket: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Makes a pair: `here` in this namespace, `there` in another one.
    pub(super) fn veth(&mut self, here: End<'_>, there: End<'_>, namespace: RawFd) -> io::Result<()> {
        let mut peer = Body::link(0, 0);
        peer.end(there);
        peer.attribute(libc::IFLA_NET_NS_FD, &namespace.to_ne_bytes());
        let mut data = Body::default();
        data.attribute(VETH_INFO_PEER, &peer.0);
        let mut info = Body::default();
        info.attribute(IFLA_INFO_KIND, b"veth");
        info.attribute(IFLA_INFO_DATA, &data.0);
        let mut body = Body::link(0, 0);
        body.end(here);
        body.attribute(libc::IFLA_LINKINFO, &info.0);
        self.request(libc::RTM_NEWLINK, NEW, &body)
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        self.request(libc::RTM_NEWLINK, ACK, &Body::link(index, libc::IFF_UP as u32))
    }

    /// Gives an interface an address.
    pub(super) fn address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let (family, octets) = parts(address);
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = Body(vec![family, prefix, NO_DAD, 0]);
        body.0.extend(index.to_ne_bytes());
        body.attribute(libc::IFA_LOCAL, &octets);
        body.attribute(libc::IFA_ADDRESS, &octets);
        self.request(libc::RTM_NEWADDR, NEW, &body)
    }

    /// Everything without a nearer route leaves by this interface.
    pub(super) fn default_route(&mut self, index: u32, ipv6: bool) -> io::Result<()> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        // struct rtmsg: family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags.
        let mut body = Body(vec![
            u8::try_from(family).unwrap_or(0),
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_LINK,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ]);
        body.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.request(libc::RTM_NEWROUTE, NEW, &body)
    }

    fn request(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::new();
        let length = u32::try_from(16 + body.0.len()).map_err(io::Error::other)?;
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(&body.0);
        // SAFETY: the pointer and length are of one live buffer.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        self.acknowledged()
    }

    fn acknowledged(&self) -> io::Result<()> {
        let mut answer = [0u8; 8192];
        // SAFETY: the pointer and length are of one live buffer.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        if got < 20 {
            return Err(io::Error::last_os_error());
        }
        // struct nlmsghdr, then struct nlmsgerr, which begins with the negative errno, 0 for success.
        let code: [u8; 4] = answer[16..20].try_into().map_err(io::Error::other)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    let (family, octets) = match address {
        IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    };
    (u8::try_from(family).unwrap_or(0), octets)
}

/// The part of a message behind its header.
#[derive(Clone, Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    /// struct ifinfomsg: family and padding, type, index, flags, which flags to change.
    fn link(index: u32, flags: u32) -> Body {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        Body(body)
    }

    fn end(&mut self, end: End<'_>) {
        let mut name = end.name.as_bytes().to_vec();
        name.push(0);
        self.attribute(libc::IFLA_IFNAME, &name);
        self.attribute(libc::IFLA_ADDRESS, &end.mac);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
