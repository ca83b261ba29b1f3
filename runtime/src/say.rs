//! What the commands print for people and pipes.

use std::fmt::Display;
use std::io::Write as _;

/// Prints to standard output. Nobody reads it (`… | head`): nothing is lost by that, and nothing is said.
pub fn out(text: impl Display) {
    let mut stdout = std::io::stdout().lock();
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// The same with the end of a line.
pub fn line(text: impl Display) {
    out(format_args!("{text}\n"));
}

/// A line on standard error. That nobody reads it is no reason to end.
pub fn error(text: impl Display) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
}
