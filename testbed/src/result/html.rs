//! `report.html`: one file that needs nothing else.

use super::figures::Ledger;
use super::plot::{COLOURS, Line, Plot, escape};
use super::table::ROWS;
use super::{Report, Watched};
use crate::scenario::PlayerKind;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:980px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin:2em 0 .6em}figure{margin:0 0 1.6em}\
figcaption{font-weight:600}figcaption span{font-weight:400;color:#666;margin-left:.8em}svg{width:100%;height:auto}\
svg text{font:11px system-ui,sans-serif;fill:#555}svg text.s{fill:#8a5a1a}svg .g{stroke:#e4e4e4}svg .a{stroke:#888}\
.legend{margin:.1em 0 0 64px;color:#444;font-size:.88em}.legend i{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-1px}\
.legend span{margin-right:1em}table{border-collapse:collapse;width:100%;font-size:.93em}td,th{text-align:left;padding:.25em .8em .25em 0;border-bottom:1px solid #e4e4e4;vertical-align:top}\
td.n{text-align:right;font-variant-numeric:tabular-nums}td.differs{background:#fff6e5}.good{color:#006a4d}.bad{color:#b3261e;font-weight:600}\
.verdict{display:inline-block;padding:.15em .8em;border-radius:.4em;color:#fff}.verdict.good{background:#00775a;color:#fff}.verdict.bad{background:#b3261e;color:#fff}\
p.note{color:#555}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:.85em}";

/// Up to the body, which is open. `title`: escaped.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n"
    )
}

/// The page.
pub(super) fn page(report: &Report) -> String {
    let title = escape(&format!("{}: {}", report.name, report.title));
    let mut out = head(&title);
    let _ = writeln!(out, "<h1>{title}</h1>");
    let (class, word) = if report.passed { ("good", "passed") } else { ("bad", "failed") };
    let _ = writeln!(
        out,
        "<p><span class=\"verdict {class}\">{word}</span> {:.0} s, seed {}, {}, version {}, {} cores</p>",
        report.duration_s,
        report.seed,
        report.mode,
        escape(&report.version),
        report.cores
    );
    let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(&report.about));
    for limit in &report.limits {
        let _ = writeln!(out, "<p class=\"bad\">This mode cannot show: {}</p>", escape(limit));
    }
    criteria(&mut out, report);
    figures(&mut out, report);
    out.push_str("<h2>Over time</h2>\n");
    plots(report).iter().filter(|p| !p.is_empty()).for_each(|p| out.push_str(&p.svg()));
    players(&mut out, report);
    ledger(&mut out, &report.ledgers);
    crowd(&mut out, report);
    let _ = writeln!(out, "<h2>Scenario</h2>\n<pre>{}</pre>\n</body></html>", escape(&report.scenario));
    out
}

/// One plot as an SVG file: the first whose title contains `title`.
pub(super) fn plot(report: &Report, title: &str) -> Option<String> {
    let title = title.to_lowercase();
    let found = plots(report).into_iter().find(|p| !p.is_empty() && p.title.to_lowercase().contains(&title));
    found.map(|p| p.file())
}

fn criteria(out: &mut String, report: &Report) {
    out.push_str(
        "<h2>Criteria</h2>\n<table><tr><th>criterion</th><th>wanted</th><th>measured</th><th></th></tr>\n",
    );
    for c in &report.criteria {
        let class = if c.good() { "good" } else { "bad" };
        let word = match (c.holds, c.must_fail) {
            (true, false) => "holds",
            (false, false) => "fails",
            (false, true) => "fails, as it must",
            (true, true) => "holds, but must fail",
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escape(&c.name),
            escape(&c.wanted),
            escape(&c.measured)
        );
    }
    out.push_str("</table>\n");
}

fn figures(out: &mut String, report: &Report) {
    out.push_str("<h2>Figures</h2>\n<table>\n");
    for (name, value) in ROWS {
        if let Some(value) = value(&report.figures) {
            let _ = writeln!(out, "<tr><td>{name}</td><td class=\"n\">{}</td></tr>", escape(&value));
        }
    }
    out.push_str("</table>\n");
}

/// All plots; those without data are left out by the caller.
pub(super) fn plots(report: &Report) -> Vec<Plot> {
    vec![
        loss(report),
        repair_share(report),
        sources(report),
        buffers(report),
        delay(report),
        egress(report),
        receivers(report),
        processor(report),
        memory(report),
    ]
}

fn with_spans(report: &Report, title: &str, unit: &str, lines: Vec<Line>) -> Plot {
    let span = |s: &super::Span| (s.from, s.until, s.what.clone());
    Plot {
        title: title.into(),
        unit: unit.into(),
        lines,
        spans: report.spans.iter().map(span).collect(),
        range: report.series.t.first().copied().zip(report.series.t.last().copied()),
        ..Plot::default()
    }
}

fn line(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Line {
    Line { name: name.into(), colour: COLOURS[colour % COLOURS.len()], points }
}

/// Mean over receivers, row by row.
fn mean(report: &Report, what: &str, factor: f64) -> Vec<(f64, f64)> {
    let columns: Vec<_> =
        report.receivers.keys().map(|r| report.series.column(&format!("{r}/{what}"))).collect();
    let row = |(n, t): (usize, &f64)| {
        let values: Vec<f64> = columns.iter().filter_map(|c| c.get(n).copied().flatten()).collect();
        (!values.is_empty()).then(|| (*t, factor * values.iter().sum::<f64>() / values.len() as f64))
    };
    report.series.t.iter().enumerate().filter_map(row).collect()
}

/// Sum of growth per second over hosts.
fn sum_of_rates(report: &Report, columns: &[String], factor: f64) -> Vec<(f64, f64)> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for column in columns {
        for (t, rate) in report.series.rate(column) {
            match sums.binary_search_by(|p| p.0.total_cmp(&t)) {
                Ok(at) => sums[at].1 += rate * factor,
                Err(at) => sums.insert(at, (t, rate * factor)),
            }
        }
    }
    sums
}

fn of_receivers(report: &Report, what: &str) -> Vec<String> {
    report.receivers.keys().map(|r| format!("{r}/{what}")).collect()
}

fn loss(report: &Report) -> Plot {
    let on_the_wire: Vec<(f64, f64)> = {
        let dropped = sum_of_rates(report, &of_receivers(report, "down_multicast_dropped"), 1.0);
        let frames = sum_of_rates(report, &of_receivers(report, "down_multicast_frames"), 1.0);
        let pairs = dropped.iter().zip(&frames).filter(|(_, f)| f.1 > 0.0);
        pairs.map(|(d, f)| (d.0, 100.0 * d.1 / f.1)).collect()
    };
    let mut plot = with_spans(
        report,
        "Loss before and after FEC",
        "% of packets; % of objects that multicast alone did not complete",
        vec![
            line("packets dropped by the emulator", 5, on_the_wire),
            line("symbols missing before FEC", 1, mean(report, "loss_before_fec", 100.0)),
            line("objects incomplete after FEC", 0, mean(report, "loss_after_fec", 100.0)),
        ],
    );
    (plot.at_least, plot.at_most) = (1.0, 100.0);
    plot
}

fn repair_share(report: &Report) -> Plot {
    let points = report.series.points("sender/repair_share");
    let plot = with_spans(
        report,
        "Repair symbols that the sender adds",
        "per hundred source symbols, the rendition with most",
        vec![line("repair share", 4, points)],
    );
    Plot { at_least: 20.0, ..plot }
}

fn sources(report: &Report) -> Plot {
    let layer = |name: &str, colour: usize, what: &str| {
        let smooth = smoothed(&sum_of_rates(report, &of_receivers(report, what), 8e-6));
        line(name, colour, smooth)
    };
    let lines = vec![
        layer("multicast", 2, "served_multicast_bytes"),
        layer("repaired", 4, "served_repaired_bytes"),
        layer("unicast", 1, "served_unicast_bytes"),
    ];
    let plot = with_spans(report, "Bytes served to players, by source", "Mbit/s, mean of 4 s", lines);
    Plot { stacked: true, ..plot }
}

/// Segments come in lumps of two seconds: the mean of four rows shows the rate.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = |n: usize| &points[n.saturating_sub(3)..=n];
    let mean = |w: &[(f64, f64)]| w.iter().map(|p| p.1).sum::<f64>() / w.len() as f64;
    points.iter().enumerate().map(|(n, p)| (p.0, mean(window(n)))).collect()
}

/// Seconds from zero at which a player began.
fn offset(report: &Report, player: &Watched) -> f64 {
    // The first row is taken when the warm-up begins.
    let zero = report.started_ms as f64 - 1000.0 * report.series.t.first().copied().unwrap_or(0.0);
    (player.report.started_ms as f64 - zero) / 1000.0
}

fn buffers(report: &Report) -> Plot {
    let mut lines = Vec::new();
    let mut stalls = Vec::new();
    let players = report.players.iter().filter(|p| p.kind == PlayerKind::BuiltIn);
    for (number, player) in players.enumerate().take(COLOURS.len()) {
        let begun = offset(report, player);
        let point = |(ms, media): &(u64, u64)| (begun + *ms as f64 / 1000.0, *media as f64 / 1000.0);
        lines.push(line(&player.name, number, player.report.buffer.iter().map(point).collect()));
        for stall in &player.report.stalls {
            let from = begun + stall.at_ms as f64 / 1000.0;
            stalls.push((from, from + stall.lasted_ms as f64 / 1000.0, "stall".to_owned()));
        }
    }
    let mut plot = with_spans(report, "Buffer and stalls of players", "seconds of media", lines);
    plot.spans.extend(stalls);
    plot
}

fn delay(report: &Report) -> Plot {
    let mut lines = Vec::new();
    for player in report.players.iter().filter(|p| p.kind == PlayerKind::Probe) {
        let begun = offset(report, player);
        let of_video = player.report.segments.iter().filter(|s| s.track == 0);
        let points = of_video.filter_map(|s| {
            // Segments of the first window existed long before the probe.
            let behind = s.behind_ms? as f64 / 1000.0;
            (behind < s.at_ms as f64 / 1000.0).then_some((begun + s.at_ms as f64 / 1000.0, behind))
        });
        lines.push(line(&format!("last byte, {}", player.name), lines.len(), points.collect()));
        if lines.len() + 1 >= COLOURS.len() {
            break;
        }
    }
    lines.push(line(
        "object complete after its publication (receivers' mean)",
        6,
        mean(report, "delay_ms", 1e-3),
    ));
    with_spans(report, "Delay of segments", "seconds after availability at the origin", lines)
}

fn egress(report: &Report) -> Plot {
    let rate = |column: &str| smoothed(&sum_of_rates(report, &[column.to_owned()], 8e-6));
    with_spans(
        report,
        "What origin and sender send",
        "Mbit/s on the wire, mean of 4 s",
        vec![
            line("sender, multicast", 2, rate("sender/up_multicast_bytes")),
            line("origin, unicast to receivers", 1, rate("origin/to_receivers_bytes")),
            line("sender, unicast to receivers", 3, rate("sender/to_receivers_bytes")),
        ],
    )
}

/// What delivery costs for as many viewers as there were, and for fewer: measured against plain unicast.
fn receivers(report: &Report) -> Plot {
    let viewers = report.figures.egress_share.map_or(0, |_| viewers(report));
    if viewers < 2 {
        return Plot::default();
    }
    let each = report.players.iter().filter(|p| p.kind == PlayerKind::BuiltIn && p.host != "direct");
    let each = each.map(|p| p.report.bytes()).max().unwrap_or(0) as f64 * 8e-6 / report.duration_s.max(1.0);
    let seconds = report.duration_s.max(1.0);
    let ours = report.figures.egress_bytes as f64 * 8e-6 / seconds;
    let multicast = report.series.last("sender/up_multicast_bytes").unwrap_or_default() * 8e-6 / seconds;
    let n = viewers as f64;
    Plot {
        title: "Egress of origin and sender against the number of receivers".into(),
        unit: "Mbit/s, mean of the run".into(),
        lines: vec![
            line("plain unicast: one stream each", 1, vec![(0.0, 0.0), (n, each * n)]),
            line(
                "multicast and what was repaired, this run",
                2,
                vec![(0.0, multicast), (n, multicast + ours)],
            ),
        ],
        across: "receivers".into(),
        ..Plot::default()
    }
}

/// Receivers of the run, light ones included.
fn viewers(report: &Report) -> usize {
    let light = report.crowd.as_ref().map_or(0, |c| c.receivers);
    report.receivers.len() + usize::try_from(light).unwrap_or(0)
}

fn hosts(report: &Report) -> Vec<String> {
    let mut out = vec!["sender".to_owned()];
    out.extend(report.receivers.keys().take(4).cloned());
    out.push("origin".into());
    out
}

fn processor(report: &Report) -> Plot {
    let one = |(n, host): (usize, &String)| {
        let points = report.series.points(&format!("{host}/cpu"));
        line(host, n, points.into_iter().map(|(t, v)| (t, v * 100.0)).collect())
    };
    let lines = hosts(report).iter().enumerate().map(one).collect();
    with_spans(report, "Processor time", "% of one core", lines)
}

fn memory(report: &Report) -> Plot {
    let one = |(n, host): (usize, &String)| {
        let points = report.series.points(&format!("{host}/rss_bytes"));
        line(host, n, points.into_iter().map(|(t, v)| (t, v / 1e6)).collect())
    };
    let lines = hosts(report).iter().enumerate().map(one).collect();
    with_spans(report, "Memory", "MB resident", lines)
}

fn players(out: &mut String, report: &Report) {
    out.push_str(
        "<h2>Players</h2>\n<table><tr><th>player</th><th>first picture</th><th>shown</th><th>stalls</th><th>segments</th>\
         <th>multicast</th><th>repaired</th><th>unicast</th><th>wrong</th><th></th></tr>\n",
    );
    for player in &report.players {
        let r = &player.report;
        let via = |via| r.segments.iter().filter(|s| s.via == via).count();
        let wrong = r.segments.iter().filter(|s| s.verdict == crate::client::Verdict::Different).count();
        let startup = r.startup_ms.map_or("-".into(), |ms| format!("{ms} ms"));
        let stalled: u64 = r.stalls.iter().map(|s| s.lasted_ms).sum();
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{startup}</td><td>{:.1} s</td><td>{} ({stalled} ms)</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{wrong}</td><td>{}</td></tr>",
            escape(&player.name),
            r.played_ms as f64 / 1000.0,
            r.stalls.len(),
            r.segments.len(),
            via(crate::client::Via::Multicast),
            via(crate::client::Via::Repaired),
            via(crate::client::Via::Unicast) + via(crate::client::Via::Unsaid),
            escape(r.error.as_deref().unwrap_or("")),
        );
    }
    out.push_str("</table>\n");
}

fn crowd(out: &mut String, report: &Report) {
    let Some(c) = &report.crowd else { return };
    let _ = writeln!(out, "<h2>{} light receivers</h2>\n<table>", c.receivers);
    for (name, value) in super::table::crowd(c) {
        let _ = writeln!(out, "<tr><td>{name}</td><td class=\"n\">{value}</td></tr>");
    }
    out.push_str("</table>\n");
}

fn ledger(out: &mut String, ledgers: &[Ledger]) {
    out.push_str(
        "<h2>Ledger</h2>\n<p class=\"note\">Bytes of all responses by source: what the receiver counted, and what its players \
         counted.</p>\n<table><tr><th>receiver</th><th>multicast</th><th>repaired</th><th>unicast</th><th>served</th><th></th></tr>\n",
    );
    for l in ledgers {
        let served = l.served_multicast + l.served_repaired + l.served_unicast;
        let (class, word) = match (l.not_judged.is_empty(), l.balanced) {
            (false, _) => ("", format!("not judged: {}", l.not_judged)),
            (true, true) => ("good", "balanced to the byte".into()),
            (true, false) => {
                ("bad", format!("players got {} + {} + {}", l.got_multicast, l.got_repaired, l.got_unicast))
            }
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{served}</td><td class=\"{class}\">{}</td></tr>",
            escape(&l.receiver),
            l.served_multicast,
            l.served_repaired,
            l.served_unicast,
            escape(&word)
        );
    }
    out.push_str("</table>\n");
}
