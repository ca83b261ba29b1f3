//! Wireshark's dissectors of ALC, LCT and FEC read our packets of both profiles without one complaint.

use mahp_common::auth::SigningKey;
use mahp_common::catalog::WireProfile;
use mahp_common::session::send::{FlowKind, SendConfig, SendSession};
use mahp_common::wire::alc::AlcPacket;
use mahp_common::{Object, Tsi};
use mahp_tests::engines::{Datagram, noise, object, send_all};
use std::io::Write as _;
use std::process::{Command, Output};

const PORT: u16 = 5000;
const REPAIR_PORT: u16 = 5001;

/// Whether tshark is there. Without it the test says so past the capture of output, and fails where CI is set.
fn tshark_is_there() -> bool {
    let found = Command::new("tshark").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        let message =
            "tshark is missing: dissection of our packets NOT tested (Debian: apt-get install tshark)\n";
        let _ = std::io::stderr().write_all(message.as_bytes());
        assert!(std::env::var_os("CI").is_none(), "{message}");
    }
    found
}

/// Classic pcap, LINKTYPE_RAW: each datagram in IPv4 and UDP.
fn pcap(packets: &[Datagram]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_535, 101] {
        // Version 2.4 is two 16-bit fields; the file is big-endian, so one word has them in order.
        out.extend_from_slice(&word.to_be_bytes());
    }
    for (i, packet) in packets.iter().enumerate() {
        let ip = ipv4_udp(packet);
        let micros = packet.at.as_nanos() / 1000;
        for word in [1_790_000_000 + (micros / 1_000_000) as u32, (micros % 1_000_000) as u32] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let len = u32::try_from(ip.len()).unwrap_or_else(|_| panic!("packet {i} is too long"));
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&ip);
    }
    out
}

fn ipv4_udp(packet: &Datagram) -> Vec<u8> {
    let port = if packet.flow == FlowKind::Repair { REPAIR_PORT } else { PORT };
    let udp_len = u16::try_from(8 + packet.bytes.len()).expect("fits a datagram");
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&(20 + udp_len).to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 4, 17, 0, 0, 192, 0, 2, 1, 232, 1, 1, 1]);
    let sum: u32 = ip.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    for field in [40_000, port, udp_len, 0] {
        ip.extend_from_slice(&field.to_be_bytes());
    }
    ip.extend_from_slice(&packet.bytes);
    ip
}

fn tshark(pcap: &std::path::Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new("tshark")
        .args(["-n", "-d", "udp.port==5000,alc", "-d", "udp.port==5001,alc", "-r"])
        .arg(pcap)
        .args(arguments)
        .output()
        .expect("tshark runs");
    assert!(status.success(), "tshark: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

fn packets(profile: WireProfile, fdt_window: usize) -> Vec<Datagram> {
    let config = SendConfig {
        session: 9,
        fdt_window,
        first_toi: 4_000_000_000,
        close_objects: true,
        key: Some(SigningKey::from_seed(&[1; 32])),
        ..SendConfig::new(profile, Tsi(70_000), Tsi(70_001), 100_000_000)
    };
    let sizes = [1, 1344, 200_000, 3 << 20];
    let objects: Vec<Object> = sizes.map(|n| object(&format!("{n}.ts"), noise(n, 3))).into();
    let mut packets = send_all(config.clone(), objects);
    let last = packets.last().map(|p| p.at).unwrap_or_default();
    let bytes = SendSession::new(config).close_packet().to_vec();
    packets.push(Datagram { at: last, flow: FlowKind::Source, bytes });
    packets
}

/// Writes the capture where only this test writes.
fn capture(name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("capture written");
    path
}

/// With one object per FDT Instance, each fits one packet and is dissected as XML too. Longer ones span packets, and
/// Wireshark takes each packet of TOI 0 for a whole document: there its XML dissector is switched off.
fn dissect(profile: WireProfile, name: &str) {
    if !tshark_is_there() {
        return;
    }
    for fdt_window in [1, 8] {
        let packets = packets(profile, fdt_window);
        let path = capture(&format!("{name}-{fdt_window}.pcap"), &pcap(&packets));
        let whole = fdt_window == 1;
        let text = tshark(&path, if whole { &["-V"] } else { &["-V", "--disable-protocol", "xml"] });
        for complaint in COMPLAINTS {
            let at =
                text.find(complaint).map(|at| &text[at.saturating_sub(2000)..(at + 200).min(text.len())]);
            assert!(at.is_none(), "tshark complains: {}", at.unwrap_or_default());
        }
        for protocol in
            ["Asynchronous Layered Coding", "Layered Coding Transport", "Forward Error Correction"]
        {
            assert!(text.matches(protocol).count() >= packets.len(), "{protocol} is not in every packet");
        }
        assert_eq!(text.contains("<FDT-Instance"), whole, "FDT Instances shown as XML");
        check_fields(&path, &packets);
    }
}

/// What tshark prints where it does not understand, or understands and does not like.
const COMPLAINTS: [&str; 4] = ["Malformed", "Expert Info", "should be zero", "supports ALC version"];

/// What tshark reads is what we meant, packet by packet.
fn check_fields(path: &std::path::Path, packets: &[Datagram]) {
    let names = ["rmt-lct.tsi", "rmt-lct.toi", "rmt-lct.codepoint", "rmt-fec.sbn", "rmt-fec.esi"];
    let mut arguments = vec!["-T", "fields"];
    for name in names {
        arguments.extend(["-e", name]);
    }
    let text = tshark(path, &arguments);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), packets.len());
    for (line, packet) in lines.iter().zip(packets) {
        let alc = AlcPacket::parse(&packet.bytes).expect("our own packet");
        let id = alc.payload_id.expect("FEC Payload ID");
        let toi = alc.toi.expect("TOI");
        let ours = format!("{}\t{}\t{}\t{}\t0x{:08x}", alc.tsi, toi, alc.codepoint, id.sbn, id.esi.0);
        assert_eq!(*line, ours);
    }
}

#[test]
fn wireshark_reads_profile_mabr() {
    dissect(WireProfile::Mabr, "mabr");
}

#[test]
fn wireshark_reads_profile_flute_raptorq() {
    dissect(WireProfile::FluteRaptorq, "flute-raptorq");
}

/// Negative control: the words that the tests look for do appear when a packet is damaged.
#[test]
fn wireshark_complains_about_damage() {
    if !tshark_is_there() {
        return;
    }
    let mut packets = packets(WireProfile::Mabr, 1);
    packets.truncate(3);
    packets[0].bytes.truncate(14);
    let path = capture("damaged.pcap", &pcap(&packets));
    assert!(tshark(&path, &["-V"]).contains("Malformed"));
}
