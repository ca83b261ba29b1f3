//! `mahp-sender config …`: the defaults, what a file comes to, and whether it is sound.

use super::{DEFAULT_FILE, File, PROGRAM, resolve};
use crate::cli::Cli;
use mahp_runtime::error::StartupError;
use mahp_runtime::say;
use mahp_runtime::settings::{self, ConfigCommand};
use std::path::Path;

/// `mahp-sender config …`.
///
/// # Errors
/// `E-CONFIG` of the file.
pub fn command(cli: &Cli, command: &ConfigCommand) -> Result<(), StartupError> {
    match command {
        ConfigCommand::Print { default: true, .. } => {
            say::out(DEFAULT_FILE);
            Ok(())
        }
        ConfigCommand::Print { file, .. } => {
            say::out(print(cli, file.as_deref())?);
            Ok(())
        }
        ConfigCommand::Check { file } => {
            let config = resolve(Cli { config: Some(file.clone()), ..Cli::default() })?;
            say::line(format_args!("{}: good, {} channel(s)", file.display(), config.channels.len()));
            Ok(())
        }
    }
}

/// The text of `config print FILE`: each key, its value and where that came from; of each channel, what the file says of it.
fn print(cli: &Cli, file: Option<&Path>) -> Result<String, StartupError> {
    let given: File =
        file.map(|path| mahp_runtime::config::load(PROGRAM, path)).transpose()?.unwrap_or_default();
    let defaults: File = mahp_runtime::config::parse("defaults", DEFAULT_FILE)?;
    let path = file.map(|p| p.display().to_string()).unwrap_or_default();
    let explain = |section, sources: [toml::Table; 3]| {
        let [environment, given, default] = sources;
        let sources = [(environment, "environment"), (given, &*path), (default, "default")];
        format!("[{section}]\n{}", settings::explain(&settings::keys(DEFAULT_FILE, section), &sources))
    };
    let tables = [&cli.sender, &given.sender, &defaults.sender].map(settings::table);
    let mut out = explain("sender", tables);
    let tables = [&cli.channel, &given.defaults, &defaults.defaults].map(settings::table);
    out.push_str(&format!("\n{}", explain("defaults", tables)));
    for channel in given.channel.iter().map(settings::table) {
        let keys: Vec<String> = channel.keys().cloned().collect();
        out.push_str(&format!("\n[[channel]]\n{}", settings::explain(&keys, &[(channel, &*path)])));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChannelSettings, SenderSettings};

    #[test]
    fn print_tells_where_values_come_from() {
        let path = std::env::temp_dir().join(format!("mahp-config-print-{}.toml", std::process::id()));
        let text = "[sender]\ndscp = 34\nttl = 3\n[defaults]\nrepair = 20\n[[channel]]\nurl = \"http://h/a.m3u8\"\nrepair = 30\n";
        std::fs::write(&path, text).expect("written");
        let sender = SenderSettings { ttl: Some(5), ..SenderSettings::default() };
        let channel = ChannelSettings { headroom: Some(2.0), ..ChannelSettings::default() };
        let printed = print(&Cli { sender, channel, ..Cli::default() }, Some(&path)).expect("valid");
        std::fs::remove_file(&path).expect("removed");
        let place = path.display().to_string();
        for (line, from) in [
            ("ttl = 5", "environment"),
            ("dscp = 34", &place),
            ("port-base = 5000", "default"),
            ("headroom = 2.0", "environment"),
            ("repair = 20", &place),
            ("loop = false", "default"),
            ("repair-layer-2 = 0", "default"),
            ("url = \"http://h/a.m3u8\"", &place),
            ("repair = 30", &place),
        ] {
            assert!(printed.contains(&format!("\n{line}  # {from}\n")), "{line}: {printed}");
        }
        assert!(printed.contains("\n#interface =  # default"), "{printed}");
        let again: File = toml::from_str(&printed).expect("a configuration");
        assert_eq!((again.sender.ttl, again.channel.len()), (Some(5), 1));
    }
}
