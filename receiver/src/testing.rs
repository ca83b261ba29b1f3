//! Samples for tests.

use mahp_common::Tsi;
use mahp_common::catalog::{Channel, Endpoint, Flow, Format, Rendition, Role, WireProfile};
use std::net::{IpAddr, Ipv4Addr};

/// A live HLS channel without renditions; 2 s target duration.
pub(crate) fn channel(name: &str, manifest_url: &str) -> Channel {
    Channel {
        name: name.into(),
        title: name.to_uppercase(),
        format: Format::Hls,
        live: true,
        manifest_url: manifest_url.into(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        repair_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        renditions: Vec::new(),
    }
}

/// A video rendition of 1 Mbit/s on 127.0.0.1@232.9.9.9:5000, TSI 1 and repair TSI 2 on port 5001.
pub(crate) fn rendition(id: &str) -> Rendition {
    let endpoint = Endpoint {
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        group: IpAddr::V4(Ipv4Addr::new(232, 9, 9, 9)),
        port: 5000,
        tsi: Tsi(1),
    };
    Rendition {
        id: id.into(),
        role: Role::Video,
        bitrate_bps: 1_000_000,
        playlist_url: None,
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        flow: Flow {
            repair: Some(Endpoint { port: 5001, tsi: Tsi(2), ..endpoint }),
            endpoint,
            profile: WireProfile::Mabr,
            symbol_size: 1344,
            repair_percent: 15,
            rate_bps: 4_000_000,
        },
    }
}
