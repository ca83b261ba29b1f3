//! `mahp-testbed`: see the library crate.

use std::process::ExitCode;

/// The sender and the receiver run in this executable too; see theirs for why.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mahp_testbed::cli::main_with_args(std::env::args_os())
}
