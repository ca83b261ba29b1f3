//! The catalog track: MSF (draft-ietf-moq-msf-01) with CMSF packaging, and our multicast binding as one more root field.
//!
//! An MSF reader ignores fields it does not know, so a client without multicast plays the tracks over plain QUIC. The field
//! names inside the binding are those of draft-ramadan-moq-multicast where they fit; the field itself has a name of its own,
//! because what the packets contain is different (FLUTE, not MMTP).

use crate::limits;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use mahp_common::Tsi;
use mahp_common::catalog::{Channel, Endpoint, Flow, Rendition, RepairLayer, Role, WireProfile};
use mahp_common::limits as common_limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Name of the catalog track (MSF section 5).
pub const TRACK: &str = "catalog";
/// MSF version that is written.
pub const VERSION: &str = "draft-01";
/// Packaging of segments that a MSF player cannot be promised to know.
const SEGMENTS: &str = "net.mahp.segment";
/// Packaging of CMSF: CMAF chunks.
const CMAF: &str = "cmaf";
/// Parts or segments that a live player should be behind.
const LATENCY: u64 = 3;
/// Version of the binding.
const BINDING: u32 = 1;

/// A catalog.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Catalog {
    /// MSF version.
    pub version: String,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_at: Option<u64>,
    /// The tracks.
    pub tracks: Vec<CatalogTrack>,
    /// Initialization segments that tracks refer to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_data_list: Vec<InitData>,
    /// Where the same objects are on multicast.
    #[serde(rename = "net.mahp.mcast", skip_serializing_if = "Option::is_none")]
    pub multicast: Option<Binding>,
}

/// An initialization segment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InitData {
    /// What tracks call it.
    pub id: String,
    /// `inline`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Base64.
    pub data: String,
}

/// A track.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CatalogTrack {
    /// Track name in the catalog's namespace.
    pub name: String,
    /// `cmaf` for media whose initialization segment is known to be one of fragmented MP4; ours for the rest (see [`Kind`]).
    pub packaging: String,
    /// Of [`Catalog::init_data_list`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_ref: Option<String>,
    /// Tracks that have the same content at several rates share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_group: Option<u32>,
    /// Live: how far behind a player should be, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_latency: Option<u64>,
    /// Whether new objects appear.
    pub is_live: bool,
    /// `video`, `audio`, `caption`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// RFC 6381 codecs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Bit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
    /// BCP 47 language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
}

/// What a track of a rendition carries; `packaging` of those that are no media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Segments: a group for each, with one object.
    Media,
    /// Playlists, manifests and initialization segments: a group for each, with one object.
    Documents,
    /// Signed records of what exists: the group of what they describe, one object, an FDT Instance.
    Manifest,
    /// Encoding symbols made on demand: group = TOI, object = FEC Payload ID. FETCH only.
    Symbols,
    /// Everything by its TOI: group = TOI, one object. FETCH only.
    Objects,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Media, Kind::Documents, Kind::Manifest, Kind::Symbols, Kind::Objects];

    /// Name of the track of the rendition with this ID.
    pub fn track(self, rendition: &str) -> String {
        match self {
            Kind::Media => rendition.to_owned(),
            Kind::Documents => format!("{rendition}.d"),
            Kind::Manifest => format!("{rendition}.m"),
            Kind::Symbols => format!("{rendition}.rq"),
            Kind::Objects => format!("{rendition}.o"),
        }
    }

    /// Rendition and kind of a track name. A rendition whose own ID ends in a suffix is found first: see `is_rendition`.
    pub fn of(track: &str, is_rendition: impl Fn(&str) -> bool) -> Option<(&str, Kind)> {
        let kinds = [
            (".d", Kind::Documents),
            (".m", Kind::Manifest),
            (".rq", Kind::Symbols),
            (".o", Kind::Objects),
            ("", Kind::Media),
        ];
        let mut found = kinds.iter().filter_map(|(suffix, kind)| Some((track.strip_suffix(suffix)?, *kind)));
        found.find(|(rendition, _)| is_rendition(rendition))
    }

    const fn packaging(self) -> &'static str {
        match self {
            Kind::Media => SEGMENTS,
            Kind::Documents => "net.mahp.documents",
            Kind::Manifest => "net.mahp.fdt",
            Kind::Symbols => "net.mahp.raptorq",
            Kind::Objects => "net.mahp.objects",
        }
    }
}

/// The multicast binding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Binding {
    /// Its version: 1.
    pub v: u32,
    /// Ed25519 key that manifest records are signed with, base64.
    pub sig_key: String,
    /// Where.
    pub endpoints: Vec<BoundEndpoint>,
    /// Other ways to the groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_source: Vec<NetworkSource>,
}

/// A group and the sessions in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BoundEndpoint {
    /// `ssm` or `asm`.
    pub protocol: Protocol,
    /// S; with `ssm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<IpAddr>,
    /// G.
    pub group_address: IpAddr,
    /// UDP port.
    pub port: u16,
    /// Declared maximum, bit/s of UDP payload.
    pub bandwidth: u64,
    /// How objects are put into packets.
    #[serde(default)]
    pub profile: WireProfile,
    /// FEC of every track in it.
    pub fec: BoundFec,
    /// The repair flow of profile `mabr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairEndpoint>,
    /// The second repair layer, in a group of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_layer2: Option<LayerEndpoint>,
    /// The sessions.
    pub tracks: Vec<BoundTrack>,
}

/// Which kind of multicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Source-specific.
    Ssm,
    /// Any-source.
    Asm,
}

/// FEC parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BoundFec {
    /// FEC Encoding ID: 6, RaptorQ.
    pub scheme: u8,
    /// T, bytes.
    pub symbol_size: u16,
    /// Repair symbols per hundred source symbols.
    pub repair_percent: u32,
}

/// Where repair symbols are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairEndpoint {
    /// G.
    pub group_address: IpAddr,
    /// UDP port.
    pub port: u16,
    /// TSI.
    pub tsi: u64,
}

/// Where the repair symbols of the second layer are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerEndpoint {
    /// Where.
    #[serde(flatten)]
    pub place: RepairEndpoint,
    /// Repair symbols per hundred source symbols.
    pub repair_percent: u32,
}

/// A session of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BoundTrack {
    /// The media track.
    pub name: String,
    /// TSI.
    pub tsi: u64,
}

/// Another way to the groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSource {
    /// `amt`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `driad` or `manual`.
    pub discovery: String,
}

/// Why a catalog, or only its binding, was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// A bound of [`crate::limits`] was passed.
    #[error("catalog exceeds the limit of {0}")]
    Limit(&'static str),
    /// Not JSON of this shape.
    #[error("catalog is not readable: {0}")]
    Json(String),
    /// A binding of another version.
    #[error("multicast binding has version {0}; this program reads version 1")]
    Version(u32),
    /// An endpoint that cannot be.
    #[error("multicast endpoint {0}: {1}")]
    Endpoint(usize, String),
}

impl Catalog {
    /// Of a channel. `key`: the sender's public key, base64.
    pub fn of(channel: &Channel, key: &str, generated_at: u64) -> Catalog {
        Catalog {
            version: VERSION.into(),
            generated_at: Some(generated_at),
            tracks: channel.renditions.iter().flat_map(|r| tracks(channel, r)).collect(),
            init_data_list: Vec::new(),
            multicast: Some(Binding {
                v: BINDING,
                sig_key: key.to_owned(),
                endpoints: channel.renditions.iter().map(endpoint).collect(),
                network_source: Vec::new(),
            }),
        }
    }

    /// The initialization segment of a rendition: with it, a player of CMSF can start. False: it was known, or is none of
    /// fragmented MP4, or too long.
    pub fn initialize(&mut self, rendition: &str, init: &[u8]) -> bool {
        let name = Kind::Media.track(rendition);
        let data = BASE64_STANDARD.encode(init);
        let known = self.init_data_list.iter().any(|i| i.id == name && i.data == data);
        if known || init.len() > limits::INIT_BYTES || !is_fmp4(init) {
            return false;
        }
        let Some(track) = self.tracks.iter_mut().find(|t| t.name == name) else { return false };
        let before = (track.clone(), self.init_data_list.clone());
        track.packaging = CMAF.into();
        track.init_ref = Some(name.clone());
        self.init_data_list.retain(|i| i.id != name);
        self.init_data_list.push(InitData { id: name.clone(), kind: "inline".into(), data });
        if self.to_json().len() <= limits::CATALOG_BYTES {
            // It is not the one that was made then.
            self.generated_at = None;
            return true;
        }
        // Receivers would refuse it.
        let (track, list) = before;
        self.init_data_list = list;
        self.tracks.iter_mut().filter(|t| t.name == name).for_each(|t| *t = track.clone());
        false
    }

    /// As an object of the catalog track.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and addresses only: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads an object of a catalog track, bounded. Fields that are not known are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Catalog, CatalogError> {
        if bytes.len() > limits::CATALOG_BYTES {
            return Err(CatalogError::Limit("bytes"));
        }
        let mut value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| CatalogError::Json(e.to_string()))?;
        // A binding that we do not understand must not cost us the tracks: it is read by itself.
        let binding = value.as_object_mut().and_then(|o| o.remove("net.mahp.mcast"));
        let mut catalog: Catalog =
            serde_json::from_value(value).map_err(|e| CatalogError::Json(e.to_string()))?;
        if catalog.tracks.len() > limits::CATALOG_TRACKS {
            return Err(CatalogError::Limit("tracks"));
        }
        catalog.multicast = binding.and_then(|b| serde_json::from_value(b).ok());
        Ok(catalog)
    }

    /// Checks the binding as a whole and gives the flow of each track. One endpoint that cannot be refuses all: half a
    /// binding is a mistake or an attack, and the tracks play without it.
    pub fn flows(&self) -> Result<BTreeMap<String, Flow>, CatalogError> {
        let Some(binding) = &self.multicast else { return Ok(BTreeMap::new()) };
        if binding.v != BINDING {
            return Err(CatalogError::Version(binding.v));
        }
        if binding.endpoints.len() > limits::ENDPOINTS {
            return Err(CatalogError::Limit("multicast endpoints"));
        }
        let known: BTreeSet<&str> = self.tracks.iter().map(|t| t.name.as_str()).collect();
        let mut flows = BTreeMap::new();
        for (i, endpoint) in binding.endpoints.iter().enumerate() {
            for track in &endpoint.tracks {
                let wrong = |m: String| CatalogError::Endpoint(i, m);
                if !known.contains(track.name.as_str()) {
                    return Err(wrong(format!("track `{}` is not in the catalog", track.name)));
                }
                if flows.len() == limits::BOUND_TRACKS {
                    return Err(CatalogError::Limit("tracks of multicast endpoints"));
                }
                let flow = endpoint.flow(track).map_err(wrong)?;
                if flows.insert(track.name.clone(), flow).is_some() {
                    return Err(wrong(format!("track `{}` has two places", track.name)));
                }
            }
        }
        Ok(flows)
    }
}

impl BoundEndpoint {
    fn flow(&self, track: &BoundTrack) -> Result<Flow, String> {
        match (self.protocol, self.source_address) {
            (Protocol::Ssm, None) => return Err("`ssm` without a source".into()),
            (Protocol::Asm, Some(_)) => return Err("`asm` with a source".into()),
            _ => {}
        }
        if self.fec.scheme != 6 {
            return Err(format!("FEC Encoding ID {}: only 6 is known", self.fec.scheme));
        }
        let place = |group, port, tsi| Endpoint { source: self.source_address, group, port, tsi: Tsi(tsi) };
        let flow = Flow {
            endpoint: place(self.group_address, self.port, track.tsi),
            repair: self.repair.map(|r| place(r.group_address, r.port, r.tsi)),
            repair_layer_2: self.repair_layer2.map(|layer| RepairLayer {
                endpoint: place(layer.place.group_address, layer.place.port, layer.place.tsi),
                percent: layer.repair_percent,
            }),
            profile: self.profile,
            symbol_size: self.fec.symbol_size,
            repair_percent: self.fec.repair_percent,
            rate_bps: self.bandwidth,
        };
        flow.validate()?;
        let second = flow.repair_layer_2.map(|layer| layer.endpoint);
        for group in [Some(flow.endpoint), flow.repair, second].into_iter().flatten().map(|e| e.group) {
            if is_control_group(group) {
                return Err(format!("{group} belongs to network control"));
            }
        }
        Ok(flow)
    }
}

/// Groups that routers and hosts speak on among themselves: 224.0.0.0/24 (RFC 5771) and interface- or link-local IPv6
/// (RFC 4291). Nothing that comes from a network may make us listen there.
fn is_control_group(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xf <= 2,
    }
}

/// Whether bytes begin with a box that an initialization segment of ISO BMFF begins with.
fn is_fmp4(init: &[u8]) -> bool {
    init.get(4..8).is_some_and(|kind| [b"ftyp", b"styp", b"moov"].iter().any(|k| kind == &k[..]))
}

/// The number of the renditions that differ from this one in rate only; none: there are no others.
fn alt_group(channel: &Channel, rendition: &Rendition) -> Option<u32> {
    let is_same = |r: &&Rendition| r.role == rendition.role && r.language == rendition.language;
    let first = channel.renditions.iter().position(|r| is_same(&r))?;
    let several = channel.renditions.iter().filter(is_same).count() > 1;
    u32::try_from(first + 1).ok().filter(|_| several)
}

fn tracks(channel: &Channel, rendition: &Rendition) -> Vec<CatalogTrack> {
    let (width, height) = rendition
        .resolution
        .as_deref()
        .and_then(|r| r.split_once('x'))
        .map_or((None, None), |(w, h)| (w.parse().ok(), h.parse().ok()));
    let role = match rendition.role {
        Role::Video => Some("video"),
        Role::Audio => Some("audio"),
        Role::Text => Some("caption"),
        Role::Manifest | Role::Other => None,
    };
    let track = |kind: Kind| CatalogTrack {
        name: kind.track(&rendition.id),
        packaging: kind.packaging().into(),
        is_live: channel.live,
        ..CatalogTrack::default()
    };
    let unit = channel.part_target_ms.unwrap_or(channel.target_duration_ms);
    let media = CatalogTrack {
        alt_group: role.and_then(|_| alt_group(channel, rendition)),
        target_latency: channel.live.then(|| unit.saturating_mul(LATENCY)),
        role: role.map(Into::into),
        codec: rendition.codecs.clone(),
        width,
        height,
        bitrate: Some(rendition.bitrate_bps),
        lang: rendition.language.clone(),
        ..track(Kind::Media)
    };
    let others = [Kind::Documents, Kind::Manifest, Kind::Symbols, Kind::Objects];
    [media].into_iter().chain(others.map(track)).collect()
}

fn endpoint(rendition: &Rendition) -> BoundEndpoint {
    let Flow { endpoint, repair, repair_layer_2, profile, symbol_size, repair_percent, rate_bps } =
        rendition.flow.clone();
    let place = |e: Endpoint| RepairEndpoint { group_address: e.group, port: e.port, tsi: e.tsi.0 };
    BoundEndpoint {
        protocol: if endpoint.source.is_some() { Protocol::Ssm } else { Protocol::Asm },
        source_address: endpoint.source,
        group_address: endpoint.group,
        port: endpoint.port,
        bandwidth: rate_bps,
        profile,
        fec: BoundFec {
            scheme: 6,
            symbol_size,
            repair_percent: repair_percent.min(common_limits::REPAIR_PERCENT_MAX),
        },
        repair: repair.map(place),
        repair_layer2: repair_layer_2
            .map(|layer| LayerEndpoint { place: place(layer.endpoint), repair_percent: layer.percent }),
        tracks: vec![BoundTrack { name: Kind::Media.track(&rendition.id), tsi: endpoint.tsi.0 }],
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
pub(crate) mod tests;
