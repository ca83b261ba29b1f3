//! Media over QUIC is not in this build (cargo feature `moq`): every publisher fails, and another way is taken.

use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::served::Served;
use mahp_common::repair::plan::{Outcome, Server};
use mahp_common::{Esi, Sbn};
use std::sync::Arc;
use url::Url;

/// Nobody.
#[derive(Clone)]
pub(crate) struct Publishers;

impl Publishers {
    /// Nobody.
    pub(crate) fn new(_: Arc<Hub>, _: Arc<Served>) -> Publishers {
        Publishers
    }

    /// Fails.
    pub(crate) async fn symbols(
        &self,
        server: Server,
        _: &Url,
        _: &Wanted,
        _: &[(Sbn, Esi, u32)],
    ) -> Outcome {
        Outcome::Failed(server)
    }

    /// Fails.
    pub(crate) async fn object(&self, server: Server, _: &Url, _: &Wanted) -> Outcome {
        Outcome::Failed(server)
    }
}

/// There is nobody to follow.
pub(crate) async fn follow(_: Publishers) {}
