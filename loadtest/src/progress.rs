//! Progress of a measurement: a bar with live rates on a terminal, else a line for each part.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Interval of drawing, on a separate thread: the clients' loop only stores a number.
const DRAW: Duration = Duration::from_millis(250);

/// The progress of the parts.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    delivered: Arc<AtomicU64>,
}

impl Progress {
    /// A progress with none of `parts` parts done.
    pub(crate) fn new(parts: usize) -> Self {
        let delivered = Arc::new(AtomicU64::new(0));
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(4);
            let bar = ProgressBar::with_draw_target(Some(parts as u64), target);
            bar.set_style(style(Arc::clone(&delivered)));
            bar.enable_steady_tick(DRAW);
            bar
        });
        Self { bar, delivered }
    }

    /// Shows the start of a part.
    pub(crate) fn part(&self, case: &str, name: &str) {
        self.delivered.store(0, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{name}, {case}"));
        }
    }

    /// Sets the deliveries of the part so far.
    pub(crate) fn delivered(&self, count: u64) {
        self.delivered.store(count, Ordering::Relaxed);
    }

    /// Shows the end of a part, with a line of figures.
    pub(crate) fn done(&self, line: &str) {
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                bar.inc(1);
            }
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bar after all parts.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(delivered: Arc<AtomicU64>) -> ProgressStyle {
    let last = Arc::new(Mutex::new(Rate::new(Instant::now())));
    let rate = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let count = delivered.load(Ordering::Relaxed);
        let mut last = last.lock().unwrap_or_else(|e| e.into_inner());
        let _ = write!(
            out,
            "{} messages/s",
            grouped(last.at(Instant::now(), count))
        );
    };
    ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} of {duration}  {msg}  {rate}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .progress_chars("━╸─")
}

/// Deliveries per second, over at least half a second.
struct Rate {
    since: Instant,
    count: u64,
    per_s: u64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            per_s: 0,
        }
    }

    fn at(&mut self, now: Instant, count: u64) -> u64 {
        let passed = now.duration_since(self.since).as_secs_f64();
        // The next part counts from zero.
        if count < self.count {
            (self.since, self.count) = (now, count);
        } else if passed >= 0.5 {
            self.per_s = ((count - self.count) as f64 / passed) as u64;
            (self.since, self.count) = (now, count);
        }
        self.per_s
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let grouped = [0, 999, 1_000, 123_456, 1_234_567].map(grouped);
        assert_eq!(grouped, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn the_rate_is_of_the_last_half_second_and_survives_the_next_part() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = Rate::new(start);
        assert_eq!(rate.at(at(250), 5_000), 0);
        assert_eq!(rate.at(at(500), 10_000), 20_000);
        assert_eq!(rate.at(at(750), 10_000), 20_000);
        assert_eq!(rate.at(at(1_000), 20), 20_000);
        assert_eq!(rate.at(at(1_500), 1_020), 2_000);
    }

    #[test]
    fn the_template_is_accepted() {
        let bar = ProgressBar::hidden();
        bar.set_style(style(Arc::default()));
        bar.inc(1);
    }
}
