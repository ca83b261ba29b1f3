//! How far back a live MPD reaches for receivers that have multicast alone.

use super::rig::{Rig, bytes};
use crate::http::Options;
use crate::library::Availability;
use mahp_common::WallTime;
use mahp_common::manifest::dash::Mpd;
use std::time::Duration;
use url::Url;

const URL: &str = "https://cdn.example/live/v/live.mpd";
const PATH: &str = "/live/news/v/live.mpd";
/// Two seconds each, counted from 1970.
const MPD: &str = r#"<MPD type="dynamic" availabilityStartTime="1970-01-01T00:00:00Z" minimumUpdatePeriod="PT2S" timeShiftBufferDepth="PT60S"><Period id="p" start="PT0S">
<AdaptationSet contentType="video"><SegmentTemplate media="$RepresentationID$/$Number$.m4s" duration="2" startNumber="0"/>
<Representation id="low" bandwidth="1"/><Representation id="high" bandwidth="2"/></AdaptationSet>
<AdaptationSet contentType="audio"><SegmentTemplate media="$RepresentationID$/$Number$.m4s" duration="2" startNumber="0"/>
<Representation id="sound" bandwidth="1"/></AdaptationSet>
<AdaptationSet contentType="text"><SegmentTemplate media="$RepresentationID$/$Number$.m4s" duration="2" startNumber="0"/>
<Representation id="words" bandwidth="1"/></AdaptationSet></Period></MPD>"#;

fn rig(unicast: bool) -> Rig {
    let rig = Rig::with(Options { unicast, ..Options::default() });
    rig.multicast.hear_manifest(URL, MPD, true);
    rig
}

/// The number of the newest segment that is complete.
fn newest(rig: &Rig) -> u64 {
    rig.clock.wall().unix_millis() / 2000 - 1
}

fn segment(id: &str, number: u64) -> String {
    format!("https://cdn.example/live/v/{id}/{number}.m4s")
}

fn hear(rig: &Rig, id: &str, numbers: impl IntoIterator<Item = u64>) {
    numbers.into_iter().for_each(|n| rig.multicast.multicast(&segment(id, n), &bytes(10)));
}

/// The number of the first segment in the time-shift buffer.
async fn first(rig: &Rig) -> u64 {
    let seen = rig.get(PATH).await.text();
    let mpd = Mpd::parse(seen.as_bytes(), &Url::parse(URL).unwrap()).unwrap();
    let shown: Vec<_> = seen.split("PT60S").collect();
    assert!(shown.len() == 2 || seen.split(" timeShiftBufferDepth=").count() == 2, "{seen}");
    let now: WallTime = rig.clock.wall();
    mpd.segments(&mpd.representations[0], now)[0].number
}

#[tokio::test(start_paused = true)]
async fn a_player_is_offered_what_every_representation_has() {
    let rig = rig(false);
    let n = newest(&rig);
    hear(&rig, "low", n - 9..=n);
    hear(&rig, "high", n - 6..=n);
    hear(&rig, "sound", n - 4..=n);
    let begins = first(&rig).await;
    assert!((n - 4..=n - 3).contains(&begins), "{begins} of {n}");
    // It does not come back, and goes on where nothing is kept any more.
    hear(&rig, "sound", n - 9..=n);
    let again = first(&rig).await;
    assert!((n - 4..=n - 3).contains(&again), "{again} of {n}");
    for id in ["low", "high", "sound"] {
        (n - 9..n - 1).for_each(|n| {
            let key = crate::library::ResourceKey(segment(id, n).into());
            rig.multicast.state.lock().unwrap().store.remove(&key);
        });
    }
    let later = first(&rig).await;
    assert!((n - 1..=n).contains(&later), "{later} of {n}");
}

#[tokio::test(start_paused = true)]
async fn with_unicast_or_all_of_it_here_nothing_changes() {
    let fetching = rig(true);
    hear(&fetching, "low", [newest(&fetching)]);
    assert_eq!(fetching.get(PATH).await.text(), MPD);
    let all = rig(false);
    let n = newest(&all);
    ["low", "high", "sound"].into_iter().for_each(|id| hear(&all, id, n - 40..=n));
    assert_eq!(all.get(PATH).await.text(), MPD);
}

#[tokio::test(start_paused = true)]
async fn who_joins_late_waits_for_pictures_and_sound() {
    let rig = rig(false);
    let n = newest(&rig);
    let soon = || Availability::Coming { expected_by: rig.at(2000), progress: 0.1 };
    for (after, id) in [(300, "low"), (400, "high"), (700, "sound")] {
        let soon = soon();
        rig.later(after, move |library| library.forecast(&segment(id, n), soon));
    }
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), seen.waited), (200, Duration::from_millis(700)));
    let begins = first(&rig).await;
    assert!((n..=n + 1).contains(&begins), "{begins} of {n}");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_nobody_hears_is_shown_as_it_is_in_the_end() {
    let rig = rig(false);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.text().as_str(), seen.waited), (MPD, Duration::from_secs(8)));
}
