//! Publisher and subscriber over real QUIC on loopback.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_moq::plane::{Event, Fetching as _, ObjectPlane, PlaneError, Start, Subscription as _};
use mahp_moq::quic::{Connector, Identity, Limits, QuicSession, Trust};
use mahp_moq::wire::{LocationRange, publish_done, request_error};
use mahp_moq::{Exchange, Location, Namespace, TrackName};
use std::sync::Arc;
use std::time::Duration;
use support::{Tracks, listen, name, namespace, payload, publish};

const LEN: usize = 300_000;

async fn objects(subscription: &mut impl mahp_moq::plane::Subscription, count: usize) -> Vec<u64> {
    let mut groups = Vec::new();
    while groups.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await;
        if let Event::Object(o) = event.expect("an object in time").unwrap() {
            assert!(o.payload == payload(o.at.group, o.at.object, LEN), "bytes of group {}", o.at.group);
            groups.push(o.at.group);
        }
    }
    groups
}

async fn fetch(
    session: &QuicSession,
    track: &TrackName,
    range: LocationRange,
) -> Result<Vec<Location>, PlaneError> {
    let got = session.fetch(track, range).await?.collect(64 << 20).await?;
    for o in &got {
        assert!(o.payload == payload(o.at.group, o.at.object, o.payload.len()), "bytes of {:?}", o.at);
    }
    Ok(got.iter().map(|o| o.at).collect())
}

#[tokio::test]
async fn live_past_and_made_on_demand() {
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let exchange = Exchange::new();
    let _offer = exchange.offer(namespace(), tracks.clone()).unwrap();
    let server = listen(exchange);
    let v0 = tracks.get("v0");
    for group in 0..3 {
        publish(&v0, group, LEN);
    }
    let session = server.connect().await;
    let mut live = session.subscribe(&name("v0"), Start::NextGroup, Duration::ZERO).await.unwrap();
    assert_eq!(live.largest(), Some(Location::new(2, 0)));
    for group in 3..8 {
        publish(&v0, group, LEN);
    }
    let mut got = objects(&mut live, 5).await;
    got.sort_unstable();
    assert_eq!(got, [3, 4, 5, 6, 7], "only what is new, each once");

    let past = fetch(&session, &name("v0"), LocationRange::groups(0, 2)).await.unwrap();
    assert_eq!(past, [Location::new(0, 0), Location::new(1, 0), Location::new(2, 0)]);
    let made = fetch(&session, &name("made"), LocationRange::objects(7, (5 << 32) + 900, 17)).await.unwrap();
    let expected: Vec<_> = (0..17).map(|i| Location::new(7, (5 << 32) + 900 + i)).collect();
    assert_eq!(made, expected);

    v0.end();
    let end = loop {
        if let Event::Done(code, _) = live.next().await.unwrap() {
            break code;
        }
    };
    assert_eq!(end, publish_done::TRACK_ENDED);
    let carried = server.listener.stats().carried;
    assert_eq!(carried.objects_out, 5 + 3 + 17);
    assert_eq!(carried.bytes_out, 8 * LEN as u64 + 17 * 1344);
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_its_code() {
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let exchange = Exchange::new();
    let _offer = exchange.offer(namespace(), tracks.clone()).unwrap();
    let server = listen(exchange);
    let session = server.connect().await;
    let code = |e: PlaneError| match e {
        PlaneError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    };
    let no_track = session.subscribe(&name("v9"), Start::Latest, Duration::ZERO).await.unwrap_err();
    assert_eq!(code(no_track), request_error::DOES_NOT_EXIST);
    let elsewhere = TrackName::new(Namespace::new(["other"]), "v0");
    let e = fetch(&session, &elsewhere, LocationRange::groups(0, 0)).await.unwrap_err();
    assert_eq!(code(e), request_error::DOES_NOT_EXIST);
    let e = fetch(&session, &name("v0"), LocationRange::groups(0, 0)).await.unwrap_err();
    assert_eq!(code(e), request_error::INVALID_RANGE, "nothing was published");
    let e = session.subscribe(&elsewhere, Start::Latest, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(code(e), request_error::TIMEOUT);
    let e = session.publish(&Namespace::new(["intruder"])).await.unwrap_err();
    assert_eq!(code(e), request_error::UNAUTHORIZED, "a publisher takes no publications");
    let _first = session.subscribe(&name("v0"), Start::Latest, Duration::ZERO).await.unwrap();
    let e = session.subscribe(&name("v0"), Start::Latest, Duration::ZERO).await.unwrap_err();
    assert_eq!(code(e), request_error::DUPLICATE_SUBSCRIPTION);
}

#[tokio::test]
async fn a_relay_between_publisher_and_subscribers() {
    let relay = listen(Exchange::relay());
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let ours = Exchange::new();
    let _offer = ours.offer(namespace(), tracks.clone()).unwrap();
    let connector = Connector::new(&relay.trust, Limits::default()).unwrap();
    let publisher = connector.connect(&relay.url, ours).await.unwrap();
    let publishing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish(&namespace()).await }
    });
    let v0 = tracks.get("v0");
    publish(&v0, 0, LEN);
    let (a, b) = (relay.connect().await, relay.connect().await);
    // The publisher may not have arrived yet: the relay waits for it.
    let wait = Duration::from_secs(10);
    let mut live_a = a.subscribe(&name("v0"), Start::NextGroup, wait).await.unwrap();
    let mut live_b = b.subscribe(&name("v0"), Start::NextGroup, wait).await.unwrap();
    for group in 1..5 {
        publish(&v0, group, LEN);
    }
    for live in [&mut live_a, &mut live_b] {
        let mut got = objects(live, 4).await;
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3, 4]);
    }
    let sent = publisher.stats().objects_out;
    assert_eq!(sent, 4, "one upstream subscription for both");
    fetch(&a, &name("v0"), LocationRange::groups(3, 3)).await.unwrap();
    assert_eq!(publisher.stats().objects_out, 4, "a complete group is answered from the relay's window");
    fetch(&a, &name("v0"), LocationRange::groups(0, 0)).await.unwrap();
    fetch(&b, &name("made"), LocationRange::objects(0, 9, 2)).await.unwrap();
    assert_eq!(publisher.stats().objects_out, 7, "what it does not have is asked for upstream");
    publisher.close();
    assert!(matches!(publishing.await.unwrap(), Err(PlaneError::Closed(_))));
}

#[tokio::test]
async fn a_certificate_that_is_not_pinned_is_refused() {
    let server = listen(Exchange::new());
    let other = Identity::self_signed(&["localhost".into()]).unwrap().fingerprint();
    for trust in [Trust::Fingerprints(vec![other]), Trust::Public] {
        let connector = Connector::new(&trust, Limits::default()).unwrap();
        let refused = connector.connect(&server.url, Exchange::new()).await;
        assert!(matches!(refused, Err(PlaneError::Closed(_))));
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_costs_the_publisher_no_memory() {
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let exchange = Exchange::new();
    let _offer = exchange.offer(namespace(), tracks.clone()).unwrap();
    let server = listen(exchange);
    let session = server.connect().await;
    let mut idle = session.subscribe(&name("v0"), Start::NextGroup, Duration::ZERO).await.unwrap();
    let v0 = tracks.get("v0");
    // Window 32 MiB; queues and windows on the way hold less than 128 MiB.
    for group in 0..1000 {
        publish(&v0, group, LEN);
        tokio::task::yield_now().await;
        assert!(v0.bytes() <= 32 << 20);
    }
    let code = loop {
        match tokio::time::timeout(Duration::from_secs(20), idle.next()).await.expect("an end").unwrap() {
            Event::Done(code, _) => break code,
            Event::Object(o) => assert!(o.payload == payload(o.at.group, 0, LEN)),
            _ => {}
        }
    };
    assert_eq!(code, publish_done::TOO_FAR_BEHIND);
}
