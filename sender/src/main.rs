//! `mahp-sender`: see the library of the same package.

use std::process::ExitCode;

/// glibc's allocator costs up to 2 s of CPU per GB of segments that pass through.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match mahp_sender::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            mahp_runtime::say::error(&error);
            ExitCode::from(error.exit)
        }
    }
}
