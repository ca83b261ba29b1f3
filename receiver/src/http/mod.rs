//! The HTTP half: what players ask for, answered from the store, by waiting, or from the origin.
//!
//! A request goes `server` → [`Front::handle`] → [`routes`] → [`manifest`] or [`media`] → [`headers`] and [`body`]. Everything it
//! knows of multicast comes through [`crate::library::Library`]; web servers are asked through [`crate::origin`].

pub mod access;
pub mod ask;
pub mod body;
pub mod cmcd;
pub mod cors;
pub mod errors;
pub mod growing;
pub mod headers;
pub mod large;
pub mod lent;
pub mod manifest;
pub mod media;
pub mod memo;
pub mod pieces;
pub mod range;
pub mod render;
pub mod routes;
pub mod rungs;
pub mod send;
pub mod server;
pub mod site;
pub mod small;
#[cfg(test)]
pub(crate) mod tests;
pub mod window;

use crate::library::{Library, Source};
use crate::origin::upstream::Upstream;
use crate::origin::{Bounds, Credentials, Origins};
use crate::served::Served;
use access::{HostList, Network};
use ask::{Ask, Reload};
use body::{Body, BoxFuture, Meter};
use errors::Refusal;
use headers::Conditions;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use lent::{Cut, Lent};
use mahp_common::manifest::url::Allow;
use mahp_runtime::clock::Clock;
use memo::Memo;
use routes::{Form, Route, route};
use site::Site;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use url::Url;

/// Which variants of a master playlist are offered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rungs {
    /// Those that multicast carries, if it carries any.
    #[default]
    Carried,
    /// All of the origin's.
    All,
}

/// Of the hold, this part is left for the answer when the wait for a sender that has the channel is over.
const LEFT: u32 = 4;

/// Settings of the HTTP half.
#[derive(Clone, Debug)]
pub struct Options {
    /// Networks that are served besides the local ones.
    pub allow_from: Vec<Network>,
    /// The site, whose global IPv6 addresses are local ones.
    pub site: Site,
    /// Origins that may be asked for besides those of channels.
    pub allow_origins: HostList,
    /// Names under which the page is shown, besides addresses and names of the local network; in lower case.
    pub host_names: Vec<String>,
    /// Which variants are offered.
    pub rungs: Rungs,
    /// List live segments as soon as they are on their way, not only when they are here.
    pub low_latency: bool,
    /// Whether origins may be asked at all.
    pub unicast: bool,
    /// Bounds of memory for downloads.
    pub bounds: Bounds,
    /// Connections at a time; more wait in the listener's queue.
    pub connections: usize,
    /// Connections of one other machine; more are closed.
    pub connections_of_one: usize,
    /// Bytes that left the store and may stay in memory for the answers that still have them.
    pub lent: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            allow_from: Vec::new(),
            site: Site::default(),
            allow_origins: HostList::default(),
            host_names: Vec::new(),
            rungs: Rungs::default(),
            low_latency: false,
            unicast: true,
            bounds: Bounds::default(),
            connections: 1024,
            connections_of_one: 256,
            lent: 32 << 20,
        }
    }
}

/// Answers what is neither media nor manifest: the page, its assets, its API.
pub trait Extra: Send + Sync + 'static {
    /// The answer; `None` = 404. Any method but OPTIONS and CONNECT comes here; request bodies do not.
    fn answer(
        &self,
        request: &request::Parts,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Option<Response<Body>>>;
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client.
    pub peer: SocketAddr,
    /// The address it came in at.
    pub local: SocketAddr,
}

/// The HTTP half. One per process.
pub struct Front {
    multicast: Arc<dyn Library>,
    origins: Arc<Origins>,
    served: Arc<Served>,
    clock: Clock,
    options: Options,
    extra: Option<Arc<dyn Extra>>,
    memo: Memo,
    allow: Allow,
    lent: Arc<Lent>,
    via: HeaderValue,
}

impl Front {
    /// Puts it together. `extra`: the page.
    pub fn new(
        multicast: Arc<dyn Library>,
        upstream: Arc<dyn Upstream>,
        served: Arc<Served>,
        clock: Clock,
        options: Options,
        extra: Option<Arc<dyn Extra>>,
    ) -> Arc<Front> {
        // A name of its own, so that receivers may be chained but not in a ring.
        let via = HeaderValue::try_from(format!("1.1 mahp-{:08x}", fastrand::u32(..)))
            .unwrap_or(HeaderValue::from_static("1.1 mahp"));
        let origins = Origins::new(upstream, multicast.clone(), served.clone(), options.bounds, via.clone());
        let (known, listed) = (multicast.clone(), options.allow_origins.clone());
        let allow: Allow = Arc::new(move |url: &Url| {
            known.channel_of(url).is_some()
                || listed.listing(url).is_some()
                || access::is_channel_host(&known.channels(), url)
        });
        let lent = Lent::new(options.lent);
        Arc::new(Front {
            multicast,
            origins,
            served,
            clock,
            options,
            extra,
            memo: Memo::default(),
            allow,
            lent,
            via,
        })
    }

    /// Downloads from origins: what one asks for, others may join.
    pub fn origins(&self) -> Arc<Origins> {
        self.origins.clone()
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>, ends: Ends) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let (label, mut response) = self.dispatch(parts, ends).await;
        let code = response.status().as_u16().to_string();
        tracing::trace!(route = label, %code, "answered");
        metrics::counter!("mahp_receiver_http_requests_total", "route" => label, "code" => code).increment(1);
        if is_head {
            without_body(&mut response);
        }
        response
    }

    async fn dispatch(self: &Arc<Self>, parts: request::Parts, ends: Ends) -> (&'static str, Response<Body>) {
        let asked_at = Instant::now();
        let (label, mut response) = match self.admit(&parts, ends).await {
            Err(refusal) => ("refused", refusal.response(&parts.headers)),
            Ok(Route::Page) if parts.method == Method::OPTIONS => ("preflight", preflight(&parts.headers)),
            // The page decides itself what other origins may see of it.
            Ok(Route::Page) => return ("page", self.page(&parts, ends.peer).await),
            Ok(_) if parts.method == Method::OPTIONS => ("preflight", preflight(&parts.headers)),
            Ok(_) if parts.method != Method::GET && parts.method != Method::HEAD => {
                ("refused", Refusal::method(&parts.method).response(&parts.headers))
            }
            Ok(Route::Redirect(to)) => ("live", small::redirect(&to)),
            Ok(Route::ChannelList) => {
                ("list", small::channel_list(&self.multicast.channels(), &parts.headers, ends.local))
            }
            Ok(Route::Time) => ("time", small::time(self.clock.wall())),
            Ok(Route::Origin { url, form, label }) => {
                (label, self.origin(parts, ends, asked_at, url, form).await)
            }
        };
        cors::allow(response.headers_mut());
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        (label, response)
    }

    /// Who may ask, and for what.
    async fn admit(&self, parts: &request::Parts, ends: Ends) -> Result<Route, Refusal> {
        if !access::may_ask(ends.peer.ip(), &self.options.allow_from, &self.options.site) {
            return Err(Refusal::peer_not_allowed(ends.peer.ip()));
        }
        if parts.method == Method::CONNECT {
            return Err(Refusal::method(&parts.method));
        }
        // RFC 9112 section 3.2.
        match parts.headers.get_all(header::HOST).iter().count() {
            0 if parts.version == Version::HTTP_11 => {
                return Err(Refusal::bad_target("the request has no Host header"));
            }
            0 | 1 => {}
            _ => return Err(Refusal::bad_target("the request has several Host headers")),
        }
        if parts.headers.get_all(header::VIA).iter().any(|v| contains(v, &self.via)) {
            return Err(Refusal::new(
                StatusCode::LOOP_DETECTED,
                "E-LOOP",
                "this request came from this receiver itself",
                "an origin of a channel must not be the receiver's own address",
            ));
        }
        let route = self.route(&parts.uri, ends.local).await?;
        if route == Route::Page {
            access::is_our_name(parts, &self.options.host_names)?;
        }
        Ok(route)
    }

    /// What is meant. A channel or an origin that is not known may be of a sender that has not answered yet: one 404 ends many
    /// players.
    async fn route(&self, target: &Uri, local: SocketAddr) -> Result<Route, Refusal> {
        let mut changes = self.multicast.changes();
        let hold = self.multicast.hold_budget().min(media::HOLD_MAX);
        let deadline = Instant::now() + (hold - hold / LEFT);
        loop {
            let unheard = self.multicast.unheard_sessions();
            let routed = route(target, &self.multicast.channels(), local);
            let unknown = match &routed {
                _ if !unheard => return routed,
                Err(refusal) if refusal.code == Refusal::NO_CHANNEL => refusal.message.clone(),
                Ok(Route::Origin { url, .. }) if !(self.allow)(url) => {
                    format!("no channel of {} is known", url.host_str().unwrap_or_default())
                }
                _ => return routed,
            };
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(Refusal::no_sender_yet(&unknown));
            }
        }
    }

    async fn page(&self, parts: &request::Parts, peer: SocketAddr) -> Response<Body> {
        let answer = match &self.extra {
            Some(extra) => extra.answer(parts, peer).await,
            None => None,
        };
        answer.unwrap_or_else(|| Refusal::not_found(parts.uri.path()).response(&parts.headers))
    }

    async fn origin(
        self: &Arc<Self>,
        parts: request::Parts,
        ends: Ends,
        asked_at: Instant,
        url: Url,
        form: Form,
    ) -> Response<Body> {
        let ask = Ask {
            asked_at,
            key: self.multicast.key(&url),
            channel: self.multicast.channel_of(&url),
            lasts: self.multicast.lasts(&url),
            reload: Reload::of(&url),
            conditions: Conditions::of(&parts.headers),
            credentials: Credentials::of(&parts.headers),
            served_path: parts.uri.path().to_owned(),
            player_deadline: cmcd::deadline(&parts.headers, &url),
            cut: parts.extensions.get::<Cut>().cloned(),
            method: parts.method,
            headers: parts.headers,
            form,
            url,
        };
        if let Some(channel) = &ask.channel {
            self.served.viewer(self.clock.now(), &channel.name, ends.peer.ip());
        }
        let mut response = if manifest::is_known(self, &ask) {
            manifest::serve(self, &ask).await
        } else {
            media::serve(self, &ask).await
        };
        if form == Form::Path {
            defuse(response.headers_mut());
        }
        response
    }

    /// Whether multicast or an operator stands for it.
    fn is_ours(&self, url: &Url) -> bool {
        self.multicast.channel_of(url).is_some()
    }

    fn meter(&self, ask: &Ask, source: Source) -> Arc<dyn Meter> {
        let channel = ask.channel.as_ref().map(|c| c.name.clone());
        Arc::new(ServedMeter { served: self.served.clone(), channel, source })
    }
}

struct ServedMeter {
    served: Arc<Served>,
    channel: Option<String>,
    source: Source,
}

impl Meter for ServedMeter {
    fn count(&self, bytes: u64) {
        self.served.response(self.channel.as_deref(), self.source, bytes);
    }
}

fn preflight(request: &HeaderMap) -> Response<Body> {
    let (status, headers) = cors::preflight(request);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// RFC 9110 section 9.3.2: the headers of GET, Content-Length included.
fn without_body(response: &mut Response<Body>) {
    let length = http_body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    if let Some(length) = length.filter(|_| !headers.contains_key(header::CONTENT_LENGTH)) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// No document of an origin may run in the receiver's own origin, where the page and its API are. Browsers find a document in more
/// types than can be listed; media does not mind.
fn defuse(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
}

fn contains(value: &HeaderValue, part: &HeaderValue) -> bool {
    let (value, part) = (value.as_bytes(), part.as_bytes());
    value.windows(part.len()).any(|w| w == part)
}
