//! What types alone cannot say about a scenario.

use super::{Action, Content, Impair, Scenario};
use crate::result::verdict;
use mahp_runtime::error::StartupError;

/// Receivers as processes: more is asking for a machine that does something else than it measures.
const PROCESSES_MAX: usize = 32;
/// Light receivers.
const LIGHT_MAX: usize = 1000;

/// What is wrong: where to point, what to say, what to do.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The table it stands in (`impair`), and which of them.
    table: (&'static str, usize),
    /// The key, empty for the whole table.
    key: &'static str,
    message: String,
    hint: String,
}

impl Wrong {
    fn new(table: (&'static str, usize), key: &'static str, message: String, hint: &str) -> Wrong {
        Wrong { table, key, message, hint: hint.into() }
    }

    /// With file and line.
    pub(super) fn at(self, name: &str, text: &str) -> StartupError {
        let line = line(text, self.table, self.key);
        let place = line.map_or_else(|| name.to_owned(), |l| format!("{name}:{l}"));
        StartupError::usage("E-SCENARIO", format!("{place}: {}", self.message), self.hint)
    }
}

/// Line of a key in the n-th table of a name; of the table's header when the key is not there.
fn line(text: &str, (table, nth): (&str, usize), key: &str) -> Option<usize> {
    let mut here = table.is_empty();
    let mut seen = 0;
    let mut found = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            let inner = line.trim_start_matches('[').split(']').next().unwrap_or("").trim();
            let same = inner == table;
            here = same && seen == nth;
            seen += usize::from(same);
            if here {
                found = Some(number + 1);
            }
        }
        let is_key = || line.split('=').next().is_some_and(|k| k.trim() == key);
        if here && !key.is_empty() && is_key() {
            return Some(number + 1);
        }
    }
    found
}

type Checked = Result<(), Wrong>;

pub(super) fn check(s: &Scenario) -> Checked {
    general(s)?;
    origin(s)?;
    s.impair.iter().enumerate().try_for_each(|(n, impair)| leg(s, n, impair))?;
    players(s)?;
    events(s)?;
    criteria(s)
}

fn general(s: &Scenario) -> Checked {
    let top = ("", 0);
    if s.duration.0.as_millis() < 1000 {
        return Err(Wrong::new(top, "duration", "a run below 1s shows nothing".into(), "20s or more"));
    }
    if !(0.0..=1.0).contains(&s.short) {
        let message = format!("short = {} is not a factor", s.short);
        return Err(Wrong::new(top, "short", message, "0 (not in the short suite) to 1"));
    }
    let receivers = ("receivers", 0);
    if s.receivers.count > PROCESSES_MAX {
        let message = format!("{} receivers as processes; the limit is {PROCESSES_MAX}", s.receivers.count);
        return Err(Wrong::new(receivers, "count", message, "use `light` for the rest"));
    }
    if s.receivers.light > LIGHT_MAX {
        let message = format!("{} light receivers; the limit is {LIGHT_MAX}", s.receivers.light);
        return Err(Wrong::new(
            receivers,
            "light",
            message,
            "several runs with other seeds show more than one large one",
        ));
    }
    let mut names = std::collections::BTreeSet::new();
    for (n, channel) in s.channel.iter().enumerate() {
        if !mahp_common::catalog::is_channel_name(&channel.name) || !names.insert(&channel.name) {
            let message = format!("channel name `{}` is not usable or there twice", channel.name);
            return Err(Wrong::new(("channel", n), "name", message, "letters, digits, `-`, `_`, `.`"));
        }
        if !channel.manifest.starts_with('/') {
            let message = format!("manifest `{}` is not a path", channel.manifest);
            return Err(Wrong::new(("channel", n), "manifest", message, "such as \"/live/master.m3u8\""));
        }
    }
    Ok(())
}

fn origin(s: &Scenario) -> Checked {
    let wrong = |key, message: &str, hint| Err(Wrong::new(("origin", 0), key, message.into(), hint));
    match (s.origin.content, &s.origin.folder, &s.origin.url) {
        (Content::Folder, None, _) => wrong("content", "no folder is given", "add folder = \"…\""),
        (Content::Folder, Some(f), _) if !f.is_dir() => {
            wrong("folder", &format!("{} is not a folder", f.display()), "paths count from where you stand")
        }
        (Content::Url, _, None) => wrong("content", "no URL is given", "add url = \"http://…\""),
        (Content::Url, _, Some(url)) if !url.starts_with("http://") && !url.starts_with("https://") => wrong(
            "url",
            &format!("`{url}` is not a URL of a web server"),
            "url = \"http://host:port\", without the manifest's path",
        ),
        (Content::Folder, ..) | (Content::Url, ..) => Ok(()),
        (_, Some(_), _) => wrong("folder", "is for content = \"folder\" only", "leave it out"),
        (_, _, Some(_)) => wrong("url", "is for content = \"url\" only", "leave it out"),
        _ => Ok(()),
    }
}

fn leg(s: &Scenario, n: usize, impair: &Impair) -> Checked {
    let table = ("impair", n);
    host(s, table, "leg", &impair.leg)?;
    if let (Some(from), Some(until)) = (impair.from, impair.until)
        && from >= until
    {
        return Err(Wrong::new(table, "until", "ends before it begins".into(), "until must be after from"));
    }
    if impair.burst > 1.0 && impair.loss.0.fraction() <= 0.0 {
        return Err(Wrong::new(table, "burst", "bursts of no loss".into(), "add loss = \"5%\""));
    }
    if impair.queue.is_some() && impair.rate.is_none() {
        return Err(Wrong::new(
            table,
            "queue",
            "a queue before no bottleneck".into(),
            "add rate = \"20 Mbit/s\"",
        ));
    }
    if impair.jitter.is_some_and(|j| impair.model.is_none() && impair.delay.is_none_or(|d| d < j)) {
        return Err(Wrong::new(
            table,
            "jitter",
            "jitter beyond the delay".into(),
            "a delay of at least the jitter",
        ));
    }
    Ok(())
}

fn host(s: &Scenario, table: (&'static str, usize), key: &'static str, name: &str) -> Checked {
    if s.matching(name).is_empty() {
        let hint = format!("one of: {}, receivers, all", s.hosts().join(", "));
        return Err(Wrong::new(table, key, format!("there is no host `{name}`"), &hint));
    }
    Ok(())
}

fn players(s: &Scenario) -> Checked {
    for (n, player) in s.player.iter().enumerate() {
        let table = ("player", n);
        if player.on != "origin" {
            host(s, table, "on", &player.on)?;
        }
        if let Some(channel) = &player.channel
            && !s.channel.iter().any(|c| &c.name == channel)
        {
            let known: Vec<&str> = s.channel.iter().map(|c| c.name.as_str()).collect();
            let hint = format!("one of: {}", known.join(", "));
            return Err(Wrong::new(table, "channel", format!("there is no channel `{channel}`"), &hint));
        }
        if player.start >= s.duration {
            return Err(Wrong::new(table, "start", "starts after the end".into(), "before `duration`"));
        }
    }
    Ok(())
}

fn events(s: &Scenario) -> Checked {
    for (n, event) in s.event.iter().enumerate() {
        let table = ("event", n);
        host(s, table, "to", &event.to)?;
        if event.at >= s.duration {
            return Err(Wrong::new(table, "at", "happens after the end".into(), "before `duration`"));
        }
        if (event.action == Action::Slow) != event.delay.is_some() {
            return Err(Wrong::new(
                table,
                "delay",
                "`delay` and do = \"slow\" go together".into(),
                "delay = \"500ms\"",
            ));
        }
        if event.action == Action::Slow && event.to != "origin" {
            return Err(Wrong::new(table, "to", "only the origin can be slow".into(), "to = \"origin\""));
        }
    }
    Ok(())
}

fn criteria(s: &Scenario) -> Checked {
    if let Some(host) = &s.pass.layer_2_only {
        let known = (1..=s.receivers.count).any(|n| *host == format!("receiver-{n}"));
        if !known {
            let message = format!("there is no receiver `{host}`");
            return Err(Wrong::new(("pass", 0), "layer-2-only", message, "layer-2-only = \"receiver-1\""));
        }
    }
    let names = verdict::names(&s.pass);
    for name in &s.pass.must_fail {
        if !names.contains(name) {
            let hint = format!("criteria of this file: {}", names.join(", "));
            let message = format!("`{name}` must fail but is not a criterion of this file");
            return Err(Wrong::new(("pass", 0), "must-fail", message, &hint));
        }
    }
    Ok(())
}
