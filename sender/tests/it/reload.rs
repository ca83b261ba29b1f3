//! SIGHUP: channels come and go with the configuration file, and what is the same goes on.

use crate::end_to_end::{Sender, start, text_at};
use crate::support::{Reply, ScriptedOrigin, playlist, segments};
use mahp_common::catalog::Channel;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A configuration file that is removed with the value.
struct File(PathBuf);

impl File {
    fn new(origin: &ScriptedOrigin, channels: &[(&str, u32)]) -> File {
        let path = std::env::temp_dir().join(format!("mahp-sender-reload-{}.toml", std::process::id()));
        let file = File(path);
        file.write(&text(origin, channels));
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("written");
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Channels with their repair shares.
fn text(origin: &ScriptedOrigin, channels: &[(&str, u32)]) -> String {
    let one = |(name, repair): &(&str, u32)| {
        let url = origin.url(&format!("/{name}/media.m3u8"));
        format!("[[channel]]\nurl = \"{url}\"\nchannel-name = \"{name}\"\nrepair = {repair}\n")
    };
    channels.iter().map(one).collect()
}

async fn hang_up(sender: &Sender) {
    let pid = sender.child.id().expect("running").to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().await.expect("kill runs").success());
}

/// The channels, once the description names exactly these.
async fn described(sender: &Sender, names: &[&str]) -> Vec<Channel> {
    for _ in 0..1500 {
        let mut channels = sender.describe().await.0.channels;
        channels.sort_by(|a, b| a.name.cmp(&b.name));
        if channels.iter().map(|c| c.name.as_str()).eq(names.iter().copied()) {
            return channels;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the description never named {names:?}");
}

async fn sent(sender: &Sender, channel: &str) -> u64 {
    let status = sender.status().await;
    let channels = status["channels"].as_array().cloned().unwrap_or_default();
    let found = channels.into_iter().find(|c| c["name"] == channel);
    found.map_or(0, |c| c["renditions"][0]["objects"]["sent"].as_u64().unwrap_or(0))
}

async fn until_sent(sender: &Sender, channel: &str, count: u64) {
    for _ in 0..1500 {
        if sent(sender, channel).await >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{channel}: never {count} segments sent");
}

/// Status and body of `POST /api/reload`.
async fn post(sender: &Sender) -> (String, String) {
    let admin = url::Url::parse(&sender.admin).expect("URL");
    let host = admin.authority();
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("listens");
    let request = format!("POST /api/reload HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

/// What `mahp-sender status` prints.
async fn status_text(sender: &Sender) -> String {
    let admin = url::Url::parse(&sender.admin).expect("URL");
    let mut program = Command::new(env!("CARGO_BIN_EXE_mahp-sender"));
    let output = program.args(["status", "--admin", admin.authority()]).output().await.expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_come_and_go_with_the_file() {
    let origin = ScriptedOrigin::start().await;
    for name in ["one", "two", "three"] {
        segments(&origin, &format!("/{name}"), 1, 9);
        origin.set(&format!("/{name}/media.m3u8"), Reply::ok(playlist(1, 5, &[])));
    }
    let file = File::new(&origin, &[("one", 15), ("two", 15)]);
    let mut sender = start(&["--config", file.path().to_str().expect("a path of text")]).await;
    let before = described(&sender, &["one", "two"]).await;
    until_sent(&sender, "one", 3).await;
    until_sent(&sender, "two", 3).await;

    file.write(&text(&origin, &[("one", 15), ("three", 15), ("two", 40)]));
    hang_up(&sender).await;
    // `two` is described again when its origin has answered.
    let after = described(&sender, &["one", "three", "two"]).await;
    assert_eq!(after[0], before[0], "what is the same is not touched");
    assert_eq!(sent(&sender, "one").await, 3, "and not sent again");
    let flow = |c: &Channel| c.renditions[0].flow.clone();
    assert_eq!(flow(&after[2]).repair_percent, 40);
    assert_eq!(flow(&after[2]).endpoint, flow(&before[1]).endpoint, "a changed channel keeps its group");
    until_sent(&sender, "three", 3).await;
    until_sent(&sender, "two", 6).await;
    assert!(text_at(&sender.admin, "/metrics").await.contains("channel=\"two\""));

    // A file with an error changes nothing.
    file.write("[[channel]]\nurll = \"http://origin.example/x.m3u8\"\n");
    hang_up(&sender).await;
    let (status, why) = post(&sender).await;
    assert!(status == "400" && why.contains("E-CONFIG") && why.contains("`url`"), "{status} {why}");
    let says = status_text(&sender).await;
    assert!(says.contains("one (live): ") && says.contains(" objects sent, 0 late"), "{says}");
    file.write(&text(&origin, &[("three", 15)]));
    assert_eq!(post(&sender).await, ("200".to_owned(), "{\"reloaded\":true}\n".to_owned()));
    let last = described(&sender, &["three"]).await;
    assert_eq!(last[0], after[1]);
    let metrics = text_at(&sender.admin, "/metrics").await;
    assert!(metrics.contains("channel=\"three\""));
    assert!(!metrics.contains("channel=\"one\"") && !metrics.contains("channel=\"two\""), "they are gone");
    assert!(sender.child.try_wait().expect("asked").is_none(), "it runs on");
}

/// The encoder of one of two channels begins after the sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_whose_manifest_lists_nothing_is_waited_for() {
    let origin = ScriptedOrigin::start().await;
    for name in ["here", "late"] {
        segments(&origin, &format!("/{name}"), 1, 9);
        origin.set(&format!("/{name}/index.m3u8"), Reply::ok(playlist(1, 5, &[])));
    }
    origin.set("/late/master.m3u8", Reply::ok("#EXTM3U\n#EXT-X-INDEPENDENT-SEGMENTS\n"));
    let urls = ["/here/index.m3u8", "/late/master.m3u8"].map(|path| origin.url(path).to_string());
    let sender = start(&[&urls[0], &urls[1]]).await;
    described(&sender, &["here"]).await;
    let says = status_text(&sender).await;
    assert!(says.contains("lists no rendition yet"), "{says}");
    let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=800000\nindex.m3u8\n";
    origin.set("/late/master.m3u8", Reply::ok(master));
    described(&sender, &["here", "late"]).await;
}
