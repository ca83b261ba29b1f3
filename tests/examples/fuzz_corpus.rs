//! Writes the seeds of the fuzz targets to `tests/corpus`. Run it when a format changes:
//! `cargo run -p mahp-tests --example fuzz_corpus`

use bytes::Bytes;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::WireProfile;
use mahp_common::fec::partition::source_oti;
use mahp_common::repair::report::{Answer, ObjectLack, Reception, Report};
use mahp_common::session::send::SendConfig;
use mahp_common::wire::alc::AlcPacket;
use mahp_common::wire::fdt::FdtFile;
use mahp_common::{ByteRange, Object, ObjectMeta, Toi, Tsi};
use mahp_moq::catalog::Catalog;
use mahp_moq::manifest;
use mahp_moq::wire::{
    FetchEncoder, FetchKind, Filter, Location, LocationRange, Message, Namespace, Params, SetupOptions,
    SubgroupHeader, SubgroupObject, TrackName,
};
use mahp_tests::engines::{Datagram, noise, object, send_all};
use mahp_tests::fuzz::Target;
use std::time::Duration;

fn write(target: &str, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let target = Target::named(target).ok_or_else(|| anyhow::anyhow!("no target {target}"))?;
    std::fs::create_dir_all(target.corpus_dir())?;
    Ok(std::fs::write(target.corpus_dir().join(name), bytes)?)
}

/// Small symbols, so that a few hundred bytes make several packets and blocks.
fn packets(profile: WireProfile, key: Option<SigningKey>, objects: Vec<Object>) -> Vec<Datagram> {
    let config = SendConfig {
        symbol_size: 64,
        repair_percent: 50,
        close_objects: true,
        key,
        session: 3,
        ..SendConfig::new(profile, Tsi(1), Tsi(2), 1_000_000_000)
    };
    send_all(config, objects)
}

fn objects() -> Vec<Object> {
    let mut second = object("b/seg.m4s?x=1&y=2", noise(300, 2));
    second.meta = ObjectMeta {
        final_url: Some("http://cdn.example/b/seg.m4s".into()),
        range: Some(ByteRange { first: 1000, last: 1299, complete: Some(90_000) }),
        etag: Some("\"abc\"".into()),
        last_modified: Some("Sun, 22 Nov 2026 16:00:00 GMT".into()),
        cache_control: Some("max-age=60".into()),
        media_time: Some(Duration::from_millis(6006)),
        duration: Some(Duration::from_millis(2002)),
        available_at: Some(1_790_000_000_123),
        ..second.meta
    };
    vec![object("a.ts", noise(200, 1)), second]
}

fn wire() -> anyhow::Result<()> {
    for (name, profile) in [("mabr", WireProfile::Mabr), ("flute-raptorq", WireProfile::FluteRaptorq)] {
        let sent = packets(profile, None, objects());
        let mut session = Vec::new();
        for packet in &sent {
            session.extend_from_slice(&u16::try_from(packet.bytes.len())?.to_be_bytes());
            session.push(1);
            session.extend_from_slice(&packet.bytes);
        }
        write("session", name, &session)?;
        let is_fdt = |p: &&Datagram| AlcPacket::parse(&p.bytes).is_ok_and(|p| p.toi == Some(Toi::FDT));
        let source = sent.iter().find(|p| !is_fdt(p)).ok_or_else(|| anyhow::anyhow!("no source packet"))?;
        let repair =
            sent.iter().rev().find(|p| !is_fdt(p)).ok_or_else(|| anyhow::anyhow!("no repair packet"))?;
        for (kind, packet) in [("fdt", &sent[0]), ("source", source), ("repair", repair)] {
            write("lct_alc", &format!("{name}-{kind}"), &packet.bytes)?;
        }
        fdt(name, &sent)?;
    }
    fdt("signed", &packets(WireProfile::Mabr, Some(SigningKey::from_seed(&[1; 32])), objects()))?;
    // C, S, O and H at their widest, every extension we know and two that we do not.
    let widest = b"\x1e\xff\x15\0ccccccccccccccccTSITSITOITOITOITOIxx\0\x01\xff\xff\x01\x02\0\0auth\
        \x02\x05\xf0\0timetimetimetime\x80\xff\xff\xff\x7f\x01\xff\xff\xc1\x03\0\0\0\x07\0\x08some";
    write("lct_alc", "widest", widest)?;
    write("lct_alc", "close-session", b"\x10\x82\x03\0\0\0\0\0\0\x01\0\x01")?;
    Ok(())
}

/// The last FDT Instance of a session, out of its packets.
fn fdt(name: &str, sent: &[Datagram]) -> anyhow::Result<()> {
    let mut xml = Vec::new();
    for packet in sent {
        let Ok(alc) = AlcPacket::parse(&packet.bytes) else { continue };
        if alc.toi == Some(Toi::FDT) {
            if alc.payload_id.is_some_and(|id| id.esi.0 == 0 && id.sbn.0 == 0) {
                xml.clear();
            }
            xml.extend_from_slice(alc.payload);
        }
    }
    write("fdt", name, &xml)
}

fn by_hand() -> anyhow::Result<()> {
    let three_gpp = r#"<?xml version="1.0" encoding="UTF-8"?>
<FDT-Instance xmlns="urn:IETF:metadata:2005:FLUTE:FDT" xmlns:mbms2012="urn:3GPP:metadata:2012:MBMS:FLUTE:FDT" Expires="4294944000" Content-Type="video/mp4" FEC-OTI-FEC-Encoding-ID="0" FEC-OTI-Maximum-Source-Block-Length="64" FEC-OTI-Encoding-Symbol-Length="1416">
<mbms2012:Base-URL-1>http://h/&amp;&#33;</mbms2012:Base-URL-1><!-- c -->
<File TOI="18446744073709551617" Content-Location='a"b#5321' Content-Length="6100" Content-MD5="es7dGoSkz8tuehYAMkKUXg==" mbms2012:File-ETag="&quot;e&quot;"><x/></File>
<File TOI="2" Content-Location="live.mpd?isLast#0" Content-Encoding="gzip"/></FDT-Instance>"#;
    write("fdt", "3gpp", three_gpp.as_bytes())?;
    let rfc_6726 = "\u{feff}<f:FDT-Instance xmlns:f=\"urn:ietf:params:xml:ns:fdt\" Expires=\"3331472407\" Complete=\"1\">\
        <f:File TOI=\"1339\" Content-Location=\"http://h/a%20b\" Transfer-Length=\"1000000\" FEC-OTI-FEC-Encoding-ID=\"6\" \
        FEC-OTI-Encoding-Symbol-Length=\"1400\" FEC-OTI-Scheme-Specific-Info=\"AgABBA==\"/></f:FDT-Instance>";
    write("fdt", "rfc6726", rfc_6726.as_bytes())?;
    let ranges = [
        "bytes=0-",
        "bytes=0-0",
        "bytes=-500",
        "bytes=500-999",
        "bytes=9-5",
        "bytes=0-1,5-9",
        "bytes = 1 - 2",
        "bytes=18446744073709551615-",
        "bytes=-18446744073709551616",
        "BYTES=0-99",
        "items=0-1",
        "bytes=-",
        "bytes=",
    ];
    for (i, value) in ranges.iter().enumerate() {
        write("range", &format!("{i:02}"), &[&1000u64.to_be_bytes(), value.as_bytes()].concat())?;
    }
    Ok(())
}

fn repair() -> anyhow::Result<()> {
    let lack = |toi, blocks| ObjectLack { tsi: 1, toi, blocks };
    let reception = Reception {
        tsi: 1,
        period_ms: 10_000,
        packets: 9000,
        source: 8000,
        repair: 900,
        expected: 8100,
        lost: 100,
        recovered: 99,
        bytes: [("multicast".to_owned(), 10_000_000)].into(),
        runs: vec![40, 12, 3],
        join_ms: Some(12),
        layer_2: true,
    };
    let lacks = vec![lack(1, vec![(0, 3), (1, 1)]), lack(2, vec![(0, 1)])];
    let one = Report { receiver: 1, sample: 1.0, lacks, reception: Vec::new() };
    let reports = [
        one.clone(),
        Report { receiver: 2, sample: 0.25, ..one.clone() },
        Report { lacks: Vec::new(), reception: vec![reception], ..one },
    ];
    write("repair_report", "three", &reports.map(|r| r.to_json()).join(&b'\n'))?;
    let answer =
        Answer { wait_ms: Some(120), sample: 0.5, period_ms: 10_000, refused: vec!["1/2: no".into()] };
    write("repair_answer", "wait", &answer.to_json())?;
    write("repair_answer", "ask", br#"{"sample":1,"period_ms":10000}"#)?;
    let asks = [
        ("block", "tsi=1&toi=1&sbn=0&from=8388608&count=9\nbytes=0-99"),
        // K' counts from above K: the library had no room for the last of them.
        ("last", "tsi=1&toi=1&sbn=0&from=16776191&count=1\nbytes=-5"),
        ("beyond", "tsi=1&toi=1&sbn=0&from=16777215&count=1\nbytes=19999-"),
    ];
    asks.into_iter().try_for_each(|(name, ask)| write("repair_request", name, ask.as_bytes()))
}

fn descriptions() -> anyhow::Result<()> {
    let text = r#"{
  "signature": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
  "mahp": 1, "session": "0123456789abcdef", "name": "test", "issued": 1790000000, "expires": 1790003600,
  "public_key": "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",
  "announcement": {"source": "192.0.2.1", "group": "232.1.1.1", "port": 5000, "tsi": 0},
  "channels": [{"name": "news", "title": "News", "format": "hls", "live": true,
    "manifest_url": "https://cdn.example/a/b/index.m3u8", "prefixes": ["https://cdn.example/a/b/"],
    "token_parameters": ["tok"], "target_duration_ms": 2000, "renditions": [{"id": "v1", "role": "video",
    "bitrate_bps": 3000000, "playlist_url": "https://cdn.example/a/b/v1.m3u8", "url_patterns": [], "flow": {
    "source": "192.0.2.1", "group": "232.1.1.2", "port": 5000, "tsi": 10,
    "repair": {"source": "192.0.2.1", "group": "232.1.1.2", "port": 5001, "tsi": 11},
    "profile": "mabr", "symbol_size": 1344, "repair_percent": 15, "rate_bps": 5000000}}]}]
}"#;
    write("description", "one-channel.json", text.as_bytes())?;
    let v6 = text.replace("192.0.2.1", "2001:db8::1").replace("232.1.1.", "ff3e::8000:");
    write("description", "ipv6.json", v6.as_bytes())?;
    let mut description: mahp_common::catalog::SessionDescription = serde_json::from_str(text)?;
    let key = SigningKey::from_seed(&[1; 32]);
    description.public_key = key.verifying_key().to_base64();
    description.validate()?;
    write("description", "signed.json", &description.seal(&key)?)
}

fn manifests() -> anyhow::Result<()> {
    // Most seeds of these two are the manifests of the rewriters' own tests.
    let playlist = "#EXTM3U\n#EXT-X-DEFINE:NAME=\"h\",VALUE=\"https://cdn.example\"\n#EXT-X-TARGETDURATION:2\n\
        #EXT-X-KEY:METHOD=AES-128,URI=\"{$h}/k\"\n#EXTINF:2,\nseg.ts\n#EXT-X-BYTERANGE:5@9\n#EXTINF:2,\n//cdn.example/x\n";
    write("m3u8_rewrite", "small.m3u8", playlist.as_bytes())?;
    let mpd = "<MPD type=\"dynamic\" availabilityStartTime=\"2026-01-01T00:00:00Z\"><BaseURL>https://cdn.example/a/b/</BaseURL>\
        <Period><AdaptationSet><SegmentTemplate media=\"$RepresentationID$/$Time%09d$.m4s\" initialization=\"i.mp4\" \
        timescale=\"90000\"><SegmentTimeline><S t=\"0\" d=\"180000\" r=\"-1\"/></SegmentTimeline></SegmentTemplate>\
        <Representation id=\"v\" bandwidth=\"1\"/></AdaptationSet></Period>\
        <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\" value=\"https://t.example/\"/></MPD>";
    write("mpd_rewrite", "small.mpd", mpd.as_bytes())
}

fn moq() -> anyhow::Result<()> {
    let track = TrackName::new(Namespace::new(["mahp", "news"]), "v0");
    let range = LocationRange::objects(1_790_000, (1 << 24) + (1 << 22), 17);
    let params = Params {
        filter: Some(Filter::From(Location::new(5, 1))),
        rendezvous_timeout: Some(5000),
        largest: Some(Location::new(4, 0)),
        forward: Some(true),
        ..Params::default()
    };
    let properties = Bytes::from_static(&[0x0e, 0x20]);
    let options =
        SetupOptions { path: Some("/".into()), authority: Some("h:443".into()), implementation: None };
    let messages = [
        Message::Setup(options),
        Message::Subscribe { id: 0, track: track.clone(), params: params.clone() },
        Message::SubscribeOk { alias: 1, params: params.clone(), properties },
        Message::Fetch {
            id: 2,
            kind: FetchKind::Standalone(track.clone(), range),
            params: Params::default(),
        },
        Message::FetchOk { end_of_track: true, end: range.end, params, properties: Bytes::new() },
        Message::PublishNamespace { id: 4, namespace: track.namespace, params: Params::default() },
        Message::PublishDone { status: 5, streams: 3, reason: "reads too slowly".into() },
        Message::RequestError { code: 9, retry_after_ms: Some(500), reason: "many ask".into() },
    ];
    let mut stream = vec![0];
    for message in messages {
        stream.extend(message.encode()?);
    }
    write("moq_wire", "messages", &stream)?;
    let header = SubgroupHeader {
        alias: 1,
        group: 9,
        subgroup: Some(2),
        priority: Some(3),
        properties: true,
        end_of_group: true,
    };
    let mut stream = [vec![1], header.encode()].concat();
    let mut prior = None;
    for object in [0, 1, 7] {
        let fields = SubgroupObject { object, properties: Bytes::from_static(&[0x3a, 1]), len: 0, status: 0 };
        stream.extend(fields.encode(&header, prior));
        prior = Some(object);
    }
    write("moq_wire", "subgroup", &stream)?;
    let mut encoder = FetchEncoder::default();
    let mut stream = vec![2];
    for (group, object) in [(1, 0), (1, 1), (2, 5), (2, 9)] {
        stream.extend(encoder.encode(Location::new(group, object), 0, 128, &[], 0));
    }
    write("moq_wire", "fetch", &stream)
}

/// The channel of the seed of `description`, as a catalog; and a signed record, which is an FDT Instance with one file.
fn moq_contents() -> anyhow::Result<()> {
    let seeds = Target::named("description").map(|t| t.corpus_dir().join("signed.json"));
    let text = std::fs::read(seeds.unwrap_or_default())?;
    let description: mahp_common::catalog::SessionDescription = serde_json::from_slice(&text)?;
    let channel = description.channels.first().ok_or_else(|| anyhow::anyhow!("no channel"))?;
    write("moq_catalog", "one-channel.json", &Catalog::of(channel, &description.public_key, 1).to_json())?;
    let file = FdtFile {
        toi: Toi(1),
        meta: objects().remove(0).meta,
        content_encoding: None,
        oti: Some(source_oti(200, 64)),
        repair_oti: None,
        content_md5: None,
        content_digest: None,
    };
    let record = manifest::seal(file, Tsi(1), 3, 4_000_000_000, &SigningKey::from_seed(&[1; 32]))?;
    write("moq_record", "signed", &record)
}

fn main() -> anyhow::Result<()> {
    wire()?;
    moq()?;
    by_hand()?;
    repair()?;
    descriptions()?;
    moq_contents()?;
    manifests()
}
