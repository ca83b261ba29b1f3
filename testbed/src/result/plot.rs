//! Line and area plots as SVG, without scripts, fonts or files from elsewhere. Pure.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Steps on an axis, about.
const TICKS: f64 = 5.0;

/// Colours that people who confuse red and green can tell apart (Okabe and Ito).
pub(super) const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"];

/// One line, or one layer of an area plot.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What is on the vertical axis, with its unit.
    pub(super) unit: String,
    pub(super) lines: Vec<Line>,
    /// Lines are layers on top of each other.
    pub(super) stacked: bool,
    /// Shaded spans: from, until, name.
    pub(super) spans: Vec<(f64, f64, String)>,
    /// The axis reaches at least this high.
    pub(super) at_least: f64,
    /// The axis ends here, whatever comes (shares: 100); 0: no bound.
    pub(super) at_most: f64,
    /// The horizontal axis, where it should be the same for all plots.
    pub(super) range: Option<(f64, f64)>,
    /// What is on the horizontal axis; empty: seconds.
    pub(super) across: String,
}

struct Scale {
    x: (f64, f64),
    y: f64,
}

impl Scale {
    fn x(&self, t: f64) -> f64 {
        let (from, to) = self.x;
        LEFT + (t - from) / (to - from).max(1e-9) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, v: f64) -> f64 {
        TOP + (1.0 - v / self.y.max(1e-12)) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Plot {
    /// Whether there is something to see.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(|l| l.points.is_empty())
    }

    /// How high its axis must reach.
    pub(super) fn highest(&self) -> f64 {
        let layers = if self.stacked { stack(&self.lines) } else { Vec::new() };
        let tops = if self.stacked { &layers } else { &self.lines };
        tops.iter().flat_map(|l| &l.points).map(|p| p.1).fold(self.at_least, f64::max)
    }

    /// The SVG element with a heading and a legend.
    pub(super) fn svg(&self) -> String {
        let mut out = format!(
            "<figure><figcaption>{}<span>{}</span></figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n",
            escape(&self.title),
            escape(&self.unit)
        );
        self.draw(&mut out);
        out.push_str("</svg>\n");
        self.legend(&mut out);
        out.push_str("</figure>\n");
        out
    }

    /// A file of its own: heading and legend are part of the picture.
    pub(super) fn file(&self) -> String {
        let head = 46.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 {} {WIDTH} {}\" font-family=\"system-ui,sans-serif\" \
             font-size=\"11\" fill=\"#444\">\n<style>.g{{stroke:#e4e4e4}}.a{{stroke:#888}}</style>\n\
             <rect y=\"{}\" width=\"{WIDTH}\" height=\"{}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"-28\" font-size=\"14\" font-weight=\"600\">{} ({})</text>\n",
            -head,
            HEIGHT + head,
            -head,
            HEIGHT + head,
            escape(&self.title),
            escape(&self.unit)
        );
        let mut x = LEFT;
        for line in &self.lines {
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"-18\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"-9\">{}</text>",
                line.colour,
                x + 14.0,
                escape(&line.name)
            );
            x += 40.0 + 6.5 * line.name.chars().count() as f64;
        }
        self.draw(&mut out);
        out.push_str("</svg>\n");
        out
    }

    fn draw(&self, out: &mut String) {
        let layers = if self.stacked { stack(&self.lines) } else { Vec::new() };
        let tops = if self.stacked { &layers } else { &self.lines };
        let points = || tops.iter().flat_map(|l| &l.points);
        let bound = |f: fn(f64, f64) -> f64| points().map(|p| p.0).reduce(f);
        let found = (bound(f64::min).unwrap_or(0.0), bound(f64::max).unwrap_or(1.0));
        let (from, to) = self.range.unwrap_or(found);
        let scale = Scale { x: (from, to.max(from + 1e-6)), y: self.top(self.highest()) };
        self.shade(out, &scale);
        self.axes(out, &scale);
        if self.stacked {
            areas(out, &layers, &scale);
        } else {
            self.lines.iter().for_each(|line| path(out, line, &scale));
        }
    }

    fn top(&self, highest: f64) -> f64 {
        let top = nice(highest * 1.05);
        if self.at_most > 0.0 { top.min(self.at_most) } else { top }
    }

    fn shade(&self, out: &mut String, scale: &Scale) {
        for (from, until, name) in &self.spans {
            let (left, right) = (from.max(scale.x.0), until.min(scale.x.1));
            if left >= right {
                continue;
            }
            let (x, width) = (scale.x(left), (scale.x(right) - scale.x(left)).max(1.5));
            let height = HEIGHT - TOP - BOTTOM;
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" fill=\"#f2d7b6\" fill-opacity=\"0.6\"/>\
                 <text x=\"{:.1}\" y=\"{}\" class=\"s\">{}</text>",
                x + 3.0,
                TOP + 11.0,
                escape(name)
            );
        }
    }

    fn axes(&self, out: &mut String, scale: &Scale) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for value in ticks(0.0, scale.y) {
            let y = scale.y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"g\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                number(value)
            );
        }
        for value in ticks(scale.x.0, scale.x.1) {
            let x = scale.x(value);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\" class=\"a\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 4.0,
                bottom + 17.0,
                number(value)
            );
        }
        let across = if self.across.is_empty() { "seconds" } else { &self.across };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\" class=\"a\"/>\
             <text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            HEIGHT - 3.0,
            escape(across)
        );
    }

    fn legend(&self, out: &mut String) {
        if self.lines.len() < 2 {
            return;
        }
        out.push_str("<p class=\"legend\">");
        for line in &self.lines {
            let name = escape(&line.name);
            let _ = write!(out, "<span><i style=\"background:{}\"></i>{name}</span> ", line.colour);
        }
        out.push_str("</p>\n");
    }
}

/// Each layer on top of those before it, at the points of the first.
fn stack(lines: &[Line]) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    for line in lines {
        let below = out.last().map(|l| l.points.clone()).unwrap_or_default();
        let base = |t: f64| below.iter().find(|p| p.0 == t).map_or(0.0, |p| p.1);
        let points = line.points.iter().map(|(t, v)| (*t, v + base(*t))).collect();
        out.push(Line { points, ..line.clone() });
    }
    out
}

fn areas(out: &mut String, layers: &[Line], scale: &Scale) {
    // The highest layer first: each then covers the lower part of it.
    for layer in layers.iter().rev() {
        let (Some(first), Some(last)) = (layer.points.first(), layer.points.last()) else { continue };
        let mut d = format!("M{:.1} {:.1}", scale.x(first.0), scale.y(0.0));
        for (t, v) in &layer.points {
            let _ = write!(d, "L{:.1} {:.1}", scale.x(*t), scale.y(*v));
        }
        let _ = write!(d, "L{:.1} {:.1}Z", scale.x(last.0), scale.y(0.0));
        let _ = writeln!(out, "<path d=\"{d}\" fill=\"{}\"/>", layer.colour);
    }
}

fn path(out: &mut String, line: &Line, scale: &Scale) {
    let mut d = String::new();
    let mut before: Option<f64> = None;
    let step = line.points.windows(2).map(|w| w[1].0 - w[0].0).fold(f64::INFINITY, f64::min).max(0.5);
    for (t, v) in &line.points {
        // A gap in the data is a gap in the line.
        let go_on = before.is_some_and(|b| t - b < step * 4.0);
        let _ = write!(d, "{}{:.1} {:.1}", if go_on { 'L' } else { 'M' }, scale.x(*t), scale.y(*v));
        before = Some(*t);
    }
    let _ = writeln!(out, "<path d=\"{d}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"/>", line.colour);
}

/// The next of 1, 2, 2.5, 5, 10 … above.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.into_iter().map(|s| s * power).find(|s| *s >= value).unwrap_or(10.0 * power)
}

fn ticks(from: f64, to: f64) -> Vec<f64> {
    let step = nice((to - from) / TICKS);
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last.min(first + 50)).map(|n| n as f64 * step).collect()
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// For text and attributes of HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, wanted) in
            [(0.0, 1.0), (1.0, 1.0), (1.2, 2.0), (2.2, 2.5), (7.0, 10.0), (130.0, 200.0), (0.03, 0.05)]
        {
            assert!((nice(value) - wanted).abs() < 1e-9, "{value}: {}", nice(value));
        }
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-5.0, 20.0), [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0]);
    }

    #[test]
    fn plots_hold_whatever_numbers_come() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(1.0, 5.0), (1.0, 7.0)], vec![(0.0, 1e18), (1e9, 0.0)]]
        {
            for stacked in [false, true] {
                let line = Line { name: "<a>".into(), colour: COLOURS[0], points: points.clone() };
                let plot = Plot {
                    title: "t & u".into(),
                    lines: vec![line.clone(), line],
                    stacked,
                    ..Plot::default()
                };
                let svg = plot.svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("t &amp; u") && svg.contains("&lt;a&gt;"));
            }
        }
    }
}
