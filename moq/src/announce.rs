//! Publishing through a relay: everything that an exchange offers is published there, in session after session.

use crate::exchange::Exchange;
use crate::follow::Dial;
use crate::plane::{ObjectPlane, PlaneError};
use crate::wire::Namespace;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// First wait before another attempt; it doubles up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(250);
/// Longest wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait that a relay may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A session, or a publication, that lasted this long was a good one: the next attempt follows soon.
const GOOD: Duration = Duration::from_secs(30);

/// Publishes what `exchange` offers, now and later, to the relay that `dial` reaches; until dropped. The sessions that `dial`
/// opens must answer from the same exchange. `seed`: of the jitter of the back-off.
pub async fn announce<D: Dial>(dial: D, exchange: &Exchange, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut back_off = BACK_OFF;
    loop {
        let begun = Instant::now();
        match dial.dial().await {
            Ok(plane) => {
                tracing::info!("MoQ relay: session opened");
                let why = publish_all(&plane, exchange, &mut rng).await;
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

/// Until the session is over. A namespace that the relay does not take, or takes no longer, is offered again by itself.
async fn publish_all(plane: &impl ObjectPlane, exchange: &Exchange, rng: &mut fastrand::Rng) -> String {
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
            published
                .entry(namespace.clone())
                .or_insert_with(|| tasks.spawn(keep_published(plane.clone(), namespace, rng.fork())));
        }
        tokio::select! {
            why = plane.closed() => return why,
            _ = changed.changed() => {}
            Some(ended) = tasks.join_next() => if let Ok(why) = ended {
                return why;
            },
        }
    }
}

/// Until the session cannot go on, and why.
async fn keep_published(plane: impl ObjectPlane, namespace: Namespace, mut rng: fastrand::Rng) -> String {
    let mut back_off = BACK_OFF;
    loop {
        let begun = Instant::now();
        let (why, asked) = match plane.publish(&namespace).await {
            Ok(()) => ("the relay withdrew from it".to_owned(), None),
            Err(PlaneError::Refused(refusal)) => (refusal.to_string(), refusal.retry_after),
            Err(e @ PlaneError::Reset(_)) => (e.to_string(), None),
            Err(e) => return format!("{namespace}: {e}"),
        };
        if begun.elapsed() >= GOOD {
            back_off = BACK_OFF;
        }
        let wait = back_off.mul_f64(0.5 + rng.f64()).max(asked.unwrap_or_default().min(RETRY_MAX));
        tracing::warn!(%namespace, why, ?wait, "MoQ relay: does not take a channel; it is offered again");
        tokio::time::sleep(wait).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{Event, Fetching, Start, Subscription};
    use crate::wire::{Location, LocationRange, TrackName};
    use crate::{Object, Refusal};
    use std::future::pending;
    use std::sync::{Arc, Mutex};

    /// A relay that refuses one namespace for a minute, and what it was asked.
    #[derive(Clone, Debug)]
    struct Picky {
        asked: Arc<Mutex<Vec<String>>>,
        begun: Instant,
    }

    struct Never;

    impl Subscription for Never {
        fn largest(&self) -> Option<Location> {
            None
        }
        async fn next(&mut self) -> Result<Event, PlaneError> {
            pending().await
        }
    }

    impl Fetching for Never {
        fn end(&self) -> Location {
            Location::default()
        }
        async fn next(&mut self) -> Result<Option<Object>, PlaneError> {
            pending().await
        }
    }

    impl ObjectPlane for Picky {
        type Subscription = Never;
        type Fetching = Never;

        async fn subscribe(&self, _: &TrackName, _: Start, _: Duration) -> Result<Never, PlaneError> {
            pending().await
        }

        async fn fetch(&self, _: &TrackName, _: LocationRange) -> Result<Never, PlaneError> {
            pending().await
        }

        async fn publish(&self, namespace: &Namespace) -> Result<(), PlaneError> {
            self.asked.lock().unwrap().push(namespace.to_string());
            if namespace.to_string().contains("bad") && self.begun.elapsed() < Duration::from_secs(60) {
                return Err(Refusal::excessive_load("no", Duration::from_secs(1 << 30)).into());
            }
            pending().await
        }

        async fn closed(&self) -> String {
            pending().await
        }

        fn close(&self) {}
    }

    impl Dial for Picky {
        type Plane = Picky;

        async fn dial(&self) -> Result<Picky, PlaneError> {
            self.asked.lock().unwrap().push("dialled".into());
            Ok(self.clone())
        }
    }

    #[derive(Debug)]
    struct Nothing;

    impl crate::Source for Nothing {
        fn track<'a>(
            &'a self,
            _: &'a TrackName,
        ) -> crate::plane::Boxed<'a, Result<Arc<crate::Track>, Refusal>> {
            Box::pin(async { Err(Refusal::does_not_exist("nothing")) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_refused_costs_the_others_nothing() {
        let exchange = Exchange::new();
        let offer = |n: &'static str| exchange.offer(Namespace::new([n]), Arc::new(Nothing)).unwrap();
        let _offers = [offer("good"), offer("bad"), offer("fine")];
        let relay = Picky { asked: Arc::default(), begun: Instant::now() };
        let announced = tokio::time::timeout(Duration::from_secs(300), announce(relay.clone(), &exchange, 1));
        assert!(announced.await.is_err(), "for ever");
        let asked = relay.asked.lock().unwrap();
        let count = |what: &str| asked.iter().filter(|a| a.contains(what)).count();
        assert_eq!((count("dialled"), count("good"), count("fine")), (1, 1, 1), "{asked:?}");
        assert_eq!(count("bad"), 2, "when a minute was over: longer than asked for, no relay is believed");
    }
}
