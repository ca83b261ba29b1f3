//! `SOURCE@GROUP:PORT`: the session description in band (TSI 0), or the flows of a foreign FLUTE sender.

use super::Trust;
use crate::config::SessionSource;
use crate::hub::{Hub, SessionId};
use bytes::Bytes;
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{
    ANNOUNCEMENT_TSI, Channel, Endpoint, Flow, Format, IN_BAND_LOCATION, Rendition, Role, SessionDescription,
    WireProfile,
};
use mahp_common::session::recv::{Command, Event, Input, Output, RecvConfig, RecvSession};
use mahp_common::wire::alc::AlcPacket;
use mahp_common::{Time, Tsi, limits};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::udp::{MulticastReceiver, ReceiveOptions};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A description in band comes within a second; after this a sender without one is a foreign one.
const FOREIGN_AFTER: Duration = Duration::from_secs(3);
/// Flows of a foreign sender.
const FOREIGN_MAX: usize = 16;
/// Between attempts to join, and after this much silence the interface is looked at.
const RETRY: Duration = Duration::from_secs(5);
/// What a foreign sender's objects are waited for, for want of a manifest that says.
const FOREIGN_TARGET_MS: u64 = 6000;

/// What [`listen`] needs.
#[derive(Clone)]
pub struct Listener {
    /// Where to put what is heard.
    pub hub: Arc<Hub>,
    /// Its handle there.
    pub session: SessionId,
    /// Which keys are acceptable.
    pub trust: Arc<Trust>,
    /// The clock.
    pub clock: Clock,
    /// `--interface`.
    pub interface: Option<String>,
    /// `--insecure`.
    pub insecure: bool,
}

/// Listens until dropped.
pub async fn listen(listener: Listener, source: Option<IpAddr>, group: IpAddr, port: u16) {
    let endpoint = Endpoint { source, group, port, tsi: ANNOUNCEMENT_TSI };
    let id = SessionSource::Multicast { source, group, port };
    loop {
        let error = match join(&listener, &endpoint) {
            Ok(mut socket) => receive(&listener, &id, &endpoint, &mut socket).await,
            Err(e) => e,
        };
        tracing::warn!("{error}");
        listener.hub.session_error(listener.session, &error);
        tokio::time::sleep(RETRY).await;
    }
}

fn join(listener: &Listener, endpoint: &Endpoint) -> Result<MulticastReceiver, StartupError> {
    let interface = crate::flow::choose_interface(listener.interface.as_deref(), endpoint)?;
    tracing::info!(interface = interface.name, group = %endpoint.group, "listening for a session description");
    MulticastReceiver::join(&ReceiveOptions {
        source: endpoint.source,
        group: endpoint.group,
        port: endpoint.port,
        interface,
        receive_buffer: 1 << 20,
    })
}

/// Returns when the socket fails.
async fn receive(
    listener: &Listener,
    id: &SessionSource,
    endpoint: &Endpoint,
    socket: &mut MulticastReceiver,
) -> StartupError {
    let ear = Mutex::new(Ear::new(listener.clock, listener.trust.pinned(id)));
    let lock = || ear.lock().unwrap_or_else(PoisonError::into_inner);
    let mut described = false;
    let mut foreign = BTreeSet::new();
    loop {
        let received = socket.receive(|from, datagram| {
            if endpoint.source.is_none_or(|s| s == from.ip().to_canonical()) {
                lock().packet(datagram);
            }
        });
        let received = match tokio::time::timeout(RETRY, received).await {
            Ok(received) => received.map(drop),
            Err(_) => socket.check_interface(),
        };
        if let Err(e) = received {
            return StartupError::runtime("E-SOCKET", format!("{id}: {e}"), "mahp-receiver doctor");
        }
        let (descriptions, others, since) = lock().take();
        for bytes in descriptions {
            described |= accept(listener, id, &bytes, &ear);
        }
        let settled = since.is_some_and(|at| listener.clock.now() - at > FOREIGN_AFTER);
        if !described && settled && others != foreign {
            foreign = others;
            offer_foreign(listener, endpoint, &foreign);
        }
    }
}

/// Takes a description heard in band; says whether it is in use.
fn accept(listener: &Listener, id: &SessionSource, bytes: &[u8], ear: &Mutex<Ear>) -> bool {
    let mut ear = ear.lock().unwrap_or_else(PoisonError::into_inner);
    if ear.last.as_deref() == Some(bytes) {
        return true;
    }
    match listener.trust.accept(id, bytes, listener.clock.wall()) {
        Ok(accepted) if accepted.description.issued < ear.issued => true,
        Ok(accepted) => {
            super::report(id, &accepted);
            ear.accepted(bytes, accepted.description.issued, accepted.key);
            listener.hub.describe(listener.session, accepted.description, Some(accepted.key));
            true
        }
        Err(e) => {
            tracing::warn!("{e}");
            listener.hub.session_error(listener.session, &e);
            false
        }
    }
}

fn offer_foreign(listener: &Listener, endpoint: &Endpoint, flows: &BTreeSet<Tsi>) {
    let target = SocketAddr::new(endpoint.group, endpoint.port);
    if !listener.insecure {
        let error = StartupError::usage(
            "E-UNSIGNED",
            format!(
                "{target}: packets arrive, but no session description in band: this is not a MAHP sender"
            ),
            "--insecure to take what it sends all the same; whoever can send there then decides what players get",
        );
        tracing::warn!("{error}");
        listener.hub.session_error(listener.session, &error);
        return;
    }
    tracing::info!(%target, flows = flows.len(), "no session description: taken as plain FLUTE, unsigned");
    listener.hub.describe(listener.session, foreign(endpoint, flows), None);
}

/// A description of a sender that gives none: one channel, one rendition per TSI.
fn foreign(endpoint: &Endpoint, flows: &BTreeSet<Tsi>) -> SessionDescription {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name = format!("{}-{}", endpoint.group, endpoint.port).chars().map(clean).collect::<String>();
    let rendition = |tsi: &Tsi| Rendition {
        id: format!("tsi-{tsi}"),
        role: Role::Other,
        bitrate_bps: 0,
        playlist_url: None,
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        flow: Flow {
            endpoint: Endpoint { tsi: *tsi, ..*endpoint },
            repair: None,
            repair_layer_2: None,
            profile: WireProfile::FluteRaptorq,
            symbol_size: limits::SYMBOL_SIZE_DEFAULT,
            repair_percent: 0,
            rate_bps: 0,
        },
    };
    let channel = Channel {
        title: format!("FLUTE {}", SocketAddr::new(endpoint.group, endpoint.port)),
        name: name.trim_matches(['-', '.']).to_owned(),
        format: Format::Hls,
        live: true,
        manifest_url: String::new(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: FOREIGN_TARGET_MS,
        part_target_ms: None,
        renditions: flows.iter().take(FOREIGN_MAX).map(rendition).collect(),
    };
    SessionDescription {
        mahp: 1,
        session: String::new(),
        name: "foreign sender".into(),
        issued: 0,
        expires: u64::MAX,
        public_key: String::new(),
        announcement: None,
        channels: vec![channel],
    }
}

/// Assembles descriptions and notes which other flows there are.
struct Ear {
    clock: Clock,
    engine: RecvSession,
    key: Option<VerifyingKey>,
    descriptions: Vec<Bytes>,
    others: BTreeSet<Tsi>,
    /// Since when packets come.
    since: Option<Time>,
    /// The description in use, as it came.
    last: Option<Vec<u8>>,
    issued: u64,
}

impl Ear {
    fn new(clock: Clock, key: Option<VerifyingKey>) -> Ear {
        Ear {
            clock,
            engine: engine(key),
            key,
            descriptions: Vec::new(),
            others: BTreeSet::new(),
            since: None,
            last: None,
            issued: 0,
        }
    }

    fn packet(&mut self, datagram: &[u8]) {
        let now = self.clock.now();
        let Ok(packet) = AlcPacket::parse(datagram) else { return };
        self.since.get_or_insert(now);
        if packet.tsi != ANNOUNCEMENT_TSI {
            if self.others.len() < FOREIGN_MAX {
                self.others.insert(packet.tsi);
            }
            return;
        }
        self.engine.handle_input(Input::Packet { now, wall: self.clock.wall(), datagram });
        loop {
            match self.engine.poll_output() {
                Output::Event(Event::Complete { meta, payload, .. }) if meta.url == IN_BAND_LOCATION => {
                    self.descriptions.push(payload.to_bytes());
                }
                Output::Event(_) => {}
                // Announcements are small and come round again: no thread is worth it.
                Output::Command(Command::Decode(job)) => {
                    self.engine.handle_input(Input::Decoded { now, result: job.run() });
                }
                Output::Timeout(_) => return,
            }
        }
    }

    fn take(&mut self) -> (Vec<Bytes>, BTreeSet<Tsi>, Option<Time>) {
        (std::mem::take(&mut self.descriptions), self.others.clone(), self.since)
    }

    /// From now on FDT Instances must be signed with this key.
    fn accepted(&mut self, bytes: &[u8], issued: u64, key: VerifyingKey) {
        self.last = Some(bytes.to_vec());
        self.issued = issued;
        if self.key != Some(key) {
            self.key = Some(key);
            self.engine = engine(Some(key));
        }
    }
}

fn engine(key: Option<VerifyingKey>) -> RecvSession {
    RecvSession::new(RecvConfig {
        tsi: Some(ANNOUNCEMENT_TSI),
        key,
        assembly_bytes: 2 * limits::DESCRIPTION_BYTES as u64,
        max_object_bytes: limits::DESCRIPTION_BYTES as u64,
        held_bytes: limits::DESCRIPTION_BYTES,
        ..RecvConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_foreign_sender_is_one_channel() {
        let endpoint =
            Endpoint { source: None, group: Ipv4Addr::new(239, 1, 2, 3).into(), port: 4000, tsi: Tsi(0) };
        let description = foreign(&endpoint, &[Tsi(1), Tsi(7)].into());
        let channel = &description.channels[0];
        assert_eq!(channel.name, "239.1.2.3-4000");
        assert!(mahp_common::catalog::is_channel_name(&channel.name));
        assert_eq!(channel.renditions.len(), 2);
        assert_eq!(channel.renditions[1].flow.endpoint.tsi, Tsi(7));
        assert!(description.validate().is_ok());
        let v6 = Endpoint { group: "ff3e::8000:1".parse().unwrap(), ..endpoint };
        assert!(mahp_common::catalog::is_channel_name(&foreign(&v6, &[Tsi(1)].into()).channels[0].name));
    }
}
