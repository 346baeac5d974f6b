//! Numbers, booleans and durations in the syntax of Go, which is that of etcd's flags.

use std::time::Duration;

/// Why a number was refused; the text is Go's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not a number.
    #[error("parse error")]
    Syntax,
    /// A number that does not fit.
    #[error("value out of range")]
    Range,
}

/// Why a duration was refused; the text is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a duration, or one that does not fit.
    #[error("time: invalid duration \"{0}\"")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration \"{0}\"")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit \"{unit}\" in duration \"{text}\"")]
    UnknownUnit {
        /// The unit as given.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Reads a boolean: `1 t T TRUE true True` and `0 f F FALSE false False`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Reads an unsigned integer of at most `max`: decimal, or with the prefix `0x`, `0o`, `0b` or `0`; `_` may stand between digits
/// of a prefixed number.
pub fn parse_uint(text: &str, max: u64) -> Result<u64, NumberError> {
    let (radix, digits) = split_radix(text);
    let digits = remove_underscores(text, digits, radix)?;
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    match u64::from_str_radix(&digits, radix) {
        Ok(number) if number <= max => Ok(number),
        _ => Err(NumberError::Range),
    }
}

/// Reads a signed integer, in the syntax of [`parse_uint`] behind an optional sign.
pub fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = split_sign(text);
    let limit = i64::MAX as u64 + u64::from(negative);
    let magnitude = parse_uint(digits, limit)?;
    Ok(if negative {
        0i64.wrapping_sub_unsigned(magnitude)
    } else {
        magnitude as i64
    })
}

/// Reads a duration such as `1h15m`, `1.5s` or `-20ms`. Units: nanoseconds.
pub fn parse_duration_ns(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_string());
    let (negative, mut rest) = split_sign(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_ns: i128 = 0;
    while !rest.is_empty() {
        let (whole, fraction, after) = split_decimal(rest).ok_or_else(invalid)?;
        let unit_len = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(DurationError::MissingUnit(text.to_string()));
        }
        let unit_ns = unit_ns(unit).ok_or_else(|| DurationError::UnknownUnit {
            unit: unit.to_string(),
            text: text.to_string(),
        })?;
        let part_ns = decimal_times(whole, fraction, unit_ns).ok_or_else(invalid)?;
        total_ns = total_ns.checked_add(part_ns).ok_or_else(invalid)?;
        rest = after;
    }
    i64::try_from(if negative { -total_ns } else { total_ns }).map_err(|_| invalid())
}

/// Reads a span of time that is usually short: whole microseconds, such as `50`, or a duration, such as `50us`.
pub fn parse_microseconds(text: &str) -> Result<Duration, DurationError> {
    if let Ok(us) = parse_uint(text, u32::MAX.into()) {
        return Ok(Duration::from_micros(us));
    }
    let ns = u64::try_from(parse_duration_ns(text)?);
    ns.map(Duration::from_nanos)
        .map_err(|_| DurationError::Invalid(text.to_string()))
}

/// Writes a duration as Go prints it: `1m30s`, `100ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let ns = duration.as_nanos();
    match ns {
        0 => "0s".to_string(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(ns, 1_000_000)),
        _ => {
            let minutes = ns / 60_000_000_000;
            let seconds = format!("{}s", decimal(ns % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// `ns / unit` in decimal notation without trailing zeros.
fn decimal(ns: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", ns / unit, ns % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn split_radix(text: &str) -> (u32, &str) {
    let lower = |prefix: &str| text.get(..2).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    match text {
        _ if lower("0x") => (16, &text[2..]),
        _ if lower("0o") => (8, &text[2..]),
        _ if lower("0b") => (2, &text[2..]),
        _ if text.len() > 1 && text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    }
}

/// Drops underscores; Go allows one between two digits, or between prefix and digits, of a prefixed number.
fn remove_underscores(text: &str, digits: &str, radix: u32) -> Result<String, NumberError> {
    if !digits.contains('_') {
        return Ok(digits.to_string());
    }
    let misplaced = radix == 10 || text.contains("__") || digits.ends_with('_');
    if misplaced {
        Err(NumberError::Syntax)
    } else {
        Ok(digits.replace('_', ""))
    }
}

/// Splits `12.5ms` into `12`, `5` and `ms`; at least one digit must be there.
fn split_decimal(text: &str) -> Option<(&str, &str, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_ns(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `whole.fraction * unit`, truncated; `None` when it cannot fit 64 bits anyway.
fn decimal_times(whole: &str, fraction: &str, unit_ns: i128) -> Option<i128> {
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?.into()
    };
    let mut part_ns = whole * unit_ns;
    // Beyond 18 digits a fraction of an hour is below a nanosecond.
    let fraction = &fraction[..fraction.len().min(18)];
    if !fraction.is_empty() {
        let scale = 10i128.pow(fraction.len() as u32);
        part_ns += fraction.parse::<i128>().ok()? * unit_ns / scale;
    }
    Some(part_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_the_base_prefixes_of_go() {
        let good = [
            ("0", 0),
            ("7", 7),
            ("0x1F", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("0x_f_f", 255),
            ("0_7", 7),
        ];
        for (text, want) in good {
            assert_eq!(parse_uint(text, u64::MAX), Ok(want), "{text}");
        }
        for text in [
            "", "x", "-1", "+1", "1_000", "1k", "08", "0x", "0x__1", "0x1_", " 1", "1.0",
        ] {
            assert_eq!(parse_uint(text, u64::MAX), Err(NumberError::Syntax), "{text:?}");
        }
        assert_eq!(parse_uint("4294967296", u32::MAX.into()), Err(NumberError::Range));
        assert_eq!(parse_uint("18446744073709551616", u64::MAX), Err(NumberError::Range));
    }

    #[test]
    fn signed_integers_reach_both_ends() {
        let table = [
            ("-9223372036854775808", i64::MIN),
            ("9223372036854775807", i64::MAX),
            ("+5", 5),
            ("-0x10", -16),
        ];
        for (text, want) in table {
            assert_eq!(parse_int(text), Ok(want), "{text}");
        }
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_int("--1"), Err(NumberError::Syntax));
    }

    #[test]
    fn durations_follow_go() {
        let good = [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-20ms", -20_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("2562047h47m16.854775807s", i64::MAX),
        ];
        for (text, want) in good {
            assert_eq!(parse_duration_ns(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused_with_the_texts_of_go() {
        let table = [
            ("foo", "time: invalid duration \"foo\""),
            ("", "time: invalid duration \"\""),
            (".", "time: invalid duration \".\""),
            ("1", "time: missing unit in duration \"1\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("2562048h", "time: invalid duration \"2562048h\""),
            (
                "99999999999999999999h",
                "time: invalid duration \"99999999999999999999h\"",
            ),
        ];
        for (text, want) in table {
            assert_eq!(parse_duration_ns(text).expect_err(text).to_string(), want);
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let table = [
            (0, "0s"),
            (15, "15ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (7_200_000_000_000, "2h0m0s"),
        ];
        for (ns, want) in table {
            assert_eq!(format_duration(Duration::from_nanos(ns)), want);
        }
    }
}
