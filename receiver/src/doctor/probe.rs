//! Joins flows that no receiver has joined, for the time of a look, and counts what arrives.

use super::Flow;
use crate::flow::choose_interface;
use mahp_common::Tsi;
use mahp_common::catalog::Endpoint;
use mahp_runtime::error::StartupError;
use mahp_runtime::udp::{MulticastReceiver, ReceiveOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What a probe heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) packets: u64,
    pub(super) error: String,
}

/// Probes by the index of their flow.
pub(super) struct Probes(BTreeMap<usize, Probe>);

struct Probe {
    packets: Arc<AtomicU64>,
    error: String,
    task: Option<JoinHandle<()>>,
}

impl Probes {
    /// Joins what is not joined. Outside a tokio runtime nothing is joined.
    pub(super) fn join(flows: &[Flow]) -> Probes {
        let Ok(runtime) = Handle::try_current() else { return Probes(BTreeMap::new()) };
        let wanted = flows.iter().enumerate().filter(|(_, f)| !f.joined && f.group.is_some());
        Probes(wanted.map(|(i, flow)| (i, Probe::start(&runtime, flow))).collect())
    }

    /// Leaves, and tells what was heard.
    pub(super) fn end(self) -> BTreeMap<usize, Heard> {
        let heard = |p: Probe| {
            if let Some(task) = &p.task {
                task.abort();
            }
            Heard { packets: p.packets.load(Ordering::Relaxed), error: p.error }
        };
        self.0.into_iter().map(|(i, p)| (i, heard(p))).collect()
    }
}

impl Probe {
    fn start(runtime: &Handle, flow: &Flow) -> Probe {
        let packets = Arc::new(AtomicU64::new(0));
        let _inside = runtime.enter();
        let (task, error) = match open(flow) {
            Ok(socket) => (Some(runtime.spawn(count(socket, packets.clone()))), String::new()),
            Err(e) => (None, e.to_string()),
        };
        Probe { packets, error, task }
    }
}

fn open(flow: &Flow) -> Result<MulticastReceiver, StartupError> {
    let group = flow.group.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let endpoint = Endpoint { source: flow.source, group, port: flow.port, tsi: Tsi(0) };
    let name = (!flow.interface.is_empty()).then_some(flow.interface.as_str());
    let interface = choose_interface(name, &endpoint)?;
    MulticastReceiver::join(&ReceiveOptions {
        source: flow.source,
        group,
        port: flow.port,
        interface,
        receive_buffer: 4 << 20,
    })
}

async fn count(mut socket: MulticastReceiver, packets: Arc<AtomicU64>) {
    while let Ok(n) = socket.receive(|_, _| {}).await {
        packets.fetch_add(n as u64, Ordering::Relaxed);
    }
}
