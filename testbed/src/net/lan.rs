//! Hosts with addresses, and the emulator between them.

use super::driver::Emulator;
use super::netlink::{End, Netlink};
use super::ns::Namespace;
use super::socket::{self, PacketSocket};
use crate::emu::switch::Count;
use crate::emu::{Direction, Impairment, Switch, TrafficClass};
use crate::link::{self, Link};
use anyhow::Context;
use mahp_common::catalog::SessionDescription;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Port of what a program offers, in namespaces.
const HTTP_PORT: u16 = 7790;
/// Port of what it tells about itself.
const ADMIN_PORT: u16 = 7791;
/// Further addresses of a host begin here: one host of a scenario may have them.
const MORE: Ipv4Addr = Ipv4Addr::new(10, 77, 128, 1);
/// The same on the loopback interface, which has them all.
const MORE_ON_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 77, 128, 1);
/// Hosts made by this process.
static MADE: AtomicU32 = AtomicU32::new(0);
/// The interface of every host.
pub const INTERFACE: &str = "eth0";

/// A host: a network namespace with one interface.
#[derive(Debug)]
pub struct Host {
    /// Its name, unique.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
    /// Index of its leg.
    pub leg: usize,
    /// Port of what its program offers to others, and of what it tells about itself.
    pub ports: [u16; 2],
    namespace: Option<Namespace>,
}

impl Host {
    /// Gives it so many addresses more, one after the other; returns the first.
    pub fn more_addresses(&self, count: usize) -> anyhow::Result<Ipv4Addr> {
        let Some(namespace) = &self.namespace else { return Ok(MORE_ON_LOOPBACK) };
        let count = count.min(32_000);
        namespace.run(|| {
            let (mut netlink, index) = (Netlink::open()?, socket::index(INTERFACE)?);
            for bits in (MORE.to_bits()..).take(count) {
                match netlink.address(index, IpAddr::V4(Ipv4Addr::from_bits(bits)), 16) {
                    // The program on this host was restarted.
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                    other => other?,
                }
            }
            anyhow::Ok(MORE)
        })?
    }

    /// Its namespace; none on the loopback interface.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }
}

/// All hosts and what is between them.
#[derive(Debug)]
pub struct Lan {
    hosts: Vec<Host>,
    emulator: Emulator,
    /// In place of namespaces and emulator.
    loopback: Option<Loopback>,
}

/// The bad link of the loopback interface, once it is known which flows there are.
#[derive(Debug, Default)]
struct Loopback {
    link: OnceLock<Link>,
    now: Mutex<link::Impairment>,
    seed: u64,
}

/// Where the sender sends from on the loopback interface.
const UPSTREAM: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where receivers hear the link from there.
const DOWNSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

impl Lan {
    /// Makes a host for each name, 10.77.0.2 and fd77::2 upwards. The process must be in a network namespace of its own.
    pub fn new(names: &[String], seed: u64) -> anyhow::Result<Lan> {
        let mut netlink = Netlink::open().context("no netlink socket")?;
        let mut hosts = Vec::new();
        let mut sockets = Vec::new();
        let mut macs = Vec::new();
        for (leg, name) in names.iter().enumerate() {
            let number = u16::try_from(leg + 2).context("too many hosts")?;
            let (host, socket) = host(&mut netlink, name, leg, number)
                .with_context(|| format!("cannot make host {name} ({})", advice()))?;
            macs.push(mac(number, 1));
            hosts.push(host);
            sockets.push(socket);
        }
        let emulator = Emulator::start(Switch::new(&macs, seed), sockets).context("no emulator thread")?;
        Ok(Lan { hosts, emulator, loopback: None })
    }

    /// All hosts on the loopback interface, with ports of their own; no privileges needed.
    pub fn loopback(names: &[String], seed: u64) -> anyhow::Result<Lan> {
        let free = || anyhow::Ok(TcpListener::bind((UPSTREAM, 0))?.local_addr()?.port());
        let host = |(leg, name): (usize, &String)| {
            let (address, address6) = (UPSTREAM, Ipv6Addr::LOCALHOST);
            let ports = [free()?, free()?];
            anyhow::Ok(Host { name: name.clone(), address, address6, leg, ports, namespace: None })
        };
        let hosts = names.iter().enumerate().map(host).collect::<anyhow::Result<Vec<_>>>()?;
        let macs: Vec<_> = (0..hosts.len()).map(|n| mac(u16::try_from(n).unwrap_or(0), 1)).collect();
        let emulator = Emulator::start(Switch::new(&macs, seed), Vec::new())?;
        Ok(Lan { hosts, emulator, loopback: Some(Loopback { seed, ..Loopback::default() }) })
    }

    /// Whether there are no namespaces.
    pub fn is_loopback(&self) -> bool {
        self.loopback.is_some()
    }

    /// What the sender announces as its address, when that is not its own.
    pub fn announced(&self) -> Option<Ipv4Addr> {
        self.loopback.as_ref().map(|_| DOWNSTREAM)
    }

    /// Joins the flows of a description on the loopback interface; with namespaces there is nothing to do.
    pub fn carry(&self, description: &SessionDescription) -> anyhow::Result<()> {
        let Some(loopback) = &self.loopback else { return Ok(()) };
        if loopback.link.get().is_none() {
            let now = loopback.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let link = Link::start(link::endpoints(description), UPSTREAM, &now)?;
            let _ = loopback.link.set(link);
        }
        Ok(())
    }

    /// What is wrong with multicast towards a host, from now on. The loopback interface has one link for all receivers.
    pub fn impair(&self, host: &Host, direction: Direction, class: TrafficClass, impairment: &Impairment) {
        self.emulator.switch().set(host.leg, direction, class, impairment);
        let Some(loopback) = &self.loopback else { return };
        if host.name != "receiver-1" || (direction, class) != (Direction::Down, TrafficClass::Multicast) {
            return;
        }
        let wanted = link::Impairment::of(impairment, loopback.seed);
        let mut now = loopback.now.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != wanted {
            if let Some(link) = loopback.link.get() {
                link.set(&wanted);
            }
            *now = wanted;
        }
    }

    /// Multicast towards a host so far: what the emulator counted, or the link of the loopback interface.
    pub fn count(&self, host: &Host, direction: Direction, class: TrafficClass) -> Count {
        let multicast = (direction, class) == (Direction::Down, TrafficClass::Multicast);
        let link = self.loopback.as_ref().and_then(|l| l.link.get());
        match link.filter(|_| multicast && host.name.starts_with("receiver-")) {
            Some(link) => {
                let total = link.total();
                Count { frames: total.offered, bytes: total.bytes, dropped: total.dropped }
            }
            None => self.emulator.switch().count(host.leg, direction, class),
        }
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// All hosts, in the order of their legs.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What is between them.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }
}

fn advice() -> &'static str {
    "a kernel without veth or a container without CAP_NET_ADMIN? --no-namespaces works everywhere and shows less"
}

fn mac(number: u16, end: u8) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    // Locally administered.
    [0x02, 0x4d, 0x50, end, high, low]
}

fn host(netlink: &mut Netlink, name: &str, leg: usize, number: u16) -> anyhow::Result<(Host, PacketSocket)> {
    let namespace = Namespace::new()?;
    let [high, low] = number.to_be_bytes();
    let address = Ipv4Addr::new(10, 77, high, low);
    let address6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number);
    // Names have 15 letters at most; the numbers make them unique (the kernel takes its time to remove those of a run before), the
    // process id tells whose they are.
    let made = MADE.fetch_add(1, Ordering::Relaxed) % 10_000;
    let hub = format!("mh{made}-{}", std::process::id() % 1_000_000);
    netlink.veth(
        End { name: &hub, mac: mac(number, 0) },
        End { name: INTERFACE, mac: mac(number, 1) },
        namespace.fd(),
    )?;
    namespace.run(|| configure(address, address6))??;
    socket::plain_frames(&hub)?;
    // The testbed's own end speaks no IPv6: its reports and solicitations would be traffic of nobody. Where /proc/sys
    // cannot be written they are a few harmless frames.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{hub}/disable_ipv6"), "1");
    let index = socket::index(&hub)?;
    let socket = PacketSocket::open(index)?;
    netlink.up(index)?;
    let ports = [HTTP_PORT, ADMIN_PORT];
    Ok((Host { name: name.into(), address, address6, leg, ports, namespace: Some(namespace) }, socket))
}

/// In the namespace of a host.
fn configure(address: Ipv4Addr, address6: Ipv6Addr) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    netlink.up(socket::index("lo")?)?;
    let index = socket::index(INTERFACE)?;
    socket::plain_frames(INTERFACE).context("offloads cannot be switched off")?;
    netlink.up(index)?;
    netlink.address(index, IpAddr::V4(address), 16)?;
    netlink.default_route(index, false)?;
    // A kernel without IPv6 still runs IPv4 scenarios.
    if netlink.address(index, IpAddr::V6(address6), 64).is_ok() {
        netlink.default_route(index, true)?;
    }
    Ok(())
}
