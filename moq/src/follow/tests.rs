use super::*;
use crate::plane::{Fetching, Subscription};
use crate::wire::{Namespace, request_error};
use crate::{Object, Refusal};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::sleep;

/// What a publisher does with a subscription: objects and ends, each after a time. It is silent behind the last.
type Script = Vec<(Duration, Event)>;

/// A publisher that does as it is told.
#[derive(Clone, Default)]
struct Evil(Arc<Inner>);

#[derive(Default)]
struct Inner {
    subscribes: AtomicU64,
    fetches: AtomicU64,
    /// One for each subscription; behind the last, the last. Refused or without an answer, if it says so.
    answers: Mutex<VecDeque<Answer>>,
    /// Objects of a FETCH; behind them nothing comes, not even an end.
    fetched: Vec<Object>,
    /// Whether a FETCH is answered at all.
    silent: bool,
}

#[derive(Clone)]
enum Answer {
    Subscribed(Option<Location>, Script),
    Refused(Refusal),
    Silence,
}

struct Sub(Option<Location>, VecDeque<(Duration, Event)>);

impl Subscription for Sub {
    fn largest(&self) -> Option<Location> {
        self.0
    }

    async fn next(&mut self) -> Result<Event, PlaneError> {
        let Some((after, _)) = self.1.front() else { return pending().await };
        sleep(*after).await;
        Ok(self.1.pop_front().unwrap().1)
    }
}

struct Fetched(VecDeque<Object>);

impl Fetching for Fetched {
    fn end(&self) -> Location {
        Location::default()
    }

    async fn next(&mut self) -> Result<Option<Object>, PlaneError> {
        match self.0.pop_front() {
            Some(object) => Ok(Some(object)),
            None => pending().await,
        }
    }
}

impl ObjectPlane for Evil {
    type Subscription = Sub;
    type Fetching = Fetched;

    async fn subscribe(&self, _: &TrackName, _: Start, _: Duration) -> Result<Sub, PlaneError> {
        self.0.subscribes.fetch_add(1, Ordering::Relaxed);
        let answer = {
            let answers = &mut *self.0.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        };
        match answer {
            Answer::Subscribed(largest, script) => Ok(Sub(largest, script.into())),
            Answer::Refused(refusal) => Err(refusal.into()),
            Answer::Silence => pending().await,
        }
    }

    async fn fetch(&self, _: &TrackName, _: LocationRange) -> Result<Fetched, PlaneError> {
        self.0.fetches.fetch_add(1, Ordering::Relaxed);
        if self.0.silent { pending().await } else { Ok(Fetched(self.0.fetched.clone().into())) }
    }

    async fn publish(&self, _: &Namespace) -> Result<(), PlaneError> {
        pending().await
    }

    async fn closed(&self) -> String {
        pending().await
    }

    fn close(&self) {}
}

impl Dial for Evil {
    type Plane = Evil;

    async fn dial(&self) -> Result<Evil, PlaneError> {
        Ok(self.clone())
    }
}

fn object(group: u64) -> Object {
    Object::new(Location::new(group, 0), Bytes::from_static(b"x"))
}

fn evil(answers: impl IntoIterator<Item = Answer>, inner: Inner) -> Evil {
    Evil(Arc::new(Inner { answers: Mutex::new(answers.into_iter().collect()), ..inner }))
}

fn follower(evil: &Evil, start: Start) -> Follower<Evil> {
    Follower::new(evil.clone(), TrackName::new(Namespace::new(["n"]), "t"), start, 7)
}

/// What comes in this time, and when, in seconds.
async fn within(follower: &mut Follower<Evil>, time: Duration) -> Vec<(u64, u64)> {
    let (begun, mut got) = (Instant::now(), Vec::new());
    while let Ok(Some(object)) = tokio::time::timeout_at(begun + time, follower.next()).await {
        got.push((object.at.group, begun.elapsed().as_secs()));
    }
    got
}

const MINUTE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

fn done() -> Event {
    Event::Done(publish_done::SUBSCRIPTION_ENDED, String::new())
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_ends_every_subscription_is_asked_less_and_less_often() {
    let evil = evil([Answer::Subscribed(None, vec![(NOW, done())])], Inner::default());
    let mut follower = follower(&evil, Start::Latest);
    assert!(within(&mut follower, MINUTE).await.is_empty());
    // 0.1 s, doubled up to 10 s.
    let asked = evil.0.subscribes.load(Ordering::Relaxed);
    assert!((8..=16).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn an_object_is_a_new_beginning_for_the_back_off() {
    let bad = || Answer::Subscribed(None, vec![(NOW, done())]);
    let good = |group| Answer::Subscribed(None, vec![(NOW, Event::Object(object(group))), (NOW, done())]);
    let answers = [bad(), bad(), bad(), bad(), bad(), bad(), good(1), good(2), good(3), bad()];
    let evil = evil(answers, Inner::default());
    let mut follower = follower(&evil, Start::Latest);
    let got = within(&mut follower, MINUTE).await;
    assert_eq!(got.iter().map(|(group, _)| *group).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(got[2].1 - got[0].1 <= 1, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_asks_for_time_gets_it() {
    let busy = Refusal::excessive_load("full", Duration::from_secs(25));
    let object = Answer::Subscribed(None, vec![(NOW, Event::Object(object(1)))]);
    let evil = evil([Answer::Refused(busy), object], Inner::default());
    assert_eq!(within(&mut follower(&evil, Start::Latest), MINUTE).await, [(1, 25)]);
    let for_ever = Refusal::excessive_load("full", Duration::from_secs(1 << 40));
    let object = Answer::Subscribed(None, vec![(NOW, Event::Object(self::object(1)))]);
    let evil = self::evil([Answer::Refused(for_ever), object], Inner::default());
    assert_eq!(within(&mut follower(&evil, Start::Latest), 2 * MINUTE).await, [(1, 60)]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_an_answer_is_tried_again() {
    let object = Answer::Subscribed(None, vec![(NOW, Event::Object(object(1)))]);
    let evil = evil([Answer::Silence, object], Inner::default());
    assert_eq!(within(&mut follower(&evil, Start::Latest), MINUTE).await, [(1, 15)]);
}

/// Objects 10 to 14, one each second.
fn live() -> Answer {
    let script = (10..15).map(|group| (Duration::from_secs(1), Event::Object(object(group))));
    Answer::Subscribed(Some(Location::new(9, 0)), script.collect())
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_is_never_answered_does_not_hold_up_what_is_live() {
    let evil = evil([live()], Inner { silent: true, ..Inner::default() });
    let mut follower = follower(&evil, Start::At(Location::new(5, 0)));
    let got = within(&mut follower, MINUTE).await;
    assert_eq!(got, [(10, 1), (11, 2), (12, 3), (13, 4), (14, 5)]);
    assert_eq!((follower.stats().holes, evil.0.fetches.load(Ordering::Relaxed)), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_stops_in_the_middle_is_given_up() {
    let fetched = vec![object(5), object(6)];
    let evil = evil([live()], Inner { fetched, ..Inner::default() });
    let mut follower = follower(&evil, Start::At(Location::new(5, 0)));
    let mut got: Vec<u64> = within(&mut follower, 2 * MINUTE).await.into_iter().map(|(g, _)| g).collect();
    got.sort_unstable();
    // What comes a second time is out of the range that is asked for by then: the publisher is not believed any more.
    assert_eq!(got, [5, 6, 10, 11, 12, 13, 14]);
    assert_eq!(follower.stats().holes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_must_wait_is_asked_for_again() {
    let evil = evil([live()], Inner { fetched: vec![object(9)], ..Inner::default() });
    let mut follower = follower(&evil, Start::At(Location::new(9, 0)));
    let got = within(&mut follower, MINUTE).await;
    assert_eq!(got[0], (9, 0));
    assert_eq!(got.len(), 6);
    let refused = PlaneError::Refused(Refusal::new(request_error::DOES_NOT_EXIST, "gone"));
    assert_eq!(retry_after(&refused), None);
}
