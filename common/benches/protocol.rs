//! RaptorQ by K, packets, and both engines in memory. `cargo bench -p mahp-common --bench protocol`.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mahp_common::catalog::WireProfile;
use mahp_common::fec::EncodeJob;
use mahp_common::session::recv::{self, RecvConfig, RecvSession};
use mahp_common::session::send::{self, SendConfig, SendSession};
use mahp_common::wire::alc::{AlcPacket, AlcRepr, PayloadId};
use mahp_common::{Esi, Object, ObjectMeta, Sbn, Time, Toi, Tsi, WallTime};
use std::hint::black_box;
use std::time::Duration;

/// As in the programs: with glibc's, the time of an encoder is that of its page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const T: u16 = 1344;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("raptorq_encode_10_percent");
    for symbols in [23u32, 200, 797, 1594, 3188] {
        let data: bytes::Bytes = noise(symbols as usize * usize::from(T)).into();
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::new("K", symbols), &symbols, |b, &symbols| {
            b.iter(|| {
                let job = EncodeJob {
                    id: 0,
                    toi: Toi(1),
                    sbn: Sbn(0),
                    data: data.clone(),
                    symbols,
                    symbol_size: T,
                    first: 0,
                    count: symbols.div_ceil(10),
                };
                black_box(job.run())
            });
        });
    }
    group.finish();
}

fn object(len: usize) -> Object {
    Object::new(
        ObjectMeta { url: "https://origin.example/seg-1.m4s".into(), ..ObjectMeta::default() },
        noise(len).into(),
    )
}

/// All datagrams of one object, repair included.
fn datagrams(object: &Object, repair_percent: u32) -> Vec<Vec<u8>> {
    let mut config = SendConfig::new(WireProfile::Mabr, Tsi(1), Tsi(2), u64::MAX / 1_000_000_000);
    config.repair_percent = repair_percent;
    config.repair_spread = Duration::ZERO;
    let mut session = SendSession::new(config);
    let (now, wall) = (Time::from_secs(1), WallTime::from_unix_secs(1_767_225_600));
    session.handle_input(send::Input::Object { now, wall, tag: 1, object: Box::new(object.clone()) });
    let (mut out, mut buf) = (Vec::new(), Vec::new());
    loop {
        match session.poll_output(&mut buf) {
            send::Output::Transmit(t) => out.extend(buf[..t.len].chunks(t.segment_size).map(<[u8]>::to_vec)),
            send::Output::Command(send::Command::Encode(job)) => {
                session.handle_input(send::Input::Encoded { now, result: job.run() });
            }
            send::Output::Event(_) => {}
            send::Output::Timeout(None) => return out,
            send::Output::Timeout(Some(at)) => session.handle_input(send::Input::Timeout { now: at, wall }),
        }
    }
}

fn receive<'a>(datagrams: impl Iterator<Item = &'a Vec<u8>>) -> usize {
    let config = RecvConfig { allow_undigested: true, repair_tsi: Some(Tsi(2)), ..RecvConfig::default() };
    let mut session = RecvSession::new(config);
    let wall = WallTime::from_unix_secs(1_767_225_600);
    let mut complete = 0;
    for (i, datagram) in datagrams.enumerate() {
        let now = Time::from_nanos(i as u64 * 1000);
        session.handle_input(recv::Input::Packet { now, wall, datagram });
        loop {
            match session.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    session.handle_input(recv::Input::Decoded { now, result: job.run() });
                }
                recv::Output::Event(recv::Event::Complete { .. }) => complete += 1,
                recv::Output::Event(_) => {}
                recv::Output::Timeout(_) => break,
            }
        }
    }
    complete
}

fn engines(c: &mut Criterion) {
    let object = object(2 << 20);
    let mut group = c.benchmark_group("engine_2_MiB_object");
    group.throughput(Throughput::Bytes(object.data.len() as u64));
    group.bench_function("send_no_repair", |b| b.iter(|| black_box(datagrams(&object, 0))));
    group.bench_function("send_20_percent", |b| b.iter(|| black_box(datagrams(&object, 20))));
    let packets = datagrams(&object, 20);
    for loss in [0usize, 1, 5, 10] {
        let mut rng = fastrand::Rng::with_seed(loss as u64);
        let kept: Vec<&Vec<u8>> = packets.iter().filter(|_| rng.usize(..100) >= loss).collect();
        assert_eq!(receive(kept.iter().copied()), 1);
        group.bench_function(BenchmarkId::new("receive_loss_percent", loss), |b| {
            b.iter(|| receive(kept.iter().copied()));
        });
    }
    group.finish();
}

fn packets(c: &mut Criterion) {
    let repr = AlcRepr {
        tsi: Tsi(1),
        toi: Toi(2),
        codepoint: 0,
        close_session: false,
        close_object: false,
        fti: None,
        fdt: None,
        cenc: None,
        sender_time: None,
        payload_id: PayloadId { sbn: Sbn(0), esi: Esi(7) },
    };
    let symbol = noise(usize::from(T));
    let mut packet = Vec::new();
    c.bench_function("packet_build", |b| {
        b.iter(|| {
            packet.clear();
            black_box(&repr).emit(&mut packet);
            packet.extend_from_slice(&symbol);
        });
    });
    c.bench_function("packet_parse", |b| b.iter(|| AlcPacket::parse(black_box(&packet)).unwrap()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = encode, engines, packets
}
criterion_main!(benches);
