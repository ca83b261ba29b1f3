//! Identifiers in @media and @initialization (ISO/IEC 23009-1 section 5.3.9.4.4).

use std::fmt::Write;

/// Longest reference that is made of a template.
pub(super) const REFERENCE_MAX: usize = crate::limits::URL_BYTES;
/// Widest number (`%0[width]d`).
const WIDTH_MAX: usize = 32;

/// What identifiers stand for. `None` for a number writes `*`, for patterns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values<'a> {
    pub(super) representation_id: &'a str,
    pub(super) bandwidth: u64,
    pub(super) number: Option<u64>,
    pub(super) time: Option<u64>,
}

/// Puts values in place of identifiers. What is not an identifier stays. `None` if the result would be too long.
pub(super) fn expand(template: &str, values: Values<'_>) -> Option<String> {
    let mut out = String::with_capacity(template.len().min(REFERENCE_MAX) + 16);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        match after.split_once('$') {
            Some(("", next)) => {
                out.push('$');
                rest = next;
            }
            Some((identifier, next)) if push_value(&mut out, identifier, values) => rest = next,
            _ => {
                out.push('$');
                rest = after;
            }
        }
        if out.len() > REFERENCE_MAX {
            return None;
        }
    }
    out.push_str(rest);
    (out.len() <= REFERENCE_MAX).then_some(out)
}

/// Writes the value of `Name` or `Name%0[width]d`; false if there is no such identifier.
fn push_value(out: &mut String, identifier: &str, values: Values<'_>) -> bool {
    let (name, format) = identifier.split_once('%').map_or((identifier, None), |(n, f)| (n, Some(f)));
    let width = match format {
        None => 1,
        Some(format) => match format.strip_suffix(['d', 'u', 'i']).map(str::parse::<usize>) {
            Some(Ok(width)) => width.min(WIDTH_MAX),
            _ => return false,
        },
    };
    let number = match name {
        "RepresentationID" => {
            out.push_str(values.representation_id);
            return true;
        }
        "Bandwidth" => Some(values.bandwidth),
        "Number" => values.number,
        "Time" => values.time,
        "SubNumber" => Some(1).filter(|_| values.number.is_some()),
        _ => return false,
    };
    match number {
        // Writing to a String cannot fail.
        Some(number) => write!(out, "{number:0width$}").is_ok(),
        None => {
            out.push('*');
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        let values =
            Values { representation_id: "v/1", bandwidth: 5000, number: Some(42), time: Some(9_000_000_000) };
        for (template, expected) in [
            ("$RepresentationID$/$Number$.m4s", "v/1/42.m4s"),
            ("$Number%05d$-$Bandwidth%03d$", "00042-5000"),
            ("$Time$.m4s?x=$$", "9000000000.m4s?x=$"),
            ("$$Number$$", "$Number$"),
            ("$Unknown$-$Number$", "$Unknown$-42"),
            ("$Number%xd$", "$Number%xd$"),
            ("a$Number", "a$Number"),
            ("$", "$"),
            ("", ""),
        ] {
            assert_eq!(expand(template, values).as_deref(), Some(expected), "{template}");
        }
        let pattern = Values { number: None, time: None, ..values };
        assert_eq!(expand("$RepresentationID$/$Number%05d$$Time$", pattern).unwrap(), "v/1/**");
    }

    #[test]
    fn small_templates_do_not_become_huge() {
        let id = "x".repeat(5000);
        let values = Values { representation_id: &id, ..Values::default() };
        assert_eq!(expand(&"$RepresentationID$".repeat(2), values), None);
        assert_eq!(
            expand("$Number%0999999d$", Values { number: Some(1), ..values }).unwrap().len(),
            WIDTH_MAX
        );
    }
}
