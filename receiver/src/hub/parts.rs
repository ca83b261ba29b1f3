//! Segments that are put together from parts which came one by one ([`Recipe`]).

use super::State;
use crate::library::{ResourceKey, Source, Stored};
use crate::urls::RenditionKey;
use mahp_common::recipe::Recipe;
use mahp_common::{ObjectMeta, Payload, Time};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Segments that wait for a part: the oldest is given up.
const UNMADE_MAX: usize = 16;
/// A part that is not here by then does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A segment of which not all parts are here.
#[derive(Debug)]
pub(super) struct Unmade {
    rendition: RenditionKey,
    resource: ResourceKey,
    /// Of the segment.
    meta: ObjectMeta,
    recipe: Recipe,
    since: Time,
}

impl State {
    /// A recipe has come.
    pub(super) fn recipe(
        &mut self,
        now: Time,
        rendition: &RenditionKey,
        resource: ResourceKey,
        meta: &ObjectMeta,
        payload: &Payload,
    ) {
        let Some(recipe) = Recipe::read(&payload.to_bytes()) else { return };
        let meta = recipe.describe(meta);
        if self.unmade.len() >= UNMADE_MAX {
            self.unmade.pop_front();
        }
        let rendition = rendition.clone();
        self.unmade.push_back(Unmade { rendition, resource, meta, recipe, since: now });
        self.make(now);
    }

    /// Puts together what can be. What is not what the recipe says is thrown away: then the origin has to be asked.
    pub(super) fn make(&mut self, now: Time) {
        for unmade in std::mem::take(&mut self.unmade) {
            match self.pieces(&unmade.recipe) {
                Some((payload, source)) => self.made(now, unmade, payload, source),
                None if now - unmade.since < PATIENCE => self.unmade.push_back(unmade),
                None => {}
            }
        }
    }

    fn pieces(&self, recipe: &Recipe) -> Option<(Payload, Source)> {
        let (mut chunks, mut source) = (Vec::new(), Source::Multicast);
        for piece in &recipe.pieces {
            let key = self.urls.described_key(&Url::parse(&piece.url).ok()?);
            let (payload, from) = self.bytes_of(&key, piece.range)?;
            chunks.extend_from_slice(payload.chunks());
            source = worse(source, from);
        }
        Some((Payload::from_chunks(chunks), source))
    }

    /// The bytes of a resource, or of a part of it, if they are in memory; and the worst of their sources.
    pub(super) fn bytes_of(&self, key: &ResourceKey, range: Option<(u64, u64)>) -> Option<(Payload, Source)> {
        let (mut chunks, mut source) = (Vec::new(), Source::Multicast);
        for stored in self.store.lookup(key, range.map(|(first, last)| (first, Some(last))))? {
            chunks.extend_from_slice(cut(&stored, range).chunks());
            source = worse(source, stored.source);
        }
        Some((Payload::from_chunks(chunks), source))
    }

    fn made(&mut self, now: Time, unmade: Unmade, payload: Payload, source: Source) {
        let Unmade { rendition, resource, meta, .. } = unmade;
        if payload.len() != meta.length || Some(payload.digest()) != meta.digest {
            tracing::warn!(%rendition, url = meta.url, "the parts do not make up the segment");
            return;
        }
        let Some(class) = self.renditions.get(&rendition).map(|e| e.class(&rendition)) else { return };
        self.keep(
            now,
            &resource,
            Arc::new(Stored { meta, payload, source, stored_at: now, good_until: None }),
            class,
        );
    }
}

/// The bytes of a piece that are asked for.
fn cut(stored: &Stored, range: Option<(u64, u64)>) -> Payload {
    let begin = stored.meta.range.map_or(0, |r| r.first);
    match range {
        Some((first, last)) => stored.payload.slice(first.saturating_sub(begin), last.saturating_sub(begin)),
        None => stored.payload.clone(),
    }
}

fn worse(a: Source, b: Source) -> Source {
    match (a, b) {
        (Source::Unicast, _) | (_, Source::Unicast) => Source::Unicast,
        (Source::Repaired, _) | (_, Source::Repaired) => Source::Repaired,
        _ => Source::Multicast,
    }
}
