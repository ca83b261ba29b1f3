use super::*;
use crate::cli::Cli;
use crate::config::{ChannelSettings, SenderSettings, resolve};
use crate::origin::discover::{Manifest, What};
use crate::origin::hls::HlsRendition;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Format, SessionDescription};
use mahp_common::{Object, ObjectMeta};
use mahp_runtime::config::BitRate;
use std::time::Duration;
use url::Url;

fn url(path: &str) -> Url {
    Url::parse("http://origin.example/").and_then(|u| u.join(path)).expect("url")
}

fn found(live: bool, bitrates: &[u64]) -> Found {
    let rendition = |(i, bps): (usize, &u64)| {
        let playlist = url(&format!("{i}/media.m3u8"));
        FoundRendition {
            id: format!("r{i}"),
            role: Role::Video,
            bitrate_bps: *bps,
            key: playlist.to_string(),
            playlist_url: Some(playlist.clone()),
            url_patterns: Vec::new(),
            codecs: None,
            resolution: None,
            language: None,
            what: What::Hls(Box::new(HlsRendition {
                url: playlist,
                master: None,
                imports: Vec::new(),
                first: None,
            })),
        }
    };
    let object = Object::new(ObjectMeta::default(), vec![b'#'; 200].into());
    Found {
        format: Format::Hls,
        live,
        target_duration: Duration::from_secs(2),
        part_target: None,
        manifest: Some(Manifest { url: url("master.m3u8"), object }),
        renditions: bitrates.iter().enumerate().map(rendition).collect(),
        mpd: None,
        prefixes: vec![url("").to_string()],
    }
}

fn config(sender: SenderSettings, channel: ChannelSettings) -> Config {
    resolve(Cli { urls: vec![url("master.m3u8").to_string()], sender, channel, ..Cli::default() })
        .expect("valid")
}

fn plan_of(config: &Config, found: &Found) -> Result<Plan, StartupError> {
    let source = if config.ipv6 { "2001:db8::1" } else { "192.0.2.1" }.parse().ok().filter(|_| !config.asm);
    Planner::new(config, source).plan(&config.channels, std::slice::from_ref(found))
}

fn rates(plan: &Plan) -> Vec<u64> {
    plan.channels[0].channel.renditions.iter().map(|r| r.flow.rate_bps).collect()
}

#[test]
fn places_are_stable_distinct_and_valid() {
    let families = [(false, false), (false, true), (true, false), (true, true)];
    for (asm, ipv6) in families {
        let config = config(
            SenderSettings { asm: Some(asm), ipv6: Some(ipv6), ..Default::default() },
            ChannelSettings::default(),
        );
        let many: Vec<u64> = vec![1_000_000; 90];
        let plan = plan_of(&config, &found(true, &many)).expect("planned");
        assert_eq!(plan, plan_of(&config, &found(true, &many)).expect("planned"), "the same at each start");
        let fewer = plan_of(&config, &found(true, &many[..3])).expect("planned");
        assert_eq!(
            fewer.channels[0].channel.renditions[..],
            plan.channels[0].channel.renditions[..4],
            "whatever else is carried"
        );
        let flows: Vec<&Flow> = plan.channels[0].channel.renditions.iter().map(|r| &r.flow).collect();
        let groups: BTreeSet<IpAddr> =
            flows.iter().map(|f| f.endpoint.group).chain([plan.announcement.group]).collect();
        assert_eq!(groups.len(), 92);
        let tsis: BTreeSet<Tsi> =
            flows.iter().flat_map(|f| [f.endpoint.tsi, f.repair.expect("repair").tsi]).collect();
        assert_eq!(tsis.len(), 182);
        assert!(!tsis.contains(&ANNOUNCEMENT_TSI));
        for flow in flows {
            flow.validate().expect("valid");
            check_group(flow.endpoint.group, asm).expect("in range");
            let repair = flow.repair.expect("repair");
            assert_eq!((repair.port, repair.group), (flow.endpoint.port + 1, flow.endpoint.group));
            assert_eq!(flow.endpoint.source.is_none(), asm);
            assert_eq!(flow.endpoint.group.is_ipv6(), ipv6);
        }
    }
}

#[test]
fn ethernet_tells_groups_apart() {
    let config = config(SenderSettings::default(), ChannelSettings::default());
    let mut places = Places::new(&config, None);
    let low = |g: IpAddr| match g {
        IpAddr::V4(g) => g.to_bits() & 0x007f_ffff,
        IpAddr::V6(_) => unreachable!("IPv4"),
    };
    let groups: BTreeSet<u32> =
        (0..20_000).map(|i| low(places.group(&format!("url {i}")).expect("group"))).collect();
    assert_eq!(groups.len(), 20_000);
}

#[test]
fn group_base_counts_on_and_ends_in_range() {
    let base = SenderSettings { group_base: "232.255.255.253".parse().ok(), ..Default::default() };
    let config = config(base, ChannelSettings::default());
    let plan = plan_of(&config, &found(true, &[1_000_000])).expect("three groups are left");
    let groups: Vec<String> =
        plan.channels[0].channel.renditions.iter().map(|r| r.flow.endpoint.group.to_string()).collect();
    assert_eq!(
        (plan.announcement.group.to_string().as_str(), &groups[0][..]),
        ("232.255.255.253", "232.255.255.254")
    );
    assert_eq!(plan_of(&config, &found(true, &[1_000_000; 3])).expect_err("too many").code, "E-GROUP");
}

#[test]
fn live_rates_have_headroom_and_a_floor() {
    let config = config(SenderSettings::default(), ChannelSettings::default());
    let plan = plan_of(&config, &found(true, &[100_000, 4_000_000])).expect("planned");
    let rates = rates(&plan);
    assert_eq!(rates[..2], [FLOOR_BPS, FLOOR_BPS]);
    let wire = 4_000_000.0 * 1.15 * OVERHEAD;
    assert!((rates[2] as f64 / wire - 6.0).abs() < 0.01, "{rates:?}");
}

#[test]
fn a_second_repair_layer_has_groups_of_its_own_and_counts_in_the_rate() {
    let settings = ChannelSettings { repair_layer_2: Some(35), ..Default::default() };
    let plan = plan_of(&config(SenderSettings::default(), settings), &found(true, &[2_000_000, 4_000_000]));
    let channel = plan.expect("planned").channels.remove(0).channel;
    let layers: Vec<_> = channel.renditions.iter().filter_map(|r| r.flow.repair_layer_2).collect();
    assert_eq!(layers.len(), 2, "renditions, but not the manifest");
    let groups = channel.renditions.iter().map(|r| r.flow.endpoint.group);
    let groups: BTreeSet<IpAddr> = groups.chain(layers.iter().map(|l| l.endpoint.group)).collect();
    assert_eq!(groups.len(), 5);
    assert!(channel.renditions.iter().all(|r| r.flow.validate().is_ok()));
    let wire = 4_000_000.0 * 1.5 * OVERHEAD;
    let rate = channel.renditions.last().expect("video").flow.rate_bps;
    assert!((rate as f64 / wire - 6.0).abs() < 0.01, "{rate}");
}

#[test]
fn a_flow_with_little_headroom_begins_with_few_segments() {
    for (headroom, segments) in [(1.0, 1), (1.2, 1), (1.9, 1), (2.1, 2), (3.1, 3), (6.0, 3), (50.0, 3)] {
        let settings = ChannelSettings { headroom: Some(headroom), ..Default::default() };
        let plan = plan_of(&config(SenderSettings::default(), settings), &found(true, &[4_000_000]));
        let channel = &plan.expect("planned").channels[0].channel;
        assert_eq!(segments_at_start(channel.renditions.last().expect("video")), segments, "{headroom}");
    }
}

#[test]
fn vod_rate_is_the_total() {
    let settings = ChannelSettings { vod_rate: Some(BitRate(20_000_000)), ..Default::default() };
    let config = config(SenderSettings::default(), settings);
    let plan = plan_of(&config, &found(false, &[1_000_000, 3_000_000])).expect("planned");
    let rates = rates(&plan);
    assert!((rates[1] + rates[2]).abs_diff(20_000_000) < 10, "{rates:?}");
    assert!((rates[2] as f64 / rates[1] as f64 - 3.0).abs() < 0.001, "{rates:?}");
    // Mean rate: what a segment a time is sent at this speed.
    let speed = plan.channels[0].speed;
    assert!((speed * 4_000_000.0 * 1.15 * OVERHEAD * VOD_HEADROOM / 20e6 - 1.0).abs() < 0.001, "{speed}");
}

#[test]
fn rate_limit_takes_headroom_then_refuses() {
    let limited = |bps| SenderSettings { rate_limit: Some(BitRate(bps)), ..Default::default() };
    let live = found(true, &[1_000_000, 4_000_000]);
    let free = plan_of(&config(limited(u64::MAX), ChannelSettings::default()), &live).expect("no limit");
    let plan = plan_of(&config(limited(10_000_000), ChannelSettings::default()), &live).expect("fits");
    assert!(plan.total_bps() <= 10_000_000 && plan.total_bps() > 9_990_000, "{}", plan.total_bps());
    for (r, f) in plan.channels[0].channel.renditions.iter().zip(&free.channels[0].channel.renditions) {
        assert!(r.flow.rate_bps < f.flow.rate_bps);
        assert!(r.flow.rate_bps as f64 > r.bitrate_bps as f64 * 1.15, "{} still flows", r.id);
    }
    let error =
        plan_of(&config(limited(5_000_000), ChannelSettings::default()), &live).expect_err("too little");
    assert_eq!((error.code, error.exit), ("E-CONFIG", 2));
    let vod = found(false, &[4_000_000]);
    let slow = plan_of(&config(limited(3_000_000), ChannelSettings::default()), &vod)
        .expect("a VOD just takes longer");
    assert!(slow.total_bps() <= 3_000_000);
    assert!(slow.channels[0].speed < 1.0);
}

#[test]
fn channels_added_later_get_other_places_and_what_is_left() {
    let config = config(
        SenderSettings { rate_limit: Some(BitRate(20_000_000)), ..Default::default() },
        ChannelSettings::default(),
    );
    let mut planner = Planner::new(&config, "192.0.2.1".parse().ok());
    let first = planner.plan(&config.channels, &[found(true, &[1_000_000])]).expect("planned");
    let second = planner.add(&config.channels[0], &found(true, &[2_000_000])).expect("room");
    assert!(first.total_bps() + second.total_bps() <= 20_000_000);
    let groups: BTreeSet<IpAddr> = first
        .channels
        .iter()
        .chain([&second])
        .flat_map(|p| &p.channel.renditions)
        .map(|r| r.flow.endpoint.group)
        .collect();
    assert_eq!(groups.len(), 4, "even of the same URLs");
    assert_eq!(
        planner.add(&config.channels[0], &found(true, &[20_000_000])).expect_err("no room").code,
        "E-CONFIG"
    );
}

#[test]
fn description_of_the_plan_is_valid() {
    let config = config(
        SenderSettings::default(),
        ChannelSettings { profile: Some(WireProfile::FluteRaptorq), ..Default::default() },
    );
    let plan = plan_of(&config, &found(true, &[1_000_000])).expect("planned");
    assert!(plan.channels[0].channel.renditions.iter().all(|r| r.flow.repair.is_none()), "one session");
    let key = SigningKey::from_seed(&[3; 32]);
    let issuer =
        crate::description::Issuer::new(&plan, "test", 7, key.clone(), crate::description::Offer::default());
    let now = mahp_common::WallTime::from_unix_secs(1_800_000_000);
    let json = issuer.issue(now).expect("issued").json;
    let (description, opened_by) = SessionDescription::open(&json, None, now).expect("opens");
    assert_eq!(opened_by, key.verifying_key());
    assert_eq!(description.session, "0000000000000007");
    assert!(description.expires > description.issued);
}

#[test]
fn the_table_is_for_people_and_receivers() {
    let sender = SenderSettings { ipv6: Some(true), ..Default::default() };
    let plan =
        plan_of(&config(sender, ChannelSettings::default()), &found(true, &[1_000_000])).expect("planned");
    let text = table(&plan);
    assert!(text.contains("(HLS, live)"), "{text}");
    assert!(text.contains("  2001:db8::1@[ff3e::"), "{text}");
}

#[test]
fn segments_of_two_channels_are_noticed() {
    let config = resolve(Cli {
        urls: vec![
            url("master.m3u8").to_string(),
            url("manifest.mpd").to_string(),
            url("other/x.m3u8").to_string(),
        ],
        ..Cli::default()
    })
    .expect("valid");
    let with = |pattern: &str| {
        let mut found = found(true, &[1_000_000]);
        found.renditions[0].url_patterns = vec![pattern.to_owned()];
        found
    };
    let found = [with("http://o/v/*.m4s"), with("http://o/v/*.m4s"), with("http://o/w/*.m4s")];
    let plan =
        Planner::new(&config, "192.0.2.1".parse().ok()).plan(&config.channels, &found).expect("planned");
    let [a, b, _] = &config.channels[..] else { panic!("three") };
    assert_eq!(carried_twice(&plan), BTreeSet::from([(a.name.as_str(), b.name.as_str())]));
}

#[test]
fn the_announcement_stays_where_its_key_is() {
    let of = |urls: &[&str], seed: u8, port: u16| {
        let urls = urls.iter().map(|u| url(u).to_string()).collect();
        let http = format!("127.0.0.1:{port}").parse().ok();
        let sender = SenderSettings { http, ..Default::default() };
        let config = resolve(Cli { urls, sender, ..Cli::default() }).expect("valid");
        let key = SigningKey::from_seed(&[seed; 32]).verifying_key();
        let found = vec![found(true, &[1_000_000]); config.channels.len()];
        let mut planner = Planner::new(&config, None).signed(&key);
        planner.plan(&config.channels, &found).expect("planned").announcement.group
    };
    let group = of(&["a.m3u8"], 1, 7780);
    assert_eq!(group, of(&["a.m3u8?x=2", "b.m3u8"], 1, 7780), "whatever is carried");
    assert_ne!(group, of(&["a.m3u8"], 2, 7780));
    assert_ne!(group, of(&["a.m3u8"], 1, 7790), "two senders on one host");
    assert_ne!(of(&["a.m3u8"], 1, 0), of(&["b.m3u8"], 1, 0), "ports that nobody knows before");
    assert_eq!(of(&["a.m3u8?token=1"], 1, 0), of(&["a.m3u8?token=2"], 1, 0));
}

#[test]
fn tokens_of_a_manifest_do_not_move_its_flow() {
    let config = config(SenderSettings::default(), ChannelSettings::default());
    let with = |token: &str| {
        let mut found = found(true, &[1_000_000]);
        let manifest = found.manifest.as_mut().expect("a manifest");
        manifest.url.set_query(Some(token));
        plan_of(&config, &found).expect("planned").channels[0].channel.renditions[0].flow.clone()
    };
    assert_eq!(with("token=1"), with("token=2"));
    assert_ne!(with("channel=1"), with("channel=2"));
}
