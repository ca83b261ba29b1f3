//! A receiving engine under attack: no panic, memory within its budgets, each refusal counted by its reason, and
//! afterwards an honest object still arrives.

use mahp_common::auth::SigningKey;
use mahp_common::catalog::WireProfile;
use mahp_common::drop::DropReason;
use mahp_common::session::recv::RecvConfig;
use mahp_common::session::send::SendConfig;
use mahp_common::wire::alc::{AlcPacket, AlcRepr, PayloadId};
use mahp_common::wire::ext::{ContentEncoding, ExtFdt};
use mahp_common::wire::fdt::{FdtFile, FdtInstance};
use mahp_common::wire::fti::{FecScheme, NO_CODE, Oti, RAPTORQ};
use mahp_common::{Esi, Object, ObjectMeta, Sbn, Time, Toi, Tsi, limits};
use mahp_tests::engines::{Datagram, Receiver, START, noise, object, seed, send_all};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;
use std::time::Duration;

const TSI: Tsi = Tsi(1);
const REPAIR_TSI: Tsi = Tsi(2);

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

/// A signed session with small budgets.
fn signed() -> RecvConfig {
    RecvConfig { key: Some(key().verifying_key()), allow_undigested: false, ..unsigned() }
}

/// A session that believes anybody: what an attacker can do most with.
fn unsigned() -> RecvConfig {
    RecvConfig {
        tsi: Some(TSI),
        repair_tsi: Some(REPAIR_TSI),
        allow_undigested: true,
        assembly_bytes: 4 << 20,
        held_bytes: 256 << 10,
        ..RecvConfig::default()
    }
}

/// What a receiver of this configuration may hold at most.
fn budget(config: &RecvConfig) -> u64 {
    let fdts = limits::FDT_INSTANCES_IN_FLIGHT as u64 * limits::FDT_ASSEMBLY_BYTES;
    config.assembly_bytes + config.held_bytes as u64 + fdts
}

fn honest(profile: WireProfile, objects: Vec<Object>) -> Vec<Datagram> {
    let config = SendConfig {
        key: Some(key()),
        session: 5,
        first_toi: 1_000_000,
        ..SendConfig::new(profile, TSI, REPAIR_TSI, 400_000_000)
    };
    send_all(config, objects)
}

thread_local! {
    /// Heap of this thread, and its highest since it was last asked.
    static HEAP: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

/// What engines count is compared with what they really take. Each test has a thread of its own, and so has its engine.
struct Counting;

impl Counting {
    fn change(bytes: i64) {
        // A thread that ends frees memory after its counter is gone.
        _ = HEAP.try_with(|heap| {
            let (now, peak) = heap.get();
            heap.set((now + bytes, peak.max(now + bytes)));
        });
    }
}

// SAFETY: the system's allocator does the work; all requests are passed on as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::change(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Counting::change(-(layout.size() as i64));
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Counting::change(new_size as i64 - layout.size() as i64);
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most heap that a receiver took while it heard these packets, what is made of them included; and the receiver.
fn heap_of(config: &RecvConfig, packets: impl Iterator<Item = Vec<u8>>) -> (u64, Receiver) {
    let before = HEAP.get().0;
    HEAP.set((before, before));
    let mut receiver = Receiver::new(config.clone());
    for packet in packets {
        receiver.push(receiver.now + Duration::from_micros(10), &packet);
        receiver.complete.clear();
        receiver.lost.clear();
    }
    (u64::try_from(HEAP.get().1 - before).unwrap_or(0), receiver)
}

/// The budget, with a tenth for what allocators and lists that grow take, and what thousands of remembered TOIs do.
fn real_budget(config: &RecvConfig) -> u64 {
    budget(config) * 11 / 10 + (1 << 20)
}

/// After whatever happened, memory was bounded and an honest object comes through.
fn assert_survived(mut receiver: Receiver, config: &RecvConfig) {
    assert!(receiver.peak_bytes <= budget(config), "{} bytes held", receiver.peak_bytes);
    receiver.wait(Duration::from_secs(60));
    assert_eq!(
        receiver.session.stats().assembly_bytes,
        0,
        "memory comes back: {:?}",
        receiver.session.stats()
    );
    receiver.complete.clear();
    let good = object("honest.ts", noise(100_000, 77));
    for packet in honest(WireProfile::Mabr, vec![good.clone()]) {
        receiver.push(Time::ZERO, &packet.bytes);
    }
    receiver.wait(Duration::from_secs(1));
    let data: Vec<_> = receiver.complete.iter().map(|(_, payload)| payload.to_bytes()).collect();
    assert_eq!(data, [good.data], "{:?}", receiver.session.stats());
}

fn packet(codepoint: u8, toi: u128, fti: Option<Oti>, sbn: u32, esi: u32, symbol: &[u8]) -> Vec<u8> {
    packet_with(codepoint, toi, fti, None, None, sbn, esi, symbol)
}

#[allow(clippy::too_many_arguments)] // fields of one packet
fn packet_with(
    codepoint: u8,
    toi: u128,
    fti: Option<Oti>,
    fdt: Option<u32>,
    cenc: Option<ContentEncoding>,
    sbn: u32,
    esi: u32,
    symbol: &[u8],
) -> Vec<u8> {
    let repr = AlcRepr {
        tsi: TSI,
        toi: Toi(toi),
        codepoint,
        close_session: false,
        close_object: false,
        fti,
        fdt: fdt.map(|instance_id| ExtFdt { version: 1, instance_id }),
        cenc,
        sender_time: None,
        payload_id: PayloadId { sbn: Sbn(sbn), esi: Esi(esi) },
    };
    let mut out = Vec::new();
    repr.emit(&mut out);
    out.extend_from_slice(symbol);
    out
}

fn no_code(transfer_length: u64, symbol_size: u16, b: u32) -> Oti {
    Oti { transfer_length, symbol_size, scheme: FecScheme::NoCode { max_source_block_length: b } }
}

fn raptorq(transfer_length: u64, symbol_size: u16, z: u8, n: u16, al: u8) -> Oti {
    let scheme = FecScheme::RaptorQ { source_blocks: z, sub_blocks: n, alignment: al };
    Oti { transfer_length, symbol_size, scheme }
}

/// Packets of an FDT Instance with these bytes.
fn fdt_packets(instance_id: u32, cenc: Option<ContentEncoding>, bytes: &[u8]) -> Vec<Vec<u8>> {
    let oti = no_code(bytes.len() as u64, 1344, 65_535);
    let symbols = bytes.chunks(1344).zip(0..);
    symbols.map(|(s, esi)| packet_with(NO_CODE, 0, Some(oti), Some(instance_id), cenc, 0, esi, s)).collect()
}

fn describe(toi: u128, oti: Oti) -> Vec<u8> {
    let meta =
        ObjectMeta { url: format!("http://h/{toi}"), length: oti.transfer_length, ..ObjectMeta::default() };
    let file = FdtFile {
        toi: Toi(toi),
        meta,
        content_encoding: None,
        oti: Some(oti),
        repair_oti: None,
        content_md5: None,
        content_digest: None,
    };
    let expires_ntp = (START + Duration::from_secs(3600)).ntp_secs();
    FdtInstance { expires_ntp, files: vec![file], ..FdtInstance::default() }.to_xml()
}

fn hear<'a>(config: &RecvConfig, packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Receiver {
    let mut receiver = Receiver::new(config.clone());
    for packet in packets {
        receiver.push(Time::ZERO, packet);
    }
    receiver
}

#[test]
fn random_bytes() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for config in [unsigned(), signed()] {
        let mut receiver = Receiver::new(config.clone());
        for i in 0..40_000u64 {
            let mut bytes = vec![0; rng.usize(0..1500)];
            rng.fill(&mut bytes);
            // Half of them have a plausible start, so that they get further.
            if i % 2 == 0 {
                let start =
                    packet(if rng.bool() { NO_CODE } else { RAPTORQ }, rng.u128(0..4), None, 0, 0, &[]);
                let n = rng.usize(0..=start.len()).min(bytes.len());
                bytes[..n].copy_from_slice(&start[..n]);
            }
            receiver.push(Time::from_millis(i / 100), &bytes);
        }
        for reason in
            [DropReason::Truncated, DropReason::BadVersion, DropReason::BadHeader, DropReason::WrongTsi]
        {
            assert!(receiver.drops(reason) > 0, "{reason:?}: {:?}", receiver.session.stats());
        }
        assert!(receiver.complete.is_empty());
        assert_survived(receiver, &config);
    }
}

#[test]
fn truncated_and_mutated_packets_of_a_real_sender() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let objects: Vec<Object> = (0..4).map(|i| object(&format!("{i}"), noise(300_000, i))).collect();
    for profile in [WireProfile::Mabr, WireProfile::FluteRaptorq] {
        let packets = honest(profile, objects.clone());
        for config in [unsigned(), signed()] {
            let mut receiver = Receiver::new(config.clone());
            for datagram in packets.iter().flat_map(|p| [p, p, p]) {
                let mut bytes = datagram.bytes.clone();
                match rng.u8(0..3) {
                    0 => bytes.truncate(rng.usize(0..=bytes.len())),
                    1 => bytes.extend(std::iter::repeat_n(7, rng.usize(0..2000))),
                    // The first 60 bytes are header and FEC Payload ID.
                    _ => bytes[rng.usize(0..60)] = rng.u8(..),
                }
                receiver.push(datagram.at, &bytes);
            }
            receiver.wait(Duration::from_secs(1));
            for (meta, payload) in &receiver.complete {
                let sent = objects.iter().find(|o| o.meta.url == meta.url);
                let intact = sent.is_some_and(|o| payload.to_bytes() == o.data);
                assert!(intact || config.key.is_none(), "a damaged object passed: {meta:?}");
            }
            assert_survived(receiver, &config);
        }
    }
}

#[test]
fn impossible_oti_by_ext_fti_and_by_fdt() {
    let hostile = [
        no_code((1 << 48) - 1, 1344, 65_535),
        no_code((1 << 48) - 1, 65_535, u32::MAX),
        no_code(1 << 40, 1344, 64),
        no_code(1000, 0, 64),
        no_code(1000, 1, 64),
        no_code(1000, 1344, 0),
        raptorq((1 << 40) - 1, 1344, 255, 1, 8),
        raptorq(946_270_874_880, 65_528, 255, 1, 8),
        raptorq(1000, 0, 1, 1, 1),
        raptorq(1000, 1344, 0, 1, 8),
        raptorq(1000, 1344, 2, 1, 8),
        raptorq(100_000, 1344, 1, 0, 8),
        raptorq(100_000, 1344, 1, 2, 8),
        raptorq(100_000, 1344, 1, 1, 0),
        raptorq(100_000, 1344, 1, 1, 5),
        raptorq(56_404 * 8, 8, 1, 1, 8),
    ];
    let config = unsigned();
    let by_fti: Vec<Vec<u8>> = (1..)
        .zip(hostile)
        .map(|(toi, oti)| packet(oti.scheme.encoding_id(), toi, Some(oti), 0, 0, &[1; 1344]))
        .collect();
    let receiver = hear(&config, &by_fti);
    assert_eq!(receiver.drops(DropReason::BadOti), hostile.len() as u64, "{:?}", receiver.session.stats());
    assert_eq!((receiver.peak_bytes, receiver.session.stats().objects_in_flight), (0, 0));
    assert_survived(receiver, &config);

    let by_fdt: Vec<Vec<u8>> =
        (1..).zip(hostile).flat_map(|(i, oti)| fdt_packets(i as u32, None, &describe(i, oti))).collect();
    let receiver = hear(&config, &by_fdt);
    assert_eq!(receiver.drops(DropReason::BadOti), hostile.len() as u64, "{:?}", receiver.session.stats());
    assert_survived(receiver, &config);
}

/// An OTI at the limits promises much: memory is taken only for symbols that come, and within the budget.
#[test]
fn large_promises_cost_nothing() {
    let config = unsigned();
    let mut receiver = Receiver::new(config.clone());
    for toi in 1..=500u128 {
        for oti in [
            raptorq(limits::OBJECT_BYTES, 8936, 1, 1, 8),
            raptorq(limits::OBJECT_BYTES, 1344, 4, 1, 8),
            no_code(limits::OBJECT_BYTES, 8, 65_535),
        ] {
            let symbol = vec![3; oti.symbol_size.into()];
            let toi = toi * 4 + u128::from(oti.scheme.encoding_id() % 4);
            receiver.push(Time::ZERO, &packet(oti.scheme.encoding_id(), toi, Some(oti), 0, 0, &symbol));
        }
    }
    assert!(receiver.session.stats().objects_in_flight <= limits::OBJECTS_IN_FLIGHT);
    assert!(receiver.drops(DropReason::ByteLimit) > 0, "{:?}", receiver.session.stats());
    assert_survived(receiver, &config);
}

#[test]
fn payload_ids_and_symbol_lengths_out_of_bounds() {
    let config = unsigned();
    let oti = raptorq(100_000, 1344, 2, 1, 8);
    let good = packet(RAPTORQ, 9, Some(oti), 0, 0, &[0; 1344]);
    let bad = [
        (packet(RAPTORQ, 9, None, 2, 0, &[0; 1344]), DropReason::BadPayloadId),
        (packet(RAPTORQ, 9, None, 255, 0xff_ffff, &[0; 1344]), DropReason::BadPayloadId),
        (packet(RAPTORQ, 9, None, 0, 1, &[0; 1343]), DropReason::BadSymbolLength),
        (packet(RAPTORQ, 9, None, 0, 1, &[]), DropReason::BadSymbolLength),
        (packet(RAPTORQ, 9, None, 0, 70, &[0; 1345]), DropReason::BadSymbolLength),
        (
            packet(RAPTORQ, 9, Some(raptorq(100_001, 1344, 2, 1, 8)), 0, 1, &[0; 1344]),
            DropReason::OtiConflict,
        ),
        (
            packet(RAPTORQ, 9, Some(raptorq(100_000, 1344, 3, 1, 8)), 0, 1, &[0; 1344]),
            DropReason::OtiConflict,
        ),
        (packet(5, 9, None, 0, 1, &[0; 1344]), DropReason::UnknownFec),
        (packet(RAPTORQ, 9, None, 0, 0, &[0; 1344]), DropReason::Duplicate),
        (packet(RAPTORQ, 9, None, 0, 0, &[1; 1344]), DropReason::SymbolConflict),
    ];
    for (bytes, reason) in bad {
        let receiver = hear(&config, [&good, &bytes]);
        assert_eq!(receiver.drops(reason), 1, "{reason:?}: {:?}", receiver.session.stats());
        assert_survived(receiver, &config);
    }
}

#[test]
fn fdt_bombs() {
    let entities = "<?xml version=\"1.0\"?><!DOCTYPE FDT-Instance [<!ENTITY a \"aaaaaaaaaaaaaaaa\">\
        <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">]>\
        <FDT-Instance Expires=\"4000000000\"><File TOI=\"1\" Content-Location=\"&c;\"/></FDT-Instance>";
    let file = |i: u32| format!("<File TOI=\"{i}\" Content-Location=\"a\" Content-Length=\"1\"/>");
    let many = |n: u32| {
        let files: String = (1..=n).map(file).collect();
        format!("<FDT-Instance Expires=\"4000000000\">{files}</FDT-Instance>")
    };
    let too_many = many(2000);
    let deep = format!("<FDT-Instance Expires=\"4000000000\">{}", "<a>".repeat(50_000));
    let wide = format!("<FDT-Instance Expires=\"4000000000\" {}/>", "a=\"\" ".repeat(30_000));
    let zeros = gzip(&vec![b' '; 200 << 20]);
    let files_in_gzip = gzip(many(10_000).as_bytes());
    assert!(zeros.len() < limits::FDT_BYTES && files_in_gzip.len() < limits::FDT_BYTES);
    let gz = Some(ContentEncoding::Gzip);
    let bombs: [(&str, Option<ContentEncoding>, &[u8]); 8] = [
        ("entities", None, entities.as_bytes()),
        ("2,000 files", None, too_many.as_bytes()),
        ("nesting", None, deep.as_bytes()),
        ("attributes", None, wide.as_bytes()),
        ("200 MiB of spaces", gz, &zeros),
        ("10,000 files", gz, &files_in_gzip),
        ("not gzip", gz, entities.as_bytes()),
        ("nothing", None, b"\0"),
    ];
    let config = unsigned();
    for (name, cenc, bytes) in bombs {
        let receiver = hear(&config, &fdt_packets(7, cenc, bytes));
        assert_eq!(receiver.drops(DropReason::BadFdt), 1, "{name}: {:?}", receiver.session.stats());
        assert_eq!(receiver.session.stats().objects_in_flight, 0, "{name}");
        assert_survived(receiver, &config);
    }
    // 10,000 files as they are do not even fit: refused by their length, before any memory is taken.
    let receiver = hear(&config, &fdt_packets(7, None, many(10_000).as_bytes()));
    assert!(receiver.drops(DropReason::BadOti) > 0, "{:?}", receiver.session.stats());
    assert_eq!(receiver.peak_bytes, 0);
    assert_survived(receiver, &config);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// FDT Instances that an attacker makes are refused where a key is known, whatever they say.
#[test]
fn forged_fdts() {
    let config = signed();
    let xml = describe(1, no_code(10, 1344, 1));
    let other_key = FdtInstance::parse(&xml).and_then(|i| i.seal(TSI, &SigningKey::from_seed(&[2; 32])));
    let other_session = FdtInstance::parse(&xml).and_then(|i| i.seal(Tsi(99), &key()));
    for (bytes, reason) in [
        (xml, DropReason::UnsignedFdt),
        (other_key.expect("sealed"), DropReason::BadFdtSignature),
        (other_session.expect("sealed"), DropReason::BadFdtSignature),
    ] {
        let receiver = hear(&config, &fdt_packets(1, None, &bytes));
        assert_eq!(receiver.drops(reason), 1, "{:?}", receiver.session.stats());
        assert_survived(receiver, &config);
    }
}

/// One forged symbol that comes first is found by means of the repair symbols: nothing of it is handed out, and the object arrives.
#[test]
fn forged_symbols_never_pass() {
    let config = signed();
    let sent = object("a.ts", noise(300_000, 5));
    for profile in [WireProfile::Mabr, WireProfile::FluteRaptorq] {
        for forge_repair in [false, true] {
            let rounds = honest(profile, vec![sent.clone(), sent.clone()]);
            let mut receiver = Receiver::new(config.clone());
            let mut forged = 0;
            for datagram in &rounds {
                let alc = AlcPacket::parse(&datagram.bytes).expect("our own packet");
                let is_repair = alc.fti.is_some() && alc.toi != Some(Toi::FDT);
                let is_source = alc.toi != Some(Toi::FDT) && !is_repair;
                let lost = is_source && alc.payload_id.is_some_and(|id| id.esi.0 % 20 == 3);
                if forged == 0 && (is_repair && forge_repair || is_source && !forge_repair) {
                    let mut bytes = datagram.bytes.clone();
                    if let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                    receiver.push(datagram.at, &bytes);
                    forged += 1;
                }
                if !lost {
                    receiver.push(datagram.at, &datagram.bytes);
                }
            }
            receiver.wait(Duration::from_secs(1));
            assert_eq!(forged, 1);
            let stats = receiver.session.stats();
            assert!(stats.drops.get(DropReason::WrongSymbol) > 0, "{profile:?} {forge_repair}: {stats:?}");
            for (_, payload) in &receiver.complete {
                assert!(payload.to_bytes() == sent.data, "forged bytes passed");
            }
            assert_eq!(receiver.complete.len(), 1, "{profile:?} {forge_repair}: {stats:?}");
        }
    }
}

/// Packets of objects that nobody describes: held within the budget, refused beyond it, dropped in time.
#[test]
fn floods_of_undescribed_objects() {
    let config = unsigned();
    let mut receiver = Receiver::new(config.clone());
    for i in 0..50_000u32 {
        let bytes = packet(NO_CODE, u128::from(i) + 1, None, 0, 0, &noise(200, i.into()));
        receiver.push(Time::from_millis(u64::from(i) / 100), &bytes);
    }
    assert!(receiver.drops(DropReason::HeldLimit) > 0);
    receiver.wait(Duration::from_secs(10));
    assert!(receiver.drops(DropReason::HeldExpired) > 0, "{:?}", receiver.session.stats());
    assert_survived(receiver, &config);
}

/// Undescribed objects with OTI of their own cannot push out those that are described: not one, and not as many as fit.
#[test]
fn floods_do_not_displace_described_objects() {
    let config = unsigned();
    for described in [1, limits::OBJECTS_IN_FLIGHT as u128] {
        let oti = no_code(4 * 1344, 1344, 65_535);
        let mut packets: Vec<Vec<u8>> =
            (1..=described).flat_map(|toi| fdt_packets(toi as u32, None, &describe(toi, oti))).collect();
        packets.extend((1..=described).map(|toi| packet(NO_CODE, toi, None, 0, 0, &[9; 1344])));
        let flood = raptorq(1 << 20, 1344, 1, 1, 8);
        packets.extend((100..2000).map(|toi| packet(RAPTORQ, toi, Some(flood), 0, 5, &[0; 1344])));
        for esi in 1..4 {
            packets.extend((1..=described).map(|toi| packet(NO_CODE, toi, None, 0, esi, &[9; 1344])));
        }
        let receiver = hear(&config, &packets);
        assert_eq!(receiver.complete.len() as u128, described, "{:?}", receiver.session.stats());
        assert!(receiver.peak_bytes <= budget(&config));
    }
}

/// FDT Instances that never end, by the thousand.
#[test]
fn floods_of_unfinished_fdts() {
    let config = signed();
    let oti = no_code(limits::FDT_BYTES as u64, 1344, 65_535);
    let packets: Vec<Vec<u8>> = (0..5000)
        .map(|i| packet_with(NO_CODE, 0, Some(oti), Some(i), None, 0, i % 190, &[b' '; 1344]))
        .collect();
    let receiver = hear(&config, &packets);
    assert!(receiver.drops(DropReason::ObjectLimit) > 4000, "{:?}", receiver.session.stats());
    assert_survived(receiver, &config);
}

/// Of symbols of 8 bytes, what it takes to know them is most of the memory.
#[test]
fn floods_of_tiny_symbols() {
    let config = unsigned();
    let oti = raptorq(80_000, 8, 1, 1, 8);
    for per_object in [9_000, 100] {
        let objects = 400_000 / per_object;
        let packets = (0..objects).flat_map(|toi| {
            (0..per_object)
                .map(move |i| packet(RAPTORQ, u128::from(toi) + 1, Some(oti), 0, 10_000 + i * 7, &[1; 8]))
        });
        let (heap, receiver) = heap_of(&config, packets);
        let peak = receiver.peak_bytes;
        assert!(heap <= real_budget(&config), "{heap} bytes of heap, {peak} counted, {per_object} an object");
        assert!(peak * 2 > config.assembly_bytes, "the flood was none: {peak}");
        assert!(receiver.drops(DropReason::ByteLimit) > 0, "{:?}", receiver.session.stats());
        assert_survived(receiver, &config);
    }
}

/// A file with as long values as there may be: 56 KB of metadata.
fn long_file(toi: u32, rest: &str) -> String {
    let long = "x".repeat(8000);
    format!(
        "<File TOI=\"{toi}\" Content-Location=\"{toi}{long}\" mahp:Final-URL=\"{long}\" Content-Type=\"{long}\" Content-MD5=\"{long}\" mahp:ETag=\"{long}\" mahp:Last-Modified=\"{long}\" \
         mahp:Cache-Control=\"{long}\" {rest}/>"
    )
}

/// Objects of no bytes and much metadata: finished, waiting for an OTI or for symbols, by the thousand.
#[test]
fn metadata_bombs() {
    let config = unsigned();
    let finished = "Content-Length=\"0\" FEC-OTI-FEC-Encoding-ID=\"0\" \
        FEC-OTI-Maximum-Source-Block-Length=\"1\" FEC-OTI-Encoding-Symbol-Length=\"8\"";
    let in_flight = finished.replace("Length=\"0\"", "Length=\"800000\"");
    for (name, rest) in [("finished", finished), ("waiting", ""), ("in flight", &in_flight)] {
        let packets = (0..300).flat_map(|i| {
            let files: String = (1..=4).map(|n| long_file(i * 4 + n, rest)).collect();
            let xml = format!("<FDT-Instance Expires=\"4294967295\" xmlns:mahp=\"m\">{files}</FDT-Instance>");
            fdt_packets(i, None, xml.as_bytes())
        });
        let (heap, receiver) = heap_of(&config, packets);
        assert!(
            heap <= real_budget(&config),
            "{name}: {heap} bytes of heap, {} counted",
            receiver.peak_bytes
        );
        assert!(receiver.session.stats().fdt_instances >= 300, "{name}: {:?}", receiver.session.stats());
        assert_survived(receiver, &config);
    }
}
