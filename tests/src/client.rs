//! A plain HTTP client, and the comparison of everything a receiver serves with what its origin serves.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body, complete: a broken connection is an error instead.
    pub body: Bytes,
}

impl Answer {
    /// A header field as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// `multicast`, `repaired` or `unicast`, as the receiver's Cache-Status (RFC 9211) says; empty from an origin.
    pub fn source(&self) -> &str {
        let status = self.header("cache-status");
        status
            .split("detail=")
            .nth(1)
            .map_or("", |rest| rest.split([';', ',', ' ', '"']).next().unwrap_or(""))
    }
}

/// One GET on a connection of its own, with extra header fields.
///
/// # Errors
/// No connection, a broken body, or no complete answer within 30 s.
pub fn get(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let whole = tokio::time::timeout(Duration::from_secs(30), exchange(url, headers)).await;
        whole.with_context(|| format!("{url}: no complete answer within 30 s"))?
    })
}

async fn exchange(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().with_context(|| url.to_owned())?;
    let host = uri.authority().context("no host in the URL")?.to_string();
    let stream =
        tokio::net::TcpStream::connect(&host).await.with_context(|| format!("connecting to {host}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path).header(header::HOST, host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        sender.send_request(request.body(Empty::<Bytes>::new())?).await.with_context(|| url.to_owned())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.with_context(|| format!("{url}: body broken off"))?.to_bytes();
    drop(sender);
    let _ = connection.await;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// What comparing two servers found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Requests compared.
    pub requests: usize,
    /// What differed, one line each.
    pub differences: Vec<String>,
    /// Media bytes that came by multicast, repaired ones included.
    pub by_multicast: usize,
    /// Media bytes in all.
    pub bytes: usize,
}

impl Comparison {
    /// Share of bytes by multicast, 0 to 1.
    pub fn share(&self) -> f64 {
        self.by_multicast as f64 / self.bytes.max(1) as f64
    }

    /// # Errors
    /// Lists the differences when there are any, and complains when nothing was compared.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.requests > 0, "nothing was compared");
        let some: Vec<&str> = self.differences.iter().map(String::as_str).take(10).collect();
        ensure!(
            some.is_empty(),
            "{} of {} differ:\n{}",
            self.differences.len(),
            self.requests,
            some.join("\n")
        );
        Ok(())
    }
}

/// One request of a media presentation: a path below the presentation's folder, and an inclusive byte range.
pub type Piece = (String, Option<(usize, usize)>);

/// Asks two servers for every piece and compares the bytes. `served` and `original` are URLs of the same folder, with a final slash.
pub fn compare(served: &str, original: &str, pieces: &[Piece]) -> Comparison {
    let mut found = Comparison::default();
    for (path, range) in pieces {
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        let headers: Vec<(&str, &str)> = range.iter().map(|range| ("range", range.as_str())).collect();
        let pair = get(&format!("{served}{path}"), &headers)
            .and_then(|ours| Ok((ours, get(&format!("{original}{path}"), &headers)?)));
        found.requests += 1;
        match pair {
            Err(error) => found.differences.push(format!("{path} {range:?}: {error:#}")),
            Ok((ours, theirs)) => {
                if (ours.status, blake3::hash(&ours.body)) != (theirs.status, blake3::hash(&theirs.body)) {
                    let sizes = (ours.body.len(), theirs.body.len());
                    found.differences.push(format!(
                        "{path} {range:?}: status {} and {}, lengths {} and {}, or other bytes",
                        ours.status, theirs.status, sizes.0, sizes.1
                    ));
                }
                found.bytes += ours.body.len();
                if matches!(ours.source(), "multicast" | "repaired") {
                    found.by_multicast += ours.body.len();
                }
            }
        }
    }
    found
}

/// The segments that the media playlists of the master playlist `folder`/master.m3u8 list now. `folder` ends with a slash.
///
/// # Errors
/// When one of them is not served, or names nothing.
pub fn listed(folder: &str) -> anyhow::Result<Vec<Piece>> {
    let mut segments = Vec::new();
    for playlist in uris(folder, "master.m3u8")? {
        ensure!(playlist.ends_with(".m3u8"), "a master playlist names {playlist}");
        segments.extend(uris(folder, &playlist)?.into_iter().map(|segment| (segment, None)));
    }
    ensure!(!segments.is_empty(), "{folder}master.m3u8 leads to no segment");
    Ok(segments)
}

/// The lines of a playlist that are URIs: of media playlists (RFC 8216 section 4.3.4), or of segments.
fn uris(base: &str, path: &str) -> anyhow::Result<Vec<String>> {
    let answer = get(&format!("{base}{path}"), &[])?;
    ensure!(answer.status == 200, "{path}: {}", answer.status);
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let text = String::from_utf8(answer.body.to_vec())?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(|line| format!("{folder}{line}")).collect())
}
