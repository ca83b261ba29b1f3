//! `mahp-receiver` rebuilds segments from IP multicast and serves unmodified players over HTTP.
//!
//! The way of a segment: [`flow`] moves datagrams of a joined rendition into its
//! [`mahp_common::session::recv::RecvSession`], [`hub`] puts what comes out into the [`store`], [`http`] answers players out of
//! it, by waiting, or from the [`origin`]. [`description`] tells what there is, [`joins`] what to join, [`expect`] what is worth
//! waiting for. [`run`] wires everything and is the only place that starts long-lived tasks.

pub mod cli;
pub mod config;
pub mod description;
pub mod doctor;
pub mod expect;
pub mod flow;
pub mod freshness;
pub mod histogram;
pub mod http;
pub mod hub;
pub mod joins;
pub mod library;
pub mod meanings;
#[cfg(feature = "moq")]
mod moq;
#[cfg(not(feature = "moq"))]
#[path = "moq_absent.rs"]
mod moq;
pub mod origin;
pub mod page;
mod probe;
pub mod recovery;
pub mod run;
pub mod served;
pub mod snapshot;
pub mod store;
#[cfg(test)]
mod testing;
pub mod urls;

use cli::{Cli, Command};
use mahp_runtime::error::StartupError;
use mahp_runtime::settings::{self, ConfigCommand};
use mahp_runtime::{ask, files, say};
use std::net::{Ipv4Addr, SocketAddr};

/// The whole program: reads arguments, runs until a signal comes. Returns the exit status.
///
/// # Errors
/// What to print, and the exit status: 1 at run time, 2 for usage and configuration.
pub fn main() -> Result<u8, StartupError> {
    main_with_args(std::env::args_os())
}

/// As [`main`], with arguments from elsewhere (the first is the program's name): for programs that start this one in a child
/// process of their own executable.
///
/// # Errors
/// As [`main`].
pub fn main_with_args(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<u8, StartupError> {
    let cli: Cli = settings::parse_args(args)?;
    mahp_runtime::fetch::install_crypto();
    match cli.command.clone() {
        None => receive(&cli),
        Some(Command::Config { command }) => config_command(&cli, &command),
        Some(Command::Completions { shell }) => {
            settings::completions::<Cli>(shell);
            Ok(0)
        }
        Some(Command::Status { admin, json }) => in_runtime(status(admin, json)),
        Some(Command::Probe { session, json }) => in_runtime(probe::run(session, json)),
        Some(Command::Doctor { admin, flows, interface, json }) => {
            in_runtime(doctor_command(admin, flows, interface, json))
        }
    }
}

fn receive(cli: &Cli) -> Result<u8, StartupError> {
    let config = config::load(cli)?;
    mahp_runtime::log::init(config.log_format, "info");
    files::raise_limit();
    settings::warn_of_variables::<Cli>("MAHP_RECEIVER_");
    in_runtime(async {
        let stop = mahp_runtime::shutdown::on_signals();
        let mut reloads = mahp_runtime::shutdown::Reloads::new();
        mahp_runtime::notify::start_watchdog();
        let mut config = config;
        loop {
            let round = stop.child_token();
            let receiver = run::start(config, round.clone()).await?;
            say::line(run::banner(&receiver));
            mahp_runtime::notify::ready();
            let next = stop.run_until_cancelled(reloaded(cli, &mut reloads)).await;
            round.cancel();
            receiver.finished().await;
            let Some(next) = next else { return Ok(0) };
            config = next;
        }
    })
}

/// SIGHUP or `POST /api/reload`: the configuration as it is now. With a mistake in it everything stays as it is.
async fn reloaded(cli: &Cli, reloads: &mut mahp_runtime::shutdown::Reloads) -> config::Config {
    loop {
        let reload = reloads.next().await;
        match config::load(cli).and_then(|config| run::check(&config).map(|()| config)) {
            Ok(config) => {
                tracing::info!("asked to reload: starting anew with the configuration as it is now");
                reload.answer(Ok(()));
                return config;
            }
            Err(error) => {
                tracing::error!("asked to reload, and nothing changes: {error}");
                reload.answer(Err(error));
            }
        }
    }
}

fn in_runtime<T>(work: impl Future<Output = Result<T, StartupError>>) -> Result<T, StartupError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_name("mahp-receiver").build().map_err(|e| {
        let hint = files::hint(&e).unwrap_or_else(|| "raise the limit of processes (ulimit -u)".to_owned());
        StartupError::runtime("E-RUNTIME", format!("cannot start threads: {e}"), hint)
    })?;
    runtime.block_on(work)
}

fn config_command(cli: &Cli, command: &ConfigCommand) -> Result<u8, StartupError> {
    match command {
        ConfigCommand::Print { default: true, .. } => say::out(config::DEFAULT_FILE),
        ConfigCommand::Print { file, .. } => say::out(config::print(cli, file.as_deref())?),
        ConfigCommand::Check { file } => {
            let cli = Cli { config: Some(file.clone()), ..Cli::default() };
            config::load(&cli)?;
            say::line(format_args!("{}: good", file.display()));
        }
    }
    Ok(0)
}

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7791);

async fn status(admin: Option<SocketAddr>, json: bool) -> Result<u8, StartupError> {
    let body = ask::admin("mahp-receiver", admin.unwrap_or(ADMIN), "/api/status").await?;
    if json {
        say::line(String::from_utf8_lossy(&body));
        return Ok(0);
    }
    let snapshot: snapshot::Snapshot =
        serde_json::from_slice(&body).map_err(|e| ask::no_status("mahp-receiver", &e))?;
    say::out(snapshot.text());
    Ok(0)
}

async fn doctor_command(
    admin: Option<SocketAddr>,
    named: Vec<String>,
    interface: Option<String>,
    json: bool,
) -> Result<u8, StartupError> {
    let admin = admin.unwrap_or(ADMIN);
    let flows = if named.is_empty() {
        doctor::Flows::of(admin).await?
    } else {
        doctor::Flows::named(&named, interface)?
    };
    let runtime = tokio::runtime::Handle::current();
    let sessions = flows.sessions().await;
    let look = move || doctor::diagnose(sessions, || flows.now(&runtime));
    let report = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    match json {
        true => say::line(serde_json::to_string_pretty(&report).unwrap_or_default()),
        false => say::out(doctor::text(&report)),
    }
    Ok(report.severity.exit_code())
}
