//! Sockets of a flow, and the one of its second repair layer, which comes and goes while the flow runs.

use crate::urls::RenditionKey;
use mahp_common::Time;
use mahp_common::catalog::Endpoint;
use mahp_runtime::error::StartupError;
use mahp_runtime::udp::{Interface, MulticastReceiver, ReceiveOptions};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// After a join that failed (no memberships left, say) the next attempt is made this much later.
const RETRY: Duration = Duration::from_secs(30);

/// How the sockets of a flow are joined.
pub(super) struct Opener {
    pub(super) interface: Interface,
    pub(super) standby: Vec<IpAddr>,
    pub(super) recv_buffer: usize,
}

impl Opener {
    /// Joins. Errors: those of [`MulticastReceiver::join`].
    pub(super) fn open(&self, e: &Endpoint) -> Result<MulticastReceiver, StartupError> {
        let options = ReceiveOptions {
            source: e.source,
            group: e.group,
            port: e.port,
            interface: self.interface.clone(),
            receive_buffer: self.recv_buffer,
        };
        let socket = MulticastReceiver::join(&options)?;
        // Any-source multicast hears them anyway.
        for source in self.standby.iter().filter(|_| e.source.is_some()) {
            socket.join_also(&ReceiveOptions { source: Some(*source), ..options.clone() })?;
        }
        Ok(socket)
    }
}

/// What hub and flow share of the second repair layer.
#[derive(Debug, Default)]
pub struct Layer2 {
    wanted: AtomicBool,
    joined: AtomicBool,
    error: Mutex<String>,
}

impl Layer2 {
    /// Has the flow join or leave it, within a second.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether it is joined.
    pub fn is_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Why it could not be joined; empty: no error.
    pub fn error(&self) -> String {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, joined: bool, error: String) {
        self.joined.store(joined, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// The socket of the second repair layer.
pub(super) struct LayerSocket {
    /// None: there is no such layer.
    place: Option<Endpoint>,
    opener: Opener,
    socket: Option<MulticastReceiver>,
    /// After a failure: not before this time.
    retry: Option<Time>,
}

impl LayerSocket {
    pub(super) const fn new(place: Option<Endpoint>, opener: Opener) -> LayerSocket {
        LayerSocket { place, opener, socket: None, retry: None }
    }

    pub(super) const fn socket(&self) -> Option<&MulticastReceiver> {
        self.socket.as_ref()
    }

    pub(super) const fn socket_mut(&mut self) -> Option<&mut MulticastReceiver> {
        self.socket.as_mut()
    }

    /// Joins or leaves as the hub says. That it cannot be joined must not end the flow.
    pub(super) fn follow(&mut self, key: &RenditionKey, now: Time, shared: &Layer2) {
        let wanted = shared.wanted.load(Ordering::Relaxed);
        let Some(place) = self.place.filter(|_| wanted != self.socket.is_some()) else { return };
        if !wanted {
            self.socket = None;
            shared.set(false, String::new());
            tracing::info!(%key, "left the second repair layer");
            return;
        }
        if self.retry.is_some_and(|at| now < at) {
            return;
        }
        match self.opener.open(&place) {
            Ok(socket) => {
                (self.socket, self.retry) = (Some(socket), None);
                shared.set(true, String::new());
                tracing::info!(%key, group = %place.group, "joined the second repair layer");
            }
            Err(error) => {
                self.retry = Some(now + RETRY);
                tracing::warn!(%key, "second repair layer: {error}");
                shared.set(false, error.to_string());
            }
        }
    }
}
