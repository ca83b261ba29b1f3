//! Every bound on what a network can make us keep, in one place, with what happens at the bound.

/// Session description: refused above this.
pub const DESCRIPTION_BYTES: usize = 1 << 20;
/// Channels in a description: refused above this.
pub const DESCRIPTION_CHANNELS: usize = 1000;
/// Renditions of a channel: refused above this.
pub const DESCRIPTION_RENDITIONS: usize = 100;
/// Repair servers of a channel: refused above this.
pub const DESCRIPTION_REPAIR_SERVERS: usize = 16;
/// Standby sources of a channel: refused above this.
pub const DESCRIPTION_STANDBY_SOURCES: usize = 3;

/// Smallest encoding symbol we accept (tiny symbols make huge tables out of small lengths).
pub const SYMBOL_SIZE_MIN: u16 = 8;
/// Largest encoding symbol: what a UDP datagram on a jumbo-frame network carries.
pub const SYMBOL_SIZE_MAX: u16 = 8936;
/// Symbol size we send: header, authentication and symbol stay below 1392 bytes of UDP payload (AMT over PPPoE).
pub const SYMBOL_SIZE_DEFAULT: u16 = 1344;
/// Most repair symbols per hundred source symbols.
pub const REPAIR_PERCENT_MAX: u32 = 400;

/// Largest object: refused above this, before anything is allocated.
pub const OBJECT_BYTES: u64 = 256 << 20;
/// Source blocks of an object (RFC 6330 section 4.4.1.2: Z is at most 256; 255 fits its field).
pub const SOURCE_BLOCKS: u32 = 255;
/// Symbols in a source block (RFC 6330 section 5.1.2).
pub const SYMBOLS_PER_BLOCK: u32 = 56_403;
/// The size objects are cut to for FEC and for memory: K 700 to 1000 at T = 1344 (measured optimum).
pub const BLOCK_BYTES_TARGET: u64 = 1 << 20;

/// FDT Instance, after decompression: refused above this.
pub const FDT_BYTES: usize = 256 << 10;
/// `File` elements in an FDT Instance: refused above this.
pub const FDT_FILES: usize = 256;
/// Length of one attribute value or text in an FDT Instance: refused above this.
pub const FDT_VALUE_BYTES: usize = 8 << 10;
/// Length of a header field of the origin (Content-Type, ETag, Last-Modified, Cache-Control) in an FDT Instance: left out above
/// this, on both sides. Nothing that is decided by them is longer.
pub const FDT_HEADER_BYTES: usize = 1 << 10;
/// Attributes of one element of an FDT Instance: refused above this.
pub const FDT_ATTRIBUTES: usize = 64;
/// Nesting of elements in an FDT Instance: refused above this.
pub const FDT_DEPTH: usize = 16;
/// Header extensions in one LCT header: the packet is refused above this.
pub const HEADER_EXTENSIONS: usize = 16;

/// Objects under assembly in one session: the oldest without progress is given up for a new one.
pub const OBJECTS_IN_FLIGHT: usize = 64;
/// Objects described without OTI, waiting for a packet with it, in one session: the oldest is given up for a new one.
pub const OBJECTS_WAITING: usize = 64;
/// FDT Instances under assembly in one session: the oldest is given up.
pub const FDT_INSTANCES_IN_FLIGHT: usize = 8;
/// Memory of one of them: further symbols are refused. Enough for the largest with half of it lost.
pub const FDT_ASSEMBLY_BYTES: u64 = FDT_BYTES as u64 * 3 / 2;
/// Bytes of packets waiting for their FDT, in one session: the newest is refused.
pub const HELD_BYTES: usize = 8 << 20;
/// Objects with packets waiting for their FDT, in one session: packets of further ones are refused.
pub const HELD_OBJECTS: usize = 256;
/// Completed or abandoned TOIs remembered per session, to tell late symbols from new objects: oldest forgotten.
pub const REMEMBERED_TOIS: usize = 4096;

/// Playlist or MPD: refused above this.
pub const MANIFEST_BYTES: usize = 16 << 20;
/// Lines of a playlist: refused above this.
pub const PLAYLIST_LINES: usize = 400_000;
/// URL or reference in a manifest: longer base URLs are refused, longer references left alone.
pub const URL_BYTES: usize = 8 << 10;
/// EXT-X-DEFINE in a playlist: refused above this.
pub const PLAYLIST_VARIABLES: usize = 1000;
/// Period, AdaptationSet and Representation elements of an MPD: refused above this.
pub const MPD_LEVELS: usize = 50_000;
/// `S` and `SegmentURL` elements of an MPD: refused above this.
pub const MPD_ENTRIES: usize = 500_000;
/// Nesting of an MPD: refused above this.
pub const MPD_DEPTH: usize = 32;
/// Segments enumerated from one Representation: the rest is left out.
pub const MPD_SEGMENTS: usize = 100_000;
