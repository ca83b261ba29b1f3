//! `mahp-testbed`: see the library crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    mahp_testbed::cli::main_with_args(std::env::args_os())
}
