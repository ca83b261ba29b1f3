//! The command line: URL first, flags called like the configuration keys, environment `MAHP_SENDER_…`.

use crate::config::{ChannelSettings, SenderSettings};
use mahp_runtime::settings::{ConfigCommand, Shell};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Pulls HLS and DASH from web origins and puts each segment once on IP multicast.
#[derive(clap::Parser, Clone, Debug, Default)]
#[command(name = "mahp-sender", version, after_help = COMMON_MISTAKES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// HLS master or media playlist, or DASH MPD; several URLs are several channels
    #[arg(value_name = "URL")]
    pub urls: Vec<String>,
    /// Configuration file (TOML) with any number of channels; `mahp-sender config print --default` writes one
    #[arg(long, short, env = "MAHP_SENDER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show renditions, groups and rates, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: print JSON
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Options of the sender.
    #[command(flatten)]
    pub sender: SenderSettings,
    /// Options of all channels.
    #[command(flatten)]
    pub channel: ChannelSettings,
    /// Another command than sending.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands besides sending.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Ask a running sender how it goes
    Status {
        /// Its admin address [default: 127.0.0.1:7781]
        #[arg(long, env = "MAHP_SENDER_ADMIN", value_name = "ADDRESS:PORT")]
        admin: Option<SocketAddr>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what would be sent of these URLs, and send nothing (as --dry-run)
    Probe {
        /// HLS master or media playlist, or DASH MPD
        #[arg(value_name = "URL", required = true)]
        urls: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Options of the sender.
        #[command(flatten)]
        sender: Box<SenderSettings>,
        /// Options of all channels.
        #[command(flatten)]
        channel: Box<ChannelSettings>,
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

impl Cli {
    /// `probe` is `--dry-run` with other words.
    pub fn of_probe(self) -> Cli {
        match self.command {
            Some(Command::Probe { urls, json, sender, channel }) => {
                Cli { urls, json, dry_run: true, sender: *sender, channel: *channel, ..Cli::default() }
            }
            _ => self,
        }
    }
}

const COMMON_MISTAKES: &str = "\
Common mistakes:
  Receivers in other networks hear nothing: packets live one hop (--ttl 1) until --ttl is raised.
  Packets leave by the wrong interface: name it with --interface eth1; the banner says which one is used.
  A switch without an IGMP querier stops forwarding after about 260 s: enable a querier in the VLAN.
  Late joiners get nothing from a VOD: without --loop everything is sent once.
  Quotes are missing around a URL with `&`: the shell cuts it there.";
