//! Sessions come, change and go: what is on offer.

use super::{Entry, Hub, Session, SessionId, State, layer};
use crate::config::SessionSource;
use crate::expect::Hearing;
use crate::joins::Offer;
use crate::urls::RenditionKey;
use mahp_common::Time;
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{Channel, Rendition, Role, SessionDescription};
use mahp_common::repair::reach::Reach;
use mahp_runtime::error::StartupError;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;
use url::Url;

impl Hub {
    /// A sender that the operator named. `refresh` is notified when its description should be looked at again.
    pub fn add_session(&self, source: SessionSource, refresh: Arc<Notify>) -> SessionId {
        let mut state = self.state();
        let (error, hint) = (String::new(), String::new());
        let (description, key, answered) = (None, None, false);
        state.sessions.push(Session { source, description, key, error, hint, answered, refresh });
        SessionId(state.sessions.len() - 1)
    }

    /// Its verified description. `key`: what FDT Instances must be signed with; none only for foreign senders.
    pub fn describe(&self, id: SessionId, description: SessionDescription, key: Option<VerifyingKey>) {
        self.take_description(id, description, key, true);
    }

    /// Its verified description as of an earlier run: used until it answers.
    pub fn describe_again(&self, id: SessionId, description: SessionDescription, key: VerifyingKey) {
        self.take_description(id, description, Some(key), false);
    }

    fn take_description(
        &self,
        id: SessionId,
        description: SessionDescription,
        key: Option<VerifyingKey>,
        answered: bool,
    ) {
        self.with(|state, now| {
            let Some(session) = state.sessions.get_mut(id.0) else { return };
            let rekeyed = session.key != key;
            session.key = key;
            session.description = Some(description);
            session.error.clear();
            session.answered |= answered;
            state.offer(now, rekeyed.then_some(id.0));
        });
        self.changed();
    }

    /// It could not be had or verified; what is in use stays. Returns whether that is news.
    pub fn session_error(&self, id: SessionId, error: &StartupError) -> bool {
        match self.state().sessions.get_mut(id.0) {
            Some(session) if session.error != error.message => {
                session.error.clone_from(&error.message);
                session.hint.clone_from(&error.hint);
                true
            }
            _ => false,
        }
    }

    /// It was looked at and has not changed.
    pub fn session_ok(&self, id: SessionId) {
        let first = self.state().sessions.get_mut(id.0).is_some_and(|session| {
            session.error.clear();
            !std::mem::replace(&mut session.answered, true)
        });
        if first {
            self.changed();
        }
    }

    /// The description in use.
    pub fn description(&self, id: SessionId) -> Option<SessionDescription> {
        self.state().sessions.get(id.0).and_then(|s| s.description.clone())
    }
}

impl State {
    /// Brings everything in line with the descriptions. All flows of session `rekeyed` are joined anew.
    fn offer(&mut self, now: Time, rekeyed: Option<usize>) {
        let mut offered: Vec<(usize, Arc<Channel>)> = Vec::new();
        for (i, session) in self.sessions.iter().enumerate() {
            for channel in session.description.iter().flat_map(|d| &d.channels) {
                if offered.iter().any(|(_, c)| c.name == channel.name) {
                    let (name, source) = (&channel.name, &session.source);
                    tracing::warn!(
                        "W-CHANNEL-NAME: channel {name} of {source} is hidden: another sender has one of that name"
                    );
                    continue;
                }
                // Unchanged channels keep their identity.
                let same = self.channels.iter().find(|c| ***c == *channel).cloned();
                offered.push((i, same.unwrap_or_else(|| Arc::new(channel.clone()))));
            }
        }
        let mut changed = Vec::new();
        let mut renditions = Vec::new();
        for (session, channel) in &offered {
            for rendition in &channel.renditions {
                let key = RenditionKey::new(&channel.name, &rendition.id);
                renditions.push(Offer {
                    key: key.clone(),
                    is_manifest: rendition.role == Role::Manifest,
                    always: self.sessions.get(*session).is_some_and(|s| s.key.is_none()),
                });
                if self.upsert(now, &key, *session, channel, rendition) || rekeyed == Some(*session) {
                    changed.push(key);
                }
            }
        }
        // Leaves what is gone; its flow tells when it has ended, and finds no entry.
        self.joins.offer(now, &renditions, &changed);
        let gone: Vec<RenditionKey> =
            self.renditions.keys().filter(|k| !renditions.iter().any(|r| r.key == **k)).cloned().collect();
        for key in gone {
            self.end_flow(&key);
            self.renditions.remove(&key);
        }
        self.channels = offered.into_iter().map(|(_, c)| c).collect();
        self.urls.set_channels(&self.channels);
        self.store.set_any_live(self.channels.iter().any(|c| c.live));
    }

    /// Returns whether its flow moved.
    fn upsert(
        &mut self,
        now: Time,
        key: &RenditionKey,
        session: usize,
        channel: &Arc<Channel>,
        rendition: &Rendition,
    ) -> bool {
        let target = std::time::Duration::from_millis(channel.target_duration_ms);
        match self.renditions.get_mut(key) {
            Some(entry) => {
                let moved = entry.rendition.flow != rendition.flow
                    || entry.channel.standby_sources != channel.standby_sources
                    || entry.session != session;
                if entry.rendition.flow != rendition.flow {
                    entry.layer = layer::control(rendition);
                }
                if entry.channel.live != channel.live
                    || entry.channel.target_duration_ms != channel.target_duration_ms
                {
                    entry.hearing = Hearing::new(channel.live, target, now);
                }
                entry.session = session;
                entry.channel = channel.clone();
                entry.rendition = rendition.clone();
                moved
            }
            None => {
                let entry = Entry {
                    session,
                    channel: channel.clone(),
                    rendition: rendition.clone(),
                    hearing: Hearing::new(channel.live, target, now),
                    flow: None,
                    joined_at: None,
                    first_packet: None,
                    last_packet: None,
                    wanted_at: None,
                    error: String::new(),
                    allotted: 0,
                    stats: super::RenditionStats::default(),
                    layer: layer::control(rendition),
                    reach: Reach::new(now),
                    flying: VecDeque::new(),
                };
                self.renditions.insert(key.clone(), entry);
                false
            }
        }
    }

    /// A foreign channel's first manifest was heard: now it can be named to players.
    pub(super) fn name_foreign_manifest(
        &mut self,
        now: Time,
        rendition: &RenditionKey,
        url: &Url,
        live: bool,
    ) {
        let Some(entry) = self.renditions.get(rendition) else { return };
        if !entry.channel.manifest_url.is_empty() {
            return;
        }
        let format = match url.path().ends_with(".mpd") {
            true => mahp_common::catalog::Format::Dash,
            false => mahp_common::catalog::Format::Hls,
        };
        let session = entry.session;
        let description = self.sessions.get_mut(session).and_then(|s| s.description.as_mut());
        let channels = description.into_iter().flat_map(|d| &mut d.channels);
        for channel in channels.filter(|c| *c.name == *rendition.channel) {
            channel.manifest_url = url.to_string();
            (channel.format, channel.live) = (format, live);
        }
        self.offer(now, None);
    }
}
