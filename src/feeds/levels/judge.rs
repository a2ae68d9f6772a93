//! Whether the feed would take a message, for those who choose which message to hand over.

use super::normalise::Normaliser;
use super::{LevelsFeedSettings, SUBJECTS};
use crate::feeds::bus::check_size;
use crate::wire::json::check_json;

/// Judges messages as a [`LevelsFeed`](super::LevelsFeed) of the same settings would.
#[derive(Clone, Debug)]
pub struct LevelsJudge {
    normaliser: Normaliser,
    json_depth_max: usize,
    bus_message_bytes_max: usize,
}

impl LevelsJudge {
    /// A judge for the feed with these settings.
    pub fn new(settings: &LevelsFeedSettings) -> Self {
        Self {
            normaliser: Normaliser::new(settings.json_depth_max, settings.session_length_min),
            json_depth_max: settings.json_depth_max,
            bus_message_bytes_max: settings.bus_message_bytes_max,
        }
    }

    /// Whether a message of `subject`, which the feed relays, makes a state.
    pub fn is_good(&self, subject: &str, payload: &[u8]) -> bool {
        if check_size(payload, self.bus_message_bytes_max).is_err() {
            return false;
        }
        if subject == SUBJECTS[0] {
            // Any moment does where the message has none.
            let mut normaliser = self.normaliser.clone();
            return normaliser.normalise(payload, 0, &mut Vec::new()).is_ok();
        }
        check_json(payload, self.json_depth_max).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::levels::LevelsFeed;
    use crate::feeds::{BusEvent, BusMessage};
    use crate::hub::{Feed, FrameBytes, Now};

    #[test]
    fn it_judges_as_the_feed_does() {
        let settings = LevelsFeedSettings {
            bus_message_bytes_max: 100,
            json_depth_max: 5,
            ..LevelsFeedSettings::default()
        };
        let judge = LevelsJudge::new(&settings);
        let large = format!("[\"{}\"]", "x".repeat(100));
        let payloads = [
            "",
            "{",
            "{}",
            "null",
            "5",
            "[]",
            "[[[[[[]]]]]]",
            &large,
            r#"{"ts":1700000000000,"levels":[]}"#,
            r#"{"ts":[]}"#,
            r#"{"ts":9e18}"#,
            r#"{"levels":[{"price":{}}]}"#,
        ];
        for subject in SUBJECTS {
            let mut verdicts = std::collections::HashSet::new();
            for payload in payloads {
                let mut feed = LevelsFeed::new(settings.clone(), FrameBytes::default());
                let message = BusMessage {
                    subject: subject.into(),
                    pattern: None,
                    payload: payload.as_bytes().to_vec(),
                    position: None,
                    received: Now::default(),
                    quiet: true,
                };
                feed.event(Now::default(), BusEvent::Message(message), &mut Vec::new());
                let bad: u64 = feed.stats().subjects.iter().map(|s| s.messages_bad).sum();
                let is_good = judge.is_good(subject, payload.as_bytes());
                assert_eq!(is_good, bad == 0, "{subject} {payload}");
                verdicts.insert(is_good);
            }
            assert_eq!(verdicts.len(), 2, "good ones and bad ones");
        }
    }
}
