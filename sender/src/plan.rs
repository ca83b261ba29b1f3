//! Which rendition goes to which group, under which TSI, at which rate. Pure: no socket, no request.

use crate::config::{ChannelConfig, Config};
use crate::origin::discover::{Found, FoundRendition};
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{
    ANNOUNCEMENT_TSI, Channel, Endpoint, Flow, Format, Rendition, RepairLayer, Role, WireProfile,
};
use mahp_common::manifest::url::cache_key;
use mahp_common::{Digest, Tsi};
use mahp_runtime::error::StartupError;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Pacing rate that a live flow has at least: a playlist must not take long even beside a small rendition.
const FLOOR_BPS: u64 = 2_000_000;
/// The same for a flow of a VOD, whose rates add up to a total.
const VOD_FLOOR_BPS: u64 = 256_000;
/// VOD without `vod-rate`: media seconds per second.
const VOD_SPEED: f64 = 4.0;
/// VOD: pacing rate over mean rate, as segments are of different sizes.
const VOD_HEADROOM: f64 = 1.25;
/// Least pacing rate over what must be sent when `rate-limit` presses.
const LEAST_HEADROOM: f64 = 1.05;
/// Headers of LCT, FEC Payload ID and FDT Instances, as a factor.
const OVERHEAD: f64 = 1.03;

/// Most segments at the live edge that a rendition begins with.
pub const MOST_AT_START: usize = 3;

/// What is sent where.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The channels, as in the session description.
    pub channels: Vec<Planned>,
    /// Where the description is carried in band.
    pub announcement: Endpoint,
}

/// One channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// As in the session description.
    pub channel: Channel,
    /// VOD: media seconds per second.
    pub speed: f64,
}

impl Plan {
    /// Sum of the declared maxima, bit/s of UDP payload.
    pub fn total_bps(&self) -> u64 {
        self.channels.iter().map(Planned::total_bps).sum()
    }
}

impl Planned {
    fn total_bps(&self) -> u64 {
        self.channel.renditions.iter().map(|r| r.flow.rate_bps).sum()
    }

    /// What must be sent: live at real time, VOD at a tenth of its speed.
    fn least_bps(&self) -> u64 {
        self.channel.renditions.iter().map(|r| least_bps(self.channel.live, r)).sum()
    }
}

/// Makes the plan, and adds channels to it later.
#[derive(Debug)]
pub struct Planner {
    places: Places,
    /// Who announces: the signing key and the port of the description, as two senders of one host may share their key.
    who: (String, u16),
    rate_limit: Option<u64>,
    planned_bps: u64,
}

impl Planner {
    /// A planner without channels. `source`: the S to announce (none with ASM).
    pub fn new(config: &Config, source: Option<IpAddr>) -> Planner {
        Planner {
            places: Places::new(config, source),
            who: (String::new(), config.http.port()),
            rate_limit: config.rate_limit,
            planned_bps: 0,
        }
    }

    /// Announces in a group of this key, whatever channels come and go: receivers that wait there need not be told anew.
    pub fn signed(self, key: &VerifyingKey) -> Planner {
        Planner { who: (key.to_base64(), self.who.1), ..self }
    }

    /// What the group of the announcement follows from. Of a port that the system chooses nothing can; then it is the channels.
    fn announcement_key(&self, channels: &[ChannelConfig]) -> String {
        let (key, port) = &self.who;
        if *port != 0 {
            return format!("{key} {port}");
        }
        let urls: Vec<String> = channels.iter().map(|c| cache_key(&c.url, &c.token_parameters)).collect();
        format!("{key} {}", urls.join(" "))
    }

    /// The plan of these channels; `found` belongs to `channels`, in order.
    ///
    /// # Errors
    /// `E-CONFIG`: the rate limit is too small for what must be sent. `E-GROUP`: `group-base` leaves too few groups.
    pub fn plan(&mut self, channels: &[ChannelConfig], found: &[Found]) -> Result<Plan, StartupError> {
        let announcement = self.places.announcement(&self.announcement_key(channels))?;
        let planned = channels.iter().zip(found).map(|(c, f)| plan_channel(c, f, &mut self.places));
        let mut plan = Plan { channels: planned.collect::<Result<_, _>>()?, announcement };
        if let Some(limit) = self.rate_limit {
            limit_rates(&mut plan.channels, limit)?;
        }
        self.planned_bps = plan.total_bps();
        Ok(plan)
    }

    /// One channel more.
    ///
    /// # Errors
    /// As [`Planner::plan`]; the rate limit counts less what was planned before.
    pub fn add(&mut self, config: &ChannelConfig, found: &Found) -> Result<Planned, StartupError> {
        let mut planned = [plan_channel(config, found, &mut self.places)?];
        if let Some(limit) = self.rate_limit {
            limit_rates(&mut planned, limit.saturating_sub(self.planned_bps))?;
        }
        let [planned] = planned;
        self.planned_bps += planned.total_bps();
        Ok(planned)
    }

    /// One channel less: its groups and TSIs are free again.
    pub fn remove(&mut self, channel: &Channel) {
        for r in &channel.renditions {
            self.planned_bps = self.planned_bps.saturating_sub(r.flow.rate_bps);
            self.places.free(&r.flow.endpoint);
            if let Some(layer) = &r.flow.repair_layer_2 {
                self.places.free(&layer.endpoint);
            }
        }
    }
}

fn plan_channel(config: &ChannelConfig, found: &Found, places: &mut Places) -> Result<Planned, StartupError> {
    let speed = vod_speed(config, found);
    let mut renditions = Vec::new();
    if let Some(manifest) = &found.manifest {
        let bitrate = (manifest.object.data.len() as u64).saturating_mul(4).max(8_000);
        let rate = if found.live { FLOOR_BPS } else { VOD_FLOOR_BPS.max(bitrate.saturating_mul(2)) };
        let flow = places.flow(config, &cache_key(&manifest.url, &config.token_parameters), rate)?;
        renditions.push(manifest_rendition(manifest.url.as_str(), bitrate, flow));
    }
    for r in &found.renditions {
        let rate = if found.live {
            FLOOR_BPS.max(scaled(wire_bps(config, r.bitrate_bps), config.headroom))
        } else {
            VOD_FLOOR_BPS.max(scaled(wire_bps(config, r.bitrate_bps), speed * VOD_HEADROOM))
        };
        let mut flow = places.flow(config, &r.key, rate)?;
        flow.repair_layer_2 = places.layer_2(config, &r.key)?;
        renditions.push(rendition(r, flow));
    }
    let channel = Channel {
        name: config.name.clone(),
        title: config.title.clone(),
        format: found.format,
        live: found.live,
        manifest_url: config.url.to_string(),
        prefixes: found.prefixes.clone(),
        token_parameters: config.token_parameters.clone(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: millis(found.target_duration),
        part_target_ms: found.part_target.filter(|_| config.low_latency).map(millis),
        renditions,
    };
    Ok(Planned { channel, speed })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn manifest_rendition(url: &str, bitrate_bps: u64, flow: Flow) -> Rendition {
    Rendition {
        id: "manifest".into(),
        role: Role::Manifest,
        bitrate_bps,
        playlist_url: None,
        url_patterns: vec![url.to_owned()],
        codecs: None,
        resolution: None,
        language: None,
        flow,
    }
}

fn rendition(r: &FoundRendition, flow: Flow) -> Rendition {
    Rendition {
        id: r.id.clone(),
        role: r.role,
        bitrate_bps: r.bitrate_bps,
        playlist_url: r.playlist_url.as_ref().map(ToString::to_string),
        url_patterns: r.url_patterns.clone(),
        codecs: r.codecs.clone(),
        resolution: r.resolution.clone(),
        language: r.language.clone(),
        flow,
    }
}

/// What a rendition needs on the wire at real time: media, repair, headers.
fn wire_bps(config: &ChannelConfig, bitrate_bps: u64) -> u64 {
    let percent = config.repair_percent + config.repair_layer_2;
    scaled(bitrate_bps, OVERHEAD * (1.0 + f64::from(percent) / 100.0))
}

/// Repair symbols of all layers for each source symbol.
fn repair_share(flow: &Flow) -> f64 {
    let percent = flow.repair_percent + flow.repair_layer_2.map_or(0, |layer| layer.percent);
    f64::from(percent) / 100.0
}

/// Rates are below 2^53 and factors are small and positive, so the conversions lose nothing that matters.
fn scaled(bps: u64, factor: f64) -> u64 {
    (bps as f64 * factor) as u64
}

fn vod_speed(config: &ChannelConfig, found: &Found) -> f64 {
    let need: u64 = found.renditions.iter().map(|r| wire_bps(config, r.bitrate_bps)).sum();
    match config.vod_rate {
        Some(total) if need > 0 => total as f64 / (need as f64 * VOD_HEADROOM),
        _ => VOD_SPEED,
    }
}

/// What a rendition must be given.
fn least_bps(live: bool, r: &Rendition) -> u64 {
    if !live {
        return (r.flow.rate_bps / 10).max(1);
    }
    let repair = repair_share(&r.flow);
    r.flow.rate_bps.min(scaled(r.bitrate_bps, OVERHEAD * (1.0 + repair) * LEAST_HEADROOM))
}

/// With how many segments at the live edge a rendition begins, so that receivers that join have something: as many as are sent
/// before the next one exists, at most [`MOST_AT_START`]. More would delay everything after them for as long as the headroom is small.
pub fn segments_at_start(r: &Rendition) -> usize {
    let repair = repair_share(&r.flow);
    let headroom = r.flow.rate_bps as f64 / scaled(r.bitrate_bps, OVERHEAD * (1.0 + repair)).max(1) as f64;
    (2..=MOST_AT_START).rev().find(|n| headroom >= *n as f64).unwrap_or(1)
}

/// Takes headroom from all renditions alike until they fit.
fn limit_rates(channels: &mut [Planned], limit: u64) -> Result<(), StartupError> {
    let total: u64 = channels.iter().map(Planned::total_bps).sum();
    let least: u64 = channels.iter().map(Planned::least_bps).sum();
    if total <= limit {
        return Ok(());
    }
    if least > limit {
        return Err(StartupError::usage(
            "E-CONFIG",
            format!("--rate-limit leaves {}, but the renditions need {}", mbit(limit), mbit(least)),
            "raise it, carry fewer renditions (--renditions), or lower --repair",
        ));
    }
    let share = (limit - least) as f64 / (total - least) as f64;
    for planned in channels {
        let before = planned.total_bps();
        for r in &mut planned.channel.renditions {
            let least = least_bps(planned.channel.live, r);
            r.flow.rate_bps = least + scaled(r.flow.rate_bps - least, share);
        }
        planned.speed *= planned.total_bps() as f64 / before as f64;
    }
    Ok(())
}

/// `12.3 Mbit/s`.
pub fn mbit(bps: u64) -> String {
    format!("{:.1} Mbit/s", bps as f64 / 1e6)
}

/// Whether packets may be sent to `group`.
///
/// # Errors
/// `E-GROUP`.
pub fn check_group(group: IpAddr, asm: bool) -> Result<(), StartupError> {
    let ssm = is_ssm(group);
    let (what, hint) = match group {
        _ if !group.is_multicast() => {
            ("is outside multicast space", "use 232.0.1.0 to 232.255.255.255, or ff3e::8000:0 and above")
        }
        _ if !asm && !ssm => (
            "is outside the source-specific range",
            "use 232.0.1.0 to 232.255.255.255 or ff3e::8000:0 and above, or add --asm",
        ),
        _ if asm && ssm => (
            "is source-specific, but --asm is set",
            "use a group from 239.192.0.0 to 239.195.255.255, or leave --asm out",
        ),
        IpAddr::V4(g) if g.octets()[..3] == [224, 0, 0] || g.octets()[..3] == [232, 0, 0] => {
            ("is reserved", "use 232.0.1.0 to 232.255.255.255")
        }
        _ => return Ok(()),
    };
    Err(StartupError::usage("E-GROUP", format!("group {group} {what}"), hint))
}

/// 232.0.0.0/8 (RFC 4607 section 1) and ff3x::/32.
fn is_ssm(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(g) => g.octets()[0] == 232,
        IpAddr::V6(g) => g.segments()[0] & 0xfff0 == 0xff30 && g.segments()[1] == 0,
    }
}

/// Hands out groups and TSIs: the same for the same URL at each start, never twice.
#[derive(Debug)]
struct Places {
    source: Option<IpAddr>,
    port: u16,
    ipv6: bool,
    asm: bool,
    base: Option<IpAddr>,
    taken: u32,
    groups: BTreeSet<u32>,
    tsis: BTreeSet<u32>,
}

impl Places {
    fn new(config: &Config, source: Option<IpAddr>) -> Places {
        Places {
            source,
            port: config.port_base,
            ipv6: config.ipv6,
            asm: config.asm,
            base: config.group_base,
            taken: 0,
            groups: BTreeSet::new(),
            tsis: BTreeSet::new(),
        }
    }

    fn announcement(&mut self, key: &str) -> Result<Endpoint, StartupError> {
        let group = self.group(&format!("announcement {key}"))?;
        Ok(Endpoint { source: self.source, group, port: self.port, tsi: ANNOUNCEMENT_TSI })
    }

    fn flow(&mut self, config: &ChannelConfig, key: &str, rate_bps: u64) -> Result<Flow, StartupError> {
        let group = self.group(key)?;
        let endpoint = Endpoint { source: self.source, group, port: self.port, tsi: self.tsi(key) };
        let repair = (config.profile == WireProfile::Mabr && config.repair_percent > 0).then(|| Endpoint {
            port: self.port + 1,
            tsi: self.tsi(&format!("repair {key}")),
            ..endpoint
        });
        Ok(Flow {
            endpoint,
            repair,
            repair_layer_2: None,
            profile: config.profile,
            symbol_size: config.symbol_size,
            repair_percent: config.repair_percent,
            rate_bps,
        })
    }

    /// The second repair layer of a rendition. Manifests, which come again and again, have none.
    fn layer_2(&mut self, config: &ChannelConfig, key: &str) -> Result<Option<RepairLayer>, StartupError> {
        if config.repair_layer_2 == 0 {
            return Ok(None);
        }
        let key = format!("repair layer 2 {key}");
        let group = self.group(&key)?;
        let endpoint = Endpoint { source: self.source, group, port: self.port + 1, tsi: self.tsi(&key) };
        Ok(Some(RepairLayer { endpoint, percent: config.repair_layer_2 }))
    }

    /// Groups differ in their low 23 bits, so that Ethernet (RFC 1112 section 6.4) tells them apart too.
    fn group(&mut self, key: &str) -> Result<IpAddr, StartupError> {
        if let Some(base) = self.base {
            self.taken += 1;
            let group = advance(base, self.taken - 1).filter(|g| check_group(*g, self.asm).is_ok());
            return group.ok_or_else(|| {
                StartupError::usage(
                    "E-GROUP",
                    format!("{} groups from {base} on leave the range of groups", self.taken),
                    "use a lower --group-base",
                )
            });
        }
        let mut n = hash(key);
        loop {
            let (group, low) = self.candidate(n);
            // 232.0.0.0/24 is reserved (RFC 4607 section 10.1).
            if low >= 256 && self.groups.insert(low) {
                return Ok(group);
            }
            n = n.wrapping_add(1);
        }
    }

    /// A group for a number, and its low 23 bits.
    fn candidate(&self, n: u32) -> (IpAddr, u32) {
        let group = self.numbered(n);
        (group, low_bits(group))
    }

    fn numbered(&self, n: u32) -> IpAddr {
        let v4 = |bits: u32| Ipv4Addr::from_bits(bits).into();
        // Group IDs from 0x80000000 on are for dynamic use (RFC 3307 section 4.3).
        let v6 = |prefix: u128| Ipv6Addr::from_bits(prefix << 112 | u128::from(n | 0x8000_0000)).into();
        match (self.ipv6, self.asm) {
            (false, false) => v4(0xe800_0000 | n & 0x00ff_ffff),
            (false, true) => v4(0xefc0_0000 | n & 0x0003_ffff),
            (true, false) => v6(0xff3e),
            (true, true) => v6(0xff15),
        }
    }

    fn free(&mut self, e: &Endpoint) {
        self.groups.remove(&low_bits(e.group));
        if let Ok(tsi) = u32::try_from(e.tsi.0) {
            self.tsis.remove(&tsi);
        }
    }

    fn tsi(&mut self, key: &str) -> Tsi {
        let mut n = hash(&format!("tsi {key}"));
        // TSI 0 is the announcement's.
        while n == 0 || !self.tsis.insert(n) {
            n = n.wrapping_add(1);
        }
        Tsi(u64::from(n))
    }
}

/// What Ethernet tells groups apart by: the low 23 bits.
fn low_bits(group: IpAddr) -> u32 {
    let bits = match group {
        IpAddr::V4(g) => g.to_bits(),
        IpAddr::V6(g) => g.to_bits() as u32,
    };
    bits & 0x007f_ffff
}

fn hash(key: &str) -> u32 {
    let d = Digest::of(key.as_bytes()).0;
    u32::from_be_bytes([d[0], d[1], d[2], d[3]])
}

fn advance(base: IpAddr, n: u32) -> Option<IpAddr> {
    match base {
        IpAddr::V4(b) => b.to_bits().checked_add(n).map(|b| Ipv4Addr::from_bits(b).into()),
        IpAddr::V6(b) => b.to_bits().checked_add(u128::from(n)).map(|b| Ipv6Addr::from_bits(b).into()),
    }
}

/// The plan for people: one line for each rendition.
pub fn table(plan: &Plan) -> String {
    let mut out = String::new();
    for Planned { channel, speed } in &plan.channels {
        let kind = if channel.live { "live".to_owned() } else { format!("VOD at {speed:.1} x") };
        let format = match channel.format {
            Format::Hls => "HLS",
            Format::Dash => "DASH",
        };
        let _ = writeln!(out, "{} ({format}, {kind}) {}", channel.name, channel.manifest_url);
        for r in &channel.renditions {
            let e = &r.flow.endpoint;
            let source = e.source.map_or("*".to_owned(), |s| s.to_string());
            let _ = writeln!(
                out,
                "  {:<20} {:>15}  {source}@{} tsi {}  up to {} with {} % repair",
                r.id,
                mbit(r.bitrate_bps),
                SocketAddr::new(e.group, e.port),
                e.tsi,
                mbit(r.flow.rate_bps),
                r.flow.repair_percent
            );
        }
    }
    let media: u64 = plan.channels.iter().flat_map(|c| &c.channel.renditions).map(|r| r.bitrate_bps).sum();
    let a = &plan.announcement;
    let _ = writeln!(out, "announcement         {} tsi {}", SocketAddr::new(a.group, a.port), a.tsi);
    let _ = writeln!(
        out,
        "total                media {}, on the wire up to {}",
        mbit(media),
        mbit(plan.total_bps())
    );
    out
}

/// Pairs of channels that carry segments of the same URLs: each of these is sent twice.
pub fn carried_twice(plan: &Plan) -> BTreeSet<(&str, &str)> {
    let (mut first, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for channel in plan.channels.iter().map(|p| &p.channel) {
        let media = channel.renditions.iter().filter(|r| r.role != Role::Manifest);
        for pattern in media.flat_map(|r| &r.url_patterns) {
            let other = *first.entry(pattern).or_insert(channel.name.as_str());
            if other != channel.name {
                twice.insert((other, channel.name.as_str()));
            }
        }
    }
    twice
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
