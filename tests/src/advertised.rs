//! A live DASH channel without an encoder: Periods of a film in numbered segments (SegmentTemplate), and between them
//! advertisements in one file for each track (SegmentBase), as ad servers keep them.

use crate::content::CLIP_SECONDS;
use anyhow::Context;
use mahp_common::WallTime;
use mahp_testbed::presentation::iso8601;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Films with an advertisement behind each.
const PAIRS: usize = 2;
/// What had been shown before the channel's folder was made: the first advertisement begins a little later.
const AGE: Duration = Duration::from_secs(12);

/// Writes the channel into `folder`: `manifest.mpd`, and beside it the clips `dash-number` and `dash-base` of the folder `content`.
/// Returns when the first advertisement (`ad-1`) begins.
///
/// # Errors
/// When the folder cannot be written.
pub fn channel(content: &Path, folder: &Path) -> anyhow::Result<SystemTime> {
    fs::create_dir_all(folder)?;
    let (film, advertisement) = (sets(content, "dash-number")?, sets(content, "dash-base")?);
    let started = (SystemTime::now().duration_since(UNIX_EPOCH)? - AGE).as_secs();
    let mut mpd = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\" \
         profiles=\"urn:mpeg:dash:profile:isoff-live:2011\" availabilityStartTime=\"{}\" minimumUpdatePeriod=\"PT10S\" \
         minBufferTime=\"PT4S\" maxSegmentDuration=\"PT4S\" timeShiftBufferDepth=\"PT30S\" suggestedPresentationDelay=\"PT8S\">\n",
        iso8601(WallTime::from_unix_secs(started))
    );
    for n in 0..2 * PAIRS {
        let (name, sets) = if n % 2 == 0 { ("film", &film) } else { ("ad", &advertisement) };
        let clip = if n % 2 == 0 { "dash-number" } else { "dash-base" };
        // Another copy each time: what was sent once is not sent again under the same name.
        symlink(fs::canonicalize(content.join(clip))?, folder.join(format!("{name}-{n}")))?;
        let start = n as f64 * CLIP_SECONDS;
        let _ = writeln!(
            mpd,
            "<Period id=\"{name}-{n}\" start=\"PT{start}S\" duration=\"PT{CLIP_SECONDS}S\">\n<BaseURL>{name}-{n}/</BaseURL>\n{sets}\n</Period>"
        );
    }
    mpd.push_str("</MPD>\n");
    fs::write(folder.join("manifest.mpd"), mpd)?;
    Ok(UNIX_EPOCH + Duration::from_secs(started) + Duration::from_secs_f64(CLIP_SECONDS))
}

/// The AdaptationSets of a clip's only Period.
fn sets(content: &Path, clip: &str) -> anyhow::Result<String> {
    let mpd = fs::read_to_string(content.join(clip).join("manifest.mpd"))?;
    let end = "</AdaptationSet>";
    let sets = mpd.find("<AdaptationSet").zip(mpd.rfind(end)).map(|(from, to)| &mpd[from..to + end.len()]);
    Ok(sets.with_context(|| format!("no AdaptationSet in the MPD of {clip}"))?.to_owned())
}
