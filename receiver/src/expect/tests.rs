use super::*;
use mahp_common::Toi;

const TARGET: Duration = Duration::from_secs(2);
const RATE: FlowRate = FlowRate { rate_bps: 8_000_000, symbol_size: 1344, repair_percent: 15, loss: 0.0 };

fn key(n: u64) -> ResourceKey {
    ResourceKey(format!("https://h/seg{n}.ts").into())
}

fn keys(range: std::ops::Range<u64>) -> Vec<ResourceKey> {
    range.map(key).collect()
}

fn ms(t: u64) -> Time {
    Time::from_millis(t)
}

fn ask(h: &Hearing, now: Time, n: u64) -> Verdict {
    h.verdict(now, &key(n), None, None, &RATE)
}

/// Joined at 0; segment `n` begins at (n - 9) * 2 s from n = 10 on, playlists follow.
fn live(segments: std::ops::Range<u64>) -> Hearing {
    let mut h = Hearing::new(true, TARGET, Time::ZERO);
    for n in segments {
        let now = ms((n - 9) * 2000);
        h.packets(now);
        h.announced(now, &key(n), ObjectKind::Media, true, None);
    }
    h
}

fn progress(first: u64, last: u64, k: u64, missing: u64) -> Progress {
    Progress {
        toi: Toi(1),
        first_symbol: ms(first),
        last_symbol: ms(last),
        source_symbols: k,
        missing_symbols: missing,
        unheard_symbols: 0,
        length: k * 1344,
    }
}

#[test]
fn what_repair_symbols_cannot_make_up_for_is_far_away() {
    // Joined when 60 of 200 source symbols had been sent; 100 have come since.
    let joined_late = |unheard| Progress { unheard_symbols: unheard, ..progress(0, 500, 200, 100) };
    assert!(completion(ms(500), &joined_late(60), &RATE) > ms(30_000));
    assert!(completion(ms(500), &joined_late(30), &RATE) < ms(2000), "30 repair symbols will come");
    // What was sent before the join has come another way since.
    let fetched = Progress { missing_symbols: 20, ..joined_late(60) };
    assert!(completion(ms(500), &fetched, &RATE) < ms(2000));
}

#[test]
fn the_next_segment_of_a_live_edge_is_expected_and_no_longer_than_reasonable() {
    let h = live(10..16);
    // Segment 15 began at 12 s; 16 is due at 14 s, slack 1.5 s.
    assert_eq!(ask(&h, ms(12_500), 16), Verdict::Expected { until: ms(15_500) });
    assert_eq!(
        ask(&h, ms(12_500), 17),
        Verdict::Expected { until: ms(15_500) },
        "unknown position counts as next"
    );
    // Were 16 late, the rendition would be silent as well; packets of the playlist keep it alive.
    let mut h = h;
    h.packets(ms(15_600));
    assert_eq!(ask(&h, ms(15_600), 16), Verdict::NotComing(Absent::Overdue));
}

#[test]
fn an_object_that_was_described_late_has_begun_all_the_same() {
    // Every FDT Instance that lists 16 first is lost; the next one, half a second later, lists an init segment before it.
    let mut h = live(10..16);
    h.packets(ms(14_500));
    h.announced(ms(14_500), &key(16), ObjectKind::Media, false, None);
    let mut unheard = live(10..16);
    unheard.packets(ms(14_500));
    h.completed(ms(14_010), &key(16));
    assert_eq!(ask(&unheard, ms(16_005), 17), Verdict::NotComing(Absent::Overdue), "negative control");
    assert_eq!(ask(&h, ms(16_005), 17), Verdict::Expected { until: ms(17_510) });
    assert!(!h.precedes_join(ms(16_005), &key(17)));
    // What is complete a second time, or comes from before the live edge, begins nothing.
    h.completed(ms(15_900), &key(16));
    h.announced_past(ms(15_900), &key(3), false, None);
    h.completed(ms(15_900), &key(3));
    assert_eq!(ask(&h, ms(16_005), 17), Verdict::Expected { until: ms(17_510) });
}

#[test]
fn an_object_that_nothing_has_described_yet_may_be_the_next_one() {
    // 16 is sent from 14 s on, slower than usual, and its first FDT Instance is lost: it would be overdue at 15.5 s.
    let mut h = live(10..16);
    h.taught(&keys(8..18), false);
    h.packets(ms(15_400));
    assert_eq!(ask(&h, ms(15_600), 16), Verdict::NotComing(Absent::Overdue), "negative control");
    h.nameless(Some(ms(14_900)));
    assert_eq!(ask(&h, ms(14_900), 16), Verdict::Expected { until: ms(15_500) }, "as usual");
    h.nameless(Some(ms(15_400)));
    assert_eq!(ask(&h, ms(15_600), 16), Verdict::Expected { until: ms(15_900) });
    assert_eq!(ask(&h, ms(15_901), 16), Verdict::NotComing(Absent::Overdue), "they have ceased");
    assert_eq!(ask(&h, ms(15_600), 17), Verdict::Expected { until: ms(17_500) }, "not the one after it");
    assert_eq!(ask(&h, ms(15_600), 14), Verdict::NotComing(Absent::Passed));
    // However long they come (nothing has verified them), a cadence later it is enough.
    h.packets(ms(17_600));
    h.nameless(Some(ms(17_400)));
    assert_eq!(ask(&h, ms(17_400), 16), Verdict::Expected { until: ms(17_500) });
    h.nameless(Some(ms(17_600)));
    assert_eq!(ask(&h, ms(17_600), 16), Verdict::NotComing(Absent::Overdue));
    // Described: it has begun.
    h.announced(ms(17_700), &key(16), ObjectKind::Media, true, None);
    h.nameless(None);
    assert_eq!(ask(&h, ms(17_700), 16), Verdict::Expected { until: ms(19_200) });
}

#[test]
fn positions_from_a_playlist_tell_how_far_ahead() {
    let mut h = live(10..16);
    h.taught(&keys(8..18), false);
    assert_eq!(ask(&h, ms(12_500), 16), Verdict::Expected { until: ms(15_500) });
    assert_eq!(ask(&h, ms(12_500), 17), Verdict::Expected { until: ms(17_500) });
    assert_eq!(ask(&h, ms(12_500), 8), Verdict::NotComing(Absent::Passed), "before the join");
}

#[test]
fn an_init_segment_is_not_waited_for_unless_it_is_on_its_way() {
    let init = 1000;
    let mut h = live(10..16);
    assert!(matches!(ask(&h, ms(12_500), init), Verdict::Expected { .. }), "not known for what it is");
    h.taught(&keys(8..18), false);
    h.taught_inits(&[key(init)]);
    assert_eq!(ask(&h, ms(12_500), init), Verdict::NotComing(Absent::Listed));
    h.announced(ms(12_600), &key(init), ObjectKind::Init, true, None);
    assert!(matches!(ask(&h, ms(12_700), init), Verdict::Expected { .. }));
    // In a single file the init segment has the segments' key.
    h.taught_inits(&[key(16)]);
    assert_eq!(ask(&h, ms(12_500), 16), Verdict::Expected { until: ms(15_500) });
}

#[test]
fn what_was_sent_before_the_join_is_not_waited_for() {
    let mut h = Hearing::new(true, TARGET, Time::ZERO);
    h.taught(&keys(1..6), false);
    assert_eq!(ask(&h, ms(100), 3), Verdict::NotComing(Absent::Passed));
    // The newest may be on its way right now.
    assert!(matches!(ask(&h, ms(100), 5), Verdict::Expected { .. }));
    assert!(matches!(ask(&h, ms(100), 6), Verdict::Expected { .. }));
    // The first FDT lists 3..=5; only 5 is new.
    h.packets(ms(200));
    for n in [5, 3, 4] {
        h.announced(ms(200), &key(n), ObjectKind::Media, n == 5, None);
    }
    assert_eq!(ask(&h, ms(250), 3), Verdict::NotComing(Absent::Passed));
    assert_eq!(ask(&h, ms(250), 4), Verdict::NotComing(Absent::Passed));
    assert_eq!(ask(&h, ms(250), 5), Verdict::Expected { until: ms(1700) });
    h.packets(ms(1800));
    assert_eq!(ask(&h, ms(1800), 5), Verdict::NotComing(Absent::Passed));
}

#[test]
fn a_multicast_playlist_proves_that_its_segments_were_sent() {
    let mut h = live(10..13);
    h.taught(&keys(12..15), true);
    assert_eq!(ask(&h, ms(6100), 14), Verdict::NotComing(Absent::Listed));
    assert!(matches!(ask(&h, ms(6100), 15), Verdict::Expected { .. }));
    let mut h = live(10..13);
    h.taught(&keys(12..15), false);
    assert!(
        matches!(ask(&h, ms(6100), 14), Verdict::Expected { .. }),
        "the origin's playlist proves nothing"
    );
}

#[test]
fn the_past_says_nothing_of_the_live_edge() {
    let mut h = live(10..16);
    h.taught(&keys(1..18), false);
    // Segment 3, and one that the playlist does not list (any more), between 15 and 16.
    h.announced_past(ms(12_200), &key(3), true, None);
    h.announced_past(ms(12_300), &key(0), true, None);
    h.taught(&keys(1..18), false);
    assert_eq!(ask(&h, ms(12_500), 3), Verdict::Expected { until: ms(13_700) }, "it is on its way");
    assert_eq!(ask(&h, ms(14_000), 3), Verdict::NotComing(Absent::Passed));
    assert_eq!(ask(&h, ms(12_500), 4), Verdict::NotComing(Absent::Passed));
    assert_eq!(ask(&h, ms(12_500), 16), Verdict::Expected { until: ms(15_500) });
    // Heard first of all after a join, it is no start to count from.
    let mut late = Hearing::new(true, TARGET, Time::ZERO);
    late.packets(ms(100));
    late.announced_past(ms(100), &key(3), true, None);
    late.taught(&keys(1..18), false);
    assert_eq!(ask(&late, ms(200), 5), Verdict::NotComing(Absent::Passed));
}

#[test]
fn a_silent_rendition_brings_nothing() {
    let h = live(10..16);
    assert!(matches!(ask(&h, ms(15_000), 16), Verdict::Expected { .. }));
    assert_eq!(ask(&h, ms(15_001), 16), Verdict::NotComing(Absent::Silent));
    let fresh = Hearing::new(true, TARGET, ms(5000));
    assert!(matches!(ask(&fresh, ms(5000), 1), Verdict::Expected { .. }));
    assert_eq!(ask(&fresh, ms(8001), 1), Verdict::NotComing(Absent::Silent));
}

#[test]
fn joining_again_forgets_the_silence_but_not_the_order() {
    let mut h = live(10..16);
    h.taught(&keys(10..18), false);
    h.joined(ms(60_000));
    assert!(!h.is_heard(ms(60_000)));
    assert_eq!(ask(&h, ms(60_000), 12), Verdict::NotComing(Absent::Passed));
    assert!(matches!(ask(&h, ms(60_000), 99), Verdict::Expected { .. }));
}

#[test]
fn film_segments_are_not_waited_for_unless_they_have_begun() {
    let mut h = Hearing::new(false, TARGET, Time::ZERO);
    h.packets(ms(100));
    assert_eq!(ask(&h, ms(200), 7), Verdict::NotComing(Absent::Carousel));
    h.announced(ms(200), &key(7), ObjectKind::Media, true, None);
    assert_eq!(ask(&h, ms(200), 7), Verdict::Expected { until: ms(1700) });
    let p = progress(300, 400, 100, 50);
    assert!(matches!(h.verdict(ms(400), &key(7), None, Some(&p), &RATE), Verdict::Coming { .. }));
}

#[test]
fn later_parts_of_a_file_are_expected_earlier_ones_are_not() {
    let mut h = Hearing::new(true, TARGET, Time::ZERO);
    for (n, t) in [(1, 1000), (2, 3000), (3, 5000)] {
        h.packets(ms(t));
        h.announced(ms(t), &key(0), ObjectKind::Media, true, Some(n * 1000 - 1));
    }
    let part = |first, now| h.verdict(ms(now), &key(0), Some(first), None, &RATE);
    assert_eq!(part(0, 6600), Verdict::NotComing(Absent::Passed));
    assert!(matches!(part(3000, 6600), Verdict::Expected { .. }));
}

#[test]
fn completion_follows_the_measured_rate() {
    // 100 of 200 symbols in 1 s: the rest in about one more.
    let p = progress(0, 1000, 200, 100);
    let by = completion(ms(1000), &p, &RATE).as_nanos() / 1_000_000;
    assert!((2050..2200).contains(&by), "{by}");
    // With loss the repair symbols have to be waited for as well: 30 symbols more.
    let lossy = FlowRate { loss: 0.05, ..RATE };
    let later = completion(ms(1000), &p, &lossy).as_nanos() / 1_000_000;
    assert!((by + 250..by + 350).contains(&later), "{later}");
    // The first symbols: nominal rate, 1.384 ms each.
    let by = completion(ms(0), &progress(0, 0, 200, 199), &RATE).as_nanos() / 1_000_000;
    assert!((300..450).contains(&by), "{by}");
    // Enough symbols: only decoding is left.
    assert_eq!(completion(ms(1500), &progress(0, 1000, 200, 0), &RATE), ms(1700));
}

#[test]
fn a_stalled_object_is_far_away() {
    let p = progress(0, 1000, 200, 100);
    assert!(completion(ms(2500), &p, &RATE) > ms(30_000));
    let unknown = FlowRate { rate_bps: 0, ..RATE };
    assert!(completion(ms(100), &progress(0, 100, 10, 9), &unknown) < ms(1000));
}

#[test]
fn a_restart_begins_a_new_cadence() {
    let mut h = live(10..16);
    h.new_session();
    h.packets(ms(13_000));
    h.announced(ms(13_000), &key(16), ObjectKind::Media, true, None);
    assert_eq!(ask(&h, ms(13_100), 16), Verdict::Expected { until: ms(14_500) });
}

#[test]
fn memory_is_bounded() {
    let mut h = Hearing::new(true, TARGET, Time::ZERO);
    for n in 0..20_000 {
        h.announced(ms(n), &key(n), ObjectKind::Media, true, None);
        if n % 100 == 0 {
            h.taught(&keys(n..n + 3000), true);
        }
    }
    assert!(h.announced.map.len() <= REMEMBERED && h.announced.order.len() <= REMEMBERED);
    assert!(h.listed.map.len() <= REMEMBERED && h.listed.order.len() <= REMEMBERED);
    assert!(h.order.at.len() <= REMEMBERED && h.order.keys.len() == h.order.at.len());
}

#[test]
fn orders_of_overlapping_playlists_agree() {
    let mut order = Order::default();
    order.teach(&keys(10..15));
    order.teach(&keys(12..18));
    assert_eq!(order.at[&key(17)] - order.at[&key(10)], 7);
    order.teach(&keys(100..103));
    assert!(order.at[&key(100)] > order.at[&key(17)]);
    assert_eq!(order.position_or_next(&key(103)), order.at[&key(102)] + 1);
}
