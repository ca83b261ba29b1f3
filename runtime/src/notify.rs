//! Telling the service manager how we are: the notification protocol of systemd (`sd_notify`), which procd and containers lack;
//! without `NOTIFY_SOCKET` in the environment every call does nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Listeners are bound: start what depends on us.
pub fn ready() {
    tell("READY=1");
}

/// The orderly end has begun.
pub fn stopping() {
    tell("STOPPING=1");
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    let line: String = line.chars().map(|c| if c == '\n' { ' ' } else { c }).collect();
    tell(&format!("STATUS={line}"));
}

/// Reports life at half the interval the unit's `WatchdogSec` asks for, as long as the runtime turns. Does nothing without one.
/// Must be called inside a tokio runtime.
pub fn start_watchdog() {
    let Some(interval) = watchdog_interval(std::env::var_os("WATCHDOG_USEC").as_deref(), own_turn()) else {
        return;
    };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(interval);
        loop {
            tick.tick().await;
            tell("WATCHDOG=1");
        }
    });
}

/// `WATCHDOG_PID`, where set, names the process that is meant.
fn own_turn() -> bool {
    std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string())
}

fn watchdog_interval(micros: Option<&OsStr>, own_turn: bool) -> Option<Duration> {
    let micros: u64 = micros?.to_str()?.parse().ok()?;
    (own_turn && micros > 0).then(|| Duration::from_micros((micros / 2).max(1)))
}

fn tell(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(e) = send(&socket, state)
    {
        tracing::debug!(error = %e, state, "the service manager was not told");
    }
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn send(socket: &OsString, state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;

    #[test]
    fn speaks_to_an_abstract_socket_and_to_a_path() {
        let name = format!("mahp-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(&OsString::from(format!("@{name}")), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let n = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");

        let path = std::env::temp_dir().join(format!("{name}.sock"));
        let listener = UnixDatagram::bind(&path).unwrap();
        send(&path.clone().into_os_string(), "STOPPING=1").unwrap();
        let n = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"STOPPING=1");
        std::fs::remove_file(&path).unwrap();
        assert!(send(&path.into_os_string(), "READY=1").is_err());
    }

    #[test]
    fn watchdog_interval_is_half_and_only_ours() {
        let on = |s: &str, own| watchdog_interval(Some(OsStr::new(s)), own);
        assert_eq!(on("10000000", true), Some(Duration::from_secs(5)));
        assert_eq!(on("10000000", false), None);
        assert_eq!(on("0", true), None);
        assert_eq!(on("soon", true), None);
        assert_eq!(watchdog_interval(None, true), None);
    }
}
