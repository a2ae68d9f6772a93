//! Is a silent connection to be kept? A second connection beside it shows whether a new one would do
//! better.
//!
//! A server that is busy, or that stands still, delivers everything on the connection that it has as
//! soon as it goes on. What is published meanwhile is lost to a connection that is made anew.

use std::error::Error;
use std::time::{Duration, Instant};

use super::relay::Relay;

/// The time between two second connections.
const INTERVAL: Duration = Duration::from_millis(500);
/// The silent connection has this long to say something after a second one had its answer. A server
/// that goes on answers on both at about the same time.
const GRACE: Duration = Duration::from_secs(1);

/// What a second connection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A server answers: a new connection would do better.
    Answer,
    /// The host of the silent connection answers that no server listens there.
    Nobody,
    /// Nothing that would do better.
    Silence,
}

/// The silences of one connection.
#[derive(Debug)]
pub(super) struct Probe {
    /// The name of the bus in log lines.
    bus: &'static str,
    /// A connection that was silent for this long is given up, whatever a second one finds.
    silence_max: Duration,
    /// When the next second connection is due; `None` while the connection is not silent.
    due: Option<Instant>,
    /// When a second connection had its answer for the first time in this silence.
    answered: Option<Instant>,
}

impl Probe {
    pub(super) fn new(bus: &'static str, silence_max: Duration) -> Self {
        Self {
            bus,
            silence_max,
            due: None,
            answered: None,
        }
    }

    /// The connection, which was `heard` last then, is silent for too long. Says so at the first call
    /// of a silence, and has a second connection made if one is due. Returns the moment of the next
    /// look; `None`: the silent connection is to be given up.
    pub(super) fn look<E: Error>(
        &mut self,
        heard: Instant,
        relay: &Relay<E>,
        second: impl FnOnce() -> Found,
    ) -> Option<Instant> {
        if self.due.is_none() {
            relay.status.set_down(relay.link.now().unix_ms);
            let silent_ms = heard.elapsed().as_millis() as u64;
            tracing::warn!(
                silent_ms,
                "{} does not answer; keeping the connection",
                self.bus
            );
        }
        self.judge(heard, second)
    }

    fn judge(&mut self, heard: Instant, second: impl FnOnce() -> Found) -> Option<Instant> {
        let give_up = heard + self.silence_max;
        let give_up = self
            .answered
            .map_or(give_up, |answered| give_up.min(answered + GRACE));
        let now = Instant::now();
        if now >= give_up {
            return None;
        }
        if self.answered.is_some() {
            return Some(give_up);
        }
        if self.due.is_none_or(|due| now >= due) {
            match second() {
                Found::Answer => self.answered = Some(Instant::now()),
                Found::Nobody => return None,
                Found::Silence => {}
            }
            self.due = Some(Instant::now() + INTERVAL);
        }
        self.due.map(|due| due.min(give_up))
    }

    /// The connection said something. Returns whether it had been silent for too long; nothing was
    /// lost on it. `all_stand`: all subscriptions do.
    pub(super) fn end<E: Error>(&mut self, relay: &Relay<E>, all_stand: bool) -> bool {
        self.answered = None;
        let was_silent = self.due.take().is_some();
        if was_silent {
            relay.status.set_up(all_stand);
            tracing::info!("{} answers again", self.bus);
        }
        was_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(30);

    #[test]
    fn a_silent_connection_is_kept_until_another_one_does_better() {
        let mut probe = Probe::new("a bus", SILENCE_MAX);
        let now = Instant::now();
        assert!(probe.judge(now, || Found::Silence).is_some());
        let next = probe.judge(now, || panic!("not due yet"));
        assert!(next.is_some_and(|next| next <= now + 2 * INTERVAL));
        probe.due = Some(now);
        let next = probe.judge(now, || Found::Answer);
        assert!(next.is_some(), "the silent one has its grace");
        let next = probe.judge(now, || panic!("asked and answered"));
        assert!(next.is_some_and(|next| next <= Instant::now() + GRACE));
        probe.answered = Some(now - GRACE);
        assert_eq!(probe.judge(now, || Found::Silence), None);
    }

    #[test]
    fn a_silent_connection_is_given_up_where_nobody_listens_and_after_its_longest_time() {
        let mut probe = Probe::new("a bus", SILENCE_MAX);
        let now = Instant::now();
        assert_eq!(probe.judge(now, || Found::Nobody), None);
        let heard = now - SILENCE_MAX;
        assert_eq!(probe.judge(heard, || Found::Silence), None);
    }
}
