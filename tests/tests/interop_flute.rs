//! Interoperation with the `flute` crate in both directions, in memory: what one side sends, the other rebuilds.

use bytes::Bytes;
use flute::core::{Oti, UDPEndpoint, lct::Cenc};
use flute::receiver::writer::ObjectWriterBufferBuilder;
use flute::receiver::{Config as FluteReceiverConfig, MultiReceiver};
use flute::sender::{Config as FluteSenderConfig, CreateFromBuffer, Sender, TransferConfig};
use mahp_common::auth::SigningKey;
use mahp_common::catalog::WireProfile;
use mahp_common::session::recv::RecvConfig;
use mahp_common::session::send::{FlowKind, SendConfig};
use mahp_common::{Object, Time, Tsi};
use mahp_tests::engines::{Datagram, Receiver, START, noise, object, seed, send_all};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

const TSI: u64 = 70_000; // needs 32 bits
const REPAIR_TSI: u64 = 70_001;
const T: u16 = 1344;
const MIB: usize = 1 << 20;
/// One byte, one symbol, 1 MiB, 40 MiB.
const SIZES: [usize; 4] = [1, T as usize, MIB, 40 * MIB];

/// How often a carousel comes round: after seven at 5 % loss, one of 32,000 symbols is still missing with a chance of 1 in 40,000.
const ROUNDS: usize = 7;

fn system_time(at: Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(START.unix_millis()) + at.since(Time::ZERO)
}

fn endpoint() -> UDPEndpoint {
    UDPEndpoint::new(None, "232.1.1.1".into(), 5000)
}

/// Each packet is lost with this probability.
fn lossy(mut packets: Vec<Datagram>, percent: u32, seed: u64) -> Vec<Datagram> {
    let mut rng = fastrand::Rng::with_seed(seed);
    packets.retain(|_| rng.u32(0..100) >= percent);
    packets
}

fn objects(seed: u64, sizes: &[usize]) -> Vec<Object> {
    sizes.iter().map(|n| object(&format!("video/{n}.m4s?a=1&b=2"), noise(*n, seed ^ *n as u64))).collect()
}

fn send_config(profile: WireProfile) -> SendConfig {
    SendConfig {
        session: 7,
        first_toi: 100_000,
        key: Some(SigningKey::from_seed(&[1; 32])),
        ..SendConfig::new(profile, Tsi(TSI), Tsi(REPAIR_TSI), 400_000_000)
    }
}

/// What the `flute` crate's receiver makes of these packets: location and bytes of each complete object.
fn flute_receives(packets: &[Datagram]) -> Vec<(String, Vec<u8>)> {
    let writer = Rc::new(ObjectWriterBufferBuilder::new(true));
    // Its default keeps 10 MB at most, one block of 40 MiB needs more.
    let config = FluteReceiverConfig { object_max_cache_size: Some(64 * MIB), ..Default::default() };
    let mut receiver = MultiReceiver::new(writer.clone(), Some(config), true);
    receiver.add_listen_tsi(endpoint(), TSI);
    for packet in packets {
        receiver.push(&endpoint(), &packet.bytes, system_time(packet.at)).expect("flute reads our packet");
    }
    let objects = writer.objects.borrow();
    let complete = objects.iter().map(|o| o.borrow()).filter(|o| o.complete);
    complete.map(|o| (o.meta.content_location.clone(), o.data.clone())).collect()
}

/// All arrived, as they are.
fn assert_flute_has(received: &[(String, Vec<u8>)], sent: &[Object]) {
    for object in sent {
        let mut copies = received.iter().filter(|(url, _)| *url == object.meta.url).peekable();
        assert!(copies.peek().is_some(), "{} did not arrive", object.meta.url);
        assert!(copies.all(|(_, data)| *data == object.data), "{} arrived damaged", object.meta.url);
    }
}

fn assert_flute_has_once(received: &[(String, Vec<u8>)], sent: &[Object]) {
    assert_flute_has(received, sent);
    assert_eq!(received.len(), sent.len(), "objects arrived more than once");
}

/// Packets of the `flute` crate's sender, 20,000 a second.
fn flute_sends(oti: &Oti, fdt_cenc: Cenc, transfers: u32, objects: &[Object]) -> Vec<Datagram> {
    let config = FluteSenderConfig { fdt_cenc, ..Default::default() };
    let mut sender = Sender::new(endpoint(), TSI, oti, &config);
    for object in objects {
        let file = CreateFromBuffer::builder()
            .content(object.data.to_vec())
            .content_type("video/mp4".into())
            .content_location(url::Url::parse(&object.meta.url).expect("URL"))
            .config(TransferConfig::builder().max_transfer_count(transfers).build())
            .build();
        sender.add_object(0, file.create().expect("object")).expect("added");
    }
    sender.publish(system_time(Time::ZERO)).expect("published");
    let mut sent = Vec::new();
    let mut at = Time::ZERO;
    while sender.nb_objects() > 0 {
        at += Duration::from_micros(50);
        if let Some(bytes) = sender.read(system_time(at)) {
            sent.push(Datagram { at, flow: FlowKind::Source, bytes });
        }
    }
    sent.push(Datagram { at, flow: FlowKind::Source, bytes: sender.read_close_session(system_time(at)) });
    sent
}

fn we_receive(packets: &[Datagram]) -> Receiver {
    let mut receiver =
        Receiver::new(RecvConfig { tsi: Some(Tsi(TSI)), allow_undigested: true, ..RecvConfig::default() });
    for packet in packets {
        receiver.push(packet.at, &packet.bytes);
    }
    receiver.wait(Duration::from_secs(1));
    receiver
}

fn assert_we_have(receiver: &Receiver, sent: &[Object]) {
    for object in sent {
        let found = receiver.complete.iter().find(|(meta, _)| meta.url == object.meta.url);
        let stats = receiver.session.stats();
        let (meta, payload) =
            found.unwrap_or_else(|| panic!("{} did not arrive: {stats:?}", object.meta.url));
        assert!(payload.to_bytes() == object.data, "{} arrived damaged", object.meta.url);
        assert_eq!(meta.content_type.as_deref(), Some("video/mp4"));
    }
    assert_eq!(receiver.complete.len(), sent.len(), "objects arrived more than once");
    let faults = receiver.session.stats().drops.faults();
    assert_eq!(faults, 0, "{:?}", receiver.session.stats());
}

fn raptorq() -> Oti {
    // K up to 750: 40 MiB make 42 blocks of 743 or 744 symbols.
    Oti::new_raptorq(T, 750, 120, 1, 8).expect("OTI")
}

#[test]
fn flute_reads_our_raptorq_under_loss() {
    let seed = seed();
    for size in SIZES {
        let sent = objects(seed, &[size]);
        // A single symbol has few repair symbols: with 400 % its object and FDT survive 5 % with near certainty.
        let repair_percent = if size <= usize::from(T) { 400 } else { 15 };
        let config = SendConfig { repair_percent, ..send_config(WireProfile::FluteRaptorq) };
        let packets = send_all(config, sent.clone());
        // The FDT of a foreign receiver must come before its object (it keeps nothing): spare the first one.
        let mut heard = lossy(packets.clone(), 5, seed);
        heard.splice(0..0, packets.iter().take_while(|p| is_fdt(p)).cloned());
        assert_flute_has_once(&flute_receives(&heard), &sent);
    }
}

fn is_fdt(packet: &Datagram) -> bool {
    mahp_common::wire::alc::AlcPacket::parse(&packet.bytes).is_ok_and(|p| p.fdt.is_some())
}

/// A receiver that knows no FEC but no-code reads the source flow of the default profile: one block, FDT first.
#[test]
fn flute_reads_our_source_flow() {
    let seed = seed();
    let sent = objects(seed, &SIZES);
    let mut packets = send_all(send_config(WireProfile::Mabr), sent.clone());
    packets.retain(|p| p.flow == FlowKind::Source);
    for packet in &packets {
        let alc = mahp_common::wire::alc::AlcPacket::parse(&packet.bytes).expect("our own packet");
        assert_eq!((alc.codepoint, alc.payload_id.expect("id").sbn.0), (0, 0), "one block, no-code only");
    }
    assert!(is_fdt(&packets[0]), "FDT first");
    assert_flute_has_once(&flute_receives(&packets), &sent);
}

/// Without FEC, loss is mended by sending again: the same object keeps its TOI, so that rounds add up. What is complete is
/// forgotten when an FDT Instance does not list it any more, and comes again with the next round.
#[test]
fn flute_completes_our_source_flow_from_a_carousel() {
    let seed = seed();
    let sent = objects(seed, &SIZES);
    let rounds = (0..ROUNDS).flat_map(|_| sent.clone());
    let config = SendConfig { repair_percent: 0, ..send_config(WireProfile::Mabr) };
    let packets = send_all(config, rounds);
    let first: Vec<Datagram> = packets.iter().take_while(|p| is_fdt(p)).cloned().collect();
    let mut heard = lossy(packets, 5, seed);
    heard.retain(|p| p.flow == FlowKind::Source);
    heard.splice(0..0, first);
    assert_flute_has(&flute_receives(&heard), &sent);
}

#[test]
fn we_read_flutes_raptorq_under_loss() {
    let seed = seed();
    for size in SIZES {
        let sent = objects(seed, &[size]);
        let packets = flute_sends(&raptorq(), Cenc::Null, 1, &sent);
        let receiver = we_receive(&lossy(packets, 5, seed));
        assert_we_have(&receiver, &sent);
    }
}

#[test]
fn we_read_flutes_no_code() {
    let sent = objects(seed(), &SIZES);
    // Blocks of 64 symbols, as its command line makes them: SBN counts to 488.
    let receiver = we_receive(&flute_sends(&Oti::new_no_code(T, 64), Cenc::Null, 1, &sent));
    assert_we_have(&receiver, &sent);
}

#[test]
fn we_complete_flutes_no_code_from_a_carousel() {
    let seed = seed();
    let sent = objects(seed, &SIZES);
    let packets = flute_sends(&Oti::new_no_code(T, 64), Cenc::Null, ROUNDS as u32, &sent);
    assert_we_have(&we_receive(&lossy(packets, 5, seed)), &sent);
}

#[test]
fn we_read_compressed_fdts() {
    let sent = objects(seed(), &[3000]);
    for cenc in [Cenc::Gzip, Cenc::Zlib, Cenc::Deflate] {
        assert_we_have(&we_receive(&flute_sends(&raptorq(), cenc, 1, &sent)), &sent);
    }
}

/// Negative control: with more loss than repair symbols nothing may come out, least of all wrong bytes.
#[test]
fn too_much_loss_completes_nothing() {
    let seed = seed();
    let sent = objects(seed, &[MIB]);
    let receiver = we_receive(&lossy(flute_sends(&raptorq(), Cenc::Null, 1, &sent), 40, seed));
    assert!(receiver.complete.is_empty());
    let packets = lossy(send_all(send_config(WireProfile::FluteRaptorq), sent), 40, seed);
    assert!(flute_receives(&packets).is_empty());
}

/// An empty object has no packets of its own: the FDT alone completes it here.
#[test]
fn empty_objects_complete() {
    let sent = vec![object("empty.vtt", Bytes::new())];
    let packets = send_all(send_config(WireProfile::Mabr), sent.clone());
    let receiver = we_receive(&packets);
    assert_eq!(receiver.complete.len(), 1, "{:?}", receiver.session.stats());
}
