//! The sending engine of one rendition: objects in, paced packets out.

use crate::catalog::WireProfile;
use crate::ids::{Toi, Tsi};
use crate::object::Object;
use crate::time::{Time, WallTime};
use bytes::Bytes;
use std::time::Duration;

/// Parameters of a [`SendSession`]. Fixed for its life.
#[derive(Clone, Debug)]
pub struct SendConfig {
    /// How objects are put into packets.
    pub profile: WireProfile,
    /// TSI of the source flow (or the one session).
    pub tsi: Tsi,
    /// TSI of the repair flow; unused with `flute-raptorq`.
    pub repair_tsi: Tsi,
    /// Encoding symbol length T.
    pub symbol_size: u16,
    /// Repair symbols per hundred source symbols (rounded up per block, at least 2 where not 0).
    pub repair_percent: u32,
    /// Pacing rate over both flows, UDP payload bit/s.
    pub rate_bps: u64,
    /// Most packets in one [`Transmit`] (one GSO call).
    pub max_segments: usize,
    /// Identity of this run of the sender, in every FDT Instance.
    pub session: u64,
    /// First TOI. Derived from wall clock by the driver, so that a restart goes on above the TOIs of the run before.
    pub first_toi: u32,
    /// Key for FDT Instances; none = unsigned (interoperation only).
    pub key: Option<crate::auth::SigningKey>,
    /// Validity of an FDT Instance from its sending.
    pub fdt_lifetime: Duration,
    /// How many recent objects each FDT Instance lists.
    pub fdt_window: usize,
}

/// Which flow of the rendition a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// Source flow (or the one session).
    Source,
    /// Repair flow.
    Repair,
}

/// Handle that the driver gives an object and gets back in events.
pub type ObjectTag = u64;

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// An object to send after those before it.
    Object {
        /// Now.
        now: Time,
        /// Wall clock, for FDT expiry.
        wall: WallTime,
        /// Returned in events.
        tag: ObjectTag,
        /// The object.
        object: Object,
    },
    /// Result of [`Command::Encode`].
    Encoded {
        /// Now.
        now: Time,
        /// The result.
        result: crate::fec::EncodeResult,
    },
    /// The time asked for has come.
    Timeout {
        /// Now.
        now: Time,
        /// Wall clock.
        wall: WallTime,
    },
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Packets to send now, already in the buffer that was passed to `poll_output`.
    Transmit(Transmit),
    /// Work for another thread.
    Command(Command),
    /// Something to know.
    Event(Event),
    /// Nothing more until this time; `None`: until the next input.
    Timeout(Option<Time>),
}

/// One batch: `len / segment_size` packets of the same size, the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Destination.
    pub flow: FlowKind,
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each packet but the last.
    pub segment_size: usize,
}

/// Heavy work.
#[derive(Debug)]
pub enum Command {
    /// Make repair symbols: `job.run()` on any thread, then `Input::Encoded`.
    Encode(crate::fec::EncodeJob),
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// First packet of the object has left.
    Started {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
    /// All source symbols have left (playlists may name it now).
    SourceSent {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
    /// Everything, repair too, has left.
    Sent {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
}

/// Counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// UDP payload bytes by kind.
    pub source_bytes: u64,
    /// Repair packets' bytes.
    pub repair_bytes: u64,
    /// FDT packets' bytes.
    pub fdt_bytes: u64,
    /// Packets of all kinds.
    pub packets: u64,
    /// Objects fully sent.
    pub objects: u64,
    /// Bytes of objects waiting or being sent.
    pub queued_bytes: u64,
    /// Objects waiting or being sent.
    pub queued_objects: usize,
}

/// See the module.
#[derive(Debug)]
pub struct SendSession {
    config: SendConfig,
}

impl SendSession {
    /// A session with nothing to send.
    pub fn new(config: SendConfig) -> SendSession {
        SendSession { config }
    }

    /// One input; then drain [`SendSession::poll_output`].
    pub fn handle_input(&mut self, input: Input) {
        let _ = (input, &self.config);
        todo!("engine")
    }

    /// Next output. A [`Transmit`]'s packets are written to `buf` (cleared first).
    pub fn poll_output(&mut self, buf: &mut Vec<u8>) -> Output {
        let _ = buf;
        todo!("engine")
    }

    /// Counters.
    pub fn stats(&self) -> &SendStats {
        todo!("engine")
    }

    /// The last packet of a session: A flag set (RFC 5775 section 4.1). For shutdown.
    pub fn close_packet(&self) -> Bytes {
        todo!("engine")
    }
}
