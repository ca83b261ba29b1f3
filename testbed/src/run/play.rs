//! `mahp-testbed play`: the built-in player as a program of its own, so that it can stand in a host's namespace.

use crate::client::{self, Available, Choice, Options, Truth};
use crate::clip::Clip;
use crate::presentation::Presentation;
use anyhow::Context;
use clap::Args;
use mahp_common::WallTime;
use mahp_runtime::config::Span;
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
}

impl Content {
    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Content::Standard => "standard",
            Content::Clip => "clip",
            Content::Folder => "folder",
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
    /// Folder of the origin's files
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
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
            let folder = args.folder.clone().unwrap_or_default();
            return (Arc::new(move |url: &Url| file_of(&folder, url)), None);
        }
    };
    let presentation = Presentation::new(clip, WallTime::from_unix_millis(args.epoch_ms), Duration::ZERO);
    let same = presentation.clone();
    let available: Available = Arc::new(move |url: &Url| same.available(url.path()));
    (Arc::new(move |url: &Url| presentation.truth(url.path())), (args.epoch_ms > 0).then_some(available))
}

/// The file that a URL behind any prefix stands for: the longest end of its path that exists.
fn file_of(folder: &Path, url: &Url) -> Option<bytes::Bytes> {
    let parts: Vec<&str> = url.path().split('/').filter(|p| !p.is_empty() && !p.starts_with('.')).collect();
    let found = (0..parts.len()).map(|n| folder.join(parts[n..].join("/"))).find(|p| p.is_file())?;
    std::fs::read(found).ok().map(bytes::Bytes::from)
}
