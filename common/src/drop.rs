//! Why something from the network was refused. Each refusal is counted under one of these, never logged per packet.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a packet, an FDT Instance or an object was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in metric order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(DropReason::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than its own header says.
    Truncated = "truncated",
    /// LCT version other than 1.
    BadVersion = "bad_version",
    /// A length field that cannot be (HDR_LEN, HEL 0 or beyond the header).
    BadHeader = "bad_header",
    /// An EXT_FTI that cannot be read or contradicts its FEC Encoding ID.
    BadFti = "bad_fti",
    /// OTI outside our limits or impossible (T = 0, F too large, Z too large).
    BadOti = "bad_oti",
    /// OTI that contradicts what this object, or the FDT Instance of this ID, was started with.
    OtiConflict = "oti_conflict",
    /// FEC Encoding ID (codepoint) that we do not read.
    UnknownFec = "unknown_fec",
    /// TSI that is not of this session.
    WrongTsi = "wrong_tsi",
    /// Packet whose source address is not the session's.
    WrongSource = "wrong_source",
    /// SBN or ESI outside the object's bounds.
    BadPayloadId = "bad_payload_id",
    /// Symbol of the wrong length.
    BadSymbolLength = "bad_symbol_length",
    /// Symbol that is already there (not an error; counted apart).
    Duplicate = "duplicate",
    /// Symbol for an object that is already complete, or no longer wanted (not an error; counted apart).
    Late = "late",
    /// Same symbol with other bytes: one of the two is forged or damaged.
    SymbolConflict = "symbol_conflict",
    /// Symbol that the repair symbols of its block show to be forged or damaged.
    WrongSymbol = "wrong_symbol",
    /// No room: too many objects at once.
    ObjectLimit = "object_limit",
    /// No room: bytes under assembly.
    ByteLimit = "byte_limit",
    /// No room: packets waiting for their FDT.
    HeldLimit = "held_limit",
    /// Packet that waited for its FDT too long.
    HeldExpired = "held_expired",
    /// FDT Instance that is not well-formed, too large, or lacks what it must have.
    BadFdt = "bad_fdt",
    /// FDT Instance whose Expires has passed.
    ExpiredFdt = "expired_fdt",
    /// FDT Instance without a signature where one is required.
    UnsignedFdt = "unsigned_fdt",
    /// FDT Instance whose signature does not verify.
    BadFdtSignature = "bad_fdt_signature",
    /// FDT entry that contradicts an earlier one for the same TOI.
    FdtConflict = "fdt_conflict",
    /// Object whose length or digest does not match the signed FDT.
    DigestMismatch = "digest_mismatch",
    /// Object or FDT Instance that was given up: never completed before its time ran out.
    Incomplete = "incomplete",
    /// The FEC decoder refused or failed.
    DecodeFailed = "decode_failed",
    /// Session description that cannot be read or does not verify.
    BadDescription = "bad_description",
    /// Object of a previous run of the sender.
    OldSession = "old_session",
}

/// A counter for each [`DropReason`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropCounters(Vec<u64>);

impl DropCounters {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `n`.
    pub fn add(&mut self, reason: DropReason, n: u64) {
        if self.0.is_empty() {
            self.0 = vec![0; DropReason::ALL.len()];
        }
        if let Some(slot) = self.0.get_mut(reason as usize) {
            *slot += n;
        }
    }

    /// How many so far.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Reasons seen at least once.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|r| (*r, self.get(*r))).filter(|(_, n)| *n > 0)
    }

    /// All refusals but duplicates and late symbols, which are normal.
    pub fn faults(&self) -> u64 {
        self.iter()
            .filter(|(r, _)| !matches!(r, DropReason::Duplicate | DropReason::Late))
            .map(|(_, n)| n)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These words are metric labels: dashboards and alerts depend on them.
    #[test]
    fn metric_labels_do_not_change() {
        let words: Vec<&str> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        let expected = [
            "truncated",
            "bad_version",
            "bad_header",
            "bad_fti",
            "bad_oti",
            "oti_conflict",
            "unknown_fec",
            "wrong_tsi",
            "wrong_source",
            "bad_payload_id",
            "bad_symbol_length",
            "duplicate",
            "late",
            "symbol_conflict",
            "wrong_symbol",
            "object_limit",
            "byte_limit",
            "held_limit",
            "held_expired",
            "bad_fdt",
            "expired_fdt",
            "unsigned_fdt",
            "bad_fdt_signature",
            "fdt_conflict",
            "digest_mismatch",
            "incomplete",
            "decode_failed",
            "bad_description",
            "old_session",
        ];
        assert_eq!(words, expected);
    }
}
