//! The first packets of a session as bytes: what other receivers, and ours of other versions, have to read.

use crate::catalog::WireProfile;
use crate::object::{Object, ObjectKind, ObjectMeta};
use crate::session::send::{Command, FlowKind, Input, Output, SendSession};
use crate::testing::configs;
use crate::time::{Time, WallTime};
use bytes::Bytes;
use std::time::Duration;

const WALL: WallTime = WallTime::from_unix_secs(1_800_000_000);
const T: usize = 64;

fn packets(object: Object) -> Vec<(FlowKind, Vec<u8>)> {
    let (mut send, _) = configs(WireProfile::Mabr, 8_000_000);
    send.symbol_size = T as u16;
    let mut session = SendSession::new(send);
    let (mut now, mut buf, mut sent) = (Time::ZERO, Vec::new(), Vec::new());
    session.handle_input(Input::Object { now, wall: WALL, tag: 1, object: Box::new(object) });
    loop {
        match session.poll_output(&mut buf) {
            Output::Transmit(t) => {
                sent.extend(buf[..t.len].chunks(t.segment_size).map(|p| (t.flow, p.to_vec())));
            }
            Output::Command(Command::Encode(job)) => {
                session.handle_input(Input::Encoded { now, result: job.run() })
            }
            Output::Event(_) => {}
            Output::Timeout(Some(at)) => {
                now = now.max(at);
                session.handle_input(Input::Timeout { now, wall: WALL + now.since(Time::ZERO) });
            }
            Output::Timeout(None) => return sent,
        }
    }
}

/// Reads hexadecimal with spaces and line breaks.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// The FDT Instance, signed by the key of [`configs`].
const FDT: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    "\n",
    r#"<FDT-Instance "#,
    r#"xmlns="urn:IETF:metadata:2005:FLUTE:FDT" xmlns:mahp="urn:mahp:fdt:1" Expires="4008988920" "#,
    r#"mahp:Session="0000010000000000" "#,
    r#"mahp:Signature="Q6TqGClaWQ5NBXI9V+CpOp5smW7JoablJgcZXn5dY0xkL3apO3lr4Nx0G4XrjQrvY7jgP+9+jHjtjSIp/Lv1Dg==">"#,
    "\n",
    r#"<File Content-Location="https://origin.example/live/a.m4s?b=1&amp;c=2" "#,
    r#"TOI="1000" Content-Length="100" Transfer-Length="100" Content-Type="video/mp4" "#,
    r#"FEC-OTI-FEC-Encoding-ID="0" FEC-OTI-Maximum-Source-Block-Length="65535" FEC-OTI-Encoding-Symbol-Length="64" "#,
    r#"mahp:Repair-OTI="AAAAAGQAAEABAAEI" mahp:Kind="media" mahp:ETag="&quot;e&quot;" "#,
    r#"mahp:Digest="8e2eb1bba3040b8f611a1240a0e111c74b45cfc9caed10b95f6372db1c40b8b5" mahp:Media-Time="4000" mahp:Duration="2000" mahp:Available-At="1800000000000"/>"#,
    "\n",
    r#"</FDT-Instance>"#,
    "\n",
);

/// Repair symbols of ESI 2 to 5. The first is the one that the `flute` crate made of the same bytes ([`crate::wire`]'s golden tests).
const REPAIR: [&str; 4] = [
    "7f99ae48c02611f71cfacd2ba3457294b95f688e06e0d731da3c0bed6583b452 \
     ee083fd92425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
    "4cf5239a922bfd44ed54823b338a5ce513aa7cc5cd74a21bb20bdd646cd503ba \
     f24b9d248b460cc1be7339f4ad602ae7d419539ec70a408df23f75b8e12c66ab",
    "617247542d3e0b18f9eadfccb5a693804c5f6a7900132635d4c7f2e1988bbead \
     3b281d0e76dc3f95dd77943e4fe506ac963cdf7504ae4de7af05e64c3d9774de",
    "fe1633db7991b45ced0520c86a82a74fd83015fd5fb7927acb2306ee4ca48169 \
     b25a7f97dfe4a992f6cd80bb1a216c57a49fd2e948733e05615a172c8db6fbc0",
];

#[test]
fn the_first_packets_of_profile_mabr() {
    let meta = ObjectMeta {
        url: "https://origin.example/live/a.m4s?b=1&c=2".into(),
        kind: ObjectKind::Media,
        content_type: Some("video/mp4".into()),
        etag: Some("\"e\"".into()),
        media_time: Some(Duration::from_millis(4000)),
        duration: Some(Duration::from_millis(2000)),
        available_at: Some(1_800_000_000_000),
        ..ObjectMeta::default()
    };
    let data: Vec<u8> = (0..100).collect();
    let sent = packets(Object::new(meta, Bytes::from(data.clone())));

    // Version, flags, header length, codepoint; CCI; TSI; TOI; then EXT_FDT (version 1, Instance 1001) and EXT_FTI of ID 0.
    let fdt_header =
        "10 a0 09 00  00000000  00002001  00000000  c0 1003e9  40 04  00000000031a  0000  0040  0000ffff";
    let fdt = FDT.as_bytes().chunks(T).zip(0u8..).map(|(symbol, esi)| {
        (FlowKind::Source, [hex(fdt_header), vec![0, 0, 0, esi], symbol.to_vec()].concat())
    });
    let source_header = "10 a0 04 00  00000000  00002001  000003e8";
    let source = data.chunks(T).zip(0u8..).map(|(symbol, esi)| {
        (FlowKind::Source, [hex(source_header), vec![0, 0, 0, esi], symbol.to_vec()].concat())
    });
    let repair_header =
        "10 a0 08 06  00000000  00002002  000003e8  40 04  0000000064  00  0040  01 0001 08  0000";
    let repair = REPAIR.iter().zip(2u8..).map(|(symbol, esi)| {
        (FlowKind::Repair, [hex(repair_header), vec![0, 0, 0, esi], hex(symbol)].concat())
    });
    let expected: Vec<_> = fdt.clone().chain(source).chain(repair).chain(fdt).collect();
    assert_eq!(sent.len(), expected.len());
    for (i, (sent, expected)) in sent.iter().zip(&expected).enumerate() {
        assert_eq!(sent, expected, "packet {i}");
    }
}
