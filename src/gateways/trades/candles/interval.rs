//! The intervals of candles, and the topic of a symbol's candles.

use weirgate_core::TopicName;

/// The start of the topic of a symbol's candles.
pub(in crate::gateways::trades) const CANDLES: &str = "candle:";

/// The duration of a candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::gateways::trades) enum Interval {
    Second,
    Minute,
    FiveMinutes,
}

impl Interval {
    pub(in crate::gateways::trades) const ALL: [Self; 3] =
        [Self::Second, Self::Minute, Self::FiveMinutes];

    /// The last of [`Self::ALL`].
    pub(super) const LONGEST: Self = Self::ALL[Self::ALL.len() - 1];

    /// The name in messages.
    pub(in crate::gateways::trades) const fn label(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
        }
    }

    /// The interval with this name.
    pub(in crate::gateways::trades) fn named(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.label() == label)
    }

    pub(super) const fn ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
            Self::FiveMinutes => 300_000,
        }
    }

    /// The start of the interval with this time.
    pub(super) const fn start_of(self, at_ms: i64) -> i64 {
        at_ms - at_ms.rem_euclid(self.ms())
    }

    /// The topic of a symbol's candles. No client can hold a symbol of this name, because clients' symbols are upper
    /// case, and the feed relays no such symbol.
    pub(in crate::gateways::trades) fn topic(self, symbol: &str) -> TopicName {
        TopicName::from(format!("{CANDLES}{}:{symbol}", self.label()))
    }

    /// Whether a topic is that of a symbol's candles.
    pub(in crate::gateways::trades) fn has_topic(name: &TopicName) -> bool {
        name.as_str().starts_with(CANDLES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_candles_are_those_of_no_symbol_that_a_client_can_hold() {
        for interval in Interval::ALL {
            assert!(interval.ms() <= Interval::LONGEST.ms());
            let topic = interval.topic("A:B");
            assert_ne!(topic.as_str(), topic.as_str().to_uppercase());
            assert!(Interval::has_topic(&topic) && !Interval::has_topic(&"CANDLE:".into()));
            assert_eq!(Interval::named(interval.label()), Some(interval));
        }
    }
}
