//! Which addresses a proxy may answer or reach: never an open proxy, never a way into private networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Domains that the public DNS does not have: RFC 6761, 6762 and 8375; `internal` (ICANN board, July 2024); `lan` and `home`, which
/// many home routers give out and nobody can register.
const LOCAL_DOMAINS: [&str; 6] = ["localhost", "local", "home.arpa", "internal", "lan", "home"];

/// The name or address in a `Host` header, without port and brackets, in lower case. `None`: it is neither.
pub fn host_name(host: &str) -> Option<String> {
    let authority = host.parse::<http::uri::Authority>().ok().filter(|_| !host.contains('@'))?;
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    (!bare.is_empty()).then(|| bare.to_ascii_lowercase())
}

/// Whether a [`host_name`] is an address of its own, which nobody can give another meaning.
pub fn is_address_or_localhost(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

/// Whether a [`host_name`] is an address, or a name that only the local network can give one: without a dot, or of a domain that
/// the public DNS does not have. Under any other, a page of somebody else can make a browser ask us (DNS rebinding).
pub fn is_local_name(name: &str) -> bool {
    let of = |domain: &&str| name.strip_suffix(*domain).is_some_and(|n| n.ends_with('.'));
    is_address_or_localhost(name) || !name.contains('.') || LOCAL_DOMAINS.iter().any(of)
}

/// Loopback, private, link-local, unique-local, shared (100.64/10), unspecified, multicast, benchmarking, documentation and
/// IPv4-mapped forms of these: addresses that a public origin cannot have. (The IANA special-purpose registries, RFC 6890.)
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| is_private_v6(v6), is_private_v4),
    }
}

/// Peers that a receiver serves by default: loopback, private, link-local, unique-local, shared.
pub fn is_local_peer(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_local_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_local_v4(v4),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

fn is_local_v4(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
}

fn is_private_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    is_local_v4(v4)
        || a == 0 // "this network"
        || a >= 224 // multicast, reserved, broadcast
        || (a, b, c) == (192, 0, 0) // protocol assignments
        || (a, b, c) == (192, 88, 99) // 6to4 relay anycast, deprecated
        || (a == 198 && b & 0xfe == 18) // benchmarking
        || v4.is_documentation()
}

fn is_private_v6(v6: Ipv6Addr) -> bool {
    let s = v6.segments();
    v6.is_unspecified()
        || v6.is_loopback()
        || v6.is_multicast()
        || v6.is_unique_local()
        || v6.is_unicast_link_local()
        || s[0] & 0xffc0 == 0xfec0 // site-local, deprecated
        || (s[0] == 0x2001 && s[1] < 0x0200 && s[1] != 0) // protocol assignments; 2001::/32 is Teredo, looked into above
        || (s[0] == 0x2001 && s[1] == 0x0db8) // documentation
        || (s[0] == 0x3fff && s[1] < 0x1000) // documentation
        || s[0] == 0x5f00 // segment routing
        || (s[0] == 0x0100 && s[1] == 0 && s[2] == 0) // discard
        || (s[0] == 0x0064 && s[1] == 0xff9b && s[2] == 1) // NAT64, local use
}

/// The IPv4 address that packets to `v6` end up at: IPv4-mapped, IPv4-compatible, NAT64 (RFC 6052), 6to4 (RFC 3056),
/// Teredo's client (RFC 4380).
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, h, l] => of(h, l),
        [0, 0, 0, 0, 0, 0, h, l] if (h, l) != (0, 0) && (h, l) != (0, 1) => of(h, l),
        [0x64, 0xff9b, 0, 0, 0, 0, h, l] => of(h, l),
        [0x2002, h, l, ..] => of(h, l),
        [0x2001, 0, .., h, l] => of(!h, !l),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn names_in_host_headers() {
        for (host, name, fixed, local) in [
            ("localhost", "localhost", true, true),
            ("LocalHost:9000", "localhost", true, true),
            ("127.0.0.1", "127.0.0.1", true, true),
            ("10.0.0.1:80", "10.0.0.1", true, true),
            ("[::1]", "::1", true, true),
            ("[FD00::1]:9000", "fd00::1", true, true),
            ("router", "router", false, true),
            ("OpenWrt.lan:7790", "openwrt.lan", false, true),
            ("box.home.arpa.", "box.home.arpa", false, true),
            ("tv.local", "tv.local", false, true),
            ("evil.example", "evil.example", false, false),
            ("evillan:80", "evillan", false, true),
            ("x.evillan", "x.evillan", false, false),
            ("localhost.evil.example", "localhost.evil.example", false, false),
            ("127.0.0.1.evil.example:80", "127.0.0.1.evil.example", false, false),
        ] {
            assert_eq!(host_name(host).as_deref(), Some(name), "{host}");
            assert_eq!((is_address_or_localhost(name), is_local_name(name)), (fixed, local), "{host}");
        }
        for bad in ["", ".", "a@127.0.0.1", "127.0.0.1 x", "a/b"] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn public_addresses_are_not_private() {
        for s in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(!is_private(ip(s)), "{s}");
        }
    }

    #[test]
    fn special_addresses_are_private_in_every_form() {
        for s in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "232.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let IpAddr::V4(v4) = ip(s) else { panic!() };
            assert!(is_private(ip(s)), "{s}");
            assert!(is_private(v4.to_ipv6_mapped().into()), "mapped {s}");
            assert!(is_private(ip(&format!("64:ff9b::{s}"))), "NAT64 {s}");
            let [a, b, c, d] = v4.octets();
            assert!(is_private(ip(&format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1"))), "6to4 {s}");
            let teredo = format!("2001:0:1:1:0:0:{:02x}{:02x}:{:02x}{:02x}", !a, !b, !c, !d);
            assert!(is_private(ip(&teredo)), "Teredo {s} {teredo}");
        }
        for s in [
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "ff3e::8000:1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "64:ff9b:1::1",
            "2001:2::1",
            "5f00::1",
            "::127.0.0.1",
        ] {
            assert!(is_private(ip(s)), "{s}");
        }
    }

    #[test]
    fn local_peers() {
        for s in [
            "127.0.0.1",
            "10.1.1.1",
            "192.168.1.1",
            "172.20.0.1",
            "169.254.1.1",
            "100.64.0.9",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_local_peer(ip(s)), "{s}");
        }
        for s in [
            "8.8.8.8",
            "0.0.0.0",
            "203.0.113.1",
            "2a00::1",
            "::ffff:8.8.8.8",
            "2002:0a00:0001::1",
            "64:ff9b::10.0.0.1",
            "224.0.0.1",
        ] {
            assert!(!is_local_peer(ip(s)), "{s}");
        }
    }
}
