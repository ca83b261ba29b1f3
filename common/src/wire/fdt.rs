//! FDT Instances (RFC 6726 section 3.4.2): XML in the deployed 3GPP/DVB form out; RFC 3926 and RFC 6726 forms in.

use super::fti::Oti;
use crate::auth::{SealError, SigningKey, VerifyingKey};
use crate::ids::{Toi, Tsi};
use crate::object::ObjectMeta;

/// XML namespace of our own attributes, prefix `mahp`.
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
    /// (falls back to Content-Length).
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

impl FdtInstance {
    /// Reads XML, namespace-tolerant (RFC 3926, RFC 6726, 3GPP, none).
    pub fn parse(xml: &[u8]) -> Result<FdtInstance, FdtError> {
        let _ = xml;
        todo!("helper wire")
    }

    /// Writes XML in the 3GPP/DVB form (namespace `urn:IETF:metadata:2005:FLUTE:FDT`), unsigned.
    pub fn to_xml(&self) -> Vec<u8> {
        todo!("helper wire")
    }

    /// Writes and signs: attribute `mahp:Signature` on the root element (see [`crate::auth`]).
    pub fn seal(&self, tsi: Tsi, key: &SigningKey) -> Result<Vec<u8>, FdtError> {
        let _ = (tsi, key);
        todo!("helper wire")
    }

    /// Verifies the signature over `xml`, then reads it.
    pub fn open(xml: &[u8], tsi: Tsi, key: &VerifyingKey) -> Result<FdtInstance, FdtError> {
        let _ = (xml, tsi, key);
        todo!("helper wire")
    }
}
