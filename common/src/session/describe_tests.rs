//! Descriptions that contradict, outlive their time or are forged: what is kept of them, for how long, and what is counted.

use crate::auth::SigningKey;
use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::ids::{Esi, Sbn, Toi};
use crate::limits;
use crate::object::Object;
use crate::session::recv::{Event, Input, Output, RecvConfig, RecvSession};
use crate::testing::{configs, segment};
use crate::time::{Time, WallTime};
use crate::wire::alc::{AlcRepr, PayloadId};
use crate::wire::ext::ExtFdt;
use crate::wire::fdt::{FdtFile, FdtInstance};
use crate::wire::fti::{FecScheme, NO_CODE, Oti};
use std::time::Duration;

const WALL: WallTime = WallTime::from_unix_secs(1_800_000_000);

fn no_code(transfer_length: u64) -> Oti {
    let scheme = FecScheme::NoCode { max_source_block_length: 65_535 };
    Oti { transfer_length, symbol_size: 1344, scheme }
}

fn unsigned() -> RecvConfig {
    RecvConfig { key: None, allow_undigested: true, ..configs(WireProfile::Mabr, 1).1 }
}

fn signed() -> (RecvConfig, SigningKey) {
    let (send, recv) = configs(WireProfile::Mabr, 1);
    (recv, send.key.expect("a key"))
}

fn file(toi: u128, object: &Object, oti: Option<Oti>) -> FdtFile {
    FdtFile {
        toi: Toi(toi),
        meta: object.meta.clone(),
        content_encoding: None,
        oti,
        repair_oti: None,
        content_md5: None,
        content_digest: None,
    }
}

fn instance(files: Vec<FdtFile>, expires_ntp: u32) -> FdtInstance {
    FdtInstance { expires_ntp, complete: false, session: None, files }
}

/// One that has an hour to go.
fn fresh(files: Vec<FdtFile>) -> FdtInstance {
    instance(files, (WALL + Duration::from_secs(3600)).ntp_secs())
}

fn packet(toi: u128, fdt: Option<u32>, fti: Option<Oti>, esi: u32, symbol: &[u8]) -> Vec<u8> {
    let repr = AlcRepr {
        tsi: configs(WireProfile::Mabr, 1).0.tsi,
        toi: Toi(toi),
        codepoint: NO_CODE,
        close_session: false,
        close_object: false,
        fti,
        fdt: fdt.map(|instance_id| ExtFdt { version: 1, instance_id }),
        cenc: None,
        sender_time: None,
        payload_id: PayloadId { sbn: Sbn(0), esi: Esi(esi) },
    };
    let mut out = Vec::new();
    repr.emit(&mut out);
    out.extend_from_slice(symbol);
    out
}

/// Packets of an FDT Instance of these bytes.
fn fdt_packets(id: u32, xml: &[u8]) -> Vec<Vec<u8>> {
    let oti = no_code(xml.len() as u64);
    (0..).zip(xml.chunks(1344)).map(|(esi, symbol)| packet(0, Some(id), Some(oti), esi, symbol)).collect()
}

/// Packets of an object, each with its OTI.
fn object_packets(toi: u128, object: &Object) -> Vec<Vec<u8>> {
    let oti = no_code(object.meta.length);
    (0..).zip(object.data.chunks(1344)).map(|(esi, s)| packet(toi, None, Some(oti), esi, s)).collect()
}

/// A session, and what came out of it.
struct Ear {
    session: RecvSession,
    now: Time,
    complete: Vec<Toi>,
}

impl Ear {
    fn new(config: RecvConfig) -> Ear {
        Ear { session: RecvSession::new(config), now: Time::from_secs(1), complete: Vec::new() }
    }

    fn hear<'a>(&mut self, packets: impl IntoIterator<Item = &'a Vec<u8>>) {
        for datagram in packets {
            self.session.handle_input(Input::Packet { now: self.now, wall: WALL, datagram });
            self.drain();
        }
    }

    fn describe(&mut self, wall: WallTime, instance: &FdtInstance) {
        let xml = instance.to_xml();
        self.session.handle_input(Input::Description { now: self.now, wall, newest: true, instance: &xml });
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_input(Input::Timeout { now: self.now });
        self.drain();
    }

    fn drain(&mut self) -> Option<Time> {
        loop {
            match self.session.poll_output() {
                Output::Event(Event::Complete { toi, .. }) => self.complete.push(toi),
                Output::Event(_) | Output::Command(_) => {}
                Output::Timeout(at) => return at,
            }
        }
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.session.stats().drops.get(reason)
    }
}

#[test]
fn a_finished_object_is_known_again_by_its_description_only() {
    let mut ear = Ear::new(unsigned());
    let (a, b) = (segment(1, 5000), segment(2, 5000));
    for (object, complete) in [(&a, 1), (&a, 1), (&b, 2), (&b, 2), (&a, 3)] {
        ear.describe(WALL, &fresh(vec![file(7, object, Some(no_code(5000)))]));
        ear.hear(&object_packets(7, object));
        assert_eq!(ear.complete.len(), complete, "a sender without signatures may reuse TOIs");
    }
    // Any field makes it another, however the strings around it lie.
    let mut other = a.meta.clone();
    (other.etag, other.last_modified) = (Some("xy".into()), Some("z".into()));
    let mut moved = a.meta.clone();
    (moved.etag, moved.last_modified) = (Some("x".into()), Some("yz".into()));
    assert_eq!(a.meta.fingerprint(), a.meta.clone().fingerprint());
    assert!(a.meta.fingerprint() != other.fingerprint() && other.fingerprint() != moved.fingerprint());
}

#[test]
fn descriptions_count_as_memory_and_come_back() {
    for oti in [None, Some(no_code(5000))] {
        let mut ear = Ear::new(RecvConfig { assembly_bytes: 100_000, ..unsigned() });
        let long = |i: u64| {
            let mut object = segment(i, 5000);
            object.meta.url.push_str(&"u".repeat(8000));
            file(i.into(), &object, oti)
        };
        for i in 1..30 {
            ear.describe(WALL, &fresh(vec![long(i)]));
            let held = ear.session.stats().assembly_bytes;
            assert!(held <= 100_000 && held >= 8000 * i.min(11), "{held} after {i} of {oti:?}");
        }
        assert!(ear.drops(DropReason::ByteLimit) > 10, "{:?}", ear.session.stats());
        ear.wait(Duration::from_secs(60));
        assert_eq!(ear.session.stats().assembly_bytes, 0, "{oti:?}");
    }
}

#[test]
fn what_waits_for_its_oti_expires_and_the_oldest_gives_way() {
    let mut ear = Ear::new(unsigned());
    let many = limits::OBJECTS_WAITING as u64 + 1;
    for i in 1..=many {
        ear.describe(WALL, &fresh(vec![file(i.into(), &segment(i, 5000), None)]));
        ear.wait(Duration::from_millis(10));
    }
    assert_eq!(ear.drops(DropReason::ObjectLimit), 1);
    // The newest are there still, and one packet with OTI is enough.
    for i in [many, 2] {
        ear.hear(&object_packets(i.into(), &segment(i, 5000)));
    }
    assert_eq!(ear.complete, [Toi(many.into()), Toi(2)]);
    let timeout = unsigned().object_timeout;
    let wakes = ear.drain().expect("it has to be woken");
    assert!(wakes <= ear.now + timeout);
    ear.wait(timeout);
    assert_eq!(ear.drops(DropReason::Incomplete), many - 3, "those that never had a packet");
    assert_eq!(ear.session.stats().assembly_bytes, 0);
    ear.hear(&object_packets(3, &segment(3, 5000)));
    assert_eq!(ear.complete.len(), 2, "nobody describes it any more");
}

/// One forged packet of another length, or in another encoding, used to take an Instance ID for itself.
#[test]
fn a_forged_fdt_packet_does_not_keep_the_real_instance_out() {
    let (config, key) = signed();
    let files = (1..8).map(|i| file(i.into(), &segment(i, 5000), Some(no_code(5000)))).collect();
    let xml = fresh(files).seal(config.tsi.expect("a TSI"), &key).expect("sealed");
    assert!(xml.len() > 1344, "more than one packet");
    let forged = |length: u64| packet(0, Some(9), Some(no_code(length)), 1, &[b' '; 1344]);
    let real = fdt_packets(9, &xml);
    let mut ear = Ear::new(config);
    ear.hear([&forged(9000), &real[0], &forged(8000)]);
    ear.hear(&real[1..]);
    assert_eq!(ear.session.stats().fdt_instances, 1, "{:?}", ear.session.stats());
    assert_eq!(ear.drops(DropReason::OtiConflict), 2);
    // It was read: what else claims its ID is late, and what was there is gone.
    ear.hear([&forged(9000)]);
    assert_eq!(ear.drops(DropReason::Late), 1);
    ear.hear(&object_packets(3, &segment(3, 5000)));
    assert_eq!(ear.complete, [Toi(3)]);
    ear.wait(Duration::from_secs(60));
    assert_eq!((ear.drops(DropReason::Incomplete), ear.session.stats().assembly_bytes), (0, 0));
}

#[test]
fn an_fdt_instance_that_never_completes_is_counted() {
    let (config, _) = signed();
    let mut ear = Ear::new(config);
    ear.hear([&packet(0, Some(9), Some(no_code(9000)), 1, &[b' '; 1344])]);
    // Without OTI: to whatever has that ID, or nowhere.
    ear.hear([&packet(0, Some(9), None, 2, &[b' '; 1344]), &packet(0, Some(8), None, 2, &[b' '; 1344])]);
    assert_eq!(ear.session.stats().drops.faults(), 1, "{:?}", ear.session.stats());
    assert_eq!(ear.drops(DropReason::BadFti), 1);
    ear.wait(Duration::from_secs(60));
    assert_eq!(ear.drops(DropReason::Incomplete), 1);
}

#[test]
fn a_description_that_contradicts_is_counted_signed_or_not() {
    let (a, b) = (segment(1, 5000), segment(2, 5000));
    let first = fresh(vec![file(7, &a, Some(no_code(5000)))]);
    let second = fresh(vec![file(7, &b, Some(no_code(5000)))]);
    let mut ear = Ear::new(unsigned());
    [&first, &first, &second].into_iter().for_each(|i| ear.describe(WALL, i));
    assert_eq!(ear.drops(DropReason::FdtConflict), 1);
    ear.hear(&object_packets(7, &b));
    assert_eq!(ear.complete, [Toi(7)], "the later one is believed where anybody may be");

    let (config, key) = signed();
    let tsi = config.tsi.expect("a TSI");
    let mut ear = Ear::new(config);
    for (id, instance) in [(1, &first), (2, &first), (3, &second)] {
        ear.hear(&fdt_packets(id, &instance.seal(tsi, &key).expect("sealed")));
    }
    assert_eq!(ear.drops(DropReason::FdtConflict), 1);
    ear.hear(&object_packets(7, &a));
    assert_eq!(ear.complete, [Toi(7)], "the first stays where it was signed");
}

/// `Expires` is 32 bits of NTP seconds, which begin anew on 2036-02-07.
#[test]
fn fdt_instances_expire_by_a_clock_that_may_be_wrong_and_wraps() {
    const WRAP: u64 = (1 << 32) - 2_208_988_800;
    let tolerance = unsigned().clock_tolerance.as_secs();
    for now in [WALL.unix_secs(), WRAP - 1, WRAP, WRAP + 10, WRAP + tolerance] {
        let at = WallTime::from_unix_secs;
        for (expires, good) in [
            (now + 3600, true),
            (now + 1, true),
            (now, true),
            (now - tolerance, true),
            (now - tolerance - 1, false),
            (now - 86_400, false),
        ] {
            let mut ear = Ear::new(unsigned());
            let described = file(7, &segment(1, 5000), Some(no_code(5000)));
            ear.describe(at(now), &instance(vec![described], at(expires).ntp_secs()));
            let accepted = ear.session.stats().fdt_instances == 1;
            assert_eq!(accepted, good, "expires at {expires}, now {now}");
            assert_eq!(ear.drops(DropReason::ExpiredFdt), u64::from(!good));
        }
    }
    // A box that does not know the time yet believes them.
    let mut ear = Ear::new(unsigned());
    ear.describe(WallTime::default(), &instance(Vec::new(), 1));
    assert_eq!(ear.session.stats().fdt_instances, 1);
}
