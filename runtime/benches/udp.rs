//! Multicast over the loopback interface: packets per second out and in, with and without segmentation offload.
//!
//! `cargo bench -p mahp-runtime --bench udp`. One iteration moves one batch of 40 packets of 1360 bytes. Sending is measured
//! without any receiver, receiving is measured with the sending of the same batch before it (outside the clock).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mahp_runtime::udp::{MulticastReceiver, MulticastSender, ReceiveOptions, SendOptions, interface};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(232, 255, 0, 99));
const PACKET: usize = 1360;
const PACKETS: usize = 40;

fn sender(gso: bool) -> MulticastSender {
    let interface = interface("lo").expect("loopback");
    let options = SendOptions { source: HERE, interface, ttl: 0, dscp: 0 };
    MulticastSender::with_gso(&options, gso).expect("socket")
}

fn receiver(port: u16) -> MulticastReceiver {
    let interface = interface("lo").expect("loopback");
    let receive_buffer = 4 << 20;
    let options = ReceiveOptions { source: Some(HERE), group: GROUP, port, interface, receive_buffer };
    MulticastReceiver::join(&options).expect("join")
}

fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("socket");
    socket.local_addr().expect("bound").port()
}

fn benches(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let batch = vec![0x5a_u8; PACKETS * PACKET];
    let mut group = criterion.benchmark_group("udp");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    for (name, gso) in [("gso", true), ("single", false)] {
        let _entered = runtime.enter();
        let (sender, to) = (sender(gso), SocketAddr::new(GROUP, free_port()));
        group.bench_function(format!("send/{name}"), |b| {
            b.iter(|| runtime.block_on(sender.send(to, black_box(&batch), PACKET)).expect("sent"));
        });
        let mut receiver = receiver(to.port());
        let mut packets = 0;
        group.bench_function(format!("receive/{name}"), |b| {
            b.iter_custom(|rounds| {
                runtime.block_on(receive(&sender, &mut receiver, to, &batch, rounds, &mut packets))
            });
        });
        println!("receive/{name}: {:.1} packets per call", packets as f64 / receiver.calls() as f64);
        assert_eq!(receiver.kernel_drops().expect("counter"), 0);
    }
    group.finish();
}

/// `rounds` batches; the time spent receiving.
async fn receive(
    sender: &MulticastSender,
    receiver: &mut MulticastReceiver,
    to: SocketAddr,
    batch: &[u8],
    rounds: u64,
    packets: &mut usize,
) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        sender.send(to, batch, PACKET).await.expect("sent");
        let start = Instant::now();
        let mut got = 0;
        while got < PACKETS {
            got += receiver.receive(|_, bytes| _ = black_box(bytes)).await.expect("received");
        }
        spent += start.elapsed();
        *packets += got;
    }
    spent
}

criterion_group!(udp, benches);
criterion_main!(udp);
