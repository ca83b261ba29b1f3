//! Missing byte ranges of an object under assembly, fetched from the origin and fed to the decoder as source symbols.

use super::flight::End;
use super::{Origins, Want, host, meta};
use crate::http::headers::is_strong;
use crate::library::RepairPlan;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};
use mahp_runtime::fetch::FetchError;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Ranges closer than this are fetched as one: a request costs about as much.
const GAP_MAX: u64 = 8 << 10;
/// More ranges than this cost more than the whole object.
const RANGES_MAX: usize = 8;
/// Range requests at a time.
const PARALLEL: usize = 4;

/// The ranges of a plan as they are asked for; `None`: the whole object is as cheap.
pub fn requests(plan: &RepairPlan) -> Option<Vec<(u64, u64)>> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &(first, last) in &plan.ranges {
        if last < first || last >= plan.meta.length {
            return None;
        }
        match ranges.last_mut() {
            Some(before) if first <= before.1.saturating_add(GAP_MAX) => before.1 = before.1.max(last),
            _ => ranges.push((first, last)),
        }
    }
    let bytes: u64 = ranges.iter().map(|(first, last)| last - first + 1).sum();
    let worth_it = !ranges.is_empty() && ranges.len() <= RANGES_MAX && bytes <= plan.meta.length / 4 * 3;
    worth_it.then_some(ranges)
}

/// How many bytes a plan asks the origin for.
pub fn cost(plan: &RepairPlan) -> u64 {
    requests(plan).map_or(plan.meta.length, |ranges| ranges.iter().map(|(a, b)| b - a + 1).sum())
}

/// Fetches and feeds. If the origin ignores Range, its whole answer is stored instead.
pub(super) async fn run(origins: &Arc<Origins>, want: &Want, plan: &RepairPlan) -> Result<End, FetchError> {
    let mut waiting = requests(plan).unwrap_or_default().into_iter();
    // Dropping the set ends what still runs.
    let mut running = JoinSet::new();
    loop {
        while running.len() < PARALLEL
            && let Some(range) = waiting.next()
        {
            running.spawn(piece(origins.clone(), want.clone(), plan.clone(), range));
        }
        match running.join_next().await {
            None => return Ok(End::Repaired),
            Some(Ok(Ok(None))) => {}
            Some(Ok(Ok(Some(end)))) => return Ok(end),
            Some(Ok(Err(e))) => return Err(e),
            Some(Err(_)) => return Ok(End::Failed("a repair request was given up".into())),
        }
    }
}

/// One range. `Some`: the origin sent everything, and that is the end.
async fn piece(
    origins: Arc<Origins>,
    want: Want,
    plan: RepairPlan,
    (first, last): (u64, u64),
) -> Result<Option<End>, FetchError> {
    let mut extra = HeaderMap::new();
    let etag = plan.meta.etag.as_deref().filter(|t| is_strong(t));
    if let Some(etag) = etag.and_then(|t| HeaderValue::from_str(t).ok()) {
        extra.insert(header::IF_RANGE, etag);
    }
    let base = plan.meta.range.map_or(0, |r| r.first);
    let mut answer = origins.open(&want, Some((base + first, Some(base + last))), extra).await?;
    let complete = plan.meta.range.map_or(Some(plan.meta.length), |r| r.complete);
    let Some(got) = answer.head.range else { return whole(&origins, &want, &plan, answer).await.map(Some) };
    let same_file = got.complete.is_none() || complete.is_none() || got.complete == complete;
    if (got.first, got.last) != (base + first, base + last) || !same_file {
        let cause = format!("asked for bytes {first}-{last}, got {}-{}", got.first, got.last);
        return Err(FetchError::Body { url: want.url.to_string(), cause });
    }
    let (started, mut at) = (Instant::now(), first);
    while let Some(bytes) = answer.body.chunk().await? {
        origins.served.fetched(want.why, bytes.len() as u64);
        origins.multicast.feed(&plan, at, &bytes);
        at += bytes.len() as u64;
    }
    origins.health().transferred(host(&want.url), Instant::now(), at - first, started.elapsed());
    Ok(None)
}

/// The origin ignored Range, or its validator has changed: 200 with everything.
async fn whole(
    origins: &Origins,
    want: &Want,
    plan: &RepairPlan,
    mut answer: super::upstream::Answer,
) -> Result<End, FetchError> {
    let too_large = || FetchError::TooLarge { url: want.url.to_string(), limit: origins.bounds.whole_max };
    if answer.head.length.is_some_and(|l| l > origins.bounds.whole_max) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(bytes) = answer.body.chunk().await? {
        origins.served.fetched(want.why, bytes.len() as u64);
        body.extend_from_slice(&bytes);
        if body.len() as u64 > origins.bounds.whole_max {
            return Err(too_large());
        }
    }
    let mut meta = meta(want, &answer.head);
    meta.kind = plan.meta.kind;
    Ok(origins.store(want, &answer.head, meta, body.freeze(), None).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::ObjectMeta;

    fn plan(length: u64, ranges: &[(u64, u64)]) -> RepairPlan {
        RepairPlan { meta: ObjectMeta { length, ..ObjectMeta::default() }, ranges: ranges.to_vec() }
    }

    #[test]
    fn near_ranges_become_one_request() {
        let plan = plan(1 << 20, &[(0, 1343), (5376, 6719), (500_000, 501_343)]);
        assert_eq!(requests(&plan), Some(vec![(0, 6719), (500_000, 501_343)]));
        assert_eq!(cost(&plan), 6720 + 1344);
    }

    #[test]
    fn what_is_not_worth_it() {
        assert_eq!(requests(&plan(1000, &[])), None);
        assert_eq!(requests(&plan(1000, &[(0, 999)])), None);
        assert_eq!(requests(&plan(1000, &[(0, 1000)])), None);
        assert_eq!(requests(&plan(1000, &[(5, 4)])), None);
        let many: Vec<(u64, u64)> = (0..9).map(|i| (i * 100_000, i * 100_000 + 10)).collect();
        assert_eq!(requests(&plan(1 << 20, &many)), None);
    }
}
