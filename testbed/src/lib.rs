//! `mahp-testbed`: the demo, loss injection, and the playlist client.
//!
//! | room | what it does |
//! |---|---|
//! | [`clip`], [`boxes`] | the embedded test clip, cut into CMAF segments on an endless timeline |
//! | [`presentation`] | the clip as live and on-demand HLS and DASH: which bytes a path has at a time (pure) |
//! | [`origin`] | the web server in front of it: access log, delay, faults, stop |
//! | [`link`] | the bad link: loss, delay, duplicates, reordering, without root |
//! | [`client`] | the player: fetches, plays with a playhead instead of a decoder, compares with the origin |
//! | [`demo`] | all of it together, with the sender and the receiver as processes |
//! | [`report`] | what a run showed, and whether that is good enough |

pub mod boxes;
pub mod cli;
pub mod client;
pub mod clip;
pub mod demo;
pub mod link;
pub mod origin;
pub mod presentation;
pub mod report;
