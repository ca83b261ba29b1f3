//! Every fuzz target over its seeds and over seeded mutations of them, about half a minute in all.
//!
//! `MAHP_FUZZ_SECONDS` sets the time, `MAHP_SEED` repeats a run. An input that makes a target panic is kept in the
//! build's temporary folder; the message tells where.

use mahp_tests::engines::seed;
use mahp_tests::fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs longer than this only take time.
const LONGEST: usize = 16 << 10;

fn time_per_target() -> Duration {
    let given = std::env::var("MAHP_FUZZ_SECONDS").ok().and_then(|s| s.parse::<f64>().ok());
    Duration::from_secs_f64(given.unwrap_or(30.0).clamp(0.0, 86_400.0)) / TARGETS.len() as u32
}

/// Pieces that mean something to one parser or another.
const WORDS: [&[u8]; 24] = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x40\x04",
    b"\xc0\x10\0\0",
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"9999999999999999999999",
    b"<![CDATA[",
    b"<!DOCTYPE a [<!ENTITY b \"c\">]>",
    b"&b;",
    b"&#0;",
    b"-->",
    b"\"/>",
    b"xmlns:x=\"",
    b"$Number%09999d$",
    b"r=\"-1\"",
    b"PT99999999999999H",
    b"#EXT-X-DEFINE:NAME=\"a\",VALUE=\"{$a}\"",
    b"\r\n\r\n",
    b"{$a}",
    b"\xef\xbb\xbf",
    b"//[::1]:99999/../..",
    b"\xe2\x80\xa8",
];

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut fastrand::Rng) {
    for _ in 0..rng.u8(1..6) {
        let at = rng.usize(0..=input.len());
        let end = (at + rng.usize(0..=64)).min(input.len());
        match rng.u8(0..9) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(0..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = rng.usize(0..=input.len());
                input.splice(to..to, piece);
            }
            5 => {
                let word = WORDS[rng.usize(0..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            6 => {
                let word = WORDS[rng.usize(0..WORDS.len())];
                let end = (at + word.len()).min(input.len());
                input.splice(at..end, word.iter().copied());
            }
            7 if !seeds.is_empty() => {
                let other = &seeds[rng.usize(0..seeds.len())];
                let from = rng.usize(0..=other.len());
                let to = (from + rng.usize(0..=512)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let digits: Vec<usize> = (0..input.len()).filter(|i| input[*i].is_ascii_digit()).collect();
                if let Some(i) = rng.choice(digits) {
                    input[i] = rng.u8(b'0'..=b'9');
                }
            }
        }
    }
    input.truncate(LONGEST);
}

fn run(target: &Target, input: &[u8], seed: u64) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}.bin", target.name));
        let kept =
            std::fs::write(&path, input).map_or_else(|e| e.to_string(), |()| path.display().to_string());
        panic!("fuzz target {} panicked (MAHP_SEED={seed}), input: {kept}", target.name);
    }
}

fn smoke(name: &str) {
    let target = Target::named(name).expect("a target");
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let seeds = target.seeds().expect("seeds");
    assert!(!seeds.is_empty(), "no seeds for {name}");
    for input in &seeds {
        run(&target, input, seed);
    }
    let end = Instant::now() + time_per_target();
    let mut runs = 0u64;
    while Instant::now() < end {
        let mut input = rng.choice(&seeds).cloned().unwrap_or_default();
        mutate(&mut input, &seeds, &mut rng);
        run(&target, &input, seed);
        runs += 1;
    }
    println!("{name}: {} seeds, {runs} mutations", seeds.len());
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(TARGETS.map(|t| t.name), [$(stringify!($name)),*]);
            let manifest = include_str!("../../fuzz/Cargo.toml");
            for Target { name, .. } in TARGETS {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
            }
        }
    };
}

targets! {
    lct_alc fdt description m3u8_rewrite mpd_rewrite range session repair_report repair_answer repair_request
    moq_wire moq_catalog moq_record
}
