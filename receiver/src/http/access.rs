//! Who may ask, and which origins may be asked: never an open proxy.

use super::errors::Refusal;
use super::site::Site;
use http::header;
use http::request;
use http::uri::Authority;
use mahp_common::catalog::Channel;
use mahp_runtime::fetch::plain_host;
use mahp_runtime::guard::{host_name, is_local_name, is_local_peer};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use url::Url;

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u32,
}

impl Network {
    /// Whether an address lies in it. IPv4 addresses in IPv6 form count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(a)) => leading_bits_equal(net.octets(), a.octets(), self.length),
            (IpAddr::V6(net), IpAddr::V6(a)) => leading_bits_equal(net.octets(), a.octets(), self.length),
            _ => false,
        }
    }
}

fn leading_bits_equal<const N: usize>(a: [u8; N], b: [u8; N], mut bits: u32) -> bool {
    a.into_iter().zip(b).all(|(x, y)| {
        let mask = match bits {
            0 => 0,
            1..8 => !(0xff_u8 >> bits),
            _ => 0xff,
        };
        bits = bits.saturating_sub(8);
        (x ^ y) & mask == 0
    })
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("`{s}` is not a network: write 192.0.2.0/24, 2001:db8::/32 or one address");
        let (address, length) = s.split_once('/').map_or((s, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |l| l.trim().parse().map_err(|_| wrong()))?;
        if length > most { Err(wrong()) } else { Ok(Network { address: address.to_canonical(), length }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Whether a peer is served: local networks and the site always, others when listed.
pub fn may_ask(peer: IpAddr, allow_from: &[Network], site: &Site) -> bool {
    let peer = peer.to_canonical();
    let at_home = |peer| matches!(peer, IpAddr::V6(v6) if site.contains(v6));
    is_local_peer(peer) || allow_from.iter().any(|n| n.contains(peer)) || at_home(peer)
}

/// Whether the page may be shown under the name that a request gives us: a page of somebody else can have a browser ask under a name
/// of its own that leads here, and read the answer (DNS rebinding). Without a name: no browser asks.
pub fn is_our_name(request: &request::Parts, ours: &[String]) -> Result<(), Refusal> {
    let header = || request.headers.get(header::HOST)?.to_str().ok();
    let Some(host) = request.uri.authority().map(Authority::as_str).or_else(header) else { return Ok(()) };
    match host_name(host) {
        Some(name) if is_local_name(&name) || ours.contains(&name) => Ok(()),
        Some(name) => Err(Refusal::name_not_ours(&name)),
        None => Err(Refusal::bad_target(format!("the Host header `{host}` is no host"))),
    }
}

/// Whether a channel's prefix is of the same scheme, host and port.
pub fn is_channel_host(channels: &[Arc<Channel>], url: &Url) -> bool {
    let mut prefixes = channels.iter().flat_map(|c| &c.prefixes);
    prefixes.any(|p| Url::parse(p).is_ok_and(|p| p.origin() == url.origin()))
}

/// Origins that are allowed besides those of channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList(Vec<HostPattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPattern {
    name: String,
    port: Option<u16>,
}

/// How a host is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// By its name or address: it may be in a private network.
    ByName,
    /// By a pattern: only if it is public.
    ByPattern,
}

impl HostList {
    /// From `host`, `host:port`, `*.example.com` (any name below it) or `*` (any public host).
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<HostList, String> {
        entries.into_iter().map(|e| e.as_ref().parse()).collect::<Result<_, _>>().map(HostList)
    }

    /// Whether a URL's host is listed, and how.
    pub fn listing(&self, url: &Url) -> Option<Listing> {
        let host = url.host_str()?;
        let matching = self.0.iter().filter(|p| p.matches(host, url.port_or_known_default()));
        matching.map(HostPattern::listing).min_by_key(|l| *l == Listing::ByPattern)
    }

    /// Whether a host (as [`plain_host`] writes it) is listed by its name or address: then it may be in a private network.
    pub fn names(&self, host: &str) -> bool {
        self.0.iter().any(|p| p.listing() == Listing::ByName && plain_host(&p.name) == host)
    }
}

impl HostPattern {
    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        let named = match self.name.strip_prefix('*') {
            None => self.name == host,
            Some("") => true,
            Some(parent) => host.len() > parent.len() && host.ends_with(parent),
        };
        named && (self.port.is_none() || self.port == port)
    }

    fn listing(&self) -> Listing {
        if self.name.starts_with('*') { Listing::ByPattern } else { Listing::ByName }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{s}` is not an origin: write a host (cdn.example), host:port, *.example or * for any public host"
            )
        };
        let rest = s.trim().to_ascii_lowercase();
        let rest = rest.strip_prefix("https://").or(rest.strip_prefix("http://")).unwrap_or(&rest);
        let rest = rest.trim_end_matches('/');
        let (stars, host) = match rest.strip_prefix("*.") {
            Some(parent) => ("*.", parent),
            None if rest == "*" => return Ok(HostPattern { name: "*".into(), port: None }),
            None => ("", rest),
        };
        // The URL parser knows what a host is, and how it is written.
        let url = Url::parse(&format!("http://{host}/")).map_err(|_| wrong())?;
        let is_plain = url.path() == "/" && url.username().is_empty() && url.query().is_none();
        let name = url.host_str().filter(|h| is_plain && !h.contains('*')).ok_or_else(wrong)?;
        let default_written = host.ends_with(":80").then_some(80);
        Ok(HostPattern { name: format!("{stars}{name}"), port: url.port().or(default_written) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (net, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.128/25", "192.0.2.200", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::1"),
        ] {
            let net: Network = net.parse().expect(net);
            assert!(net.contains(inside.parse().expect(inside)), "{net} {inside}");
            assert!(!net.contains(outside.parse().expect(outside)), "{net} {outside}");
        }
        for wrong in ["", "x", "1.2.3.4/33", "1.2.3.4/-1", "::/129", "1.2.3.4/", "1.2.3/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts() {
        let list = HostList::new(["CDN.example", "*.b.example", "https://c.example:8443/", "[::1]:80"])
            .expect("list");
        let on = |url: &str| list.listing(&Url::parse(url).expect("url"));
        assert_eq!(on("https://cdn.example/x"), Some(Listing::ByName));
        assert_eq!(on("http://cdn.example:99/x"), Some(Listing::ByName));
        assert_eq!(on("https://a.b.example/x"), Some(Listing::ByPattern));
        assert_eq!(on("https://b.example/x"), None);
        assert_eq!(on("https://xb.example/x"), None);
        assert_eq!(on("https://c.example:8443/x"), Some(Listing::ByName));
        assert_eq!(on("https://c.example/x"), None);
        assert_eq!(on("http://[::1]/x"), Some(Listing::ByName));
        assert!(["cdn.example", "c.example", "::1"].iter().all(|h| list.names(h)));
        assert!(!["b.example", "a.b.example", "x.example"].iter().any(|h| list.names(h)));
        assert_eq!(
            HostList::new(["*"]).expect("list").listing(&Url::parse("http://h/").expect("url")),
            Some(Listing::ByPattern)
        );
        for wrong in ["", "a b", "*x.example", "u@h", "h/path", "a.*.b", "h:99999"] {
            assert!(HostList::new([wrong]).is_err(), "{wrong}");
        }
    }
}
