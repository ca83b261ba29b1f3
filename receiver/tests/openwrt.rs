//! The OpenWrt configuration as shipped, with every option switched on, against the program's own list of flags.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use clap::CommandFactory as _;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Flags that make no sense in a service.
const NOT_IN_SERVICES: [&str; 1] = ["log-format"];

#[test]
fn the_openwrt_configuration_knows_every_flag_and_its_form() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/openwrt/test-init.sh");
    let output = Command::new("sh").arg(script).args(["--everything", "receiver"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let arguments: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    mahp_receiver::cli::Cli::command().try_get_matches_from(&arguments).unwrap();

    let given = arguments.iter().take_while(|a| *a != "--").filter_map(|a| a.strip_prefix("--"));
    let given: BTreeSet<&str> = given.map(|a| a.split('=').next().unwrap()).collect();
    let command = mahp_receiver::cli::Cli::command();
    let known = command.get_arguments().filter_map(clap::Arg::get_long);
    let known: BTreeSet<&str> = known.filter(|l| !NOT_IN_SERVICES.contains(l)).collect();
    assert_eq!(given, known);
}
