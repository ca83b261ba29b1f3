//! The sender while it runs: channels whose origin answers late, channels that a new configuration adds or takes away.

use crate::channels::Channels;
use crate::config::{ChannelConfig, Config};
use crate::description;
use crate::origin::discover::{Found, discover};
use crate::tasks::Tasks;
use mahp_runtime::error::StartupError;
use mahp_runtime::shutdown;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};
use tokio_util::sync::CancellationToken;

/// A channel whose origin does not answer is asked for again this often.
const RETRY: Duration = Duration::from_secs(10);

/// Gives the configuration as it is now.
pub type Reread = Box<dyn Fn() -> Result<Config, StartupError> + Send + Sync>;

/// See the module.
pub struct Service {
    channels: Channels,
    tasks: Tasks,
    config: Config,
    reread: Reread,
    /// Channels whose origin has not answered yet, and what ends the asking.
    missing: BTreeMap<String, (ChannelConfig, CancellationToken)>,
    found: mpsc::Sender<(ChannelConfig, Found)>,
    late: mpsc::Receiver<(ChannelConfig, Found)>,
}

impl Service {
    /// A service of channels that were started with `config`.
    pub fn new(channels: Channels, tasks: Tasks, config: Config, reread: Reread) -> Service {
        let (found, late) = mpsc::channel(1);
        Service { channels, tasks, config, reread, missing: BTreeMap::new(), found, late }
    }

    /// Until all channels have ended, or the signal. `missing`: channels whose origin did not answer at the start.
    pub async fn run(mut self, missing: Vec<ChannelConfig>) {
        for channel in missing {
            self.look_for(channel, RETRY);
        }
        let mut reloads = shutdown::Reloads::new();
        let mut renewal = interval_at(Instant::now() + description::RENEWAL, description::RENEWAL);
        let stop = self.channels.stop.clone();
        loop {
            tokio::select! {
                Some((config, found)) = self.late.recv() => self.start(&config, found),
                () = self.tasks.done(&stop), if self.missing.is_empty() => break,
                () = stop.cancelled(), if !self.missing.is_empty() => self.missing.clear(),
                reload = reloads.next() => reload.answer(self.reload()),
                _ = renewal.tick() => self.channels.issue(),
            }
        }
        self.channels.stop.cancel();
        self.tasks.close().await;
    }

    /// Asks for a channel's origin until it answers.
    fn look_for(&mut self, channel: ChannelConfig, pause: Duration) {
        let stop = self.channels.stop.child_token();
        let (fetcher, clock) = (self.channels.fetcher.clone(), self.channels.shared.clock);
        let (status, found) = (self.channels.status.clone(), self.found.clone());
        self.missing.insert(channel.name.clone(), (channel.clone(), stop.clone()));
        let asking = async move {
            let mut pause = pause;
            loop {
                sleep(pause).await;
                pause = RETRY;
                match discover(&fetcher, clock, &channel).await {
                    Ok(there) => {
                        // Nobody takes it only when the program stops.
                        let _ = found.send((channel, there)).await;
                        return;
                    }
                    Err(e) => status.wait_for(&channel.name, &e.message),
                }
            }
        };
        self.tasks.background("missing channel", async move {
            stop.run_until_cancelled(asking).await;
        });
    }

    fn start(&mut self, config: &ChannelConfig, found: Found) {
        // Its configuration may have changed, or gone, while the answer was under way.
        if self.missing.get(&config.name).is_some_and(|(wanted, _)| wanted == config) {
            self.missing.remove(&config.name);
            self.channels.add(&mut self.tasks, config, found);
        }
    }

    /// Channels of the new configuration take the place of those of the old one; what is the same goes on undisturbed.
    fn reload(&mut self) -> Result<(), StartupError> {
        let next = (self.reread)().inspect_err(|e| {
            tracing::error!("the configuration is not reloaded, everything goes on as it was: {e}");
        })?;
        let program = |c: &Config| Config { channels: Vec::new(), ..c.clone() };
        if program(&next) != program(&self.config) {
            tracing::warn!(
                "settings of [sender] have changed: they take effect after a restart; channels are reloaded"
            );
        }
        let known = self.channels.running.iter().chain(&self.missing);
        let (kept, gone): (Vec<_>, Vec<_>) = known
            .map(|(name, (config, _))| (name.clone(), next.channels.contains(config)))
            .partition(|(_, same)| *same);
        for (name, _) in &gone {
            if let Some((_, stop)) = self.missing.remove(name) {
                stop.cancel();
            }
            self.channels.remove(name);
        }
        self.channels.issue();
        let new: Vec<ChannelConfig> =
            next.channels.iter().filter(|c| kept.iter().all(|(name, _)| *name != c.name)).cloned().collect();
        tracing::info!(kept = kept.len(), ended = gone.len(), new = new.len(), "configuration reloaded");
        for channel in new {
            self.look_for(channel, Duration::ZERO);
        }
        // Settings that need a restart are still what they were.
        self.config.channels = next.channels;
        Ok(())
    }
}
