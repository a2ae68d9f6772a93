//! Decides whether to keep a silent connection. A second connection shows whether a new connection would
//! do better.
//!
//! A server that was busy or stopped delivers everything on its existing connections as soon as the
//! server continues. A new connection would lose the messages published meanwhile.

use std::error::Error;
use std::time::{Duration, Instant};

use super::relay::Relay;

/// The time between two second connections.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time that the silent connection has to say something after a second connection had its answer. A
/// server that continues answers on both at about the same time.
const GRACE: Duration = Duration::from_secs(1);

/// The result of a second connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A server answers: a new connection would do better.
    Answer,
    /// The host of the silent connection answers that no server listens there.
    Nobody,
    /// A new connection would do no better.
    Silence,
}

/// The silences of a connection.
#[derive(Debug)]
pub(super) struct Probe {
    /// The name of the bus in log lines.
    bus: &'static str,
    /// A connection that was silent for this long is given up, whatever a second connection finds.
    silence_max: Duration,
    /// The time of the next second connection; `None` while the connection is not silent.
    due: Option<Instant>,
    /// The time of the first answer to a second connection in this silence.
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

    /// Handles a connection that has been silent for too long, since `heard`. The first call of a silence
    /// logs a warning; `second` is called if a second connection is due. Returns the time of the next
    /// call; `None`: give the silent connection up.
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

    /// Records that the connection said something. Returns whether there was too long a silence; nothing was
    /// lost then. `all_stand`: all subscriptions are confirmed.
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
