//! What the metrics mean, in words: the `# HELP` lines of `/metrics`.

use mahp_runtime::admin::Meanings;

/// All of them.
pub const MEANINGS: Meanings = Meanings {
    counters: &[
        (
            "mahp_receiver_connections_refused_total",
            "Connections closed because one machine had as many as it may have",
        ),
        ("mahp_receiver_http_requests_total", "Requests of players and browsers, by route and code"),
        (
            "mahp_receiver_http_response_bytes_total",
            "Media bytes served, by where they came from: multicast, repaired (multicast and some by unicast), unicast",
        ),
        ("mahp_receiver_moq_bytes_total", "Payload bytes served over MoQ"),
        ("mahp_receiver_moq_failed_sessions_total", "Connections that became no MoQ session"),
        (
            "mahp_receiver_moq_followed_total",
            "What following a publisher over MoQ brought: live and fetched objects, duplicates, holes, sessions, failures",
        ),
        ("mahp_receiver_moq_refusals_total", "Requests over MoQ that were refused, by code"),
        ("mahp_receiver_moq_violations_total", "MoQ sessions closed because the peer broke the protocol"),
        (
            "mahp_receiver_object_bytes_total",
            "Bytes of complete objects, by the way they came; whole: fetched as a whole",
        ),
        ("mahp_receiver_objects_total", "Objects, by result: multicast, repaired, unicast, lost"),
        (
            "mahp_receiver_origin_bytes_total",
            "Bytes fetched by unicast, by why: fallback, repair, manifest, key from origins; sender, moq from these",
        ),
        ("mahp_receiver_packets_dropped_total", "Packets that were of no use, by reason"),
        ("mahp_receiver_packets_total", "Packets received, of all flows of the channel"),
        ("mahp_receiver_received_bytes_total", "UDP payload bytes received, of all flows of the channel"),
        ("mahp_receiver_repair_layer_joins_total", "How often the second repair layer was joined"),
        (
            "mahp_receiver_repair_requests_total",
            "Requests to repair servers and origins: symbols, ranges, report; and how they ended: busy, failed, report_failed",
        ),
        (
            "mahp_receiver_responses_cut_total",
            "Connections broken off because their answers kept memory that was needed",
        ),
        (
            "mahp_receiver_socket_drops_total",
            "Packets the kernel dropped because the receive buffer was full",
        ),
        (
            "mahp_receiver_symbols_missing_total",
            "Source symbols that were sent and did not come by multicast",
        ),
        (
            "mahp_receiver_symbols_total",
            "Encoding symbols received, by kind: source, repair, late, duplicate",
        ),
    ],
    gauges: &[
        ("mahp_build_info", "Version of this program, always 1"),
        ("mahp_receiver_cache_bytes", "Bytes in the store of verified objects"),
        ("mahp_receiver_cache_limit_bytes", "The most that the store may hold"),
        ("mahp_receiver_last_packet_timestamp_seconds", "When the last packet of the channel came"),
        (
            "mahp_receiver_live_delay_seconds",
            "Time from the publication of the newest object until it could be served here",
        ),
        ("mahp_receiver_moq_held_bytes", "Bytes of answers that MoQ clients have not taken yet"),
        ("mahp_receiver_moq_sessions", "MoQ sessions of clients"),
        ("mahp_receiver_reassembly_bytes", "Bytes of objects that are being assembled"),
        ("mahp_receiver_repair_layer_joined", "Renditions whose second repair layer is joined"),
        ("mahp_receiver_viewers", "Players seen in the last 15 seconds"),
    ],
    histograms: &[
        ("mahp_receiver_decode_seconds", "Time to rebuild or check one source block"),
        ("mahp_receiver_http_hold_seconds", "How long requests waited for what was on its way"),
        (
            "mahp_receiver_object_completion_seconds",
            "Time from an object's first packet until it could be served",
        ),
    ],
};
