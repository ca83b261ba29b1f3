//! Outside programs that the tests need: present, or named loudly. Under CI a missing one is a failure.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The program's path on `PATH`, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps some in sbin, which is not on every user's PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether a test may run: all `programs` are installed (a name with a slash is a file of this package, such as an npm module).
/// Without CI a missing one is named on the terminal and the test passes; with CI it panics.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|name| if name.contains('/') { !here.join(name).exists() } else { find(name).is_none() })
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(std::env::var_os("CI").is_none(), "{test} needs {missing}: tests/install installs it");
    say(&format!("NOT RUN: {test} needs {missing} (tests/install installs it)"));
    false
}

/// Prints a line on the terminal although the test harness captures what tests print.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The build folder of the running test (`target/debug`), where the programs under test are.
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a running test knows its own path");
    let parent = exe.parent().expect("an executable is in a folder");
    if parent.ends_with("deps") {
        parent.parent().unwrap_or(parent).to_path_buf()
    } else {
        parent.to_path_buf()
    }
}

/// The folder for everything these tests make: `target/e2e`.
pub fn work_dir() -> PathBuf {
    let dir = profile_dir().parent().map(|target| target.join("e2e")).unwrap_or_else(|| "target/e2e".into());
    std::fs::create_dir_all(&dir).expect("the build folder is writable");
    dir
}
