//! What the repair service tells: status and metrics.

use super::{FlowState, State};
use metrics::{counter, gauge};
use serde_json::{Value, json};

/// For `/api/status`.
pub fn json(state: &State) -> Value {
    let c = &state.counts;
    let m = &state.multicast;
    json!({
        "receivers": state.receivers,
        "kept_bytes": state.kept_bytes,
        "unicast": { "served": c.served, "bytes": c.served_bytes, "busy": c.busy, "unknown": c.unknown,
                     "invalid": c.invalid },
        "reports": { "read": c.reports, "over_moq": c.deferred, "refused": c.refused_reports },
        "multicast": { "believed": m.believed, "repairs": m.repairs, "symbols": m.symbols,
                       "over_budget": m.over_budget, "left_to_unicast": m.left },
        "flows": state.flows.iter().map(flow).collect::<Vec<_>>(),
    })
}

fn flow(f: &FlowState) -> Value {
    let r = &f.reception;
    json!({
        "channel": f.channel, "rendition": f.rendition,
        "fec": { "percent": f.percent, "receivers": f.why.receivers, "loss": f.why.loss,
                 "smoothed_loss": f.why.smoothed, "needed_percent": f.why.needed },
        "reception": { "packets": r.packets, "source": r.source, "repair": r.repair, "expected": r.expected,
                       "lost": r.lost, "recovered": r.recovered, "bytes": r.bytes, "runs": r.runs,
                       "join_ms": r.join_ms },
    })
}

/// Brings the metrics up to date.
pub fn publish(state: &State) {
    let c = &state.counts;
    for (result, n) in
        [("served", c.served), ("busy", c.busy), ("unknown", c.unknown), ("invalid", c.invalid)]
    {
        counter!("mahp_sender_repair_requests_total", "result" => result).absolute(n);
    }
    counter!("mahp_sender_repair_unicast_bytes_total").absolute(c.served_bytes);
    counter!("mahp_sender_repair_multicast_symbols_total").absolute(state.multicast.symbols);
    counter!("mahp_sender_reports_total", "result" => "read").absolute(c.reports);
    counter!("mahp_sender_reports_total", "result" => "over_moq").absolute(c.deferred);
    for (why, n) in &c.refused_reports {
        counter!("mahp_sender_reports_total", "result" => *why).absolute(*n);
    }
    gauge!("mahp_sender_receivers").set(state.receivers);
    for f in &state.flows {
        let labels = [("channel", f.channel.clone()), ("rung", f.rendition.clone())];
        gauge!("mahp_sender_repair_share_ratio", &labels).set(f64::from(f.percent) / 100.0);
        gauge!("mahp_sender_reported_loss_ratio", &labels).set(f.why.smoothed);
    }
}
