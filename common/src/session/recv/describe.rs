//! FDT Instances at the receiver: decompression, signature, expiry, and what each `File` tells the session.

use super::{Event, RecvSession};
use crate::drop::DropReason;
use crate::ids::Toi;
use crate::limits;
use crate::object::ObjectMeta;
use crate::session::recv::assembly::{Assembly, Cut};
use crate::session::recv::waiting::Waiting;
use crate::time::WallTime;
use crate::wire::ext::ContentEncoding;
use crate::wire::fdt::{FdtFile, FdtInstance};
use std::io::Read as _;
use std::time::Duration;

/// A description of another run with a lower identity is believed only after the current run was silent for this long.
const SESSION_SILENCE: Duration = Duration::from_secs(5);

impl RecvSession {
    /// Reads a complete FDT Instance. Returns whether it was accepted. `newest`: the first object that it lists is being sent now.
    pub(super) fn accept_fdt(
        &mut self,
        bytes: &[u8],
        encoding: Option<ContentEncoding>,
        newest: bool,
    ) -> bool {
        match self.read_fdt(bytes, encoding) {
            Ok(instance) => {
                self.stats.fdt_instances += 1;
                for (i, file) in instance.files.into_iter().enumerate() {
                    if let Err(reason) = self.describe(file, newest && i == 0) {
                        self.stats.drops.count(reason);
                    }
                }
                true
            }
            Err(reason) => {
                self.stats.drops.count(reason);
                false
            }
        }
    }

    fn read_fdt(
        &mut self,
        bytes: &[u8],
        encoding: Option<ContentEncoding>,
    ) -> Result<FdtInstance, DropReason> {
        let xml = inflate(bytes, encoding.unwrap_or(ContentEncoding::Null)).ok_or(DropReason::BadFdt)?;
        let tsi = self.config.tsi.unwrap_or_default();
        let read = match &self.config.key {
            Some(key) => FdtInstance::open(&xml, tsi, key),
            None => FdtInstance::parse(&xml),
        };
        let instance = read.map_err(|e| e.reason())?;
        if self.is_expired(instance.expires_ntp) {
            return Err(DropReason::ExpiredFdt);
        }
        if let Some(session) = instance.session {
            self.enter_session(session)?;
        }
        Ok(instance)
    }

    /// NTP seconds wrap in 2036: compared as a signed distance.
    fn is_expired(&self, expires_ntp: u32) -> bool {
        if self.wall == WallTime::default() {
            return false;
        }
        let distance = expires_ntp.wrapping_sub(self.wall.ntp_secs()).cast_signed();
        i64::from(distance) + (self.config.clock_tolerance.as_secs() as i64) < 0
    }

    /// A description is of a run that is known, or of a new one. A run of a higher identity takes the place of the one that has
    /// been silent longest at once; one of a lower identity (a replay, or a sender whose clock went back) only when that was
    /// silent for a while.
    fn enter_session(&mut self, session: u64) -> Result<(), DropReason> {
        let now = self.now;
        if let Some((_, heard)) = self.sessions.iter_mut().find(|(known, _)| *known == session) {
            *heard = now;
            return Ok(());
        }
        let senders = self.config.senders.max(1);
        if self.sessions.len() < senders {
            self.sessions.push((session, now));
            return Ok(());
        }
        let Some(place) = self.sessions.iter_mut().min_by_key(|(_, heard)| *heard) else { return Ok(()) };
        if session < place.0 && now < place.1 + SESSION_SILENCE {
            return Err(DropReason::OldSession);
        }
        *place = (session, now);
        if senders == 1 {
            // With a standby, another sender goes on with the same objects.
            self.abandon_session();
        }
        self.events.push_back(Event::NewSession { session });
        Ok(())
    }

    fn describe(&mut self, file: FdtFile, newest: bool) -> Result<(), DropReason> {
        if file.toi == Toi::FDT || !self.is_acceptable(&file) {
            return Err(DropReason::BadFdt);
        }
        let toi = file.toi;
        if let Some(known) = self.finished.get(&toi) {
            // The same object again, or one that we know only by its packets. A sender without signatures may reuse TOIs.
            if known.described_as.is_none_or(|known| known == file.meta.fingerprint()) {
                return Ok(());
            }
            self.finished.remove(&toi);
        }
        if self.is_described(&file)? {
            return Ok(());
        }
        self.start_described(file, newest)
    }

    fn is_acceptable(&self, file: &FdtFile) -> bool {
        let digested =
            file.meta.digest.is_some() || (self.config.allow_undigested && self.config.key.is_none());
        digested && file.content_encoding.is_none()
    }

    /// Whether an object under assembly already has this description. A contradiction is refused when descriptions are
    /// signed (the first one was signed too), and replaces the object when they are not.
    fn is_described(&mut self, file: &FdtFile) -> Result<bool, DropReason> {
        let known =
            self.objects.get(&file.toi).and_then(|a| a.meta.as_ref()).or_else(|| self.waiting.get(file.toi));
        match known {
            Some(meta) if is_same(meta, &file.meta) => Ok(true),
            Some(_) if self.config.key.is_some() => Err(DropReason::FdtConflict),
            Some(_) => {
                self.stats.drops.count(DropReason::FdtConflict);
                self.remove(file.toi);
                self.waiting.take(file.toi);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn start_described(&mut self, file: FdtFile, newest: bool) -> Result<(), DropReason> {
        let (toi, meta) = (file.toi, file.meta.clone());
        if file.oti.is_none() && file.repair_oti.is_none() {
            self.wait_for_fti(toi, file.meta)?;
        } else {
            let cut = Cut::new(file.oti.as_ref(), file.repair_oti.as_ref(), self.config.max_object_bytes)?;
            self.attach(toi, cut, file)?;
            let early = self.may_precede_join(newest);
            if let Some(object) = self.objects.get_mut(&toi) {
                object.early |= early;
            }
        }
        self.supersede(toi, newest);
        self.events.push_back(Event::Announced { toi, meta, newest });
        self.replay_held(toi);
        self.after_symbol(toi);
        Ok(())
    }

    /// An object begins: those before it have had their time. One that is not the newest was sent before.
    fn supersede(&mut self, toi: Toi, newest: bool) {
        let now = self.now;
        let over = self.objects.iter_mut().filter(|(other, _)| (**other == toi) != newest);
        for (_, object) in over {
            if object.meta.is_some() {
                object.superseded.get_or_insert(now);
            }
        }
    }

    /// A description without OTI: the EXT_FTI of a packet completes it.
    fn wait_for_fti(&mut self, toi: Toi, meta: ObjectMeta) -> Result<(), DropReason> {
        self.reserve(toi, Waiting::cost(&meta), true)?;
        if let Some(object) = self.objects.get_mut(&toi) {
            object.describe(meta);
        } else if self.waiting.push(toi, meta, self.now) {
            self.stats.drops.count(DropReason::ObjectLimit);
        }
        Ok(())
    }

    /// Gives the description to symbols that came before it, or starts the object. A signed description that contradicts the
    /// EXT_FTI of earlier packets wins: those packets were damaged or forged.
    fn attach(&mut self, toi: Toi, cut: Cut, file: FdtFile) -> Result<(), DropReason> {
        let max = self.config.max_object_bytes;
        let agrees =
            |a: &Assembly| [file.oti, file.repair_oti].iter().flatten().all(|o| a.cut().agrees(o, max));
        if self.objects.get(&toi).is_some_and(|a| !agrees(a)) {
            self.remove(toi);
            self.stats.drops.count(DropReason::OtiConflict);
        }
        let meta_bytes = file.meta.heap_bytes();
        match self.objects.contains_key(&toi) {
            true => self.reserve(toi, meta_bytes, true)?,
            false => self.insert(toi, cut, true, meta_bytes)?,
        }
        if let Some(object) = self.objects.get_mut(&toi) {
            object.learn(cut);
            object.describe(file.meta);
        }
        Ok(())
    }
}

/// Whether two descriptions are of the same bytes. Two senders of a channel may have had them at different times, and with
/// different headers.
fn is_same(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a == b
        || (a.digest.is_some()
            && (&a.url, a.range, a.length, a.digest) == (&b.url, b.range, b.length, b.digest))
}

/// Undoes EXT_CENC, bounded.
fn inflate(bytes: &[u8], encoding: ContentEncoding) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let limit = limits::FDT_BYTES as u64 + 1;
    match encoding {
        ContentEncoding::Null => out.extend_from_slice(bytes),
        ContentEncoding::Zlib => {
            _ = flate2::read::ZlibDecoder::new(bytes).take(limit).read_to_end(&mut out).ok()?
        }
        ContentEncoding::Deflate => {
            _ = flate2::read::DeflateDecoder::new(bytes).take(limit).read_to_end(&mut out).ok()?;
        }
        ContentEncoding::Gzip => {
            _ = flate2::read::GzDecoder::new(bytes).take(limit).read_to_end(&mut out).ok()?
        }
    }
    (out.len() <= limits::FDT_BYTES).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::SigningKey;
    use crate::catalog::WireProfile;
    use crate::fec::partition::source_oti;
    use crate::session::recv::{Input, Output, Path};
    use crate::testing::{configs, segment};
    use crate::time::Time;

    const WALL: WallTime = WallTime::from_unix_secs(1_800_000_000);

    fn record(toi: u128, key: &SigningKey) -> (Vec<u8>, crate::Object) {
        let object = segment(toi as u64, 50_000);
        let file = FdtFile {
            toi: Toi(toi),
            meta: object.meta.clone(),
            content_encoding: None,
            oti: Some(source_oti(50_000, 1344)),
            repair_oti: None,
            content_md5: None,
            content_digest: None,
        };
        let expires_ntp = (WALL + Duration::from_secs(60)).ntp_secs();
        let (send, _) = configs(WireProfile::Mabr, 1);
        let instance = FdtInstance { expires_ntp, complete: false, session: None, files: vec![file] };
        (instance.seal(send.tsi, key).expect("a record"), object)
    }

    fn events(session: &mut RecvSession) -> Vec<Event> {
        let poll = || match session.poll_output() {
            Output::Event(event) => Some(event),
            _ => None,
        };
        std::iter::from_fn(poll).collect()
    }

    #[test]
    fn what_is_described_aside_needs_no_packet() {
        let (send, recv) = configs(WireProfile::Mabr, 1);
        let key = send.key.expect("a key");
        let mut session = RecvSession::new(recv);
        let now = Time::from_secs(1);
        let describe = |session: &mut RecvSession, newest, instance: &[u8]| {
            session.handle_input(Input::Description { now, wall: WALL, newest, instance });
            events(session)
        };
        let (second, object) = record(2, &key);
        assert!(matches!(
            describe(&mut session, true, &second)[..],
            [Event::Announced { toi: Toi(2), newest: true, .. }]
        ));
        assert!(describe(&mut session, true, &second).is_empty(), "once");
        assert!(session.lack(Toi(2)).is_some_and(|lack| lack.missing() == lack.source_symbols));
        let (first, _) = record(1, &key);
        assert!(matches!(
            describe(&mut session, false, &first)[..],
            [Event::Announced { toi: Toi(1), newest: false, .. }]
        ));
        let bytes = &object.data;
        session.handle_input(Input::Bytes { now, toi: Toi(2), path: Path::Moq, offset: 0, bytes });
        let complete = events(&mut session);
        let [Event::Complete { toi: Toi(2), how, .. }] = &complete[..] else { panic!("{complete:?}") };
        assert_eq!(how.bytes.get(Path::Moq), 50_000);
        assert!(describe(&mut session, true, &second).is_empty(), "complete");
        let (forged, _) = record(3, &SigningKey::from_seed(&[1; 32]));
        assert!(describe(&mut session, true, &forged).is_empty());
        assert_eq!(session.stats().drops.faults(), 1);
    }
}
