use super::*;
use crate::object::{ByteRange, Digest, ObjectKind};
use crate::wire::fti::FecScheme;
use proptest::prelude::*;
use std::time::Duration;

/// Any text that HTTP fields and URLs may have, XML's special characters included.
fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,40}", "[&<>\"' ;#a]{0,12}", "\\PC{0,20}"].prop_map(|s| {
        s.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
    })
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    prop::option::of(value())
}

fn raptorq_oti(length: u64) -> impl Strategy<Value = Oti> {
    (any::<u16>(), any::<(u8, u16, u8)>()).prop_map(move |(t, (z, n, al))| Oti {
        transfer_length: length,
        symbol_size: t,
        scheme: FecScheme::RaptorQ { source_blocks: z, sub_blocks: n, alignment: al },
    })
}

fn any_oti(length: u64) -> impl Strategy<Value = Oti> {
    let no_code = any::<(u16, u32)>().prop_map(move |(t, b)| Oti {
        transfer_length: length,
        symbol_size: t,
        scheme: FecScheme::NoCode { max_source_block_length: b },
    });
    prop_oneof![no_code, raptorq_oti(length)]
}

fn any_kind() -> impl Strategy<Value = ObjectKind> {
    prop::sample::select(vec![ObjectKind::Manifest, ObjectKind::Init, ObjectKind::Media, ObjectKind::Other])
}

fn any_range(length: u64) -> impl Strategy<Value = Option<ByteRange>> {
    let ranges = (0..1u64 << 40, any::<bool>(), 0..1u64 << 20).prop_map(move |(first, known, more)| {
        let last = first + length - 1;
        ByteRange { first, last, complete: known.then_some(last + 1 + more) }
    });
    prop::option::of(ranges)
}

prop_compose! {
    fn any_meta(length: u64)(
        (url, final_url, content_type) in (value(), maybe(), maybe()),
        (etag, last_modified, cache_control) in (maybe(), maybe(), maybe()),
        range in any_range(length),
        kind in any_kind(),
        digest: Option<[u8; 32]>,
        (media_time, duration, available_at) in any::<(Option<u64>, Option<u32>, Option<u64>)>(),
    ) -> ObjectMeta {
        ObjectMeta {
            url, final_url, range, kind, content_type, etag, last_modified, cache_control, length,
            digest: digest.map(Digest),
            media_time: media_time.map(Duration::from_millis),
            duration: duration.map(|d| Duration::from_millis(d.into())),
            available_at,
        }
    }
}

fn any_file() -> impl Strategy<Value = FdtFile> {
    (1..1u64 << 40).prop_flat_map(|length| {
        (
            (1..1u128 << 112, any_meta(length), maybe(), maybe(), maybe()),
            (prop::option::of(any_oti(length)), prop::option::of(raptorq_oti(length))),
        )
            .prop_map(
                |((toi, meta, content_encoding, content_md5, content_digest), (oti, repair_oti))| FdtFile {
                    toi: Toi(toi),
                    meta,
                    content_encoding,
                    oti,
                    repair_oti,
                    content_md5,
                    content_digest,
                },
            )
    })
}

prop_compose! {
    fn any_instance()(
        expires_ntp: u32, complete: bool, session: Option<u64>, files in prop::collection::vec(any_file(), 0..5),
    ) -> FdtInstance {
        FdtInstance { expires_ntp, complete, session, files }
    }
}

proptest! {
    #[test]
    fn parse_of_to_xml_is_identity(instance in any_instance()) {
        let xml = instance.to_xml();
        let read = FdtInstance::parse(&xml);
        prop_assert_eq!(read, Ok(instance), "{}", String::from_utf8_lossy(&xml));
    }

    #[test]
    fn sealed_opens_and_mutated_does_not(instance in any_instance(), at: prop::sample::Index, value: u8) {
        let key = SigningKey::from_seed(&[5; 32]);
        let xml = instance.seal(Tsi(9), &key).unwrap();
        prop_assert_eq!(FdtInstance::open(&xml, Tsi(9), &key.verifying_key()), Ok(instance));
        let mut mutated = xml.clone();
        mutated[at.index(xml.len())] = value;
        if mutated != xml {
            prop_assert!(FdtInstance::open(&mutated, Tsi(9), &key.verifying_key()).is_err());
        }
    }

    #[test]
    fn mutations_never_panic(instance in any_instance(), edits: Vec<(prop::sample::Index, u8)>) {
        let mut xml = instance.to_xml();
        for (at, value) in edits {
            let at = at.index(xml.len());
            xml[at] = value;
            let _ = FdtInstance::parse(&xml);
        }
    }
}

fn parse(xml: &str) -> Result<FdtInstance, FdtError> {
    FdtInstance::parse(xml.as_bytes())
}

/// One file of an otherwise minimal FDT Instance.
fn parse_file(attributes: &str) -> Result<FdtFile, FdtError> {
    parse(&format!(
        r#"<FDT-Instance Expires="1"><File Content-Location="u" TOI="1" {attributes}/></FDT-Instance>"#
    ))
    .map(|mut i| i.files.remove(0))
}

#[test]
fn what_we_write_byte_for_byte() {
    let meta = ObjectMeta {
        url: "https://example.com/v/file.mp4?a=1&b=2".into(),
        range: Some(ByteRange { first: 1000, last: 3687, complete: Some(90_000) }),
        content_type: Some("video/mp4".into()),
        etag: Some("\"abc\"".into()),
        length: 2688,
        digest: Some(Digest([0xab; 32])),
        media_time: Some(Duration::from_millis(6006)),
        duration: Some(Duration::from_millis(2002)),
        ..ObjectMeta::default()
    };
    let scheme = FecScheme::NoCode { max_source_block_length: 2 };
    let repair = FecScheme::RaptorQ { source_blocks: 1, sub_blocks: 1, alignment: 8 };
    let instance = FdtInstance {
        expires_ntp: 3_990_000_000,
        complete: false,
        session: Some(0x1234),
        files: vec![FdtFile {
            toi: Toi(7),
            meta,
            content_encoding: None,
            oti: Some(Oti { transfer_length: 2688, symbol_size: 1344, scheme }),
            repair_oti: Some(Oti { transfer_length: 2688, symbol_size: 1344, scheme: repair }),
            content_md5: None,
            content_digest: None,
        }],
    };
    let expected = concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<FDT-Instance xmlns=\"urn:IETF:metadata:2005:FLUTE:FDT\" xmlns:mahp=\"urn:mahp:fdt:1\" ",
        "Expires=\"3990000000\" mahp:Session=\"0000000000001234\">\n",
        "<File Content-Location=\"https://example.com/v/file.mp4?a=1&amp;b=2#bytes=1000-3687\" TOI=\"7\" ",
        "Content-Length=\"2688\" Transfer-Length=\"2688\" Content-Type=\"video/mp4\" ",
        "FEC-OTI-FEC-Encoding-ID=\"0\" FEC-OTI-Maximum-Source-Block-Length=\"2\" ",
        "FEC-OTI-Encoding-Symbol-Length=\"1344\" mahp:Repair-OTI=\"AAAACoAABUABAAEI\" ",
        "mahp:Range=\"1000-3687/90000\" mahp:Kind=\"media\" mahp:ETag=\"&quot;abc&quot;\" ",
        "mahp:Digest=\"abababababababababababababababababababababababababababababababab\" ",
        "mahp:Media-Time=\"6006\" mahp:Duration=\"2002\"/>\n",
        "</FDT-Instance>\n",
    );
    assert_eq!(String::from_utf8(instance.to_xml()).unwrap(), expected);
}

/// Form of RFC 3926 section 3.4.2: no Encoding ID, defaults on the instance, text content around.
#[test]
fn rfc_3926_form() {
    let instance = parse(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <FDT-Instance xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
          xmlns:fl=\"http://www.example.com/flute\" xsi:schemaLocation=\"http://www.example.com/flute-fdt.xsd\" \
          Expires=\"2890842807\" Content-Type=\"text/html\" FEC-OTI-Encoding-Symbol-Length=\"512\" \
          FEC-OTI-Maximum-Source-Block-Length=\"64\">\n\
         <File Content-Location=\"www.example.com/menu/tracklist.html\" TOI=\"1\" Content-Length=\"6100\" \
          Content-MD5=\"+VP5IrWploFkZWc11iLDdA==\"/> text &amp; &#33;\n\
         <File Content-Location=\"www.example.com/tracks/track1.mp3\" TOI=\"2\" Content-Type=\"audio/mp3\" \
          Content-Length=\"5120\" Content-Encoding=\"gzip\" Transfer-Length=\"4096\">x</File>\n\
         </FDT-Instance>\n",
    )
    .unwrap();
    assert_eq!((instance.expires_ntp, instance.session, instance.files.len()), (2_890_842_807, None, 2));
    let scheme = FecScheme::NoCode { max_source_block_length: 64 };
    let [first, second] = &instance.files[..] else { panic!("two files") };
    assert_eq!(first.meta.content_type.as_deref(), Some("text/html"));
    assert_eq!(first.oti, Some(Oti { transfer_length: 6100, symbol_size: 512, scheme }));
    assert_eq!(first.content_md5.as_deref(), Some("+VP5IrWploFkZWc11iLDdA=="));
    assert_eq!(second.meta.content_type.as_deref(), Some("audio/mp3"));
    assert_eq!((second.meta.length, second.content_encoding.as_deref()), (4096, Some("gzip")));
    assert_eq!(second.oti, Some(Oti { transfer_length: 4096, symbol_size: 512, scheme }));
}

/// RFC 6726's namespace on a prefix, RaptorQ with Scheme-Specific-Info per file.
#[test]
fn rfc_6726_form_with_raptorq() {
    let instance = parse(
        "\u{feff}<f:FDT-Instance xmlns:f=\"urn:ietf:params:xml:ns:fdt\" Expires=\"3331472407\" Complete=\"1\" \
          FEC-OTI-FEC-Encoding-ID=\"6\" FEC-OTI-Encoding-Symbol-Length=\"1400\">\
         <!-- comment --><f:File TOI=\"1339\" Content-Location=\"http://example.com/a%20b.ts\" \
          Transfer-Length=\"1000000\" FEC-OTI-Scheme-Specific-Info=\"AgABBA==\"/>\
         <f:File TOI=\"1340\" Content-Location=\"http://example.com/c.ts\" Content-Length=\"10\"/>\
         </f:FDT-Instance>",
    )
    .unwrap();
    assert!(instance.complete);
    let scheme = FecScheme::RaptorQ { source_blocks: 2, sub_blocks: 1, alignment: 4 };
    assert_eq!(instance.files[0].oti, Some(Oti { transfer_length: 1_000_000, symbol_size: 1400, scheme }));
    assert_eq!(instance.files[0].meta.url, "http://example.com/a%20b.ts");
    assert_eq!(instance.files[1].oti, None, "Z is not known: EXT_FTI has to tell");
}

/// 3GPP form, as DVB-MABR senders write it: prefixed children and attributes are skipped, File-ETag is kept.
#[test]
fn three_gpp_form() {
    let instance = parse(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <FDT-Instance Expires=\"4294944000\" xmlns=\"urn:IETF:metadata:2005:FLUTE:FDT\" \
          xmlns:mbms2007=\"urn:3GPP:metadata:2007:MBMS:FLUTE:FDT\" xmlns:mbms2008=\"urn:3GPP:metadata:2008:MBMS:FLUTE:FDT_ext\" \
          xmlns:mbms2012=\"urn:3GPP:metadata:2012:MBMS:FLUTE:FDT\" xmlns:sv=\"urn:3gpp:metadata:2009:MBMS:schemaVersion\" \
          mbms2008:FullFDT=\"true\">\n\
         <mbms2012:Base-URL-1>http://example.com/</mbms2012:Base-URL-1><sv:schemaVersion>4</sv:schemaVersion>\n\
         <File TOI=\"18446744073709551617\" Content-Location=\"live.mpd\" Content-Type=\"application/dash+xml\" \
          Content-Length=\"5\" mbms2012:File-ETag=\"&quot;e&quot;\" FEC-OTI-FEC-Encoding-ID=\"0\" \
          FEC-OTI-Maximum-Source-Block-Length=\"65535\" FEC-OTI-Encoding-Symbol-Length=\"1416\">\n\
         <mbms2007:Cache-Control><mbms2007:no-cache>true</mbms2007:no-cache></mbms2007:Cache-Control>\
         <sv:delimiter>0</sv:delimiter></File>\n</FDT-Instance>",
    )
    .unwrap();
    let file = &instance.files[0];
    assert_eq!((file.toi, file.meta.kind), (Toi((1 << 64) + 1), ObjectKind::Manifest));
    assert_eq!(file.meta.etag.as_deref(), Some("\"e\""));
    let scheme = FecScheme::NoCode { max_source_block_length: 65_535 };
    assert_eq!(file.oti, Some(Oti { transfer_length: 5, symbol_size: 1416, scheme }));
}

#[test]
fn growing_objects_have_neither_length_nor_oti() {
    let file = parse_file(
        "FEC-OTI-FEC-Encoding-ID=\"0\" FEC-OTI-Encoding-Symbol-Length=\"8\" FEC-OTI-Maximum-Source-Block-Length=\"9\"",
    );
    assert_eq!(file.map(|f| (f.meta.length, f.oti)), Ok((0, None)));
}

#[test]
fn other_fec_schemes_leave_no_oti() {
    for id in [1, 5, 128, 255] {
        let file = parse_file(&format!(
            "Transfer-Length=\"9\" FEC-OTI-FEC-Encoding-ID=\"{id}\" FEC-OTI-Encoding-Symbol-Length=\"8\" \
             FEC-OTI-Maximum-Source-Block-Length=\"9\" FEC-OTI-Scheme-Specific-Info=\"?\""
        ));
        assert_eq!(file.map(|f| f.oti), Ok(None), "FEC Encoding ID {id}");
    }
}

#[test]
fn ranges_name_the_part_and_must_fit_the_length() {
    let file = |range: &str, length: u64| {
        parse(&format!(
            "<FDT-Instance Expires=\"1\"><File Content-Location=\"http://h/f#bytes=5-9\" TOI=\"1\" \
             Transfer-Length=\"{length}\" mahp:Range=\"{range}\"/></FDT-Instance>"
        ))
        .map(|i| i.files[0].meta.url.clone())
    };
    assert_eq!(file("5-9/*", 5).as_deref(), Ok("http://h/f"));
    assert_eq!(file("4-8/9", 5).as_deref(), Ok("http://h/f#bytes=5-9"), "another suffix is part of the name");
    for (range, length) in [
        ("5-9/9", 5),
        ("9-5/*", 5),
        ("5-9/*", 6),
        ("5-9", 5),
        ("5-/9", 5),
        ("0-18446744073709551615/*", 0),
        ("-5-9/*", 5),
    ] {
        assert_eq!(file(range, length), Err(FdtError::Attribute("mahp:Range")), "{range} of {length}");
    }
    assert_eq!(parse_file("").map(|f| f.meta.range), Ok(None));
}

#[test]
fn unreadable_attributes_are_named() {
    for (attributes, name) in [
        ("TOI2=\"\" Transfer-Length=\"-1\"", "Transfer-Length"),
        ("Content-Length=\"99999999999999999999\"", "Content-Length"),
        ("FEC-OTI-Encoding-Symbol-Length=\"65536\"", "FEC-OTI-Encoding-Symbol-Length"),
        ("FEC-OTI-FEC-Encoding-ID=\"256\"", "FEC-OTI-FEC-Encoding-ID"),
        ("mahp:Digest=\"abc\"", "mahp:Digest"),
        ("mahp:Repair-OTI=\"AAAA\"", "mahp:Repair-OTI"),
        ("mahp:Duration=\"1.5\"", "mahp:Duration"),
        ("mahp:ETag=\"a&#13;&#10;Set-Cookie: b\"", "mahp:ETag"),
        ("Content-Type=\"a&#0127;\"", "Content-Type"),
    ] {
        assert_eq!(parse_file(attributes), Err(FdtError::Attribute(name)), "{attributes}");
    }
    for (xml, name) in [
        ("<FDT-Instance/>", "Expires"),
        ("<FDT-Instance Expires=\"soon\"/>", "Expires"),
        ("<FDT-Instance Expires=\"1\" mahp:Session=\"1\"/>", "mahp:Session"),
        ("<FDT-Instance Expires=\"1\"><File TOI=\"1\"/></FDT-Instance>", "Content-Location"),
        ("<FDT-Instance Expires=\"1\"><File Content-Location=\"u\"/></FDT-Instance>", "TOI"),
        ("<FDT-Instance Expires=\"1\"><File Content-Location=\"u\" TOI=\"0\"/></FDT-Instance>", "TOI"),
        (
            "<FDT-Instance Expires=\"1\"><File Content-Location=\"u\" TOI=\"5192296858534827628530496329220096\"/></FDT-Instance>",
            "TOI",
        ),
    ] {
        assert_eq!(parse(xml), Err(FdtError::Attribute(name)), "{xml}");
    }
}

#[test]
fn documents_that_are_not_well_formed_or_bring_entities_are_refused() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
    for xml in [
        "",
        "x",
        "\0",
        "<FDT-Instance Expires=\"1\">",
        "<FDT-Instance Expires=\"1\"><File Content-Location=\"u\" TOI=\"1\"></FDT-Instance>",
        "<FDT-Instance Expires=\"1\"/><FDT-Instance Expires=\"1\"/>",
        "<FDT-Instance Expires=\"1\" Expires=\"2\"/>",
        "<Other Expires=\"1\"/>",
        "<FDT-Instance Expires=\"&b;\"/>",
        "<FDT-Instance Expires=\"1\">&b;</FDT-Instance>",
        &format!("{bomb}<FDT-Instance Expires=\"1\">&b;</FDT-Instance>"),
        &format!("{bomb}<FDT-Instance Expires=\"&b;\"/>"),
        &format!("<FDT-Instance Expires=\"1\"/>{bomb}"),
    ] {
        assert!(matches!(parse(xml), Err(FdtError::Xml(_))), "{xml}: {:?}", parse(xml));
    }
    assert!(matches!(FdtInstance::parse(b"<FDT-Instance Expires=\"\xff\"/>"), Err(FdtError::Xml(_))));
}

#[test]
fn limits_hold() {
    let files = |n: usize| {
        let files: String =
            (1..=n).map(|i| format!("<File TOI=\"{i}\" Content-Location=\"u{i}\"/>")).collect();
        parse(&format!("<FDT-Instance Expires=\"1\">{files}</FDT-Instance>")).map(|i| i.files.len())
    };
    assert_eq!(files(limits::FDT_FILES), Ok(limits::FDT_FILES));
    assert_eq!(files(limits::FDT_FILES + 1), Err(FdtError::Limit("files")));
    assert_eq!(files(10_000), Err(FdtError::Limit("bytes")));
    let location = |n: usize| parse_file(&format!("Content-MD5=\"{}\"", "a".repeat(n))).map(|_| ());
    assert_eq!(location(limits::FDT_VALUE_BYTES), Ok(()));
    assert_eq!(location(limits::FDT_VALUE_BYTES + 1), Err(FdtError::Limit("bytes in an attribute")));
    let attributes: String = (0..limits::FDT_ATTRIBUTES).map(|i| format!("a{i}=\"\" ")).collect();
    assert_eq!(parse_file(&attributes), Err(FdtError::Limit("attributes")));
    let nested = "<a>".repeat(10_000);
    assert_eq!(
        parse(&format!("<FDT-Instance Expires=\"1\">{nested}</FDT-Instance>")),
        Err(FdtError::Limit("nesting"))
    );
    let junk = format!("<!--{}-->", "a".repeat(limits::FDT_BYTES));
    assert_eq!(parse(&junk), Err(FdtError::Limit("bytes")));
}

#[test]
fn over_long_optional_values_are_left_out_and_over_long_urls_not_signed() {
    let mut file = parse_file("Transfer-Length=\"1\"").unwrap();
    file.meta.cache_control = Some("x".repeat(limits::FDT_VALUE_BYTES + 1));
    let mut instance = FdtInstance { files: vec![file], ..FdtInstance::default() };
    let key = SigningKey::from_seed(&[1; 32]);
    let read =
        FdtInstance::open(&instance.seal(Tsi(1), &key).unwrap(), Tsi(1), &key.verifying_key()).unwrap();
    assert_eq!(read.files[0].meta.cache_control, None);
    instance.files[0].meta.url = "&".repeat(limits::FDT_VALUE_BYTES / 4);
    assert_eq!(instance.seal(Tsi(1), &key), Err(FdtError::Limit("Content-Location")));
}

/// An older sender writes header fields of up to 8 KiB: its instances are read without them.
#[test]
fn over_long_header_fields_are_left_out_on_both_sides() {
    for (len, kept) in [(limits::FDT_HEADER_BYTES, true), (limits::FDT_HEADER_BYTES + 1, false)] {
        let long = "x".repeat(len);
        let read = parse_file(&format!(
            "Content-Type=\"{long}\" mahp:ETag=\"{long}\" mahp:Last-Modified=\"{long}\" mahp:Cache-Control=\"{long}\""
        ));
        let meta = read.unwrap().meta;
        let fields = [&meta.content_type, &meta.etag, &meta.last_modified, &meta.cache_control];
        assert!(fields.iter().all(|f| f.is_some() == kept), "{len}");
        let mut file = parse_file("Transfer-Length=\"1\"").unwrap();
        file.meta.etag = Some(long.clone());
        let xml = FdtInstance { files: vec![file], ..FdtInstance::default() }.to_xml();
        assert_eq!(xml.len() > len, kept, "{len}");
    }
}

#[test]
fn header_fields_never_gain_control_characters() {
    let mut file = parse_file("Transfer-Length=\"1\"").unwrap();
    file.meta.etag = Some("\"a\r\nb\"".into());
    let instance = FdtInstance { files: vec![file], ..FdtInstance::default() };
    let read = FdtInstance::parse(&instance.to_xml()).unwrap();
    assert_eq!(read.files[0].meta.etag.as_deref(), Some("\"a  b\""));
}

#[test]
fn signatures_are_of_one_session_and_key_and_counted_apart() {
    let key = SigningKey::from_seed(&[1; 32]);
    let instance = FdtInstance { expires_ntp: 5, ..FdtInstance::default() };
    let xml = instance.seal(Tsi(1), &key).unwrap();
    let reason = |xml: &[u8], tsi, key: &SigningKey| {
        FdtInstance::open(xml, Tsi(tsi), &key.verifying_key()).map(|_| ()).map_err(|e| e.reason())
    };
    assert_eq!(reason(&xml, 1, &key), Ok(()));
    assert_eq!(reason(&xml, 2, &key), Err(DropReason::BadFdtSignature));
    assert_eq!(reason(&xml, 1, &SigningKey::from_seed(&[2; 32])), Err(DropReason::BadFdtSignature));
    assert_eq!(reason(&instance.to_xml(), 1, &key), Err(DropReason::UnsignedFdt));
    assert_eq!(FdtInstance::parse(b"").map_err(|e| e.reason()), Err(DropReason::BadFdt));
    assert_eq!(FdtInstance::parse(&xml), Ok(instance), "a signature does not hinder those who ignore it");
}
