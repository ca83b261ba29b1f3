//! Bounds on what a catalog may make us do.

/// Catalog: refused above this.
pub const CATALOG_BYTES: usize = 1 << 20;
/// Tracks of a catalog: refused above this. Five for each rendition that a session description may have.
pub const CATALOG_TRACKS: usize = 500;
/// Multicast endpoints of a catalog: the binding is refused above this. Each may become a join.
pub const ENDPOINTS: usize = 64;
/// Tracks named by all endpoints together: the binding is refused above this.
pub const BOUND_TRACKS: usize = 400;
/// Symbols that one FETCH of a symbol track may ask for: refused above this.
pub const SYMBOLS_PER_FETCH: u64 = 4096;
/// Initialization segment that a catalog carries: a longer one is left out.
pub const INIT_BYTES: usize = 16 << 10;
