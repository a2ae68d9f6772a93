//! The template of the messages of `weirgate publish`.

use weirgate_wire::base::SplitMix64;

/// The beginning of the random walk, in hundredths.
const WALK_BEGIN: i64 = 10_000;
/// The largest step of the walk, in hundredths.
const WALK_STEP_MAX: i64 = 25;

/// A text with placeholders: `{number}` becomes the number of the message, from 1; `{time}` the Unix time in
/// milliseconds; `{walk}` a number that begins near 100.00 and changes a little with each message. Other braces stay as
/// they are.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    text: String,
    /// The number of the last message.
    number: u64,
    /// The value of `{walk}`, in hundredths.
    walk: i64,
    random: SplitMix64,
}

impl Template {
    /// A template of this text. The same seed gives the same numbers for `{walk}`.
    pub(crate) fn new(text: &str, seed: u64) -> Self {
        Self {
            text: text.to_owned(),
            number: 0,
            walk: WALK_BEGIN,
            random: SplitMix64::new(seed),
        }
    }

    /// Returns the next message.
    pub(crate) fn next(&mut self, unix_ms: i64) -> Vec<u8> {
        self.number += 1;
        let steps = 2 * WALK_STEP_MAX as u64 + 1;
        let step = (self.random.next_u64() % steps) as i64 - WALK_STEP_MAX;
        // Never below 0.01, and so never negative.
        self.walk = (self.walk + step).max(1);
        let walk = format!("{}.{:02}", self.walk / 100, self.walk % 100);
        let text = self.text.replace("{number}", &self.number.to_string());
        let text = text.replace("{time}", &unix_ms.to_string());
        text.replace("{walk}", &walk).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_time_are_those_of_the_message() {
        let mut template = Template::new(r#"{"n":{number},"time":{time}}"#, 7);
        assert_eq!(
            template.next(1_700_000_000_000),
            br#"{"n":1,"time":1700000000000}"#
        );
        assert_eq!(
            template.next(1_700_000_000_001),
            br#"{"n":2,"time":1700000000001}"#
        );
    }

    #[test]
    fn other_braces_mean_themselves() {
        let text = r#"{"a":{},"b":"{Number} {number","c":{number}}"#;
        let made = Template::new(text, 1).next(0);
        assert_eq!(made, br#"{"a":{},"b":"{Number} {number","c":1}"#);
    }

    #[test]
    fn the_walk_moves_in_small_steps_and_is_the_same_for_a_seed() {
        let walk = |seed| {
            let mut template = Template::new("{walk}", seed);
            let next = |_| String::from_utf8(template.next(0)).expect("UTF-8");
            (0..1_000).map(next).collect::<Vec<_>>()
        };
        let values = walk(1);
        assert_eq!(values, walk(1));
        assert_ne!(values, walk(2));
        let mut before = 100.0;
        for text in &values {
            let value: f64 = text.parse().expect("a number");
            let step: f64 = value - before;
            assert!(step.abs() < 0.2501 && value > 0.0, "{before} to {text}");
            before = value;
        }
        assert!(values.iter().any(|value| value != "100.00"));
    }

    #[test]
    fn a_walk_that_falls_stays_above_zero() {
        let mut template = Template::new("{walk}", 3);
        template.walk = 1;
        for _ in 0..1_000 {
            let made = String::from_utf8(template.next(0)).expect("UTF-8");
            assert!(made.parse::<f64>().expect("a number") > 0.0, "{made}");
            template.walk = template.walk.min(20);
        }
    }
}
