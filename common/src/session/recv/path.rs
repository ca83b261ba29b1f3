//! Which ways symbols come. All enter the same decoder; each is counted apart.

use super::assembly::Assembly;
use crate::ids::{Sbn, Toi};
use crate::time::Time;

/// Which way a symbol came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Packets of the source and repair flows.
    Multicast,
    /// The sender's repair service, by HTTP.
    Sender,
    /// The origin, by HTTP ranges.
    Origin,
    /// A MoQ publisher.
    Moq,
}

impl Path {
    /// All ways, in metric order.
    pub const ALL: [Path; 4] = [Path::Multicast, Path::Sender, Path::Origin, Path::Moq];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Path::Multicast => "multicast",
            Path::Sender => "sender",
            Path::Origin => "origin",
            Path::Moq => "moq",
        }
    }
}

/// A count for each [`Path`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByPath([u64; Path::ALL.len()]);

impl ByPath {
    /// Of one way.
    pub const fn get(&self, path: Path) -> u64 {
        self.0[path as usize]
    }

    /// Counts `n` more.
    pub const fn add(&mut self, path: Path, n: u64) {
        self.0[path as usize] += n;
    }

    /// Adds another's counts.
    pub fn add_all(&mut self, other: &ByPath) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
    }

    /// What `self` has more than `before`.
    #[must_use]
    pub fn since(&self, before: &ByPath) -> ByPath {
        let mut out = *self;
        for (a, b) in out.0.iter_mut().zip(before.0) {
            *a = a.saturating_sub(b);
        }
        out
    }

    /// Over all ways.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Over all ways but multicast.
    pub fn fetched(&self) -> u64 {
        self.total() - self.get(Path::Multicast)
    }

    /// Each way with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Path, u64)> + '_ {
        Path::ALL.iter().map(|p| (*p, self.get(*p)))
    }
}

/// What an object under assembly still needs: for whoever fetches it another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Its TOI.
    pub toi: Toi,
    /// Length in bytes.
    pub length: u64,
    /// T.
    pub symbol_size: u16,
    /// Whether repair symbols help; without, only source symbols (byte ranges) do.
    pub fountain: bool,
    /// Some symbol that is here is wrong, and more are needed to find out which.
    pub doubtful: bool,
    /// When the object was first heard of, by description or symbol.
    pub since: Time,
    /// First symbol of it.
    pub first_symbol: Option<Time>,
    /// Last symbol of it (`since` before the first).
    pub last_symbol: Time,
    /// When the sender was heard to begin an object after this one.
    pub superseded: Option<Time>,
    /// Source symbols, all blocks.
    pub source_symbols: u64,
    /// Blocks that are not solved, nor being solved.
    pub blocks: Vec<BlockLack>,
}

impl Lack {
    /// Symbols that are missing, all blocks.
    pub fn missing(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.missing)).sum()
    }
}

/// What a source block still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLack {
    /// The block.
    pub sbn: Sbn,
    /// K.
    pub symbols: u32,
    /// Symbols that are here, repair symbols included.
    pub held: u32,
    /// Of these, repair symbols.
    pub repair_held: u32,
    /// Symbols that would solve it: K less those held, and one more than at the last failed attempt. Up to two more are needed
    /// in one case of 200 where repair symbols take part. Of a doubtful object, what the next search for wrong ones needs.
    pub missing: u32,
}

impl Assembly {
    pub(super) fn lack(&self, toi: Toi) -> Lack {
        Lack {
            toi,
            length: self.length(),
            symbol_size: self.cut().storage().symbol_size(),
            fountain: self.cut().is_fountain(),
            doubtful: self.is_doubtful(),
            since: self.since,
            first_symbol: self.first_symbol,
            last_symbol: self.last_symbol,
            superseded: self.superseded,
            source_symbols: self.source_symbols(),
            blocks: self.shortage().collect(),
        }
    }
}
