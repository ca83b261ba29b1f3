//! The manifest track of a rendition: a signed record of each object that exists, before any of its symbols is needed.
//!
//! A record is an FDT Instance with one file, the same document that goes out by multicast: URL, length, BLAKE3-256 digest,
//! FEC parameters, Ed25519 signature. A receiver gives it to the same engine; nothing is parsed or believed in two ways.
//! Without it, a receiver could not know of an object of which every packet was lost.

use mahp_common::Tsi;
use mahp_common::auth::{SigningKey, VerifyingKey};
use mahp_common::wire::fdt::{FdtError, FdtFile, FdtInstance};

/// Why a record was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not an FDT Instance signed by this key for this TSI.
    #[error(transparent)]
    Fdt(#[from] FdtError),
    /// A record describes one object.
    #[error("manifest record describes {0} objects")]
    Files(usize),
    /// Without these it proves nothing.
    #[error("manifest record has no digest or no FEC parameters")]
    Incomplete,
}

/// Writes and signs the record of an object. `expires_ntp`, `session`: as in the FDT Instances of its flow.
pub fn seal(
    file: FdtFile,
    tsi: Tsi,
    session: u64,
    expires_ntp: u32,
    key: &SigningKey,
) -> Result<Vec<u8>, FdtError> {
    let session = (session != 0).then_some(session);
    FdtInstance { expires_ntp, complete: false, session, files: vec![file] }.seal(tsi, key)
}

/// Verifies and reads a record. Expiry and session are the receiving engine's to judge.
pub fn open(record: &[u8], tsi: Tsi, key: &VerifyingKey) -> Result<FdtFile, RecordError> {
    let instance = FdtInstance::open(record, tsi, key)?;
    let [file] = <[FdtFile; 1]>::try_from(instance.files).map_err(|files| RecordError::Files(files.len()))?;
    if file.meta.digest.is_none() || (file.oti.is_none() && file.repair_oti.is_none()) {
        return Err(RecordError::Incomplete);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::fec::partition::source_oti;
    use mahp_common::{Digest, ObjectMeta, Toi};
    use proptest::prelude::*;

    const TSI: Tsi = Tsi(7);

    fn file(toi: u128) -> FdtFile {
        let meta = ObjectMeta {
            url: format!("http://origin/v0/{toi}.m4s"),
            length: 9,
            digest: Some(Digest::of(b"123456789")),
            ..ObjectMeta::default()
        };
        FdtFile {
            toi: Toi(toi),
            meta,
            content_encoding: None,
            oti: Some(source_oti(9, 1344)),
            repair_oti: None,
            content_md5: None,
            content_digest: None,
        }
    }

    fn record(toi: u128, key: &SigningKey) -> Vec<u8> {
        seal(file(toi), TSI, 5, 4_000_000_000, key).unwrap()
    }

    #[test]
    fn forged_and_foreign_records_are_refused() {
        let key = SigningKey::from_seed(&[1; 32]);
        let public = key.verifying_key();
        let good = record(3, &key);
        assert_eq!(open(&good, TSI, &public), Ok(file(3)));
        assert!(matches!(open(&good, Tsi(8), &public), Err(RecordError::Fdt(_))), "of another flow");
        let other = record(3, &SigningKey::from_seed(&[2; 32]));
        assert!(matches!(open(&other, TSI, &public), Err(RecordError::Fdt(_))), "by another key");
        let mut bare = file(3);
        bare.meta.digest = None;
        let bare = seal(bare, TSI, 5, 4_000_000_000, &key).unwrap();
        assert_eq!(open(&bare, TSI, &public), Err(RecordError::Incomplete));
        for n in [0, 2, 3] {
            let files = (1..=n as u128).map(file).collect();
            let several =
                FdtInstance { expires_ntp: 4_000_000_000, complete: false, session: Some(5), files };
            let several = several.seal(TSI, &key).unwrap();
            assert_eq!(open(&several, TSI, &public), Err(RecordError::Files(n)));
        }
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_refused(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let key = SigningKey::from_seed(&[1; 32]);
            let mut bytes = record(3, &key);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(open(&bytes, TSI, &key.verifying_key()).is_err());
        }
    }
}
