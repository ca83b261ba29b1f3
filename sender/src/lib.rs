//! `mahp-sender` pulls HLS and DASH from web origins and puts each segment once on IP multicast.
//!
//! The way of a segment: [`origin`] follows the manifests and fetches objects, [`flow`] feeds each rendition's
//! [`mahp_common::session::send::SendSession`] and hands its packets to the multicast socket. [`plan`] decides what goes
//! where and how fast, [`description`] tells receivers, [`run`], [`channels`] and [`service`]
//! wire everything and are the only places that start detached tasks.
#![forbid(unsafe_code)]

mod ask;
pub mod channels;
pub mod cli;
pub mod config;
pub mod description;
pub mod flow;
pub mod http;
pub mod key;
pub mod meanings;
#[cfg(feature = "moq")]
pub mod moq;
#[cfg(not(feature = "moq"))]
#[path = "moq_absent.rs"]
pub mod moq;
pub mod origin;
pub mod plan;
pub mod progress;
pub mod repair;
pub mod run;
pub mod service;
pub mod sink;
pub mod spool;
pub mod status;
pub mod still;
pub mod tasks;

use mahp_runtime::error::StartupError;
use mahp_runtime::{files, settings};

/// The whole program: reads arguments, runs until the content ends or a signal comes.
///
/// # Errors
/// What to print, and the exit status: 1 at run time, 2 for usage and configuration.
pub fn main() -> Result<(), StartupError> {
    main_with_args(std::env::args_os())
}

/// As [`main`], with arguments from elsewhere (the first is the program's name): for programs that start this one in a child
/// process of their own executable.
///
/// # Errors
/// As [`main`].
pub fn main_with_args(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<(), StartupError> {
    let cli = settings::parse_args::<cli::Cli>(args)?.of_probe();
    match &cli.command {
        Some(cli::Command::Config { command }) => return config::command(&cli, command),
        Some(cli::Command::Completions { shell }) => {
            settings::completions::<cli::Cli>(*shell);
            return Ok(());
        }
        Some(cli::Command::Status { admin, json }) => return in_runtime(ask::status(*admin, *json)),
        Some(cli::Command::Probe { .. }) | None => {}
    }
    let dry_run = cli.dry_run;
    let json = cli.json;
    let config = config::resolve(cli.clone())?;
    let reread: service::Reread = Box::new(move || config::resolve(cli.clone()));
    mahp_runtime::log::init(config.log_format, "info");
    files::raise_limit();
    settings::warn_of_variables::<cli::Cli>("MAHP_SENDER_");
    in_runtime(async {
        if dry_run { run::dry_run(config, json).await } else { run::run(config, reread).await }
    })
}

fn in_runtime(work: impl Future<Output = Result<(), StartupError>>) -> Result<(), StartupError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_name("mahp-sender").build().map_err(|e| {
        let hint = files::hint(&e).unwrap_or_else(|| "raise the limit of processes (ulimit -u)".to_owned());
        StartupError::runtime("E-RUNTIME", format!("cannot start threads: {e}"), hint)
    })?;
    let result = runtime.block_on(work);
    // Encoding jobs that nobody waits for any more must not delay the exit.
    runtime.shutdown_background();
    result
}
