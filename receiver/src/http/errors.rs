//! Refusals: what happened, where, how to mend it; with a stable code, for people and for programs.

use super::body::Body;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use std::net::{IpAddr, Ipv6Addr};

/// Seconds after which a sender that did not answer may have done so.
const SESSION_RETRY: &str = "2";

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status.
    pub status: StatusCode,
    /// Stable code, `E-…`.
    pub code: &'static str,
    /// What happened, and where.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

impl Refusal {
    /// Code of [`Refusal::no_channel`].
    pub const NO_CHANNEL: &'static str = "E-CHANNEL";
    const NO_SENDER: &'static str = "E-SESSION";

    /// Puts one together.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Refusal {
        Refusal { status, code, message: message.into(), hint: hint.into() }
    }

    /// The request target is not one we can make sense of.
    pub fn bad_target(message: impl Into<String>) -> Refusal {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "E-TARGET",
            message,
            "use /live/CHANNEL/…, /https/HOST/PATH or /http/HOST/PATH; the page at / lists the channels",
        )
    }

    /// Nothing is at this path.
    pub fn not_found(path: &str) -> Refusal {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "E-PATH",
            format!("nothing is at {path}"),
            "the page at / and /playlist.m3u list the channels; origins are at /https/HOST/PATH",
        )
    }

    /// No channel of this name.
    pub fn no_channel(name: &str, known: &[String]) -> Refusal {
        let hint = if known.is_empty() {
            "no channel is known yet: has the session description arrived?".to_owned()
        } else {
            format!("channels: {}", known.join(", "))
        };
        Refusal::new(StatusCode::NOT_FOUND, Self::NO_CHANNEL, format!("no channel is called {name}"), hint)
    }

    /// No such channel is known, and a sender that may have it has not answered yet.
    pub fn no_sender_yet(no_channel: &str) -> Refusal {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            Self::NO_SENDER,
            format!("{no_channel} yet, and a sender has not answered since this receiver was started"),
            "the page at / and `mahp-receiver doctor` say which sender, and why",
        )
    }

    /// The host is of no channel and not in the allow-list.
    pub fn origin_not_allowed(host: &str) -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "E-ORIGIN-NOT-ALLOWED",
            format!("{host} belongs to no channel and this receiver is not an open proxy"),
            format!("allow it: `allow-origin = [\"{host}\"]` in the configuration, or --allow-origin {host}"),
        )
    }

    /// The host resolves to, or a redirect leads to, an address of a private network.
    pub fn origin_private(why: &str, host: &str) -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "E-ORIGIN-PRIVATE",
            why,
            format!(
                "if it is meant, list it by name: `allow-origin = [\"{host}\"]`, or --allow-origin {host}"
            ),
        )
    }

    /// The client's address is outside the local networks.
    pub fn peer_not_allowed(peer: IpAddr) -> Refusal {
        let network = network_of(peer);
        Refusal::new(
            StatusCode::FORBIDDEN,
            "E-PEER-NOT-ALLOWED",
            format!("{peer} is not an address of a local network"),
            format!(
                "allow its network: `allow-from = [\"{network}\"]` in the configuration, or --allow-from {network}"
            ),
        )
    }

    /// The page is asked for under a name that somebody else may have given to our address.
    pub fn name_not_ours(name: &str) -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "E-HOST",
            format!(
                "the page is not shown under the name {name}: anybody's page could ask under such a name"
            ),
            format!(
                "use the address of this machine, or allow the name: `host-name = [\"{name}\"]` in the configuration, or --host-name {name}"
            ),
        )
    }

    /// Neither multicast nor the origin has it in time.
    pub fn no_source(url: &str, why: &str) -> Refusal {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "E-NO-SOURCE",
            format!("{url}: not received by multicast in time, and {why}"),
            "run `mahp-receiver doctor`, and check that the origin can be reached from here",
        )
    }

    /// Only GET, HEAD and OPTIONS.
    pub fn method(method: &http::Method) -> Refusal {
        let hint = if method == http::Method::CONNECT {
            "tunnels are not offered: ask for http:// URLs through the proxy, or use /https/HOST/PATH"
        } else {
            "use GET, HEAD or OPTIONS"
        };
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "E-METHOD", format!("{method} is not offered"), hint)
    }

    /// The answer: JSON for who asks for JSON, text otherwise; never cached.
    pub fn response(&self, request: &HeaderMap) -> Response<Body> {
        let (content_type, text) = if wants_json(request) {
            ("application/json", self.json())
        } else {
            ("text/plain; charset=utf-8", self.text())
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("mahp-error", HeaderValue::from_static(self.code));
        if self.code == Self::NO_SENDER {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(SESSION_RETRY));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        }
        response
    }

    fn text(&self) -> String {
        format!("error[{}]: {}\n  try: {}\n", self.code, self.message, self.hint)
    }

    fn json(&self) -> String {
        serde_json::json!({ "code": self.code, "message": self.message, "hint": self.hint }).to_string()
    }
}

/// What to allow for a peer: its address; in IPv6, where addresses change by the day, those of its link.
fn network_of(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{}/64", Ipv6Addr::from(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

fn wants_json(request: &HeaderMap) -> bool {
    request.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("application/json"))
}
