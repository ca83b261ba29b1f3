//! How far back a live MPD reaches where unicast is switched off. Who joined late never heard what was sent before, and a
//! player would ask for it in vain, so the time-shift buffer ends where the bytes do.

use super::Front;
use super::ask::Ask;
use super::render::comes;
use mahp_common::WallTime;
use mahp_common::manifest::dash::{Mpd, Representation};
use std::collections::BTreeMap;
use std::time::Duration;

/// Segments looked at of each Representation, newest first: more are not remembered of what was sent.
const SEGMENTS_MAX: usize = 1024;

/// The time-shift buffer to write into the MPD; none: what it says.
pub fn depth(front: &Front, ask: &Ask, mpd: &Mpd) -> Option<Duration> {
    let start = mpd.availability_start.filter(|_| applies(front, ask, mpd))?;
    let now = front.clock.wall();
    let mut periods: BTreeMap<usize, Duration> = BTreeMap::new();
    for ((period, _), begins) in groups(front, mpd, now) {
        let Some(begins) = begins else { continue };
        let all = periods.entry(period).or_default();
        *all = begins.max(*all);
    }
    let begins = periods.into_values().min().map(|at| start.unix_millis().saturating_add(millis(at)));
    let begins = front.memo.begin(&ask.key, begins)?;
    Some(Duration::from_millis(now.unix_millis().saturating_sub(begins)))
}

/// Whether a player can begin with this MPD: not before something is here or on its way; at first, of pictures and of sound.
pub fn can_begin(front: &Front, ask: &Ask, mpd: &Mpd) -> bool {
    if !applies(front, ask, mpd) {
        return true;
    }
    let groups = groups(front, mpd, front.clock.wall());
    let here = |kind: &str| groups.iter().any(|((_, k), begins)| *k == kind && begins.is_some());
    let there = |kind: &str| groups.keys().any(|(_, k)| *k == kind);
    let complete = ["video", "audio"].into_iter().all(|kind| here(kind) || !there(kind));
    let begun = || front.memo.begin(&ask.key, None).is_some();
    groups.values().any(Option::is_some) && (complete || begun())
}

fn applies(front: &Front, ask: &Ask, mpd: &Mpd) -> bool {
    !front.options.unicast && mpd.dynamic && mpd.availability_start.is_some() && front.is_ours(&ask.url)
}

/// From where on (presentation time) the segments of whichever Representation a player chooses can be had, by Period and
/// content type; none: of no Representation. Asking for a segment is demand: as a player may choose any Representation, and
/// change its mind, all that the MPD offers are joined.
fn groups<'m>(front: &Front, mpd: &'m Mpd, now: WallTime) -> BTreeMap<(usize, &'m str), Option<Duration>> {
    let mut groups = BTreeMap::new();
    for representation in &mpd.representations {
        let group = groups.entry((representation.period_index, representation.content_type.as_str()));
        let begins = begins(front, mpd, representation, now);
        group.and_modify(|all: &mut Option<Duration>| *all = begins.max(*all)).or_insert(begins);
    }
    groups
}

/// The first of its segments that can be had.
fn begins(front: &Front, mpd: &Mpd, representation: &Representation, now: WallTime) -> Option<Duration> {
    let segments = mpd.segments(representation, now);
    let newest = segments.get(segments.len().saturating_sub(SEGMENTS_MAX)..)?;
    let here =
        newest.iter().find(|s| comes(front, &(s.url.clone(), s.range.map(|r| (r.first, Some(r.last))))));
    here.map(|s| s.start)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
