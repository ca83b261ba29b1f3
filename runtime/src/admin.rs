//! The admin server of both programs: `/metrics`, `/healthz`, `/readyz`, `/api/status`. Loopback unless told otherwise; the
//! `Host` header must be an address or `localhost` (DNS rebinding).

use crate::error::StartupError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the program tells about itself.
pub trait Status: Send + Sync + 'static {
    /// The body of `/api/status`.
    fn status(&self) -> serde_json::Value;
    /// Why it is not ready; empty = ready. `/readyz` answers 503 with these.
    fn not_ready(&self) -> Vec<String>;
    /// Called before `/metrics` is rendered, to set gauges.
    fn before_metrics(&self) {}
    /// Other paths: (status, content type, body).
    fn extra(&self, path: &str) -> Option<(u16, &'static str, Vec<u8>)> {
        let _ = path;
        None
    }
}

/// Installs the Prometheus recorder of this process (once) and returns its handle.
pub fn install_metrics() -> PrometheusHandle {
    todo!("helper runtime")
}

/// Binds and serves until `stop`. Returns the bound address. Errors: `E-PORT-IN-USE`, `E-BIND`.
pub async fn serve(
    listen: SocketAddr,
    handle: PrometheusHandle,
    status: Arc<dyn Status>,
    stop: CancellationToken,
) -> Result<SocketAddr, StartupError> {
    let _ = (listen, handle, status, stop);
    todo!("helper runtime")
}
