//! MoQ Transport draft-18 over QUIC (quinn): endpoint, certificates, session.
//!
//! Why no MoQ library: `moq-transport` 0.17, the one that speaks draft-18, turns on aws-lc-rs through the default
//! features of its own QUIC dependency (a second TLS backend, a C compiler and cmake for every router it is built
//! for), and no feature turns it off; `moq-net` fetches whole groups only and sits on another QUIC stack; `moqtail` speaks
//! draft-22 only. What MAHP needs of the draft is small, and every bound on hostile input is in our hands here.

mod answer;
mod ask;
mod endpoint;
mod pace;
mod places;
mod session;
mod stats;
mod stream;
mod tls;

pub use ask::{QuicFetching, QuicSubscription};
pub use endpoint::{Connector, Listener, ListenerStats, MoqtUrl, open, parse_url};
pub use session::{Limits, QuicSession};
pub use stats::SessionStats;
pub use tls::{Fingerprint, Identity, TlsError, Trust};
