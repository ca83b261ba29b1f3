//! FDT Instances of a session: what they list, when they are too long, and their packets.

use super::SendConfig;
use crate::fec::Blocks;
use crate::fec::partition::source_oti;
use crate::ids::{Toi, Tsi};
use crate::object::ObjectMeta;
use crate::time::WallTime;
use crate::wire::alc::{AlcRepr, PayloadId};
use crate::wire::ext::ExtFdt;
use crate::wire::fdt::{FdtFile, FdtInstance};
use crate::wire::fti::{NO_CODE, Oti};
use std::collections::VecDeque;
use std::time::Duration;

/// FDT version of EXT_FDT: 1, what RFC 3926, 3GPP and DVB receivers read (RFC 6726 has 2).
const FLUTE_VERSION: u8 = 1;
/// FDT Instance IDs have 20 bits.
const INSTANCE_ID_MASK: u32 = 0xf_ffff;
/// What a signature adds to an instance, about.
const SIGNATURE_BYTES: usize = 110;

/// Of two senders of one session, packets of FDT Instances must not be taken for one another's: they begin far apart.
fn first_instance(config: &SendConfig) -> u32 {
    if !config.toi_of_content {
        return config.first_toi;
    }
    let [a, b, c, d, ..] = *blake3::hash(&config.session.to_be_bytes()).as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// FDT Instances of an object that is large enough: each has it, so that one packet of them is enough.
const INSTANCES: u64 = 2;
/// More than one only where they take at most this part of the object.
const SHARE: u64 = 16;

/// An object, how often it was listed, and the packets of its announcement while these are good.
#[derive(Debug)]
struct Entry {
    file: FdtFile,
    listed: u32,
    made: Option<(WallTime, Vec<Vec<u8>>)>,
}

/// Knows the newest objects, and announces each several times.
#[derive(Debug)]
pub(super) struct Announcer {
    tsi: Tsi,
    symbol_size: u16,
    session: u64,
    key: Option<crate::auth::SigningKey>,
    lifetime: Duration,
    window: usize,
    instance_id: u32,
    /// Newest first.
    entries: VecDeque<Entry>,
}

impl Announcer {
    pub(super) fn new(config: &SendConfig) -> Announcer {
        Announcer {
            tsi: config.tsi,
            symbol_size: config.symbol_size.max(1),
            session: config.session,
            key: config.key.clone(),
            lifetime: config.fdt_lifetime,
            window: config.fdt_window.max(1),
            // Started from the TOI, which goes on over restarts: a receiver must not take this run's first instances for
            // those of the run before.
            instance_id: first_instance(config) & INSTANCE_ID_MASK,
            entries: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, toi: Toi, meta: ObjectMeta, oti: Oti, repair_oti: Option<Oti>) {
        let before = self.entries.iter().position(|e| e.file.toi == toi);
        let listed = before.and_then(|at| self.entries.remove(at)).map_or(0, |e| e.listed);
        self.entries.truncate(self.window - 1);
        let file = FdtFile {
            toi,
            meta,
            content_encoding: None,
            oti: Some(oti),
            repair_oti,
            content_md5: None,
            content_digest: None,
        };
        self.entries.push_front(Entry { file, listed, made: None });
    }

    /// Packets that announce an object of this length: the same each time, while they are good.
    pub(super) fn announce(&mut self, toi: Toi, wall: WallTime, length: u64) -> Vec<Vec<u8>> {
        let at = self.entries.iter().position(|e| e.file.toi == toi).unwrap_or(0);
        let made = self.entries.get(at).and_then(|e| e.made.as_ref());
        if let Some((_, packets)) = made.filter(|(made, _)| wall < *made + self.lifetime / 4) {
            return packets.clone();
        }
        let packets = self.instances(at, wall, length);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.made = Some((wall, packets.clone()));
        }
        packets
    }

    /// Packets of FDT Instances with the object at `at`, and of the others those that were listed least, as far as they fit into the
    /// packets that the object needs (one, with URLs of usual length): an instance of two is lost twice as often.
    fn instances(&mut self, at: usize, wall: WallTime, length: u64) -> Vec<Vec<u8>> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let room = self.size(&[at], wall).next_multiple_of(self.symbol_size.into());
        let mut others: Vec<usize> = (0..self.entries.len()).filter(|i| *i != at).collect();
        others.sort_by_key(|i| self.entries[*i].listed);
        let mut packets = Vec::new();
        for _ in 0..(length / SHARE / room).clamp(1, INSTANCES) {
            let mut listed = vec![at];
            others.retain(|other| {
                listed.push(*other);
                let fits = self.size(&listed, wall) <= room;
                listed.truncate(listed.len() - usize::from(!fits));
                !fits
            });
            self.instance_id = (self.instance_id + 1) & INSTANCE_ID_MASK;
            packets.extend(self.packets(&self.xml(&listed, wall)));
            listed.into_iter().for_each(|i| self.entries[i].listed += 1);
        }
        packets
    }

    /// Bytes of an instance with these entries.
    fn size(&self, listed: &[usize], wall: WallTime) -> u64 {
        (self.list(listed, wall).to_xml().len() + SIGNATURE_BYTES) as u64
    }

    fn list(&self, listed: &[usize], wall: WallTime) -> FdtInstance {
        FdtInstance {
            expires_ntp: (wall + self.lifetime).ntp_secs(),
            complete: false,
            session: (self.session != 0).then_some(self.session),
            files: listed.iter().filter_map(|i| self.entries.get(*i)).map(|e| e.file.clone()).collect(),
        }
    }

    fn xml(&self, listed: &[usize], wall: WallTime) -> Vec<u8> {
        let instance = self.list(listed, wall);
        match &self.key {
            // Sealing our own instance cannot fail: it has the one signature field.
            Some(key) => instance.seal(self.tsi, key).unwrap_or_default(),
            None => instance.to_xml(),
        }
    }

    fn packets(&self, xml: &[u8]) -> Vec<Vec<u8>> {
        let oti = source_oti(xml.len() as u64, self.symbol_size);
        let Ok(blocks) = Blocks::of(&oti, u64::MAX) else { return Vec::new() };
        xml.chunks(usize::from(self.symbol_size))
            .zip(0u64..)
            .map(|(symbol, index)| {
                let mut packet = Vec::with_capacity(symbol.len() + 44);
                AlcRepr { fti: Some(oti), fdt: Some(self.ext()), ..self.repr(blocks.locate(index)) }
                    .emit(&mut packet);
                packet.extend_from_slice(symbol);
                packet
            })
            .collect()
    }

    const fn ext(&self) -> ExtFdt {
        ExtFdt { version: FLUTE_VERSION, instance_id: self.instance_id }
    }

    /// A packet of TOI 0 without extensions.
    pub(super) const fn repr(&self, payload_id: PayloadId) -> AlcRepr {
        AlcRepr {
            tsi: self.tsi,
            toi: Toi::FDT,
            codepoint: NO_CODE,
            close_session: false,
            close_object: false,
            fti: None,
            fdt: None,
            cenc: None,
            sender_time: None,
            payload_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::WireProfile;
    use crate::testing::{Pair, by_url, configs, segment};
    use crate::wire::alc::AlcPacket;
    use str0m_netem::NetemConfig;

    /// EXT_FDT has 20 bits for the Instance ID: a bit more would be taken for the version.
    #[test]
    fn instance_ids_wrap_at_20_bits() {
        let (mut send, recv) = configs(WireProfile::Mabr, 100_000_000);
        send.first_toi = 0xff_fffd;
        let mut announcer = Announcer::new(&send);
        let ids: Vec<u32> = (0..4u64)
            .map(|i| {
                announcer.add(Toi(i.into()), segment(i, 5000).meta, source_oti(5000, 1344), None);
                let wall = WallTime::from_unix_secs(1_800_000_000);
                let packets = announcer.announce(Toi(i.into()), wall, 5000);
                let fdt = packets.first().and_then(|p| AlcPacket::parse(p).unwrap().fdt).unwrap();
                assert_eq!(fdt.version, FLUTE_VERSION);
                fdt.instance_id
            })
            .collect();
        assert_eq!(ids, [0xf_fffe, 0xf_ffff, 0, 1]);
        // A receiver goes on over the wrap.
        let mut pair = Pair::new(send, recv, NetemConfig::new());
        for i in 0..5 {
            pair.send(segment(i, 5000));
            pair.run_for(Duration::from_millis(100));
        }
        assert_eq!(by_url(&pair.log).len(), 5);
        assert_eq!(pair.receiver.stats().drops.faults(), 0);
    }
}
