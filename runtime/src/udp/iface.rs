//! Network interfaces: what there is, which one has a name or an address, which one a route takes.

use crate::error::StartupError;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

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

impl Interface {
    /// The address to send from in the family of `like`: the first that is not link-local, else the first.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let mut same = self.addresses.iter().copied().filter(|a| a.is_ipv4() == like.is_ipv4());
        let first = same.clone().next();
        same.find(|a| !link_local(*a)).or(first)
    }

    /// `eth0 (10.0.0.5, 2001:db8::5)`.
    fn describe(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, addresses.join(", "))
        }
    }
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// All interfaces (getifaddrs), in the kernel's order.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut by_index: BTreeMap<u32, Interface> = BTreeMap::new();
    for entry in entries()? {
        let interface = by_index.entry(entry.index).or_insert_with(|| Interface {
            name: entry.name,
            index: entry.index,
            addresses: Vec::new(),
            multicast: entry.flags & libc::IFF_MULTICAST as u32 != 0,
            up: entry.flags & libc::IFF_UP as u32 != 0,
        });
        if let Some(address) = entry.address
            && !interface.addresses.contains(&address)
        {
            interface.addresses.push(address);
        }
    }
    Ok(by_index.into_values().collect())
}

/// One answer of getifaddrs.
struct Entry {
    name: String,
    index: u32,
    flags: u32,
    address: Option<IpAddr>,
}

#[allow(unsafe_code)]
fn entries() -> io::Result<Vec<Entry>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes a list head to `head`, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut out = Vec::new();
    let mut at = head;
    while !at.is_null() {
        // SAFETY: `at` is a non-null element of the list getifaddrs made; it stays valid until freeifaddrs.
        let element = unsafe { &*at };
        at = element.ifa_next;
        // SAFETY: ifa_name is a NUL-terminated string of the same list.
        let name = unsafe { CStr::from_ptr(element.ifa_name) };
        // SAFETY: `name` is NUL-terminated.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            continue; // the interface went away meanwhile, or this is an old-style alias
        }
        // SAFETY: ifa_addr is null or points to a socket address of the family it states.
        let address = unsafe { address(element.ifa_addr) };
        out.push(Entry {
            name: name.to_string_lossy().into_owned(),
            index,
            flags: element.ifa_flags,
            address,
        });
    }
    // SAFETY: `head` came from getifaddrs and nothing borrowed from the list is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(out)
}

/// # Safety
/// `raw` is null or points to a socket address that is as long as its family says.
#[allow(unsafe_code)]
unsafe fn address(raw: *const libc::sockaddr) -> Option<IpAddr> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    match libc::c_int::from(unsafe { (*raw).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

/// The interfaces that can carry multicast, for hints: `eth1 (10.0.0.7), wlan0 (192.168.1.4)`.
pub(super) fn usable(list: &[Interface]) -> String {
    let names: Vec<String> = list
        .iter()
        .filter(|i| i.up && !i.addresses.is_empty() && (i.multicast || i.name == "lo"))
        .map(Interface::describe)
        .collect();
    if names.is_empty() { "none is up with an address".to_owned() } else { names.join(", ") }
}

fn listed() -> Result<Vec<Interface>, StartupError> {
    interfaces().map_err(|e| unlisted(&e))
}

fn unlisted(error: &io::Error) -> StartupError {
    let sandbox = "the program needs AF_NETLINK sockets: check RestrictAddressFamilies or the container's seccomp profile";
    StartupError::runtime(
        "E-IFACE",
        format!("cannot list the network interfaces: {error}"),
        crate::files::hint(error).unwrap_or_else(|| sandbox.to_owned()),
    )
}

/// The interface called `name`, or having the address `name`. `E-IFACE` lists the ones there are.
pub fn interface(name: &str) -> Result<Interface, StartupError> {
    let list = listed()?;
    let as_address = name.parse::<IpAddr>().ok();
    let found = list.iter().find(|i| i.name == name || as_address.is_some_and(|a| i.addresses.contains(&a)));
    let what = if as_address.is_some() { "address" } else { "name" };
    found.cloned().ok_or_else(|| {
        StartupError::usage(
            "E-IFACE",
            format!("no network interface has the {what} `{name}`"),
            format!("interfaces that are up: {}", usable(&list)),
        )
    })
}

/// The interface and local address the kernel routes `destination` through (a connected UDP socket tells; nothing is sent).
/// Error `E-ROUTE`: no route, or a link-local destination, whose interface only the caller can know.
pub fn route_to(destination: IpAddr) -> Result<(Interface, IpAddr), StartupError> {
    let list = listed()?;
    let local = local_address(destination).map_err(|e| no_route(destination, &cause(&e), &list))?;
    let on = |i: &&Interface| i.addresses.contains(&local);
    let found = list.iter().filter(|i| i.up).find(on).or_else(|| list.iter().find(on));
    // Every address of 127/8 is the loopback's, also those that no interface lists.
    let found = found.or_else(|| list.iter().find(|i| local.is_loopback() && i.name == "lo"));
    match found {
        Some(interface) => Ok((interface.clone(), local)),
        None => Err(no_route(destination, &format!("local address {local} is on no interface"), &list)),
    }
}

fn local_address(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(destination, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "no route".to_owned(),
        Some(libc::EACCES | libc::EPERM) => "forbidden by a routing rule or the firewall".to_owned(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
            "this machine has no address of that family".to_owned()
        }
        Some(libc::EINVAL) => "a link-local address needs the interface to be named".to_owned(),
        _ => error.to_string(),
    }
}

fn no_route(destination: IpAddr, why: &str, list: &[Interface]) -> StartupError {
    StartupError::runtime(
        "E-ROUTE",
        format!("cannot find the interface towards {destination}: {why}"),
        format!(
            "name it with --interface (interfaces with multicast: {})\nor add a route to {destination}",
            usable(list)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_interfaces_cannot_be_listed() {
        let hint = |number| unlisted(&io::Error::from_raw_os_error(number)).hint;
        assert!(hint(libc::EMFILE).contains("the limit of open files is "), "{}", hint(libc::EMFILE));
        assert!(hint(libc::EAFNOSUPPORT).contains("AF_NETLINK"));
    }
}
