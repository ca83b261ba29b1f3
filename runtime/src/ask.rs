//! What the commands `status` and `doctor` ask of a program that runs.

use crate::error::StartupError;
use crate::fetch::{Fetcher, Request};
use bytes::Bytes;
use std::net::SocketAddr;
use url::Url;

/// The answer of a path on the admin server of `program`.
///
/// # Errors
/// `E-ADMIN`: nobody answers there.
pub async fn admin(program: &str, admin: SocketAddr, path: &str) -> Result<Bytes, StartupError> {
    let trouble = |e: String| {
        let hint = format!("is {program} running? its admin address is given with --admin");
        StartupError::runtime("E-ADMIN", e, hint)
    };
    let url = Url::parse(&format!("http://{admin}{path}")).map_err(|e| trouble(e.to_string()))?;
    let response = Fetcher::new(program).get(&url, Request::default()).await;
    response.map(|r| r.body).map_err(|e| trouble(e.to_string()))
}

/// The answer to `/api/status` is no status.
pub fn no_status(program: &str, error: &serde_json::Error) -> StartupError {
    StartupError::runtime(
        "E-ADMIN",
        format!("the answer is not a status: {error}"),
        format!("is that a {program} of this version?"),
    )
}
