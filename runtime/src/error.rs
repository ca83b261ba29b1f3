//! Errors that stop a program: what happened, where, how to mend it; with a stable code and an exit status.

use std::fmt;

/// An error for the person at the terminal. Prints as
/// `error[E-CODE]: what happened and where` and a second line `  try: how to mend it`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupError {
    /// Stable code, `E-…`.
    pub code: &'static str,
    /// What happened, and where.
    pub message: String,
    /// How to mend it; may have several lines.
    pub hint: String,
    /// Exit status: 1 run time, 2 usage or configuration.
    pub exit: u8,
}

impl StartupError {
    /// A usage or configuration error (exit status 2).
    pub fn usage(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> StartupError {
        StartupError { code, message: message.into(), hint: hint.into(), exit: 2 }
    }

    /// A run-time error (exit status 1).
    pub fn runtime(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> StartupError {
        StartupError { code, message: message.into(), hint: hint.into(), exit: 1 }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        for line in self.hint.lines() {
            write!(f, "\n  try: {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StartupError {}
