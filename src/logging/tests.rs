use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::*;

/// A sink whose bytes can be read and whose writes can be held up.
#[derive(Clone, Default)]
struct Sink {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    held: bool,
}

impl Sink {
    fn hold(&self, held: bool) {
        self.state.0.lock().expect("no test panics with the lock").held = held;
        self.state.1.notify_all();
    }

    fn text(&self) -> String {
        let state = self.state.0.lock().expect("no test panics with the lock");
        String::from_utf8(state.bytes.clone()).expect("log lines are UTF-8")
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.state.0.lock().expect("no test panics with the lock");
        let mut state = self
            .state
            .1
            .wait_while(state, |state| state.held)
            .expect("no test panics with the lock");
        state.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, level: LogLevel, events: impl FnOnce()) -> String {
    let sink = Sink::default();
    let (layer, guard) = to_sink(Box::new(sink.clone()), format, 16);
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets(level)));
    tracing::subscriber::with_default(subscriber, events);
    drop(guard);
    sink.text()
}

#[test]
fn a_json_line_has_the_keys_of_etcd_and_the_fields_of_the_event() {
    let text = logged(LogFormat::Json, LogLevel::Info, || {
        tracing::info!(revision = 7u64, key = "a\"b\n", ok = true, "applied {}", 3);
    });
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).expect("one JSON object");
    assert!(text.starts_with("{\"level\":\"info\",\"ts\":\"2"), "{text}");
    assert_eq!(line["msg"], "applied 3");
    assert_eq!(line["revision"], 7);
    assert_eq!(line["key"], "a\"b\n");
    assert_eq!(line["ok"], true);
    let caller = line["caller"].as_str().expect("a caller");
    assert!(caller.starts_with("logging/tests.rs:"), "{caller}");
    assert_eq!(text.matches('\n').count(), 1, "a value cannot begin a new line: {text}");
}

#[test]
fn a_console_line_has_columns_and_no_raw_control_characters() {
    let text = logged(LogFormat::Console, LogLevel::Info, || {
        tracing::warn!(n = 1u64, "it's \"two\"\nlines")
    });
    let columns: Vec<&str> = text.trim_end().split('\t').collect();
    assert_eq!(columns.len(), 5, "{text}");
    assert_eq!(
        (columns[1], columns[3], columns[4]),
        ("WARN", "it's \"two\"\\nlines", "{\"n\":1}")
    );
}

#[test]
fn the_level_hides_what_is_less_severe_and_foreign_chatter() {
    let events = || {
        tracing::debug!("ours, debug");
        tracing::error!("ours, error");
        tracing::debug!(target: "storage::wal", "ours too, debug");
        tracing::info!(target: "foreign", "theirs, info");
        tracing::error!(target: "foreign", "theirs, error");
    };
    let messages = |level| {
        let text = logged(LogFormat::Json, level, events);
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        lines
            .map(|line| line["msg"].as_str().expect("a message").to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        messages(LogLevel::Debug),
        ["ours, debug", "ours, error", "ours too, debug", "theirs, error"]
    );
    assert_eq!(messages(LogLevel::Error), ["ours, error", "theirs, error"]);
}

#[test]
fn a_stuck_sink_costs_lines_and_not_time_and_the_loss_is_told() {
    let sink = Sink::default();
    sink.hold(true);
    let (layer, guard) = to_sink(Box::new(sink.clone()), LogFormat::Json, 4);
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        for n in 0..100u64 {
            tracing::info!(n, "line");
        }
    });
    // Four lines wait in the queue and at most one is in the sink's hands.
    let dropped = guard.dropped_lines();
    assert!((95..=96).contains(&dropped), "{dropped} lines dropped");
    sink.hold(false);
    drop(guard);
    let text = sink.text();
    assert!(
        text.contains(&format!(
            "{dropped} log lines were dropped because the sink was too slow"
        )),
        "{text}"
    );
    assert_eq!(text.matches("\"msg\":\"line\"").count() as u64, 100 - dropped);
}
