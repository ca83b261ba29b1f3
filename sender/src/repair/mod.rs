//! The repair service: what receivers lack of objects that were sent, by HTTP within budgets, or by multicast for many at once.
//!
//! [`Service`] is shared by the flows (which tell it what they send and take requests for fresh repair symbols), the HTTP server
//! ([`http`]) and the status. It decides nothing by itself: budgets, aggregation and the repair share are the engines of
//! [`mahp_common::repair`].

pub mod ask;
pub mod http;
pub mod status;
pub mod store;

use bytes::Bytes;
use mahp_common::repair::ObjectId;
use mahp_common::repair::aggregate::{
    AggregateConfig, AggregateStats, Aggregator, Known, Refusal, Reporter, Verdict,
};
use mahp_common::repair::budget::{Budget, Spent, TokenBucket};
use mahp_common::repair::report::{Answer, ObjectLack, Reception, Report, ReportError};
use mahp_common::repair::share::{ShareConfig, ShareControl, Why};
use mahp_common::{Object, Sbn, Time, Toi, Tsi};
use mahp_runtime::clock::Clock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Kept, Store};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Clients whose budgets are remembered.
const CLIENTS: usize = 4096;
/// Requests for fresh repair symbols that wait at a flow: beyond it they are dropped, and receivers ask by unicast.
const REQUESTS: usize = 64;
/// Reports of one object that are wanted of a loss common to all.
const REPORTS_WANTED: f64 = 30.0;
/// Pause between two reports of reception of a receiver, where there are few.
const PERIOD: Duration = Duration::from_secs(10);
/// Reports of reception a second that are wanted in all.
const RECEPTION_PER_SEC: f64 = 50.0;
/// A receiver that has not reported for this long is gone.
const RECEIVER_MEMORY: Duration = Duration::from_secs(60);
/// Receivers that are counted.
const RECEIVERS: usize = 65_536;
/// Bytes of a repair packet beyond its symbol.
const PACKET_OVERHEAD: u64 = 36;
/// After the end of a collection of reports: until it is decided what is done.
const DECIDED: Duration = Duration::from_millis(20);
/// Reports of one client address: so many at once, and a second.
const REPORTS_PER_CLIENT: (f64, f64) = (200.0, 50.0);
/// Reports of all.
const REPORTS: (f64, f64) = (5000.0, 2000.0);

/// Bounds of the service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Bytes of recently sent objects.
    pub memory: u64,
    /// Most that all clients together get by HTTP, bit/s.
    pub unicast_bps: u64,
    /// Most that one client gets by HTTP, bit/s.
    pub client_bps: u64,
    /// Most repair symbols on request by multicast, bit/s.
    pub multicast_bps: u64,
}

/// What the service asks of a flow.
#[derive(Debug)]
pub enum Request {
    /// Fresh repair symbols.
    Repair {
        /// The object.
        toi: Toi,
        /// Its bytes.
        data: Bytes,
        /// How many of which block.
        blocks: Vec<(Sbn, u32)>,
    },
    /// Another repair share, percent.
    Share(u32),
}

/// A flow's place at the service.
#[derive(Debug)]
pub struct Place {
    service: Arc<Service>,
    tsi: Tsi,
    symbol_size: u16,
    /// What the service asks for.
    pub requests: mpsc::Receiver<Request>,
}

impl Place {
    /// The flow sends this now.
    pub fn keep(&self, toi: Toi, object: &Object) {
        let kept = Kept::new(object, self.symbol_size);
        self.service.lock().store.insert(ObjectId { tsi: self.tsi, toi }, kept);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Service {
    clock: Clock,
    inner: Mutex<Inner>,
    wake: Notify,
    /// Encoding for HTTP: at most one core's worth, so that the flows come first.
    encoders: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    bytes: Budget<u64>,
    reports: Budget<u64>,
    aggregator: Aggregator,
    flows: BTreeMap<Tsi, Flow>,
    receivers: BTreeMap<(u64, u64), (Time, f64)>,
    sample: f64,
    counts: Counts,
}

#[derive(Debug)]
struct Flow {
    channel: String,
    rendition: String,
    rate_bps: u64,
    symbol_size: u16,
    share: ShareControl,
    percent: u32,
    requests: mpsc::Sender<Request>,
    reception: Reception,
}

/// Counters of the service.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests by HTTP that were served.
    pub served: u64,
    /// Their bytes.
    pub served_bytes: u64,
    /// Refused: a budget was spent.
    pub busy: u64,
    /// Refused: the object is not kept.
    pub unknown: u64,
    /// Refused: makes no sense.
    pub invalid: u64,
    /// Reports that were read.
    pub reports: u64,
    /// Requests for symbols over MoQ that were told to wait for multicast.
    pub deferred: u64,
    /// Reports that were refused, by why.
    pub refused_reports: BTreeMap<&'static str, u64>,
}

/// The repair share of a flow and why, and how its receivers receive.
#[derive(Clone, Debug)]
pub struct FlowState {
    /// Its channel.
    pub channel: String,
    /// Its rendition.
    pub rendition: String,
    /// Repair share, percent.
    pub percent: u32,
    /// Why.
    pub why: Why,
    /// Sums of all reports.
    pub reception: Reception,
}

/// The whole state, for people.
#[derive(Clone, Debug)]
pub struct State {
    /// Counters.
    pub counts: Counts,
    /// Of repair by multicast.
    pub multicast: AggregateStats,
    /// Bytes of objects kept.
    pub kept_bytes: u64,
    /// Receivers that have reported lately, those included that they speak for.
    pub receivers: f64,
    /// Each flow.
    pub flows: Vec<FlowState>,
}

/// Why a request gets no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Which budget is spent.
    pub spent: Spent,
    /// When to come again.
    pub after: Duration,
}

impl Service {
    /// Without flows.
    pub fn new(options: Options, clock: Clock) -> Arc<Service> {
        let bucket = |bps: u64| {
            let rate = bps as f64 / 8.0;
            TokenBucket::new(rate, (rate * 2.0).max(1.0))
        };
        let multicast = options.multicast_bps as f64 / 8.0;
        let aggregator = Aggregator::new(AggregateConfig {
            bytes_per_sec: multicast,
            burst: multicast * 4.0,
            ..AggregateConfig::default()
        });
        let each = TokenBucket::new(REPORTS_PER_CLIENT.1, REPORTS_PER_CLIENT.0);
        let inner = Inner {
            store: Store::new(options.memory),
            bytes: Budget::new(bucket(options.unicast_bps), bucket(options.client_bps), CLIENTS),
            reports: Budget::new(TokenBucket::new(REPORTS.1, REPORTS.0), each, CLIENTS),
            aggregator,
            flows: BTreeMap::new(),
            receivers: BTreeMap::new(),
            sample: 1.0,
            counts: Counts::default(),
        };
        Arc::new(Service {
            clock,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            encoders: Arc::new(Semaphore::new(1)),
        })
    }

    /// A flow that can be repaired.
    pub fn place(
        self: &Arc<Self>,
        channel: &str,
        rendition: &str,
        flow: &mahp_common::catalog::Flow,
        share: ShareConfig,
    ) -> Place {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (tsi, symbol_size) = (flow.endpoint.tsi, flow.symbol_size);
        let entry = Flow {
            channel: channel.to_owned(),
            rendition: rendition.to_owned(),
            rate_bps: flow.rate_bps,
            symbol_size,
            share: ShareControl::new(share),
            percent: flow.repair_percent,
            requests: sender,
            reception: Reception {
                runs: vec![0; mahp_common::repair::report::RUN_BINS],
                ..Reception::default()
            },
        };
        self.lock().flows.insert(tsi, entry);
        Place { service: self.clone(), tsi, symbol_size, requests }
    }

    /// A flow that has ended.
    pub fn forget(&self, tsi: Tsi) {
        self.lock().flows.remove(&tsi);
    }

    /// Decides what is due, until dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let woken = self.wake.notified();
            let at = self.decide();
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(self.clock.instant(at)) => {}
            }
        }
    }

    /// Returns when to look again.
    fn decide(&self) -> Time {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.aggregator.timeout(now);
        while let Some(send) = inner.aggregator.poll() {
            let Some(kept) = inner.store.get(send.id) else { continue };
            if let Some(flow) = inner.flows.get(&send.id.tsi) {
                let request =
                    Request::Repair { toi: send.id.toi, data: kept.data.clone(), blocks: send.blocks };
                // A flow that does not keep up is not asked for more: receivers have another way.
                let _ = flow.requests.try_send(request);
            }
        }
        for flow in inner.flows.values_mut() {
            let percent = flow.share.share(now);
            if percent != flow.percent && flow.requests.try_send(Request::Share(percent)).is_ok() {
                flow.percent = percent;
            }
        }
        inner.count_receivers(now);
        let tick = now + Duration::from_secs(1);
        inner.aggregator.next_timeout().map_or(tick, |at| at.min(tick))
    }

    /// An object that was sent.
    pub fn get(&self, id: ObjectId) -> Option<Arc<Kept>> {
        let mut inner = self.lock();
        let kept = inner.store.get(id);
        inner.counts.unknown += u64::from(kept.is_none());
        kept
    }

    /// The same for whoever has other places to look.
    pub fn kept(&self, id: ObjectId) -> Option<Arc<Kept>> {
        self.lock().store.get(id)
    }

    /// Symbol size of a flow.
    pub fn symbol_size(&self, tsi: Tsi) -> Option<u16> {
        self.lock().flows.get(&tsi).map(|f| f.symbol_size)
    }

    /// Takes bytes from the budgets.
    ///
    /// # Errors
    /// When they are spent.
    pub fn spend(&self, peer: IpAddr, bytes: u64) -> Result<(), Busy> {
        let now = self.clock.now();
        let mut inner = self.lock();
        match inner.bytes.take(now, &client(peer), bytes) {
            Ok(()) => {
                inner.counts.served += 1;
                inner.counts.served_bytes += bytes;
                Ok(())
            }
            Err((spent, after)) => {
                inner.counts.busy += 1;
                Err(Busy { spent, after })
            }
        }
    }

    /// Counts a request that makes no sense.
    pub fn invalid(&self) {
        self.lock().counts.invalid += 1;
    }

    /// Encoders for HTTP.
    pub fn encoders(&self) -> Arc<Semaphore> {
        self.encoders.clone()
    }

    /// Whether this client may report now. Asked before its report is read.
    ///
    /// # Errors
    /// When its budget of reports is spent.
    pub fn may_report(&self, peer: IpAddr) -> Result<(), Busy> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.reports.take(now, &client(peer), 1).map_err(|(spent, after)| {
            inner.refuse("flood");
            Busy { spent, after }
        })
    }

    /// A report came.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn report(&self, peer: IpAddr, body: &[u8]) -> Result<Answer, ReportError> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let report = Report::parse(body).inspect_err(|e| inner.refuse(e.as_str()))?;
        inner.counts.reports += 1;
        let from = Reporter { client: client(peer), receiver: report.receiver };
        inner.hear(now, from, report.sample);
        for reception in &report.reception {
            inner.reception(now, from, reception);
        }
        let mut answer =
            Answer { wait_ms: None, sample: inner.sample, period_ms: inner.period_ms(), refused: Vec::new() };
        for lack in &report.lacks {
            match inner.lack(now, from, report.sample, lack) {
                Ok(Verdict::Wait(time)) => {
                    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    answer.wait_ms = Some(answer.wait_ms.map_or(ms, |before| before.max(ms)));
                }
                Ok(Verdict::Unicast) => {}
                Ok(Verdict::Refused(why)) => {
                    inner.refuse(why.as_str());
                    answer.refused.push(format!("{}/{}: {}", lack.tsi, lack.toi, words(why)));
                }
                Err(why) => {
                    inner.refuse("unknown");
                    answer.refused.push(format!("{}/{}: {why}", lack.tsi, lack.toi));
                }
            }
        }
        drop(inner);
        self.wake.notify_one();
        Ok(answer)
    }

    /// Somebody asks over MoQ for symbols of a block. The time after which to ask again, as they may come by multicast until
    /// then: the same reports, votes and budgets as those by HTTP. `None`: answer.
    pub fn asked(
        &self,
        peer: IpAddr,
        session: u64,
        id: ObjectId,
        sbn: Sbn,
        symbols: u32,
    ) -> Option<Duration> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.reports.take(now, &client(peer), 1).ok()?;
        // Two are asked for to spare.
        let missing = symbols.saturating_sub(2).max(1);
        let toi = u64::try_from(id.toi.0).ok()?;
        let lack = ObjectLack { tsi: id.tsi.0, toi, blocks: vec![(sbn.0, missing)] };
        let from = Reporter { client: client(peer), receiver: session };
        let Ok(Verdict::Wait(wait)) = inner.lack(now, from, 1.0, &lack) else { return None };
        let wait = match inner.aggregator.collecting(id) {
            // The first is answered: he may be the only one.
            Some((_, 1)) => None,
            Some((until, _)) => Some(until.since(now) + DECIDED),
            None => Some(wait),
        };
        inner.counts.deferred += u64::from(wait.is_some());
        drop(inner);
        self.wake.notify_one();
        wait
    }

    /// Everything, for people.
    pub fn state(&self) -> State {
        let inner = self.lock();
        let flow = |f: &Flow| FlowState {
            channel: f.channel.clone(),
            rendition: f.rendition.clone(),
            percent: f.percent,
            why: *f.share.why(),
            reception: f.reception.clone(),
        };
        State {
            counts: inner.counts.clone(),
            multicast: *inner.aggregator.stats(),
            kept_bytes: inner.store.bytes(),
            receivers: inner.receivers.values().fold(0.0, |sum, (_, weight)| sum + weight),
            flows: inner.flows.values().map(flow).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn refuse(&mut self, why: &'static str) {
        *self.counts.refused_reports.entry(why).or_default() += 1;
    }

    fn hear(&mut self, now: Time, from: Reporter, sample: f64) {
        let key = (from.client, from.receiver);
        if self.receivers.len() < RECEIVERS || self.receivers.contains_key(&key) {
            // Reports of reception are not drawn by lot, so a receiver is one unless it says that it speaks for others; and
            // then for few, as anybody may say so.
            self.receivers.insert(key, (now, (1.0 / sample).min(50.0)));
        }
    }

    fn count_receivers(&mut self, now: Time) {
        self.receivers.retain(|_, (at, _)| now < *at + RECEIVER_MEMORY);
        let receivers = self.receivers.len() as f64;
        self.sample = (REPORTS_WANTED / receivers.max(1.0)).min(1.0);
    }

    fn period_ms(&self) -> u64 {
        let secs = (self.receivers.len() as f64 / RECEPTION_PER_SEC).max(PERIOD.as_secs_f64());
        (secs * 1000.0) as u64
    }

    fn reception(&mut self, now: Time, from: Reporter, r: &Reception) {
        let Some(flow) = self.flows.get_mut(&Tsi(r.tsi)) else { return };
        flow.share.report(now, from, r.lost, r.expected, r.layer_2);
        let sum = &mut flow.reception;
        for (a, b) in [
            (&mut sum.packets, r.packets),
            (&mut sum.source, r.source),
            (&mut sum.repair, r.repair),
            (&mut sum.expected, r.expected),
            (&mut sum.lost, r.lost),
            (&mut sum.recovered, r.recovered),
        ] {
            *a = a.saturating_add(b);
        }
        for (path, bytes) in &r.bytes {
            let slot = sum.bytes.entry(path.clone()).or_default();
            *slot = slot.saturating_add(*bytes);
        }
        for (a, b) in sum.runs.iter_mut().zip(&r.runs) {
            *a = a.saturating_add(*b);
        }
        sum.join_ms = r.join_ms.or(sum.join_ms);
    }

    fn lack(
        &mut self,
        now: Time,
        from: Reporter,
        sample: f64,
        lack: &ObjectLack,
    ) -> Result<Verdict, &'static str> {
        let id = ObjectId { tsi: Tsi(lack.tsi), toi: Toi(lack.toi.into()) };
        let flow = self.flows.get(&id.tsi).ok_or("no such session")?;
        let kept = self.store.get(id).ok_or("no such object, or it was sent too long ago")?;
        let known = Known {
            id,
            blocks: &kept.symbols,
            packet_bytes: u64::from(flow.symbol_size) + PACKET_OVERHEAD,
            rate_bps: flow.rate_bps,
        };
        let blocks: Vec<(Sbn, u32)> = lack.blocks.iter().map(|(sbn, n)| (Sbn(*sbn), *n)).collect();
        Ok(self.aggregator.report(now, from, sample, &known, &blocks))
    }
}

const fn words(why: Refusal) -> &'static str {
    match why {
        Refusal::Impossible => "the object has no such blocks or not so many symbols",
        Refusal::Crowded => "too many objects are reported at a time",
        Refusal::Votes => "too many receivers report from this address",
    }
}

/// A client is an IPv4 address, or a /64 of IPv6: what one subscriber has.
fn client(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(a) => u64::from(a.to_bits()),
        IpAddr::V6(a) => (a.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests;
