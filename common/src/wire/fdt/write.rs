//! Writing FDT Instances.

use super::{FdtFile, FdtInstance, MAHP_NAMESPACE};
use crate::limits;
use crate::object::{ByteRange, ObjectMeta};
use crate::wire::fti::{FecScheme, Oti};
use std::fmt::{Display, Write as _};
use std::time::Duration;

/// Namespace of RFC 3926, which 3GPP and DVB kept: every deployed receiver takes it, some refuse RFC 6726's.
const FLUTE_NAMESPACE: &str = "urn:IETF:metadata:2005:FLUTE:FDT";
/// Namespace of `Content-Digest` (TS 103 769 F.2.5).
const DVB_NAMESPACE: &str = "urn:dvb:metadata:ExtendedFileDeliveryTable:2022";

/// Appends attributes to an XML document. Values are escaped; optional ones that are too long are left out.
struct Xml(String);

impl Xml {
    fn required(&mut self, name: &str, value: impl Display) {
        self.0.push(' ');
        self.0.push_str(name);
        self.0.push_str("=\"");
        escape_into(&mut self.0, &value.to_string());
        self.0.push('"');
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) {
        let Some(value) = value else { return };
        let before = self.0.len();
        self.required(name, value);
        if self.0.len() - before > limits::FDT_VALUE_BYTES {
            self.0.truncate(before);
        }
    }

    /// A header field of the origin.
    fn header(&mut self, name: &str, value: Option<&String>) {
        self.optional(name, value.filter(|v| v.len() <= limits::FDT_HEADER_BYTES));
    }
}

/// Escapes an attribute value. Control characters and non-characters, which XML cannot carry, become spaces.
fn escape_into(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push(' '),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
}

/// Whether receivers take the object's Content-Location.
pub(super) fn location_fits(meta: &ObjectMeta) -> bool {
    let mut escaped = String::new();
    escape_into(&mut escaped, &location(meta));
    escaped.len() <= limits::FDT_VALUE_BYTES
}

/// The document; with `signature`, the attribute that the signature goes to, at the end of the root element.
pub(super) fn instance(instance: &FdtInstance, signature: Option<&str>) -> Vec<u8> {
    let mut xml = Xml(String::with_capacity(256 + instance.files.len() * 768));
    xml.0.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<FDT-Instance");
    xml.required("xmlns", FLUTE_NAMESPACE);
    xml.required("xmlns:mahp", MAHP_NAMESPACE);
    if instance.files.iter().any(|f| f.content_digest.is_some()) {
        xml.required("xmlns:dvb", DVB_NAMESPACE);
    }
    xml.required("Expires", instance.expires_ntp);
    if instance.complete {
        xml.required("Complete", true);
    }
    xml.optional("mahp:Session", instance.session.map(session_hex));
    xml.optional("mahp:Signature", signature);
    xml.0.push_str(">\n");
    for one in &instance.files {
        file(&mut xml, one);
    }
    xml.0.push_str("</FDT-Instance>\n");
    xml.0.into_bytes()
}

fn session_hex(session: u64) -> String {
    format!("{session:016x}")
}

fn file(xml: &mut Xml, file: &FdtFile) {
    let meta = &file.meta;
    xml.0.push_str("<File");
    xml.required("Content-Location", location(meta));
    xml.required("TOI", file.toi);
    // A growing object has neither length nor OTI yet.
    if meta.length > 0 || file.oti.is_some() {
        xml.required("Content-Length", meta.length);
        xml.required("Transfer-Length", meta.length);
    }
    xml.header("Content-Type", meta.content_type.as_ref());
    xml.optional("Content-Encoding", file.content_encoding.as_ref());
    xml.optional("Content-MD5", file.content_md5.as_ref());
    if let Some(oti) = &file.oti {
        fec_oti(xml, oti);
    }
    xml.optional("dvb:Content-Digest", file.content_digest.as_ref());
    xml.optional("mahp:Repair-OTI", file.repair_oti.and_then(|oti| oti.to_base64()));
    xml.optional("mahp:Final-URL", meta.final_url.as_ref());
    xml.optional("mahp:Range", meta.range.map(content_range));
    xml.required("mahp:Kind", meta.kind.as_str());
    xml.header("mahp:ETag", meta.etag.as_ref());
    xml.header("mahp:Last-Modified", meta.last_modified.as_ref());
    xml.header("mahp:Cache-Control", meta.cache_control.as_ref());
    xml.optional("mahp:Digest", meta.digest.map(|d| d.to_hex()));
    xml.optional("mahp:Media-Time", meta.media_time.map(millis));
    xml.optional("mahp:Duration", meta.duration.map(millis));
    xml.optional("mahp:Available-At", meta.available_at);
    xml.0.push_str("/>\n");
}

fn fec_oti(xml: &mut Xml, oti: &Oti) {
    xml.required("FEC-OTI-FEC-Encoding-ID", oti.scheme.encoding_id());
    if let FecScheme::NoCode { max_source_block_length } = oti.scheme {
        xml.required("FEC-OTI-Maximum-Source-Block-Length", max_source_block_length);
    }
    xml.required("FEC-OTI-Encoding-Symbol-Length", oti.symbol_size);
    xml.optional("FEC-OTI-Scheme-Specific-Info", oti.scheme.specific_info());
}

/// Content-Location: the URL, and which part of it.
fn location(meta: &ObjectMeta) -> String {
    let mut location = meta.url.clone();
    if let Some(range) = &meta.range {
        location.push_str(&range_suffix(range));
    }
    location
}

/// What tells the parts of one file apart in Content-Location.
pub(super) fn range_suffix(range: &ByteRange) -> String {
    format!("#bytes={}-{}", range.first, range.last)
}

/// `first-last/complete`, as in HTTP Content-Range (RFC 9110 section 14.4); an unknown length is `*`.
fn content_range(range: ByteRange) -> String {
    let mut text = format!("{}-{}/", range.first, range.last);
    match range.complete {
        Some(complete) => {
            let _ = write!(text, "{complete}"); // writing to a String cannot fail
        }
        None => text.push('*'),
    }
    text
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}
