use super::*;
use mahp_common::catalog::Format;
use proptest::prelude::*;

fn rendition(id: &str, n: u8) -> Rendition {
    let place = |tsi| Endpoint {
        source: Some("198.51.100.10".parse().unwrap()),
        group: IpAddr::from([232, 1, 1, n]),
        port: 5004,
        tsi: Tsi(tsi),
    };
    Rendition {
        id: id.into(),
        role: Role::Video,
        bitrate_bps: 5_000_000,
        playlist_url: None,
        url_patterns: Vec::new(),
        codecs: Some("avc1.64001f".into()),
        resolution: Some("1280x720".into()),
        language: None,
        flow: Flow {
            endpoint: place(2 * u64::from(n)),
            repair: Some(place(2 * u64::from(n) + 1)),
            repair_layer_2: None,
            profile: WireProfile::Mabr,
            symbol_size: 1344,
            repair_percent: 10,
            rate_bps: 6_000_000,
        },
    }
}

pub(crate) fn channel(renditions: u8) -> Channel {
    Channel {
        name: "news".into(),
        title: String::new(),
        format: Format::Hls,
        live: true,
        manifest_url: "http://origin/news/master.m3u8".into(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        part_target_ms: None,
        renditions: (0..renditions).map(|n| rendition(&format!("v{n}"), n)).collect(),
    }
}

fn catalog() -> Catalog {
    Catalog::of(&channel(2), "a2V5", 1)
}

fn refused(change: impl FnOnce(&mut Binding)) -> CatalogError {
    let mut catalog = catalog();
    change(catalog.multicast.as_mut().unwrap());
    let read = Catalog::parse(&catalog.to_json()).unwrap();
    assert_eq!(read.tracks.len(), 2 * Kind::ALL.len(), "the tracks stay, whatever the binding is");
    read.flows().expect_err("the binding must be refused")
}

#[test]
fn a_channel_comes_back_with_its_flows() {
    let read = Catalog::parse(&catalog().to_json()).unwrap();
    assert_eq!(read, catalog());
    let flows = read.flows().unwrap();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows["v1"], channel(2).renditions[1].flow);
    assert_eq!((read.tracks[0].width, read.tracks[0].height), (Some(1280), Some(720)));
}

#[test]
fn a_player_can_start_when_the_initialization_segment_is_known() {
    let mut catalog = catalog();
    let media = |c: &Catalog, i: usize| c.tracks[i * Kind::ALL.len()].clone();
    assert_eq!(media(&catalog, 0).packaging, "net.mahp.segment", "nothing is promised of it");
    assert_eq!((media(&catalog, 0).alt_group, media(&catalog, 1).alt_group), (Some(1), Some(1)));
    assert_eq!(media(&catalog, 0).target_latency, Some(6000));
    assert!(catalog.initialize("v0", b"\0\0\0\x18ftypiso6...."));
    assert!(!catalog.initialize("v0", b"\0\0\0\x18ftypiso6...."), "known");
    assert!(catalog.initialize("v0", b"\0\0\0\x18ftypcmfc...."), "another");
    assert!(!catalog.initialize("v9", b"\0\0\0\x18ftypcmfc...."));
    assert!(!catalog.initialize("v1", b"G@\x11\x10........"), "MPEG-TS");
    assert!(!catalog.initialize("v1", &[&b"\0\0\0\x18ftyp"[..], &vec![0; limits::INIT_BYTES]].concat()));
    let read = Catalog::parse(&catalog.to_json()).unwrap();
    let init = InitData { id: "v0".into(), kind: "inline".into(), data: "AAAAGGZ0eXBjbWZjLi4uLg==".into() };
    assert_eq!((&read, &read.init_data_list), (&catalog, &vec![init]));
    assert_eq!((media(&read, 0).packaging, media(&read, 0).init_ref), ("cmaf".into(), Some("v0".into())));
    assert_eq!((media(&read, 1).packaging, media(&read, 1).init_ref), ("net.mahp.segment".into(), None));
    assert!(read.flows().is_ok());
}

#[test]
fn a_catalog_stays_within_its_bound() {
    let mut catalog = Catalog::of(&channel(100), "a2V5", 1);
    for i in 0..100u8 {
        let init = [&b"\0\0\0\x18ftyp"[..], &vec![i; limits::INIT_BYTES - 8]].concat();
        catalog.initialize(&format!("v{i}"), &init);
        assert!(Catalog::parse(&catalog.to_json()).is_ok());
    }
    assert!((10..100).contains(&catalog.init_data_list.len()));
    let referred = catalog.tracks.iter().filter(|t| t.init_ref.is_some()).count();
    assert_eq!(referred, catalog.init_data_list.len());
}

#[test]
fn hostile_endpoints_are_refused() {
    let endpoint = |e: CatalogError| matches!(e, CatalogError::Endpoint(..));
    assert!(
        endpoint(refused(|b| b.endpoints[1].group_address = "10.0.0.1".parse().unwrap())),
        "not multicast"
    );
    assert!(endpoint(refused(|b| b.endpoints[0].group_address = "224.0.0.5".parse().unwrap())), "OSPF");
    assert!(endpoint(refused(|b| b.endpoints[0].group_address = "ff02::1".parse().unwrap())), "other family");
    assert!(endpoint(refused(|b| b.endpoints[0].source_address = None)), "SSM without source");
    assert!(endpoint(refused(|b| b.endpoints[0].source_address = Some("232.1.1.1".parse().unwrap()))));
    assert!(endpoint(refused(|b| b.endpoints[0].protocol = Protocol::Asm)), "ASM with source");
    assert!(endpoint(refused(|b| b.endpoints[0].port = 0)));
    assert!(endpoint(refused(|b| b.endpoints[0].fec.symbol_size = 3)));
    assert!(endpoint(refused(|b| b.endpoints[0].fec.scheme = 1)));
    assert!(endpoint(refused(|b| b.endpoints[0].tracks[0].tsi = 1 << 40)));
    assert!(endpoint(refused(|b| b.endpoints[0].tracks[0].name = "v7".into())), "no such track");
    assert!(endpoint(refused(|b| b.endpoints[1].tracks[0].name = "v0".into())), "two places");
    assert_eq!(refused(|b| b.v = 2), CatalogError::Version(2));
    let many = |b: &mut Binding| b.endpoints = vec![b.endpoints[0].clone(); limits::ENDPOINTS + 1];
    assert_eq!(refused(many), CatalogError::Limit("multicast endpoints"));
}

#[test]
fn a_second_repair_layer_comes_back_and_hostile_ones_are_refused() {
    let mut channel = channel(2);
    let flow = &mut channel.renditions[1].flow;
    let group = IpAddr::from([232, 1, 2, 1]);
    let endpoint = Endpoint { group, port: 5005, tsi: Tsi(77), ..flow.endpoint };
    flow.repair_layer_2 = Some(RepairLayer { endpoint, percent: 40 });
    let catalog = Catalog::of(&channel, "a2V5", 1);
    let read = Catalog::parse(&catalog.to_json()).unwrap();
    assert_eq!(read.flows().unwrap()["v1"], channel.renditions[1].flow);
    let refused = |change: fn(&mut LayerEndpoint)| {
        let mut catalog = catalog.clone();
        let binding = catalog.multicast.as_mut().unwrap();
        change(binding.endpoints[1].repair_layer2.as_mut().unwrap());
        Catalog::parse(&catalog.to_json()).unwrap().flows().is_err()
    };
    assert!(refused(|l| l.place.group_address = [232, 1, 1, 1].into()), "the flow's own group");
    assert!(refused(|l| l.place.group_address = [224, 0, 0, 5].into()), "network control");
    assert!(refused(|l| l.place.group_address = [10, 0, 0, 1].into()), "not multicast");
    assert!(refused(|l| l.place.tsi = 2), "the flow's own TSI");
    assert!(refused(|l| l.place.port = 0));
    assert!(refused(|l| l.repair_percent = 0));
    assert!(refused(|l| l.repair_percent = 100_000));
}

#[test]
fn unknown_fields_are_ignored_and_too_much_is_refused() {
    let text = r#"{"version":"draft-01","future":{"a":[1]},"tracks":[{"name":"v","packaging":"loc","x":1}]}"#;
    let catalog = Catalog::parse(text.as_bytes()).unwrap();
    assert_eq!(catalog.tracks[0].name, "v");
    assert!(catalog.flows().unwrap().is_empty());
    let strange = r#"{"tracks":[{"name":"v"}],"net.mahp.mcast":{"v":1,"endpoints":"none"}}"#;
    assert_eq!(
        Catalog::parse(strange.as_bytes()).unwrap().multicast,
        None,
        "a binding of another shape is none"
    );
    let many = format!(r#"{{"tracks":[{}{{}}]}}"#, "{},".repeat(limits::CATALOG_TRACKS));
    assert_eq!(Catalog::parse(many.as_bytes()), Err(CatalogError::Limit("tracks")));
    assert_eq!(Catalog::parse(&vec![b' '; limits::CATALOG_BYTES + 1]), Err(CatalogError::Limit("bytes")));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Catalog::parse(deep.as_bytes()), Err(CatalogError::Json(_))));
}

#[test]
fn names_of_tracks_are_told_apart() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of(&kind.track("v0"), |r| r == "v0"), Some(("v0", kind)));
    }
    assert_eq!(Kind::of("v1", |r| r == "v0"), None);
    assert_eq!(Kind::of("a.m", |r| r == "a.m"), Some(("a.m", Kind::Media)), "an ID may look like a suffix");
}

proptest! {
    #[test]
    fn damaged_catalogs_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut text = catalog().to_json();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(catalog) = Catalog::parse(&text) {
            for flow in catalog.flows().unwrap_or_default().values() {
                prop_assert!(flow.validate().is_ok());
            }
        }
        text.truncate(cut.index(text.len()));
        let _ = Catalog::parse(&text);
    }
}
