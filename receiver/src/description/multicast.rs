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
use mahp_common::drop::{DropCounters, DropReason};
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
    let ear = Mutex::new(Ear::new(listener.clock, endpoint.source, listener.trust.pinned(id)));
    let lock = || ear.lock().unwrap_or_else(PoisonError::into_inner);
    let mut described = false;
    let mut foreign = BTreeSet::new();
    loop {
        let received = socket.receive(|from, datagram| lock().packet(from.ip(), datagram));
        let received = match tokio::time::timeout(RETRY, received).await {
            Ok(received) => received.map(drop),
            Err(_) => socket.check_interface(),
        };
        if let Err(e) = received {
            return StartupError::runtime("E-SOCKET", format!("{id}: {e}"), "mahp-receiver doctor");
        }
        let (descriptions, others, since) = lock().take();
        listener.hub.refused(&lock().take_drops());
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
            listener.hub.refused(&super::drops_of(&e));
            // It comes round every second.
            if listener.hub.session_error(listener.session, &e) {
                tracing::warn!("{e}");
            }
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
    /// Nobody else is heard.
    source: Option<IpAddr>,
    engine: RecvSession,
    key: Option<VerifyingKey>,
    descriptions: Vec<Bytes>,
    others: BTreeSet<Tsi>,
    /// Since when packets come.
    since: Option<Time>,
    /// The description in use, as it came.
    last: Option<Vec<u8>>,
    issued: u64,
    /// Refused packets that the hub has not been told of.
    drops: DropCounters,
    /// What the engine had refused when it was last asked.
    seen: DropCounters,
}

impl Ear {
    fn new(clock: Clock, source: Option<IpAddr>, key: Option<VerifyingKey>) -> Ear {
        Ear {
            clock,
            source,
            engine: engine(key),
            key,
            descriptions: Vec::new(),
            others: BTreeSet::new(),
            since: None,
            last: None,
            issued: 0,
            drops: DropCounters::default(),
            seen: DropCounters::default(),
        }
    }

    fn packet(&mut self, from: IpAddr, datagram: &[u8]) {
        if self.source.is_some_and(|s| s != from.to_canonical()) {
            return self.drops.count(DropReason::WrongSource);
        }
        let now = self.clock.now();
        let packet = match AlcPacket::parse(datagram) {
            Ok(packet) => packet,
            Err(e) => return self.drops.count(e.reason),
        };
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

    /// What was refused since the last call. An announcement comes round all the time: symbols that are here already are none.
    fn take_drops(&mut self) -> DropCounters {
        self.note_drops();
        std::mem::take(&mut self.drops)
    }

    fn note_drops(&mut self) {
        let now = self.engine.stats().drops.clone();
        for (reason, n) in now.iter().filter(|(r, _)| !matches!(r, DropReason::Duplicate | DropReason::Late))
        {
            self.drops.add(reason, n - self.seen.get(reason));
        }
        self.seen = now;
    }

    /// From now on FDT Instances must be signed with this key.
    fn accepted(&mut self, bytes: &[u8], issued: u64, key: VerifyingKey) {
        self.last = Some(bytes.to_vec());
        self.issued = issued;
        if self.key != Some(key) {
            self.note_drops();
            self.key = Some(key);
            (self.engine, self.seen) = (engine(Some(key)), DropCounters::default());
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
    use crate::snapshot::Observe as _;
    use crate::testing::{Caster, rendition, unique_group};
    use mahp_common::auth::SigningKey;
    use mahp_common::{Object, ObjectMeta};
    use mahp_runtime::udp::{MulticastSender, SendOptions};
    use std::net::Ipv4Addr;
    use tokio::sync::Notify;

    #[test]
    fn strangers_and_what_cannot_be_read_are_counted() {
        let [source, stranger] = [1, 2].map(|n| IpAddr::from(Ipv4Addr::new(10, 0, 0, n)));
        let mut ear =
            Ear::new(Clock::new(), Some(source), Some(SigningKey::from_seed(&[9; 32]).verifying_key()));
        ear.packet(stranger, &[0x10, 0]);
        ear.packet(source, &[0x10, 0]);
        ear.packet(source, &[0x10, 0]);
        let drops = ear.take_drops();
        assert_eq!(
            (drops.get(DropReason::WrongSource), drops.get(DropReason::Truncated)),
            (1, 2),
            "{drops:?}"
        );
        assert_eq!(ear.take_drops(), DropCounters::default(), "once");
    }

    fn options() -> crate::hub::Options {
        crate::hub::Options {
            memory: 32 << 20,
            assembly_memory: 16 << 20,
            join: crate::joins::Policy::Always,
            hold: Duration::from_secs(1),
            allow_origins: Default::default(),
            interface: None,
            recv_buffer: 1 << 20,
            publisher: None,
            copies: Default::default(),
        }
    }

    /// Refused packets and descriptions are counted where `/metrics` looks.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_refused_is_counted_by_reason() {
        let (clock, key) = (Clock::new(), SigningKey::from_seed(&[9; 32]));
        let hub = Hub::new(options(), clock, Arc::default());
        let (group, port) = (unique_group(), 5000);
        let source = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
        let id = SessionSource::Multicast { source, group, port };
        let session = hub.add_session(id, Arc::new(Notify::new()));
        let trust =
            Arc::new(Trust::new(vec![key.verifying_key()], false, super::super::KnownKeys::default()));
        let interface = Some("lo".to_owned());
        let listener = Listener { hub: hub.clone(), session, trust, clock, interface, insecure: false };
        let listening = tokio::spawn(listen(listener, source, group, port));

        let mut flow = rendition("announcement").flow;
        flow.endpoint = Endpoint { source, group, port, tsi: ANNOUNCEMENT_TSI };
        flow.repair = None;
        let mut caster = Caster::new(&flow, 1, Some(key));
        let interface = mahp_runtime::udp::interface("lo").unwrap();
        let options = SendOptions { source: Ipv4Addr::LOCALHOST.into(), interface, ttl: 1, dscp: 0 };
        let noise = MulticastSender::new(&options).unwrap();
        let target = SocketAddr::new(group, port);
        let count = |reason: &str| hub.snapshot().totals.drops.get(reason).copied().unwrap_or(0);
        let start = std::time::Instant::now();
        let mut round = 0_u8;
        while ["truncated", "bad_description"].iter().any(|reason| count(reason) == 0) {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", hub.snapshot().totals.drops);
            round += 1;
            noise.send(target, &[0x10, 0], 2).await.unwrap();
            let meta = ObjectMeta { url: IN_BAND_LOCATION.into(), ..ObjectMeta::default() };
            caster.send(Object::new(meta, Bytes::from(vec![b'x', round]))).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(hub.snapshot().sessions[0].error.contains("not readable"));
        listening.abort();
    }

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
