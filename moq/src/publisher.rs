//! A sender's channel: its tracks, and the key that signs the records.

use crate::channel::{ChannelTracks, Shelf, Windows};
use crate::manifest;
use crate::wire::Namespace;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Flow, WireProfile};
use mahp_common::fec::partition::{raptorq_oti, source_oti};
use mahp_common::wire::fdt::FdtFile;
use mahp_common::{Object, Toi, WallTime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// First field of the namespace; the second is the channel's name.
pub const NAMESPACE: &str = "mahp";
/// Validity of a manifest record.
const RECORD_LIFETIME: Duration = Duration::from_secs(3600);

/// The namespace of a channel.
pub fn namespace(channel: &str) -> Namespace {
    Namespace::new([NAMESPACE.to_owned(), channel.to_owned()])
}

/// See the module.
#[derive(Debug)]
pub struct ChannelPublisher {
    tracks: Arc<ChannelTracks>,
    flows: BTreeMap<String, Flow>,
    key: SigningKey,
    session: u64,
}

impl ChannelPublisher {
    /// A channel without objects. `session`: identity of the sender's run. `windows`, `shelves`: as of [`ChannelTracks::new`].
    pub fn new(
        channel: &Channel,
        key: SigningKey,
        session: u64,
        windows: &Windows,
        shelves: Vec<Arc<dyn Shelf>>,
        wall: WallTime,
    ) -> ChannelPublisher {
        let public = key.verifying_key().to_base64();
        let tracks = Arc::new(ChannelTracks::new(channel, &public, windows, shelves, wall));
        let flows = channel.renditions.iter().map(|r| (r.id.clone(), r.flow.clone())).collect();
        ChannelPublisher { tracks, flows, key, session }
    }

    /// What sessions are served from.
    pub fn tracks(&self) -> Arc<ChannelTracks> {
        self.tracks.clone()
    }

    /// Publishes an object that is being sent as `toi`, with its record. An object of an unknown rendition is left out.
    pub fn publish(&self, rendition: &str, toi: Toi, object: &Object, wall: WallTime) {
        let Some(flow) = self.flows.get(rendition) else { return };
        let length = object.data.len() as u64;
        let source = source_oti(length, flow.symbol_size);
        let (oti, repair_oti) = match (flow.profile, raptorq_oti(length, flow.symbol_size)) {
            (WireProfile::FluteRaptorq, Some(raptorq)) => (raptorq, None),
            (_, raptorq) => (source, raptorq),
        };
        let file = FdtFile {
            toi,
            meta: object.meta.clone(),
            content_encoding: None,
            oti: Some(oti),
            repair_oti,
            content_md5: None,
            content_digest: None,
        };
        let expires = (wall + RECORD_LIFETIME).ntp_secs();
        let record = manifest::seal(file, flow.endpoint.tsi, self.session, expires, &self.key);
        let Ok(record) = record else { return };
        self.tracks.publish(rendition, toi, &object.meta, record.into(), object.data.clone());
    }
}
