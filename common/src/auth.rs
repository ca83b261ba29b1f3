//! Ed25519 signatures that sit inside the document they sign.
//!
//! A document (JSON description, FDT Instance XML) contains a signature field with a value of fixed length. It is signed
//! with the value set to [`EMPTY_SIGNATURE`]; verifying puts the empty value back and checks the rest byte for byte, so no
//! canonical form is needed. The signed message starts with a context, so that one kind of document cannot be taken for
//! another, nor an FDT Instance of one session for another's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::Signer as _;
use std::fmt;

/// Signature field before signing: base64 of 64 zero bytes.
pub const EMPTY_SIGNATURE: &str =
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// A session description (JSON, field `"signature": "…"`).
    Description,
    /// An FDT Instance (XML, attribute `mahp:Signature="…"`) of this TSI.
    Fdt(crate::ids::Tsi),
}

impl Context {
    /// What stands immediately before the value. Searched as bytes: it must occur exactly once in a document.
    const fn marker(self) -> &'static [u8] {
        match self {
            Context::Description => b"\"signature\": \"",
            Context::Fdt(_) => b" mahp:Signature=\"",
        }
    }

    fn prefix(self) -> Vec<u8> {
        match self {
            Context::Description => b"mahp-description-v1\0".to_vec(),
            Context::Fdt(tsi) => [b"mahp-fdt-v1\0".as_slice(), &tsi.0.to_be_bytes()].concat(),
        }
    }
}

/// Why a signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No signature field.
    #[error("it is not signed")]
    Unsigned,
    /// More than one signature field, or one of the wrong form.
    #[error("its signature field is malformed")]
    Malformed,
    /// The signature is not of this document and key.
    #[error("its signature does not verify")]
    Wrong,
    /// Not a key.
    #[error("its public key is not a base64 Ed25519 key")]
    BadKey,
}

/// The sender's secret key.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.verifying_key().to_base64())
    }
}

/// The public key a receiver pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// From base64 of 32 bytes.
    pub fn from_base64(s: &str) -> Result<VerifyingKey, SealError> {
        let bytes: [u8; 32] =
            BASE64.decode(s.trim()).ok().and_then(|v| v.try_into().ok()).ok_or(SealError::BadKey)?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes).map(VerifyingKey).map_err(|_| SealError::BadKey)
    }

    /// Base64 of 32 bytes.
    pub fn to_base64(self) -> String {
        BASE64.encode(self.0.as_bytes())
    }
}

/// Signs `document`, which must contain the field with [`EMPTY_SIGNATURE`].
pub fn seal(context: Context, mut document: Vec<u8>, key: &SigningKey) -> Result<Vec<u8>, SealError> {
    let at = signature_at(context, &document)?;
    if document.get(at..at + EMPTY_SIGNATURE.len()) != Some(EMPTY_SIGNATURE.as_bytes()) {
        return Err(SealError::Malformed);
    }
    let mut message = context.prefix();
    message.extend_from_slice(&document);
    let signature = BASE64.encode(key.0.sign(&message).to_bytes());
    document[at..at + EMPTY_SIGNATURE.len()].copy_from_slice(signature.as_bytes());
    Ok(document)
}

/// Verifies a document made by [`seal`].
pub fn open(context: Context, document: &[u8], key: &VerifyingKey) -> Result<(), SealError> {
    let at = signature_at(context, document)?;
    let value = document.get(at..at + EMPTY_SIGNATURE.len()).ok_or(SealError::Malformed)?;
    if document.get(at + EMPTY_SIGNATURE.len()) != Some(&b'"') {
        return Err(SealError::Malformed);
    }
    let signature: [u8; 64] =
        BASE64.decode(value).ok().and_then(|v| v.try_into().ok()).ok_or(SealError::Malformed)?;
    let mut message = context.prefix();
    message.extend_from_slice(&document[..at]);
    message.extend_from_slice(EMPTY_SIGNATURE.as_bytes());
    message.extend_from_slice(&document[at + EMPTY_SIGNATURE.len()..]);
    key.0
        .verify_strict(&message, &ed25519_dalek::Signature::from_bytes(&signature))
        .map_err(|_| SealError::Wrong)
}

fn signature_at(context: Context, document: &[u8]) -> Result<usize, SealError> {
    let marker = context.marker();
    let mut found = document.windows(marker.len()).enumerate().filter(|(_, w)| *w == marker);
    let at = found.next().ok_or(SealError::Unsigned)?.0 + marker.len();
    if found.next().is_some() { Err(SealError::Malformed) } else { Ok(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Tsi;

    fn doc() -> Vec<u8> {
        format!("<FDT-Instance Expires=\"1\" mahp:Signature=\"{EMPTY_SIGNATURE}\"/>").into_bytes()
    }

    #[test]
    fn sealed_document_opens_only_as_it_was() {
        let key = SigningKey::from_seed(&[7; 32]);
        let sealed = seal(Context::Fdt(Tsi(1)), doc(), &key).expect("seal");
        assert_eq!(open(Context::Fdt(Tsi(1)), &sealed, &key.verifying_key()), Ok(()));
        assert_eq!(open(Context::Fdt(Tsi(2)), &sealed, &key.verifying_key()), Err(SealError::Wrong));
        let other = SigningKey::from_seed(&[8; 32]).verifying_key();
        assert_eq!(open(Context::Fdt(Tsi(1)), &sealed, &other), Err(SealError::Wrong));
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(open(Context::Fdt(Tsi(1)), &bad, &key.verifying_key()).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_second_field_or_none_is_refused() {
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(seal(Context::Fdt(Tsi(1)), b"<x/>".to_vec(), &key), Err(SealError::Unsigned));
        let twice = [doc(), doc()].concat();
        assert_eq!(seal(Context::Fdt(Tsi(1)), twice, &key), Err(SealError::Malformed));
    }
}
