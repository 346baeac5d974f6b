//! The bytes of one log line: etcd's JSON keys (`level`, `ts`, `caller`, `msg`, then the event's fields), or columns.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::config::LogFormat;

/// The wall clock as time since 1970.
pub fn now() -> Duration {
    // A clock before 1970 prints as 1970: a log line is no reason to stop.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One event as a line with its newline.
pub fn format(event: &Event<'_>, format: LogFormat, since_1970: Duration) -> String {
    let mut parts = Parts::default();
    event.record(&mut parts);
    let meta = event.metadata();
    let caller = match (meta.file(), meta.line()) {
        (Some(file), Some(line)) => format!("{}:{line}", last_two_components(file)),
        _ => meta.target().to_string(),
    };
    assemble(*meta.level(), &caller, &parts, format, since_1970)
}

/// A line of the log itself, which no event stands behind.
pub fn plain(level: Level, message: &str, format: LogFormat, since_1970: Duration) -> String {
    let parts = Parts {
        message: message.to_string(),
        fields: String::new(),
    };
    assemble(level, "logging.rs", &parts, format, since_1970)
}

fn assemble(level: Level, caller: &str, parts: &Parts, format: LogFormat, since_1970: Duration) -> String {
    let ts = timestamp(since_1970);
    let fields = &parts.fields;
    match format {
        LogFormat::Json => {
            let (caller, message) = (json_string(caller), json_string(&parts.message));
            let level = level_name(level);
            format!("{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":{caller},\"msg\":{message}{fields}}}\n")
        }
        LogFormat::Console => {
            let level = level_name(level).to_uppercase();
            // Control characters would let a value forge a line of its own.
            let message = parts
                .message
                .escape_debug()
                .to_string()
                .replace("\\\"", "\"")
                .replace("\\'", "'");
            match fields.strip_prefix(',') {
                Some(fields) => format!("{ts}\t{level}\t{caller}\t{message}\t{{{fields}}}\n"),
                None => format!("{ts}\t{level}\t{caller}\t{message}\n"),
            }
        }
    }
}

/// The message and the other fields, each as `,"name":value`.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn push(&mut self, field: &Field, json: impl fmt::Display) {
        write!(self.fields, ",{}:{json}", json_string(field.name())).expect("writing to a String does not fail");
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.push(field, json_string(&format!("{value:?}"))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_string(),
            _ => self.push(field, json_string(value)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        if value.is_finite() {
            self.push(field, value)
        } else {
            self.push(field, json_string(&value.to_string()))
        }
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always valid JSON")
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

fn last_two_components(path: &str) -> &str {
    match path.rmatch_indices('/').nth(1) {
        Some((slash, _)) => &path[slash + 1..],
        None => path,
    }
}

/// `2026-11-21T12:47:46.822283Z`.
pub fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let micros = since_1970.subsec_micros();
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{micros:06}Z",
        second % 60
    )
}

/// The Gregorian date of a day since 1970-01-01, counted in eras of 400 years that begin in March, so that a leap day is the
/// last day of its year.
fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_in_utc_with_microseconds() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 1_000, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199, 999_999_999, "2024-02-29T23:59:59.999999Z"),
            (1_795_265_266, 822_283_000, "2026-11-21T12:47:46.822283Z"),
            (4_102_444_800, 0, "2100-01-01T00:00:00.000000Z"),
        ];
        for (seconds, nanos, want) in table {
            assert_eq!(timestamp(Duration::new(seconds, nanos)), want);
        }
    }

    #[test]
    fn a_caller_is_a_file_in_its_folder() {
        assert_eq!(last_two_components("storage/src/wal/tail.rs"), "wal/tail.rs");
        assert_eq!(last_two_components("main.rs"), "main.rs");
    }
}
