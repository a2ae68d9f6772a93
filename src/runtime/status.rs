//! The state of a source's bus, for `/health`, `/ready` and metrics. It consists of atomics, which the threads of the
//! source write and any thread may read; only what a server says of streams is behind a lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DurationCounts, Durations, SpinCounts};
use weirgate_wire::base::Now;

/// The state of a bus connection.
#[derive(Debug, Default)]
pub struct BusStatus {
    /// Whether the bus responds.
    connected: AtomicBool,
    /// Whether every subscription is active, too; never without `connected`.
    subscribed: AtomicBool,
    away: Away,
    reconnects: AtomicU64,
    refused: AtomicU64,
    look_backs_limited: AtomicU64,
    retained_limited: AtomicU64,
    retained_refused: AtomicU64,
    spun_us: AtomicU64,
    spins_found: AtomicU64,
    subscription_refused: AtomicBool,
    positions_shared: AtomicBool,
    stream_behind: ReaderLag,
    arrivals: Durations,
    /// What the server says of each stream that is read. Written when it changes, read for an operator.
    streams: Mutex<BTreeMap<String, StreamReport>>,
    /// The subjects that are read from each stream; empty if the source does not read single subjects of a stream.
    stream_subjects: Mutex<BTreeMap<String, Vec<String>>>,
    consumers: Vec<ConsumerStatus>,
    /// The state of the names beside the stream.
    beside: Option<Arc<Self>>,
}

/// How far the reader of a stream is behind; -1 while unknown.
#[derive(Debug)]
struct ReaderLag {
    messages: AtomicI64,
    ms: AtomicI64,
}

impl Default for ReaderLag {
    fn default() -> Self {
        let [messages, ms] = [-1, -1].map(AtomicI64::new);
        Self { messages, ms }
    }
}

impl ReaderLag {
    fn forget(&self) {
        self.ms.store(-1, Relaxed);
        self.messages.store(-1, Relaxed);
    }
}

/// The state of a consumer (one subscription).
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    name: String,
    subject: String,
    /// The number of messages that the server holds for the consumer; -1 while unknown.
    lag: AtomicI64,
    /// Whether the server does not respond to requests about the consumer.
    silent: AtomicBool,
    /// The stall as a number; 0 while not stalled.
    stall: AtomicU8,
    /// Since when the consumer cannot be read from, although the connection works.
    away: Away,
    /// Whether the consumer was read from at least once.
    was_attached: AtomicBool,
    setups_failed: AtomicU64,
    /// Whether the source leaves the subject of the consumer out.
    left_out: AtomicBool,
}

/// When the present absence began, in microseconds of the monotonic clock, so that a step of the wall clock does not
/// make it longer; 0 while present.
#[derive(Debug, Default)]
struct Away(AtomicU64);

impl Away {
    /// Begins an absence; has no effect during one.
    fn begin(&self, now_us: u64) {
        let _ = self.0.compare_exchange(0, now_us.max(1), Relaxed, Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Relaxed);
    }

    fn ms(&self, now: Now) -> Option<u64> {
        let since_us = Some(self.0.load(Relaxed)).filter(|&at| at != 0)?;
        Some(now.mono_us.saturating_sub(since_us) / 1_000)
    }
}

/// Why no messages come from a consumer although the bus holds some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The server waits for acknowledgements, but refuses those of this user.
    AcksRefused,
    /// The server delivers nothing.
    NothingDelivered,
}

/// What the bus says of a stream that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// The state in one word, for programs.
    pub label: &'static str,
    /// Whether the stream can take no messages.
    pub is_stopped: bool,
    /// Whether this can be the reason why the bus is away, and so stays known meanwhile.
    pub explains_outage: bool,
    /// The end of a sentence that begins with the stream.
    pub text: String,
}

impl BusStatus {
    /// Creates the state of a bus that was not reached yet: it is away since `now_us`, microseconds as
    /// [`Now::mono_us`]. `consumers` are pairs of name and subject.
    pub fn new(consumers: &[(&str, &str)], now_us: u64) -> Self {
        let consumer = |&(name, subject): &(&str, &str)| ConsumerStatus {
            name: name.to_owned(),
            subject: subject.to_owned(),
            lag: AtomicI64::new(-1),
            ..ConsumerStatus::default()
        };
        Self {
            away: Away(AtomicU64::new(now_us)),
            consumers: consumers.iter().map(consumer).collect(),
            ..Self::default()
        }
    }

    /// Joins the state of the names beside the stream: a question about both has one answer.
    #[must_use]
    pub fn with_beside(mut self, beside: Arc<Self>) -> Self {
        self.beside = Some(beside);
        self
    }

    /// Whether this is true here and beside the stream.
    fn of_both(&self, is: impl Fn(&Self) -> bool) -> bool {
        is(self) && self.beside.as_deref().is_none_or(is)
    }

    /// The sum of a count here and beside the stream.
    fn sum(&self, count: impl Fn(&Self) -> &AtomicU64) -> u64 {
        let beside = self
            .beside
            .as_deref()
            .map_or(0, |beside| count(beside).load(Relaxed));
        count(self).load(Relaxed) + beside
    }

    /// Whether the bus responds.
    pub fn connected(&self) -> bool {
        self.of_both(|bus| bus.connected.load(Relaxed))
    }

    /// Whether the bus responds and every subscription is active.
    pub fn subscribed(&self) -> bool {
        self.of_both(|bus| bus.subscribed.load(Relaxed))
            && self.consumers.iter().all(|c| !c.is_away())
    }

    /// Returns how long the bus has been away, milliseconds; `None` while the subscriptions are active. A bus that
    /// responds, but has not all subscriptions, counts as away too.
    pub fn away_ms(&self, now: Now) -> Option<u64> {
        let beside = self.beside.as_ref().and_then(|beside| beside.away.ms(now));
        self.away.ms(now).max(beside)
    }

    /// Returns the number of reconnections: connections with all subscriptions after the first.
    pub fn reconnects(&self) -> u64 {
        self.sum(|bus| &bus.reconnects)
    }

    /// Returns the number of subscriptions that the bus has refused.
    pub fn refused(&self) -> u64 {
        self.sum(|bus| &bus.refused)
    }

    /// Returns the number of searches for the last good message of a subject that reached their limit without finding
    /// it.
    pub fn look_backs_limited(&self) -> u64 {
        self.look_backs_limited.load(Relaxed)
    }

    /// Source: counts a search for the last good message of a subject that reached its limit.
    pub fn count_look_back_limited(&self) {
        self.look_backs_limited.fetch_add(1, Relaxed);
    }

    /// Returns the number of names of which not all last values were sent, because of a limit or an answer that could
    /// not be read.
    pub fn retained_limited(&self) -> u64 {
        self.sum(|bus| &bus.retained_limited)
    }

    /// Source: counts a name of which not all last values are sent.
    pub fn count_retained_limited(&self) {
        self.retained_limited.fetch_add(1, Relaxed);
    }

    /// The number of names whose last values the bus has refused, or has not sent in time.
    pub fn retained_refused(&self) -> u64 {
        self.sum(|bus| &bus.retained_refused)
    }

    /// Source: counts a name whose last values the bus has refused, or has not sent in time.
    pub fn count_retained_refused(&self) {
        self.retained_refused.fetch_add(1, Relaxed);
    }

    /// Returns how long the source has polled without sleep so far, and how often that found work.
    pub fn spin(&self) -> SpinCounts {
        SpinCounts {
            spun_us: self.spun_us.load(Relaxed),
            found: self.spins_found.load(Relaxed),
        }
    }

    /// Source: sets how long it has polled without sleep so far, and how often that found work.
    pub fn set_spin(&self, counts: SpinCounts) {
        self.spun_us.store(counts.spun_us, Relaxed);
        self.spins_found.store(counts.found, Relaxed);
    }

    /// Whether the bus refuses a subscription that the gateway cannot do without.
    pub fn is_subscription_refused(&self) -> bool {
        self.subscription_refused.load(Relaxed)
    }

    /// Source: sets whether the bus refuses a subscription that the gateway cannot do without.
    pub fn set_subscription_refused(&self, refused: bool) {
        self.subscription_refused.store(refused, Relaxed);
    }

    /// Whether positions in the feed are valid on other instances too.
    pub fn positions_shared(&self) -> bool {
        self.positions_shared.load(Relaxed)
    }

    /// Source: sets whether positions in the feed are valid on other instances too.
    pub fn set_positions_shared(&self, shared: bool) {
        self.positions_shared.store(shared, Relaxed);
    }

    /// Returns how far the reader of a stream is behind the newest message: messages, if known, and milliseconds.
    /// `None` if no stream is read, or nothing was read since the bus was last away.
    pub fn stream_behind(&self) -> Option<(Option<u64>, u64)> {
        let known = |value: &AtomicI64| u64::try_from(value.load(Relaxed)).ok();
        let ms = known(&self.stream_behind.ms)?;
        Some((known(&self.stream_behind.messages), ms))
    }

    /// Source: sets how far the reader of a stream is behind the newest message.
    pub fn set_stream_behind(&self, messages: Option<u64>, ms: u64) {
        let messages = messages.and_then(|messages| i64::try_from(messages).ok());
        let behind = &self.stream_behind;
        behind.messages.store(messages.unwrap_or(-1), Relaxed);
        behind.ms.store(ms.try_into().unwrap_or(i64::MAX), Relaxed);
    }

    /// Returns what the server says of the streams that are read, with their names; nothing while that is unknown.
    pub fn streams(&self) -> Vec<(String, StreamReport)> {
        let states = self.lock_streams();
        states
            .iter()
            .map(|(name, state)| (name.clone(), state.clone()))
            .collect()
    }

    /// Source: sets what the server says of a stream; `None` if that is unknown.
    pub fn set_stream(&self, stream: &str, state: Option<StreamReport>) {
        let mut states = self.lock_streams();
        match state {
            Some(state) => drop(states.insert(stream.to_owned(), state)),
            None => drop(states.remove(stream)),
        }
    }

    /// Returns the subjects that are read from a stream. `None`: none is known. The stream of a subject may not have
    /// been found yet, or the source does not read single subjects of a stream.
    pub fn subjects_of_stream(&self, stream: &str) -> Option<Vec<String>> {
        let subjects = self.stream_subjects.lock();
        let subjects = subjects.unwrap_or_else(PoisonError::into_inner);
        subjects.get(stream).cloned()
    }

    /// Source: sets the streams and the subjects that are read, in pairs.
    pub fn set_subjects_read<'a>(&self, read: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut subjects = BTreeMap::<String, Vec<String>>::new();
        for (stream, subject) in read {
            let of_stream = subjects.entry(stream.to_owned()).or_default();
            of_stream.push(subject.to_owned());
        }
        let kept = self.stream_subjects.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = subjects;
    }

    fn lock_streams(&self) -> MutexGuard<'_, BTreeMap<String, StreamReport>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Source: counts a message that arrived at `received`, and that the bus stored at `stored_us` of its Unix time. If
    /// the clocks differ so that it was stored later than received, it counts as 0.
    pub fn count_arrival(&self, received: Now, stored_us: u64) {
        let received_us = u64::try_from(received.unix_us).unwrap_or(0);
        self.arrivals
            .observe_us(received_us.saturating_sub(stored_us));
    }

    /// Returns the distribution of the times from storage at the bus until arrival here.
    pub fn arrivals(&self) -> DurationCounts {
        self.arrivals.counts()
    }

    /// Returns the consumers, in the order of [`Self::new`].
    pub fn consumers(&self) -> &[ConsumerStatus] {
        &self.consumers
    }

    /// Returns the consumers, without those whose subject the source leaves out.
    pub fn consumers_used(&self) -> impl Iterator<Item = &ConsumerStatus> {
        self.consumers.iter().filter(|c| !c.left_out.load(Relaxed))
    }

    /// Returns a number of each of [`Self::consumers_used`], with the name of the consumer, but skips those without the
    /// number.
    pub fn of_consumers(
        &self,
        number: fn(&ConsumerStatus) -> Option<u64>,
    ) -> impl Iterator<Item = (&str, u64)> {
        let of_one = move |consumer| number(consumer).map(|n| (consumer.name(), n));
        self.consumers_used().filter_map(of_one)
    }

    /// Whether any consumer has been away for more than `grace_ms`, or is away and was never read from.
    pub fn has_away(&self, now: Now, grace_ms: u64) -> bool {
        self.consumers.iter().any(|consumer| {
            let away_ms = consumer.away_ms(now);
            away_ms.is_some_and(|ms| ms > grace_ms || !consumer.was_attached.load(Relaxed))
        })
    }

    /// Whether the server is silent about all consumers.
    pub fn is_silent(&self) -> bool {
        let mut used = self.consumers_used().peekable();
        used.peek().is_some() && used.all(ConsumerStatus::is_silent)
    }

    /// Whether any consumer is stalled for the reason `stall`.
    pub fn has_stall(&self, stall: Stall) -> bool {
        self.consumers.iter().any(|c| c.stall() == Some(stall))
    }

    /// Source: records that the bus responds, and whether every subscription is active.
    pub fn set_up(&self, subscribed: bool) {
        self.connected.store(true, Relaxed);
        self.subscribed.store(subscribed, Relaxed);
        if subscribed {
            self.away.end();
        }
    }

    /// Source: records that the bus is away. Its absence began at the first call since all subscriptions were active.
    /// `now_us`: microseconds as [`Now::mono_us`].
    pub fn set_down(&self, now_us: u64) {
        self.connected.store(false, Relaxed);
        self.subscribed.store(false, Relaxed);
        self.lock_streams().retain(|_, state| state.explains_outage);
        // Nobody knows how much is added meanwhile.
        self.stream_behind.forget();
        self.away.begin(now_us);
    }

    /// Source: counts a reconnection.
    pub fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// Source: counts a subscription that the bus refused.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

impl ConsumerStatus {
    /// Returns the consumer's name, as shown in `/health`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the filter subject of the consumer.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the messages that the server holds for the consumer, if known.
    pub fn lag(&self) -> Option<u64> {
        u64::try_from(self.lag.load(Relaxed)).ok()
    }

    /// Whether the server does not respond to requests about the consumer, although the connection works.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Relaxed)
    }

    /// Returns why the bus has delivered nothing for a while although it holds messages; `None` if that is not so.
    pub fn stall(&self) -> Option<Stall> {
        match self.stall.load(Relaxed) {
            1 => Some(Stall::AcksRefused),
            2 => Some(Stall::NothingDelivered),
            _ => None,
        }
    }

    /// Returns for how long the consumer could not be read from although the connection works, milliseconds.
    pub fn away_ms(&self, now: Now) -> Option<u64> {
        self.away.ms(now)
    }

    /// Whether the consumer cannot be read from although the connection works.
    pub fn is_away(&self) -> bool {
        // The time only decides for how long.
        self.away_ms(Now::default()).is_some()
    }

    /// Returns how often the source has failed to set the consumer up.
    pub fn setups_failed(&self) -> u64 {
        self.setups_failed.load(Relaxed)
    }

    /// Source: records that the consumer could not be set up. Its absence began at the first call since it was last
    /// read from. `now_us`: microseconds as [`Now::mono_us`].
    pub fn set_away(&self, now_us: u64) {
        self.setups_failed.fetch_add(1, Relaxed);
        self.away.begin(now_us);
    }

    /// Source: records that the consumer is being read from.
    pub fn set_attached(&self) {
        self.was_attached.store(true, Relaxed);
        self.away.end();
    }

    /// Source: sets whether it leaves the subject out. Neither the metrics nor `/health` then show the consumer.
    pub fn set_left_out(&self, left_out: bool) {
        self.left_out.store(left_out, Relaxed);
    }

    /// Source: sets whether the server does not respond to requests about the consumer.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Relaxed);
    }

    /// Source: sets the reason for a stall, or that there is none.
    pub fn set_stall(&self, stall: Option<Stall>) {
        let value = match stall {
            None => 0,
            Some(Stall::AcksRefused) => 1,
            Some(Stall::NothingDelivered) => 2,
        };
        self.stall.store(value, Relaxed);
    }

    /// Source: sets the lag; `None` if it is unknown.
    pub fn set_lag(&self, lag: Option<u64>) {
        let value = lag.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
        self.lag.store(value, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bus: &BusStatus, number: fn(&ConsumerStatus) -> Option<u64>) -> Vec<u64> {
        bus.of_consumers(number).map(|(_, n)| n).collect()
    }

    /// A time of the monotonic clock, milliseconds. The wall clock jumps with each millisecond.
    fn at(ms: u64) -> Now {
        Now {
            mono_us: ms * 1_000,
            unix_us: [0, i64::MAX][(ms % 2) as usize],
        }
    }

    #[test]
    fn the_bus_is_away_from_the_first_fault_until_its_subscriptions_stand() {
        let bus = BusStatus::new(&[], at(10).mono_us);
        assert_eq!(bus.away_ms(at(11)), Some(1));
        bus.set_up(true);
        assert_eq!(bus.away_ms(at(99)), None);
        bus.set_down(at(20).mono_us);
        bus.set_down(at(30).mono_us);
        bus.set_up(false);
        assert!(bus.connected() && !bus.subscribed());
        assert_eq!(bus.away_ms(at(29)), Some(9));
        bus.set_up(true);
        assert_eq!(bus.away_ms(at(99)), None);
    }

    #[test]
    fn a_lag_is_unknown_until_the_server_tells_it() {
        let bus = BusStatus::new(&[("a", "b")], 0);
        let consumer = &bus.consumers()[0];
        assert_eq!(consumer.lag(), None);
        consumer.set_lag(Some(u64::MAX));
        assert_eq!(consumer.lag(), Some(i64::MAX as u64));
        consumer.set_lag(None);
        assert_eq!(consumer.lag(), None);
    }

    #[test]
    fn a_consumer_that_cannot_be_set_up_is_away_and_has_a_grace_if_it_stood_before() {
        let bus = BusStatus::new(&[("a", "x"), ("b", "y")], 0);
        bus.set_up(true);
        assert!(bus.subscribed() && !bus.has_away(at(0), 10));
        bus.consumers()[0].set_away(at(5).mono_us);
        bus.consumers()[0].set_away(at(6).mono_us);
        assert!(!bus.subscribed() && bus.connected());
        assert!(bus.has_away(at(5), 10), "nothing came from it yet");
        assert_eq!(bus.consumers()[0].away_ms(at(8)), Some(3));
        bus.consumers()[0].set_attached();
        assert!(bus.subscribed() && !bus.has_away(at(99), 10));
        bus.consumers()[0].set_away(at(20).mono_us);
        assert!(!bus.has_away(at(30), 10) && bus.has_away(at(31), 10));
        assert_eq!(numbers(&bus, |c| Some(c.setups_failed())), [3, 0]);
        assert_eq!(numbers(&bus, |c| Some(c.is_away().into())), [1, 0]);
    }

    #[test]
    fn silence_and_stalls_are_told_of_each_consumer() {
        let bus = BusStatus::new(&[("a", "x"), ("b", "y")], 0);
        let silences = || numbers(&bus, |c| Some(c.is_silent().into()));
        assert_eq!(silences(), [0, 0]);
        bus.consumers()[1].set_silent(true);
        assert_eq!(silences(), [0, 1]);
        for stall in [Stall::AcksRefused, Stall::NothingDelivered] {
            bus.consumers()[0].set_stall(Some(stall));
            assert!(bus.has_stall(stall));
            let stalls = numbers(&bus, |c| Some(c.stall().is_some().into()));
            assert_eq!(stalls, [1, 0]);
        }
        bus.consumers()[0].set_stall(None);
        assert_eq!(bus.consumers()[0].stall(), None);
    }
}
