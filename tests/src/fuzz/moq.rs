//! Targets of the MoQ crate: messages and data streams, catalogs, manifest records.

use mahp_common::Tsi;
use mahp_common::auth::SigningKey;
use mahp_common::wire::fdt::FdtInstance;
use mahp_moq::catalog::Catalog;
use mahp_moq::limits;
use mahp_moq::manifest::{self, RecordError};
use mahp_moq::wire::{FetchDecoder, Message, Reader, StreamHeader, SubgroupObject, WireError};

/// A stream of either kind. The first byte says which; a message that was read is written so that it reads the same.
pub fn wire(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let r = &mut Reader::new(bytes);
    match kind % 3 {
        0 => {
            while let Ok(message) = Message::decode(r) {
                match message.encode() {
                    Ok(written) => {
                        assert_eq!(Message::decode(&mut Reader::new(&written)).as_ref(), Ok(&message));
                    }
                    // The same in canonical form may be longer, never absent for another reason.
                    Err(e) => assert!(matches!(e, WireError::Violation { .. }), "{e}"),
                }
            }
        }
        1 => {
            let Ok(StreamHeader::Subgroup(header)) = StreamHeader::decode(r) else { return };
            let mut prior = None;
            while let Ok(object) = SubgroupObject::decode(r, &header, prior) {
                assert!(prior.is_none_or(|p| p < object.object), "object IDs grow");
                prior = Some(object.object);
            }
        }
        _ => {
            let mut decoder = FetchDecoder::new(kind & 4 != 0);
            while decoder.decode(r).is_ok() {}
        }
    }
    assert!(r.consumed() <= bytes.len());
}

/// A catalog. Flows that come out are valid, and what was read is written so that it reads the same.
pub fn catalog(data: &[u8]) {
    let Ok(catalog) = Catalog::parse(data) else { return };
    assert!(catalog.tracks.len() <= limits::CATALOG_TRACKS);
    let flows = catalog.flows().unwrap_or_default();
    assert!(flows.len() <= limits::BOUND_TRACKS);
    for (track, flow) in &flows {
        assert_eq!(flow.validate(), Ok(()));
        assert!(catalog.tracks.iter().any(|t| t.name == *track), "a flow of a track that is not there");
    }
    assert_eq!(Catalog::parse(&catalog.to_json()).as_ref(), Ok(&catalog));
}

/// A manifest record. Nothing passes that the key has not signed; what it has signed names one object, whole.
pub fn record(data: &[u8]) {
    // Not the key of the signed seed.
    let key = SigningKey::from_seed(&[2; 32]);
    assert!(manifest::open(data, Tsi(1), &key.verifying_key()).is_err(), "a forged record passed");
    let Ok(instance) = FdtInstance::parse(data) else { return };
    let Ok(signed) = instance.seal(Tsi(1), &key) else { return };
    match manifest::open(&signed, Tsi(1), &key.verifying_key()) {
        Ok(file) => {
            assert!(file.meta.digest.is_some() && (file.oti.is_some() || file.repair_oti.is_some()));
            assert_eq!(instance.files, [file]);
        }
        Err(RecordError::Files(n)) => assert_ne!(n, 1, "of {} files", instance.files.len()),
        Err(_) => {}
    }
    assert!(
        manifest::open(&signed, Tsi(2), &key.verifying_key()).is_err(),
        "a record of another flow passed"
    );
}
