//! Reading FDT Instances: hostile until proven otherwise.

use super::write::range_suffix;
use super::{FdtError, FdtFile, FdtInstance};
use crate::ids::Toi;
use crate::limits;
use crate::object::{ByteRange, Digest, ObjectKind, ObjectMeta};
use crate::wire::fti::{FecScheme, NO_CODE, Oti, RAPTORQ};
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// Largest TOI: 112 bits (RFC 5651 section 5.1).
const TOI_MAX: u128 = (1 << 112) - 1;

pub(super) fn instance(xml: &[u8]) -> Result<FdtInstance, FdtError> {
    if xml.len() > limits::FDT_BYTES {
        return Err(FdtError::Limit("bytes"));
    }
    let text = std::str::from_utf8(xml).map_err(|_| FdtError::Xml("not UTF-8".into()))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut document = Document::default();
    let mut depth = 0usize;
    loop {
        match reader.read_event().map_err(|e| xml_error(&e))? {
            Event::Start(element) => {
                document.element(depth, &element)?;
                depth += 1;
                if depth > limits::FDT_DEPTH {
                    return Err(FdtError::Limit("nesting"));
                }
            }
            // The reader refuses an end tag that does not match.
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::DocType(_) => return Err(FdtError::Xml("DOCTYPE".into())),
            Event::GeneralRef(entity) => check_entity(&entity)?,
            Event::Eof if depth > 0 => return Err(FdtError::Xml("ends within an element".into())),
            Event::Eof => break,
            _ => {}
        }
    }
    document.instance.ok_or_else(|| FdtError::Xml("no FDT-Instance element".into()))
}

fn xml_error(error: &dyn std::fmt::Display) -> FdtError {
    // Messages quote names, which may be as long as the document.
    FdtError::Xml(error.to_string().chars().take(120).collect())
}

/// Text is not used, but an entity of the document's own means that somebody is trying something.
fn check_entity(name: &str) -> Result<(), FdtError> {
    if name.starts_with('#') || quick_xml::escape::resolve_predefined_entity(name).is_some() {
        Ok(())
    } else {
        Err(FdtError::Xml("entity".into()))
    }
}

#[derive(Default)]
struct Document {
    instance: Option<FdtInstance>,
    defaults: Inherited,
}

impl Document {
    fn element(&mut self, depth: usize, element: &BytesStart<'_>) -> Result<(), FdtError> {
        match (depth, element.local_name().into_inner(), &mut self.instance) {
            (0, "FDT-Instance", None) => {
                let (instance, defaults) = root(element)?;
                self.instance = Some(instance);
                self.defaults = defaults;
            }
            (0, _, _) => return Err(FdtError::Xml("root element is not FDT-Instance".into())),
            (1, "File", Some(instance)) => {
                if instance.files.len() >= limits::FDT_FILES {
                    return Err(FdtError::Limit("files"));
                }
                instance.files.push(file(element, &self.defaults)?);
            }
            // 3GPP's Base-URL-1, Cache-Control, Group, schemaVersion, …; not used, and neither are their attributes.
            _ => {}
        }
        Ok(())
    }
}

/// Calls `take` with prefix, local name and value of each attribute but namespace declarations.
fn for_attributes(
    element: &BytesStart<'_>,
    mut take: impl FnMut(&str, &str, Cow<'_, str>) -> Result<(), FdtError>,
) -> Result<(), FdtError> {
    for (count, attribute) in element.attributes().enumerate() {
        if count >= limits::FDT_ATTRIBUTES {
            return Err(FdtError::Limit("attributes"));
        }
        let attribute = attribute.map_err(|e| xml_error(&e))?;
        if attribute.value.len() > limits::FDT_VALUE_BYTES {
            return Err(FdtError::Limit("bytes in an attribute"));
        }
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|e| xml_error(&e))?;
        let (local, prefix) = attribute.key.decompose();
        take(prefix.map_or("", |p| p.into_inner()), local.into_inner(), value)?;
    }
    Ok(())
}

/// A value to keep as text. URLs and header fields have no control characters: those would be an attack on what the
/// value is put into later. Non-characters are not XML.
fn text(name: &'static str, value: &str) -> Result<Option<String>, FdtError> {
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        Err(FdtError::Attribute(name))
    } else {
        Ok(Some(value.to_owned()))
    }
}

/// A header field of the origin. One that is too long is left out: nothing is decided by it, and all of them are kept.
fn header(name: &'static str, value: &str) -> Result<Option<String>, FdtError> {
    if value.len() > limits::FDT_HEADER_BYTES { Ok(None) } else { text(name, value) }
}

fn number<T: FromStr>(name: &'static str, value: &str) -> Result<Option<T>, FdtError> {
    value.trim().parse().map(Some).map_err(|_| FdtError::Attribute(name))
}

fn millis(name: &'static str, value: &str) -> Result<Option<Duration>, FdtError> {
    Ok(number(name, value)?.map(Duration::from_millis))
}

/// Attributes that a file inherits from its FDT Instance (RFC 6726 section 3.4.2), each on its own.
#[derive(Clone, Default)]
struct Inherited {
    content_type: Option<String>,
    content_encoding: Option<String>,
    encoding_id: Option<u8>,
    symbol_size: Option<u16>,
    max_source_block_length: Option<u32>,
    specific_info: Option<String>,
}

impl Inherited {
    fn take(&mut self, name: &str, value: &str) -> Result<(), FdtError> {
        match name {
            "Content-Type" => self.content_type = header("Content-Type", value)?,
            "Content-Encoding" => self.content_encoding = text("Content-Encoding", value)?,
            "FEC-OTI-FEC-Encoding-ID" => self.encoding_id = number("FEC-OTI-FEC-Encoding-ID", value)?,
            "FEC-OTI-Encoding-Symbol-Length" => {
                self.symbol_size = number("FEC-OTI-Encoding-Symbol-Length", value)?;
            }
            "FEC-OTI-Maximum-Source-Block-Length" => {
                self.max_source_block_length = number("FEC-OTI-Maximum-Source-Block-Length", value)?;
            }
            "FEC-OTI-Scheme-Specific-Info" => {
                self.specific_info = text("FEC-OTI-Scheme-Specific-Info", value)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The OTI, where it is complete and of a scheme that we read.
    fn oti(&self, transfer_length: Option<u64>) -> Result<Option<Oti>, FdtError> {
        let (Some(transfer_length), Some(symbol_size)) = (transfer_length, self.symbol_size) else {
            return Ok(None);
        };
        // Without an Encoding ID the codepoint decides; only ID 0 makes do with these two attributes.
        let scheme = match self.encoding_id.unwrap_or(NO_CODE) {
            NO_CODE => self.max_source_block_length.map(|b| FecScheme::NoCode { max_source_block_length: b }),
            RAPTORQ => match &self.specific_info {
                Some(info) => Some(
                    FecScheme::from_specific_info(info.trim())
                        .ok_or(FdtError::Attribute("FEC-OTI-Scheme-Specific-Info"))?,
                ),
                None => None,
            },
            _ => None,
        };
        Ok(scheme.map(|scheme| Oti { transfer_length, symbol_size, scheme }))
    }
}

fn root(element: &BytesStart<'_>) -> Result<(FdtInstance, Inherited), FdtError> {
    let mut instance = FdtInstance::default();
    let mut defaults = Inherited::default();
    let mut expires = None;
    for_attributes(element, |prefix, name, value| {
        match (prefix, name) {
            ("mahp", "Session") => instance.session = session(&value)?,
            ("mahp", _) => {}
            (_, "Expires") => expires = number("Expires", &value)?,
            (_, "Complete") => instance.complete = matches!(value.trim(), "true" | "1"),
            _ => defaults.take(name, &value)?,
        }
        Ok(())
    })?;
    instance.expires_ntp = expires.ok_or(FdtError::Attribute("Expires"))?;
    Ok((instance, defaults))
}

fn session(value: &str) -> Result<Option<u64>, FdtError> {
    match value.len() {
        16 => u64::from_str_radix(value, 16).map(Some).map_err(|_| FdtError::Attribute("mahp:Session")),
        _ => Err(FdtError::Attribute("mahp:Session")),
    }
}

/// Attributes of one `File` element as they come.
#[derive(Default)]
struct RawFile {
    location: Option<String>,
    toi: Option<u128>,
    content_length: Option<u64>,
    transfer_length: Option<u64>,
    content_md5: Option<String>,
    content_digest: Option<String>,
    repair_oti: Option<Oti>,
    file_etag: Option<String>,
    kind: Option<ObjectKind>,
    meta: ObjectMeta,
}

impl RawFile {
    fn take_standard(&mut self, name: &str, value: &str) -> Result<(), FdtError> {
        match name {
            "Content-Location" => self.location = text("Content-Location", value)?,
            "TOI" => self.toi = number("TOI", value)?,
            "Content-Length" => self.content_length = number("Content-Length", value)?,
            "Transfer-Length" => self.transfer_length = number("Transfer-Length", value)?,
            "Content-MD5" => self.content_md5 = text("Content-MD5", value)?,
            "Content-Digest" => self.content_digest = text("Content-Digest", value)?,
            "File-ETag" => self.file_etag = header("File-ETag", value)?,
            _ => {}
        }
        Ok(())
    }

    fn take_ours(&mut self, name: &str, value: &str) -> Result<(), FdtError> {
        let meta = &mut self.meta;
        match name {
            "Repair-OTI" => {
                self.repair_oti =
                    Some(Oti::from_base64(value).ok_or(FdtError::Attribute("mahp:Repair-OTI"))?);
            }
            "Final-URL" => meta.final_url = text("mahp:Final-URL", value)?,
            "Range" => meta.range = Some(content_range(value).ok_or(FdtError::Attribute("mahp:Range"))?),
            "Kind" => self.kind = Some(ObjectKind::from_word(value)),
            "ETag" => meta.etag = header("mahp:ETag", value)?,
            "Last-Modified" => meta.last_modified = header("mahp:Last-Modified", value)?,
            "Cache-Control" => meta.cache_control = header("mahp:Cache-Control", value)?,
            "Digest" => {
                meta.digest = Some(Digest::from_hex(value).ok_or(FdtError::Attribute("mahp:Digest"))?);
            }
            "Media-Time" => meta.media_time = millis("mahp:Media-Time", value)?,
            "Duration" => meta.duration = millis("mahp:Duration", value)?,
            "Available-At" => meta.available_at = number("mahp:Available-At", value)?,
            _ => {}
        }
        Ok(())
    }
}

fn file(element: &BytesStart<'_>, defaults: &Inherited) -> Result<FdtFile, FdtError> {
    let mut raw = RawFile::default();
    let mut own = defaults.clone();
    for_attributes(element, |prefix, name, value| {
        if prefix == "mahp" {
            return raw.take_ours(name, &value);
        }
        raw.take_standard(name, &value)?;
        own.take(name, &value)
    })?;
    let toi = raw.toi.filter(|t| (1..=TOI_MAX).contains(t)).ok_or(FdtError::Attribute("TOI"))?;
    let length = raw.transfer_length.or(raw.content_length);
    let oti = own.oti(length)?;
    let mut meta = raw.meta;
    meta.url = raw.location.ok_or(FdtError::Attribute("Content-Location"))?;
    meta.length = length.unwrap_or(0);
    if let Some(range) = &meta.range {
        if range.len() != meta.length {
            return Err(FdtError::Attribute("mahp:Range"));
        }
        if let Some(len) = meta.url.strip_suffix(&range_suffix(range)).map(str::len) {
            meta.url.truncate(len);
        }
    }
    meta.kind = raw.kind.unwrap_or_else(|| guess_kind(own.content_type.as_deref()));
    meta.content_type = own.content_type;
    meta.etag = meta.etag.or(raw.file_etag);
    Ok(FdtFile {
        toi: Toi(toi),
        meta,
        content_encoding: own.content_encoding,
        oti,
        repair_oti: raw.repair_oti,
        content_md5: raw.content_md5,
        content_digest: raw.content_digest,
    })
}

/// A foreign sender tells only the Content-Type.
fn guess_kind(content_type: Option<&str>) -> ObjectKind {
    match content_type.map(str::to_ascii_lowercase) {
        Some(t) if t.contains("mpegurl") || t.contains("dash+xml") => ObjectKind::Manifest,
        _ => ObjectKind::Media,
    }
}

/// Reads `first-last/complete`, `*` for an unknown complete length.
fn content_range(value: &str) -> Option<ByteRange> {
    let (range, complete) = value.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let complete: Option<u64> = if complete == "*" { None } else { Some(complete.parse().ok()?) };
    let possible = first <= last && last < complete.unwrap_or(u64::MAX);
    possible.then_some(ByteRange { first, last, complete })
}
