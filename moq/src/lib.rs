//! The same objects over Media over QUIC (MoQ Transport draft-18), and repair from it. Experimental.
//!
//! * [`wire`]: messages and data streams of the draft. Pure: bytes in, values out.
//! * [`catalog`], [`manifest`], [`symbols`]: what is in the tracks: MSF catalog with the multicast binding, signed
//!   records of what exists, symbols made on demand. Pure.
//! * [`track`]: the live window of a track, from which subscriptions and fetches are served.
//! * [`plane`]: the border. What the rest of MAHP asks of a MoQ session ([`ObjectPlane`]) and what a session asks of us
//!   ([`Source`]). A newer draft, or another library, is one more implementation of [`ObjectPlane`].
//! * [`exchange`]: which namespaces an endpoint offers, its own and those published to it: publisher and relay.
//! * [`channel`]: a channel with all its tracks; [`publisher`]: the one who signs what is in them.
//! * [`follow`]: a subscription that outlives its sessions; [`announce`]: publishing to a relay that does.
//! * [`room`]: what answers may hold until they are taken.
//! * [`quic`]: the implementation over quinn: endpoint, certificates, session.

pub mod announce;
pub mod catalog;
pub mod channel;
pub mod exchange;
pub mod follow;
pub mod limits;
pub mod manifest;
mod past;
pub mod plane;
pub mod publisher;
pub mod quic;
mod rendition;
pub mod room;
pub mod symbols;
pub mod track;
pub mod wire;

pub use exchange::Exchange;
pub use plane::{Object, ObjectPlane, PlaneError, Refusal, Source};
pub use track::Track;
pub use wire::{Location, Namespace, TrackName};
