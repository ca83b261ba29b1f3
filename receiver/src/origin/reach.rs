//! Which private addresses requests may end at: those that somebody vouches for, and never more by way of a redirect.

use crate::http::access::HostList;
use crate::library::Library;
use mahp_common::catalog::Channel;
use mahp_runtime::fetch::plain_host;
use std::net::IpAddr;
use std::sync::Arc;
use url::Url;

/// See the module.
pub struct Reach {
    /// The operator's list.
    pub listed: HostList,
    /// Knows the channels; what they name may be in a private network.
    pub multicast: Arc<dyn Library>,
    /// A sender is on this machine: then its channels may be too. From elsewhere, nothing leads to our own loopback interface,
    /// where the admin server is.
    pub sender_is_here: bool,
}

impl Reach {
    /// Whether requests to this host may end at this private address of it. `host`: as [`plain_host`] writes it.
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        if self.listed.names(host) {
            return true;
        }
        (self.sender_is_here || !is_own(address)) && self.multicast.channels().iter().any(|c| names(c, host))
    }
}

/// Whether a session description names this host.
fn names(channel: &Channel, host: &str) -> bool {
    let repair = channel.repair_servers.iter().map(|s| &s.url);
    let urls =
        channel.prefixes.iter().chain([&channel.manifest_url]).chain(repair).chain(&channel.report_url);
    urls.filter_map(|url| Url::parse(url).ok())
        .any(|url| url.host_str().is_some_and(|h| plain_host(h) == host))
}

/// Addresses that mean another machine on each machine, or this one.
fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::rig::{FakeLibrary, channel};
    use mahp_runtime::clock::Clock;

    #[test]
    fn what_is_named_may_be_private_and_nothing_from_elsewhere_is_our_own() {
        let multicast = Arc::new(FakeLibrary::new(Clock::new()));
        multicast.state.lock().unwrap().channels = vec![Arc::new(Channel {
            prefixes: vec!["http://Origin.lan:8080/live/".into(), "http://[fd00::1]/".into()],
            report_url: Some("http://192.168.1.2/repair/report".into()),
            ..channel()
        })];
        let listed = HostList::new(["films.lan:81", "*.wild.lan", "[::1]"]).unwrap();
        let mut reach = Reach { listed, multicast, sender_is_here: false };
        for (host, address, allowed) in [
            ("origin.lan", "10.0.0.1", true),
            ("origin.lan", "127.0.0.1", false),
            ("origin.lan", "169.254.169.254", false),
            ("origin.lan", "::ffff:127.0.0.1", false),
            ("fd00::1", "fd00::1", true),
            ("192.168.1.2", "192.168.1.2", true),
            ("192.168.1.3", "192.168.1.3", false),
            ("films.lan", "127.0.0.1", true),
            ("a.wild.lan", "10.0.0.1", false),
            ("::1", "::1", true),
        ] {
            assert_eq!(reach.allows(host, address.parse().unwrap()), allowed, "{host} {address}");
        }
        reach.sender_is_here = true;
        assert!(reach.allows("origin.lan", "127.0.0.1".parse().unwrap()));
        assert!(!reach.allows("other.lan", "127.0.0.1".parse().unwrap()));
    }
}
