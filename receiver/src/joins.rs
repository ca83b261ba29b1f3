//! Which renditions to join and when to leave them: a pure state machine.
//!
//! A rendition is joined when somebody asks for something of it (or always, by policy) and left when nobody did for the idle
//! time. A channel's manifest rendition stays as long as any of its renditions is asked for. Against flapping (a player
//! that hops between two rungs), a rendition that is wanted again soon after it was left gets twice the idle time, up to
//! eight times. A join that failed is tried again with growing pauses.

use crate::urls::RenditionKey;
use mahp_common::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// First pause after a failed join; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Idle time grows to at most 2^this times the configured one.
const PATIENCE_MAX: u32 = 3;

/// A rendition that nobody wanted for this long starts with the configured idle time again.
const FORGET: Duration = Duration::from_secs(600);

/// When to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// While somebody watches.
    OnDemand {
        /// Leave after this long without demand.
        idle: Duration,
    },
    /// All the time.
    Always,
}

/// A rendition on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The rendition.
    pub key: RenditionKey,
    /// Of role manifest: wanted while any of its channel is.
    pub is_manifest: bool,
    /// Joined whatever the policy (foreign senders: what they send is known only by listening).
    pub always: bool,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Join the rendition's groups.
    Join(RenditionKey),
    /// Leave them.
    Leave(RenditionKey),
}

#[derive(Clone, Debug)]
struct Entry {
    is_manifest: bool,
    always: bool,
    joined: bool,
    wanted_at: Option<Time>,
    left_at: Option<Time>,
    /// Idle time is the configured one times 2^patience.
    patience: u32,
    /// After a failed join: not before this time, and how long the pause was.
    retry: Option<(Time, Duration)>,
}

/// See the module. Call [`Joins::poll`] until `None` after every other call.
#[derive(Debug)]
pub struct Joins {
    policy: Policy,
    entries: BTreeMap<RenditionKey, Entry>,
    effects: VecDeque<Effect>,
}

impl Joins {
    /// Knows no renditions yet.
    pub fn new(policy: Policy) -> Joins {
        Joins { policy, entries: BTreeMap::new(), effects: VecDeque::new() }
    }

    /// The renditions on offer now. What is not offered any more is left; `changed` ones are left and, if wanted, joined
    /// again (their groups moved).
    pub fn offer(&mut self, now: Time, renditions: &[Offer], changed: &[RenditionKey]) {
        let gone: Vec<RenditionKey> =
            self.entries.keys().filter(|k| !renditions.iter().any(|r| r.key == **k)).cloned().collect();
        for key in gone {
            if self.entries.remove(&key).is_some_and(|e| e.joined) {
                self.effects.push_back(Effect::Leave(key));
            }
        }
        for Offer { key, is_manifest, always } in renditions {
            let entry = self.entries.entry(key.clone()).or_insert(Entry {
                is_manifest: *is_manifest,
                always: *always,
                joined: false,
                wanted_at: None,
                left_at: None,
                patience: 0,
                retry: None,
            });
            (entry.is_manifest, entry.always) = (*is_manifest, *always);
            if changed.contains(key) && entry.joined {
                self.effects.push_back(Effect::Leave(key.clone()));
                entry.joined = false;
                entry.retry = None;
            }
        }
        self.settle(now);
    }

    /// Somebody asked for something of this rendition. Also wants the manifest renditions of its channel.
    pub fn demand(&mut self, now: Time, key: &RenditionKey) {
        let Policy::OnDemand { idle } = self.policy else { return };
        let Some(asked) = self.entries.get_mut(key) else { return };
        if !asked.joined && asked.left_at.is_some_and(|left| now - left < idle) {
            asked.patience = (asked.patience + 1).min(PATIENCE_MAX);
        }
        asked.wanted_at = Some(now);
        for (other, entry) in &mut self.entries {
            if entry.is_manifest && other.channel == key.channel {
                entry.wanted_at = Some(now);
            }
        }
        self.settle(now);
    }

    /// Somebody asked for something of this channel that belongs to no rendition: its manifest renditions are wanted.
    pub fn demand_channel(&mut self, now: Time, channel: &str) {
        let manifests: Vec<RenditionKey> = self
            .entries
            .iter()
            .filter(|(k, e)| e.is_manifest && &*k.channel == channel)
            .map(|(k, _)| k.clone())
            .collect();
        for key in manifests {
            self.demand(now, &key);
        }
    }

    /// The driver could not join, or lost the socket.
    pub fn failed(&mut self, now: Time, key: &RenditionKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let pause = entry.retry.map_or(RETRY_FIRST, |(_, pause)| (pause * 2).min(RETRY_MAX));
        entry.joined = false;
        entry.retry = Some((now + pause, pause));
    }

    /// The join succeeded: the next failure starts with a short pause again.
    pub fn works(&mut self, key: &RenditionKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.retry = None;
        }
    }

    /// Time passes: leaves what is idle, tries failed joins again. Call about once a second.
    pub fn tick(&mut self, now: Time) {
        self.settle(now);
    }

    /// Leaves everything: shutdown.
    pub fn leave_all(&mut self) {
        for (key, entry) in &mut self.entries {
            if std::mem::take(&mut entry.joined) {
                self.effects.push_back(Effect::Leave(key.clone()));
            }
            entry.wanted_at = None;
        }
    }

    /// Next thing to do.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether the rendition is joined (or being joined).
    pub fn is_joined(&self, key: &RenditionKey) -> bool {
        self.entries.get(key).is_some_and(|e| e.joined)
    }

    fn settle(&mut self, now: Time) {
        for (key, entry) in &mut self.entries {
            let wanted = entry.wanted(self.policy, now);
            let ready = entry.retry.is_none_or(|(until, _)| now >= until);
            if wanted && !entry.joined && ready {
                self.effects.push_back(Effect::Join(key.clone()));
                entry.joined = true;
            } else if !wanted && entry.joined {
                self.effects.push_back(Effect::Leave(key.clone()));
                entry.joined = false;
                entry.left_at = Some(now);
            }
            if entry.left_at.is_some_and(|left| now - left > FORGET) && !entry.joined {
                entry.patience = 0;
            }
        }
    }
}

impl Entry {
    fn wanted(&self, policy: Policy, now: Time) -> bool {
        match policy {
            _ if self.always => true,
            Policy::Always => true,
            Policy::OnDemand { idle } => {
                self.wanted_at.is_some_and(|at| now - at < idle * 2u32.pow(self.patience))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn key(channel: &str, rendition: &str) -> RenditionKey {
        RenditionKey::new(channel, rendition)
    }

    fn offer(channel: &str, rendition: &str, is_manifest: bool) -> Offer {
        Offer { key: key(channel, rendition), is_manifest, always: false }
    }

    fn offered(policy: Policy) -> Joins {
        let mut joins = Joins::new(policy);
        let all = [
            offer("news", "manifest", true),
            offer("news", "high", false),
            offer("news", "low", false),
            offer("film", "only", false),
        ];
        joins.offer(Time::ZERO, &all, &[]);
        joins
    }

    fn drain(joins: &mut Joins) -> Vec<String> {
        std::iter::from_fn(|| joins.poll())
            .map(|e| match e {
                Effect::Join(k) => format!("+{k}"),
                Effect::Leave(k) => format!("-{k}"),
            })
            .collect()
    }

    fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    #[test]
    fn joins_on_demand_with_the_manifest_and_leaves_when_idle() {
        let mut joins = offered(Policy::OnDemand { idle: IDLE });
        assert_eq!(drain(&mut joins), Vec::<String>::new());
        joins.demand(at(1), &key("news", "low"));
        assert_eq!(drain(&mut joins), ["+news/low", "+news/manifest"]);
        joins.demand(at(20), &key("news", "low"));
        joins.tick(at(49));
        assert_eq!(drain(&mut joins), Vec::<String>::new());
        joins.tick(at(50));
        assert_eq!(drain(&mut joins), ["-news/low", "-news/manifest"]);
    }

    #[test]
    fn the_manifest_stays_while_any_rendition_is_watched() {
        let mut joins = offered(Policy::OnDemand { idle: IDLE });
        joins.demand_channel(at(0), "news");
        assert_eq!(drain(&mut joins), ["+news/manifest"]);
        for t in (0..200).step_by(10) {
            joins.demand(at(t), &key("news", "high"));
            joins.tick(at(t));
        }
        assert_eq!(drain(&mut joins), ["+news/high"]);
    }

    #[test]
    fn a_player_that_hops_is_given_more_patience() {
        let mut joins = offered(Policy::OnDemand { idle: IDLE });
        joins.demand(at(0), &key("news", "high"));
        joins.tick(at(30));
        joins.demand(at(35), &key("news", "high"));
        drain(&mut joins);
        joins.tick(at(35 + 59));
        assert_eq!(drain(&mut joins), ["-news/manifest"]);
        joins.tick(at(35 + 60));
        assert_eq!(drain(&mut joins), ["-news/high"]);
        // Forgotten after ten quiet minutes.
        joins.tick(at(1000));
        joins.demand(at(1000), &key("news", "high"));
        joins.tick(at(1030));
        assert_eq!(drain(&mut joins), ["+news/high", "+news/manifest", "-news/high", "-news/manifest"]);
    }

    #[test]
    fn failed_joins_are_tried_again_with_growing_pauses() {
        let mut joins = offered(Policy::Always);
        drain(&mut joins);
        let film = key("film", "only");
        let mut now = at(0);
        let mut attempts = Vec::new();
        joins.failed(now, &film);
        for _ in 0..120 {
            now += Duration::from_secs(1);
            joins.tick(now);
            if joins.poll().is_some() {
                attempts.push(now.as_nanos() / 1_000_000_000);
                joins.failed(now, &film);
            }
        }
        assert_eq!(attempts, [1, 3, 7, 15, 31, 61, 91]);
        now = at(121);
        joins.tick(now);
        assert_eq!(drain(&mut joins), ["+film/only"]);
        joins.works(&film);
        joins.failed(now, &film);
        joins.tick(now + Duration::from_secs(1));
        assert_eq!(drain(&mut joins), ["+film/only"]);
    }

    #[test]
    fn a_new_offer_leaves_what_is_gone_and_rejoins_what_moved() {
        let mut joins = offered(Policy::OnDemand { idle: IDLE });
        joins.demand(at(0), &key("news", "low"));
        joins.demand(at(0), &key("news", "high"));
        drain(&mut joins);
        let now = [offer("news", "manifest", true), offer("news", "low", false)];
        joins.offer(at(5), &now, &[key("news", "low")]);
        assert_eq!(drain(&mut joins), ["-news/high", "-news/low", "+news/low"]);
        joins.leave_all();
        assert_eq!(drain(&mut joins), ["-news/low", "-news/manifest"]);
        joins.tick(at(6));
        assert_eq!(drain(&mut joins), Vec::<String>::new());
    }

    #[test]
    fn foreign_renditions_are_joined_without_demand() {
        let mut joins = Joins::new(Policy::OnDemand { idle: IDLE });
        joins.offer(at(0), &[Offer { always: true, ..offer("x", "y", false) }], &[]);
        joins.tick(at(1000));
        assert_eq!(drain(&mut joins), ["+x/y"]);
    }

    #[test]
    fn always_means_always() {
        let mut joins = offered(Policy::Always);
        assert_eq!(drain(&mut joins).len(), 4);
        joins.tick(at(100_000));
        assert_eq!(drain(&mut joins), Vec::<String>::new());
    }
}
