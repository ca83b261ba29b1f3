use super::*;
use mahp_common::{Digest, Toi, Tsi};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gives what it was made with, and counts who asks.
#[derive(Debug, Default)]
struct Fake {
    /// Fill byte and length; none: it never answers.
    has: Option<(u8, usize)>,
    asked: AtomicUsize,
    refusal: Option<Refusal>,
}

impl Shelf for Fake {
    fn get<'a>(&'a self, _: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            match (&self.refusal, self.has) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, Some((fill, length))) => Ok(Payload::from(Bytes::from(vec![fill; length]))),
                (None, None) => pending().await,
            }
        })
    }
}

fn asked(toi: u128, fill: u8, length: usize) -> Asked {
    let meta = ObjectMeta {
        length: length as u64,
        digest: Some(Digest::of(&vec![fill; length])),
        ..ObjectMeta::default()
    };
    let id = ObjectId { tsi: Tsi(1), toi: Toi(toi) };
    Asked { rendition: "v0".into(), id, meta: Arc::new(meta), for_symbols: false }
}

fn past(shelves: &[Arc<Fake>]) -> Arc<Past> {
    Arc::new(Past::new(shelves.iter().map(|s| s.clone() as Arc<dyn Shelf>).collect()))
}

fn get(past: &Arc<Past>, asked: Asked) -> tokio::task::JoinHandle<Result<Bytes, Refusal>> {
    let past = past.clone();
    tokio::spawn(async move { past.get(&asked).await })
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_meanwhile_waits_for_the_same() {
    let shelf = Arc::new(Fake { has: Some((3, 5000)), ..Fake::default() });
    let past = past(std::slice::from_ref(&shelf));
    let first = get(&past, asked(1, 3, 5000));
    let others: Vec<_> = (0..20).map(|_| get(&past, asked(1, 3, 5000))).collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    // He who asked first does not wait for it: the others do.
    first.abort();
    for other in others {
        assert_eq!(other.await.expect("a task").map(|b| b.len()), Ok(5000));
    }
    assert!(past.get(&asked(1, 3, 5000)).await.is_ok(), "kept for a while");
    // Once for him who went away, and once for all others.
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn other_bytes_are_not_taken() {
    let forged = Arc::new(Fake { has: Some((9, 5000)), ..Fake::default() });
    let short = Arc::new(Fake { has: Some((3, 4999)), ..Fake::default() });
    let good = Arc::new(Fake { has: Some((3, 5000)), ..Fake::default() });
    let wrong = past(&[forged.clone(), short.clone()]).get(&asked(1, 3, 5000)).await;
    assert!(wrong.is_err_and(|refusal| refusal.is_absence()));
    let all = past(&[forged, short, good]);
    assert!(all.get(&asked(1, 3, 5000)).await.is_ok_and(|bytes| bytes.iter().all(|b| *b == 3)));
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_is_an_error_and_few_wait_for_him() {
    let dead = Arc::new(Fake::default());
    let past = past(std::slice::from_ref(&dead));
    let start = tokio::time::Instant::now();
    let tasks: Vec<_> = (0..20).map(|n| get(&past, asked(n, 3, 5000))).collect();
    let (mut late, mut busy) = (0, 0);
    for task in tasks {
        match task.await.expect("a task").expect_err("nobody answers").code {
            request_error::TIMEOUT => late += 1,
            request_error::EXCESSIVE_LOAD => busy += 1,
            code => panic!("refused with {code}"),
        }
    }
    assert_eq!((late, busy), (LOADS, 20 - LOADS));
    assert!(start.elapsed() <= SHELF_TIME + TURN, "{:?}", start.elapsed());
    assert_eq!(dead.asked.load(Ordering::Relaxed), LOADS, "the rest did not ask");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_passed_on_and_not_remembered() {
    let refusal = Refusal::new(request_error::INTERNAL, "origin: connection refused");
    let shelf = Arc::new(Fake { refusal: Some(refusal.clone()), ..Fake::default() });
    let past = past(std::slice::from_ref(&shelf));
    assert_eq!(past.get(&asked(1, 3, 5000)).await, Err(refusal.clone()));
    assert_eq!(past.get(&asked(1, 3, 5000)).await, Err(refusal));
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_while_somebody_holds_what_he_got() {
    const LENGTH: usize = 6 << 20;
    let shelf = Arc::new(Fake { has: Some((3, LENGTH)), ..Fake::default() });
    let past = past(&[shelf]);
    let mut held = Vec::new();
    for toi in 0..20 {
        match past.get(&asked(toi, 3, LENGTH)).await {
            Ok(bytes) => held.push(bytes),
            Err(refusal) => assert_eq!(refusal.code, request_error::EXCESSIVE_LOAD),
        }
    }
    assert_eq!(held.len(), PAST_BYTES / LENGTH);
    held.pop();
    assert!(past.get(&asked(99, 3, LENGTH)).await.is_ok(), "there is room again");
    held.clear();
    assert!(past.get(&asked(100, 3, PAST_BYTES + 1)).await.is_err(), "larger than all room");
}
