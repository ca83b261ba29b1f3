//! Starts the tasks of a channel: a flow for each rendition, and what follows or goes through its origin.

use crate::config::ChannelConfig;
use crate::description::{self, Issuer, Published};
use crate::flow::{FlowSink, FlowTask, Shared};
use crate::moq;
use crate::origin::dash_live;
use crate::origin::dash_mpd::MpdFollower;
use crate::origin::discover::{Found, What};
use crate::origin::live::{FollowOptions, follow, follow_manifest};
use crate::origin::vod::{self, Timeline};
use crate::origin::{Origin, Whole, dash, hls};
use crate::plan::{self, Plan, Planned, Planner};
use crate::repair::Service;
use crate::sink::ObjectSink;
use crate::spool::Spool;
use crate::status::SenderStatus;
use crate::tasks::Tasks;
use mahp_common::Tsi;
use mahp_common::catalog::{Channel, Rendition, Role};
use mahp_common::repair::share::ShareConfig;
use mahp_common::session::send::{LayerConfig, SendConfig};
use mahp_runtime::fetch::Fetcher;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Everything that starting a channel needs.
#[derive(Debug)]
pub struct Channels {
    /// Groups, TSIs, rates.
    pub planner: Planner,
    /// The session description.
    pub issuer: Issuer,
    /// Its current issue.
    pub published: watch::Sender<Arc<Published>>,
    /// Counters.
    pub status: Arc<SenderStatus>,
    /// Socket, clock, encoders.
    pub shared: Shared,
    /// HTTP client.
    pub fetcher: Fetcher,
    /// What receivers lack.
    pub repair: Arc<Service>,
    /// The same over MoQ, if that is on.
    pub moq: Option<moq::Publisher>,
    /// What carousels keep.
    pub spool: Spool,
    /// Identity of this run.
    pub session: u64,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Channels that were started: what they were started with, and what ends them.
    pub running: BTreeMap<String, (ChannelConfig, CancellationToken)>,
}

impl Channels {
    /// Plans and starts a channel whose origin answered only after the start, and describes it.
    pub fn add(&mut self, tasks: &mut Tasks, config: &ChannelConfig, found: Found) {
        match self.planner.add(config, &found) {
            Ok(planned) => {
                tracing::info!(channel = config.name, "its origin answers: sending");
                self.status.add(&planned.channel);
                self.issuer.description.channels.push(planned.channel.clone());
                self.start(tasks, config, &planned, found);
                self.issue();
            }
            Err(e) => tracing::error!(channel = config.name, "left out: {e}"),
        }
    }

    /// Ends a channel, and describes it no longer.
    pub fn remove(&mut self, name: &str) {
        if let Some((_, stop)) = self.running.remove(name) {
            stop.cancel();
        }
        for channel in self.issuer.description.channels.extract_if(.., |c| c.name == name) {
            self.planner.remove(&channel);
            channel.renditions.iter().for_each(|r| self.repair.forget(r.flow.endpoint.tsi));
        }
        if let Some(moq) = &self.moq {
            moq.remove(name);
        }
        self.status.remove(name);
    }

    /// Publishes the description with new times.
    pub fn issue(&self) {
        match self.issuer.issue(self.shared.clock.wall()) {
            Ok(published) => {
                self.published.send_replace(Arc::new(published));
            }
            Err(e) => tracing::error!("{e}"),
        }
    }

    /// Starts the announcement session.
    pub fn announce(&self, tasks: &mut Tasks, plan: &Plan) {
        let key = self.issuer.key.clone();
        let (flow, config) = description::announcement(plan, self.session, self.first_toi(), key);
        let (task, sink) =
            FlowTask::new(self.shared.clone(), Arc::default(), "announcement", &flow, config, None, None);
        tasks.background("announcement flow", task.run(self.stop.clone()));
        tasks.background("announcement", description::carry(Arc::new(sink), self.published.subscribe()));
    }

    /// Starts a channel of the plan.
    pub fn start(&mut self, tasks: &mut Tasks, config: &ChannelConfig, planned: &Planned, found: Found) {
        if let Some(moq) = &self.moq {
            moq.add(&planned.channel);
        }
        let stop = self.stop.child_token();
        self.running.insert(planned.channel.name.clone(), (config.clone(), stop.clone()));
        let mut starting = Starting { all: self, tasks, config, channel: &planned.channel, stop };
        match (found.live, found.mpd.is_some()) {
            (true, false) => starting.live_hls(found),
            (true, true) => starting.live_dash(found),
            (false, _) => starting.vod(planned.speed, &found),
        }
    }

    /// Above the TOIs of any run before: ten a second are never reached by the objects of one rendition.
    fn first_toi(&self) -> u32 {
        u32::try_from((self.shared.clock.wall().unix_millis() / 100) & 0x7fff_ffff).unwrap_or(1).max(1)
    }
}

/// One channel while it is started.
struct Starting<'a> {
    all: &'a Channels,
    tasks: &'a mut Tasks,
    config: &'a ChannelConfig,
    channel: &'a Channel,
    stop: CancellationToken,
}

impl Starting<'_> {
    /// Whether parts or chunks of segments are carried, each as soon as it exists.
    fn is_low_latency(&self) -> bool {
        self.config.low_latency && self.channel.part_target_ms.is_some()
    }

    fn live_hls(&mut self, found: Found) {
        let options = FollowOptions {
            carry_keys: self.config.carry_keys,
            repeat: self.config.repeat,
            low_latency: self.is_low_latency(),
        };
        if let (Some(manifest), Some(r)) = (found.manifest, manifest_rendition(self.channel)) {
            let (origin, sink) = self.flow(r);
            self.aside(
                "master playlist",
                follow_manifest(origin, Arc::new(sink), self.config.clone(), manifest.object),
            );
        }
        for f in found.renditions {
            let Some(r) = by_id(self.channel, &f.id) else { continue };
            let What::Hls(rendition) = f.what else { continue };
            let (origin, sink) = self.flow(r);
            self.work(r, follow(origin, Arc::new(sink), *rendition, options));
        }
    }

    fn live_dash(&mut self, found: Found) {
        let (Some((first, ladder)), Some(manifest), Some(r)) =
            (found.mpd, found.manifest, manifest_rendition(self.channel))
        else {
            return;
        };
        let (origin, sink) = self.flow(r);
        let (reports, progress): (Vec<_>, Vec<_>) =
            found.renditions.iter().map(|_| watch::channel(0)).unzip();
        let (mpd, feed) = MpdFollower::new(origin, Arc::new(sink), manifest.url, first, progress);
        let mpd = mpd.watching(ladder.clone(), self.config.renditions.clone());
        for (f, report) in found.renditions.iter().zip(reports) {
            let Some(r) = by_id(self.channel, &f.id) else { continue };
            let What::Dash(rung) = f.what else { continue };
            let (origin, sink) = self.flow(r);
            let (sink, low_latency) = (Arc::new(sink), self.is_low_latency());
            let task =
                dash_live::follow(origin, sink, feed.clone(), ladder.clone(), rung, low_latency, report);
            self.work(r, task);
        }
        drop(feed);
        self.work(r, mpd.run());
    }

    fn vod(&mut self, speed: f64, found: &Found) {
        let clock = self.all.shared.clock;
        let timeline =
            Timeline { start: clock.now(), speed, duration: vod_duration(found), repeat: self.config.repeat };
        if let (Some(manifest), Some(r)) = (&found.manifest, manifest_rendition(self.channel)) {
            let (_, sink) = self.flow(r);
            self.aside("manifest", vod::repeat(clock, Arc::new(sink), manifest.object.clone()));
        }
        for f in &found.renditions {
            let Some(r) = by_id(self.channel, &f.id) else { continue };
            let (origin, sink) = self.flow(r);
            let sink: Arc<dyn ObjectSink> = Arc::new(sink);
            let rate_bps = r.flow.rate_bps;
            let made = match (&f.what, &found.mpd) {
                (What::Hls(hls), _) => vod::Source::Hls(hls.clone(), self.config.carry_keys),
                (What::Dash(rung), Some((version, ladder))) => {
                    vod::Source::Dash(version.mpd.clone(), ladder.clone(), *rung)
                }
                (What::Dash(_), None) => continue,
            };
            let spool = self.all.spool.clone();
            self.work(r, vod::carry(origin, sink, spool, made, rate_bps, timeline));
        }
    }

    /// A task that lasts as long as the content, or until `stop`.
    fn work(&mut self, r: &Rendition, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.work(format!("{}/{}", self.channel.name, r.id), until(self.stop.clone(), task));
    }

    /// A task that is no work to wait for.
    fn aside(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.background(name, until(self.stop.clone(), task));
    }

    /// Starts a rendition's flow.
    fn flow(&mut self, r: &Rendition) -> (Origin, FlowSink) {
        let Starting { all, channel, .. } = *self;
        let status = all.status.of(&channel.name, &r.id);
        let repair_tsi = r.flow.repair.map_or(Tsi(0), |e| e.tsi);
        let percent = r.flow.repair_percent;
        let share = ShareConfig {
            layer_2: r.flow.repair_layer_2.map_or(0, |layer| layer.percent),
            ..ShareConfig::new(self.config.repair_floor, percent, self.config.repair_ceiling)
        };
        let place = all.repair.place(&channel.name, &r.id, &r.flow, share);
        let moq = all.moq.as_ref().and_then(|moq| moq.place(&channel.name, r));
        let config = SendConfig {
            symbol_size: r.flow.symbol_size,
            repair_percent: percent,
            layer_2: r.flow.repair_layer_2.map(|l| LayerConfig { tsi: l.endpoint.tsi, percent: l.percent }),
            session: all.session,
            toi_of_content: true,
            first_toi: all.first_toi(),
            key: Some(all.issuer.key.clone()),
            ..SendConfig::new(r.flow.profile, r.flow.endpoint.tsi, repair_tsi, r.flow.rate_bps)
        };
        let (task, sink) = FlowTask::new(
            all.shared.clone(),
            status.clone(),
            &channel.name,
            &r.flow,
            config,
            Some(place),
            moq,
        );
        let task = task.run(self.stop.clone());
        if r.role == Role::Manifest {
            // A manifest is repeated until the media have left.
            self.tasks.background("manifest flow", task);
        } else {
            self.tasks.work(format!("{}/{} flow", channel.name, r.id), task);
        }
        let token_parameters = channel.token_parameters.clone().into();
        let (fetcher, clock) = (all.fetcher.clone(), all.shared.clock);
        let segments_at_start = plan::segments_at_start(r);
        let whole = Whole::default();
        (Origin { fetcher, clock, status, token_parameters, segments_at_start, whole }, sink)
    }
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

fn manifest_rendition(channel: &Channel) -> Option<&Rendition> {
    channel.renditions.iter().find(|r| r.role == Role::Manifest)
}

fn by_id<'a>(channel: &'a Channel, id: &str) -> Option<&'a Rendition> {
    channel.renditions.iter().find(|r| r.id == id)
}

fn vod_duration(found: &Found) -> Duration {
    let hls = found.renditions.iter().filter_map(|f| match &f.what {
        What::Hls(rendition) => rendition.first.as_ref().map(hls::duration),
        What::Dash(_) => None,
    });
    let dash = found.mpd.as_ref().map(|(version, _)| dash::duration(&version.mpd));
    hls.chain(dash).max().unwrap_or_default()
}
