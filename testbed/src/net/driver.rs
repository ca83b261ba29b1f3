//! The thread between the sockets of the legs and the [`Switch`].

use super::socket::PacketSocket;
use crate::emu::Switch;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames taken from one leg before the next has its turn.
const BURST: usize = 64;
/// Longest sleep: changes of impairments and the end are noticed.
const SLEEP: Duration = Duration::from_millis(20);

/// A running emulator. Dropping it ends it.
#[derive(Debug)]
pub struct Emulator {
    switch: Arc<Mutex<Switch>>,
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    pub(super) fn start(switch: Switch, sockets: Vec<PacketSocket>) -> io::Result<Emulator> {
        let switch = Arc::new(Mutex::new(switch));
        let stop = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU64::new(0));
        let mut work = Work {
            switch: switch.clone(),
            sockets,
            stop: stop.clone(),
            lost: lost.clone(),
            looked: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("emulator".into()).spawn(move || work.run())?;
        Ok(Emulator { switch, stop, lost, thread: Some(thread) })
    }

    /// The switch.
    pub fn switch(&self) -> MutexGuard<'_, Switch> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames lost because this machine was too slow: anything but 0 spoils a measurement.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed) + self.switch().overflow()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    switch: Arc<Mutex<Switch>>,
    sockets: Vec<PacketSocket>,
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    looked: Instant,
}

impl Work {
    fn run(&mut self) {
        let poll = |s: &PacketSocket| libc::pollfd { fd: s.fd(), events: libc::POLLIN, revents: 0 };
        let mut polls: Vec<libc::pollfd> = self.sockets.iter().map(poll).collect();
        while !self.stop.load(Ordering::Relaxed) {
            self.wait(&mut polls);
            self.receive(&polls);
            self.send();
            self.look();
        }
    }

    /// Until a frame comes or one is due.
    fn wait(&self, polls: &mut [libc::pollfd]) {
        let next = self.switch.lock().unwrap_or_else(PoisonError::into_inner).next();
        let wait = next.map_or(SLEEP, |at| at.saturating_duration_since(Instant::now()).min(SLEEP));
        let wait = libc::timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        // SAFETY: the pointers are of a live slice with its length and of a live timespec; no signal mask.
        unsafe {
            libc::ppoll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, &raw const wait, std::ptr::null())
        };
    }

    fn receive(&mut self, polls: &[libc::pollfd]) {
        for (leg, socket) in self.sockets.iter_mut().enumerate() {
            if polls.get(leg).is_none_or(|p| p.revents == 0) {
                continue;
            }
            let mut burst = 0;
            while let Some(frame) = socket.receive() {
                let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
                switch.receive(Instant::now(), leg, frame);
                burst += 1;
                if burst >= BURST {
                    break;
                }
            }
        }
    }

    fn send(&self) {
        loop {
            let due = self.switch.lock().unwrap_or_else(PoisonError::into_inner).poll(Instant::now());
            let Some((leg, frame)) = due else { return };
            if !self.sockets.get(leg).is_some_and(|s| s.send(&frame)) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Once a second: what the kernel dropped.
    fn look(&mut self) {
        if self.looked.elapsed() >= Duration::from_secs(1) {
            self.looked = Instant::now();
            let dropped: u64 = self.sockets.iter().map(PacketSocket::dropped).sum();
            self.lost.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}
