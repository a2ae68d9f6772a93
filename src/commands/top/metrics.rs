//! The text of `/metrics` as numbers, and the growth of counters per second.

use std::collections::{HashMap, VecDeque};

use super::words::safe;

/// The most samples kept of one text: a gateway has a few hundred.
const SAMPLES_MAX: usize = 20_000;
/// The period of rates, milliseconds: over a shorter period rates would jump.
const RATE_OVER_MS: u64 = 5_000;

/// One reading of `/metrics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metrics(HashMap<String, Vec<Sample>>);

/// A value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    /// The value of a label; empty if there is no such label.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Only samples with this label.
pub(super) type Label<'a> = Option<(&'a str, &'a str)>;

impl Metrics {
    /// Reads a text of the Prometheus formats. Lines of another form are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
        let lines = text.lines().filter_map(line).take(SAMPLES_MAX);
        for (name, sample) in lines {
            samples.entry(name.to_owned()).or_default().push(sample);
        }
        Self(samples)
    }

    /// All samples of a metric.
    pub(super) fn samples(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn values<'a>(&'a self, name: &str, label: Label<'a>) -> impl Iterator<Item = f64> + 'a {
        let samples = self.samples(name).iter();
        let is_meant = move |sample: &&Sample| label.is_none_or(|(l, v)| sample.label(l) == v);
        samples.filter(is_meant).map(|sample| sample.value)
    }

    /// The sum of the samples, or `None` without samples.
    pub(super) fn sum(&self, name: &str, label: Label<'_>) -> Option<f64> {
        self.values(name, label).reduce(|a, b| a + b)
    }

    /// The largest sample, or `None` without samples.
    pub(super) fn largest(&self, name: &str, label: Label<'_>) -> Option<f64> {
        self.values(name, label).reduce(f64::max)
    }
}

/// Parses `NAME{LABEL="VALUE",…} NUMBER`, with any text after the number.
fn line(line: &str) -> Option<(&str, Sample)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    Some((name, Sample { labels, value }))
}

/// Parses the labels; returns the text after the brace too.
fn labels(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, value) = rest.split_once("=\"")?;
        let (value, behind) = quoted(value)?;
        labels.push((name.to_owned(), safe(&value)));
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
}

/// Parses a text up to its closing quote, without its backslashes.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

/// The readings of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(u64, Metrics)>);

impl Rates {
    /// Adds a reading with its time in milliseconds.
    pub(super) fn push(&mut self, at_ms: u64, metrics: Metrics) {
        self.0.push_back((at_ms, metrics));
        while self.0.len() > 2
            && self
                .0
                .get(1)
                .is_some_and(|(at, _)| at_ms - at >= RATE_OVER_MS)
        {
            self.0.pop_front();
        }
    }

    /// The newest reading.
    pub(super) fn newest(&self) -> Option<&Metrics> {
        self.0.back().map(|(_, metrics)| metrics)
    }

    /// The growth of a counter per second; `None` before the second reading, and after a restart.
    pub(super) fn per_second(&self, name: &str, label: Label<'_>) -> Option<f64> {
        let ((from_ms, first), (to_ms, last)) = (self.0.front()?, self.0.back()?);
        let seconds = to_ms.checked_sub(*from_ms).filter(|ms| *ms > 0)? as f64 / 1e3;
        let grown = last.sum(name, label)? - first.sum(name, label).unwrap_or(0.0);
        (grown >= 0.0).then_some(grown / seconds)
    }

    /// Removes all readings: another process counts from 0.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_labels_are_read_and_other_lines_left_out() {
        let text = "# HELP a x\na_total 3\nb{reason=\"x\",y=\"a\\\"}b\"} 1.5 123\nb{reason=\"z\"} 2\n\
                    no number\nc{open=\"\n{} 1\nd{a=\"1\"}\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", None), Some(3.0));
        assert_eq!(metrics.sum("b", None), Some(3.5));
        assert_eq!(metrics.largest("b", None), Some(2.0));
        assert_eq!(metrics.sum("b", Some(("reason", "x"))), Some(1.5));
        assert_eq!(metrics.samples("b")[0].label("y"), "a\"}b");
        for none in ["no", "c", "d", "e"] {
            assert_eq!(metrics.sum(none, None), None, "{none}");
        }
    }

    #[test]
    fn rates_are_over_the_last_seconds_and_end_with_a_restart() {
        let mut rates = Rates::default();
        let at = |n: u64| Metrics::parse(&format!("a_total {n}"));
        rates.push(0, at(100));
        assert_eq!(rates.per_second("a_total", None), None);
        rates.push(1_000, at(110));
        assert_eq!(rates.per_second("a_total", None), Some(10.0));
        for second in 2..=20 {
            rates.push(second * 1_000, at(110));
        }
        assert_eq!(rates.per_second("a_total", None), Some(0.0));
        assert!(rates.0.len() < 8, "{} readings are kept", rates.0.len());
        rates.push(21_000, at(5));
        assert_eq!(rates.per_second("a_total", None), None);
        rates.forget();
        assert_eq!(rates.newest(), None);
    }
}
