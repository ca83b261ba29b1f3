use super::*;
use clap::{CommandFactory as _, Parser as _};

fn parse(args: &[&str]) -> Cli {
    Cli::try_parse_from([&["mahp-receiver"], args].concat()).unwrap()
}

fn file(text: &str) -> Settings {
    mahp_runtime::config::parse::<File>("mahp-receiver.toml", text).unwrap().receiver
}

#[test]
fn the_commented_file_has_every_key_and_the_defaults() {
    Cli::command().debug_assert();
    let flags: Vec<String> = Cli::command()
        .get_arguments()
        .filter_map(|a| a.get_long().map(str::to_owned))
        .filter(|name| !["config", "help", "version"].contains(&name.as_str()))
        .collect();
    let mut keys = known_keys();
    assert_eq!(keys.remove(0), "session");
    keys.sort();
    let mut sorted = flags.clone();
    sorted.sort();
    assert_eq!(keys, sorted);
    for flag in flags {
        let environment = format!("MAHP_RECEIVER_{}", flag.to_uppercase().replace('-', "_"));
        let arg = Cli::command().get_arguments().find(|a| a.get_long() == Some(&flag)).cloned().unwrap();
        assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(environment.as_str()));
    }
    // With every key uncommented it still reads; as it is, it changes nothing.
    let all: String = DEFAULT_FILE
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest)
                if rest.split_once(" = ").is_some_and(|(k, _)| known_keys().contains(&k.to_owned())) =>
            {
                rest
            }
            _ => l,
        })
        .map(|l| format!("{l}\n"))
        .collect();
    let full = toml::to_string(&file(&all)).unwrap();
    assert_eq!(full.lines().count(), known_keys().len());
    let bare = Cli::default();
    let with = resolve(&bare, file(DEFAULT_FILE), None).unwrap();
    let without = resolve(&bare, Settings::default(), None).unwrap();
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}

#[test]
fn the_command_line_wins_and_a_default_does_not_clobber_the_file() {
    let settings =
        file("[receiver]\nlisten = \"0.0.0.0:1\"\nhold = \"3s\"\nunicast = \"off\"\njoin = \"always\"\n");
    let cli = parse(&["--listen", "0.0.0.0:2", "--insecure", "1.2.3.4@232.1.1.1:5000"]);
    let config = resolve(&cli, settings, None).unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.hold, Duration::from_secs(3));
    assert_eq!(config.join, Policy::Always);
    assert!(!config.unicast && config.insecure && !config.require_auth);
    assert_eq!(config.sessions.len(), 1);
}

#[test]
fn sessions_are_urls_or_endpoints() {
    let ok = |s: &str| s.parse::<SessionSource>().unwrap().to_string();
    assert_eq!(ok("http://sender:7780/"), "http://sender:7780/.well-known/mahp/session.json");
    assert_eq!(ok("http://sender:7780"), "http://sender:7780/.well-known/mahp/session.json");
    assert_eq!(ok("https://h/a.json?x"), "https://h/a.json?x");
    assert_eq!(ok("10.0.0.5@232.1.1.1:5000"), "10.0.0.5@232.1.1.1:5000");
    assert_eq!(ok("*@239.1.1.1:5000"), "*@239.1.1.1:5000");
    assert_eq!(ok("2001:db8::5@[ff3e::8000:1]:5000"), "2001:db8::5@[ff3e::8000:1]:5000");
    for (bad, code, says) in [
        ("", "E-SESSION", "neither a URL nor"),
        ("x", "E-SESSION", "neither a URL nor"),
        ("ftp://h/", "E-SESSION", "neither a URL nor"),
        ("http://h:99999/", "E-SESSION", "invalid port number"),
        ("https://", "E-SESSION", "empty host"),
        (
            "10.0.0.5@10.0.0.6:5000",
            "E-GROUP",
            "group 10.0.0.6 is outside multicast space (224.0.0.0/4, ff00::/8)",
        ),
        ("232.1.1.1@10.0.0.5:5000", "E-GROUP", "group 10.0.0.5 is outside"),
        ("10.0.0.5@232.1.1.1", "E-SESSION", "the port is missing: 232.1.1.1:5000"),
        ("2001:db8::5@ff3e::8000:1", "E-SESSION", "the port is missing: [ff3e::8000:1]:5000"),
        ("10.0.0.5@232.1.1.1:70000", "E-SESSION", "`70000` is no port"),
        ("10.0.0.5@232.1.1.1:0", "E-SESSION", "port 0 is none"),
        ("10.0.0.5@groups.example:5000", "E-SESSION", "`groups.example:5000` is no address of a group"),
        ("sender.example@232.1.1.1:5000", "E-SESSION", "source `sender.example` is no IP address"),
        ("10.0.0.5@[ff3e::1]:5000", "E-SESSION", "of different families"),
        ("232.1.1.1@232.1.1.1:1", "E-SESSION", "232.1.1.1 cannot be a source"),
        ("0.0.0.0@232.1.1.1:1", "E-SESSION", "0.0.0.0 cannot be a source"),
    ] {
        let error = bad.parse::<SessionSource>().unwrap_err();
        assert_eq!((error.code, error.exit), (code, 2), "{bad}");
        assert!(error.message.contains(bad) && error.message.contains(says), "{bad}: {error}");
        assert!(error.hint.contains("mahp-receiver 10.0.0.5@232.1.1.1:5000"), "{error}");
    }
}

#[test]
fn wrong_values_are_named() {
    let wrong = |text: &str| {
        let settings = file(&format!("[receiver]\n{text}\n"));
        resolve(&Cli::default(), settings, Some(Path::new("none.toml"))).unwrap_err().to_string()
    };
    assert!(wrong("hold = \"20s\"").contains("`hold` cannot be more than 8s"));
    assert!(wrong("key = [\"abc\"]").contains("`key` cannot be `abc`"));
    assert!(wrong("memory = \"1 MiB\"").contains("`memory` cannot be 1048576 bytes"));
    assert!(wrong("idle-leave = \"10ms\"").contains("idle-leave"));
    assert!(wrong("log-format = \"xml\"").contains("xml"));
    let session = wrong("session = [\"10.0.0.5@10.0.0.6:5000\"]");
    assert!(
        session.contains("E-GROUP]: none.toml: `session`: ") && session.contains("10.0.0.6"),
        "{session}"
    );
    let unknown =
        mahp_runtime::config::parse::<File>("mahp-receiver.toml", "[receiver]\nintreface = \"eth0\"\n");
    let text = unknown.unwrap_err().to_string();
    assert!(text.contains("mahp-receiver.toml:2") && text.contains("did you mean `interface`"), "{text}");
}

#[test]
fn without_a_session_it_says_how() {
    let error = no_session(None);
    assert_eq!(error.exit, 2);
    assert!(error.to_string().contains("mahp-receiver http://SENDER:7780/"));
}

#[test]
fn subcommands() {
    assert!(matches!(
        parse(&["status", "--json"]).command,
        Some(crate::cli::Command::Status { json: true, .. })
    ));
    assert!(matches!(parse(&["doctor"]).command, Some(crate::cli::Command::Doctor { .. })));
    assert!(matches!(
        parse(&["config", "print", "--default"]).command,
        Some(crate::cli::Command::Config { .. })
    ));
    assert!(Cli::try_parse_from(["mahp-receiver", "--unicast", "maybe"]).is_err());
}

#[test]
fn print_tells_where_values_come_from() {
    let text = print(&parse(&["--hold", "2s"]), None).unwrap();
    assert!(text.contains("hold = \"2s\"  # environment"), "{text}");
    assert!(text.contains("unicast = true  # default"), "{text}");
    let again: File = toml::from_str(&text).unwrap();
    assert!(again.receiver.session.is_none());
}

#[test]
fn memory_follows_the_box() {
    assert_eq!(quarter("MemTotal:  524288 kB\n", "max"), 128 << 20);
    assert_eq!(quarter("MemTotal:  65536 kB\n", ""), 32 << 20);
    assert_eq!(quarter("MemTotal:  99999999 kB\n", "max"), 256 << 20);
    assert_eq!(quarter("MemTotal:  99999999 kB\n", "268435456"), 64 << 20);
    assert_eq!(quarter("", ""), 256 << 20);
}
