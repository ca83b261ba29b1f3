//! A sender and a receiver joined by an impaired link, in virtual time. For tests, here and in other crates.
//!
//! Everything that happens follows from the inputs and the seed of the link; a run can be repeated exactly.
#![allow(missing_docs)] // test support
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // str0m-netem counts in std's Instant; only differences matter

use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::fec::{DecodeResult, EncodeResult};
use crate::ids::{Sbn, Toi, Tsi};
use crate::object::{Object, ObjectKind, ObjectMeta, Payload};
use crate::session::recv::{self, Reception, RecvConfig, RecvSession};
use crate::session::send::{self, FlowKind, SendConfig, SendSession};
use crate::time::{Time, WallTime};
use crate::wire::alc::PayloadId;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use str0m_netem::{Input as LinkInput, Netem, NetemConfig, Output as LinkOutput};

/// Wall clock at virtual time zero: 2026-01-01.
pub const WALL_START: u64 = 1_767_225_600;

/// How long an encoder or decoder thread takes, in virtual time.
const FEC_TIME: Duration = Duration::from_millis(2);

/// The seed of this test run: `MAHP_SEED`, else the default; printed so that a failure can be repeated.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("MAHP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    println!("seed {seed} (repeat with MAHP_SEED={seed})");
    seed
}

/// Random bytes from a seed.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// A media segment of random bytes.
pub fn segment(number: u64, len: usize) -> Object {
    let meta = ObjectMeta {
        url: format!("https://origin.example/live/720p/seg-{number}.m4s"),
        kind: ObjectKind::Media,
        content_type: Some("video/iso.segment".into()),
        duration: Some(Duration::from_secs(2)),
        ..ObjectMeta::default()
    };
    Object::new(meta, noise(number, len))
}

/// What the receiver reported.
#[derive(Debug, Default)]
pub struct Log {
    pub complete: Vec<(Time, Toi, ObjectMeta, Payload, Reception)>,
    pub lost: Vec<(Time, Toi, DropReason)>,
    pub announced: Vec<(Time, Toi, ObjectMeta)>,
    pub new_sessions: Vec<u64>,
    pub closed: u32,
}

/// Decides whether a packet gets to the link.
pub type Filter = Box<dyn FnMut(FlowKind, &[u8]) -> bool>;

/// One sender, one link, one receiver.
pub struct Pair {
    pub now: Time,
    pub sender: SendSession,
    pub receiver: RecvSession,
    pub joined: bool,
    pub log: Log,
    /// Packets that left the sender: time, flow, bytes.
    pub sent: Vec<(Time, FlowKind, usize)>,
    pub keep_sent: bool,
    /// Return false to drop a packet before the link (targeted loss).
    pub filter: Filter,
    link: Netem<Vec<u8>>,
    epoch: Instant,
    sender_timeout: Option<Time>,
    receiver_timeout: Option<Time>,
    encoding: VecDeque<(Time, EncodeResult)>,
    decoding: VecDeque<(Time, DecodeResult)>,
    tag: u64,
    buf: Vec<u8>,
}

/// Configurations of a sender and the receiver that matches it.
pub fn configs(profile: WireProfile, rate_bps: u64) -> (SendConfig, RecvConfig) {
    let key = crate::auth::SigningKey::from_seed(&[9; 32]);
    let mut send = SendConfig::new(profile, Tsi(0x2001), Tsi(0x2002), rate_bps);
    send.session = 1 << 40;
    send.first_toi = 1000;
    let recv = RecvConfig {
        tsi: Some(send.tsi),
        repair_tsi: Some(send.repair_tsi),
        key: Some(key.verifying_key()),
        ..RecvConfig::default()
    };
    send.key = Some(key);
    (send, recv)
}

impl Pair {
    pub fn new(send: SendConfig, recv: RecvConfig, link: NetemConfig) -> Pair {
        Pair {
            now: Time::ZERO,
            sender: SendSession::new(send),
            receiver: RecvSession::new(recv),
            joined: true,
            log: Log::default(),
            sent: Vec::new(),
            keep_sent: false,
            filter: Box::new(|_, _| true),
            link: Netem::new(link),
            epoch: Instant::now(),
            sender_timeout: None,
            receiver_timeout: None,
            encoding: VecDeque::new(),
            decoding: VecDeque::new(),
            tag: 0,
            buf: Vec::new(),
        }
    }

    pub fn wall(&self) -> WallTime {
        WallTime::from_unix_secs(WALL_START) + self.now.since(Time::ZERO)
    }

    pub fn set_link(&mut self, link: NetemConfig) {
        self.link.set_config(link);
    }

    /// Hands an object to the sender now.
    pub fn send(&mut self, object: Object) {
        self.tag += 1;
        let input =
            send::Input::Object { now: self.now, wall: self.wall(), tag: self.tag, object: Box::new(object) };
        self.sender.handle_input(input);
        self.drain_sender();
    }

    /// Replaces the sender, as a restart would.
    pub fn restart_sender(&mut self, config: SendConfig) {
        self.sender = SendSession::new(config);
        self.sender_timeout = None;
        self.encoding.clear();
    }

    /// Runs until `end`.
    pub fn run_until(&mut self, end: Time) {
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Runs for `time` more.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn next_event(&self) -> Option<Time> {
        let link = (!self.link.is_empty()).then(|| self.of_instant(self.link.poll_timeout()));
        let encoding = self.encoding.front().map(|e| e.0);
        let decoding = self.decoding.front().map(|d| d.0);
        [link, encoding, decoding, self.sender_timeout, self.receiver_timeout].into_iter().flatten().min()
    }

    fn step(&mut self) {
        let now = self.now;
        while self.encoding.front().is_some_and(|e| e.0 <= now) {
            if let Some((_, result)) = self.encoding.pop_front() {
                self.sender.handle_input(send::Input::Encoded { now, result });
                self.drain_sender();
            }
        }
        if self.sender_timeout.is_some_and(|at| at <= now) {
            self.sender.handle_input(send::Input::Timeout { now, wall: self.wall() });
            self.drain_sender();
        }
        self.deliver();
        while self.decoding.front().is_some_and(|d| d.0 <= now) {
            if let Some((_, result)) = self.decoding.pop_front() {
                self.receiver.handle_input(recv::Input::Decoded { now, result });
                self.drain_receiver();
            }
        }
        if self.receiver_timeout.is_some_and(|at| at <= now) {
            self.receiver.handle_input(recv::Input::Timeout { now });
            self.drain_receiver();
        }
    }

    fn deliver(&mut self) {
        let at = self.to_instant(self.now);
        self.link.handle_input(LinkInput::Timeout(at));
        while let Some(output) = self.link.poll_output() {
            if let LinkOutput::Packet(datagram) = output
                && self.joined
            {
                self.datagram(&datagram);
            }
        }
    }

    /// Gives the receiver a datagram now.
    pub fn datagram(&mut self, datagram: &[u8]) {
        let (now, wall) = (self.now, self.wall());
        self.receiver.handle_input(recv::Input::Packet { now, wall, datagram });
        self.drain_receiver();
    }

    /// Gives the receiver bytes fetched by unicast now.
    pub fn fetched(&mut self, toi: Toi, offset: u64, bytes: &[u8]) {
        let (now, path) = (self.now, recv::Path::Origin);
        self.receiver.handle_input(recv::Input::Bytes { now, toi, path, offset, bytes });
        self.drain_receiver();
    }

    /// Gives the receiver encoding symbols that came another way now.
    pub fn symbols(&mut self, toi: Toi, path: recv::Path, first: PayloadId, symbols: &[u8]) {
        self.receiver.handle_input(recv::Input::Symbols { now: self.now, toi, path, first, symbols });
        self.drain_receiver();
    }

    /// Has the sender send fresh repair symbols.
    pub fn repair(&mut self, toi: Toi, data: &Bytes, blocks: Vec<(Sbn, u32)>) {
        self.sender.handle_input(send::Input::Repair { now: self.now, toi, data: data.clone(), blocks });
        self.drain_sender();
    }

    /// Sets the sender's repair share.
    pub fn share(&mut self, percent: u32) {
        self.sender.handle_input(send::Input::Share { percent });
    }

    fn drain_sender(&mut self) {
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            match self.sender.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    for packet in buf[..t.len].chunks(t.segment_size.max(1)) {
                        self.transmit(t.flow, packet);
                    }
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    self.encoding.push_back((self.now + FEC_TIME, job.run()));
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(at) => {
                    self.sender_timeout = at;
                    break;
                }
            }
        }
        self.buf = buf;
    }

    fn transmit(&mut self, flow: FlowKind, packet: &[u8]) {
        if self.keep_sent {
            self.sent.push((self.now, flow, packet.len()));
        }
        if (self.filter)(flow, packet) {
            let at = self.to_instant(self.now);
            self.link.handle_input(LinkInput::Packet(at, packet.to_vec()));
        }
    }

    fn drain_receiver(&mut self) {
        loop {
            match self.receiver.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    self.decoding.push_back((self.now + FEC_TIME, job.run()));
                }
                recv::Output::Event(event) => self.event(event),
                recv::Output::Timeout(at) => {
                    self.receiver_timeout = at;
                    break;
                }
            }
        }
    }

    fn event(&mut self, event: recv::Event) {
        let now = self.now;
        match event {
            recv::Event::Announced { toi, meta, .. } => self.log.announced.push((now, toi, meta)),
            recv::Event::Complete { toi, meta, payload, how } => {
                self.log.complete.push((now, toi, meta, payload, how));
            }
            recv::Event::Lost { toi, reason, .. } => self.log.lost.push((now, toi, reason)),
            recv::Event::NewSession { session } => self.log.new_sessions.push(session),
            recv::Event::Closed => self.log.closed += 1,
        }
    }

    fn to_instant(&self, at: Time) -> Instant {
        self.epoch + at.since(Time::ZERO)
    }

    fn of_instant(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.epoch)
    }
}

/// Bytes of each completed object by URL.
pub fn by_url(log: &Log) -> BTreeMap<String, Bytes> {
    log.complete.iter().map(|(_, _, meta, payload, _)| (meta.url.clone(), payload.to_bytes())).collect()
}
