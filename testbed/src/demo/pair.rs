//! Origin, sender, link and receiver, started in this order and stopped in the opposite one.

use super::{DemoArgs, Unicast};
use crate::cli::live_presentation;
use crate::link::{self, Link};
use crate::origin::Origin;
use crate::process::{Child, Launch};
use anyhow::{Context, bail};
use mahp_common::catalog::SessionDescription;
use mahp_receiver::snapshot::Snapshot;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{Fetcher, Request};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Where the sender sends from.
pub(super) const UPSTREAM: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where receivers hear the link from; what the sender announces.
pub(super) const DOWNSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The receiver's usual port.
const PORT: u16 = 7790;
/// A start takes a second or two; a loaded machine more.
const START: Duration = Duration::from_secs(30);

/// What runs.
#[derive(Debug)]
pub(super) struct Pair {
    origin: Origin,
    sender: Child,
    link: Link,
    receiver: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    fetcher: Fetcher,
    _folder: Folder,
}

impl Pair {
    pub(super) async fn start(args: &DemoArgs) -> anyhow::Result<Pair> {
        let folder = Folder::new()?;
        let origin = Origin::start((Ipv4Addr::LOCALHOST, 0).into(), live_presentation())
            .await
            .context("the origin cannot listen")?;
        let config = folder.write("sender.toml", &sender_config(args, &origin, &folder.0))?;
        let mut sender = child("sender", vec!["--config".into(), config.into()], args)?;
        let session = sender.says("receive: mahp-receiver ", START).await?;
        let session = Url::parse(&session).with_context(|| format!("the sender announces `{session}`"))?;
        let fetcher = Fetcher::new("mahp-testbed/0.1");
        let description = description(&fetcher, &session).await?;
        let link = Link::start(link::endpoints(&description), UPSTREAM, &args.impairment())?;
        let listen = free_port(args.port)?;
        let admin = free_port(Some(0))?;
        let receiver = child("receiver", receiver_args(args, &session, listen, admin, &folder.0), args)?;
        let mut pair = Pair { origin, sender, link, receiver, listen, admin, fetcher, _folder: folder };
        pair.ready().await?;
        Ok(pair)
    }

    /// Waits until the receiver answers.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        while self.get(&format!("http://{}/readyz", self.admin)).await.is_err() {
            if Instant::now() > end {
                let packets = self.link.total().offered;
                bail!(
                    "the receiver was not ready within {START:?} ({packets} packets were sent); --verbose shows what it says"
                );
            }
            tokio::select! {
                error = self.broken() => return Err(error),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        Ok(())
    }

    /// Returns when the sender or the receiver has ended.
    pub(super) async fn broken(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.sender.ended() => error,
            error = self.receiver.ended() => error,
        }
    }

    /// What the receiver tells about itself.
    pub(super) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let body = self.get(&format!("http://{}/api/status", self.admin)).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn get(&self, url: &str) -> anyhow::Result<bytes::Bytes> {
        Ok(self.fetcher.get(&Url::parse(url)?, Request::default()).await?.body)
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// The page.
    pub(super) fn page(&self) -> Url {
        self.url("/")
    }

    /// The channels as players ask for them.
    pub(super) fn manifests(&self) -> Vec<Url> {
        CHANNELS.iter().map(|(name, file)| self.url(&format!("/live/{name}/{file}"))).collect()
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.listen)).expect("an address and a path make a URL")
    }

    pub(super) async fn stop(self) {
        self.receiver.stop().await;
        drop(self.link);
        self.sender.stop().await;
        self.origin.stop();
    }
}

fn child(name: &str, own: Vec<OsString>, args: &DemoArgs) -> anyhow::Result<Child> {
    Child::start(&Launch { verbose: args.verbose, ..Launch::own(name, own) })
}

/// Name of the channel, which is also its folder at the origin, and its manifest.
const CHANNELS: [(&str, &str); 2] = [("hls", "master.m3u8"), ("dash", "manifest.mpd")];

/// Initialization segment and some media.
const WARM_OBJECTS: u64 = 4;

/// Whether every rendition brought media.
pub(super) fn warm(snapshot: &Snapshot) -> bool {
    let media = |role: &str| role == "video" || role == "audio";
    let mut renditions =
        snapshot.channels.iter().flat_map(|c| &c.renditions).filter(|r| media(&r.role)).peekable();
    renditions.peek().is_some()
        && renditions.all(|r| r.objects.multicast + r.objects.repaired >= WARM_OBJECTS)
}

fn sender_config(args: &DemoArgs, origin: &Origin, folder: &Path) -> String {
    // Groups of this demo only, so that several demos do not hear each other: the origin's port is nobody else's.
    let [high, low] = origin.address().port().to_be_bytes();
    let mut text = format!(
        "[sender]\nsource = \"{UPSTREAM}\"\nannounce-source = \"{DOWNSTREAM}\"\ngroup-base = \"232.{high}.{low}.1\"\n\
         http = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nname = \"MAHP demo\"\nkey-file = {}\n",
        quoted(&folder.join("sender.key"))
    );
    if let Some(repair) = args.repair {
        text.push_str(&format!("\n[defaults]\nrepair = {repair}\n"));
    }
    for ((name, file), title) in CHANNELS.iter().zip(["Test clip, HLS", "Test clip, DASH"]) {
        let url = origin.url(&format!("/{name}/{file}"));
        text.push_str(&format!(
            "\n[[channel]]\nurl = \"{url}\"\nchannel-name = \"{name}\"\ntitle = \"{title}\"\n"
        ));
    }
    text
}

/// A TOML basic string.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

fn receiver_args(
    args: &DemoArgs,
    session: &Url,
    listen: SocketAddr,
    admin: SocketAddr,
    folder: &Path,
) -> Vec<OsString> {
    let unicast = if args.unicast == Unicast::On { "on" } else { "off" };
    let mut out: Vec<OsString> = vec![session.as_str().into()];
    for (flag, value) in [
        ("--listen", listen.to_string()),
        ("--admin", admin.to_string()),
        ("--join", "always".into()),
        ("--unicast", unicast.into()),
    ] {
        out.extend([flag.into(), value.into()]);
    }
    out.extend(["--state-dir".into(), folder.into()]);
    out
}

/// The session description, as soon as the sender has it.
async fn description(fetcher: &Fetcher, session: &Url) -> anyhow::Result<SessionDescription> {
    let answer = fetcher.get(session, Request::default()).await?;
    let (description, _) = SessionDescription::open(&answer.body, None, Clock::new().wall())?;
    Ok(description)
}

/// A free loopback address. `None`: the usual port if it is free. Another program may take it before the child binds it;
/// then the child says so.
fn free_port(wanted: Option<u16>) -> anyhow::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    match wanted {
        Some(port) => bind(port).with_context(|| format!("port {port} is taken: try --port 0")),
        None => bind(PORT).or_else(|_| bind(0)).context("no free port"),
    }
}

/// A folder for keys and configuration that is removed at the end.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("mahp-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
