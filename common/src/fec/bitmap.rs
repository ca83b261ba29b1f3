//! Which symbols of a block are there.

/// A set of symbol numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    count: u32,
}

impl Bitmap {
    /// All clear, room for `bits`.
    pub(crate) fn new(bits: u32) -> Bitmap {
        Bitmap { words: vec![0; bits.div_ceil(64) as usize], count: 0 }
    }

    /// Whether `i` is set.
    pub(crate) fn get(&self, i: usize) -> bool {
        self.words.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    /// Sets `i`; false if it was set or is out of room.
    pub(crate) fn set(&mut self, i: usize) -> bool {
        match self.words.get_mut(i / 64) {
            Some(word) if *word >> (i % 64) & 1 == 0 => {
                *word |= 1 << (i % 64);
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Clears `i`.
    pub(crate) fn clear(&mut self, i: usize) {
        if self.get(i)
            && let Some(word) = self.words.get_mut(i / 64)
        {
            *word &= !(1 << (i % 64));
            self.count -= 1;
        }
    }

    /// How many are set.
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }
}
