//! The queue between requests and a flow, at its edges.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin};
use bytes::Bytes;
use mahp_common::{Object, ObjectKind, ObjectMeta};
use mahp_sender::origin::Want;
use mahp_sender::origin::outbox::Outbox;
use mahp_sender::sink::{Item, ObjectSink, PutFuture};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Takes the first object only when `open` has a permit.
struct Gate {
    list: ListSink,
    open: Arc<Semaphore>,
}

impl ObjectSink for Gate {
    fn put(&self, item: Item) -> PutFuture {
        let (put, open) = (self.list.put(item), self.open.clone());
        Box::pin(async move {
            let _ = open.acquire().await;
            put.await;
        })
    }
}

fn init(n: usize) -> Item {
    let meta =
        ObjectMeta { url: format!("http://o/init{n}.mp4"), kind: ObjectKind::Init, ..ObjectMeta::default() };
    Item::new(Object::new(meta, Bytes::from_static(b"init")))
}

/// A flow that has no room for a while, and behind the segment that is wanted as many init segments as are fetched at a time.
#[tokio::test]
async fn what_was_here_before_leaves_room_for_the_request_it_waits_for() {
    let server = ScriptedOrigin::start().await;
    server.set("/seg1.ts", Reply::ok("segment"));
    let (origin, _) = origin();
    let (list, open) = (ListSink::default(), Arc::new(Semaphore::new(0)));
    let mut outbox = Outbox::new(origin, Arc::new(Gate { list: list.clone(), open: open.clone() }));
    outbox.push(init(0));
    // Pends: the flow has no room.
    assert!(timeout(Duration::ZERO, outbox.step()).await.is_err());
    let want = Want {
        url: server.url("/seg1.ts"),
        range: None,
        kind: ObjectKind::Media,
        media_time: None,
        duration: Some(Duration::from_secs(1)),
    };
    outbox.want(want, 1);
    (1..=4).for_each(|n| outbox.push(init(n)));
    open.add_permits(1);
    let all = async {
        while !outbox.is_idle() {
            outbox.step().await;
        }
    };
    timeout(Duration::from_secs(20), all).await.expect("everything leaves");
    let inits = |from, to| (from..=to).map(|n| format!("/init{n}.mp4"));
    let expected: Vec<String> = inits(0, 0).chain(["/seg1.ts".into()]).chain(inits(1, 4)).collect();
    assert_eq!(list.paths(), expected);
}
