//! Publishing through a relay: everything that an exchange offers is published there, in session after session.

use crate::exchange::Exchange;
use crate::follow::Dial;
use crate::plane::ObjectPlane;
use crate::wire::Namespace;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// First wait before another attempt; it doubles up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(250);
/// Longest wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A session that lasted this long was a good one: the next attempt follows soon.
const GOOD: Duration = Duration::from_secs(30);

/// Publishes what `exchange` offers, now and later, to the relay that `dial` reaches; until dropped. The sessions that `dial`
/// opens must answer from the same exchange. `seed`: of the jitter of the back-off.
pub async fn announce<D: Dial>(dial: D, exchange: &Exchange, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut back_off = BACK_OFF;
    loop {
        let begun = tokio::time::Instant::now();
        match dial.dial().await {
            Ok(plane) => {
                tracing::info!("MoQ relay: session opened");
                let why = publish_all(&plane, exchange).await;
                plane.close();
                tracing::warn!(%why, "MoQ relay: session ended; connecting again");
            }
            Err(error) => tracing::warn!(%error, "MoQ relay: no session; trying again"),
        }
        if begun.elapsed() >= GOOD {
            back_off = BACK_OFF;
        }
        tokio::time::sleep(back_off.mul_f64(0.5 + rng.f64())).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
}

/// Until the session is over, or the relay takes one of the namespaces no longer: then everything begins anew.
async fn publish_all(plane: &impl ObjectPlane, exchange: &Exchange) -> String {
    let mut changed = exchange.watch();
    let mut published: BTreeMap<Namespace, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let everything = Namespace::new(Vec::<String>::new());
    loop {
        changed.borrow_and_update();
        let offered = exchange.namespaces(&everything);
        published.retain(|namespace, task| {
            let stays = offered.contains(namespace);
            if !stays {
                task.abort();
            }
            stays
        });
        for namespace in offered {
            published.entry(namespace.clone()).or_insert_with(|| {
                let plane = plane.clone();
                tasks.spawn(async move { (plane.publish(&namespace).await, namespace) })
            });
        }
        tokio::select! {
            why = plane.closed() => return why,
            _ = changed.changed() => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok((Ok(()), namespace)) => return format!("the relay withdrew from {namespace}"),
                Ok((Err(e), namespace)) => return format!("{namespace}: {e}"),
                // One that is no longer offered.
                Err(_) => {}
            },
        }
    }
}
