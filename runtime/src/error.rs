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
        StartupError { code, message: for_people(message.into()), hint: hint.into(), exit: 2 }
    }

    /// A run-time error (exit status 1).
    pub fn runtime(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> StartupError {
        StartupError { code, message: for_people(message.into()), hint: hint.into(), exit: 1 }
    }
}

/// Takes out what `std::io::Error` adds for programmers: ` (os error 111)`.
fn for_people(mut message: String) -> String {
    const MARK: &str = " (os error ";
    while let Some(start) = message.find(MARK) {
        let number = message.get(start + MARK.len()..).unwrap_or_default();
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || number.as_bytes().get(digits) != Some(&b')') {
            break;
        }
        message.replace_range(start..=start + MARK.len() + digits, "");
    }
    message
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let refused = std::io::Error::from_raw_os_error(111);
        let error = StartupError::runtime("E-X", format!("one: {refused}; two: {refused}"), "");
        assert_eq!(error.message, "one: Connection refused; two: Connection refused");
        for text in ["plain", "(os error 1)", "a (os error )", "a (os error 1", "\u{e9} (os error x)"] {
            assert_eq!(for_people(text.to_owned()), text);
        }
    }
}
