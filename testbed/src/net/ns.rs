//! Network namespaces held by file descriptors.

use mahp_runtime::error::StartupError;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// What to do where namespaces are forbidden.
const REMEDY: &str = "run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1,\n\
     kernel.apparmor_restrict_unprivileged_userns=0), or use --no-namespaces, which shows less";

/// Puts this process into a network namespace of its own; without root, into a user namespace where it is root.
///
/// Must be called while the process has one thread.
pub fn enter_own() -> Result<(), StartupError> {
    // SAFETY: geteuid(2) and getegid(2) have no arguments and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let root = user == 0;
    let flags = if root { libc::CLONE_NEWNET } else { libc::CLONE_NEWUSER | libc::CLONE_NEWNET };
    let refused = |e: io::Error| {
        let message = format!("cannot make a network namespace: {e}");
        StartupError::runtime("E-NAMESPACE", message, REMEDY)
    };
    unshare(flags).map_err(refused)?;
    if !root {
        std::fs::write("/proc/self/setgroups", "deny").map_err(refused)?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(refused)?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(refused)?;
    }
    Ok(())
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: unshare(2) takes an integer and touches no memory of ours.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the calling thread into a namespace. Async-signal-safe.
pub(crate) fn set(namespace: RawFd) -> io::Result<()> {
    // SAFETY: setns(2) takes two integers.
    if unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A network namespace. It ends with the last process, socket or descriptor in it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// An empty one: not even the loopback interface is up.
    pub fn new() -> io::Result<Namespace> {
        let make = || {
            unshare(libc::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        std::thread::scope(|scope| scope.spawn(make).join())
            .map_err(|_| io::Error::other("a thread broke off"))?
            .map(|file| Namespace { file })
    }

    /// Its descriptor.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a thread of its own in the namespace. Sockets it opens stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let inside = || {
            set(self.fd())?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| io::Error::other("a thread broke off"))?
    }

    /// Starts a thread in the namespace.
    pub fn spawn(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let file = self.file.try_clone()?;
        std::thread::Builder::new().name(name.into()).spawn(move || {
            if set(file.as_raw_fd()).is_ok() {
                work();
            }
        })
    }
}
