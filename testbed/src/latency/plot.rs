//! The runs as one SVG: latency over time, and the stages that it is made of.

use super::figures::{Figures, STAGES};
use std::fmt::Write as _;

const COLOURS: [&str; 4] = ["#3b6ea5", "#8fb8de", "#e0a030", "#7a9a5a"];
const LINES: [&str; 6] = ["#2a6", "#36c", "#e80", "#c33", "#939", "#555"];
/// Width and height of the picture, and of the part with the course.
const SIZE: (f64, f64, f64) = (900.0, 470.0, 250.0);
/// Left edge of both plots.
const LEFT: f64 = 70.0;

/// Draws the runs.
pub(super) fn svg(runs: &[Figures]) -> String {
    let most = runs.iter().flat_map(|r| r.course.iter().map(|c| c.1)).fold(2000.0, f64::max) * 1.1;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        SIZE.0, SIZE.1
    );
    course(&mut out, runs, most);
    stages(&mut out, runs, most);
    out.push_str("</svg>\n");
    out
}

fn course(out: &mut String, runs: &[Figures], most: f64) {
    let length = runs.iter().flat_map(|r| r.course.last()).map(|c| c.0).fold(1.0, f64::max);
    let (width, height) = (SIZE.0 - LEFT - 20.0, SIZE.2 - 50.0);
    let y = |ms: f64| 30.0 + height * (1.0 - ms / most);
    let _ =
        writeln!(out, "<text x=\"{LEFT}\" y=\"18\">glass to glass, largest of each half second, ms</text>");
    for ms in [0.0, 500.0, 1000.0, 1500.0, 2000.0] {
        let colour = if ms == 2000.0 { "#c33" } else { "#ddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"{colour}\"/><text x=\"{2}\" y=\"{1:.1}\" text-anchor=\"end\" dy=\"4\">{ms}</text>",
            LEFT + width,
            y(ms),
            LEFT - 6.0
        );
    }
    for (i, (run, colour)) in runs.iter().zip(LINES.iter().cycle()).enumerate() {
        let points: Vec<String> = run
            .course
            .iter()
            .map(|(at, ms)| format!("{:.1},{:.1}", LEFT + width * at / length, y(*ms)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/><text x=\"{}\" y=\"18\" fill=\"{colour}\">{} % loss</text>",
            points.join(" "),
            LEFT + 400.0 + 90.0 * i as f64,
            run.path.loss * 100.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{length:.0} s</text>",
        LEFT + width,
        SIZE.2
    );
}

fn stages(out: &mut String, runs: &[Figures], most: f64) {
    let (width, top) = (SIZE.0 - LEFT - 20.0, SIZE.2 + 40.0);
    let _ =
        writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">medians of the stages of a part, ms</text>", top - 10.0);
    for (i, run) in runs.iter().enumerate() {
        let y = top + 32.0 * i as f64;
        let mut x = LEFT;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} %</text>",
            LEFT - 6.0,
            y + 16.0,
            run.path.loss * 100.0
        );
        for ((stage, colour), (name, _)) in run.stages.iter().zip(COLOURS).zip(STAGES) {
            let wide = width * stage.p50 / most;
            let label =
                if wide > 60.0 { format!("{name} {:.0}", stage.p50) } else { format!("{:.0}", stage.p50) };
            let label = if wide > 18.0 { label } else { String::new() };
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"22\" fill=\"{colour}\"><title>{name}: p50 {:.0} ms, p95 {:.0} ms</title></rect>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                stage.p50,
                stage.p95,
                x + 3.0,
                y + 15.0
            );
            x += wide;
        }
    }
}
