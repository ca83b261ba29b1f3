//! `mahp-testbed play`: the built-in player as a program of its own, so that it can stand in a host's namespace.

use crate::client::{self, Available, Choice, Options, Truth};
use crate::clip::Clip;
use crate::presentation::Presentation;
use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use mahp_common::WallTime;
use mahp_runtime::config::Span;
use mahp_runtime::fetch::{Fetcher, Request};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// What bytes are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Content {
    /// The standard channel.
    #[default]
    Standard,
    /// The clip as it is.
    Clip,
    /// Files of a folder.
    Folder,
    /// Whatever the origin answers (`--original`).
    Origin,
}

impl Content {
    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Content::Standard => "standard",
            Content::Clip => "clip",
            Content::Folder => "folder",
            Content::Origin => "origin",
        }
    }
}

/// Options.
#[derive(Args, Clone, Debug)]
pub struct PlayArgs {
    /// Master playlist, media playlist or MPD
    pub manifest: Url,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "20s")]
    pub run_for: Span,
    /// File for the report; without it, complaints go to the terminal
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What the bytes must be
    #[arg(long, value_name = "CONTENT", default_value = "standard")]
    pub content: Content,
    /// Folder of the origin's files that belong to the manifest
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// The manifest at the origin: what a URL below the folder of `manifest` must be is asked there, below the folder of this one
    #[arg(long, value_name = "URL")]
    pub original: Option<Url>,
    /// When live segment 0 began, Unix milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub epoch_ms: u64,
    /// The lowest rendition
    #[arg(long)]
    pub lowest: bool,
    /// Measure: fetch each segment as soon as it is listed
    #[arg(long)]
    pub probe: bool,
}

/// Plays and reports.
///
/// # Errors
/// The report cannot be written.
pub async fn play(args: PlayArgs) -> anyhow::Result<ExitCode> {
    let (truth, available) = knowledge(&args);
    let options = Options {
        choice: if args.lowest { Choice::Lowest } else { Choice::Highest },
        truth: Some(truth),
        available,
        probe: args.probe,
        ..Options::new(args.manifest.clone(), args.run_for.0)
    };
    let report = client::play(options).await;
    match &args.json {
        Some(path) => {
            let text = serde_json::to_vec(&report)?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let complaints = report.complaints();
            println!("{} segments, {} stalls", report.segments.len(), report.stalls.len());
            complaints.iter().for_each(|c| println!("  - {c}"));
            Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn knowledge(args: &PlayArgs) -> (Truth, Option<Available>) {
    let clip = match args.content {
        Content::Standard => Clip::standard(),
        Content::Clip => Clip::embedded(),
        Content::Folder => {
            let (folder, same) =
                (args.folder.clone().unwrap_or_default(), args.folder.clone().unwrap_or_default());
            // What was there before has been available for no matter how long.
            let now = mahp_runtime::clock::Clock::new().wall();
            let available: Available =
                Arc::new(move |url: &Url| written(&path_of(&same, url)?).filter(|at| *at >= now));
            let truth: Truth =
                Arc::new(move |url: &Url| std::fs::read(path_of(&folder, url)?).ok().map(Bytes::from));
            return (truth, Some(available));
        }
        Content::Origin => {
            let (served, original) = (args.manifest.clone(), args.original.clone());
            let fetcher = Fetcher::new("mahp-testbed-judge/0.1");
            return (Arc::new(move |url: &Url| ask(&fetcher, &served, original.as_ref()?, url)), None);
        }
    };
    let presentation = Presentation::new(clip, WallTime::from_unix_millis(args.epoch_ms), Duration::ZERO);
    let same = presentation.clone();
    let available: Available = Arc::new(move |url: &Url| same.available(url.path()));
    (Arc::new(move |url: &Url| presentation.truth(url.path())), (args.epoch_ms > 0).then_some(available))
}

/// The file that a URL behind any prefix stands for: the longest end of its path that exists.
fn path_of(folder: &Path, url: &Url) -> Option<PathBuf> {
    let parts: Vec<&str> = url.path().split('/').filter(|p| !p.is_empty() && !p.starts_with('.')).collect();
    (0..parts.len()).map(|n| folder.join(parts[n..].join("/"))).find(|p| p.is_file())
}

/// When a file became what it is.
fn written(file: &Path) -> Option<WallTime> {
    let modified = file.metadata().ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(WallTime::from_unix_millis(u64::try_from(since.as_millis()).ok()?))
}

/// What the origin has for a URL of the receiver: the same path below the folder of its own manifest.
fn ask(fetcher: &Fetcher, served: &Url, original: &Url, url: &Url) -> Option<Bytes> {
    let relative = served.make_relative(url)?;
    let there = original.join(&relative).ok()?;
    let request = async { fetcher.get(&there, Request::default()).await.ok().map(|answer| answer.body) };
    // A measuring player may wait here: what it measures has been measured before it compares.
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_a_receiver_lead_to_the_origin() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let served = url("http://127.0.0.1:7790/live/tv/master.m3u8");
        let relative = served.make_relative(&url("http://127.0.0.1:7790/live/tv/hi/7.m4s?a=1"));
        let there = relative.and_then(|r| url("http://origin/x/y/main.m3u8").join(&r).ok());
        assert_eq!(there, Some(url("http://origin/x/y/hi/7.m4s?a=1")));
    }
}
