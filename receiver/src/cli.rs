//! The command line: session first, flags called like the configuration keys, environment `MAHP_RECEIVER_…`.

use crate::config::Settings;
use mahp_runtime::settings::{ConfigCommand, Shell};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Rebuilds segments from IP multicast and serves unmodified players over HTTP.
#[derive(clap::Parser, Clone, Debug, Default)]
#[command(name = "mahp-receiver", version, after_help = COMMON_MISTAKES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Senders: URLs of session descriptions, or SOURCE@GROUP:PORT [default: those of the configuration file]
    #[arg(value_name = "SESSION")]
    pub sessions: Vec<String>,
    /// Configuration file (TOML) [default: ./mahp-receiver.toml, else /etc/mahp/receiver.toml]
    #[arg(long, short, env = "MAHP_RECEIVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// All options.
    #[command(flatten)]
    pub settings: Settings,
    /// Another command than receiving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands besides receiving.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Ask a running receiver how it goes
    Status {
        /// Its admin address [default: 127.0.0.1:7791]
        #[arg(long, env = "MAHP_RECEIVER_ADMIN", value_name = "ADDRESS:PORT")]
        admin: Option<SocketAddr>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a session description and show what it offers, without joining anything
    Probe {
        /// URL of the session description
        #[arg(value_name = "URL")]
        session: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why nothing arrives: exit status 0 all good, 1 warnings, 2 broken
    Doctor {
        /// Admin address of the running receiver [default: 127.0.0.1:7791]
        #[arg(long, env = "MAHP_RECEIVER_ADMIN", value_name = "ADDRESS:PORT")]
        admin: Option<SocketAddr>,
        /// Flows to look for, as SOURCE@GROUP:PORT [default: those of the running receiver]
        #[arg(value_name = "SOURCE@GROUP:PORT")]
        flows: Vec<String>,
        /// Interface the flows should arrive on [default: that of the route to each source]
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at configurations
    Config {
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print completions of this command line for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

const COMMON_MISTAKES: &str = "\
Common mistakes:
  Joined but no data: `mahp-receiver doctor` names the cause (wrong source, reverse path filter, firewall, buffer, nothing sent).
  Joined on the wrong interface: name it with --interface eth1; the banner says which one is used.
  Works for four minutes, then stops: a switch without an IGMP querier; enable one in the VLAN.
  Players elsewhere get 403: only local addresses are answered; add the network that the answer names with --allow-from.
  An origin is refused with 403: name its host with --allow-origin.";
