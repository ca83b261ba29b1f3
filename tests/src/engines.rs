//! Both engines driven in virtual time and in memory, heavy work done at once. No sockets.

use bytes::Bytes;
use mahp_common::session::{recv, send};
use mahp_common::{Object, ObjectMeta, Payload, Time, Toi, WallTime};
use std::time::Duration;

/// Wall clock at the start of every run: 2026-09-21.
pub const START: WallTime = WallTime::from_unix_secs(1_790_000_000);

/// Wall clock at `now`.
pub fn wall(now: Time) -> WallTime {
    START + now.since(Time::ZERO)
}

/// The seed of a test with randomness: `MAHP_SEED`, else the time. Printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("MAHP_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.map_or(1, |d| d.as_micros() as u64)
    });
    println!("MAHP_SEED={seed}");
    seed
}

/// `len` bytes that do not repeat.
pub fn noise(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// An object with this path on an origin.
pub fn object(path: &str, data: Bytes) -> Object {
    let url = format!("http://origin.example/{path}");
    Object::new(ObjectMeta { url, content_type: Some("video/mp4".into()), ..ObjectMeta::default() }, data)
}

/// A datagram and when it left.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Departure.
    pub at: Time,
    /// Which flow.
    pub flow: send::FlowKind,
    /// UDP payload.
    pub bytes: Vec<u8>,
}

/// Everything a sender sends of these objects, one after the other.
pub fn send_all(config: send::SendConfig, objects: impl IntoIterator<Item = Object>) -> Vec<Datagram> {
    let mut session = send::SendSession::new(config);
    let mut now = Time::ZERO;
    let mut sent = Vec::new();
    let mut buf = Vec::new();
    for (tag, object) in (0..).zip(objects) {
        let object = Box::new(object);
        session.handle_input(send::Input::Object { now, wall: wall(now), tag, object });
        loop {
            match session.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    sent.extend(buf.chunks(t.segment_size.max(1)).map(|bytes| Datagram {
                        at: now,
                        flow: t.flow,
                        bytes: bytes.to_vec(),
                    }))
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    session.handle_input(send::Input::Encoded { now, result: job.run() });
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(Some(at)) => {
                    now = now.max(at);
                    session.handle_input(send::Input::Timeout { now, wall: wall(now) });
                }
                send::Output::Timeout(None) => break,
            }
        }
    }
    sent
}

/// A receiving engine and what came out of it.
#[derive(Debug)]
pub struct Receiver {
    /// The engine.
    pub session: recv::RecvSession,
    /// Now.
    pub now: Time,
    /// Completed objects.
    pub complete: Vec<(ObjectMeta, Payload)>,
    /// Objects given up.
    pub lost: Vec<(Toi, mahp_common::drop::DropReason)>,
    /// Most memory under assembly seen.
    pub peak_bytes: u64,
}

impl Receiver {
    /// A receiver that has heard nothing.
    pub fn new(config: recv::RecvConfig) -> Receiver {
        let session = recv::RecvSession::new(config);
        Receiver { session, now: Time::ZERO, complete: Vec::new(), lost: Vec::new(), peak_bytes: 0 }
    }

    /// One datagram arrives.
    pub fn push(&mut self, at: Time, datagram: &[u8]) {
        self.now = self.now.max(at);
        let now = self.now;
        self.session.handle_input(recv::Input::Packet { now, wall: wall(now), datagram });
        self.drain();
    }

    /// Nothing arrives for a while.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.drain().filter(|at| *at <= end) {
            // A timeout that lies in the past must not stop the clock.
            self.now = at.max(self.now + Duration::from_micros(1));
            self.session.handle_input(recv::Input::Timeout { now: self.now });
        }
        self.now = end;
        self.session.handle_input(recv::Input::Timeout { now: end });
        self.drain();
    }

    /// Takes all output; returns when the engine wants to be woken.
    fn drain(&mut self) -> Option<Time> {
        loop {
            self.peak_bytes = self.peak_bytes.max(self.session.stats().assembly_bytes);
            match self.session.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    let (now, result) = (self.now, job.run());
                    self.session.handle_input(recv::Input::Decoded { now, result });
                }
                recv::Output::Event(recv::Event::Complete { meta, payload, .. }) => {
                    self.complete.push((meta, payload));
                }
                recv::Output::Event(recv::Event::Lost { toi, reason, .. }) => self.lost.push((toi, reason)),
                recv::Output::Event(_) => {}
                recv::Output::Timeout(at) => return at,
            }
        }
    }

    /// How often something was dropped for this reason.
    pub fn drops(&self, reason: mahp_common::drop::DropReason) -> u64 {
        self.session.stats().drops.get(reason)
    }
}
