//! What is printed at the end: text for people, or one JSON object.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::tally::Tally;

/// The percentiles told, with their names in JSON.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p999", 99.9),
];

/// A finished run and what it was.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) command: &'a str,
    pub(super) conns: u32,
    pub(super) clients: u32,
    pub(super) threads: u32,
    pub(super) tally: &'a Tally,
    /// CPU seconds of this process during the run.
    pub(super) client_cpu_s: Option<f64>,
    /// CPU seconds of the server during the run, where its process is known.
    pub(super) server_cpu_s: Option<f64>,
}

impl Report<'_> {
    fn ok(&self) -> u64 {
        self.tally.latency.len()
    }

    fn failed(&self) -> u64 {
        self.tally.errors.values().sum()
    }

    fn elapsed_s(&self) -> f64 {
        self.tally.elapsed_ns as f64 / 1e9
    }

    fn throughput(&self) -> f64 {
        per_second(self.ok(), self.tally.elapsed_ns)
    }

    fn per_100k(&self, seconds: f64) -> f64 {
        seconds * 100_000.0 / (self.ok() + self.failed()).max(1) as f64
    }

    /// The object that `--json` prints. Units are in the names.
    pub(super) fn json(&self) -> Value {
        let mut object = json!({
            "command": self.command,
            "conns": self.conns,
            "clients": self.clients,
            "threads": self.threads,
            "ok": self.ok(),
            "failed": self.failed(),
            "unsent": self.tally.unsent,
            "errors": self.tally.errors,
            "elapsed_s": rounded(self.elapsed_s()),
            "throughput_per_s": rounded(self.throughput()),
            "latency_ms": latency_json(&self.tally.latency),
            "received_bytes": self.tally.bytes_in,
        });
        for (name, seconds) in [("client", self.client_cpu_s), ("server", self.server_cpu_s)] {
            if let Some(seconds) = seconds {
                object[format!("{name}_cpu_s")] = json!(rounded(seconds));
                object[format!("{name}_cpu_s_per_100k")] = json!(rounded(self.per_100k(seconds)));
            }
        }
        if let Some(watch) = &self.tally.watch {
            object["watchers"] = json!(watch.watchers);
            object["events"] = json!(watch.events);
            object["events_expected"] = json!(watch.expected);
            object["events_per_s"] = json!(rounded(per_second(watch.events, watch.elapsed_ns)));
            object["event_latency_ms"] = latency_json(&watch.latency);
        }
        object
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}: {} requests in {:.3} s, {:.0} per second ({} connections, {} clients)",
            self.command,
            self.ok(),
            self.elapsed_s(),
            self.throughput(),
            self.conns,
            self.clients,
        )];
        lines.push(format!("latency ms: {}", latency_text(&self.tally.latency)));
        if let Some(watch) = &self.tally.watch {
            lines.push(format!(
                "events: {} of {} at {} watchers, {:.0} per second",
                watch.events,
                watch.expected,
                watch.watchers,
                per_second(watch.events, watch.elapsed_ns)
            ));
            lines.push(format!("event latency ms: {}", latency_text(&watch.latency)));
        }
        for (name, seconds) in [("load generator", self.client_cpu_s), ("server", self.server_cpu_s)] {
            if let Some(seconds) = seconds {
                let each = self.per_100k(seconds);
                lines.push(format!(
                    "CPU of the {name}: {seconds:.2} s, {each:.3} s per 100k requests"
                ));
            }
        }
        lines.extend(
            self.tally
                .errors
                .iter()
                .map(|(error, count)| format!("failed: {count} x {error}")),
        );
        if self.tally.unsent > 0 {
            lines.push(format!(
                "never sent: {} requests, since no connection was left",
                self.tally.unsent
            ));
        }
        lines.join("\n")
    }
}

fn per_second(count: u64, ns: u64) -> f64 {
    count as f64 * 1e9 / ns.max(1) as f64
}

/// To a millionth.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn ms(ns: f64) -> f64 {
    rounded(ns / 1e6)
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    let mut object = Map::new();
    object.insert("count".to_string(), json!(latency.len()));
    if !latency.is_empty() {
        object.insert("mean".to_string(), json!(ms(latency.mean())));
        object.insert("min".to_string(), json!(ms(latency.min() as f64)));
        for (name, percentile) in PERCENTILES {
            let value = latency.value_at_percentile(percentile);
            object.insert(name.to_string(), json!(ms(value as f64)));
        }
        object.insert("max".to_string(), json!(ms(latency.max() as f64)));
    }
    Value::Object(object)
}

fn latency_text(latency: &Histogram<u64>) -> String {
    if latency.is_empty() {
        return "none measured".to_string();
    }
    let mut text = format!("mean {:.3}", ms(latency.mean()));
    for (name, percentile) in PERCENTILES {
        let name = if name == "p999" { "p99.9" } else { name };
        text.push_str(&format!(
            "  {name} {:.3}",
            ms(latency.value_at_percentile(percentile) as f64)
        ));
    }
    text.push_str(&format!("  max {:.3}", ms(latency.max() as f64)));
    text
}
