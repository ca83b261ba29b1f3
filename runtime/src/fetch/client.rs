//! The reqwest client: one TLS provider (ring), trust anchors, pool, redirects, and the guard against private addresses.

use super::{FetchError, MAX_REDIRECTS};
use crate::guard::is_private;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use url::{Host, Url};

/// Shorter than what common servers allow, so that we close idle connections and not they under our hands.
const POOL_IDLE: Duration = Duration::from_secs(50);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes ring the TLS provider of this process. Call it first in `main`; calling it again does nothing.
pub fn install_crypto() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The TLS configuration of every client: TLS 1.2 and 1.3, h2 and http/1.1, Mozilla's roots and the system's.
pub(super) fn tls() -> rustls::ClientConfig {
    static TLS: OnceLock<rustls::ClientConfig> = OnceLock::new();
    TLS.get_or_init(|| tls_with(roots())).clone()
}

/// `tls` with chosen roots.
pub(super) fn tls_with(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    install_crypto();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    // Routers and small containers have none; SSL_CERT_FILE and SSL_CERT_DIR are honoured.
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::debug!(%error, "system certificates");
    }
    roots.add_parsable_certificates(native.certs);
    roots
}

/// A client. Proxies of the environment are not used: what is fetched here goes on multicast or to viewers.
pub(super) fn build(
    user_agent: &str,
    tls: rustls::ClientConfig,
    guard: Option<Arc<Guard>>,
    from: Option<IpAddr>,
) -> reqwest::Client {
    let redirects = guard.clone();
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(user_agent)
        .local_address(from)
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .redirect(Policy::custom(move |attempt| judge(attempt, redirects.as_deref())));
    if let Some(guard) = guard {
        builder = builder.dns_resolver(GuardedResolver(guard));
    }
    builder.build().expect("every option is valid but possibly the user agent, which is ours")
}

fn judge(attempt: reqwest::redirect::Attempt<'_>, guard: Option<&Guard>) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(BadRedirect(format!("more than {MAX_REDIRECTS}")));
    }
    if !matches!(attempt.url().scheme(), "http" | "https") {
        let text = format!("to {}, which is not http(s)", attempt.url());
        return attempt.error(BadRedirect(text));
    }
    match guard.and_then(|g| g.refuses(attempt.url())) {
        Some(found) => attempt.error(found),
        None => attempt.follow(),
    }
}

#[derive(Debug)]
struct BadRedirect(String);

impl fmt::Display for BadRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BadRedirect {}

/// A host that leads into a private network.
#[derive(Clone, Debug)]
pub(super) struct PrivateHost {
    pub(super) host: String,
    pub(super) address: IpAddr,
}

impl fmt::Display for PrivateHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is the private address {}", self.host, self.address)
    }
}

impl Error for PrivateHost {}

/// Which hosts may be private.
pub(super) struct Guard {
    allow: Box<Allow>,
}

type Allow = dyn Fn(&str, IpAddr) -> bool + Send + Sync;

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl Guard {
    pub(super) fn new(allow: impl Fn(&str, IpAddr) -> bool + Send + Sync + 'static) -> Guard {
        Guard { allow: Box::new(allow) }
    }

    /// Whether requests to `host` may end at this address of it.
    fn admits(&self, host: &str, address: IpAddr) -> bool {
        !is_private(address) || (self.allow)(&plain_host(host), address)
    }

    /// A literal private address in `url` that is not allowed. (Names are judged after resolution.)
    pub(super) fn refuses(&self, url: &Url) -> Option<PrivateHost> {
        let address: IpAddr = match url.host()? {
            Host::Ipv4(v4) => v4.into(),
            Host::Ipv6(v6) => v6.into(),
            Host::Domain(_) => return None,
        };
        let host = url.host_str()?.to_owned();
        (!self.admits(&host, address)).then_some(PrivateHost { host, address })
    }
}

/// A host as hosts are compared: lower case, without the brackets of an IPv6 literal and without the dot of a full name.
pub fn plain_host(host: &str) -> String {
    let host = host.trim();
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match inner.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => inner.strip_suffix('.').unwrap_or(inner).to_ascii_lowercase(),
    }
}

struct GuardedResolver(Arc<Guard>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            let (open, refused): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|a| guard.admits(host, a.ip()));
            match (open.is_empty(), refused.first()) {
                (true, Some(private)) => {
                    Err(PrivateHost { host: host.to_owned(), address: private.ip() }.into())
                }
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e: &&'a (dyn Error + 'static)| (*e).source())
}

/// Whether the connection was closed before any byte of an answer.
pub(super) fn closed_before_answer(error: &reqwest::Error) -> bool {
    let reset = |e: &std::io::Error| {
        matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    };
    !error.is_connect()
        && chain(error).any(|e| {
            e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
                || e.downcast_ref().is_some_and(reset)
        })
}

/// The innermost cause, in one line.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let last = chain(error).last().map_or_else(String::new, ToString::to_string);
    last.replace(['\n', '\r'], " ")
}

/// An error before the response's headers.
pub(super) fn translate(url: &Url, error: &reqwest::Error) -> FetchError {
    let url = url.to_string();
    if let Some(found) = chain(error).find_map(|e| e.downcast_ref::<PrivateHost>()) {
        return FetchError::Private { url, host: found.host.clone(), address: found.address };
    }
    let cause = match root_cause(error) {
        // What rustls makes of a status line.
        cause if cause.contains("InvalidContentType") => super::NO_TLS.to_owned(),
        cause => cause,
    };
    if error.is_redirect() {
        return FetchError::Redirect { url, cause };
    }
    if error.is_timeout() {
        return FetchError::Timeout { url, after: CONNECT_TIMEOUT };
    }
    FetchError::Connect { url, cause }
}
