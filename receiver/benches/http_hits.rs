//! Throughput of hits: what is in the store, over loopback connections that are kept, beside nginx on the same files.
//!
//! `cargo bench -p mahp-receiver --bench http_hits`. Prints a table for `docs/benchmarks.md`: answers and bytes per second with
//! one server thread each, and CPU-seconds of the server per GB. nginx is left out where it is not installed.

use bytes::Bytes;
use mahp_common::catalog::{Channel, Format};
use mahp_common::{Digest, ObjectMeta, Payload};
use mahp_receiver::http::{Front, Options, server};
use mahp_receiver::library::{Availability, Library, ManifestState, RepairPlan, ResourceKey, Source, Stored};
use mahp_receiver::origin::upstream::Web;
use mahp_receiver::served::Served;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::Fetcher;
use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [(&str, usize); 3] =
    [("playlist 2 kB", 2_000), ("segment 500 kB", 500_000), ("segment 4 MB", 4_000_000)];
const CONNECTIONS: [usize; 2] = [1, 16];
const RUN: Duration = Duration::from_secs(3);
/// Size of the pieces that the store holds: source blocks.
const BLOCK: usize = 1 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    // The benchmark starts itself as the server, so that its CPU time can be told from the client's.
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    // `cargo test --all-targets` starts it, too.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let folder = Folder::new()?;
    let ours = ours()?;
    let mut servers = vec![("mahp-receiver", "/live/bench/", ours)];
    match nginx(&folder.0) {
        Ok(server) => servers.push(("nginx", "/", server)),
        Err(e) => println!("nginx is left out: {e}"),
    }
    println!("| server | object | connections | answers/s | MB/s | CPU-s/GB |\n|---|---|---|---|---|---|");
    for (what, size) in SIZES {
        for connections in CONNECTIONS {
            for (name, prefix, server) in &servers {
                let path = format!("{prefix}{size}.ts");
                load(server.address, &path, size, 1, Duration::from_millis(300))?;
                let before = server.cpu_seconds()?;
                let (answers, took) = load(server.address, &path, size, connections, RUN)?;
                let cpu = server.cpu_seconds()? - before;
                let bytes = (answers * size) as f64;
                println!(
                    "| {name} | {what} | {connections} | {:.0} | {:.0} | {:.2} |",
                    answers as f64 / took.as_secs_f64(),
                    bytes / took.as_secs_f64() / 1e6,
                    cpu / (bytes / 1e9)
                );
            }
        }
    }
    Ok(())
}

/// Answers over kept connections until the time is up: how many, in what time.
fn load(
    address: SocketAddr,
    path: &str,
    size: usize,
    connections: usize,
    time: Duration,
) -> Outcome<(usize, Duration)> {
    let start = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
            std::thread::spawn(move || client(address, &request, size, start + time))
        })
        .collect();
    let mut answers = 0;
    for client in clients {
        answers += client.join().map_err(|_| "a client panicked")?.map_err(|e| e.to_string())?;
    }
    Ok((answers, start.elapsed()))
}

fn client(address: SocketAddr, request: &str, size: usize, until: Instant) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    let mut answers = 0;
    while Instant::now() < until {
        stream.write_all(request.as_bytes())?;
        let mut filled = 0;
        let head = loop {
            filled += stream.read(&mut buffer[filled..])?;
            if let Some(at) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..head]));
        let mut left = size - (filled - head);
        while left > 0 {
            left -= stream.read(&mut buffer)?;
        }
        answers += 1;
    }
    Ok(answers)
}

/// A server in a process of its own; ended when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Of the process and its children (nginx's worker).
    fn cpu_seconds(&self) -> Outcome<f64> {
        let own = self.process.id().to_string();
        let mut ticks = 0.0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may hold spaces: state, parent, …; user and system time are fields 14 and 15.
            let Some((head, rest)) = stat.rsplit_once(')') else { continue };
            let fields: Vec<&str> = rest.split_whitespace().collect();
            if head.split(' ').next() == Some(&own) || fields.get(1) == Some(&own.as_str()) {
                ticks += fields
                    .get(11..13)
                    .into_iter()
                    .flatten()
                    .filter_map(|f| f.parse::<f64>().ok())
                    .sum::<f64>();
            }
        }
        Ok(ticks / 100.0)
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Outcome<Folder> {
        let path = std::env::temp_dir().join(format!("mahp-http-hits-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        for (_, size) in SIZES {
            fs::write(path.join(format!("{size}.ts")), content(size))?;
        }
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn nginx(folder: &Path) -> Outcome<Server> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let root = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
         client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;\n\
         uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;\n\
         server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let process =
        Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(folder).stderr(Stdio::null()).spawn()?;
    let server = Server { process, address: ([127, 0, 0, 1], port).into() };
    let give_up = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(server.address).is_err() {
        if Instant::now() > give_up {
            return Err("it does not listen".into());
        }
        std::thread::yield_now();
    }
    Ok(server)
}

fn ours() -> Outcome<Server> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    Ok(Server { process, address: line.trim().parse()? })
}

fn serve() -> Outcome<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let clock = Clock::new();
        let library = Arc::new(Shelf::new(clock));
        let web = Arc::new(Web::new(Fetcher::new("bench")));
        let front = Front::new(library, web, Arc::new(Served::default()), clock, Options::default(), None);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        server::serve(listener, front, CancellationToken::new()).await;
        Ok(())
    })
}

/// A library that has everything.
struct Shelf {
    channel: Arc<Channel>,
    objects: HashMap<ResourceKey, Arc<Stored>>,
    changes: watch::Sender<u64>,
}

impl Shelf {
    fn new(clock: Clock) -> Shelf {
        let object = |size: usize| {
            let url = format!("http://origin.example/{size}.ts");
            let body = Bytes::from(content(size));
            let meta = ObjectMeta {
                url: url.clone(),
                content_type: Some("video/mp2t".into()),
                length: size as u64,
                digest: Some(Digest::of(&body)),
                ..ObjectMeta::default()
            };
            let payload = Payload::from_chunks(body.chunks(BLOCK).map(|c| body.slice_ref(c)));
            let stored =
                Stored { meta, payload, source: Source::Multicast, stored_at: clock.now(), good_until: None };
            (ResourceKey(url.into()), Arc::new(stored))
        };
        let channel = Channel {
            name: "bench".into(),
            title: String::new(),
            format: Format::Hls,
            live: false,
            manifest_url: "http://origin.example/master.m3u8".into(),
            prefixes: vec!["http://origin.example/".into()],
            token_parameters: vec![],
            standby_sources: Vec::new(),
            repair_servers: Vec::new(),
            report_url: None,
            moq_url: None,
            target_duration_ms: 2000,
            part_target_ms: None,
            renditions: vec![],
        };
        let objects = SIZES.into_iter().map(|(_, size)| object(size)).collect();
        Shelf { channel: Arc::new(channel), objects, changes: watch::channel(0).0 }
    }
}

impl Library for Shelf {
    fn channels(&self) -> Vec<Arc<Channel>> {
        vec![self.channel.clone()]
    }
    fn key(&self, url: &Url) -> ResourceKey {
        ResourceKey(mahp_common::manifest::url::cache_key(url, &[]).into())
    }
    fn channel_of(&self, _: &Url) -> Option<Arc<Channel>> {
        Some(self.channel.clone())
    }
    fn demand(&self, url: &Url, _: Option<(u64, Option<u64>)>) -> Availability {
        self.objects
            .get(&self.key(url))
            .map_or(Availability::NotComing, |object| Availability::Here(vec![object.clone()]))
    }
    fn piece(&self, url: &Url, _: u64) -> Option<Arc<Stored>> {
        self.objects.get(&self.key(url)).cloned()
    }
    fn manifest(&self, _: &Url) -> Option<ManifestState> {
        None
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn repair_plan(&self, _: &Url, _: Option<(u64, Option<u64>)>) -> Option<RepairPlan> {
        None
    }
    fn feed(&self, _: &RepairPlan, _: u64, _: &[u8]) {}
    fn lasts(&self, _: &Url) -> bool {
        true
    }

    fn put(&self, meta: ObjectMeta, body: Bytes, _: Duration) -> Arc<Stored> {
        let stored_at = mahp_common::Time::ZERO;
        Arc::new(Stored { meta, payload: body.into(), source: Source::Unicast, stored_at, good_until: None })
    }
    fn teach_playlist(&self, _: &[Url], _: &[Url]) {}
    fn unheard_sessions(&self) -> bool {
        false
    }
    fn hold_budget(&self) -> Duration {
        Duration::ZERO
    }
}
