//! Newtypes for the identifiers of ALC and FEC, so that one cannot be taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Transport Session Identifier (RFC 5651 section 5.1): 0 to 48 bits. We send 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tsi(pub u64);

/// Transport Object Identifier (RFC 5651 section 5.1): 0 to 112 bits. We send 32. Zero is the FDT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toi(pub u128);

impl Toi {
    /// The object that carries FDT Instances (RFC 6726 section 3.4).
    pub const FDT: Toi = Toi(0);
}

/// Source Block Number (RFC 5052).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbn(pub u32);

/// Encoding Symbol ID (RFC 5052): 16 bits for FEC Encoding ID 0, 24 bits for 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Esi(pub u32);

macro_rules! display_inner {
    ($($t:ident),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_inner!(Tsi, Toi, Sbn, Esi);
