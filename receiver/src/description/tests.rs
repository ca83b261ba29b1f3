use super::*;
use crate::testing::description;
use mahp_common::auth::SigningKey;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn sealed(key: &SigningKey, issued: u64) -> Vec<u8> {
    let offer = SessionDescription { issued, expires: issued + 1000, ..description(None, key) };
    offer.seal(key).unwrap()
}

fn source(s: &str) -> SessionSource {
    s.parse().unwrap()
}

fn folder() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("mahp-keys-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

use std::path::PathBuf;

const NOW: WallTime = WallTime::from_unix_secs(5000);

fn trust(given: &[&SigningKey], require_auth: bool, folder: Option<&PathBuf>) -> Trust {
    let known = KnownKeys::load(folder.map(PathBuf::as_path)).unwrap();
    Trust::new(given.iter().map(|k| k.verifying_key()).collect(), require_auth, known)
}

#[test]
fn the_first_key_is_remembered_over_a_restart_and_another_is_refused() {
    let folder = folder();
    let http = source("http://sender:7780/");
    let first = trust(&[], false, Some(&folder));
    assert!(first.pinned(&http).is_none());
    assert!(first.accept(&http, &sealed(&key(1), 4900), NOW).unwrap().first_contact);
    assert!(!first.accept(&http, &sealed(&key(1), 4901), NOW).unwrap().first_contact);
    let again = trust(&[], false, Some(&folder));
    assert_eq!(again.pinned(&source("http://sender:7780/other.json")), Some(key(1).verifying_key()));
    let error = again.accept(&http, &sealed(&key(2), 4902), NOW).unwrap_err();
    assert_eq!((error.code, error.exit), ("E-KEY-CHANGED", 2));
    assert!(
        error.hint.contains("known_keys.toml") && error.hint.contains(&key(2).verifying_key().to_base64())
    );
    // Another origin is another sender.
    assert!(again.accept(&source("10.0.0.5@232.1.1.1:5000"), &sealed(&key(2), 4900), NOW).is_ok());
    std::fs::write(folder.join("known_keys.toml"), "\"http://x\" = \"nonsense\"\n").unwrap();
    assert_eq!(KnownKeys::load(Some(&folder)).unwrap_err().code, "E-KNOWN-KEYS");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn given_keys_are_the_only_ones() {
    let http = source("http://sender:7780/");
    let (one, two) = (key(1), key(2));
    let strict = trust(&[&one, &two], true, None);
    assert!(strict.accept(&http, &sealed(&key(2), 4900), NOW).is_ok());
    assert_eq!(strict.accept(&http, &sealed(&key(3), 4900), NOW).unwrap_err().code, "E-KEY");
}

#[test]
fn nobody_is_trusted_at_first_contact_where_authentication_is_required() {
    let strict = trust(&[], true, None);
    for (from, ok) in
        [("http://sender/", false), ("10.0.0.5@232.1.1.1:5000", false), ("https://sender/", true)]
    {
        let accepted = strict.accept(&source(from), &sealed(&key(1), 4900), NOW);
        assert_eq!(accepted.is_ok(), ok, "{from}");
        if let Err(e) = accepted {
            assert_eq!(e.code, "E-AUTH");
        }
    }
}

#[test]
fn each_fault_has_its_error() {
    let t = trust(&[], false, None);
    let http = source("http://sender/");
    let code = |bytes: &[u8]| t.accept(&http, bytes, NOW).unwrap_err().code;
    assert_eq!(code(b"<!doctype html>"), "E-DESCRIPTION");
    assert_eq!(code(&sealed(&key(1), 100)), "E-EXPIRED");
    let text = String::from_utf8(sealed(&key(1), 4900)).unwrap().replace("\"test\"", "\"tost\"");
    assert_eq!(code(text.as_bytes()), "E-SIGNATURE");
    // A refused description pins nothing.
    assert!(t.pinned(&http).is_none());
}

#[test]
fn an_older_description_does_not_replace_a_newer_one() {
    let t = trust(&[], false, None);
    let mut follower = Follower::new("http://sender/".parse().unwrap());
    let mut judge = |issued, n| follower.judge(None, sealed(&key(n), issued).into(), &t, NOW);
    assert!(matches!(judge(4900, 1), Look::New(_)));
    assert!(matches!(judge(4900, 1), Look::Same));
    assert!(matches!(judge(4800, 1), Look::Same));
    assert!(matches!(judge(4950, 1), Look::New(_)));
    assert!(matches!(judge(4960, 2), Look::Refused(_)));
}

#[test]
fn an_empty_body_is_no_description() {
    let t = trust(&[], false, None);
    let mut follower = Follower::new("http://sender/".parse().unwrap());
    let mut judge = |body: Vec<u8>| follower.judge(None, body.into(), &t, NOW);
    let refused =
        |look| matches!(&look, Look::Refused(e) if e.code == "E-DESCRIPTION" && e.message.contains("empty"));
    assert!(refused(judge(Vec::new())), "at first");
    assert!(refused(judge(Vec::new())), "and again");
    assert!(matches!(judge(sealed(&key(1), 4900)), Look::New(_)));
    assert!(refused(judge(Vec::new())), "after a good one");
}

#[test]
fn the_last_description_is_kept_and_verified_when_it_is_read() {
    let folder = folder();
    let url = |path: &str| Url::parse(&format!("http://sender:7780/{path}")).unwrap();
    let kept = Remembered::new(Some(&folder));
    let read = |t: &Trust, now| kept.read(&url("a"), t, now).map(|(_, a)| a.description.issued);
    let trusting = trust(&[], false, Some(&folder));
    assert_eq!(read(&trusting, NOW), None, "nothing there");
    kept.write(&url("a"), &sealed(&key(1), 4900));
    assert_eq!(read(&trusting, NOW), None, "a file alone makes nobody trusted");
    assert!(trusting.pinned(&source("http://sender:7780/a")).is_none());
    trusting.accept(&source("http://sender:7780/"), &sealed(&key(1), 4900), NOW).unwrap();
    assert_eq!(read(&trusting, NOW), Some(4900));
    assert_eq!(read(&trust(&[], true, Some(&folder)), NOW), Some(4900), "after a restart");
    assert_eq!(read(&trust(&[&key(2)], false, Some(&folder)), NOW), None, "another key is the given one");
    assert_eq!(read(&trusting, WallTime::from_unix_secs(5901)), None, "expired");
    assert!(kept.read(&url("b"), &trusting, NOW).is_none());

    // Damaged in any byte, cut off anywhere, or far too long.
    let file = std::fs::read_dir(folder.join("descriptions")).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(read(&trusting, NOW), None, "byte {at}");
        std::fs::write(&file, &good[..at]).unwrap();
        assert_eq!(read(&trusting, NOW), None, "cut at {at}");
    }
    std::fs::write(&file, vec![b' '; limits::DESCRIPTION_BYTES + 10]).unwrap();
    assert_eq!(read(&trusting, NOW), None);

    for n in 0..100 {
        kept.write(&url(&n.to_string()), &good);
    }
    assert!(kept.read(&url("99"), &trusting, NOW).is_some());
    assert_eq!(std::fs::read_dir(folder.join("descriptions")).unwrap().count(), 64, "bounded, no debris");
    std::fs::remove_dir_all(folder).unwrap();
}
