use super::*;
use bytes::Bytes;
use proptest::prelude::*;

#[test]
fn integers_of_the_draft() {
    // Table 2 of section 1.4.1.
    let table: [(&[u8], u64); 8] = [
        (&[0x25], 37),
        (&[0x80, 0x25], 37),
        (&[0xbb, 0xbd], 15_293),
        (&[0xed, 0x7f, 0x3e, 0x7d], 226_442_877),
        (&[0xfa, 0xa1, 0xa0, 0xe4, 0x03, 0xd8], 2_893_212_287_960),
        (&[0xfc, 0x89, 0x98, 0xab, 0xc6, 0x6b, 0xc0], 151_288_809_941_952),
        (&[0xfe, 0xfa, 0x31, 0x8f, 0xa8, 0xe3, 0xca, 0x11], 70_423_237_261_249_041),
        (&[0xff; 9], u64::MAX),
    ];
    for (bytes, value) in table {
        assert_eq!(Reader::new(bytes).vi64(), Ok(value));
        if bytes != [0x80, 0x25] {
            let mut out = Vec::new();
            put_vi64(&mut out, value);
            assert_eq!(out, bytes);
        }
    }
}

#[test]
fn a_setup_and_a_fetch_byte_by_byte() {
    let setup = Message::Setup(SetupOptions { path: Some("/a".into()), ..SetupOptions::default() });
    assert_eq!(setup.encode().unwrap(), [0xaf, 0x00, 0x00, 0x04, 0x01, 0x02, b'/', b'a']);
    let fetch = Message::Fetch {
        id: 2,
        kind: FetchKind::Standalone(
            TrackName::new(Namespace::new(["m"]), "v"),
            LocationRange::objects(5, 1, 2),
        ),
        params: Params { subscriber_priority: Some(9), ..Params::default() },
    };
    let bytes = [0x16, 0, 14, 2, 1, 1, 1, b'm', 1, b'v', 5, 1, 5, 3, 1, 0x20, 9];
    assert_eq!(fetch.encode().unwrap()[..], bytes[..]);
}

#[test]
fn unknown_parameters_and_trailing_bytes_are_violations() {
    let message = Message::Subscribe {
        id: 0,
        track: TrackName::new(Namespace::new(["m"]), "v"),
        params: Params { forward: Some(true), ..Params::default() },
    };
    let good = message.encode().unwrap();
    assert_eq!(Message::decode(&mut Reader::new(&good)), Ok(message));
    let mut unknown = good.clone();
    let n = unknown.len();
    unknown[n - 2] = 0x11;
    assert!(matches!(Message::decode(&mut Reader::new(&unknown)), Err(WireError::Violation { .. })));
    let mut long = good.clone();
    long[2] += 1;
    long.push(0);
    assert!(matches!(Message::decode(&mut Reader::new(&long)), Err(WireError::Violation { .. })));
    let mut short = good.clone();
    short[2] -= 1;
    assert!(matches!(Message::decode(&mut Reader::new(&short)), Err(WireError::Violation { .. })));
    for cut in 0..good.len() {
        assert_eq!(Message::decode(&mut Reader::new(&good[..cut])), Err(WireError::Short), "cut at {cut}");
    }
}

#[test]
fn a_reason_that_is_no_text_stays_within_the_limit() {
    let mut bytes = vec![0x05, 4, 4, 9, 0, 0x84, 0x00];
    bytes.extend([0xff; 1024]);
    let message = Message::decode(&mut Reader::new(&bytes)).unwrap();
    let again = message.encode().unwrap();
    assert_eq!(Message::decode(&mut Reader::new(&again)), Ok(message));
}

#[test]
fn reserved_stream_types_are_violations() {
    for kind in (0..0x80u8).filter(|k| k & 0x10 == 0 || k & 6 == 6).filter(|k| *k != 5) {
        let bytes = [kind, 0, 0, 0, 0, 0];
        assert!(
            matches!(StreamHeader::decode(&mut Reader::new(&bytes)), Err(WireError::Violation { .. })),
            "{kind:#x}"
        );
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn namespace() -> impl Strategy<Value = Namespace> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..12), 0..8).prop_map(Namespace::new)
}

fn track() -> impl Strategy<Value = TrackName> {
    (namespace(), bytes(20)).prop_map(|(n, t)| TrackName::new(n, t))
}

fn location() -> impl Strategy<Value = Location> {
    (any::<u64>(), any::<u64>()).prop_map(|(g, o)| Location::new(g, o))
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        Just(Filter::NextGroup),
        Just(Filter::LargestObject),
        location().prop_map(Filter::From),
        (location(), any::<u64>()).prop_map(|(s, n)| Filter::Range(s, s.group.saturating_add(n))),
    ]
}

prop_compose! {
    fn params()(
        a in proptest::option::of(any::<u64>()), b in proptest::option::of(any::<u64>()),
        tokens in proptest::collection::vec(bytes(9), 0..3), largest in proptest::option::of(location()),
        forward in proptest::option::of(any::<bool>()), priority in proptest::option::of(any::<u8>()),
        filter in proptest::option::of(filter()), descending in proptest::option::of(any::<bool>()),
        prefix in proptest::option::of(namespace()),
    ) -> Params {
        Params {
            object_delivery_timeout: a, tokens, rendezvous_timeout: b, subgroup_delivery_timeout: a, expires: b,
            largest, fill_timeout: a, forward, subscriber_priority: priority, filter, descending,
            new_group_request: b, namespace_prefix: prefix,
        }
    }
}

fn message() -> impl Strategy<Value = Message> {
    let requests =
        prop_oneof![
            (any::<u64>(), track(), params()).prop_map(|(id, track, params)| Message::Subscribe {
                id,
                track,
                params
            }),
            (any::<u64>(), track(), any::<u64>(), params(), bytes(9)).prop_map(
                |(id, track, alias, params, properties)| Message::Publish {
                    id,
                    track,
                    alias,
                    params,
                    properties
                }
            ),
            (any::<u64>(), track(), location(), location(), params()).prop_map(
                |(id, track, start, end, params)| {
                    Message::Fetch {
                        id,
                        kind: FetchKind::Standalone(track, LocationRange { start, end }),
                        params,
                    }
                }
            ),
            (any::<u64>(), any::<u64>(), any::<u64>(), params()).prop_map(|(id, request, group, params)| {
                Message::Fetch { id, kind: FetchKind::AbsoluteJoining { request, group }, params }
            }),
            (any::<u64>(), namespace(), params())
                .prop_map(|(id, namespace, params)| Message::PublishNamespace { id, namespace, params }),
            (any::<u64>(), namespace(), params())
                .prop_map(|(id, prefix, params)| Message::SubscribeNamespace { id, prefix, params }),
        ];
    let answers =
        prop_oneof![
            (any::<u64>(), params(), bytes(9)).prop_map(|(alias, params, properties)| Message::SubscribeOk {
                alias,
                params,
                properties
            }),
            (any::<bool>(), location(), params(), bytes(9)).prop_map(
                |(end_of_track, end, params, properties)| {
                    Message::FetchOk { end_of_track, end, params, properties }
                }
            ),
            (any::<u64>(), any::<u64>(), ".{0,40}")
                .prop_map(|(status, streams, reason)| Message::PublishDone { status, streams, reason }),
            (0..0x34u64, proptest::option::of(0..u64::MAX), ".{0,40}").prop_map(
                |(code, retry_after_ms, reason)| Message::RequestError { code, retry_after_ms, reason }
            ),
            (params(), bytes(9)).prop_map(|(params, properties)| Message::RequestOk { params, properties }),
            namespace().prop_map(|suffix| Message::NamespaceDone { suffix }),
        ];
    prop_oneof![requests, answers]
}

proptest! {
    #[test]
    fn every_integer_comes_back(value in any::<u64>(), shift in 0..64u32) {
        let value = value >> shift;
        let mut out = Vec::new();
        put_vi64(&mut out, value);
        let r = &mut Reader::new(&out);
        prop_assert_eq!(r.vi64(), Ok(value));
        prop_assert!(r.is_empty());
    }

    #[test]
    fn every_message_comes_back(message in message()) {
        let bytes = message.encode().unwrap();
        let r = &mut Reader::new(&bytes);
        prop_assert_eq!(Message::decode(r), Ok(message));
        prop_assert!(r.is_empty());
    }

    #[test]
    fn subgroup_objects_come_back(
        subgroup in proptest::option::of(0..5u64), priority in proptest::option::of(any::<u8>()),
        with_properties in any::<bool>(), ids in proptest::collection::btree_set(any::<u64>(), 1..8), len in 0..3u64,
    ) {
        let header = SubgroupHeader {
            alias: 7, group: 9, subgroup, priority, properties: with_properties, end_of_group: true,
        };
        let encoded = header.encode();
        let r = &mut Reader::new(&encoded);
        prop_assert_eq!(StreamHeader::decode(r), Ok(StreamHeader::Subgroup(header)));
        let mut prior = None;
        for object in ids {
            // Type 0x3A with the value 1.
            let properties = if with_properties { Bytes::from_static(&[0x3a, 1]) } else { Bytes::new() };
            let object = SubgroupObject { object, properties, len, status: 0 };
            let bytes = object.encode(&header, prior);
            let r = &mut Reader::new(&bytes);
            prop_assert_eq!(SubgroupObject::decode(r, &header, prior), Ok(object.clone()));
            prop_assert!(r.is_empty());
            prior = Some(object.object);
        }
    }

    #[test]
    fn fetch_records_come_back(
        at in proptest::collection::btree_set((0..5u64, 0..u64::MAX), 1..20), subgroup in 0..3u64, len in any::<u64>(),
    ) {
        let (mut encoder, mut decoder) = (FetchEncoder::default(), FetchDecoder::new(false));
        let mut group_before = None;
        for (group, object) in at {
            let at = Location::new(group, object);
            // Some groups begin with what cannot be had.
            if group_before.replace(group) != Some(group) && len % 2 == 0 {
                let bytes = encoder.unknown(at);
                let r = &mut Reader::new(&bytes);
                prop_assert_eq!(decoder.decode(r), Ok(FetchRecord::EndOfRange(at, false)));
                prop_assert!(r.is_empty());
                continue;
            }
            let bytes = encoder.encode(at, subgroup, 3, &[], len);
            let r = &mut Reader::new(&bytes);
            let record = FetchRecord::Object {
                at, subgroup: Some(subgroup), priority: 3, properties: Bytes::new(), len,
            };
            prop_assert_eq!(decoder.decode(r), Ok(record));
            prop_assert!(r.is_empty());
        }
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&mut Reader::new(&noise));
        let mut framed = vec![noise.first().copied().unwrap_or(0) & 0x1f, 0, noise.len().min(255) as u8];
        framed.extend_from_slice(&noise);
        let _ = Message::decode(&mut Reader::new(&framed));
        let _ = StreamHeader::decode(&mut Reader::new(&noise));
        let mut decoder = FetchDecoder::new(true);
        let r = &mut Reader::new(&noise);
        while decoder.decode(r).is_ok() {}
    }
}
