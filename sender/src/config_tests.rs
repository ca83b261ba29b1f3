use super::*;
use serde_json::Value;

fn keys(value: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(value).expect("serialised") {
        Value::Object(map) => map.keys().cloned().collect(),
        other => panic!("not a table: {other}"),
    }
}

fn from_text(name: &str, text: &str, cli: Cli) -> Result<Config, StartupError> {
    let path = std::env::temp_dir().join(format!("mahp-config-{name}-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("written");
    let result = resolve(Cli { config: Some(path.clone()), ..cli });
    std::fs::remove_file(path).expect("removed");
    result
}

/// One channel, so that the configuration is complete.
const CHANNEL: &str = "\n[[channel]]\nurl = \"http://h/live/news/master.m3u8\"\n";

#[test]
fn default_file_names_every_key_and_changes_nothing() {
    let all = keys(&SenderSettings::default()).into_iter().chain(keys(&ChannelSettings::default()));
    for key in all {
        let set = DEFAULT_FILE.lines().any(|l| l.trim_start_matches('#').starts_with(&format!("{key} = ")));
        assert!(set, "`{key}` is missing in the default file");
    }
    let cli = Cli { urls: vec!["http://h/live/news/master.m3u8".into()], ..Cli::default() };
    let built_in = resolve(cli.clone()).expect("valid");
    let from_file = from_text("default", DEFAULT_FILE, cli).expect("valid");
    assert_eq!(built_in, Config { place: built_in.place.clone(), ..from_file });
}

#[test]
fn commented_examples_of_the_default_file_are_valid() {
    let text: String = DEFAULT_FILE
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    // An IPv4 example and the IPv6 switch stand beside each other there; the switch is off.
    let config = from_text("examples", &text, Cli::default()).expect("valid");
    assert_eq!(config.channels.len(), 1);
    assert_eq!(config.channels[0].name, "news");
    assert_eq!(config.channels[0].vod_rate, Some(20_000_000));
    assert_eq!(config.rate_limit, Some(50_000_000));
}

#[test]
fn command_line_beats_channel_beats_defaults() {
    let text = format!(
        "[defaults]\nrepair = 20\nheadroom = 3.0\nloop = true\n{CHANNEL}repair = 30\nheadroom = 2.0\n"
    );
    let cli =
        Cli { channel: ChannelSettings { headroom: Some(5.0), ..Default::default() }, ..Cli::default() };
    let channel = &from_text("layers", &text, cli).expect("valid").channels[0];
    assert_eq!(
        (channel.headroom, channel.repair_percent, channel.repeat, channel.symbol_size),
        (5.0, 30, true, 1344)
    );
}

#[test]
fn wrong_values_say_what_is_right() {
    let cases = [
        ("symbol-size = 1345", "symbol-size", "multiple of 8"),
        ("repair = 500", "repair", "400"),
        ("repair-layer-2 = 401", "repair-layer-2", "400"),
        ("headroom = 0.5", "headroom", "1 to 100"),
        ("channel-name = \"a/b\"", "channel-name", "letters"),
    ];
    for (i, (line, key, hint)) in cases.iter().enumerate() {
        let error =
            from_text(&format!("wrong-{i}"), &format!("{CHANNEL}{line}\n"), Cli::default()).expect_err(line);
        assert_eq!((error.code, error.exit), ("E-CONFIG", 2));
        assert!(error.message.contains(key) && error.hint.contains(hint), "{error}");
    }
    let error =
        from_text("dscp", &format!("[sender]\ndscp = 64\n{CHANNEL}"), Cli::default()).expect_err("64");
    assert!(error.message.contains("dscp"), "{error}");
    let error = from_text("no-url", "[[channel]]\ntitle = \"x\"\n", Cli::default()).expect_err("no URL");
    assert!(error.message.contains("url"), "{error}");
}

/// Whatever the code of an error, the value of a file that it is about is found again.
#[test]
fn values_of_a_file_are_told_with_their_line() {
    let wrong = |name: &str, text: &str, cli| from_text(name, text, cli).expect_err(text);
    let group =
        |cli| wrong("group", &format!("[sender]\nttl = 2\ngroup-base = \"10.0.0.1\"\n{CHANNEL}"), cli);
    let error = group(Cli::default());
    assert_eq!(error.code, "E-GROUP");
    assert!(
        error.message.contains(".toml:3: `group-base`: ") && error.message.contains("outside"),
        "{error}"
    );
    let given = SenderSettings { group_base: Some([10, 0, 0, 2].into()), ..SenderSettings::default() };
    let error = group(Cli { sender: given, ..Cli::default() });
    assert!(!error.message.contains(".toml") && error.message.contains("command line"), "{error}");
    let text = format!("{CHANNEL}\n[[channel]]\ntitle = \"x\"\nurl = \"ftp://h/x\"\n");
    let error = wrong("scheme", &text, Cli::default());
    assert_eq!(error.code, "E-URL");
    assert!(error.message.contains(".toml:7: `url` of channel 2: `ftp://h/x` has scheme"), "{error}");
    let error = wrong("source", &format!("[sender]\nsource = \"224.0.0.1\"\n{CHANNEL}"), Cli::default());
    assert!(error.message.contains(".toml:2: `source` cannot be 224.0.0.1"), "{error}");
    let text = format!("{CHANNEL}\n[[channel]]\ntitle = \"x\"\n");
    let error = wrong("missing", &text, Cli::default());
    assert!(error.message.contains(".toml:5: `url` of channel 2 cannot be missing"), "{error}");
}

#[test]
fn names_come_from_urls() {
    let name = |url: &str| name_from(&Url::parse(url).expect("url"));
    assert_eq!(name("http://h/live/news/master.m3u8?token=1"), "news");
    assert_eq!(name("http://h/vod/bbb.mpd"), "bbb");
    assert_eq!(name("https://cdn.example/master.m3u8"), "cdn-example");
    assert_eq!(name("http://h/%20/index.m3u8"), "20");
    assert_eq!(name("http://127.0.0.1:8080/live/master.m3u8"), "live");
    assert_eq!(name("http://[::1]/"), "channel");
    let two =
        Cli { urls: vec!["http://h/a/news.m3u8".into(), "http://h/b/news.m3u8".into()], ..Cli::default() };
    let names: Vec<String> = resolve(two).expect("valid").channels.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["news", "news-2"]);
}
