//! The session description in forms that other people's software reads: a DVB-MABR gateway configuration
//! (ETSI TS 103 769 V1.2.1 clause 10) and SDP (RFC 8866 with the FLUTE attributes of 3GPP TS 26.346 clause 7.3).
//!
//! Both say less than the description: neither has keys, patterns of URLs or validity of single flows.

use crate::catalog::{Channel, Endpoint, Flow, Format, Rendition, Role, SessionDescription, WireProfile};
use crate::manifest::datetime;
use crate::time::NTP_UNIX_OFFSET;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use std::net::IpAddr;
use url::Url;

const NAMESPACE: &str = "urn:dvb:metadata:MulticastSessionConfiguration:2024";
const INSTANCE_NAMESPACE: &str = "http://www.w3.org/2001/XMLSchema-instance";
const FLUTE: &str = "urn:dvb:metadata:cs:MulticastTransportProtocolCS:2019:FLUTE";
const RAPTORQ: &str = "urn:ietf:rmt:fec:encoding:6";
/// `@manifestId`; each session has one manifest.
const MANIFEST_ID: &str = "manifest";
/// Silence after which a gateway may leave, at least (milliseconds).
const IDLE_TIMEOUT_MIN_MS: u64 = 10_000;
/// LCT header, FEC Payload ID and extensions before a symbol, roughly.
const HEADER_BYTES: u128 = 32;

/// A `MulticastGatewayConfiguration` with one `MulticastSession` per channel and one `MulticastTransportSession` per
/// rendition.
///
/// DASH components are written as generic ones: the description does not name Periods and AdaptationSets.
pub fn dvb_mabr_xml(description: &SessionDescription) -> String {
    let mut xml = Xml { writer: Writer::new_with_indent(Vec::new(), b' ', 2) };
    xml.event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    let valid_until = datetime::format_date_time(description.expires);
    let attributes = [
        ("xmlns", NAMESPACE),
        ("xmlns:xsi", INSTANCE_NAMESPACE),
        ("schemaVersion", "2"),
        ("validUntil", &valid_until),
    ];
    xml.element("MulticastGatewayConfiguration", &attributes, |xml| {
        for channel in &description.channels {
            multicast_session(xml, channel);
        }
    });
    xml.finish()
}

fn multicast_session(xml: &mut Xml, channel: &Channel) {
    let identifier = format!("urn:mahp:channel:{}", channel.name);
    xml.element("MulticastSession", &[("serviceIdentifier", &identifier)], |xml| {
        let content_type = match channel.format {
            Format::Hls => "application/vnd.apple.mpegURL",
            Format::Dash => "application/dash+xml",
        };
        let mut attributes = vec![("manifestId", MANIFEST_ID), ("contentType", content_type)];
        if channel.renditions.iter().any(|r| r.role == Role::Manifest) {
            attributes.push(("transportObjectURI", &channel.manifest_url));
        }
        let pattern = path_pattern(&channel.manifest_url);
        if let Some(pattern) = &pattern {
            attributes.push(("contentPlaybackPathPattern", pattern));
        }
        xml.text_element("PresentationManifestLocator", &attributes, &channel.manifest_url);
        for (index, rendition) in channel.renditions.iter().enumerate() {
            transport_session(xml, channel, index, rendition);
        }
    });
}

/// The manifest's path with the pattern's own characters escaped by `$` (clause 10.2.2.2).
fn path_pattern(manifest_url: &str) -> Option<String> {
    let url = Url::parse(manifest_url).ok()?;
    let mut pattern = String::new();
    for c in url.path().chars() {
        if matches!(c, '$' | '*' | '?') {
            pattern.push('$');
        }
        pattern.push(c);
    }
    Some(pattern)
}

fn transport_session(xml: &mut Xml, channel: &Channel, index: usize, rendition: &Rendition) {
    let id = name_token(&rendition.id, index);
    let idle = channel.target_duration_ms.saturating_mul(3).max(IDLE_TIMEOUT_MIN_MS).to_string();
    let attributes = [
        ("id", id.as_str()),
        ("transmissionMode", "resource"),
        ("transportSecurity", "none"),
        ("sessionIdleTimeout", &idle),
    ];
    let flow = &rendition.flow;
    xml.element("MulticastTransportSession", &attributes, |xml| {
        xml.empty_element("TransportProtocol", &[("protocolIdentifier", FLUTE), ("protocolVersion", "1")]);
        endpoint(xml, &flow.endpoint);
        let maximum = flow.rate_bps.max(1);
        let average = rendition.bitrate_bps.clamp(1, maximum).to_string();
        xml.empty_element("BitRate", &[("average", &average), ("maximum", &maximum.to_string())]);
        error_correction(xml, flow);
        unicast_repair(xml, channel);
        if rendition.role == Role::Manifest {
            xml.element("ObjectCarousel", &[], |xml| xml.empty_element("PresentationManifests", &[]));
        }
        component(xml, channel, rendition, &id);
    });
}

fn endpoint(xml: &mut Xml, endpoint: &Endpoint) {
    xml.element("EndpointAddress", &[], |xml| {
        if let Some(source) = endpoint.source {
            xml.text_element("NetworkSourceAddress", &[], &source.to_string());
        }
        xml.text_element("NetworkDestinationGroupAddress", &[], &endpoint.group.to_string());
        xml.text_element("TransportDestinationPort", &[], &endpoint.port.to_string());
        // Positive integers only.
        if endpoint.tsi.0 > 0 {
            xml.text_element("MediaTransportSessionIdentifier", &[], &endpoint.tsi.to_string());
        }
    });
}

/// Without the second repair layer: a gateway takes part in all that is named here, and the layer is for few.
fn error_correction(xml: &mut Xml, flow: &Flow) {
    let has_repair = flow.profile == WireProfile::FluteRaptorq || flow.repair.is_some();
    if !has_repair || flow.repair_percent == 0 {
        return;
    }
    xml.element("ForwardErrorCorrectionParameters", &[], |xml| {
        xml.text_element("SchemeIdentifier", &[], RAPTORQ);
        xml.text_element("OverheadPercentage", &[], &flow.repair_percent.to_string());
        if let Some(repair) = &flow.repair {
            endpoint(xml, repair);
        }
    });
}

/// Without `BaseURL` a gateway asks the origin for the object's own URL. Our repair servers name objects by TSI and TOI.
fn unicast_repair(xml: &mut Xml, channel: &Channel) {
    let patience = channel.target_duration_ms.to_string();
    let random = (channel.target_duration_ms / 4).to_string();
    let attributes =
        [("transportObjectReceptionTimeout", patience.as_str()), ("randomBackOffPeriod", random.as_str())];
    xml.empty_element("UnicastRepairParameters", &attributes);
}

fn component(xml: &mut Xml, channel: &Channel, rendition: &Rendition, id: &str) {
    let playlist = rendition.playlist_url.as_deref().filter(|_| channel.format == Format::Hls);
    let specific = match playlist {
        Some(playlist) => [("xsi:type", "HLSComponentIdentifierType"), ("mediaPlaylistLocator", playlist)],
        None => [("xsi:type", "GenericComponentIdentifierType"), ("componentIdentifier", id)],
    };
    let attributes = [specific[0], ("manifestIdRef", MANIFEST_ID), specific[1]];
    xml.empty_element("ServiceComponentIdentifier", &attributes);
}

/// An XML NameToken, unique by its number where characters had to go.
fn name_token(id: &str, index: usize) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !id.is_empty() && id.chars().all(fits) {
        return id.to_owned();
    }
    let kept: String = id.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    format!("{kept}.{index}")
}

/// An XML writer into memory, where writing cannot fail. It escapes; characters that XML cannot hold are left out.
struct Xml {
    writer: Writer<Vec<u8>>,
}

impl Xml {
    fn event(&mut self, event: Event<'_>) {
        self.writer.write_event(event).expect("a Vec takes every byte");
    }

    fn element(&mut self, name: &str, attributes: &[(&str, &str)], inside: impl FnOnce(&mut Xml)) {
        self.event(Event::Start(start(name, attributes)));
        inside(self);
        self.event(Event::End(BytesEnd::new(name)));
    }

    fn empty_element(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.event(Event::Empty(start(name, attributes)));
    }

    fn text_element(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.element(name, attributes, |xml| xml.event(Event::Text(BytesText::new(&printable(text)))));
    }

    fn finish(self) -> String {
        let mut text = String::from_utf8(self.writer.into_inner()).expect("only text was written");
        text.push('\n');
        text
    }
}

fn start<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
    let mut start = BytesStart::new(name);
    for (name, value) in attributes {
        start.push_attribute((*name, printable(value).as_str()));
    }
    start
}

/// Without control characters and noncharacters: neither XML nor a line of SDP can hold them.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
}

/// One SDP document: a media section per flow, the announcement session first. Repair flows of profile `mabr` have sections
/// of their own. `ttl` is that of the packets.
pub fn sdp(description: &SessionDescription, ttl: u8) -> String {
    let mut out = String::new();
    let first = description.announcement.or_else(|| description.flows().next().map(|(_, r)| r.flow.endpoint));
    let origin = first.map_or(IpAddr::from([0, 0, 0, 0]), origin_address);
    let session = u64::from_str_radix(&description.session, 16).unwrap_or(0);
    let name = printable(&description.name);
    let name = if name.trim().is_empty() { "MAHP" } else { name.trim() };
    let ntp = |unix: u64| unix.saturating_add(NTP_UNIX_OFFSET);
    let lines = [
        "v=0".to_owned(),
        format!("o=- {session} {} IN {} {origin}", description.issued, family(&origin)),
        format!("s={name}"),
        format!("t={} {}", ntp(description.issued), ntp(description.expires)),
        "a=FEC-declaration:0 encoding-id=0".to_owned(),
        "a=FEC-declaration:1 encoding-id=6".to_owned(),
    ];
    for line in lines {
        push_line(&mut out, &line);
    }
    if let Some(endpoint) = &description.announcement {
        media(&mut out, ttl, endpoint, "session description", None, 0);
    }
    for (channel, rendition) in description.flows() {
        let flow = &rendition.flow;
        let title = format!("{}/{}", channel.name, rendition.id);
        let source_fec = u8::from(flow.profile == WireProfile::FluteRaptorq);
        media(&mut out, ttl, &flow.endpoint, &title, Some(flow), source_fec);
        if let Some(repair) = &flow.repair {
            media(&mut out, ttl, repair, &format!("{title} repair"), Some(flow), 1);
        }
        if let Some(layer) = &flow.repair_layer_2 {
            media(&mut out, ttl, &layer.endpoint, &format!("{title} repair layer 2"), Some(flow), 1);
        }
    }
    out
}

/// A media section. `fec` refers to one of the declarations above.
fn media(out: &mut String, ttl: u8, endpoint: &Endpoint, title: &str, flow: Option<&Flow>, fec: u8) {
    push_line(out, &format!("m=application {} FLUTE/UDP 0", endpoint.port));
    push_line(out, &format!("i={}", printable(title)));
    let family = family(&endpoint.group);
    // RFC 8866 section 5.7: IPv6 has no TTL there.
    let ttl = if endpoint.group.is_ipv4() { format!("/{ttl}") } else { String::new() };
    push_line(out, &format!("c=IN {family} {}{ttl}", endpoint.group));
    if let Some(flow) = flow {
        push_line(out, &format!("b=AS:{}", kilobits_with_headers(flow, endpoint)));
    }
    if let Some(source) = endpoint.source {
        push_line(out, &format!("a=source-filter: incl IN {family} * {source}"));
    }
    push_line(out, &format!("a=flute-tsi:{}", endpoint.tsi));
    push_line(out, "a=flute-ch:1");
    push_line(out, &format!("a=FEC:{fec}"));
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push_str("\r\n");
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IP4" } else { "IP6" }
}

fn origin_address(endpoint: Endpoint) -> IpAddr {
    let unspecified = if endpoint.group.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    endpoint.source.unwrap_or(unspecified)
}

/// The declared rate counts UDP payload; b=AS counts IP and UDP headers too.
fn kilobits_with_headers(flow: &Flow, endpoint: &Endpoint) -> u64 {
    let payload = u128::from(flow.symbol_size) + HEADER_BYTES;
    let headers = if endpoint.group.is_ipv4() { 28 } else { 48 };
    let bits = u128::from(flow.rate_bps) * (payload + headers) / payload;
    u64::try_from(bits.div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
