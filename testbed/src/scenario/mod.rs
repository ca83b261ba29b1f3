//! A scenario: what runs, what goes wrong when, and what must hold. Read from TOML; whatever cannot be is refused with file, line
//! and remedy before anything starts.

mod builtin;
mod check;
#[cfg(test)]
mod tests;
mod values;

pub use builtin::{Builtin, all as builtins, find as builtin};
pub use values::{Growth, Share};

use crate::emu::{Direction, Impairment, LossModel, TrafficClass};
use mahp_runtime::config::{BitRate, ByteSize, Span};
use mahp_runtime::error::StartupError;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// See the module. Times count from the moment when the first players may start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// What it shows, in one line.
    pub title: String,
    /// Why, and how to read the result.
    #[serde(default)]
    pub about: String,
    /// How long players play.
    pub duration: Span,
    /// How long the receivers listen before players start.
    #[serde(default = "warm_up")]
    pub warm_up: Span,
    /// Seed of all randomness; `--seed` overrides it.
    #[serde(default = "seed")]
    pub seed: u64,
    /// In the short suite, times are multiplied by this; 0: it is not in the short suite.
    #[serde(default = "short")]
    pub short: f64,
    /// Where the content comes from.
    #[serde(default)]
    pub origin: Origin,
    /// The channels.
    #[serde(default)]
    pub channel: Vec<Channel>,
    /// The sender.
    #[serde(default)]
    pub sender: Sender,
    /// The receivers.
    #[serde(default)]
    pub receivers: Receivers,
    /// What is wrong with the network.
    #[serde(default)]
    pub impair: Vec<Impair>,
    /// Who watches.
    #[serde(default)]
    pub player: Vec<Player>,
    /// What happens when.
    #[serde(default)]
    pub event: Vec<Event>,
    /// What must hold.
    #[serde(default)]
    pub pass: Pass,
}

fn warm_up() -> Span {
    Span(Duration::from_secs(5))
}

fn seed() -> u64 {
    1
}

fn short() -> f64 {
    0.4
}

/// Kinds of content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The test clip as the standard channel: three renditions, 8, 3 and 1 Mbit/s, and sound.
    #[default]
    Standard,
    /// The test clip as it is: two renditions below 1 Mbit/s, and sound.
    Clip,
    /// Files of a folder.
    Folder,
    /// A test pattern that ffmpeg makes during the run: live HLS, one rendition.
    Pattern,
    /// Another web server; only without namespaces, which lead nowhere.
    Url,
}

/// Where the content comes from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Origin {
    /// What it serves.
    #[serde(default)]
    pub content: Content,
    /// The folder of `folder`.
    pub folder: Option<PathBuf>,
    /// The server of `url`: the part before the manifests' paths.
    pub url: Option<String>,
    /// Added before each answer.
    pub delay: Option<Span>,
    /// Length of what is on demand.
    pub vod: Option<Span>,
}

/// A channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Channel {
    /// Its name in URLs.
    pub name: String,
    /// Path of its manifest at the origin.
    #[serde(default = "manifest")]
    pub manifest: String,
    /// Keys of `[[channel]]` of the sender's configuration.
    #[serde(default)]
    pub settings: mahp_sender::config::ChannelSettings,
}

fn manifest() -> String {
    "/live/master.m3u8".into()
}

/// The sender.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sender {
    /// Keys of `[sender]` of its configuration; addresses are the testbed's.
    #[serde(default)]
    pub settings: mahp_sender::config::SenderSettings,
    /// Keys of `[defaults]` of its configuration.
    #[serde(default)]
    pub defaults: mahp_sender::config::ChannelSettings,
    /// A second sender of the same channels with the same key, on host `standby`.
    #[serde(default)]
    pub standby: bool,
}

/// The receivers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Receivers {
    /// As processes, each in a namespace of its own: `receiver-1`, `receiver-2` …
    #[serde(default = "one")]
    pub count: usize,
    /// As light receivers, all in one process on host `crowd`.
    #[serde(default)]
    pub light: usize,
    /// Loss of each light receiver on its own, besides what the leg of `crowd` loses for all.
    #[serde(default)]
    pub light_loss: Share,
    /// Not started with the others: by an event, or when their player starts.
    #[serde(default)]
    pub wait: bool,
    /// Keys of `[receiver]` of its configuration; addresses are the testbed's.
    #[serde(default)]
    pub settings: mahp_receiver::config::Settings,
}

fn one() -> usize {
    1
}

impl Default for Receivers {
    fn default() -> Receivers {
        Receivers {
            count: 1,
            light: 0,
            light_loss: Share::default(),
            wait: false,
            settings: mahp_receiver::config::Settings::default(),
        }
    }
}

/// What an impairment applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// UDP to groups.
    Multicast,
    /// To one host.
    Unicast,
    /// ARP, neighbour discovery, membership.
    Control,
    /// Everything.
    All,
}

impl Traffic {
    /// The classes.
    pub fn classes(self) -> Vec<TrafficClass> {
        match self {
            Traffic::Multicast => vec![TrafficClass::Multicast],
            Traffic::Unicast => vec![TrafficClass::Unicast],
            Traffic::Control => vec![TrafficClass::Control],
            Traffic::All => TrafficClass::ALL.to_vec(),
        }
    }
}

/// Known links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// 1 % in bursts of 2, 5 ms.
    Wifi,
    /// 5 % in bursts of 2, 15 ms.
    WifiLossy,
    /// 3 % in bursts of 3, 600 ms.
    Satellite,
    /// 9 % in bursts of 2, 80 ms.
    Congested,
}

/// Something wrong with a leg. Later entries replace earlier ones for the same leg, direction and traffic while they last.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Impair {
    /// `receiver-1`, `receivers` (all), `sender`, `origin`, `crowd`, `all`.
    pub leg: String,
    /// `down` (to the host) or `up`.
    #[serde(default = "down")]
    pub direction: Direction,
    /// What of the traffic.
    #[serde(default = "multicast")]
    pub traffic: Traffic,
    /// From when on; without it, from the beginning.
    pub from: Option<Span>,
    /// Until when; without it, to the end.
    pub until: Option<Span>,
    /// A known link: its loss, delay and jitter.
    pub model: Option<Model>,
    /// Mean share lost.
    #[serde(default)]
    pub loss: Share,
    /// Mean number lost in a row; up to 1: each on its own.
    #[serde(default)]
    pub burst: f64,
    /// Nothing passes.
    #[serde(default)]
    pub outage: bool,
    /// Delay.
    pub delay: Option<Span>,
    /// Largest deviation from it; order is kept.
    pub jitter: Option<Span>,
    /// Share that is overtaken.
    #[serde(default)]
    pub reorder: Share,
    /// For how long a packet is held back at most.
    pub reorder_by: Option<Span>,
    /// Share that comes twice.
    #[serde(default)]
    pub duplicate: Share,
    /// Share with a flipped bit and a right checksum (multicast).
    #[serde(default)]
    pub corrupt: Share,
    /// Share that a forged packet follows (multicast).
    #[serde(default)]
    pub forge: Share,
    /// Bottleneck.
    pub rate: Option<BitRate>,
    /// Its queue.
    pub queue: Option<ByteSize>,
}

fn down() -> Direction {
    Direction::Down
}

fn multicast() -> Traffic {
    Traffic::Multicast
}

impl Impair {
    /// What the emulator is told.
    pub fn impairment(&self) -> Impairment {
        let share = self.loss.0;
        let loss = match share.fraction() {
            f if f <= 0.0 => LossModel::None,
            _ if self.burst > 1.0 => LossModel::Bursts(share, self.burst),
            _ => LossModel::Independent(share),
        };
        let span = |s: Option<Span>| s.map(|s| s.0).unwrap_or_default();
        let own = Impairment {
            loss,
            outage: self.outage,
            delay: span(self.delay),
            jitter: span(self.jitter),
            reorder: self.reorder.0,
            reorder_by: span(self.reorder_by),
            duplicate: self.duplicate.0,
            corrupt: self.corrupt.0,
            forge: self.forge.0,
            rate: self.rate.map(|r| r.0),
            queue: self.queue.and_then(|q| usize::try_from(q.0).ok()),
        };
        self.model.map_or(own.clone(), |model| model.over(&own))
    }

    /// Whether it holds at `at`, milliseconds from zero (negative: warm-up).
    pub fn holds(&self, at: i64) -> bool {
        let millis = |s: Span| i64::try_from(s.0.as_millis()).unwrap_or(i64::MAX);
        self.from.is_none_or(|f| millis(f) <= at) && self.until.is_none_or(|u| at < millis(u))
    }
}

impl Model {
    /// The link, with what was given besides.
    fn over(self, own: &Impairment) -> Impairment {
        let (loss, burst, delay, jitter) = match self {
            Model::Wifi => (0.01, 2.0, 5, 2),
            Model::WifiLossy => (0.048, 2.0, 15, 10),
            Model::Satellite => (0.029, 3.0, 600, 30),
            Model::Congested => (0.091, 2.0, 80, 40),
        };
        let millis = Duration::from_millis;
        let or = |own: Duration, model: u64| if own.is_zero() { millis(model) } else { own };
        let loss = LossModel::Bursts(crate::link::Percent::from_fraction(loss), burst);
        Impairment {
            loss: if own.loss == LossModel::None { loss } else { own.loss },
            delay: or(own.delay, delay),
            jitter: or(own.jitter, jitter),
            ..own.clone()
        }
    }
}

/// Kinds of players.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlayerKind {
    /// The playlist client: the timing of hls.js and dash.js without a decoder.
    #[default]
    BuiltIn,
    /// Asks for each segment as soon as it is listed, and notes when its last byte came.
    Probe,
    /// ffmpeg, decoding.
    Ffmpeg,
    /// VLC, decoding.
    Vlc,
    /// Chromium's own HLS player in a headless browser, decoding.
    Chromium,
}

/// Who watches.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Player {
    /// What.
    #[serde(default)]
    pub kind: PlayerKind,
    /// At which receiver: `receiver-1`, `receivers` (one at each), or `origin`: without MAHP, from a host of its own.
    #[serde(default = "first_receiver")]
    pub on: String,
    /// Which channel [default: the first].
    pub channel: Option<String>,
    /// When.
    #[serde(default = "zero")]
    pub start: Span,
    /// For how long [default: to the end].
    pub length: Option<Span>,
    /// The lowest rendition instead of the highest.
    #[serde(default)]
    pub lowest: bool,
}

fn first_receiver() -> String {
    "receivers".into()
}

fn zero() -> Span {
    Span(Duration::ZERO)
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL to a program.
    Kill,
    /// Start it again.
    Start,
    /// SIGTERM and start again.
    Restart,
    /// Nothing passes the leg of a host any more.
    Cut,
    /// It passes again.
    Mend,
    /// The origin waits this long before each answer (`delay`).
    Slow,
}

/// An event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Event {
    /// When.
    pub at: Span,
    /// What.
    #[serde(rename = "do")]
    pub action: Action,
    /// To which host: `origin`, `sender`, `receiver-1`, `receivers`.
    pub to: String,
    /// Of `slow`.
    pub delay: Option<Span>,
}

/// By how much limits on delays are wider in short forms.
const SHORT_PATIENCE: u32 = 4;

/// What must hold. Wrong bytes and a ledger that does not balance fail every run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pass {
    /// Most stalls of all players together.
    pub stalls: Option<u64>,
    /// Least media that each player showed, as a share of the time it played.
    pub played: Option<Share>,
    /// Least segments that multicast alone completed, of those that could be heard whole.
    pub intact: Option<Share>,
    /// Most media bytes by unicast (repair and whole segments), of the bytes served, after start-up.
    pub unicast: Option<Share>,
    /// The same as `unicast` in the last third of the run: after the sender has adapted its share of repair symbols.
    pub unicast_late: Option<Share>,
    /// Least media bytes by unicast: what a negative control or an outage must show.
    pub unicast_at_least: Option<Share>,
    /// Longest time from a segment's availability at the origin to its last byte at a probe, 95th percentile.
    pub last_byte: Option<Span>,
    /// Longest time from a receiver's start to its first intact segment.
    pub first_segment: Option<Span>,
    /// Longest wait of a player for its first picture.
    pub startup: Option<Span>,
    /// How much later a player behind the receiver may show its first picture than one at the origin.
    pub startup_over_direct: Option<Span>,
    /// Most unicast of origin and sender, of what as many unicast viewers would cost.
    pub egress: Option<Share>,
    /// Most requests in one second to origin and sender, from receivers.
    pub requests: Option<u64>,
    /// Outside the outages given in `impair` and this long after them, no unicast.
    pub unicast_only_during_outage_plus: Option<Span>,
    /// Second repair layers reach this receiver and no other.
    pub layer_2_only: Option<String>,
    /// Most growth of the memory of any program. Judged in runs of half an hour and more: before, memory fills.
    pub memory_slope: Option<Growth>,
    /// Criteria above that must fail: a negative control passes when these fail.
    #[serde(default)]
    pub must_fail: Vec<String>,
}

impl Scenario {
    /// Reads a file, or a shipped scenario by name.
    ///
    /// # Errors
    /// `E-CONFIG` with file and line, `E-SCENARIO`: exit status 2.
    pub fn load(name: &str) -> Result<(Scenario, String), StartupError> {
        if let Some(builtin) = builtin(name) {
            return Scenario::parse(&format!("{name}.toml (built in)"), builtin.text)
                .map(|s| (s, builtin.text.to_owned()));
        }
        let path = Path::new(name);
        if !path.is_file() {
            let known: Vec<&str> = builtins().iter().map(|b| b.name).collect();
            let message = format!("`{name}` is neither a file nor a shipped scenario");
            return Err(StartupError::usage("E-SCENARIO", message, format!("one of: {}", known.join(", "))));
        }
        let text = std::fs::read_to_string(path).map_err(|e| {
            StartupError::usage("E-SCENARIO", format!("{name}: {e}"), "is it UTF-8 text that you may read?")
        })?;
        Scenario::parse(name, &text).map(|s| (s, text))
    }

    /// Reads and checks text; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(name: &str, text: &str) -> Result<Scenario, StartupError> {
        let mut scenario: Scenario = mahp_runtime::config::parse(name, text).map_err(|e| StartupError {
            hint: e.hint.replace("config print --default", "docs/testbed.md"),
            ..e
        })?;
        scenario.complete();
        check::check(&scenario).map_err(|wrong| wrong.at(name, text))?;
        Ok(scenario)
    }

    /// What most scenarios leave out: one channel, a player at each receiver.
    fn complete(&mut self) {
        if self.channel.is_empty() {
            self.channel.push(Channel {
                name: "tv".into(),
                manifest: manifest(),
                settings: mahp_sender::config::ChannelSettings::default(),
            });
        }
        if self.player.is_empty() {
            let kinds = [PlayerKind::BuiltIn, PlayerKind::Probe];
            self.player = kinds.into_iter().map(Player::everywhere).collect();
        }
    }

    /// Its short form: all times multiplied by `short`, delays of packets stay. Short forms tell right from wrong, beside other
    /// scenarios and compilers; figures come from the full length. So limits on delays are wider by [`SHORT_PATIENCE`].
    pub fn shorten(&mut self) {
        let scale = |span: &mut Span| span.0 = span.0.mul_f64(self.short);
        scale(&mut self.duration);
        for impair in &mut self.impair {
            impair.from.iter_mut().chain(&mut impair.until).for_each(scale);
        }
        for player in &mut self.player {
            scale(&mut player.start);
            player.length.iter_mut().for_each(scale);
        }
        self.event.iter_mut().for_each(|e| scale(&mut e.at));
        let Pass { last_byte, first_segment, startup, startup_over_direct, .. } = &mut self.pass;
        for limit in [last_byte, first_segment, startup, startup_over_direct].into_iter().flatten() {
            limit.0 *= SHORT_PATIENCE;
        }
    }

    /// Whether it can run in network namespaces, or without.
    ///
    /// # Errors
    /// `E-SCENARIO`: its origin is a web server outside; two senders need two addresses.
    pub fn check_mode(&self, namespaces: bool) -> Result<(), StartupError> {
        let wrong = |message, hint| Err(StartupError::usage("E-SCENARIO", message, hint));
        if namespaces && self.origin.content == Content::Url {
            return wrong(
                "content = \"url\": from the network namespaces of a run nothing outside can be reached",
                "add --no-namespaces, or bring the files: content = \"folder\"",
            );
        }
        if !namespaces && self.sender.standby {
            return wrong(
                "standby = true: on the loopback interface both senders would have the same address",
                "run it without --no-namespaces",
            );
        }
        Ok(())
    }

    /// Names of all hosts, in the order of their legs.
    pub fn hosts(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["origin".into(), "sender".into()];
        out.extend(self.sender.standby.then(|| "standby".into()));
        out.extend(self.receiver_names());
        if self.receivers.light > 0 {
            out.push("crowd".into());
        }
        if self.player.iter().any(|p| p.on == "origin") {
            out.push("direct".into());
        }
        out
    }

    /// `receiver-1` …
    pub fn receiver_names(&self) -> Vec<String> {
        (1..=self.receivers.count).map(|n| format!("receiver-{n}")).collect()
    }

    /// Hosts that a name of the file stands for.
    pub fn matching(&self, name: &str) -> Vec<String> {
        match name {
            "all" => self.hosts(),
            "receivers" => self.receiver_names(),
            name => self.hosts().into_iter().filter(|h| h == name).collect(),
        }
    }
}

impl Player {
    fn everywhere(kind: PlayerKind) -> Player {
        Player { kind, on: first_receiver(), channel: None, start: zero(), length: None, lowest: false }
    }
}
