//! What goes into the receiving engine and what comes out.

use super::path::{ByPath, Path};
use super::pool::Pool;
use crate::drop::{DropCounters, DropReason};
use crate::fec::{DecodeJob, DecodeResult};
use crate::ids::{Toi, Tsi};
use crate::limits;
use crate::object::{ObjectMeta, Payload};
use crate::time::{Time, WallTime};
use crate::wire::alc::PayloadId;
use std::sync::Arc;
use std::time::Duration;

/// Parameters of a [`RecvSession`](super::RecvSession).
#[derive(Clone, Debug)]
pub struct RecvConfig {
    /// TSI of the source flow; `None` = take the first TSI heard (only for `source@group:port` without description).
    pub tsi: Option<Tsi>,
    /// TSI of the repair flow, where it differs.
    pub repair_tsi: Option<Tsi>,
    /// TSI of the second repair layer, where there is one.
    pub layer_2_tsi: Option<Tsi>,
    /// Key that FDT Instances must be signed with; `None` = unsigned accepted (interoperation only).
    pub key: Option<crate::auth::VerifyingKey>,
    /// Whether objects without a digest are accepted (foreign senders). Never with `key`.
    pub allow_undigested: bool,
    /// Senders of this session that may be at work at a time: 1, and one for each hot standby.
    pub senders: usize,
    /// Bytes of objects under assembly that this session has for itself.
    pub assembly_bytes: u64,
    /// Where it borrows more for objects that are described.
    pub pool: Option<Arc<Pool>>,
    /// Most that it borrows.
    pub borrowed_bytes: u64,
    /// Largest object.
    pub max_object_bytes: u64,
    /// Bytes of packets held for their FDT.
    pub held_bytes: usize,
    /// An object without any new symbol for this long is given up.
    pub object_timeout: Duration,
    /// How far this box's wall clock may be ahead of the sender's before FDT Instances seem expired.
    pub clock_tolerance: Duration,
}

impl Default for RecvConfig {
    /// Any TSI, nothing signed, nothing without digest, 48 MiB of assembly.
    fn default() -> RecvConfig {
        RecvConfig {
            tsi: None,
            repair_tsi: None,
            layer_2_tsi: None,
            key: None,
            allow_undigested: false,
            senders: 1,
            assembly_bytes: 48 << 20,
            pool: None,
            borrowed_bytes: 0,
            max_object_bytes: limits::OBJECT_BYTES,
            held_bytes: limits::HELD_BYTES,
            object_timeout: Duration::from_secs(20),
            clock_tolerance: Duration::from_secs(300),
        }
    }
}

/// What goes in.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram of the source or the repair flow (told apart by TSI and codepoint).
    Packet {
        /// Now.
        now: Time,
        /// Wall clock, for FDT expiry.
        wall: WallTime,
        /// The datagram.
        datagram: &'a [u8],
    },
    /// Bytes of an object that came another way (HTTP range): whole source symbols in them are used.
    Bytes {
        /// Now.
        now: Time,
        /// The object.
        toi: Toi,
        /// Which way.
        path: Path,
        /// Offset of `bytes` in the object.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Encoding symbols of one block that came another way (repair service, MoQ): of consecutive ESIs, each T bytes long.
    /// They enter the decoder that the packets feed.
    Symbols {
        /// Now.
        now: Time,
        /// The object.
        toi: Toi,
        /// Which way.
        path: Path,
        /// The block, and the ESI of the first.
        first: PayloadId,
        /// One after the other.
        symbols: &'a [u8],
    },
    /// An FDT Instance that came another way than in packets (a record of a MoQ manifest track). It is held to the same rules.
    Description {
        /// Now.
        now: Time,
        /// Wall clock, for its expiry.
        wall: WallTime,
        /// Whether what it describes is being sent now; else it was sent before.
        newest: bool,
        /// The document.
        instance: &'a [u8],
    },
    /// Result of [`Command::Decode`].
    Decoded {
        /// Now.
        now: Time,
        /// The result.
        result: DecodeResult,
    },
    /// The object is here by another way (unicast, or still in the store from an earlier round): stop collecting it.
    Forget {
        /// Now.
        now: Time,
        /// The object.
        toi: Toi,
    },
    /// The object is no longer in the store: collect it when it is sent again.
    Reopen {
        /// The object.
        toi: Toi,
    },
    /// The time asked for has come.
    Timeout {
        /// Now.
        now: Time,
    },
}

/// What comes out.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time on the stack; a box would be an allocation an event"
)]
pub enum Output {
    /// Work for another thread.
    Command(Command),
    /// Something happened.
    Event(Event),
    /// Nothing more until this time; `None`: until the next input.
    Timeout(Option<Time>),
}

/// Heavy work.
#[derive(Debug)]
pub enum Command {
    /// Solve a source block: `job.run()` on any thread, then `Input::Decoded`.
    Decode(DecodeJob),
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An FDT Instance described this object: it is on its way (or already under assembly).
    Announced {
        /// Its TOI.
        toi: Toi,
        /// Its description.
        meta: ObjectMeta,
        /// Listed first: it is being sent now. Others of the same instance were sent before, and unless symbols of them
        /// were heard they are of no use to a receiver that has just joined.
        newest: bool,
    },
    /// Complete, length and digest verified.
    Complete {
        /// Its TOI.
        toi: Toi,
        /// Its description.
        meta: ObjectMeta,
        /// Its bytes.
        payload: Payload,
        /// How it came together.
        how: Reception,
    },
    /// Given up, or failed verification.
    Lost {
        /// Its TOI.
        toi: Toi,
        /// Its description, if one was heard.
        meta: Option<ObjectMeta>,
        /// Its transmission did not begin before the join.
        heard_from_start: bool,
        /// Why. After `ByteLimit` and `ObjectLimit` its further symbols are ignored until [`Input::Reopen`].
        reason: DropReason,
    },
    /// A description with another session identity: the sender was restarted; everything unfinished of the old run was dropped.
    NewSession {
        /// Identity of the new run.
        session: u64,
    },
    /// The sender closed the session (A flag).
    Closed,
}

/// How an object came together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// First symbol of it.
    pub first_symbol: Time,
    /// Verified.
    pub completed: Time,
    /// Source symbols of the object.
    pub source_symbols: u64,
    /// Source symbols heard on multicast.
    pub source_received: u64,
    /// Repair symbols heard on multicast.
    pub repair_received: u64,
    /// Source symbols rebuilt by the FEC decoder.
    pub recovered: u64,
    /// Symbols that came another way than by multicast.
    pub fetched: u64,
    /// Bytes of the object by way; they add up to its length.
    pub bytes: ByPath,
    /// Its transmission did not begin before the join: what multicast did not bring of it was lost.
    pub heard_from_start: bool,
}

/// State of an object under assembly, for deadlines and repair.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Its TOI.
    pub toi: Toi,
    /// First symbol of it.
    pub first_symbol: Time,
    /// Last symbol of it.
    pub last_symbol: Time,
    /// Source symbols of the object.
    pub source_symbols: u64,
    /// Symbols still needed (sum over blocks of K - usable symbols, not below 0).
    pub missing_symbols: u64,
    /// Source symbols that were sent before the first that came by multicast: who joins in the middle of an object gets
    /// them only if repair symbols make up for them.
    pub unheard_symbols: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecvStats {
    /// Datagrams.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of objects in the session of the source flow, whatever became of them: late ones, too.
    pub source_packets: u64,
    /// Source symbols stored.
    pub source_symbols: u64,
    /// Repair symbols stored.
    pub repair_symbols: u64,
    /// Source symbols of finished objects that were not heard on multicast (loss before FEC). Objects that were under way at
    /// the join count neither here nor in `expected_symbols`.
    pub lost_symbols: u64,
    /// Source symbols of finished objects (denominator for loss).
    pub expected_symbols: u64,
    /// Source symbols the decoder rebuilt.
    pub recovered_symbols: u64,
    /// Runs of source symbols that the decoder rebuilt, by length ([`crate::repair::report::RUN_BINS`]).
    pub loss_runs: [u64; crate::repair::report::RUN_BINS],
    /// Bytes of complete objects by way.
    pub object_bytes: ByPath,
    /// Objects complete.
    pub objects_complete: u64,
    /// Objects given up.
    pub objects_lost: u64,
    /// Bytes under assembly and held now.
    pub assembly_bytes: u64,
    /// Objects under assembly now.
    pub objects_in_flight: usize,
    /// FDT Instances accepted.
    pub fdt_instances: u64,
    /// Refusals.
    pub drops: DropCounters,
}
