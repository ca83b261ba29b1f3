//! `mahp-testbed`: the demo, loss injection, and the playlist client.
//!
//! | room | what it does |
//! |---|---|
//! | [`clip`], [`boxes`] | the embedded test clip, cut into CMAF segments on an endless timeline |
//! | [`presentation`] | the clip as live and on-demand HLS and DASH: which bytes a path has at a time (pure) |
//! | [`origin`] | the web server in front of it: access log, delay, faults, stop |
//! | [`link`] | the bad link: loss, delay, duplicates, reordering, without root |
//! | [`client`] | the player: fetches, plays with a playhead instead of a decoder, compares with the origin |
//! | [`emu`] | the link emulator: impairments, snooping, switch (pure) |
//! | [`net`] | namespaces, interfaces and frames around it |
//! | [`scenario`] | what runs, what goes wrong when, what must hold |
//! | [`run`] | runs a scenario: starts, samples, stops |
//! | [`crowd`] | many light receivers in one process |
//! | [`result`] | what it showed: figures, verdict, report.json, report.html |
//! | [`process`] | programs that end when the testbed ends |
//! | [`demo`] | all of it together, with the sender and the receiver as processes |
//! | [`latency`] | glass to glass: a clock in the picture, read again in a browser behind the receiver |
//! | [`report`] | what a run showed, and whether that is good enough |

pub mod boxes;
pub mod cli;
pub mod client;
pub mod clip;
pub mod crowd;
pub mod demo;
pub mod emu;
pub mod latency;
pub mod link;
pub mod net;
pub mod origin;
pub mod presentation;
pub mod process;
pub mod report;
pub mod result;
pub mod run;
pub mod scenario;
