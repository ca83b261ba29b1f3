//! The session description: built, sealed, renewed; published over HTTP and in band.

use crate::plan::Plan;
use crate::sink::{Item, ObjectSink};
use bytes::Bytes;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Flow, IN_BAND_LOCATION, RepairServer, SessionDescription, WireProfile};
use mahp_common::export;
use mahp_common::session::send::SendConfig;
use mahp_common::{Digest, Object, ObjectKind, ObjectMeta, Tsi, WallTime};
use mahp_runtime::error::StartupError;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Validity of a description from its issue.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A new one is issued this often, so that a receiver never holds one that is nearly over.
pub const RENEWAL: Duration = Duration::from_secs(3600);
/// In band it is sent this often, when it is small.
const IN_BAND_PAUSE: Duration = Duration::from_secs(1);
/// Most that the announcement session may take on average, bit/s.
const IN_BAND_BPS: u64 = 200_000;
/// Pacing rate of the announcement session.
const IN_BAND_RATE_BPS: u64 = 1_000_000;

/// One issue, in all forms.
#[derive(Clone, Debug)]
pub struct Published {
    /// `session.json`: signed, byte for byte as in band.
    pub json: Bytes,
    /// `session.xml`: DVB-MABR gateway configuration.
    pub xml: Bytes,
    /// `session.sdp`.
    pub sdp: Bytes,
    /// Strong validator of this issue.
    pub etag: String,
}

/// Issues descriptions.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// What does not change: everything but the times.
    pub description: SessionDescription,
    /// Signs.
    pub key: SigningKey,
    /// The same for every channel.
    pub offer: Offer,
}

/// What receivers are told besides the plan: repair, standby, how far packets go.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Repair servers.
    pub servers: Vec<RepairServer>,
    /// Where reports go.
    pub report_url: Option<String>,
    /// Other senders of the same channels.
    pub standby: Vec<IpAddr>,
    /// The MoQ publisher.
    pub moq_url: Option<String>,
    /// TTL of the packets, for SDP.
    pub ttl: u8,
}

impl Issuer {
    /// An issuer for this plan.
    pub fn new(plan: &Plan, name: &str, session: u64, key: SigningKey, offer: Offer) -> Issuer {
        let description = SessionDescription {
            mahp: 1,
            session: format!("{session:016x}"),
            name: name.to_owned(),
            issued: 0,
            expires: 0,
            public_key: key.verifying_key().to_base64(),
            announcement: Some(plan.announcement),
            channels: plan.channels.iter().map(|p| p.channel.clone()).collect(),
        };
        Issuer { description, key, offer }
    }

    /// The description as of `now`.
    ///
    /// # Errors
    /// `E-CONFIG` when the plan makes no valid description (too many channels or renditions).
    pub fn issue(&self, now: WallTime) -> Result<Published, StartupError> {
        let mut description = self.description.clone();
        description.issued = now.unix_secs();
        description.expires = now.unix_secs() + LIFETIME.as_secs();
        for channel in &mut description.channels {
            channel.repair_servers.clone_from(&self.offer.servers);
            channel.report_url.clone_from(&self.offer.report_url);
            channel.standby_sources.clone_from(&self.offer.standby);
            channel.moq_url.clone_from(&self.offer.moq_url);
        }
        let refused = |e: mahp_common::catalog::DescriptionError| {
            StartupError::usage(
                "E-CONFIG",
                format!("these channels cannot be described: {e}"),
                "carry fewer channels, or fewer renditions (--renditions)",
            )
        };
        description.validate().map_err(refused)?;
        let json: Bytes = description.seal(&self.key).map_err(refused)?.into();
        let etag = format!("\"{}\"", &Digest::of(&json).to_hex()[..32]);
        let (xml, sdp) = (export::dvb_mabr_xml(&description), export::sdp(&description, self.offer.ttl));
        Ok(Published { etag, json, xml: xml.into(), sdp: sdp.into() })
    }
}

/// Puts the current description into the announcement session about once per second, until dropped.
pub async fn carry(sink: Arc<dyn ObjectSink>, current: watch::Receiver<Arc<Published>>) {
    loop {
        let json = current.borrow().json.clone();
        let pause = IN_BAND_PAUSE.max(Duration::from_millis(json.len() as u64 * 8000 / IN_BAND_BPS));
        let meta = ObjectMeta {
            url: IN_BAND_LOCATION.into(),
            kind: ObjectKind::Other,
            content_type: Some("application/json".into()),
            ..ObjectMeta::default()
        };
        sink.put(Item::repeat(Object::new(meta, json))).await;
        sleep(pause).await;
    }
}

/// Parameters of the announcement session: plain symbols, no repair (it comes round again).
pub fn announcement(plan: &Plan, session: u64, first_toi: u32, key: SigningKey) -> (Flow, SendConfig) {
    let flow = Flow {
        endpoint: plan.announcement,
        repair: None,
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: mahp_common::limits::SYMBOL_SIZE_DEFAULT,
        repair_percent: 0,
        rate_bps: IN_BAND_RATE_BPS,
    };
    let config = SendConfig {
        repair_percent: 0,
        repair_flow: false,
        session,
        first_toi,
        key: Some(key),
        fdt_window: 1,
        ..SendConfig::new(WireProfile::Mabr, flow.endpoint.tsi, Tsi(0), IN_BAND_RATE_BPS)
    };
    (flow, config)
}
