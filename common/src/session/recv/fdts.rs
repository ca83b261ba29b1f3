//! FDT Instances coming together from the packets of TOI 0.

use super::RecvSession;
use super::assembly::{Assembly, Cut};
use super::path::Path;
use crate::drop::DropReason;
use crate::limits;
use crate::time::Time;
use crate::wire::alc::{AlcPacket, PayloadId};
use crate::wire::ext::{ContentEncoding, ExtFdt};
use crate::wire::fti::Oti;
use std::time::Duration;

/// An FDT Instance that was read is not assembled again for this long.
const FDT_MEMORY: Duration = Duration::from_secs(2);

/// An FDT Instance under assembly. Only its signature tells a true one from a forged one, so those that have one Instance ID
/// and are cut or encoded differently are collected side by side: the first packet decides nothing for the others.
#[derive(Debug)]
pub(super) struct FdtAssembly {
    instance_id: u32,
    oti: Oti,
    encoding: Option<ContentEncoding>,
    pub(super) assembly: Assembly,
}

impl FdtAssembly {
    /// Whether a packet is of this one; one without OTI may be.
    fn takes(&self, instance_id: u32, packet: &AlcPacket<'_>) -> bool {
        let alike = |oti| (oti, packet.cenc) == (self.oti, self.encoding);
        self.instance_id == instance_id && packet.fti.is_none_or(alike)
    }

    fn store(&mut self, packet: &AlcPacket<'_>, id: PayloadId, now: Time) -> Result<(), DropReason> {
        let place = self.assembly.place(packet.codepoint, id, packet.payload.len())?;
        if self.assembly.bytes + self.assembly.cost(place) > limits::FDT_ASSEMBLY_BYTES {
            return Err(DropReason::ByteLimit);
        }
        self.assembly.store(place, packet.payload, Path::Multicast, now).map(drop)
    }
}

impl RecvSession {
    pub(super) fn fdt_symbol(
        &mut self,
        fdt: ExtFdt,
        packet: &AlcPacket<'_>,
        id: PayloadId,
    ) -> Result<(), DropReason> {
        let (now, instance_id) = (self.now, fdt.instance_id);
        if self.fdts_read.get(&instance_id).is_some_and(|at| now < *at + FDT_MEMORY) {
            return Err(DropReason::Late);
        }
        if !self.fdts.iter().any(|f| f.takes(instance_id, packet)) {
            self.begin_fdt(instance_id, packet)?;
        }
        let mut result = Err(DropReason::BadFdt);
        let mut changed = Vec::new();
        for entry in self.fdts.iter_mut().filter(|f| f.takes(instance_id, packet)) {
            let stored = entry.store(packet, id, now);
            if stored.is_ok() {
                changed.push(entry.assembly.id);
            }
            result = result.or(stored);
        }
        changed.into_iter().for_each(|id| self.after_fdt_symbol(id));
        result
    }

    fn begin_fdt(&mut self, instance_id: u32, packet: &AlcPacket<'_>) -> Result<(), DropReason> {
        let oti = packet.fti.ok_or(DropReason::BadFti)?;
        let cut = Cut::new(Some(&oti), None, limits::FDT_BYTES as u64)?;
        if self.fdts.iter().any(|f| f.instance_id == instance_id) {
            self.stats.drops.count(DropReason::OtiConflict);
        }
        self.make_room_for_fdt();
        let assembly = Assembly::new(self.new_id(), cut, self.now);
        self.fdts.push(FdtAssembly { instance_id, oti, encoding: packet.cenc, assembly });
        Ok(())
    }

    fn make_room_for_fdt(&mut self) {
        let oldest = (0..self.fdts.len()).min_by_key(|i| self.fdts[*i].assembly.last_symbol);
        if let Some(oldest) = oldest.filter(|_| self.fdts.len() >= limits::FDT_INSTANCES_IN_FLIGHT) {
            self.fdts.remove(oldest);
            self.stats.drops.count(DropReason::ObjectLimit);
        }
    }

    /// Has the FDT Instance with this handle decoded, or reads it.
    pub(super) fn after_fdt_symbol(&mut self, id: u64) {
        let Some(at) = self.fdts.iter().position(|f| f.assembly.id == id) else { return };
        if let Some(job) = self.fdts[at].assembly.solve(self.now) {
            self.commands.push_back(job);
        }
        if !self.fdts[at].assembly.is_complete() {
            return;
        }
        let FdtAssembly { instance_id, encoding, assembly, .. } = self.fdts.remove(at);
        // One that was refused (forged, damaged) must not stand in the way of the real one of the same ID.
        if self.accept_fdt(&assembly.payload().to_bytes(), encoding, true) {
            self.opened = true;
            self.fdts.retain(|f| f.instance_id != instance_id);
            if self.fdts_read.len() >= limits::REMEMBERED_TOIS {
                self.fdts_read.clear();
            }
            self.fdts_read.insert(instance_id, self.now);
        }
    }

    /// Gives up what has had no symbol for too long. The rest of one that was read before and came again is no loss.
    pub(super) fn expire_fdts(&mut self) {
        let (now, timeout) = (self.now, self.config.object_timeout);
        let old = self.fdts.extract_if(.., |f| now >= f.assembly.last_symbol + timeout);
        let unread = old.filter(|f| !self.fdts_read.contains_key(&f.instance_id)).count();
        self.stats.drops.add(DropReason::Incomplete, unread as u64);
    }
}
