use super::{Impair, Scenario, builtins};
use crate::emu::LossModel;

fn wrong(text: &str) -> String {
    let error = Scenario::parse("bad.toml", text).expect_err("it is wrong");
    assert_eq!(error.exit, 2);
    assert!(!error.hint.is_empty(), "no remedy: {error}");
    error.to_string()
}

#[test]
fn every_shipped_scenario_is_good_and_has_criteria() {
    for builtin in builtins() {
        let scenario = Scenario::parse(builtin.name, builtin.text).unwrap_or_else(|e| panic!("{e}"));
        let names = crate::result::verdict::names(&scenario.pass);
        assert!(!names.is_empty(), "{} judges nothing", builtin.name);
        let control = builtin.name.starts_with("no-");
        assert_eq!(!scenario.pass.must_fail.is_empty(), control, "{}", builtin.name);
        let mut short = scenario.clone();
        short.shorten();
        assert!(short.duration <= scenario.duration);
    }
}

#[test]
fn errors_name_file_line_and_remedy() {
    for (text, parts) in [
        ("title = \"t\"\nduration = \"5s\"\ntitel = 1\n", vec!["bad.toml:3", "titel", "title"]),
        ("title = \"t\"\nduration = 5\n", vec!["bad.toml:2"]),
        ("title = \"t\"\nduration = \"5s\"\n[pass]\nstals = 0\n", vec!["bad.toml:4", "stals", "stalls"]),
        (
            "title = \"t\"\nduration = \"5s\"\n\n[[impair]]\nleg = \"receiver-1\"\nloss = \"5%\"\n\n[[impair]]\nleg = \"receiver-7\"\n",
            vec!["bad.toml:9", "receiver-7", "receiver-1"],
        ),
        (
            "title = \"t\"\nduration = \"5s\"\n[[impair]]\nleg = \"all\"\nloss = \"150%\"\n",
            vec!["bad.toml:5", "150%"],
        ),
        ("title = \"t\"\nduration = \"5s\"\n[origin]\ncontent = \"folder\"\n", vec!["bad.toml:4", "folder"]),
        (
            "title = \"t\"\nduration = \"5s\"\n[origin]\ncontent = \"url\"\nurl = \"ftp://host\"\n",
            vec!["bad.toml:5", "ftp://host", "http://"],
        ),
        ("title = \"t\"\nduration = \"500ms\"\n", vec!["bad.toml:2", "20s"]),
        (
            "title = \"t\"\nduration = \"9s\"\n[[event]]\nat = \"3s\"\ndo = \"kill\"\nto = \"sendr\"\n",
            vec!["bad.toml:6", "sendr", "sender"],
        ),
        (
            "title = \"t\"\nduration = \"9s\"\n[pass]\nstalls = 0\nmust-fail = [\"played\"]\n",
            vec!["bad.toml:5", "played", "stalls"],
        ),
        (
            "title = \"t\"\nduration = \"9s\"\n[receivers]\nsettings = { unicats = \"off\" }\n",
            vec!["bad.toml:4", "unicats", "unicast"],
        ),
    ] {
        let error = wrong(text);
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let error = Scenario::load("no-such-scenario").expect_err("there is none").to_string();
    assert!(error.contains("clean") && error.contains("no-such-scenario"), "{error}");
}

#[test]
fn models_are_links_that_what_is_given_changes() {
    let parse = |text: &str| toml::from_str::<Impair>(text).expect("good").impairment();
    let plain = parse("leg = \"receivers\"\nmodel = \"wifi-lossy\"");
    assert!(matches!(plain.loss, LossModel::Bursts(..)) && plain.delay.as_millis() == 15);
    let other = parse("leg = \"receivers\"\nmodel = \"wifi-lossy\"\nloss = \"1%\"\ndelay = \"99ms\"");
    assert!(matches!(other.loss, LossModel::Independent(_)) && other.delay.as_millis() == 99);
}

#[test]
fn a_mode_that_cannot_run_a_scenario_is_refused() {
    for (rest, namespaces, remedy) in [
        ("[origin]\ncontent = \"url\"\nurl = \"http://127.0.0.1:8000\"\n", true, "add --no-namespaces"),
        ("[sender]\nstandby = true\n", false, "without --no-namespaces"),
    ] {
        let text = format!("title = \"t\"\nduration = \"5s\"\n{rest}");
        let scenario = Scenario::parse("t.toml", &text).expect("a good scenario");
        assert!(scenario.check_mode(!namespaces).is_ok());
        let error = scenario.check_mode(namespaces).expect_err("it cannot run");
        assert_eq!(error.exit, 2);
        assert!(error.to_string().contains(remedy), "{error}");
    }
}
