//! Samples for tests.

use mahp_common::auth::SigningKey;
use mahp_common::catalog::{
    Channel, Endpoint, Flow, Format, Rendition, Role, SessionDescription, WireProfile,
};
use mahp_common::session::send::{Command, FlowKind, Input, LayerConfig, Output, SendConfig, SendSession};
use mahp_common::{Object, Tsi};
use mahp_runtime::clock::Clock;
use mahp_runtime::udp::{MulticastSender, SendOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A live HLS channel without renditions; 2 s target duration.
pub(crate) fn channel(name: &str, manifest_url: &str) -> Channel {
    Channel {
        name: name.into(),
        title: name.to_uppercase(),
        format: Format::Hls,
        live: true,
        manifest_url: manifest_url.into(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        part_target_ms: None,
        renditions: Vec::new(),
    }
}

/// A video rendition of 1 Mbit/s on 127.0.0.1@232.9.9.9:5000, TSI 1 and repair TSI 2 on port 5001.
pub(crate) fn rendition(id: &str) -> Rendition {
    let endpoint = Endpoint {
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        group: IpAddr::V4(Ipv4Addr::new(232, 9, 9, 9)),
        port: 5000,
        tsi: Tsi(1),
    };
    Rendition {
        id: id.into(),
        role: Role::Video,
        bitrate_bps: 1_000_000,
        playlist_url: None,
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        flow: Flow {
            repair: Some(Endpoint { port: 5001, tsi: Tsi(2), ..endpoint }),
            endpoint,
            repair_layer_2: None,
            profile: WireProfile::Mabr,
            symbol_size: 1344,
            repair_percent: 15,
            rate_bps: 4_000_000,
        },
    }
}

/// Channel `news` of an origin (scheme and authority), with one rendition `high` on a group of its own.
pub(crate) fn news(origin: &str) -> Channel {
    let mut high = rendition("high");
    high.url_patterns = vec![format!("{origin}/news/high/*.ts")];
    high.playlist_url = Some(format!("{origin}/news/high/index.m3u8"));
    let group = unique_group();
    high.flow.endpoint.group = group;
    high.flow.repair = high.flow.repair.map(|r| Endpoint { group, ..r });
    high.flow.rate_bps = 100_000_000;
    Channel {
        prefixes: vec![format!("{origin}/news/")],
        renditions: vec![high],
        ..channel("news", &format!("{origin}/news/master.m3u8"))
    }
}

/// What a sender with this key offers, until the end of time.
pub(crate) fn description(channel: impl Into<Option<Channel>>, key: &SigningKey) -> SessionDescription {
    SessionDescription {
        mahp: 1,
        session: "01".into(),
        name: "test".into(),
        issued: 1,
        expires: u64::MAX,
        public_key: key.verifying_key().to_base64(),
        announcement: None,
        channels: channel.into().into_iter().collect(),
    }
}

/// A group that no other test uses, in this process or another.
pub(crate) fn unique_group() -> IpAddr {
    use std::sync::atomic::{AtomicU8, Ordering};
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(232, high, low, COUNT.fetch_add(1, Ordering::Relaxed)).into()
}

type Loss = Box<dyn Fn(FlowKind, usize) -> bool + Send>;

enum Order {
    Send(Box<Object>),
    Lose(Loss),
    Sent(oneshot::Sender<()>),
}

/// A sender of one rendition on loopback, with the real engine and without pacing by anything but it.
pub(crate) struct Caster {
    orders: mpsc::UnboundedSender<Order>,
}

impl Caster {
    pub(crate) fn new(flow: &Flow, session: u64, key: Option<SigningKey>) -> Caster {
        let repair = flow.repair.unwrap_or(flow.endpoint);
        let config = SendConfig {
            session,
            // Above the TOIs of earlier runs.
            first_toi: u32::try_from(session).unwrap() * 10_000,
            key,
            layer_2: flow
                .repair_layer_2
                .map(|layer| LayerConfig { tsi: layer.endpoint.tsi, percent: layer.percent }),
            ..SendConfig::new(flow.profile, flow.endpoint.tsi, repair.tsi, flow.rate_bps)
        };
        let layer_2 = flow.repair_layer_2.map_or(flow.endpoint, |layer| layer.endpoint);
        let to = [flow.endpoint, repair, layer_2].map(|e| SocketAddr::new(e.group, e.port));
        let (orders, receiver) = mpsc::unbounded_channel();
        tokio::spawn(cast(config, to, receiver));
        Caster { orders }
    }

    pub(crate) async fn send(&mut self, object: Object) {
        self.orders.send(Order::Send(Box::new(object))).ok().unwrap();
    }

    /// Packets for which this says so, by number, are not sent. FDT packets count and may be lost too.
    pub(crate) fn lose(&mut self, which: impl Fn(FlowKind, usize) -> bool + Send + 'static) {
        self.orders.send(Order::Lose(Box::new(which))).ok().unwrap();
    }

    /// Awaits that everything has left.
    pub(crate) async fn sent(&mut self) {
        let (done, wait) = oneshot::channel();
        self.orders.send(Order::Sent(done)).ok().unwrap();
        wait.await.unwrap();
    }
}

async fn cast(config: SendConfig, to: [SocketAddr; 3], mut orders: mpsc::UnboundedReceiver<Order>) {
    let clock = Clock::new();
    let interface = mahp_runtime::udp::interface("lo").unwrap();
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let socket = MulticastSender::new(&SendOptions { source, interface, ttl: 1, dscp: 0 }).unwrap();
    let mut engine = SendSession::new(config);
    let mut lose: Loss = Box::new(|_, _| false);
    let (mut count, mut tag) = ([0; 3], 0);
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut buffer = Vec::new();
    loop {
        let wake = loop {
            match engine.poll_output(&mut buffer) {
                Output::Transmit(t) => {
                    let flow = t.flow as usize;
                    for packet in buffer[..t.len].chunks(t.segment_size) {
                        count[flow] += 1;
                        if !lose(t.flow, count[flow]) {
                            socket.send(to[flow], packet, packet.len()).await.unwrap();
                        }
                    }
                }
                Output::Command(Command::Encode(job)) => {
                    engine.handle_input(Input::Encoded { now: clock.now(), result: job.run() });
                }
                Output::Event(_) => {}
                Output::Timeout(at) => break at,
            }
        };
        if engine.stats().queued_objects == 0 {
            waiting.drain(..).for_each(|w| _ = w.send(()));
        }
        let at = wake.map_or(clock.now() + Duration::from_secs(3600), |at| at);
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Send(object)) => {
                    tag += 1;
                    engine.handle_input(Input::Object { now: clock.now(), wall: clock.wall(), tag, object });
                }
                Some(Order::Lose(which)) => lose = which,
                Some(Order::Sent(done)) => waiting.push(done),
                None if engine.stats().queued_objects == 0 => return,
                None => tokio::time::sleep_until(clock.instant(at)).await,
            },
            () = tokio::time::sleep_until(clock.instant(at)) => {}
        }
        engine.handle_input(Input::Timeout { now: clock.now(), wall: clock.wall() });
    }
}
