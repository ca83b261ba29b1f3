//! The emulator in virtual time: frames made by hand.

use super::frame::{Change, Kind, TrafficClass, alter_payload, classify};
use super::pipe::Cause;
use super::switch::{Direction, Switch};
use super::{Impairment, LossModel};
use crate::link::Percent;
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 2, 3);

/// Another one at each run, printed so that a failure can be repeated.
fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = to.to_vec();
    out.extend(MACS[0]);
    out.extend(kind.to_be_bytes());
    out.extend(payload);
    out
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let mut out = vec![0x40 | words as u8, 0];
    out.extend((words as u16 * 4 + payload.len() as u16).to_be_bytes());
    out.extend([0, 0, 0, 0, 1, protocol, 0, 0]);
    out.extend(from.octets());
    out.extend(to.octets());
    out.extend(options);
    out.extend(payload);
    out
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(40_000u16.to_be_bytes());
    out.extend(5000u16.to_be_bytes());
    out.extend((8 + payload.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

fn group_mac() -> [u8; 6] {
    let o = GROUP.octets();
    [1, 0, 0x5e, o[1] & 0x7f, o[2], o[3]]
}

fn multicast(payload: &[u8]) -> Bytes {
    ethernet(group_mac(), 0x0800, &ipv4(17, SOURCE, GROUP, &[], &udp(payload))).into()
}

fn igmp(kind: u8, sources: &[Ipv4Addr]) -> Bytes {
    let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, sources.len() as u8];
    message.extend(GROUP.octets());
    sources.iter().for_each(|s| message.extend(s.octets()));
    // Router alert, as hosts send it.
    let packet =
        ipv4(2, Ipv4Addr::new(10, 77, 0, 4), Ipv4Addr::new(224, 0, 0, 22), &[0x94, 4, 0, 0], &message);
    ethernet([1, 0, 0x5e, 0, 0, 22], 0x0800, &packet).into()
}

/// Leg 0 sends, the others may join.
fn switch(seed: u64) -> Switch {
    Switch::new(&MACS, seed)
}

fn drain(switch: &mut Switch, now: Instant) -> Vec<(usize, Bytes)> {
    std::iter::from_fn(|| switch.poll(now)).collect()
}

#[test]
fn frames_are_told_apart() {
    assert!(
        matches!(classify(&multicast(b"x")), Kind::Multicast(d) if d.group == IpAddr::V4(GROUP) && d.port == 5000)
    );
    let local =
        ethernet(group_mac(), 0x0800, &ipv4(17, SOURCE, Ipv4Addr::new(224, 0, 0, 251), &[], &udp(b"mdns")));
    assert_eq!(classify(&local), Kind::Local);
    let plain = ethernet(MACS[1], 0x0800, &ipv4(6, SOURCE, Ipv4Addr::new(10, 77, 0, 4), &[], b"tcp"));
    assert_eq!(classify(&plain), Kind::Unicast);
    let arp = ethernet([0xff; 6], 0x0806, &[0; 28]);
    assert_eq!(classify(&arp).class(), TrafficClass::Control);
    let Kind::Report(records) = classify(&igmp(5, &[SOURCE])) else { panic!() };
    assert_eq!(records, [(GROUP.into(), Change::Allow(vec![SOURCE.into()]))]);
}

#[test]
fn mldv2_behind_a_hop_by_hop_header_is_read() {
    let (source, group): (Ipv6Addr, Ipv6Addr) = ("fd77::3".parse().unwrap(), "ff3e::8000:1".parse().unwrap());
    let mut message = vec![143, 0, 0, 0, 0, 0, 0, 1, 6, 0, 0, 1];
    message.extend(group.octets());
    message.extend(source.octets());
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 0, 1];
    packet.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("ff02::16".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    packet.extend(&message);
    let frame = ethernet([0x33, 0x33, 0, 0, 0, 0x16], 0x86dd, &packet);
    assert_eq!(classify(&frame), Kind::Report(vec![(group.into(), Change::Block(vec![source.into()]))]));
    for cut in 0..frame.len() {
        let _ = classify(&frame[..cut]);
    }
}

#[test]
fn noise_is_never_a_panic() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let frames = [multicast(&[7; 100]), igmp(3, &[SOURCE, SOURCE])];
    for _ in 0..20_000 {
        let mut bytes = frames[rng.usize(..2)].to_vec();
        for _ in 0..rng.usize(..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(rng.usize(..=bytes.len()));
        let mut switch = switch(1);
        switch.receive(Instant::now(), 0, bytes.into());
    }
}

#[test]
fn a_leg_carries_only_what_its_host_joined() {
    let now = Instant::now();
    let mut s = switch(1);
    let stranger = Ipv4Addr::new(10, 77, 0, 9);
    let heard = |s: &mut Switch| {
        s.receive(now, 0, multicast(b"data"));
        drain(s, now).into_iter().map(|(leg, _)| leg).collect::<Vec<_>>()
    };
    assert_eq!(heard(&mut s), Vec::<usize>::new(), "nobody joined");
    s.receive(now, 1, igmp(5, &[SOURCE]));
    assert_eq!(heard(&mut s), [1]);
    s.receive(now, 2, igmp(5, &[stranger]));
    assert_eq!(heard(&mut s), [1], "a join for the wrong source gets nothing");
    assert!(!s.carries(2, SOURCE.into(), GROUP.into()));
    s.receive(now, 2, igmp(4, &[]));
    assert_eq!(heard(&mut s), [1, 2], "any source");
    s.receive(now, 2, igmp(6, &[SOURCE]));
    assert_eq!(heard(&mut s), [1], "all but this source");
    s.receive(now, 1, igmp(6, &[SOURCE]));
    s.receive(now, 2, igmp(3, &[]));
    assert_eq!(heard(&mut s), Vec::<usize>::new(), "all left");
}

#[test]
fn unicast_goes_to_one_and_broadcast_to_all_others() {
    let now = Instant::now();
    let mut s = switch(1);
    s.receive(now, 0, ethernet(MACS[2], 0x0800, &ipv4(6, SOURCE, SOURCE, &[], b"tcp")).into());
    assert_eq!(drain(&mut s, now).iter().map(|d| d.0).collect::<Vec<_>>(), [2]);
    assert_eq!((s.between(0, 2).frames, s.between(0, 1).frames), (1, 0));
    s.receive(now, 1, ethernet([0xff; 6], 0x0806, &[0; 28]).into());
    assert_eq!(drain(&mut s, now).iter().map(|d| d.0).collect::<Vec<_>>(), [0, 2]);
}

/// Offers numbered packets, one each millisecond; returns what leg 1 got, in order.
fn run(impairment: &Impairment, count: u32, seed: u64) -> (Vec<u32>, Switch) {
    let start = Instant::now();
    let mut s = switch(seed);
    s.receive(start, 1, igmp(5, &[SOURCE]));
    s.set(1, Direction::Down, TrafficClass::Multicast, impairment);
    let mut out = Vec::new();
    let mut take = |s: &mut Switch, now: Instant| {
        for (leg, frame) in drain(s, now) {
            assert_eq!(leg, 1);
            out.push(u32::from_be_bytes(frame[42..46].try_into().unwrap()));
        }
    };
    for number in 0..count {
        let now = start + Duration::from_millis(number.into());
        take(&mut s, now);
        s.receive(now, 0, multicast(&number.to_be_bytes()));
        take(&mut s, now);
        // Traffic of another class must not change the fate of this one.
        if number % 3 == seed as u32 % 2 {
            s.receive(now, 0, ethernet([0xff; 6], 0x0806, &[0; 28]).into());
            drain(&mut s, now);
        }
    }
    while let Some(next) = s.next() {
        take(&mut s, next);
    }
    (out, s)
}

fn loss(model: LossModel) -> Impairment {
    Impairment { loss: model, ..Impairment::default() }
}

#[test]
fn the_same_seed_gives_the_same_losses_and_the_trace_tells_them() {
    let impairment = loss(LossModel::Independent(Percent::from_fraction(0.2)));
    let (a, s) = run(&impairment, 2000, 7);
    let (b, _) = run(&impairment, 2000, 7);
    let (c, _) = run(&impairment, 2000, 8);
    assert_eq!(a, b);
    assert_ne!(a, c);
    let (trace, more) = s.trace();
    let lost: Vec<u32> = trace.iter().filter(|t| t.cause == Cause::Loss).map(|t| t.index as u32).collect();
    let missing: Vec<u32> = (0..2000).filter(|n| a.binary_search(n).is_err()).collect();
    assert_eq!((lost, more), (missing, 0));
    let count = s.count(1, Direction::Down, TrafficClass::Multicast);
    assert_eq!(count.frames - count.dropped, a.len() as u64);
}

#[test]
fn losses_have_the_asked_share_and_length() {
    let seed = seed();
    for (share, burst) in [(0.01, 1.0), (0.2, 1.0), (0.05, 4.0), (0.09, 2.0)] {
        let percent = Percent::from_fraction(share);
        let model =
            if burst > 1.0 { LossModel::Bursts(percent, burst) } else { LossModel::Independent(percent) };
        let count = 30_000;
        let (out, _) = run(&loss(model), count, seed);
        let lost = f64::from(count) - out.len() as f64;
        let deviation = (share * (1.0 - share) * 2.0 * burst / f64::from(count)).sqrt();
        let measured = lost / f64::from(count);
        assert!((measured - share).abs() < 6.0 * deviation, "{share} in {burst}: {measured}");
        let runs = out.windows(2).filter(|w| w[1] != w[0] + 1).count().max(1);
        let length = lost / runs as f64;
        assert!((length / burst - 1.0).abs() < 0.35, "{share} in {burst}: runs of {length}");
    }
}

#[test]
fn reordering_reorders_and_loses_nothing() {
    let reorder = Percent::from_fraction(0.25);
    let impairment = Impairment { reorder, delay: Duration::from_millis(5), ..Impairment::default() };
    let (out, _) = run(&impairment, 4000, 3);
    let overtaken = out.windows(2).filter(|w| w[1] < w[0]).count();
    assert!(overtaken > 500, "{overtaken}");
    let mut sorted = out;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..4000).collect::<Vec<_>>());
    let jitter = Impairment { jitter: Duration::from_millis(5), reorder: Percent::default(), ..impairment };
    assert!(run(&jitter, 1000, 3).0.is_sorted(), "jitter alone keeps the order");
}

#[test]
fn duplicates_corruption_and_forgery_are_as_many_as_asked() {
    let share = Percent::from_fraction(0.1);
    let (out, s) = run(&Impairment { duplicate: share, ..Impairment::default() }, 5000, 5);
    let extra = out.len() - 5000;
    assert!((400..600).contains(&extra), "{extra}");
    assert_eq!(s.trace().0.len(), extra);
    for impairment in [
        Impairment { corrupt: share, ..Impairment::default() },
        Impairment { forge: share, ..Impairment::default() },
    ] {
        let (_, s) = run(&impairment, 5000, 5);
        let altered = s.trace().0.len();
        assert!((400..600).contains(&altered), "{impairment:?}: {altered}");
        assert_eq!(s.count(1, Direction::Down, TrafficClass::Multicast).dropped, 0);
    }
}

#[test]
fn an_outage_takes_everything_and_changes_nothing_after_it() {
    let model = LossModel::Independent(Percent::from_fraction(0.3));
    let (without, _) = run(&loss(model), 300, 4);
    let start = Instant::now();
    let mut s = switch(4);
    s.receive(start, 1, igmp(5, &[SOURCE]));
    let mut with = Vec::new();
    for number in 0..300u32 {
        let outage = (100..200).contains(&number);
        s.set(1, Direction::Down, TrafficClass::Multicast, &Impairment { outage, ..loss(model) });
        s.receive(start, 0, multicast(&number.to_be_bytes()));
        let got =
            drain(&mut s, start).into_iter().map(|(_, f)| u32::from_be_bytes(f[42..46].try_into().unwrap()));
        with.extend(got);
    }
    let expected: Vec<u32> = without.into_iter().filter(|n| !(100..200).contains(n)).collect();
    assert_eq!(with, expected);
}

#[test]
fn a_bottleneck_delays_and_then_drops() {
    // A frame of 46 bytes each millisecond is 368 kbit/s.
    let half = Impairment { rate: Some(184_000), queue: Some(2000), ..Impairment::default() };
    let (out, s) = run(&half, 2000, 1);
    let dropped = s.trace().0.iter().filter(|t| t.cause == Cause::Queue).count();
    assert_eq!(out.len() + dropped, 2000);
    assert!((900..1000).contains(&dropped), "{dropped}");
    let ample = Impairment { rate: Some(400_000), queue: Some(2000), ..Impairment::default() };
    assert_eq!(run(&ample, 2000, 1).0.len(), 2000);
}

#[test]
fn altered_packets_have_right_checksums() {
    let frame = multicast(&[1, 2, 3, 4, 5]);
    let Kind::Multicast(datagram) = classify(&frame) else { panic!() };
    let altered = alter_payload(&frame, &datagram, |p| p[4] ^= 0x80);
    assert_eq!((&altered[..40], &altered[42..46]), (&frame[..40], &frame[42..46]));
    assert_ne!(altered[46], frame[46]);
    // The sum over pseudo header and datagram with its checksum is all ones.
    let mut sum: u32 = 17 + 13;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    };
    add(&SOURCE.octets());
    add(&GROUP.octets());
    add(&altered[34..]);
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
}
