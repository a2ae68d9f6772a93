//! Whether this process should get traffic, and if not, why. Pure: reads only telemetry.

use crate::telemetry::Telemetry;
use weirgate_runtime::{BusStatus, Stall};
use weirgate_wire::base::Now;

/// A reason to send no traffic here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotReady {
    /// A stop was requested (`--drain-delay-ms` and all later phases).
    Draining,
    /// The event loop has not turned for too long.
    LoopStalled,
    /// The bus was not reached yet, or the cache does not have the whole backlog of the start yet.
    Starting,
    /// The bus is away for too long.
    BusAway,
    /// A subject could not be read for too long, although the bus is connected.
    SubjectAway,
    /// The bus refuses a subscription that the gateway needs for its data.
    SubscriptionRefused,
    /// The bus accepts no acknowledgements, so it delivers nothing more.
    AcksRefused,
    /// The bus is connected, but silent about all subjects.
    FeedSilent,
    /// The bus holds messages and delivers none.
    FeedStalled,
    /// Clients need tokens, but the keys that check tokens were never fetched.
    KeysAway,
}

impl NotReady {
    /// The reason in `/ready`.
    pub(crate) fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// The reason for people.
    pub(super) fn words(self) -> &'static str {
        self.texts().1
    }

    /// Returns the reason as it is in `/ready`, and for people.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Draining => ("draining", "stopping"),
            Self::LoopStalled => ("loop_stalled", "the loop hangs"),
            Self::Starting => ("starting", "starting"),
            Self::BusAway => ("bus_away", "the bus is away"),
            Self::SubjectAway => ("subject_away", "a subject is away"),
            Self::SubscriptionRefused => ("subscription_refused", "a subscription is refused"),
            Self::AcksRefused => ("acks_refused", "acknowledgements are refused"),
            Self::FeedSilent => ("feed_silent", "the bus is silent about all subjects"),
            Self::FeedStalled => ("feed_stalled", "the feed stalls"),
            Self::KeysAway => ("keys_away", "the keys of tokens are away"),
        }
    }
}

/// The limits of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyLimits {
    /// The longest time without a turn of the loop, in milliseconds; after that the loop counts as hanging. It wakes at
    /// least every 500 ms.
    pub loop_stall_ms: u64,
    /// The longest time that the bus may be away, in milliseconds (http.md, "`GET /ready`").
    pub bus_grace_ms: u64,
}

impl Default for ReadyLimits {
    fn default() -> Self {
        Self {
            loop_stall_ms: 2_000,
            bus_grace_ms: 30_000,
        }
    }
}

/// Returns all reasons to send no traffic here; without any the process is ready.
pub(super) fn not_ready(telemetry: &Telemetry, now: Now, limits: &ReadyLimits) -> Vec<NotReady> {
    let event_loop = &telemetry.event_loop;
    let bus = telemetry.bus();
    let away_ms = bus.and_then(|bus| bus.away_ms(now)).unwrap_or(0);
    let has_stall = |stall| bus.is_some_and(|bus| bus.has_stall(stall));
    let reasons = [
        (NotReady::Draining, event_loop.draining()),
        (
            NotReady::LoopStalled,
            event_loop.last_turn_age_ms(now) > limits.loop_stall_ms,
        ),
        (NotReady::Starting, !event_loop.caught_up()),
        (NotReady::BusAway, away_ms > limits.bus_grace_ms),
        (
            NotReady::SubjectAway,
            bus.is_some_and(|bus| bus.has_away(now, limits.bus_grace_ms)),
        ),
        (
            NotReady::SubscriptionRefused,
            bus.is_some_and(BusStatus::is_subscription_refused),
        ),
        (NotReady::AcksRefused, has_stall(Stall::AcksRefused)),
        (NotReady::FeedSilent, bus.is_some_and(BusStatus::is_silent)),
        (NotReady::FeedStalled, has_stall(Stall::NothingDelivered)),
        (NotReady::KeysAway, telemetry.awaits_keys()),
    ];
    let holds = |(reason, holds): (NotReady, bool)| holds.then_some(reason);
    reasons.into_iter().filter_map(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_info::BuildInfo;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use weirgate_core::FeedStats;

    const START: Now = Now {
        mono_us: 100_000_000,
        unix_us: 1_700_000_000_000 * 1_000,
    };

    fn telemetry(bus: Option<Arc<BusStatus>>) -> Arc<Telemetry> {
        Telemetry::new(BuildInfo::THIS, "levels", FeedStats::default(), bus, START)
    }

    fn reasons(telemetry: &Telemetry, ms: u64) -> Vec<NotReady> {
        not_ready(
            telemetry,
            START.plus_us(ms * 1_000),
            &ReadyLimits::default(),
        )
    }

    fn turn_ended(telemetry: &Telemetry, ms: u64) {
        let ended = START.plus_us(ms * 1_000);
        assert!(telemetry.event_loop.turn_ended(ended, |_| {}));
    }

    #[test]
    fn starting_until_caught_up_once() {
        let telemetry = telemetry(None);
        assert_eq!(reasons(&telemetry, 0), [NotReady::Starting]);
        telemetry.event_loop.set_caught_up();
        assert_eq!(reasons(&telemetry, 0), []);
    }

    #[test]
    fn a_loop_that_does_not_turn_is_told() {
        let telemetry = telemetry(None);
        telemetry.event_loop.set_caught_up();
        assert_eq!(reasons(&telemetry, 2_000), []);
        assert_eq!(reasons(&telemetry, 2_001), [NotReady::LoopStalled]);
        turn_ended(&telemetry, 2_001);
        assert_eq!(reasons(&telemetry, 2_001), []);
    }

    #[test]
    fn the_bus_may_be_away_for_its_grace() {
        let bus = Arc::new(BusStatus::new(&[], START.mono_us));
        let telemetry = telemetry(Some(Arc::clone(&bus)));
        telemetry.event_loop.set_caught_up();
        let at = |ms: u64| {
            turn_ended(&telemetry, ms);
            reasons(&telemetry, ms)
        };
        assert_eq!(at(30_000), []);
        assert_eq!(at(30_001), [NotReady::BusAway]);
        bus.set_up(true);
        assert_eq!(at(90_000), []);
        bus.set_down(START.mono_us + 95_000_000);
        assert_eq!(at(125_000), []);
        assert_eq!(at(125_001), [NotReady::BusAway]);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_time_without_a_bus() {
        let bus = Arc::new(BusStatus::new(&[("a", "x")], START.mono_us));
        let telemetry = telemetry(Some(Arc::clone(&bus)));
        telemetry.event_loop.set_caught_up();
        bus.consumers()[0].set_attached();
        bus.consumers()[0].set_away(START.mono_us);
        for step_ms in [-3_600_000, 3_600_000] {
            let mut now = START.plus_us(3_000_000);
            now.unix_us += step_ms * 1_000;
            assert!(telemetry.event_loop.turn_ended(now, |_| {}));
            let found = not_ready(&telemetry, now, &ReadyLimits::default());
            assert_eq!(found, []);
        }
    }

    #[test]
    fn ready_means_that_data_can_come() {
        let bus = Arc::new(BusStatus::new(&[("a", "x"), ("b", "y")], START.mono_us));
        let telemetry = telemetry(Some(Arc::clone(&bus)));
        telemetry.event_loop.set_caught_up();
        bus.set_up(true);
        for (stall, reason) in [
            (Stall::AcksRefused, NotReady::AcksRefused),
            (Stall::NothingDelivered, NotReady::FeedStalled),
        ] {
            bus.consumers()[1].set_stall(Some(stall));
            assert_eq!(reasons(&telemetry, 0), [reason]);
        }
        bus.consumers()[1].set_stall(None);
        assert_eq!(reasons(&telemetry, 0), []);
        bus.consumers()[0].set_away(START.mono_us);
        assert_eq!(reasons(&telemetry, 0), [NotReady::SubjectAway]);
        bus.consumers()[0].set_attached();
        bus.consumers()[0].set_away(START.mono_us);
        turn_ended(&telemetry, 30_001);
        assert_eq!(reasons(&telemetry, 30_000), []);
        assert_eq!(reasons(&telemetry, 30_001), [NotReady::SubjectAway]);
        bus.consumers()[0].set_attached();
        // The reason appears at once, without the grace of an outage.
        bus.set_subscription_refused(true);
        assert_eq!(reasons(&telemetry, 0), [NotReady::SubscriptionRefused]);
        bus.set_subscription_refused(false);
        assert_eq!(reasons(&telemetry, 0), []);
    }

    #[test]
    fn nobody_is_sent_here_before_the_first_keys() {
        let telemetry = telemetry(None);
        telemetry.event_loop.set_caught_up();
        let awaits_keys = Arc::new(AtomicBool::new(true));
        telemetry.set_awaits_keys(Arc::clone(&awaits_keys));
        assert_eq!(reasons(&telemetry, 0), [NotReady::KeysAway]);
        awaits_keys.store(false, Ordering::Relaxed);
        assert_eq!(reasons(&telemetry, 0), []);
    }

    #[test]
    fn a_bus_that_is_silent_about_all_subjects_is_not_ready() {
        let bus = Arc::new(BusStatus::new(&[("a", "a"), ("b", "b")], START.mono_us));
        bus.set_up(true);
        let telemetry = telemetry(Some(Arc::clone(&bus)));
        telemetry.event_loop.set_caught_up();
        turn_ended(&telemetry, 0);
        for (a, b, want) in [
            (true, false, &[][..]),
            (true, true, &[NotReady::FeedSilent]),
        ] {
            bus.consumers()[0].set_silent(a);
            bus.consumers()[1].set_silent(b);
            assert_eq!(reasons(&telemetry, 1), want);
        }
    }

    #[test]
    fn draining_is_told_with_all_other_reasons() {
        let bus = Arc::new(BusStatus::new(&[], START.mono_us - 60_000_000));
        let telemetry = telemetry(Some(bus));
        telemetry.event_loop.set_draining();
        let all = [
            NotReady::Draining,
            NotReady::LoopStalled,
            NotReady::Starting,
            NotReady::BusAway,
        ];
        assert_eq!(reasons(&telemetry, 9_000), all);
    }
}
