//! Fuzz targets: one function per parser of hostile input, called by `fuzz/` (libFuzzer) and by the smoke test.
//!
//! A target panics when a property does not hold. Seeds lie in `tests/corpus/NAME`, manifests also in `tests/manifests`.

pub mod moq;
pub mod repair;

use crate::engines::wall;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::SessionDescription;
use mahp_common::manifest::url::{Allow, ChannelMap};
use mahp_common::manifest::{Edit, apply, dash, hls};
use mahp_common::session::recv::{Command, Input, Output, RecvConfig, RecvSession};
use mahp_common::wire::alc::{AlcPacket, AlcRepr};
use mahp_common::wire::fdt::FdtInstance;
use mahp_common::{Time, Tsi, WallTime, limits};
use mahp_receiver::http::range::{self, RangeSpec, Selection};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the binary in `fuzz/` and of the folder of seeds.
    pub name: &'static str,
    /// Runs it on one input.
    pub run: fn(&[u8]),
    /// Extension of the files in `tests/manifests` that are seeds too.
    pub manifests: Option<&'static str>,
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "lct_alc", run: lct_alc, manifests: None },
    Target { name: "fdt", run: fdt, manifests: None },
    Target { name: "description", run: description, manifests: None },
    Target { name: "m3u8_rewrite", run: m3u8_rewrite, manifests: Some("m3u8") },
    Target { name: "mpd_rewrite", run: mpd_rewrite, manifests: Some("mpd") },
    Target { name: "range", run: range, manifests: None },
    Target { name: "session", run: session, manifests: None },
    Target { name: "repair_report", run: repair::report, manifests: None },
    Target { name: "repair_answer", run: repair::answer, manifests: None },
    Target { name: "repair_request", run: repair::request, manifests: None },
    Target { name: "moq_wire", run: moq::wire, manifests: None },
    Target { name: "moq_catalog", run: moq::catalog, manifests: None },
    Target { name: "moq_record", run: moq::record, manifests: None },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.into_iter().find(|t| t.name == name)
    }

    /// Its folder of seeds.
    pub fn corpus_dir(&self) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(self.name)
    }

    /// Its seeds, in the order of their names.
    ///
    /// # Errors
    /// A folder or file that cannot be read.
    pub fn seeds(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        if self.corpus_dir().exists() {
            for entry in std::fs::read_dir(self.corpus_dir())? {
                paths.push(entry?.path());
            }
        }
        if let Some(extension) = self.manifests {
            for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests"))? {
                paths.push(entry?.path());
            }
            paths.retain(|p| p.extension().is_some_and(|e| e == extension));
        }
        paths.sort();
        paths.into_iter().map(std::fs::read).collect()
    }
}

/// A datagram. What can be written with our header reads back the same.
pub fn lct_alc(data: &[u8]) {
    let Ok(packet) = AlcPacket::parse(data) else { return };
    assert!(packet.payload.len() <= data.len());
    let (Some(toi), Some(payload_id)) = (packet.toi, packet.payload_id) else { return };
    if packet.tsi.0 > u64::from(u32::MAX) || toi.0 > u128::from(u32::MAX) {
        return;
    }
    let repr = AlcRepr {
        tsi: packet.tsi,
        toi,
        codepoint: packet.codepoint,
        close_session: packet.close_session,
        close_object: packet.close_object,
        fti: packet.fti,
        fdt: packet.fdt,
        cenc: packet.cenc,
        sender_time: packet.sender_time,
        payload_id,
    };
    let mut bytes = Vec::new();
    repr.emit(&mut bytes);
    assert_eq!(bytes.len(), repr.header_len());
    bytes.extend_from_slice(packet.payload);
    assert_eq!(AlcPacket::parse(&bytes).as_ref(), Ok(&packet));
}

/// An FDT Instance. What was read is within the limits and is written so that it reads the same.
pub fn fdt(data: &[u8]) {
    // Not the key of the signed seed.
    let key = SigningKey::from_seed(&[2; 32]);
    assert!(FdtInstance::open(data, Tsi(1), &key.verifying_key()).is_err(), "a forged signature passed");
    let Ok(instance) = FdtInstance::parse(data) else { return };
    assert!(instance.files.len() <= limits::FDT_FILES);
    let xml = instance.to_xml();
    // Escaping may lengthen a value beyond what is read; that needs a long document.
    if xml.len() <= limits::FDT_VALUE_BYTES {
        assert_eq!(FdtInstance::parse(&xml).as_ref(), Ok(&instance), "{}", String::from_utf8_lossy(&xml));
    }
}

/// A session description, signed or not; valid ones are signed, opened and come out the same.
pub fn description(data: &[u8]) {
    let now = WallTime::from_unix_secs(1);
    let _ = SessionDescription::open(data, None, now);
    let Ok(mut description) = serde_json::from_slice::<SessionDescription>(data) else { return };
    let key = SigningKey::from_seed(&[1; 32]);
    description.public_key = key.verifying_key().to_base64();
    description.mahp = 1;
    description.expires = description.expires.max(2);
    if description.validate().is_err() {
        return;
    }
    let Ok(sealed) = description.seal(&key) else { return };
    if sealed.len() <= limits::DESCRIPTION_BYTES {
        let opened = SessionDescription::open(&sealed, Some(&key.verifying_key()), now);
        assert_eq!(opened.map(|(d, _)| d).ok(), Some(description));
    }
}

fn base() -> Url {
    Url::parse("https://cdn.example/a/b/index").expect("a URL")
}

fn channel_map() -> ChannelMap {
    let allow: Allow = Arc::new(|u| u.host_str() != Some("ads.example"));
    ChannelMap::new("/live/news/", &Url::parse("https://cdn.example/a/b/").expect("a URL"), allow)
}

/// Edits are in order and on character boundaries, and applying them changes nothing else.
fn check_edits(text: &str, edits: &[Edit]) {
    let mut expected = String::new();
    let mut at = 0;
    for edit in edits {
        assert!(at <= edit.start && edit.start <= edit.end && edit.end <= text.len(), "{edit:?} after {at}");
        expected.push_str(&text[at..edit.start]);
        expected.push_str(&edit.with);
        at = edit.end;
    }
    expected.push_str(&text[at..]);
    assert_eq!(apply(text, edits), expected);
}

/// A playlist: read, and rewritten with and without trimming.
pub fn m3u8_rewrite(data: &[u8]) {
    let _ = hls::Playlist::parse(data, &base(), &[]);
    let Ok(text) = std::str::from_utf8(data) else { return };
    for (trim_head, trim_tail, strip_low_latency) in [(0, 0, false), (0, 0, true), (0, 3, true), (2, 1, true)]
    {
        let options = hls::RewriteOptions { trim_head, trim_tail, strip_low_latency, imports: &[] };
        if let Ok(edits) = hls::rewrite(text, &base(), "/live/news/index", &channel_map(), options) {
            check_edits(text, &edits);
        }
    }
}

/// An MPD: read, its segments listed, and rewritten.
pub fn mpd_rewrite(data: &[u8]) {
    if let Ok(mpd) = dash::Mpd::parse(data, &base()) {
        for representation in &mpd.representations {
            let _ = mpd.init(representation);
            let segments = mpd.segments(representation, WallTime::from_unix_secs(1_790_000_000));
            assert!(segments.len() <= limits::MPD_SEGMENTS);
            let _ = mpd.next_available(representation, segments.last().map_or(0, |s| s.number));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for time_shift_buffer in [None, Some(Duration::from_millis(12_345))] {
        let options = dash::RewriteOptions { time_path: Some("/time".into()), time_shift_buffer };
        if let Ok(edits) = dash::rewrite(text, &base(), "/live/news/index", &channel_map(), &options) {
            check_edits(text, &edits);
        }
    }
}

/// Eight bytes of length, then the value of a Range header.
pub fn range(data: &[u8]) {
    let Some((len, value)) = data.split_first_chunk::<8>() else { return };
    let (len, Ok(value)) = (u64::from_be_bytes(*len), std::str::from_utf8(value)) else { return };
    for len in [len, len >> 32, len >> 56, 0, 1] {
        if let Selection::Part(first, last) = range::parse(value, len) {
            assert!(first <= last && last < len, "{value} of {len}: {first}-{last}");
        }
    }
    let bounds = RangeSpec::parse(value).and_then(RangeSpec::bounds);
    if let Some((first, Some(last))) = bounds {
        assert!(first <= last);
    }
}

/// Datagrams to a receiving engine, each behind two bytes of length and one of time (milliseconds).
pub fn session(data: &[u8]) {
    let config = RecvConfig {
        tsi: Some(Tsi(1)),
        repair_tsi: Some(Tsi(2)),
        allow_undigested: true,
        assembly_bytes: 1 << 20,
        held_bytes: 64 << 10,
        ..RecvConfig::default()
    };
    let fdts = limits::FDT_INSTANCES_IN_FLIGHT * (limits::FDT_BYTES + usize::from(limits::SYMBOL_SIZE_MAX));
    let budget = config.assembly_bytes + (config.held_bytes + fdts) as u64;
    let mut engine = RecvSession::new(config);
    let mut now = Time::ZERO;
    let mut rest = data;
    while let Some((&[a, b, millis], tail)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([a, b])).min(tail.len());
        let (datagram, tail) = tail.split_at(len);
        rest = tail;
        now += Duration::from_millis(millis.into());
        engine.handle_input(Input::Packet { now, wall: wall(now), datagram });
        drain(&mut engine, now);
        assert!(engine.stats().assembly_bytes <= budget, "{:?}", engine.stats());
    }
    for _ in 0..3 {
        now += Duration::from_secs(30);
        engine.handle_input(Input::Timeout { now });
        drain(&mut engine, now);
    }
    assert_eq!(engine.stats().assembly_bytes, 0, "memory comes back: {:?}", engine.stats());
}

fn drain(engine: &mut RecvSession, now: Time) {
    loop {
        match engine.poll_output() {
            Output::Command(Command::Decode(job)) => {
                engine.handle_input(Input::Decoded { now, result: job.run() });
            }
            Output::Event(_) => {}
            Output::Timeout(_) => return,
        }
    }
}
