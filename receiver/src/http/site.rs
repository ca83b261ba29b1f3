//! Which global IPv6 addresses are of this router's own site.
//!
//! In IPv4 a home's addresses are private ones. In IPv6 its devices have global addresses, from a prefix that the provider delegated to
//! the router. Of these the router keeps an unreachable route for what it has not assigned to a link (RFC 7084 section 4.3; OpenWrt,
//! systemd-networkd and dhcpcd do so): it tells the site's addresses from those of neighbours on the provider's link, which the
//! interface's own addresses do not.

use std::io::Read as _;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// All IPv6 routes of the kernel, in a line each.
const TABLE: &str = "/proc/net/ipv6_route";
/// A larger table is of no home router: not looked into.
const TABLE_MAX: u64 = 1 << 20;
/// What was read is believed for this long.
const AGE: Duration = Duration::from_secs(10);
/// Lengths of prefixes that are delegated to a site (RFC 6177): shorter ones are a provider's.
const DELEGATED: std::ops::RangeInclusive<u32> = 48..=64;
/// Routes of at most this length lead to the internet: ::/0, its halves, 2000::/3.
const UPSTREAM: u32 = 3;
/// Flags of a route, as in the kernel's `route.h` and `ipv6_route.h`.
const RTF_REJECT: u32 = 0x200;
const RTF_LOCAL: u32 = 0x8000_0000;

/// The router's site, looked up in the kernel's routes. The default knows of none.
#[derive(Clone, Debug, Default)]
pub struct Site {
    table: Option<PathBuf>,
    read: Arc<Mutex<Option<(Instant, Routes)>>>,
}

impl Site {
    /// That of this box.
    pub fn of_this_box() -> Site {
        Site { table: Some(TABLE.into()), ..Site::default() }
    }

    /// Whether an address is of a delegated prefix, and not on the way to the internet.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        self.table.is_some() && self.routes().are_of_site(address)
    }

    fn routes(&self) -> Routes {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, routes)) = read.as_ref().filter(|(at, _)| at.elapsed() < AGE) {
            return routes.clone();
        }
        let routes = self.read_table().map_or_else(Routes::default, |text| Routes::parse(&text));
        *read = Some((Instant::now(), routes.clone()));
        routes
    }

    /// None: there is no IPv6, or the table is too long.
    fn read_table(&self) -> Option<String> {
        let mut text = String::new();
        let file = std::fs::File::open(self.table.as_ref()?).ok()?;
        let length = file.take(TABLE_MAX).read_to_string(&mut text).ok()?;
        ((length as u64) < TABLE_MAX).then_some(text)
    }
}

#[derive(Clone, Debug, Default)]
struct Routes(Arc<[Route]>);

#[derive(Debug)]
struct Route {
    destination: Ipv6Addr,
    length: u32,
    /// What it leads to is unreachable.
    rejects: bool,
    device: String,
}

impl Routes {
    /// Lines that are not routes are passed over, and so are routes to the box itself.
    fn parse(text: &str) -> Routes {
        Routes(text.lines().filter_map(Route::parse).collect())
    }

    fn are_of_site(&self, address: Ipv6Addr) -> bool {
        let covering = || self.0.iter().filter(|r| r.covers(address));
        let delegated =
            covering().filter(|r| r.rejects && DELEGATED.contains(&r.length)).map(|r| r.length).min();
        let Some(delegated) = delegated else { return false };
        // Where the address is: all tables at once, as policy routing may use any of them.
        let Some(longest) = covering().filter(|r| !r.rejects).map(|r| r.length).max() else { return false };
        let mut best = covering().filter(|r| !r.rejects && r.length == longest);
        longest >= delegated && best.all(|r| !self.is_upstream(&r.device))
    }

    /// Whether the internet is behind an interface.
    fn is_upstream(&self, device: &str) -> bool {
        self.0.iter().any(|r| !r.rejects && r.length <= UPSTREAM && r.device == device)
    }
}

impl Route {
    /// Destination, length, source, length, next hop, metric, references, uses, flags, device; numbers in hexadecimal.
    fn parse(line: &str) -> Option<Route> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, length, _, _, _, _, _, _, flags, device] = fields[..] else { return None };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let flags = number(flags)?;
        (flags & RTF_LOCAL == 0).then_some(Route {
            destination: Ipv6Addr::from(u128::from_str_radix(destination, 16).ok()?),
            length: number(length).filter(|l| *l <= 128)?,
            rejects: flags & RTF_REJECT != 0,
            device: device.to_owned(),
        })
    }

    fn covers(&self, address: Ipv6Addr) -> bool {
        let differing = (self.destination.to_bits() ^ address.to_bits()).leading_zeros();
        differing >= self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows it on a router with a link to its provider, a delegated /56 and two networks at home.
    const ROUTER: &str = "\
00000000000000000000000000000000 00 2a000001000000000000000000000000 38 fe800000000000000000000000000001 00000400 00000001 00000000 00000003      wan
2a000001000000100000000000000000 3c 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001   br-lan
2a000001000000200000000000000000 40 00000000000000000000000000000000 00 2a000001000000100000000000000002 00000400 00000002 00000000 00000003   br-lan
2a000001000000000000000000000000 38 00000000000000000000000000000000 00 00000000000000000000000000000000 7fffffff 00000002 00000000 00200200       lo
2a00000100ff00000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001      wan
2a0000ff000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     iptv
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001      wan
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000002 00000000 00200200       lo
2a000001000000100000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001   br-lan
2a00000100ff00000000000000000005 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001      wan
ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001   br-lan
";

    fn of_site(table: &str, address: &str) -> bool {
        Routes::parse(table).are_of_site(address.parse().unwrap())
    }

    #[test]
    fn a_home_is_what_was_delegated_and_is_not_the_providers_link() {
        for (address, inside) in [
            ("2a00:1:0:10::1", true),
            ("2a00:1:0:1f:1:2:3:4", true),
            ("2a00:1:0:20::9", true),
            // Assigned to no link: unreachable.
            ("2a00:1:0:30::9", false),
            // Neighbours on the provider's link, and on one for television.
            ("2a00:1:ff::6", false),
            ("2a00:ff::6", false),
            ("2001:4860::1", false),
        ] {
            assert_eq!(of_site(ROUTER, address), inside, "{address}");
        }
    }

    #[test]
    fn without_a_delegated_prefix_there_is_no_home() {
        let host: String =
            ROUTER.lines().filter(|l| !l.contains("7fffffff")).flat_map(|l| [l, "\n"]).collect();
        assert!(!of_site(&host, "2a00:1:0:10::1"), "a host on its router's link, or a server beside others");
        // What a provider drops is no home, however large or small.
        for length in ["00", "20", "2f", "41", "80"] {
            let drops = ROUTER.replace("0000 38 0000", &format!("0000 {length} 0000"));
            assert_ne!(drops, ROUTER);
            assert!(!of_site(&drops, "2a00:1:0:10::1"), "{length}");
        }
    }

    #[test]
    fn the_providers_link_may_be_in_the_delegated_prefix() {
        // RFC 6603.
        let within =
            ROUTER.replace("2a00000100ff00000000000000000000 40", "2a000001000000ff0000000000000000 40");
        assert!(!of_site(&within, "2a00:1:0:ff::6"));
        assert!(of_site(&within, "2a00:1:0:10::9"));
        // Another table leads there by another way: in doubt it is none of ours.
        let twice = format!("{ROUTER}{}", ROUTER.lines().nth(1).unwrap().replace("br-lan", "wan"));
        assert!(!of_site(&twice, "2a00:1:0:10::9"));
    }

    #[test]
    fn damaged_tables_do_no_harm() {
        for at in 0..ROUTER.len() {
            assert!(
                !of_site(&ROUTER[..at], "2a00:1:ff::6") && !of_site(&ROUTER[at..], "2a00:1:ff::6"),
                "{at}"
            );
        }
        assert!(!Site::default().contains("2a00:1:0:10::1".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_read_again_after_a_while() {
        let table = std::env::temp_dir().join(format!("mahp-site-{}", std::process::id()));
        let site = Site { table: Some(table.clone()), ..Site::default() };
        let at_home = || site.contains("2a00:1:0:10::1".parse().unwrap());
        assert!(!at_home(), "no IPv6");
        std::fs::write(&table, ROUTER).unwrap();
        assert!(!at_home());
        tokio::time::sleep(AGE).await;
        assert!(at_home());
        // Longer than any home's.
        std::fs::write(&table, ROUTER.repeat(800)).unwrap();
        tokio::time::sleep(AGE).await;
        assert!(!at_home());
        std::fs::remove_file(table).unwrap();
    }
}
