//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::Histogram;

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Heads a family: its help and type lines.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        self.text
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self
    }

    /// One sample; `labels` is empty or `{a="b"}`.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl Display) -> &mut Self {
        writeln!(self.text, "{name}{labels} {value}").expect("a String grows");
        self
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(name, "", value);
    }

    /// A counter.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.single(name, "counter", help, value);
    }

    /// A gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.single(name, "gauge", help, value);
    }

    /// A histogram: the sum of its parts, one from each executor that counted.
    pub fn histogram<const N: usize>(&mut self, name: &str, help: &str, parts: &[&Histogram<N>]) {
        self.family(name, "histogram", help);
        self.buckets(name, "", parts);
    }

    /// The samples of one histogram; `labels` without braces.
    pub fn buckets<const N: usize>(&mut self, name: &str, labels: &str, parts: &[&Histogram<N>]) {
        let comma = if labels.is_empty() { "" } else { "," };
        let rows: Vec<Vec<(f64, u64)>> = parts.iter().map(|part| part.cumulative()).collect();
        for at in 0..N {
            let bound = rows.first().map_or(0.0, |row| row[at].0);
            let count: u64 = rows.iter().map(|row| row[at].1).sum();
            self.sample(
                &format!("{name}_bucket"),
                &format!("{{{labels}{comma}le=\"{bound}\"}}"),
                count,
            );
        }
        let count: u64 = parts.iter().map(|part| part.count()).sum();
        let sum: f64 = parts.iter().map(|part| part.sum()).sum();
        let braces = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        self.sample(
            &format!("{name}_bucket"),
            &format!("{{{labels}{comma}le=\"+Inf\"}}"),
            count,
        );
        self.sample(&format!("{name}_sum"), &braces, sum);
        self.sample(&format!("{name}_count"), &braces, count);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let histogram = Histogram::<2>::new(1_000_000);
        histogram.observe_ns(1_500_000);
        let mut page = Exposition::default();
        page.counter("a_total", "All of a.", 3);
        page.histogram("b_seconds", "Time of b.", &[&histogram]);
        let expected = "# HELP a_total All of a.\n# TYPE a_total counter\na_total 3\n\
            # HELP b_seconds Time of b.\n# TYPE b_seconds histogram\n\
            b_seconds_bucket{le=\"0.001\"} 0\nb_seconds_bucket{le=\"0.002\"} 1\nb_seconds_bucket{le=\"+Inf\"} 1\n\
            b_seconds_sum 0.0015\nb_seconds_count 1\n";
        assert_eq!(page.finish(), expected);
    }
}
