//! Packets as byte literals: derived by hand from the RFCs, in the form of other implementations, and made by one.

use super::alc::{AlcPacket, AlcRepr, PayloadId};
use super::ext::{ContentEncoding, ExtFdt};
use super::fti::{FecScheme, Oti};
use crate::ids::{Esi, Sbn, Toi, Tsi};

/// Reads hexadecimal with spaces and line breaks.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn id(sbn: u32, esi: u32) -> PayloadId {
    PayloadId { sbn: Sbn(sbn), esi: Esi(esi) }
}

fn no_code(transfer_length: u64, symbol_size: u16, b: u32) -> Oti {
    Oti { transfer_length, symbol_size, scheme: FecScheme::NoCode { max_source_block_length: b } }
}

fn raptorq(transfer_length: u64, symbol_size: u16, z: u8, al: u8) -> Oti {
    let scheme = FecScheme::RaptorQ { source_blocks: z, sub_blocks: 1, alignment: al };
    Oti { transfer_length, symbol_size, scheme }
}

fn repr(codepoint: u8, payload_id: PayloadId) -> AlcRepr {
    AlcRepr {
        tsi: Tsi(0x0001_e240),
        toi: Toi(0x6543_2100),
        codepoint,
        close_session: false,
        close_object: false,
        fti: None,
        fdt: None,
        cenc: None,
        sender_time: None,
        payload_id,
    }
}

fn emitted(repr: AlcRepr) -> Vec<u8> {
    let mut out = Vec::new();
    repr.emit(&mut out);
    out
}

#[test]
fn our_source_packet() {
    let packet = AlcRepr { close_object: true, ..repr(0, id(0, 0x1234)) };
    assert_eq!(emitted(packet), hex("10 a1 04 00  00000000  0001e240  65432100  0000 1234"));
}

#[test]
fn our_repair_packet() {
    let packet = AlcRepr { fti: Some(raptorq(0x12_3456, 1344, 2, 8)), ..repr(6, id(1, 0x02_030f)) };
    let expected = "10 a0 08 06  00000000  0001e240  65432100
                    40 04  0000123456  00  0540  02 0001 08  0000
                    01 02030f";
    assert_eq!(emitted(packet), hex(expected));
}

#[test]
fn our_fdt_packet() {
    let packet = AlcRepr {
        toi: Toi::FDT,
        fdt: Some(ExtFdt { version: 1, instance_id: 0xabcde }),
        cenc: Some(ContentEncoding::Gzip),
        sender_time: Some(0xeee6_92c8_8000_0000),
        fti: Some(no_code(700, 1344, 1)),
        ..repr(0, id(0, 0))
    };
    let expected = "10 a0 0d 00  00000000  0001e240  00000000
                    c0 1abcde  c1 03 0000  02 03 c000 eee692c8 80000000
                    40 04  0000000002bc  0000  0540  00000001
                    0000 0000";
    assert_eq!(emitted(packet), hex(expected));
}

/// RFC 5651: the largest header there can be (C = 3, S = 1, O = 3, H = 1) with EXT_NOP, EXT_AUTH, EXT_TIME of all four
/// times, an unknown fixed and an unknown variable extension; A and B set, PSI and reserved bits not zero.
#[test]
fn the_widest_header_of_rfc_5651() {
    let bytes = hex("1e ff 14 00  ffffffff ffffffff ffffffff ffffffff
        0102 03040506  0102 03040506 0708090a 0b0c0d0e
        00 01 ffff  01 02 0000 deadbeef
        02 05 f000 11111111 22222222 33333333 44444444
        80 ffffff  7f 01 ffff
        0007 0008  736f6d65");
    let packet = AlcPacket::parse(&bytes).unwrap();
    assert_eq!(packet.tsi, Tsi(0x0102_0304_0506));
    assert_eq!(packet.toi, Some(Toi(0x0102_0304_0506_0708_090a_0b0c_0d0e)));
    assert!(packet.close_session && packet.close_object);
    assert_eq!(packet.sender_time, Some(0x1111_1111_2222_2222));
    assert_eq!((packet.payload_id, packet.payload), (Some(id(7, 8)), &b"some"[..]));
    assert_eq!((packet.fti, packet.fdt, packet.cenc), (None, None, None));
}

/// The form of GPAC: 16-bit TSI and TOI, EXT_FDT version 1, EXT_FTI with symbol length MTU - 56.
#[test]
fn fdt_packet_with_16_bit_fields() {
    let bytes = hex("10 10 08 00  00000000  000a 0000
        c0 100001  40 04  000000000123  0000  0588  000005c0
        0000 0000  3c3f786d6c");
    let packet = AlcPacket::parse(&bytes).unwrap();
    assert_eq!((packet.tsi, packet.toi, packet.codepoint), (Tsi(10), Some(Toi::FDT), 0));
    assert_eq!(packet.fdt, Some(ExtFdt { version: 1, instance_id: 1 }));
    assert_eq!(packet.fti, Some(no_code(0x123, 1416, 1472)));
    assert_eq!((packet.payload_id, packet.payload), (Some(id(0, 0)), &b"<?xml"[..]));
}

/// RFC 5775 section 4.1: a header alone ends the session; no TOI field (O = 0, H = 0).
#[test]
fn close_session_packet_without_toi() {
    let bytes = hex("10 82 03 00  00000000  0000000a");
    let packet = AlcPacket::parse(&bytes).unwrap();
    assert_eq!((packet.tsi, packet.toi, packet.payload_id), (Tsi(10), None, None));
    assert!(packet.close_session);
}

/// Made by the `flute` crate 1.11.7: TSI 0x10001 (48 bits wide, TOI 16), object 5 of 100 bytes "00 01 02 …", T = 64.
#[test]
fn packets_of_the_flute_crate() {
    let fdt =
        hex("10900d06000000000000000100010000c0200001c10000000203c000e8fe6f808000000040040000000458000040
        020001080000000000083a323030393a4d424d533a73");
    let packet = AlcPacket::parse(&fdt).unwrap();
    assert_eq!((packet.tsi, packet.toi, packet.codepoint), (Tsi(0x1_0001), Some(Toi::FDT), 6));
    assert_eq!(packet.fdt, Some(ExtFdt { version: 2, instance_id: 1 }));
    assert_eq!(packet.cenc, Some(ContentEncoding::Null));
    assert_eq!(packet.sender_time, Some((1_700_000_000 + 2_208_988_800) << 32 | 0x8000_0000));
    assert_eq!(packet.fti, Some(raptorq(0x458, 64, 2, 8)));
    assert_eq!((packet.payload_id, &packet.payload[..5]), (Some(id(0, 8)), &b":2009"[..]));

    let source =
        hex("1091080000000000000000010001000540040000000000640000004000000010000000014041424344454647
        48494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60616263");
    let packet = AlcPacket::parse(&source).unwrap();
    assert_eq!((packet.toi, packet.codepoint, packet.close_object), (Some(Toi(5)), 0, true));
    assert_eq!(packet.fti, Some(no_code(100, 64, 16)));
    assert_eq!((packet.payload_id, packet.payload.len()), (Some(id(0, 1)), 36));
    assert_eq!((packet.payload[0], packet.payload[35]), (64, 99));

    let repair =
        hex("1090080600000000000000010001000540040000000064000040010001080000000000027f99ae48c02611f7
        1cfacd2ba3457294b95f688e06e0d731da3c0bed6583b452ee083fd92425262728292a2b2c2d2e2f303132333435363738
        393a3b3c3d3e3f");
    let packet = AlcPacket::parse(&repair).unwrap();
    assert_eq!((packet.codepoint, packet.fti), (6, Some(raptorq(100, 64, 1, 8))));
    assert_eq!((packet.payload_id, packet.payload.len()), (Some(id(0, 2)), 64));

    let close = hex("108203000000000000010001");
    let close = AlcPacket::parse(&close).unwrap();
    assert_eq!(
        (close.tsi, close.toi, close.close_session, close.payload_id),
        (Tsi(0x1_0001), None, true, None)
    );
}
