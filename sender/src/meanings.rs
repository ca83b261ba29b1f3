//! What the metrics mean, in words: the `# HELP` lines of `/metrics`.

use mahp_runtime::admin::Meanings;

/// All of them.
pub const MEANINGS: Meanings = Meanings {
    counters: &[
        (
            "mahp_sender_moq_busy_total",
            "MoQ requests told to come again, by why: busy, multicast (it may bring the symbols)",
        ),
        ("mahp_sender_moq_bytes_total", "Payload bytes sent over MoQ"),
        ("mahp_sender_moq_failed_sessions_total", "Connections that became no MoQ session"),
        (
            "mahp_sender_moq_past_objects_total",
            "Objects that were fetched over MoQ when its window had them no more, by where they were",
        ),
        ("mahp_sender_moq_refusals_total", "Requests over MoQ that were refused, by code"),
        ("mahp_sender_moq_symbols_total", "Encoding symbols made for MoQ clients"),
        ("mahp_sender_moq_violations_total", "MoQ sessions closed because the peer broke the protocol"),
        ("mahp_sender_objects_repeated_total", "Objects sent again for late joiners"),
        ("mahp_sender_origin_requests_total", "Requests to origins, by result"),
        (
            "mahp_sender_origin_restarts_total",
            "How often numbers or names of a live rendition's segments began anew",
        ),
        ("mahp_sender_repair_multicast_symbols_total", "Repair symbols multicast on request"),
        ("mahp_sender_repair_requests_total", "Requests to the repair service, by result"),
        ("mahp_sender_repair_unicast_bytes_total", "Bytes served by the repair service"),
        ("mahp_sender_reports_total", "Reports of receivers, by result"),
        ("mahp_sender_segments_total", "Segments, by result: sent, late (of the sent), skipped, failed"),
        ("mahp_sender_send_errors_total", "Packets the kernel refused"),
        ("mahp_sender_sent_bytes_total", "UDP payload bytes, by kind: source, repair, repair_layer_2, fdt"),
        ("mahp_sender_sent_packets_total", "Packets"),
    ],
    gauges: &[
        ("mahp_build_info", "Version of this program, always 1"),
        ("mahp_sender_moq_held_bytes", "Bytes of answers that MoQ clients have not taken yet"),
        ("mahp_sender_moq_sessions", "MoQ sessions, that with the relay included"),
        (
            "mahp_sender_newest_segment_age_seconds",
            "Live: time since the newest segment came from the origin (0: none is expected)",
        ),
        ("mahp_sender_pacing_lag_seconds", "How far the last burst left behind its time"),
        ("mahp_sender_queue_bytes", "Bytes of objects waiting or being sent"),
        ("mahp_sender_receivers", "Receivers that have reported in the last minute"),
        ("mahp_sender_repair_share_ratio", "Repair symbols per source symbol"),
        ("mahp_sender_reported_loss_ratio", "Loss before FEC that the repair share follows"),
    ],
    histograms: &[
        ("mahp_sender_encode_seconds", "Time to make the repair symbols of one source block"),
        ("mahp_sender_origin_fetch_seconds", "Time from request to last byte of answers of origins"),
        ("mahp_sender_segment_lateness_seconds", "Time from listed at the origin to last packet out"),
    ],
};
