//! What the settings of both programs share: their `config` and `completions` commands, the words for a value that cannot be, the state folder.

use crate::config::nearest;
use crate::error::StartupError;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

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
pub fn table(settings: &impl Serialize) -> toml::Table {
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

/// Where settings come from, for errors: which file and which tables of it, and what command line and environment gave instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    file: Option<PathBuf>,
    /// In order of precedence.
    tables: Vec<Table>,
    /// Keys that command line or environment have given.
    given: BTreeSet<String>,
}

/// A table of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// `[name]`.
    One(&'static str),
    /// `[[name]]`, by its number from 0.
    Nth(&'static str, usize),
}

impl Place {
    /// Settings of these tables of `file`. `given`: those that command line and environment have put over it.
    pub fn new(file: Option<&Path>, tables: Vec<Table>, given: &impl Serialize) -> Place {
        Place {
            file: file.map(Path::to_owned),
            tables,
            given: table(given).into_iter().map(|(k, _)| k).collect(),
        }
    }

    /// As [`Place::new`]; `key` is on the command line too, where it is no flag.
    #[must_use]
    pub fn with_given(mut self, key: &str, is_given: bool) -> Place {
        if is_given {
            self.given.insert(key.to_owned());
        }
        self
    }

    /// `E-CONFIG`: this key cannot have this value.
    pub fn wrong(&self, key: &str, value: &str, hint: &str) -> StartupError {
        self.locate(
            key,
            StartupError::usage("E-CONFIG", format!("{} cannot be {value}", self.name(key)), hint),
        )
    }

    /// An error that the value of this key has brought about: told with file, line and key where it comes from a file.
    pub fn blame(&self, key: &str, mut error: StartupError) -> StartupError {
        if self.is_of_file(key) {
            error.message = format!("{}: {}", self.name(key), error.message);
        }
        self.locate(key, error)
    }

    fn is_of_file(&self, key: &str) -> bool {
        self.file.is_some() && !self.given.contains(key)
    }

    fn locate(&self, key: &str, mut error: StartupError) -> StartupError {
        match self.file.as_deref().filter(|_| self.is_of_file(key)) {
            Some(file) => {
                let line = self.line(file, key).map_or_else(String::new, |line| format!(":{line}"));
                error.message = format!("{}{line}: {}", file.display(), error.message);
            }
            // A file is at hand, and not to blame.
            None if self.file.is_some() => error.message.push_str(" (command line or environment)"),
            None => {}
        }
        error
    }

    /// The key, and the table it is of where there may be several.
    fn name(&self, key: &str) -> String {
        match self.tables.first().filter(|_| self.is_of_file(key)) {
            Some(Table::Nth(name, n)) => format!("`{key}` of {name} {}", n + 1),
            _ => format!("`{key}`"),
        }
    }

    /// The line of the key, else that of its table.
    fn line(&self, file: &Path, key: &str) -> Option<usize> {
        let text = std::fs::read_to_string(file).ok()?;
        let root = DeTable::parse(&text).ok()?;
        let tables = || self.tables.iter().filter_map(|t| t.find(root.get_ref()));
        let at = tables().find_map(|(_, table)| Some(table.get_key_value(key)?.0.span().start));
        let at = at.or_else(|| tables().next().map(|(at, _)| at))?;
        Some(text.get(..at)?.matches('\n').count() + 1)
    }
}

impl Table {
    /// Where it begins, and what is in it.
    fn find<'a>(&self, root: &'a DeTable<'a>) -> Option<(usize, &'a DeTable<'a>)> {
        let value = match self {
            Table::One(name) => root.get(*name)?,
            Table::Nth(name, n) => match root.get(*name)?.get_ref() {
                DeValue::Array(all) => all.get(*n)?,
                _ => return None,
            },
        };
        match value.get_ref() {
            DeValue::Table(table) => Some((value.span().start, table)),
            _ => None,
        }
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

/// Reads the command line.
///
/// # Errors
/// `E-USAGE`. Help and version are printed, and end the program.
pub fn parse_args<C: clap::Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, StartupError> {
    C::try_parse_from(args).map_err(|e| match e.use_stderr() {
        true => usage(C::command().get_name(), &e.render().to_string()),
        false => e.exit(),
    })
}

/// What clap says, in our form. Its paragraphs: what is wrong, tips, the usage, where to find more.
fn usage(program: &str, text: &str) -> StartupError {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut message = Vec::new();
    let mut hints = Vec::new();
    for line in
        text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("For more information"))
    {
        match line.strip_prefix("tip: ") {
            Some(tip) => hints.push(tip.to_owned()),
            None => message.push(line),
        }
    }
    hints.push(format!("{program} --help"));
    StartupError::usage("E-USAGE", message.join(" "), hints.join("\n"))
}

/// Variables of the environment that begin like those of the program and are none of them, each with the nearest one.
pub fn unknown_variables<C: clap::CommandFactory>(
    prefix: &str,
    set: impl Iterator<Item = OsString>,
) -> Vec<String> {
    let mut known = BTreeSet::new();
    variables(&C::command(), &mut known);
    // Prefixes are alike anyway, and would make everything near.
    let known: Vec<String> =
        known.iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect();
    let told = |name: OsString| {
        let rest = name.to_str()?.strip_prefix(prefix)?;
        let rest = Some(rest).filter(|rest| known.iter().all(|k| k != rest))?;
        let advice = match nearest(rest, &known) {
            Some(near) => format!("did you mean {prefix}{near}?"),
            None => "--help names those that exist".to_owned(),
        };
        Some(format!("{prefix}{rest}: no such variable, it is ignored; {advice}"))
    };
    set.filter_map(told).collect()
}

fn variables(command: &clap::Command, known: &mut BTreeSet<String>) {
    known.extend(command.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned())));
    command.get_subcommands().for_each(|c| variables(c, known));
}

/// Warns of [`unknown_variables`] of this process.
pub fn warn_of_variables<C: clap::CommandFactory>(prefix: &str) {
    for text in unknown_variables::<C>(prefix, std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("W-ENVIRONMENT: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser, Debug)]
    #[command(name = "program")]
    struct Cli {
        #[arg(long, env = "MAHP_TEST_GROUP_BASE")]
        group_base: Option<std::net::IpAddr>,
        #[arg(long, env = "MAHP_TEST_TTL")]
        ttl: Option<u8>,
    }

    const FILE: &str =
        "[defaults]\nrepair = 20\n\n[[channel]]\nurl = \"x\"\n\n[[channel]]\n# no URL\nname = \"n\"\n";

    fn text(tables: Vec<Table>, key: &str, given: &[(&str, u8)]) -> String {
        let path =
            std::env::temp_dir().join(format!("mahp-place-{}-{}.toml", std::process::id(), fastrand()));
        std::fs::write(&path, FILE).unwrap();
        let given: std::collections::BTreeMap<&str, u8> = given.iter().copied().collect();
        let text = Place::new(Some(&path), tables, &given).wrong(key, "this", "").message;
        std::fs::remove_file(&path).unwrap();
        text.replace(&path.display().to_string(), "FILE")
    }

    fn fastrand() -> u64 {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    }

    #[test]
    fn a_value_of_a_file_is_named_with_its_line() {
        let channel = |n| vec![Table::Nth("channel", n), Table::One("defaults")];
        assert_eq!(text(channel(0), "url", &[]), "FILE:5: `url` of channel 1 cannot be this");
        assert_eq!(text(channel(1), "name", &[]), "FILE:9: `name` of channel 2 cannot be this");
        assert_eq!(text(channel(1), "repair", &[]), "FILE:2: `repair` of channel 2 cannot be this");
        assert_eq!(text(channel(1), "url", &[]), "FILE:7: `url` of channel 2 cannot be this", "its table");
        assert_eq!(text(vec![Table::One("none")], "url", &[]), "FILE: `url` cannot be this");
        let given = text(channel(0), "url", &[("url", 1)]);
        assert_eq!(given, "`url` cannot be this (command line or environment)");
        assert_eq!(Place::default().wrong("url", "this", "").message, "`url` cannot be this");
        let error = StartupError::usage("E-URL", "no", "yes");
        assert_eq!(Place::default().blame("url", error.clone()), error);
    }

    #[test]
    fn what_clap_refuses_has_a_code_and_a_way_out() {
        let refused = |args: &[&str]| {
            let args = ["program"].iter().chain(args).map(OsString::from);
            let error = parse_args::<Cli>(args).unwrap_err();
            assert_eq!((error.code, error.exit), ("E-USAGE", 2));
            assert!(error.hint.ends_with("program --help"), "{error}");
            error.to_string()
        };
        let value = refused(&["--group-base", "banana"]);
        assert!(
            value.contains("'banana' for '--group-base <GROUP_BASE>': invalid IP address syntax"),
            "{value}"
        );
        let near = refused(&["--group-bas", "1.2.3.4"]);
        assert!(near.contains("'--group-bas'") && near.contains("try: a similar argument exists"), "{near}");
        assert_eq!(Cli::parse_from(["program", "--ttl", "3"]).ttl, Some(3));
        assert!(Cli::parse_from(["program"]).group_base.is_none());
    }

    #[test]
    fn unknown_variables_are_told_with_the_nearest() {
        let set = ["MAHP_TEST_TTL", "MAHP_TEST_GROUPBASE", "MAHP_TEST_X", "MAHP_LOG", "PATH"];
        let told = unknown_variables::<Cli>("MAHP_TEST_", set.iter().map(OsString::from));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("MAHP_TEST_GROUPBASE: ")
                && told[0].ends_with("did you mean MAHP_TEST_GROUP_BASE?")
        );
        assert!(told[1].starts_with("MAHP_TEST_X: ") && !told[1].contains("mean"), "{told:?}");
    }
}
