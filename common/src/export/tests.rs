use super::*;
use crate::Tsi;
use quick_xml::reader::Reader;

fn endpoint(source: Option<&str>, group: &str, port: u16, tsi: u64) -> Endpoint {
    Endpoint {
        source: source.map(|s| s.parse().unwrap()),
        group: group.parse().unwrap(),
        port,
        tsi: Tsi(tsi),
    }
}

fn rendition(id: &str, role: Role, playlist: Option<&str>, flow: Flow) -> Rendition {
    Rendition {
        id: id.into(),
        role,
        bitrate_bps: 3_000_000,
        playlist_url: playlist.map(Into::into),
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        flow,
    }
}

fn description() -> SessionDescription {
    let source = Some("192.0.2.1");
    let flow = Flow {
        endpoint: endpoint(source, "232.1.0.1", 5000, 1),
        repair: Some(endpoint(source, "232.1.0.1", 5001, 2)),
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: 1344,
        repair_percent: 15,
        rate_bps: 8_000_000,
    };
    let single = Flow {
        endpoint: endpoint(Some("2001:db8::1"), "ff3e::8000:1", 5002, 3),
        repair: None,
        profile: WireProfile::FluteRaptorq,
        ..flow.clone()
    };
    let bare = Flow { endpoint: endpoint(None, "239.0.0.1", 5003, 4), repair: None, ..flow.clone() };
    let channel = |name: &str, format, url: &str, renditions| Channel {
        name: name.into(),
        title: String::new(),
        format,
        live: true,
        manifest_url: url.into(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 4000,
        part_target_ms: None,
        renditions,
    };
    let playlist = "https://cdn.example/a/v.m3u8?a=1&b=\"2\"";
    let hls = vec![
        rendition("manifest", Role::Manifest, None, bare),
        rendition("720p", Role::Video, Some(playlist), flow),
    ];
    let dash = vec![rendition("video/1 <x>", Role::Video, None, single)];
    SessionDescription {
        mahp: 1,
        session: "00000000000000ff".into(),
        name: "News & \"more\"\r\na=evil".into(),
        issued: 1_795_362_121,
        expires: 1_795_448_521,
        public_key: String::new(),
        announcement: Some(endpoint(source, "232.1.0.1", 4999, 0)),
        channels: vec![
            channel("news", Format::Hls, "https://cdn.example/a/m$*.m3u8?a=1&b=2", hls),
            channel("film", Format::Dash, "https://cdn.example/f/m.mpd", dash),
        ],
    }
}

/// Paths of elements with their attributes, and texts, as a reader sees them.
fn read(xml: &str) -> Vec<String> {
    let mut reader = Reader::from_str(xml);
    let (mut path, mut out, mut text) = (Vec::new(), Vec::new(), String::new());
    let describe = |path: &[String], start: &BytesStart<'_>| {
        let attributes: Vec<String> = start
            .attributes()
            .map(|a| a.unwrap())
            .map(|a| format!("{}={}", a.key.into_inner(), quick_xml::escape::unescape(&a.value).unwrap()))
            .collect();
        format!("{} [{}]", path.join("/"), attributes.join(" "))
    };
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                path.push(start.local_name().into_inner().to_owned());
                out.push(describe(&path, &start));
                text.clear();
            }
            Event::Empty(start) => {
                path.push(start.local_name().into_inner().to_owned());
                out.push(describe(&path, &start));
                path.pop();
            }
            Event::End(_) => {
                if !text.trim().is_empty() {
                    out.push(format!("{} = {text}", path.join("/")));
                }
                text.clear();
                path.pop();
            }
            Event::Text(piece) => text.push_str(&piece.into_inner()),
            Event::GeneralRef(name) => {
                text.push_str(&quick_xml::escape::unescape(&format!("&{};", name.into_inner())).unwrap());
            }
            Event::Eof => {
                assert!(path.is_empty());
                return out;
            }
            _ => {}
        }
    }
}

#[test]
fn gateway_configuration() {
    let xml = dvb_mabr_xml(&description());
    assert!(xml.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<MulticastGatewayConfiguration "));
    let lines = read(&xml);
    let root = "MulticastGatewayConfiguration [xmlns=urn:dvb:metadata:MulticastSessionConfiguration:2024 \
        xmlns:xsi=http://www.w3.org/2001/XMLSchema-instance schemaVersion=2 validUntil=2026-11-23T15:42:01+00:00]";
    assert_eq!(lines[0], root);
    let session = "MulticastGatewayConfiguration/MulticastSession";
    let transport = format!("{session}/MulticastTransportSession");
    let expected = [
        format!("{session} [serviceIdentifier=urn:mahp:channel:news]"),
        format!(
            "{session}/PresentationManifestLocator [manifestId=manifest contentType=application/vnd.apple.mpegURL \
             transportObjectURI=https://cdn.example/a/m$*.m3u8?a=1&b=2 contentPlaybackPathPattern=/a/m$$$*.m3u8]"
        ),
        format!("{session}/PresentationManifestLocator = https://cdn.example/a/m$*.m3u8?a=1&b=2"),
        format!("{transport}/ObjectCarousel/PresentationManifests []"),
        format!(
            "{transport}/ServiceComponentIdentifier [xsi:type=GenericComponentIdentifierType manifestIdRef=manifest componentIdentifier=manifest]"
        ),
        format!(
            "{transport} [id=720p transmissionMode=resource transportSecurity=none sessionIdleTimeout=12000]"
        ),
        format!("{transport}/TransportProtocol [protocolIdentifier={FLUTE} protocolVersion=1]"),
        format!("{transport}/EndpointAddress/NetworkSourceAddress = 192.0.2.1"),
        format!("{transport}/EndpointAddress/NetworkDestinationGroupAddress = 232.1.0.1"),
        format!("{transport}/EndpointAddress/TransportDestinationPort = 5000"),
        format!("{transport}/EndpointAddress/MediaTransportSessionIdentifier = 1"),
        format!("{transport}/BitRate [average=3000000 maximum=8000000]"),
        format!(
            "{transport}/ForwardErrorCorrectionParameters/SchemeIdentifier = urn:ietf:rmt:fec:encoding:6"
        ),
        format!("{transport}/ForwardErrorCorrectionParameters/OverheadPercentage = 15"),
        format!(
            "{transport}/ForwardErrorCorrectionParameters/EndpointAddress/TransportDestinationPort = 5001"
        ),
        format!(
            "{transport}/UnicastRepairParameters [transportObjectReceptionTimeout=4000 randomBackOffPeriod=1000]"
        ),
        format!(
            "{transport}/ServiceComponentIdentifier [xsi:type=HLSComponentIdentifierType manifestIdRef=manifest mediaPlaylistLocator=https://cdn.example/a/v.m3u8?a=1&b=\"2\"]"
        ),
        format!("{session} [serviceIdentifier=urn:mahp:channel:film]"),
        format!(
            "{transport} [id=video_1__x_.0 transmissionMode=resource transportSecurity=none sessionIdleTimeout=12000]"
        ),
        format!("{transport}/EndpointAddress/NetworkDestinationGroupAddress = ff3e::8000:1"),
    ];
    let mut rest = lines.iter();
    for line in &expected {
        assert!(rest.any(|l| l == line), "{line}\nis missing or out of order in\n{}", lines.join("\n"));
    }
}

#[test]
fn session_description_protocol() {
    let text = sdp(&description(), 127);
    let expected = "v=0
o=- 255 1795362121 IN IP4 192.0.2.1
s=News & \"more\"a=evil
t=4004350921 4004437321
a=FEC-declaration:0 encoding-id=0
a=FEC-declaration:1 encoding-id=6
m=application 4999 FLUTE/UDP 0
i=session description
c=IN IP4 232.1.0.1/127
a=source-filter: incl IN IP4 * 192.0.2.1
a=flute-tsi:0
a=flute-ch:1
a=FEC:0
m=application 5003 FLUTE/UDP 0
i=news/manifest
c=IN IP4 239.0.0.1/127
b=AS:8163
a=flute-tsi:4
a=flute-ch:1
a=FEC:0
m=application 5000 FLUTE/UDP 0
i=news/720p
c=IN IP4 232.1.0.1/127
b=AS:8163
a=source-filter: incl IN IP4 * 192.0.2.1
a=flute-tsi:1
a=flute-ch:1
a=FEC:0
m=application 5001 FLUTE/UDP 0
i=news/720p repair
c=IN IP4 232.1.0.1/127
b=AS:8163
a=source-filter: incl IN IP4 * 192.0.2.1
a=flute-tsi:2
a=flute-ch:1
a=FEC:1
m=application 5002 FLUTE/UDP 0
i=film/video/1 <x>
c=IN IP6 ff3e::8000:1
b=AS:8280
a=source-filter: incl IN IP6 * 2001:db8::1
a=flute-tsi:3
a=flute-ch:1
a=FEC:1
";
    assert_eq!(text, expected.replace('\n', "\r\n"));
}

#[test]
fn nothing_of_an_empty_description_is_missing() {
    let empty =
        SessionDescription { announcement: None, channels: Vec::new(), name: "\n".into(), ..description() };
    assert_eq!(read(&dvb_mabr_xml(&empty)).len(), 1);
    assert!(sdp(&empty, 1).contains("o=- 255 1795362121 IN IP4 0.0.0.0\r\ns=MAHP\r\n"));
}
