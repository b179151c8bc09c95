//! Prometheus' text format, version 0.0.4: families with HELP and TYPE, samples with escaped labels.

use std::fmt::{Display, Write};

use crate::clock::Wall;

/// Cumulative counts under upper bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// Nothing observed yet.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// One more.
    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        for (count, bound) in self.counts.iter_mut().zip(self.bounds) {
            *count += u64::from(value <= *bound);
        }
    }

    /// Of all that was observed.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// A page as it grows.
pub struct Page(pub String);

impl Page {
    /// A family begins; its samples follow.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample, with the time it was taken.
    pub fn sample_at(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display, at: Wall) {
        self.sample(name, labels, format_args!("{value} {}", at.0.div_euclid(1_000_000)));
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if n == 0 { '{' } else { ',' }, escape(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one sample.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], h: &Histogram) {
        let bounds = h.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(h.counts.iter().chain([&h.count])) {
            self.sample(&format!("{name}_bucket"), &[labels, &[("le", bound.as_str())]].concat(), count);
        }
        self.sample(&format!("{name}_sum"), labels, h.sum);
        self.sample(&format!("{name}_count"), labels, h.count);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_cumulative() {
        let mut page = Page(String::new());
        page.sample_at("t", &[], 2, Wall(1_700_000_000_123_999_999));
        page.sample("a", &[("x", "back\\slash \"quote\" new\nline"), ("y", "")], 1.5);
        assert_eq!(page.0, "t 2 1700000000123\na{x=\"back\\\\slash \\\"quote\\\" new\\nline\",y=\"\"} 1.5\n");
        let mut h = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.5, 9.0].into_iter().for_each(|v| h.observe(v));
        let mut page = Page(String::new());
        page.histogram("h", &[("k", "v")], &h);
        let expected = "h_bucket{k=\"v\",le=\"1\"} 1\nh_bucket{k=\"v\",le=\"2\"} 2\nh_bucket{k=\"v\",le=\"+Inf\"} 3\nh_sum{k=\"v\"} 11\nh_count{k=\"v\"} 3\n";
        assert_eq!(page.0, expected);
    }
}
