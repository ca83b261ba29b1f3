//! FDT Instances (RFC 6726 section 3.4.2): XML in the deployed 3GPP/DVB form out; RFC 3926 and RFC 6726 forms in.

mod read;
#[cfg(test)]
mod tests;
mod write;

use super::fti::Oti;
use crate::auth::{self, Context, SealError, SigningKey, VerifyingKey};
use crate::drop::DropReason;
use crate::ids::{Toi, Tsi};
use crate::limits;
use crate::object::ObjectMeta;

/// XML namespace of our own attributes. They are known by the prefix `mahp` itself, as the signature is.
pub const MAHP_NAMESPACE: &str = "urn:mahp:fdt:1";

/// One FDT Instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FdtInstance {
    /// `Expires`: upper 32 bits of NTP time.
    pub expires_ntp: u32,
    /// `Complete`: no more files will be described.
    pub complete: bool,
    /// `mahp:Session`: identity of the sender's run. Foreign senders have none.
    pub session: Option<u64>,
    /// The files.
    pub files: Vec<FdtFile>,
}

/// One `File` element.
#[derive(Clone, Debug, PartialEq)]
pub struct FdtFile {
    /// `TOI`.
    pub toi: Toi,
    /// Content-Location, Content-Length, Content-Type and what our namespace adds. `meta.length` is Transfer-Length
    /// (falls back to Content-Length; 0 together with no OTI where neither is there: a growing object). With
    /// `meta.range`, Content-Location ends in `#bytes=FIRST-LAST` on the wire, so that foreign receivers see distinct names.
    pub meta: ObjectMeta,
    /// `Content-Encoding` of the file (we never send it: bodies are carried decoded).
    pub content_encoding: Option<String>,
    /// `FEC-OTI-*` of the file or inherited from the instance: how the source flow cuts it. `None`: growing object or
    /// OTI only in EXT_FTI.
    pub oti: Option<Oti>,
    /// `mahp:Repair-OTI`: how the repair flow of profile `mabr` cuts it.
    pub repair_oti: Option<Oti>,
    /// `Content-MD5`, base64, as read.
    pub content_md5: Option<String>,
    /// DVB `Content-Digest` (`sha-256=:BASE64:`), as read.
    pub content_digest: Option<String>,
}

/// Why an FDT Instance was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FdtError {
    /// A bound of [`crate::limits`] was passed.
    #[error("FDT Instance exceeds the limit of {0}")]
    Limit(&'static str),
    /// Not well-formed XML, or with a DOCTYPE or entity of its own.
    #[error("FDT Instance is not well-formed: {0}")]
    Xml(String),
    /// A required attribute is missing or unreadable.
    #[error("FDT Instance: attribute {0} is missing or unreadable")]
    Attribute(&'static str),
    /// Signature missing or wrong.
    #[error("FDT Instance: {0}")]
    Seal(#[from] SealError),
}

/// Whether receivers take an FDT Instance with this object: its URL must not be too long.
pub fn can_describe(meta: &ObjectMeta) -> bool {
    write::location_fits(meta)
}

impl FdtError {
    /// The counter.
    pub const fn reason(&self) -> DropReason {
        match self {
            FdtError::Seal(SealError::Unsigned) => DropReason::UnsignedFdt,
            FdtError::Seal(_) => DropReason::BadFdtSignature,
            _ => DropReason::BadFdt,
        }
    }
}

impl FdtInstance {
    /// Reads XML, namespace-tolerant: elements and attributes go by local name (RFC 3926, RFC 6726, 3GPP, none), ours by
    /// the prefix `mahp`. Instance-level `Content-Type`, `Content-Encoding` and `FEC-OTI-*` are defaults of every file.
    ///
    /// An OTI is read as it stands: [`crate::fec::Blocks::of`] checks it.
    ///
    /// # Errors
    /// Not well-formed, with a DOCTYPE or an entity of its own, without what it must have, or beyond [`crate::limits`].
    pub fn parse(xml: &[u8]) -> Result<FdtInstance, FdtError> {
        read::instance(xml)
    }

    /// Writes XML in the 3GPP/DVB form (namespace `urn:IETF:metadata:2005:FLUTE:FDT`), unsigned.
    ///
    /// Times and durations are cut to milliseconds, control characters (which no URL or header field has) become spaces,
    /// optional values longer than [`crate::limits::FDT_VALUE_BYTES`] are left out.
    pub fn to_xml(&self) -> Vec<u8> {
        write::instance(self, None)
    }

    /// Writes and signs: attribute `mahp:Signature` on the root element (see [`crate::auth`]).
    ///
    /// # Errors
    /// A URL or a number of files that receivers refuse.
    pub fn seal(&self, tsi: Tsi, key: &SigningKey) -> Result<Vec<u8>, FdtError> {
        if self.files.len() > limits::FDT_FILES {
            return Err(FdtError::Limit("files"));
        }
        let xml = write::instance(self, Some(auth::EMPTY_SIGNATURE));
        if xml.len() > limits::FDT_BYTES {
            return Err(FdtError::Limit("bytes"));
        }
        if self.files.iter().any(|file| !can_describe(&file.meta)) {
            return Err(FdtError::Limit("Content-Location"));
        }
        Ok(auth::seal(Context::Fdt(tsi), xml, key)?)
    }

    /// Verifies the signature over `xml`, then reads it.
    ///
    /// # Errors
    /// Too large, unsigned, signed by another key or for another session, or as [`FdtInstance::parse`].
    pub fn open(xml: &[u8], tsi: Tsi, key: &VerifyingKey) -> Result<FdtInstance, FdtError> {
        if xml.len() > limits::FDT_BYTES {
            return Err(FdtError::Limit("bytes"));
        }
        auth::open(Context::Fdt(tsi), xml, key)?;
        FdtInstance::parse(xml)
    }
}
