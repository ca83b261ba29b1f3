//! What the settings of both programs share: their `config` and `completions` commands, the words for a value that cannot be, the state folder.

use crate::error::StartupError;
use std::path::{Path, PathBuf};

pub use clap_complete::Shell;

/// `config …` of a program.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Print a configuration
    Print {
        /// The built-in defaults: every key with its meaning
        #[arg(long)]
        default: bool,
        /// The file to read; environment and defaults are applied to it
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Read a configuration file and say what is wrong with it
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// The keys of a section of a file of defaults, in its order; those that are comments there, as they have no fixed default, too.
pub fn keys(defaults: &str, section: &str) -> Vec<String> {
    let begins = |line: &str| line.trim_start_matches('#').starts_with('[');
    let key = |line: &str| {
        let name = line.trim_start_matches('#').split_once(" = ")?.0.to_owned();
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-').then_some(name)
    };
    let lines = defaults.lines().skip_while(|l| l.trim_start_matches('#') != format!("[{section}]")).skip(1);
    lines.take_while(|l| !begins(l)).filter_map(key).collect()
}

/// Settings as a table of TOML.
pub fn table(settings: &impl serde::Serialize) -> toml::Table {
    toml::Table::try_from(settings).unwrap_or_default()
}

/// What `config print FILE` says of a section: each key with its value, and where that came from: the first of `sources` that has it.
pub fn explain(keys: &[String], sources: &[(toml::Table, &str)]) -> String {
    let line = |key: &String| match sources.iter().find_map(|(table, from)| Some((table.get(key)?, from))) {
        Some((value, from)) => format!("{key} = {value}  # {from}\n"),
        None => format!("#{key} =  # default: see config print --default\n"),
    };
    keys.iter().map(line).collect()
}

/// Prints the completions of a program's command line.
pub fn completions<C: clap::CommandFactory>(shell: Shell) {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut std::io::stdout());
}

/// Where a setting came from, for errors.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The configuration file, if there is one.
    pub file: Option<&'a Path>,
}

impl Place<'_> {
    /// `E-CONFIG`: this key cannot have this value.
    pub fn wrong(self, key: &str, value: &str, hint: &str) -> StartupError {
        let place =
            self.file.map(|p| format!(" (command line, environment or {})", p.display())).unwrap_or_default();
        StartupError::usage("E-CONFIG", format!("`{key}` cannot be {value}{place}"), hint)
    }
}

/// Where a program keeps what must outlive it: $STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/mahp, else ~/.local/state/mahp.
pub fn state_folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(state) = var("STATE_DIRECTORY") {
        return Some(state);
    }
    let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|h| h.join(".local/state")))?;
    Some(state.join("mahp"))
}
