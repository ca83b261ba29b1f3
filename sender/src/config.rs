//! Configuration: command line, then environment, then file, then defaults. [`resolve`] is the only place with defaults.

mod show;

use crate::cli::Cli;
use mahp_common::catalog::{RepairServer, WireProfile, is_channel_name};
use mahp_common::limits;
use mahp_runtime::config::{BitRate, ByteSize};
use mahp_runtime::error::StartupError;
use mahp_runtime::log::LogFormat;
use mahp_runtime::settings::{Place, Table};
use serde::{Deserialize, Serialize};
pub use show::command;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use url::Url;

/// Every key with its default and meaning: `config print --default`.
pub const DEFAULT_FILE: &str = include_str!("../mahp-sender.toml");

const PROGRAM: &str = "mahp-sender";

/// Options of the whole sender. Keys of `[sender]`, flags and `MAHP_SENDER_…` have the same names.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Sender")]
pub struct SenderSettings {
    /// Outgoing interface, by name or address [default: that of the route to the first group]
    #[arg(long, env = "MAHP_SENDER_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Address to send from, the S of (S,G) [default: the interface's]
    #[arg(long, env = "MAHP_SENDER_SOURCE", value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// S to announce, when the packets reach receivers from another address (behind a relay) [default: that of --source]
    #[arg(long, env = "MAHP_SENDER_ANNOUNCE_SOURCE", value_name = "ADDRESS")]
    pub announce_source: Option<IpAddr>,
    /// Address of another sender of the same channels with the same key (hot standby); repeatable [default: none]
    #[arg(long, env = "MAHP_SENDER_STANDBY_SOURCE", value_name = "ADDRESS", value_delimiter = ',')]
    pub standby_source: Option<Vec<IpAddr>>,
    /// TTL (hop limit) of multicast packets [default: 1, they do not leave the local network]
    #[arg(long, env = "MAHP_SENDER_TTL", value_name = "HOPS")]
    pub ttl: Option<u8>,
    /// DSCP of multicast packets, 0 to 63 [default: 0]
    #[arg(long, env = "MAHP_SENDER_DSCP", value_name = "VALUE")]
    pub dscp: Option<u8>,
    /// Any-source multicast: announce no source, groups from 239.192.0.0/14 or ff15::8000:0/97 [default: false, SSM]
    #[arg(long, env = "MAHP_SENDER_ASM", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub asm: Option<bool>,
    /// Send over IPv6 [default: as --source, else false]
    #[arg(long, env = "MAHP_SENDER_IPV6", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ipv6: Option<bool>,
    /// First group; renditions take the ones that follow [default: derived from each URL, in 232.0.0.0/8 or ff3e::8000:0/97]
    #[arg(long, env = "MAHP_SENDER_GROUP_BASE", value_name = "GROUP")]
    pub group_base: Option<IpAddr>,
    /// UDP port of source flows; repair flows use the next one [default: 5000]
    #[arg(long, env = "MAHP_SENDER_PORT_BASE", value_name = "PORT")]
    pub port_base: Option<u16>,
    /// Where the session description is served [default: `[::]:7780`, all addresses]
    #[arg(long, env = "MAHP_SENDER_HTTP", value_name = "ADDRESS:PORT")]
    pub http: Option<SocketAddr>,
    /// Where /metrics, /healthz, /readyz and /api/status are served [default: 127.0.0.1:7781]
    #[arg(long, env = "MAHP_SENDER_ADMIN", value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// Most that all flows together may send, such as "50 Mbit/s" [default: no limit]
    #[arg(long, env = "MAHP_SENDER_RATE_LIMIT", value_name = "RATE")]
    pub rate_limit: Option<BitRate>,
    /// Ed25519 key that signs; created when missing [default: sender.key in the state folder]
    #[arg(long, env = "MAHP_SENDER_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Name of this sender for people [default: mahp-sender]
    #[arg(long, env = "MAHP_SENDER_NAME", value_name = "TEXT")]
    pub name: Option<String>,
    /// Most that VOD carousels keep of what they fetched, in memory and in a temporary file [default: 512 MiB]
    #[arg(long, env = "MAHP_SENDER_SPOOL_BYTES", value_name = "SIZE")]
    pub spool_bytes: Option<ByteSize>,
    /// Most that receivers together get from the repair service by HTTP; "0 bit/s": no service [default: 20 Mbit/s]
    #[arg(long, env = "MAHP_SENDER_REPAIR_UNICAST", value_name = "RATE")]
    pub repair_unicast: Option<BitRate>,
    /// Most that one receiver gets from it [default: 8 Mbit/s]
    #[arg(long, env = "MAHP_SENDER_REPAIR_CLIENT", value_name = "RATE")]
    pub repair_client: Option<BitRate>,
    /// Most repair symbols that receivers' reports put on multicast; "0 bit/s": none [default: 8 Mbit/s]
    #[arg(long, env = "MAHP_SENDER_REPAIR_MULTICAST", value_name = "RATE")]
    pub repair_multicast: Option<BitRate>,
    /// Memory for recently sent objects, from which receivers are repaired [default: 64 MiB]
    #[arg(long, env = "MAHP_SENDER_REPAIR_MEMORY", value_name = "SIZE")]
    pub repair_memory: Option<ByteSize>,
    /// Publish over Media over QUIC too, listening here on UDP (experimental) [default: off]
    #[arg(long, env = "MAHP_SENDER_MOQ", value_name = "ADDRESS:PORT")]
    pub moq: Option<SocketAddr>,
    /// Its certificate chain, PEM [default: self-signed, its fingerprint in the session description]
    #[arg(long, env = "MAHP_SENDER_MOQ_CERTIFICATE", value_name = "FILE")]
    pub moq_certificate: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, env = "MAHP_SENDER_MOQ_CERTIFICATE_KEY", value_name = "FILE")]
    pub moq_certificate_key: Option<PathBuf>,
    /// Publish through this MoQ relay, where receivers are sent then: moqt://HOST:PORT/, a self-signed one with #sha256=FINGERPRINT (experimental)
    #[arg(long, env = "MAHP_SENDER_MOQ_RELAY", value_name = "URL")]
    pub moq_relay: Option<String>,
    /// Repair server to announce, "URL" or "WEIGHT URL"; repeatable [default: this sender's own]
    #[arg(long, env = "MAHP_SENDER_REPAIR_SERVER", value_name = "SERVER", value_delimiter = ',')]
    pub repair_server: Option<Vec<String>>,
    /// Form of log lines: text or json [default: text]
    #[arg(long, env = "MAHP_SENDER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Options of a channel. Keys of `[[channel]]` and, for all channels, of `[defaults]`.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Channels")]
pub struct ChannelSettings {
    /// Manifest URL; on the command line the positional argument.
    #[arg(skip)]
    pub url: Option<String>,
    /// Name in URLs: letters, digits, `-`, `_`, `.` [default: from the URL]
    #[arg(long, env = "MAHP_SENDER_CHANNEL_NAME", value_name = "NAME")]
    pub channel_name: Option<String>,
    /// Title for people [default: the name]
    #[arg(long, env = "MAHP_SENDER_TITLE", value_name = "TEXT")]
    pub title: Option<String>,
    /// Which renditions to carry: ids, resolutions, or roles (video, audio, text); repeatable [default: all]
    #[arg(long, env = "MAHP_SENDER_RENDITIONS", value_name = "FILTER", value_delimiter = ',')]
    pub renditions: Option<Vec<String>>,
    /// Carry I-frame playlists too [default: false]
    #[arg(long, env = "MAHP_SENDER_INCLUDE_IFRAMES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub include_iframes: Option<bool>,
    /// Repair symbols per hundred source symbols [default: 15]
    #[arg(long, env = "MAHP_SENDER_REPAIR", value_name = "PERCENT")]
    pub repair: Option<u32>,
    /// Least repair share, however little loss receivers report, percent [default: that of --repair]
    #[arg(long, env = "MAHP_SENDER_REPAIR_FLOOR", value_name = "PERCENT")]
    pub repair_floor: Option<u32>,
    /// Greatest repair share, however much loss receivers report, percent [default: 50; with --repair 0: 0]
    #[arg(long, env = "MAHP_SENDER_REPAIR_CEILING", value_name = "PERCENT")]
    pub repair_ceiling: Option<u32>,
    /// Repair symbols per hundred source symbols in a second layer, in a group of its own that only receivers with much loss join [default: 0]
    #[arg(long, env = "MAHP_SENDER_REPAIR_LAYER_2", value_name = "PERCENT")]
    pub repair_layer_2: Option<u32>,
    /// Pacing rate as a multiple of bit rate and repair; less where `rate-limit` is reached [default: 6]
    #[arg(long, env = "MAHP_SENDER_HEADROOM", value_name = "FACTOR")]
    pub headroom: Option<f64>,
    /// Wire profile: mabr or flute-raptorq [default: mabr]
    #[arg(long, env = "MAHP_SENDER_PROFILE", value_name = "PROFILE", value_parser = parse_profile)]
    pub profile: Option<WireProfile>,
    /// Encoding symbol length in bytes, a multiple of 8 [default: 1344]
    #[arg(long, env = "MAHP_SENDER_SYMBOL_SIZE", value_name = "BYTES")]
    pub symbol_size: Option<u16>,
    /// Repeat for ever what a VOD has, and the past of an EVENT playlist [default: false]
    #[arg(long = "loop", env = "MAHP_SENDER_LOOP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(rename = "loop")]
    pub repeat: Option<bool>,
    /// VOD: rate of all renditions together, such as "20 Mbit/s" [default: 4 times real time]
    #[arg(long, env = "MAHP_SENDER_VOD_RATE", value_name = "RATE")]
    pub vod_rate: Option<BitRate>,
    /// Query parameter that identifies viewers, not content; repeatable [default: none beyond the well-known ones]
    #[arg(long, env = "MAHP_SENDER_TOKEN_PARAMETER", value_name = "NAME", value_delimiter = ',')]
    pub token_parameter: Option<Vec<String>>,
    /// Put AES-128 keys on multicast too: everybody in reach can then watch [default: false]
    #[arg(long, env = "MAHP_SENDER_CARRY_KEYS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub carry_keys: Option<bool>,
    /// Carry the parts of low-latency HLS (EXT-X-PART) and the CMAF chunks of low-latency DASH, each as soon as it exists (experimental) [default: false]
    #[arg(long, env = "MAHP_SENDER_LOW_LATENCY", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub low_latency: Option<bool>,
}

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The whole sender.
    #[serde(default)]
    pub sender: SenderSettings,
    /// All channels.
    #[serde(default)]
    pub defaults: ChannelSettings,
    /// Each channel.
    #[serde(default)]
    pub channel: Vec<ChannelSettings>,
}

/// What the program does, nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where all this but the channels comes from, for errors that show only in use.
    pub place: Place,
    /// `interface`.
    pub interface: Option<String>,
    /// `source`.
    pub source: Option<IpAddr>,
    /// `announce-source`.
    pub announce_source: Option<IpAddr>,
    /// `standby-source`.
    pub standby_sources: Vec<IpAddr>,
    /// `ttl`.
    pub ttl: u8,
    /// `dscp`.
    pub dscp: u8,
    /// `asm`.
    pub asm: bool,
    /// `ipv6`, or the family of `source` or `group-base`.
    pub ipv6: bool,
    /// `group-base`.
    pub group_base: Option<IpAddr>,
    /// `port-base`.
    pub port_base: u16,
    /// `http`.
    pub http: SocketAddr,
    /// `admin`.
    pub admin: SocketAddr,
    /// `rate-limit`, bit/s.
    pub rate_limit: Option<u64>,
    /// `key-file`; none: the default place.
    pub key_file: Option<PathBuf>,
    /// `name`.
    pub name: String,
    /// `spool-bytes`.
    pub spool_bytes: u64,
    /// `repair-unicast`, `repair-client`, `repair-multicast`, `repair-memory`.
    pub repair: crate::repair::Options,
    /// `repair-server`; empty: our own.
    pub repair_servers: Vec<RepairServer>,
    /// `moq` and its certificate, `moq-relay`; none: off.
    pub moq: Option<crate::moq::Options>,
    /// `log-format`.
    pub log_format: LogFormat,
    /// The channels, names unique.
    pub channels: Vec<ChannelConfig>,
}

/// One channel, nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelConfig {
    /// `url`.
    pub url: Url,
    /// `channel-name`.
    pub name: String,
    /// `title`.
    pub title: String,
    /// `renditions`; empty: all.
    pub renditions: Vec<String>,
    /// `include-iframes`.
    pub include_iframes: bool,
    /// `repair`.
    pub repair_percent: u32,
    /// `repair-floor`.
    pub repair_floor: u32,
    /// `repair-ceiling`.
    pub repair_ceiling: u32,
    /// `repair-layer-2`.
    pub repair_layer_2: u32,
    /// `headroom`.
    pub headroom: f64,
    /// `profile`.
    pub profile: WireProfile,
    /// `symbol-size`.
    pub symbol_size: u16,
    /// `loop`.
    pub repeat: bool,
    /// `vod-rate`, bit/s.
    pub vod_rate: Option<u64>,
    /// `token-parameter`.
    pub token_parameters: Vec<String>,
    /// `carry-keys`.
    pub carry_keys: bool,
    /// `low-latency`.
    pub low_latency: bool,
}

fn parse_profile(s: &str) -> Result<WireProfile, String> {
    match s {
        "mabr" => Ok(WireProfile::Mabr),
        "flute-raptorq" => Ok(WireProfile::FluteRaptorq),
        other => Err(format!("`{other}` is not a wire profile: use mabr or flute-raptorq")),
    }
}

/// Applies command line, environment (already in `cli`), file and defaults, and checks values.
///
/// # Errors
/// `E-CONFIG`, `E-URL`, `E-GROUP`: all with exit status 2.
pub fn resolve(cli: Cli) -> Result<Config, StartupError> {
    let file: File = match &cli.config {
        Some(path) => mahp_runtime::config::load(PROGRAM, path)?,
        None => File::default(),
    };
    let channels = channels(&cli, &file)?;
    let place = &Place::new(cli.config.as_deref(), vec![Table::One("sender")], &cli.sender);
    let (c, f) = (cli.sender, file.sender);
    let source = c.source.or(f.source);
    let group_base = c.group_base.or(f.group_base);
    let asm = c.asm.or(f.asm).unwrap_or(false);
    let ipv6 = c.ipv6.or(f.ipv6).unwrap_or_else(|| source.or(group_base).is_some_and(|a| a.is_ipv6()));
    let announce_source = c.announce_source.or(f.announce_source);
    check_addresses(source, announce_source, group_base, (asm, ipv6), place)?;
    let standby_sources = c.standby_source.or(f.standby_source).unwrap_or_default();
    standby_sources.iter().try_for_each(|s| check_source("standby-source", *s, ipv6, place))?;
    let dscp = c.dscp.or(f.dscp).unwrap_or(0);
    if dscp > 63 {
        return Err(place.wrong("dscp", &dscp.to_string(), "use 0 to 63; 34 (AF41) is usual for video"));
    }
    let port_base = c.port_base.or(f.port_base).unwrap_or(5000);
    if port_base == 0 || port_base == u16::MAX {
        return Err(place.wrong(
            "port-base",
            &port_base.to_string(),
            "use 1 to 65534; the repair flow uses the next port",
        ));
    }
    let format = c.log_format.or(f.log_format).unwrap_or_else(|| "text".into());
    let log_format = format.parse().map_err(|e: String| place.wrong("log-format", &format, &e))?;
    Ok(Config {
        place: place.clone(),
        interface: c.interface.or(f.interface),
        source,
        announce_source,
        standby_sources,
        ttl: c.ttl.or(f.ttl).unwrap_or(1),
        dscp,
        asm,
        ipv6,
        group_base,
        port_base,
        http: c.http.or(f.http).unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7780))),
        admin: c.admin.or(f.admin).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 7781))),
        rate_limit: c.rate_limit.or(f.rate_limit).map(|r| r.0),
        key_file: c.key_file.or(f.key_file),
        name: c.name.or(f.name).unwrap_or_else(|| "mahp-sender".into()),
        spool_bytes: c.spool_bytes.or(f.spool_bytes).map_or(512 << 20, |b| b.0),
        repair: crate::repair::Options {
            memory: c.repair_memory.or(f.repair_memory).map_or(64 << 20, |b| b.0),
            unicast_bps: c.repair_unicast.or(f.repair_unicast).map_or(20_000_000, |r| r.0),
            client_bps: c.repair_client.or(f.repair_client).map_or(8_000_000, |r| r.0),
            multicast_bps: c.repair_multicast.or(f.repair_multicast).map_or(8_000_000, |r| r.0),
        },
        repair_servers: repair_servers(&c.repair_server.or(f.repair_server).unwrap_or_default(), place)?,
        moq: moq(
            c.moq.or(f.moq),
            c.moq_certificate.or(f.moq_certificate),
            c.moq_certificate_key.or(f.moq_certificate_key),
            c.moq_relay.or(f.moq_relay),
            place,
        )?,
        log_format,
        channels,
    })
}

/// Off without an address or a relay; a certificate and its key come together.
fn moq(
    listen: Option<SocketAddr>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    relay: Option<String>,
    place: &Place,
) -> Result<Option<crate::moq::Options>, StartupError> {
    let hint = "give moq-certificate and moq-certificate-key together, or neither";
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(place.wrong("moq-certificate-key", "missing", hint)),
        (None, Some(_)) => return Err(place.wrong("moq-certificate", "missing", hint)),
    };
    let url = |text: String| {
        let url = Url::parse(&text).ok().filter(|url| url.scheme() == "moqt" && url.host().is_some());
        url.ok_or_else(|| place.wrong("moq-relay", &format!("`{text}`"), "give moqt://HOST:PORT/"))
    };
    let relay = relay.map(url).transpose()?;
    let on = listen.is_some() || relay.is_some();
    Ok(on.then_some(crate::moq::Options { listen, certificate, relay }))
}

/// `URL` or `WEIGHT URL`.
fn repair_servers(texts: &[String], place: &Place) -> Result<Vec<RepairServer>, StartupError> {
    let one = |text: &String| {
        let wrong = || {
            let hint = "give a base URL that ends with `/`, with its weight before it where there are several: \
                        \"3 http://cache.example/repair/\"";
            place.wrong("repair-server", &format!("`{text}`"), hint)
        };
        let (weight, url) = match text.trim().split_once(' ') {
            Some((weight, url)) => (weight.parse().map_err(|_| wrong())?, url.trim()),
            None => (1, text.trim()),
        };
        let good =
            Url::parse(url).is_ok_and(|u| matches!(u.scheme(), "http" | "https")) && url.ends_with('/');
        if good { Ok(RepairServer { url: url.to_owned(), weight }) } else { Err(wrong()) }
    };
    texts.iter().map(one).collect()
}

fn check_addresses(
    source: Option<IpAddr>,
    announce: Option<IpAddr>,
    group: Option<IpAddr>,
    (asm, ipv6): (bool, bool),
    place: &Place,
) -> Result<(), StartupError> {
    for (key, address) in [("source", source), ("announce-source", announce)] {
        address.map_or(Ok(()), |a| check_source(key, a, ipv6, place))?;
    }
    let Some(group) = group else { return Ok(()) };
    check_family("group-base", group, ipv6, place)?;
    crate::plan::check_group(group, asm).map_err(|e| place.blame("group-base", e))
}

fn check_source(key: &str, address: IpAddr, ipv6: bool, place: &Place) -> Result<(), StartupError> {
    check_family(key, address, ipv6, place)?;
    if address.is_multicast() || address.is_unspecified() {
        let hint = format!("give a unicast address of an interface: --{key} 192.0.2.1");
        return Err(place.wrong(key, &format!("{address}: it cannot be a source address"), &hint));
    }
    Ok(())
}

fn check_family(key: &str, address: IpAddr, ipv6: bool, place: &Place) -> Result<(), StartupError> {
    if address.is_ipv6() == ipv6 {
        return Ok(());
    }
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let hint = "give source, announce-source and group-base of one family, or --ipv6";
    Err(place.wrong(key, &format!("{address}: it is not an {family} address"), hint))
}

fn channels(cli: &Cli, file: &File) -> Result<Vec<ChannelConfig>, StartupError> {
    let path = cli.config.as_deref();
    let place = |tables, given: &ChannelSettings| Place::new(path, tables, given);
    let mut wanted: Vec<(String, ChannelSettings, Place)> = Vec::new();
    for url in &cli.urls {
        let place = place(vec![Table::One("defaults")], &cli.channel).with_given("url", true);
        wanted.push((url.clone(), cli.channel.clone().or(file.defaults.clone()), place));
    }
    // URLs on the command line take the place of the file's channels.
    if cli.urls.is_empty() {
        let mut over = cli.channel.clone();
        (over.channel_name, over.title) = (None, None);
        for (i, channel) in file.channel.iter().enumerate() {
            let place = place(vec![Table::Nth("channel", i), Table::One("defaults")], &over);
            let url = channel
                .url
                .clone()
                .ok_or_else(|| place.wrong("url", "missing", "give the channel an url = \"https://…\""))?;
            wanted.push((url, over.clone().or(channel.clone()).or(file.defaults.clone()), place));
        }
    }
    if wanted.is_empty() {
        return Err(nothing_to_send(path));
    }
    let many = wanted.len() > 1;
    let mut out: Vec<ChannelConfig> = Vec::new();
    for (url, mut settings, place) in wanted {
        if many && !cli.urls.is_empty() {
            (settings.channel_name, settings.title) = (None, None);
        }
        let channel = channel(&url, settings, &place, &out)?;
        out.push(channel);
    }
    Ok(out)
}

fn nothing_to_send(file: Option<&Path>) -> StartupError {
    let (why, hint) = match file {
        Some(path) => (
            format!("{} has no channel", path.display()),
            "add a [[channel]] with url = \"https://origin.example/live/master.m3u8\" to it, or give a URL",
        ),
        None => (
            "no URL is given, and no configuration file".to_owned(),
            "mahp-sender https://origin.example/live/master.m3u8\nmahp-sender --config mahp-sender.toml",
        ),
    };
    StartupError::usage("E-CONFIG", format!("nothing to send: {why}"), hint)
}

fn channel(
    url: &str,
    s: ChannelSettings,
    place: &Place,
    others: &[ChannelConfig],
) -> Result<ChannelConfig, StartupError> {
    let url = parse_url(url).map_err(|e| place.blame("url", e))?;
    let given = s.channel_name.is_some();
    let mut name = s.channel_name.unwrap_or_else(|| name_from(&url));
    if !is_channel_name(&name) {
        return Err(place.wrong("channel-name", &format!("`{name}`"), "use letters, digits, `-`, `_`, `.`"));
    }
    if others.iter().any(|c| c.name == name) {
        if given {
            return Err(place.wrong(
                "channel-name",
                &format!("`{name}` twice"),
                "give each channel a name of its own",
            ));
        }
        let free = (2..).map(|n| format!("{name}-{n}")).find(|n| others.iter().all(|c| &c.name != n));
        name = free.unwrap_or(name);
    }
    let symbol_size = s.symbol_size.unwrap_or(limits::SYMBOL_SIZE_DEFAULT);
    if !symbol_size.is_multiple_of(8) || !(64..=limits::SYMBOL_SIZE_MAX).contains(&symbol_size) {
        let hint = format!(
            "use a multiple of 8 from 64 to {}; 1344 fits tunnels and PPPoE",
            limits::SYMBOL_SIZE_MAX
        );
        return Err(place.wrong("symbol-size", &symbol_size.to_string(), &hint));
    }
    let repair_percent = s.repair.unwrap_or(15);
    if repair_percent > limits::REPAIR_PERCENT_MAX {
        let hint = format!("use 0 to {}", limits::REPAIR_PERCENT_MAX);
        return Err(place.wrong("repair", &repair_percent.to_string(), &hint));
    }
    let (repair_floor, repair_ceiling) =
        repair_bounds(repair_percent, s.repair_floor, s.repair_ceiling, place)?;
    let repair_layer_2 = s.repair_layer_2.unwrap_or(0);
    if repair_layer_2 > limits::REPAIR_PERCENT_MAX {
        let hint = format!("use 0 to {}", limits::REPAIR_PERCENT_MAX);
        return Err(place.wrong("repair-layer-2", &repair_layer_2.to_string(), &hint));
    }
    let headroom = s.headroom.unwrap_or(6.0);
    if !(1.0..=100.0).contains(&headroom) {
        return Err(place.wrong("headroom", &headroom.to_string(), "use 1 to 100; 2 to 6 is usual"));
    }
    if let Some(rate) = s.vod_rate.filter(|r| r.0 < 64_000) {
        return Err(place.wrong("vod-rate", &format!("{} bit/s", rate.0), "use at least \"64 kbit/s\""));
    }
    Ok(ChannelConfig {
        title: s.title.unwrap_or_else(|| name.clone()),
        name,
        url,
        renditions: s.renditions.unwrap_or_default(),
        include_iframes: s.include_iframes.unwrap_or(false),
        repair_percent,
        repair_floor,
        repair_ceiling,
        repair_layer_2,
        headroom,
        profile: s.profile.unwrap_or_default(),
        symbol_size,
        repeat: s.repeat.unwrap_or(false),
        vod_rate: s.vod_rate.map(|r| r.0),
        token_parameters: s.token_parameter.unwrap_or_default(),
        carry_keys: s.carry_keys.unwrap_or(false),
        low_latency: s.low_latency.unwrap_or(false),
    })
}

/// Floor and ceiling of the repair share. Without repair there is no repair flow that a share could go to.
fn repair_bounds(
    percent: u32,
    floor: Option<u32>,
    ceiling: Option<u32>,
    place: &Place,
) -> Result<(u32, u32), StartupError> {
    let default = if percent == 0 { 0 } else { percent.max(50) };
    let (floor, ceiling) = (floor.unwrap_or(percent), ceiling.unwrap_or(default));
    if floor > percent {
        let hint = format!("use at most {percent}, the share to start with (--repair)");
        return Err(place.wrong("repair-floor", &floor.to_string(), &hint));
    }
    if ceiling < percent || ceiling > limits::REPAIR_PERCENT_MAX || (percent == 0 && ceiling > 0) {
        let hint = match percent {
            0 => "raise --repair above 0 first: without it there is no repair flow".to_owned(),
            _ => format!("use {percent} to {}", limits::REPAIR_PERCENT_MAX),
        };
        return Err(place.wrong("repair-ceiling", &ceiling.to_string(), &hint));
    }
    Ok((floor, ceiling))
}

fn parse_url(text: &str) -> Result<Url, StartupError> {
    let hint = "give the address of a playlist or an MPD: https://origin.example/live/master.m3u8";
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => Ok(url),
        Ok(url) => Err(StartupError::usage(
            "E-URL",
            format!("`{text}` has scheme `{}`, not http or https", url.scheme()),
            hint,
        )),
        Err(e) => Err(StartupError::usage("E-URL", format!("`{text}` is not a URL: {e}"), hint)),
    }
}

/// A channel name out of a manifest URL: the last path element that says something.
fn name_from(url: &Url) -> String {
    const DULL: [&str; 8] =
        ["master", "index", "playlist", "manifest", "main", "stream", "live", "prog_index"];
    let elements: Vec<String> = url
        .path_segments()
        .map(|s| s.rev().map(|e| e.split('.').next().unwrap_or_default().to_ascii_lowercase()).collect())
        .unwrap_or_default();
    let clean = |s: &str| -> String {
        let s: String =
            s.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).take(40).collect();
        s.trim_matches('-').to_owned()
    };
    let names: Vec<String> = elements.iter().map(|e| clean(e)).filter(|n| is_channel_name(n)).collect();
    let telling = names.iter().find(|n| !DULL.contains(&n.as_str())).cloned();
    // An address says less than even a dull name.
    let host = || url.domain().map(clean).filter(|n| is_channel_name(n));
    telling.or_else(host).or_else(|| names.last().cloned()).unwrap_or_else(|| "channel".into())
}

impl ChannelSettings {
    /// Values of `self`, and where it has none, of `other`.
    fn or(self, other: ChannelSettings) -> ChannelSettings {
        ChannelSettings {
            url: self.url.or(other.url),
            channel_name: self.channel_name.or(other.channel_name),
            title: self.title.or(other.title),
            renditions: self.renditions.or(other.renditions),
            include_iframes: self.include_iframes.or(other.include_iframes),
            repair: self.repair.or(other.repair),
            repair_floor: self.repair_floor.or(other.repair_floor),
            repair_ceiling: self.repair_ceiling.or(other.repair_ceiling),
            repair_layer_2: self.repair_layer_2.or(other.repair_layer_2),
            headroom: self.headroom.or(other.headroom),
            profile: self.profile.or(other.profile),
            symbol_size: self.symbol_size.or(other.symbol_size),
            repeat: self.repeat.or(other.repeat),
            vod_rate: self.vod_rate.or(other.vod_rate),
            token_parameter: self.token_parameter.or(other.token_parameter),
            carry_keys: self.carry_keys.or(other.carry_keys),
            low_latency: self.low_latency.or(other.low_latency),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
