//! Configuration: command line, then environment, then file, then defaults. [`resolve`] is the only place with defaults.

use crate::cli::Cli;
use crate::http::Rungs;
use crate::joins::Policy;
use mahp_common::auth::VerifyingKey;
use mahp_runtime::config::{BitRate, ByteSize, Span};
use mahp_runtime::error::StartupError;
use mahp_runtime::log::LogFormat;
use mahp_runtime::settings::{self, Place, Table};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use url::Url;

/// Every key with its default and meaning: `config print --default`.
pub const DEFAULT_FILE: &str = include_str!("../mahp-receiver.toml");

const PROGRAM: &str = "mahp-receiver";

/// Where a configuration is looked for when none is named.
const DEFAULT_PATHS: [&str; 2] = ["mahp-receiver.toml", "/etc/mahp/receiver.toml"];

/// Players give up at 10 s without a first byte.
const HOLD_MAX: Duration = Duration::from_secs(8);

/// `on` or `off`, also as a boolean in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Ok(Switch(true)),
            "off" | "false" | "no" | "0" => Ok(Switch(false)),
            _ => Err(format!("`{s}` is neither on nor off")),
        }
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, \"on\" or \"off\"")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Switch, E> {
                Ok(Switch(value))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Switch, E> {
                value.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl Serialize for Switch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bool(self.0)
    }
}

/// When to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// While somebody watches.
    OnDemand,
    /// All the time.
    Always,
}

/// Delay added to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// Segments are listed when they are here.
    #[default]
    Normal,
    /// Segments are listed as soon as they are on their way.
    Low,
}

/// Options of the receiver. Keys of `[receiver]`, flags and `MAHP_RECEIVER_…` have the same names.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Receiver")]
pub struct Settings {
    /// Senders; on the command line the positional arguments.
    #[arg(skip)]
    pub session: Option<Vec<String>>,
    /// Where players ask [default: `[::]:7790`, all addresses]
    #[arg(long, env = "MAHP_RECEIVER_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where /metrics, /healthz, /readyz and /api/status are served [default: 127.0.0.1:7791]
    #[arg(long, env = "MAHP_RECEIVER_ADMIN", value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// Interface to join on, by name or address [default: that of the route to each source]
    #[arg(long, env = "MAHP_RECEIVER_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// When to join a rendition [default: on-demand, while somebody watches]
    #[arg(long, env = "MAHP_RECEIVER_JOIN", value_name = "WHEN")]
    pub join: Option<Join>,
    /// Leave a rendition that nobody asked for during this time [default: 30s]
    #[arg(long, env = "MAHP_RECEIVER_IDLE_LEAVE", value_name = "TIME")]
    pub idle_leave: Option<Span>,
    /// Memory for the store of verified segments [default: a quarter of the box's, 32 MiB to 256 MiB]
    #[arg(long, env = "MAHP_RECEIVER_MEMORY", value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Memory for objects under assembly, all renditions together [default: 48 MiB]
    #[arg(long, env = "MAHP_RECEIVER_ASSEMBLY_MEMORY", value_name = "SIZE")]
    pub assembly_memory: Option<ByteSize>,
    /// Folder for a disk store of films [default: none]
    #[arg(long, env = "MAHP_RECEIVER_DISK", value_name = "FOLDER")]
    pub disk: Option<PathBuf>,
    /// Most bytes in it [default: 4 GiB]
    #[arg(long, env = "MAHP_RECEIVER_DISK_BYTES", value_name = "SIZE")]
    pub disk_bytes: Option<ByteSize>,
    /// Host that may be asked by unicast besides those of the channels; repeatable [default: none]
    #[arg(long, env = "MAHP_RECEIVER_ALLOW_ORIGIN", value_name = "HOST", value_delimiter = ',')]
    pub allow_origin: Option<Vec<String>>,
    /// Network whose players are answered besides local ones; repeatable [default: none]
    #[arg(long, env = "MAHP_RECEIVER_ALLOW_FROM", value_name = "NETWORK", value_delimiter = ',')]
    pub allow_from: Option<Vec<String>>,
    /// Name under which browsers may see the page, besides addresses and names of the local network; repeatable [default: none]
    #[arg(long, env = "MAHP_RECEIVER_HOST_NAME", value_name = "NAME", value_delimiter = ',')]
    pub host_name: Option<Vec<String>>,
    /// Public key of a sender, base64; repeatable [default: the key of first contact, remembered]
    #[arg(long, env = "MAHP_RECEIVER_KEY", value_name = "KEY", value_delimiter = ',')]
    pub key: Option<Vec<String>>,
    /// Take no key on trust at first contact by plain HTTP or in band [default: off]
    #[arg(long, env = "MAHP_RECEIVER_REQUIRE_AUTH", value_name = "SWITCH", num_args = 0..=1, default_missing_value = "on", require_equals = true)]
    pub require_auth: Option<Switch>,
    /// Take objects of SOURCE@GROUP:PORT that nobody signed [default: off]
    #[arg(long, env = "MAHP_RECEIVER_INSECURE", value_name = "SWITCH", num_args = 0..=1, default_missing_value = "on", require_equals = true)]
    pub insecure: Option<Switch>,
    /// Fetch from origins what multicast does not bring [default: on]
    #[arg(long, env = "MAHP_RECEIVER_UNICAST", value_name = "SWITCH")]
    pub unicast: Option<Switch>,
    /// Report losses to the sender, and ask its repair servers [default: on]
    #[arg(long, env = "MAHP_RECEIVER_REPAIR", value_name = "SWITCH")]
    pub repair: Option<Switch>,
    /// Who is asked for what is missing: repair servers, the MoQ publisher (experimental), or whichever there is [default: auto]
    #[arg(long, env = "MAHP_RECEIVER_RECOVERY", value_name = "WAY", value_enum)]
    pub recovery: Option<crate::recovery::Ways>,
    /// Serve the channels over Media over QUIC to others, listening here on UDP (experimental) [default: off]
    #[arg(long, env = "MAHP_RECEIVER_MOQ_LISTEN", value_name = "ADDRESS:PORT")]
    pub moq_listen: Option<SocketAddr>,
    /// Certificate chain for it, PEM [default: self-signed, its URL with the fingerprint is printed]
    #[arg(long, env = "MAHP_RECEIVER_MOQ_CERTIFICATE", value_name = "FILE")]
    pub moq_certificate: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, env = "MAHP_RECEIVER_MOQ_CERTIFICATE_KEY", value_name = "FILE")]
    pub moq_certificate_key: Option<PathBuf>,
    /// MoQ publisher to ask instead of those of the session descriptions, such as another receiver: moqt://HOST:PORT/#sha256=FINGERPRINT
    #[arg(long, env = "MAHP_RECEIVER_MOQ_PUBLISHER", value_name = "URL")]
    pub moq_publisher: Option<String>,
    /// Most that repair fetches by unicast [default: 16 Mbit/s]
    #[arg(long, env = "MAHP_RECEIVER_REPAIR_RATE", value_name = "RATE")]
    pub repair_rate: Option<BitRate>,
    /// Longest time that a request waits for multicast, 8s at most [default: 8s]
    #[arg(long, env = "MAHP_RECEIVER_HOLD", value_name = "TIME")]
    pub hold: Option<Span>,
    /// Variants that master playlists offer: those that multicast carries, or all of the origin's [default: carried]
    #[arg(long, env = "MAHP_RECEIVER_RUNGS", value_name = "WHICH")]
    pub rungs: Option<Rungs>,
    /// Receive buffer of each socket [default: 4 MiB]
    #[arg(long, env = "MAHP_RECEIVER_RECV_BUFFER", value_name = "SIZE")]
    pub recv_buffer: Option<ByteSize>,
    /// Delay added to live [default: normal]
    #[arg(long, env = "MAHP_RECEIVER_LATENCY", value_name = "HOW")]
    pub latency: Option<Latency>,
    /// Form of log lines: text or json [default: text]
    #[arg(long, env = "MAHP_RECEIVER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Folder for the senders' keys (known_keys.toml) and last descriptions [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/mahp, else ~/.local/state/mahp]
    #[arg(long, env = "MAHP_RECEIVER_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
}

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// All options.
    #[serde(default)]
    pub receiver: Settings,
}

/// Where a sender is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionSource {
    /// Its description by HTTP(S).
    Url(Url),
    /// Its description in band, or plain FLUTE.
    Multicast {
        /// Sender address; none (`*`) = any-source multicast.
        source: Option<IpAddr>,
        /// Group.
        group: IpAddr,
        /// UDP port.
        port: u16,
    },
}

impl SessionSource {
    /// Whether the sender is on this machine.
    pub fn is_here(&self) -> bool {
        match self {
            SessionSource::Url(url) => match url.host() {
                Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
                Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => false,
            },
            SessionSource::Multicast { source, .. } => source.is_some_and(|s| s.is_loopback()),
        }
    }
}

/// Media over QUIC.
#[derive(Clone, Debug, Default)]
pub struct Moq {
    /// `moq-listen`.
    pub listen: Option<SocketAddr>,
    /// `moq-certificate` and `moq-certificate-key`; none: a new self-signed one at each start.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `moq-publisher`.
    pub publisher: Option<Url>,
}

/// What the program does, nothing left open.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where all this comes from, for errors that show only in use.
    pub place: Place,
    /// `session`.
    pub sessions: Vec<SessionSource>,
    /// `listen`.
    pub listen: SocketAddr,
    /// `admin`.
    pub admin: SocketAddr,
    /// `interface`.
    pub interface: Option<String>,
    /// `join` and `idle-leave`.
    pub join: Policy,
    /// `memory`, bytes.
    pub memory: u64,
    /// `assembly-memory`, bytes.
    pub assembly_memory: u64,
    /// `disk`.
    pub disk: Option<PathBuf>,
    /// `disk-bytes`.
    pub disk_bytes: u64,
    /// `allow-origin`.
    pub allow_origin: Vec<String>,
    /// `allow-from`.
    pub allow_from: Vec<String>,
    /// `host-name`.
    pub host_names: Vec<String>,
    /// `key`.
    pub keys: Vec<VerifyingKey>,
    /// `require-auth`.
    pub require_auth: bool,
    /// `insecure`.
    pub insecure: bool,
    /// `unicast`.
    pub unicast: bool,
    /// `repair`, `repair-rate`, and `unicast` again.
    pub recovery: crate::recovery::Options,
    /// `moq-…`.
    pub moq: Moq,
    /// `hold`.
    pub hold: Duration,
    /// `rungs`.
    pub rungs: Rungs,
    /// `recv-buffer`, bytes.
    pub recv_buffer: usize,
    /// `latency`.
    pub latency: Latency,
    /// `log-format`.
    pub log_format: LogFormat,
    /// `state-dir`; none: there is no place, keys are not remembered.
    pub state_dir: Option<PathBuf>,
}

/// Reads the file named on the command line or found at a default place, and applies the command line.
///
/// # Errors
/// `E-CONFIG`, `E-SESSION`, `E-NO-SESSION`.
pub fn load(cli: &Cli) -> Result<Config, StartupError> {
    let path = cli.config.clone().or_else(|| found(&DEFAULT_PATHS));
    // A default place is not looked at when sessions are given: what is typed is complete.
    let path = path.filter(|_| cli.config.is_some() || cli.sessions.is_empty());
    let file: File = match &path {
        Some(path) => mahp_runtime::config::load(PROGRAM, path)?,
        None => File::default(),
    };
    let config = resolve(cli, file.receiver, path.as_deref())?;
    if config.sessions.is_empty() {
        return Err(no_session(path.as_deref()));
    }
    Ok(config)
}

fn found(paths: &[&str]) -> Option<PathBuf> {
    paths.iter().map(PathBuf::from).find(|p| p.is_file())
}

fn no_session(file: Option<&Path>) -> StartupError {
    let looked = match file {
        Some(path) => format!("{} names none", path.display()),
        None => format!("there is neither {} nor {}", DEFAULT_PATHS[0], DEFAULT_PATHS[1]),
    };
    StartupError::usage(
        "E-NO-SESSION",
        format!("nothing to receive: no session given, and {looked}"),
        "mahp-receiver http://SENDER:7780/     (the sender prints this line when it starts)\n\
         mahp-receiver SOURCE@GROUP:PORT      (a description in band)\n\
         mahp-receiver config print --default > mahp-receiver.toml, then set `session` in it",
    )
}

/// The command line (environment included) over the file over the defaults.
///
/// # Errors
/// `E-CONFIG`, `E-SESSION`.
pub fn resolve(cli: &Cli, file: Settings, path: Option<&Path>) -> Result<Config, StartupError> {
    let place = Place::new(path, vec![Table::One("receiver")], &cli.settings);
    let place = &place.with_given("session", !cli.sessions.is_empty());
    let s = cli.settings.clone().or(file);
    let sessions = if cli.sessions.is_empty() { s.session.unwrap_or_default() } else { cli.sessions.clone() };
    let session = |s: &String| s.parse().map_err(|e| place.blame("session", e));
    let idle = s.idle_leave.map_or(Duration::from_secs(30), |t| t.0);
    if idle < Duration::from_secs(1) {
        return Err(place.wrong("idle-leave", "less than 1s", "players pause that long: use 10s or more"));
    }
    let hold = s.hold.map_or(HOLD_MAX, |t| t.0);
    if hold > HOLD_MAX {
        return Err(place.wrong("hold", "more than 8s", "players give up at 10s: use 8s or less"));
    }
    let format = s.log_format.unwrap_or_else(|| "text".into());
    let assembly_memory = s.assembly_memory.map_or(48 << 20, |b| b.0);
    let memory = s.memory.map_or_else(default_memory, |b| b.0);
    for (key, bytes, least) in [("assembly-memory", assembly_memory, 4), ("memory", memory, 8)] {
        if bytes < least << 20 {
            return Err(place.wrong(
                key,
                &format!("{bytes} bytes"),
                &format!("use at least \"{least} MiB\""),
            ));
        }
    }
    Ok(Config {
        place: place.clone(),
        sessions: sessions.iter().map(session).collect::<Result<_, _>>()?,
        listen: s.listen.unwrap_or(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 7790))),
        admin: s.admin.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 7791))),
        interface: s.interface,
        join: match s.join.unwrap_or(Join::OnDemand) {
            Join::OnDemand => Policy::OnDemand { idle },
            Join::Always => Policy::Always,
        },
        memory,
        assembly_memory,
        disk: s.disk,
        disk_bytes: s.disk_bytes.map_or(4 << 30, |b| b.0),
        allow_origin: s.allow_origin.unwrap_or_default(),
        allow_from: s.allow_from.unwrap_or_default(),
        host_names: s.host_name.unwrap_or_default(),
        keys: keys(&s.key.unwrap_or_default(), place)?,
        require_auth: s.require_auth.is_some_and(|x| x.0),
        insecure: s.insecure.is_some_and(|x| x.0),
        unicast: s.unicast.is_none_or(|x| x.0),
        recovery: crate::recovery::Options {
            sender: s.repair.is_none_or(|x| x.0),
            ways: s.recovery.unwrap_or_default(),
            unicast: s.unicast.is_none_or(|x| x.0),
            bytes_per_sec: s.repair_rate.map_or(16_000_000, |r| r.0) as f64 / 8.0,
        },
        moq: moq((s.moq_listen, s.moq_certificate, s.moq_certificate_key), s.moq_publisher, place)?,
        hold,
        rungs: s.rungs.unwrap_or_default(),
        recv_buffer: s.recv_buffer.map_or(4 << 20, |b| usize::try_from(b.0).unwrap_or(usize::MAX)),
        latency: s.latency.unwrap_or_default(),
        log_format: format
            .parse()
            .map_err(|e: String| place.wrong("log-format", &format!("`{format}`"), &e))?,
        state_dir: s.state_dir.or_else(settings::state_folder),
    })
}

/// A certificate and its key come together.
fn moq(
    (listen, certificate, key): (Option<SocketAddr>, Option<PathBuf>, Option<PathBuf>),
    publisher: Option<String>,
    place: &Place,
) -> Result<Moq, StartupError> {
    let hint = "give moq-certificate and moq-certificate-key together, or neither";
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(place.wrong("moq-certificate-key", "missing", hint)),
        (None, Some(_)) => return Err(place.wrong("moq-certificate", "missing", hint)),
    };
    let url = |text: String| {
        let url = Url::parse(&text).ok().filter(|url| url.scheme() == "moqt" && url.host().is_some());
        url.ok_or_else(|| place.wrong("moq-publisher", &format!("`{text}`"), "give moqt://HOST:PORT/"))
    };
    Ok(Moq { listen, certificate, publisher: publisher.map(url).transpose()? })
}

fn keys(texts: &[String], place: &Place) -> Result<Vec<VerifyingKey>, StartupError> {
    let parse = |text: &String| {
        VerifyingKey::from_base64(text).map_err(|_| {
            place.wrong(
                "key",
                &format!("`{text}`"),
                "give the sender's public key: 44 characters, ends with `=`; the sender prints it",
            )
        })
    };
    texts.iter().map(parse).collect()
}

impl FromStr for SessionSource {
    type Err = StartupError;

    fn from_str(s: &str) -> Result<Self, StartupError> {
        match Url::parse(s) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(SessionSource::Url(complete(url))),
            Err(e) if is_web(s) => Err(wrong_session(format!("`{s}` is not a URL: {e}"))),
            _ => match s.split_once('@') {
                Some((source, target)) => multicast(s, source, target),
                None => Err(wrong_session(format!("`{s}` is neither a URL nor SOURCE@GROUP:PORT"))),
            },
        }
    }
}

fn is_web(s: &str) -> bool {
    ["http:", "https:"]
        .iter()
        .any(|scheme| s.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}

fn wrong_session(message: String) -> StartupError {
    StartupError::usage(
        "E-SESSION",
        message,
        "mahp-receiver http://sender.example:7780/\n\
         mahp-receiver 10.0.0.5@232.1.1.1:5000     (IPv6: 2001:db8::5@[ff3e::8000:1]:5000; any source: *@239.1.1.1:5000)",
    )
}

/// A URL without path leads to the well-known place.
fn complete(mut url: Url) -> Url {
    if url.path() == "/" {
        url.set_path(mahp_common::catalog::WELL_KNOWN_PATH);
    }
    url
}

/// `source@target`, as written in `s`. The first thing that is wrong is told.
fn multicast(s: &str, source: &str, target: &str) -> Result<SessionSource, StartupError> {
    let wrong = |why: String| wrong_session(format!("`{s}`: {why}"));
    let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>();
    let source = match source {
        "*" | "" => None,
        text => Some(
            address(text)
                .map_err(|_| wrong(format!("source `{text}` is no IP address (* is any source)")))?,
        ),
    };
    let (group, port) = match (target.parse::<SocketAddr>(), address(target), target.rsplit_once(':')) {
        (Ok(target), ..) => (target.ip(), target.port()),
        (_, Ok(group), _) => {
            return Err(wrong(format!("the port is missing: {}", SocketAddr::new(group, 5000))));
        }
        (_, _, Some((group, port))) if address(group).is_ok() => {
            return Err(wrong(format!("`{port}` is no port: 1 to 65535")));
        }
        _ => return Err(wrong(format!("`{target}` is no address of a group with a port"))),
    };
    if !group.is_multicast() {
        let message = format!("`{s}`: group {group} is outside multicast space (224.0.0.0/4, ff00::/8)");
        return Err(StartupError { code: "E-GROUP", ..wrong_session(message) });
    }
    if port == 0 {
        return Err(wrong("port 0 is none: 1 to 65535".into()));
    }
    if let Some(source) = source.filter(|s| s.is_ipv4() != group.is_ipv4()) {
        return Err(wrong(format!(
            "source {source} and group {group} are of different families, IPv4 and IPv6"
        )));
    }
    match source.filter(|s| s.is_multicast() || s.is_unspecified()) {
        Some(source) => {
            Err(wrong(format!("{source} cannot be a source: give the address that packets come from")))
        }
        None => Ok(SessionSource::Multicast { source, group, port }),
    }
}

impl fmt::Display for SessionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionSource::Url(url) => write!(f, "{url}"),
            SessionSource::Multicast { source, group, port } => {
                match source {
                    Some(source) => write!(f, "{source}@")?,
                    None => f.write_str("*@")?,
                }
                write!(f, "{}", SocketAddr::new(*group, *port))
            }
        }
    }
}

impl Settings {
    /// Values of `self`, and where it has none, of `other`.
    fn or(self, other: Settings) -> Settings {
        Settings {
            session: self.session.or(other.session),
            listen: self.listen.or(other.listen),
            admin: self.admin.or(other.admin),
            interface: self.interface.or(other.interface),
            join: self.join.or(other.join),
            idle_leave: self.idle_leave.or(other.idle_leave),
            memory: self.memory.or(other.memory),
            assembly_memory: self.assembly_memory.or(other.assembly_memory),
            disk: self.disk.or(other.disk),
            disk_bytes: self.disk_bytes.or(other.disk_bytes),
            allow_origin: self.allow_origin.or(other.allow_origin),
            allow_from: self.allow_from.or(other.allow_from),
            host_name: self.host_name.or(other.host_name),
            key: self.key.or(other.key),
            require_auth: self.require_auth.or(other.require_auth),
            insecure: self.insecure.or(other.insecure),
            unicast: self.unicast.or(other.unicast),
            repair: self.repair.or(other.repair),
            recovery: self.recovery.or(other.recovery),
            moq_listen: self.moq_listen.or(other.moq_listen),
            moq_certificate: self.moq_certificate.or(other.moq_certificate),
            moq_certificate_key: self.moq_certificate_key.or(other.moq_certificate_key),
            moq_publisher: self.moq_publisher.or(other.moq_publisher),
            repair_rate: self.repair_rate.or(other.repair_rate),
            hold: self.hold.or(other.hold),
            recv_buffer: self.recv_buffer.or(other.recv_buffer),
            latency: self.latency.or(other.latency),
            rungs: self.rungs.or(other.rungs),
            log_format: self.log_format.or(other.log_format),
            state_dir: self.state_dir.or(other.state_dir),
        }
    }
}

/// A quarter of the memory we may use, from 32 to 256 MiB.
fn default_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cgroup = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    quarter(&meminfo, &cgroup)
}

fn quarter(meminfo: &str, cgroup: &str) -> u64 {
    let total = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(1 << 30, |kib| kib << 10);
    let limit = cgroup.trim().parse().unwrap_or(u64::MAX);
    (total.min(limit) / 4).clamp(32 << 20, 256 << 20)
}

/// The text of `config print FILE`: each key, its value and where that came from.
///
/// # Errors
/// As [`load`].
pub fn print(cli: &Cli, file: Option<&Path>) -> Result<String, StartupError> {
    let from_file: File = match file {
        Some(path) => mahp_runtime::config::load(PROGRAM, path)?,
        None => File::default(),
    };
    resolve(cli, from_file.receiver.clone(), file)?;
    let defaults: File = mahp_runtime::config::parse("defaults", DEFAULT_FILE)?;
    let path = file.map(|p| p.display().to_string()).unwrap_or_default();
    let sources = [
        (settings::table(&cli.settings), "environment"),
        (settings::table(&from_file.receiver), &*path),
        (settings::table(&defaults.receiver), "default"),
    ];
    Ok(format!("[receiver]\n{}", settings::explain(&known_keys(), &sources)))
}

/// Keys in the order of [`DEFAULT_FILE`], those that have no fixed default too.
fn known_keys() -> Vec<String> {
    settings::keys(DEFAULT_FILE, "receiver")
}

#[cfg(test)]
mod tests;
