//! The session description: what a sender offers, where, and under which key.
//!
//! JSON at `/.well-known/mahp/session.json`, the same bytes in band (TSI 0, carousel). Signed in place: see [`crate::auth`].

use crate::auth::{self, SealError, SigningKey, VerifyingKey};
use crate::ids::Tsi;
use crate::limits;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Path of the description on the sender's HTTP server.
pub const WELL_KNOWN_PATH: &str = "/.well-known/mahp/session.json";

/// `Content-Location` of the description when it is carried in band.
pub const IN_BAND_LOCATION: &str = "urn:mahp:session-description:1";

/// The TSI of the announcement session that carries the description in band.
pub const ANNOUNCEMENT_TSI: Tsi = Tsi(0);

/// Everything a receiver must know to take part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionDescription {
    /// Version of this format: 1.
    pub mahp: u32,
    /// Identity of this run of the sender, 16 hexadecimal digits: changes at each start.
    pub session: String,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// Unix seconds of issue; a receiver never goes back to an older description of the same key.
    pub issued: u64,
    /// Unix seconds after which it must not be used.
    pub expires: u64,
    /// Ed25519 public key, base64. A receiver pins it by configuration or on first contact.
    pub public_key: String,
    /// The announcement session that carries this document in band.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<Endpoint>,
    /// What can be watched.
    pub channels: Vec<Channel>,
}

/// One programme: a manifest and its renditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Name in URLs (`/live/NAME/`): letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Title for people.
    #[serde(default)]
    pub title: String,
    /// HLS or DASH.
    pub format: Format,
    /// Live, or on demand.
    pub live: bool,
    /// Absolute URL of the master playlist, media playlist or MPD at the origin.
    pub manifest_url: String,
    /// URL prefixes this channel stands for: requests below them belong to it, and these hosts are allow-listed.
    pub prefixes: Vec<String>,
    /// Query parameters that identify viewers, not content: not part of cache keys.
    #[serde(default)]
    pub token_parameters: Vec<String>,
    /// Further senders of the same flows (hot standby): same groups, ports, TSIs and key, and the same TOI for the same object.
    /// Receivers join all sources; the first symbol wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby_sources: Vec<IpAddr>,
    /// Where symbols and bytes of objects can be had by HTTP; a receiver asks one at random, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repair_servers: Vec<RepairServer>,
    /// Where receivers report what they lack and how they receive; none: nowhere. May be relative, as
    /// [`RepairServer::url`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_url: Option<String>,
    /// URL of the MoQ publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moq_url: Option<String>,
    /// Longest segment, milliseconds.
    pub target_duration_ms: u64,
    /// Longest part, milliseconds: what is carried are the parts of a low-latency playlist (EXT-X-PART). None: whole segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_target_ms: Option<u64>,
    /// One flow each. The rendition of role `manifest`, where there is one, carries the master playlist or MPD.
    pub renditions: Vec<Rendition>,
}

/// A repair server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairServer {
    /// Base URL, ends with `/`. May be relative to the URL of the description.
    pub url: String,
    /// Its share of the requests, relative to the others'; 0: never.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

/// Packaging format of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// HTTP Live Streaming (RFC 8216).
    Hls,
    /// MPEG-DASH (ISO/IEC 23009-1).
    Dash,
}

/// What a rendition carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Master playlist or MPD: always joined while the channel is watched.
    Manifest,
    /// Video, alone or with audio.
    Video,
    /// Audio.
    Audio,
    /// Subtitles or captions.
    Text,
    /// I-frame playlists, images.
    Other,
}

/// One rendition (HLS variant or EXT-X-MEDIA, DASH Representation) and its flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rendition {
    /// Unique in the channel; for metrics and logs.
    pub id: String,
    /// What it carries.
    pub role: Role,
    /// Bit rate of the media, bit/s.
    pub bitrate_bps: u64,
    /// HLS: absolute URL of its media playlist. DASH: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playlist_url: Option<String>,
    /// Absolute URL prefixes or templates of its segments: a request that matches one belongs to this rendition.
    /// `*` stands for any run of characters. Receivers also learn URLs from FDTs and playlists.
    #[serde(default)]
    pub url_patterns: Vec<String>,
    /// RFC 6381 codecs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codecs: Option<String>,
    /// `1280x720`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// BCP 47 language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Where it is on multicast.
    pub flow: Flow,
}

/// How objects are put into packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireProfile {
    /// No-code source flow and a RaptorQ repair flow in a session of its own (DVB-MABR Annex F style). The default.
    #[default]
    Mabr,
    /// One session, source and repair packets with FEC Encoding ID 6.
    FluteRaptorq,
}

/// (S,G), port and TSI of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Sender address for SSM; none = any-source multicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Multicast group.
    pub group: IpAddr,
    /// UDP port.
    pub port: u16,
    /// Transport Session Identifier.
    pub tsi: Tsi,
}

/// A rendition's place on multicast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Source flow (mabr) or the one session (flute-raptorq).
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Repair flow of profile `mabr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Endpoint>,
    /// More repair symbols, for receivers that lose more than those above mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_layer_2: Option<RepairLayer>,
    /// How objects are put into packets.
    pub profile: WireProfile,
    /// Encoding symbol length T, bytes.
    pub symbol_size: u16,
    /// Repair symbols per hundred source symbols.
    pub repair_percent: u32,
    /// Declared maximum of the flow on the wire (UDP payload), bit/s: the pacing rate, over all its sessions.
    pub rate_bps: u64,
}

/// A second repair layer: a session in a group of its own, with repair symbols that are sent nowhere else
/// ([`crate::fec::raptorq::ESI_LAYER_2`]). Only receivers that need it join it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairLayer {
    /// Where it is.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Its repair symbols per hundred source symbols.
    pub percent: u32,
}

/// Why a description was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// Larger than [`limits::DESCRIPTION_BYTES`].
    #[error("session description is {0} bytes long; the limit is {limit}", limit = limits::DESCRIPTION_BYTES)]
    TooLarge(usize),
    /// Not our JSON.
    #[error("session description is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("session description has format version {0}; this program reads version 1")]
    Version(u32),
    /// Signature missing or wrong.
    #[error("session description: {0}")]
    Seal(#[from] SealError),
    /// Signed by a key that is not the pinned one.
    #[error("session description is signed by key {found}, but the pinned key is {pinned}")]
    WrongKey {
        /// Key in the document.
        found: String,
        /// Key we were told to expect.
        pinned: String,
    },
    /// Its validity is over.
    #[error("session description expired at Unix time {0}")]
    Expired(u64),
    /// A field that cannot be.
    #[error("session description: {0}")]
    Invalid(String),
}

impl SessionDescription {
    /// Writes the JSON and signs it. The result is what is served and carried, byte for byte.
    pub fn seal(&self, key: &SigningKey) -> Result<Vec<u8>, DescriptionError> {
        #[derive(Serialize)]
        struct Signed<'a> {
            signature: &'static str,
            #[serde(flatten)]
            description: &'a SessionDescription,
        }
        let text =
            serde_json::to_vec_pretty(&Signed { signature: auth::EMPTY_SIGNATURE, description: self })?;
        Ok(auth::seal(auth::Context::Description, text, key)?)
    }

    /// Verifies and reads. `pinned`: the only acceptable key; without it the key in the document is trusted
    /// (first contact), and the caller must pin what it got.
    pub fn open(
        bytes: &[u8],
        pinned: Option<&VerifyingKey>,
        now: WallTime,
    ) -> Result<(SessionDescription, VerifyingKey), DescriptionError> {
        if bytes.len() > limits::DESCRIPTION_BYTES {
            return Err(DescriptionError::TooLarge(bytes.len()));
        }
        let description: SessionDescription = serde_json::from_slice(bytes)?;
        if description.mahp != 1 {
            return Err(DescriptionError::Version(description.mahp));
        }
        let key = VerifyingKey::from_base64(&description.public_key)?;
        if let Some(pinned) = pinned.filter(|p| **p != key) {
            return Err(DescriptionError::WrongKey { found: key.to_base64(), pinned: pinned.to_base64() });
        }
        auth::open(auth::Context::Description, bytes, &key)?;
        if description.expires < now.unix_secs() {
            return Err(DescriptionError::Expired(description.expires));
        }
        description.validate()?;
        Ok((description, key))
    }

    /// Checks what types alone cannot say.
    pub fn validate(&self) -> Result<(), DescriptionError> {
        let invalid = |m: String| Err(DescriptionError::Invalid(m));
        if self.channels.len() > limits::DESCRIPTION_CHANNELS {
            return invalid(format!(
                "{} channels; the limit is {}",
                self.channels.len(),
                limits::DESCRIPTION_CHANNELS
            ));
        }
        for channel in &self.channels {
            if !is_channel_name(&channel.name) {
                return invalid(format!(
                    "channel name `{}`: use letters, digits, `-`, `_`, `.`",
                    channel.name
                ));
            }
            if channel.renditions.len() > limits::DESCRIPTION_RENDITIONS {
                return invalid(format!(
                    "channel `{}` has {} renditions",
                    channel.name,
                    channel.renditions.len()
                ));
            }
            if channel.repair_servers.len() > limits::DESCRIPTION_REPAIR_SERVERS {
                return invalid(format!(
                    "channel `{}` has {} repair servers; the limit is {}",
                    channel.name,
                    channel.repair_servers.len(),
                    limits::DESCRIPTION_REPAIR_SERVERS
                ));
            }
            if channel.standby_sources.len() > limits::DESCRIPTION_STANDBY_SOURCES {
                return invalid(format!(
                    "channel `{}` has {} standby sources; the limit is {}",
                    channel.name,
                    channel.standby_sources.len(),
                    limits::DESCRIPTION_STANDBY_SOURCES
                ));
            }
            for rendition in &channel.renditions {
                for source in &channel.standby_sources {
                    let endpoint = Endpoint { source: Some(*source), ..rendition.flow.endpoint };
                    endpoint
                        .validate()
                        .or_else(|m| invalid(format!("channel `{}`, standby source: {m}", channel.name)))?;
                }
                rendition.flow.validate().or_else(|m| {
                    invalid(format!("channel `{}`, rendition `{}`: {m}", channel.name, rendition.id))
                })?;
            }
        }
        match &self.announcement {
            Some(e) => e.validate().or_else(|m| invalid(format!("announcement: {m}"))),
            None => Ok(()),
        }
    }

    /// All flows with the channel and rendition they belong to.
    pub fn flows(&self) -> impl Iterator<Item = (&Channel, &Rendition)> {
        self.channels.iter().flat_map(|c| c.renditions.iter().map(move |r| (c, r)))
    }
}

/// Whether `name` can stand in a URL path and a metric label as it is.
pub fn is_channel_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Endpoint {
    /// Group is multicast, source is not, families agree, TSI fits 32 bits, port is not 0.
    pub fn validate(&self) -> Result<(), String> {
        if !self.group.is_multicast() {
            return Err(format!("{} is not a multicast group", self.group));
        }
        if self.port == 0 {
            return Err("port 0".into());
        }
        if self.tsi.0 > u64::from(u32::MAX) {
            return Err(format!("TSI {} needs more than 32 bits", self.tsi));
        }
        match self.source {
            Some(s) if s.is_multicast() || s.is_unspecified() => {
                Err(format!("{s} cannot be a source address"))
            }
            Some(s) if s.is_ipv4() != self.group.is_ipv4() => {
                Err(format!("source {s} and group {} are of different families", self.group))
            }
            _ => Ok(()),
        }
    }
}

impl Flow {
    /// Endpoints, symbol size and rate within limits.
    pub fn validate(&self) -> Result<(), String> {
        self.endpoint.validate()?;
        if let Some(repair) = &self.repair {
            repair.validate()?;
        }
        if !(limits::SYMBOL_SIZE_MIN..=limits::SYMBOL_SIZE_MAX).contains(&self.symbol_size)
            || !self.symbol_size.is_multiple_of(8)
        {
            return Err(format!(
                "symbol size {}: must be a multiple of 8 from {} to {}",
                self.symbol_size,
                limits::SYMBOL_SIZE_MIN,
                limits::SYMBOL_SIZE_MAX
            ));
        }
        if self.repair_percent > limits::REPAIR_PERCENT_MAX {
            return Err(format!(
                "repair share {} %: the limit is {} %",
                self.repair_percent,
                limits::REPAIR_PERCENT_MAX
            ));
        }
        self.repair_layer_2.as_ref().map_or(Ok(()), |layer| self.validate_layer(layer))
    }

    /// A layer that shares a group with what everybody joins would reach everybody.
    fn validate_layer(&self, layer: &RepairLayer) -> Result<(), String> {
        let RepairLayer { endpoint, percent } = layer;
        endpoint.validate().map_err(|m| format!("repair layer 2: {m}"))?;
        let others = || [Some(self.endpoint), self.repair].into_iter().flatten();
        if others().any(|e| e.group == endpoint.group) {
            return Err(format!("repair layer 2 is in group {}, where the flow is", endpoint.group));
        }
        if others().any(|e| e.tsi == endpoint.tsi) {
            return Err(format!("repair layer 2 has TSI {}, which the flow has", endpoint.tsi));
        }
        if endpoint.source != self.endpoint.source {
            return Err("repair layer 2 has another source than the flow".into());
        }
        if !(1..=limits::REPAIR_PERCENT_MAX).contains(percent) {
            return Err(format!(
                "repair layer 2 of {percent} %: must be 1 to {} %",
                limits::REPAIR_PERCENT_MAX
            ));
        }
        Ok(())
    }
}
