//! What goes into the sending engine and what comes out.

use crate::catalog::WireProfile;
use crate::fec::{EncodeJob, EncodeResult};
use crate::ids::{Sbn, Toi, Tsi};
use crate::limits;
use crate::object::Object;
use crate::time::{Time, WallTime};
use bytes::Bytes;
use std::time::Duration;

/// Parameters of a [`SendSession`](super::SendSession). Fixed for its life.
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
    /// A second repair layer for those that lose more than the first mends.
    pub layer_2: Option<LayerConfig>,
    /// Whether receivers are told how the repair flow cuts objects, also while the share is 0: without, only source symbols
    /// (byte ranges) can complete an object.
    pub repair_flow: bool,
    /// Pacing rate over both flows, UDP payload bit/s.
    pub rate_bps: u64,
    /// Most packets in one [`Transmit`] (one GSO call).
    pub max_segments: usize,
    /// Identity of this run of the sender, in every FDT Instance.
    pub session: u64,
    /// TOIs follow from what an object is (URL, range, digest), so that every sender of a channel gives the same object the same
    /// TOI, in every run: symbols of a hot standby, and of a restarted sender, add up with those before.
    pub toi_of_content: bool,
    /// First TOI, where they are counted; first FDT Instance. Derived from wall clock by the driver, so that a restart goes on above the TOIs of the run before.
    pub first_toi: u32,
    /// Key for FDT Instances; none = unsigned (interoperation only).
    pub key: Option<crate::auth::SigningKey>,
    /// Validity of an FDT Instance from its sending.
    pub fdt_lifetime: Duration,
    /// How many recent objects each FDT Instance lists, where they fit (see [`SendSession`](super::SendSession)).
    pub fdt_window: usize,
    /// Time over which the second half of an object's repair symbols is spread, so that one outage cannot take them all. The first
    /// half follows the source symbols at once.
    pub repair_spread: Duration,
    /// Set the B flag on an object's last packet. Only where objects are never sent again.
    pub close_objects: bool,
}

/// The second repair layer: a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Its TSI.
    pub tsi: Tsi,
    /// Repair symbols per hundred source symbols.
    pub percent: u32,
}

impl SendConfig {
    /// Defaults for a session of this profile and these TSIs at this rate: T = 1344, 15 % repair, 16-packet batches.
    pub fn new(profile: WireProfile, tsi: Tsi, repair_tsi: Tsi, rate_bps: u64) -> SendConfig {
        SendConfig {
            profile,
            tsi,
            repair_tsi,
            symbol_size: limits::SYMBOL_SIZE_DEFAULT,
            repair_percent: 15,
            layer_2: None,
            repair_flow: true,
            rate_bps,
            max_segments: 16,
            session: 0,
            toi_of_content: false,
            first_toi: 1,
            key: None,
            fdt_lifetime: Duration::from_secs(120),
            fdt_window: 8,
            repair_spread: Duration::from_millis(100),
            close_objects: false,
        }
    }
}

/// Which flow of the rendition a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// Source flow (or the one session).
    Source,
    /// Repair flow.
    Repair,
    /// Second repair layer.
    Layer2,
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
        object: Box<Object>,
    },
    /// Result of [`Command::Encode`].
    Encoded {
        /// Now.
        now: Time,
        /// The result.
        result: EncodeResult,
    },
    /// Receivers lack symbols of an object that was sent: fresh repair symbols for all of them.
    Repair {
        /// Now.
        now: Time,
        /// The object.
        toi: Toi,
        /// Its bytes again.
        data: Bytes,
        /// How many symbols of which blocks.
        blocks: Vec<(Sbn, u32)>,
    },
    /// From now on, this many repair symbols per hundred source symbols.
    Share {
        /// As [`SendConfig::repair_percent`].
        percent: u32,
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
    Encode(EncodeJob),
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
    /// Everything, repair too, has left, but perhaps for symbols of the second layer.
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
    /// Repair packets' bytes, those that receivers asked for included.
    pub repair_bytes: u64,
    /// Of these, those that receivers asked for.
    pub requested_bytes: u64,
    /// Bytes of packets of the second repair layer.
    pub layer_2_bytes: u64,
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
    /// Objects that cannot be carried: longer than 255 blocks of 56,403 symbols, or with a URL that no FDT Instance takes.
    pub refused_objects: u64,
}
