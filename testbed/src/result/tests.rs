//! Figures, ledger, verdict and page of a run made by hand.

use super::figures::{Figures, Ground, Ledger};
use super::{Collected, Report, Series, Span, Watched, html, plot, verdict};
use crate::client::{Fetched, Report as Played, Stall, Verdict, Via};
use crate::scenario::{Pass, PlayerKind};
use mahp_receiver::snapshot::Snapshot;
use std::collections::BTreeMap;

/// Sound and picture at a receiver for 40 s, with segments of 1000 bytes each second.
fn watched(via: impl Fn(u64) -> Via) -> Watched {
    let segment = |n: u64| Fetched {
        track: 0,
        number: n,
        url: format!("http://r/live/tv/{n}.m4s"),
        bytes: 1000,
        via: via(n),
        verdict: Verdict::Same,
        first_byte_ms: 2,
        total_ms: 5,
        requests: 1,
        late: false,
        at_ms: n * 1000 + 400,
        behind_ms: Some(400),
    };
    let segments: Vec<Fetched> = (0..40).map(segment).collect();
    let mut received = BTreeMap::new();
    for s in &segments {
        *received.entry(s.via).or_default() += s.bytes;
    }
    let report = Played {
        startup_ms: Some(100),
        played_ms: 39_900,
        segments,
        received,
        started_ms: 1_000_000,
        ..Played::default()
    };
    Watched {
        name: "player".into(),
        kind: PlayerKind::BuiltIn,
        host: "receiver-1".into(),
        manifest: String::new(),
        report,
    }
}

fn collected(players: &[Watched], unicast: impl Fn(u64) -> f64) -> Collected {
    let mut series = Series::default();
    let mut fetched = 0.0;
    for second in 0..=40u64 {
        series.row(second as f64);
        fetched += unicast(second);
        series.put("receiver-1/fetched_fallback_bytes", fetched);
        series.put("receiver-1/served_multicast_bytes", second as f64 * 1000.0);
    }
    let mut snapshot = Snapshot::default();
    let got = |via| players.iter().filter_map(|p| p.report.received.get(&via)).sum();
    snapshot.totals.served.multicast = got(Via::Multicast);
    snapshot.totals.served.repaired = got(Via::Repaired);
    snapshot.totals.served.unicast = got(Via::Unicast);
    Collected {
        series,
        receivers: BTreeMap::from([("receiver-1".to_owned(), snapshot)]),
        ready_ms: BTreeMap::from([("receiver-1".to_owned(), 995_000)]),
        ..Collected::default()
    }
}

fn evaluate(players: &[Watched], collected: &Collected, spans: &[Span]) -> (Figures, Vec<Ledger>) {
    let ground =
        Ground { collected, players, spans, zero_ms: 1_000_000, duration_s: 40.0, viewers: 1, grace_s: 2.0 };
    (ground.figures(), ground.ledgers())
}

#[test]
fn start_up_is_counted_apart() {
    let players = [watched(|n| if n < 5 { Via::Unicast } else { Via::Multicast })];
    let (f, ledgers) = evaluate(&players, &collected(&players, |s| if s < 5 { 1000.0 } else { 0.0 }), &[]);
    assert_eq!((f.intact_without_unicast, f.unicast_share, f.wrong, f.stalls), (Some(1.0), Some(0.0), 0, 0));
    assert_eq!(f.segments, 32, "those that came after 8 s");
    assert_eq!(f.first_segment_ms, Some(5400));
    assert!(f.played_share.is_some_and(|s| s > 0.99));
    assert!(ledgers[0].balanced && ledgers[0].not_judged.is_empty());
}

#[test]
fn unicast_after_start_up_is_a_share_of_what_was_served() {
    let players = [watched(|n| if n % 8 == 0 { Via::Repaired } else { Via::Multicast })];
    let (f, _) = evaluate(&players, &collected(&players, |_| 100.0), &[]);
    assert!(f.unicast_share.is_some_and(|s| (s - 0.1).abs() < 1e-9), "{f:?}");
    assert_eq!(f.intact_without_unicast, Some(28.0 / 32.0));
}

#[test]
fn unicast_outside_an_outage_is_found() {
    let players = [watched(|_| Via::Multicast)];
    let outage = [Span { what: "out".into(), from: 20.0, until: 25.0, outage: true }];
    let inside = collected(&players, |s| if (21..=27).contains(&s) { 500.0 } else { 0.0 });
    assert_eq!(evaluate(&players, &inside, &outage).0.unicast_outside_outage, Some(0));
    let outside = collected(&players, |s| if s == 35 { 500.0 } else { 0.0 });
    assert_eq!(evaluate(&players, &outside, &outage).0.unicast_outside_outage, Some(500));
}

#[test]
fn one_byte_unbalances_the_ledger() {
    let players = [watched(|_| Via::Multicast)];
    let mut short = collected(&players, |_| 0.0);
    if let Some(snapshot) = short.receivers.get_mut("receiver-1") {
        snapshot.totals.served.multicast -= 1;
    }
    let (figures, ledgers) = evaluate(&players, &short, &[]);
    let criteria = verdict::all(&Pass::default(), &figures, &ledgers, 0, &[]);
    assert!(criteria.iter().any(|c| c.name == "ledger" && !c.holds), "{criteria:?}");
    short.restarted.push("receiver-1".into());
    assert!(!evaluate(&players, &short, &[]).1[0].not_judged.is_empty());
}

#[test]
fn a_control_passes_only_when_its_criteria_fail() {
    let pass = |text: &str| toml::from_str::<Pass>(text).expect("criteria");
    let stalled = Figures { stalls: 3, ..Figures::default() };
    let good = |pass: &Pass, f: &Figures| verdict::all(pass, f, &[], 0, &[]).iter().all(|c| c.good());
    assert!(!good(&pass("stalls = 0"), &stalled));
    assert!(good(&pass("stalls = 0\nmust-fail = [\"stalls\"]"), &stalled));
    assert!(!good(&pass("stalls = 0\nmust-fail = [\"stalls\"]"), &Figures::default()));
    assert!(!good(&pass("intact = \"99%\""), &Figures::default()), "what was not measured does not hold");
    assert!(!verdict::all(&pass("stalls = 0"), &Figures::default(), &[], 1, &[]).iter().all(|c| c.good()));
}

#[test]
fn memory_and_layers_are_judged_by_what_the_run_can_show() {
    let pass: Pass =
        toml::from_str("memory-slope = \"30 MB/h\"\nlayer-2-only = \"receiver-2\"").expect("criteria");
    let judged = |lasted_s: f64, slope: f64, layers: [u64; 2]| {
        let layers = ["receiver-1", "receiver-2"].map(str::to_owned).into_iter().zip(layers);
        let memory_slope = [("sender".to_owned(), slope)].into();
        let f = Figures { lasted_s, memory_slope, layer_2_bytes: layers.collect(), ..Figures::default() };
        let all = verdict::all(&pass, &f, &[], 0, &[]);
        let holds = |name: &str| all.iter().find(|c| c.name == name).expect("judged").holds;
        (holds("memory-slope"), holds("layer-2-only"))
    };
    assert_eq!(judged(3600.0, 20e6, [0, 1000]), (true, true));
    assert_eq!(judged(3600.0, 40e6, [0, 0]), (false, false));
    assert_eq!(judged(60.0, 4e9, [1, 1000]), (true, false), "a short run says nothing of memory");
    let mut series = Series::default();
    for t in (0..=40).map(f64::from) {
        series.row(t);
        series.put("receiver-1/rss_bytes", 1e6 + 500.0 * t);
    }
    let c = Collected { series, ..collected(&[], |_| 0.0) };
    let ground = Ground {
        collected: &c,
        players: &[],
        spans: &[],
        zero_ms: 0,
        duration_s: 40.0,
        viewers: 1,
        grace_s: 0.0,
    };
    let slope = ground.figures().memory_slope["receiver-1"];
    assert!((slope - 500.0 * 3600.0).abs() < 1.0, "{slope}");
}

#[test]
fn a_busy_machine_excuses_a_stall_but_no_wrong_byte_and_no_control() {
    let excused = |pass: &str, figures: &Figures| -> Vec<String> {
        let pass: Pass = toml::from_str(pass).expect("criteria");
        let bad = verdict::all(&pass, figures, &[], 0, &[]).into_iter().filter(|c| !c.good());
        bad.map(|c| format!("{} {}", c.name, c.by_the_clock())).collect()
    };
    let bad = Figures { stalls: 1, wrong: 1, ..Figures::default() };
    assert_eq!(excused("stalls = 0", &bad), ["stalls true", "right-bytes false"]);
    assert_eq!(excused("stalls = 0\nmust-fail = [\"stalls\"]", &Figures::default()), ["stalls false"]);
}

fn report() -> Report {
    let mut player = watched(|n| if n < 5 { Via::Unicast } else { Via::Multicast });
    player.report.stalls.push(Stall { position_ms: 1, lasted_ms: 700, at_ms: 9000 });
    player.report.buffer = (0..40).map(|s| (s * 1000, 6000)).collect();
    player.name = "<script>".into();
    let players = vec![player];
    let collected = collected(&players, |_| 10.0);
    let (figures, ledgers) = evaluate(&players, &collected, &[]);
    let criteria = verdict::all(&Pass::default(), &figures, &ledgers, 0, &[]);
    Report {
        schema: super::SCHEMA.into(),
        version: "0".into(),
        name: "test".into(),
        title: "a & b".into(),
        about: String::new(),
        scenario: String::new(),
        seed: 1,
        duration_s: 40.0,
        mode: "namespaces".into(),
        limits: Vec::new(),
        started_ms: 1_000_000,
        cores: 2,
        passed: false,
        criteria,
        figures,
        ledgers,
        events: Vec::new(),
        spans: vec![Span { what: "loss".into(), from: 3.0, until: 9.0, outage: false }],
        players,
        receivers: collected.receivers,
        crowd: None,
        legs: Vec::new(),
        emulator_lost: 0,
        origin_log: Vec::new(),
        series: collected.series,
    }
}

#[test]
fn the_page_needs_nothing_else_and_trusts_no_text() {
    let page = html::page(&report());
    for outside in ["src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(
        page.contains("a &amp; b") && page.contains("&lt;script&gt;") && page.matches("<svg").count() >= 2
    );
    assert!(!page.contains("NaN"));
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let report = report();
    let text = serde_json::to_string(&report).expect("JSON");
    let back: Report = serde_json::from_str(&text).expect("a report");
    assert_eq!(serde_json::to_string(&back).expect("JSON"), text);
    let compared = super::compare::compare(&report, &back);
    assert!(compared.contains("stalls") && !compared.contains('*'), "{compared}");
}

#[test]
fn growth_survives_a_program_that_began_anew() {
    let mut series = Series::default();
    for (t, value) in [(0.0, 10.0), (1.0, 30.0), (2.0, 5.0), (3.0, 6.0)] {
        series.row(t);
        series.put("a", value);
    }
    assert_eq!(series.rate("a"), [(1.0, 20.0), (2.0, 5.0), (3.0, 1.0)]);
    series.put("late", 1.0);
    assert_eq!(series.column("late"), [None, None, None, Some(1.0)]);
    assert_eq!(plot::escape("<\"&>"), "&lt;&quot;&amp;&gt;");
}
