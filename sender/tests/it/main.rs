//! The sender against a scripted origin, as a program, and over real multicast on loopback.

mod cli;
mod dash;
mod discover;
mod end_to_end;
mod live_hls;
mod outbox;
mod parts;
mod reload;
mod repair;
mod support;
mod vod;
