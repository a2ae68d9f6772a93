//! Decides whether to keep a silent connection.

use std::error::Error;
use std::time::{Duration, Instant};

use super::outage::LinkTimes;
use super::relay::Relay;
use weirgate_runtime::LoopGone;

/// The time between two second connections.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the silent connection is kept after an answer on a second connection. A server that was stopped and
/// continues answers on both at about the same time.
const GRACE: Duration = Duration::from_secs(1);

/// The result of a second connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// A server answers, so a new connection would work.
    Answer,
    /// The host refuses the connection: no server listens there.
    Nobody,
    /// No answer, so a new connection would not work either.
    Silence,
}

/// Decides whether to keep a silent connection. A second connection shows whether a new connection would work. A busy
/// or stopped server delivers everything on its existing connections as soon as the server continues, and a new
/// connection would lose the messages published meanwhile.
#[derive(Debug)]
pub(super) struct Probe {
    /// The name of the bus in log lines.
    bus: &'static str,
    /// After this silence the connection is given up, even if no second connection had an answer.
    silence_max: Duration,
    /// The time of the next second connection; `None` while the connection is not silent.
    due: Option<Instant>,
    /// The time of the first answer to a second connection in this silence.
    answered: Option<Instant>,
}

impl Probe {
    pub(super) fn new(bus: &'static str, times: &LinkTimes) -> Self {
        Self {
            bus,
            silence_max: Duration::from_millis(times.silence_max_ms),
            due: None,
            answered: None,
        }
    }

    /// Handles too long a silence, since `last_received`. Its first call logs a warning and reports that the bus is
    /// down. Calls `second` if a second connection is due. Returns the time of the next call; `None` if the silent
    /// connection is to be given up.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn probe_if_due<E: Error>(
        &mut self,
        last_received: Instant,
        relay: &mut Relay<E>,
        second: impl FnOnce() -> ProbeResult,
    ) -> Result<Option<Instant>, LoopGone> {
        if self.due.is_none() {
            let (bus, silent_ms) = (self.bus, last_received.elapsed().as_millis() as u64);
            relay.report_silence(format!("{bus} has not answered for {silent_ms} ms"))?;
            tracing::warn!(silent_ms, "{bus} does not answer; keeping the connection");
        }
        Ok(self.next_check(last_received, second))
    }

    /// When to check again; `None` if the connection is to be given up. Makes a second connection to the server when that
    /// is due.
    fn next_check(
        &mut self,
        last_received: Instant,
        second: impl FnOnce() -> ProbeResult,
    ) -> Option<Instant> {
        let mut give_up = last_received + self.silence_max;
        if let Some(answered) = self.answered {
            give_up = give_up.min(answered + GRACE);
        }
        let now = Instant::now();
        if now >= give_up {
            return None;
        }
        if self.answered.is_some() {
            // One answer is enough: no further second connection is made.
            return Some(give_up);
        }
        if self.due.is_none_or(|due| now >= due) {
            match second() {
                ProbeResult::Answer => self.answered = Some(Instant::now()),
                // The server of the silent connection has ended.
                ProbeResult::Nobody => return None,
                ProbeResult::Silence => {}
            }
            self.due = Some(Instant::now() + INTERVAL);
        }
        self.due.map(|due| due.min(give_up))
    }

    /// Records that the connection said something. If that ends too long a silence, reports that the bus is up again,
    /// and returns true; nothing was lost then. `is_restored`: all subscriptions are confirmed.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn end_silence<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        is_restored: bool,
    ) -> Result<bool, LoopGone> {
        self.answered = None;
        let was_silent = self.due.take().is_some();
        if was_silent {
            relay.report_answer(is_restored)?;
            tracing::info!("{} answers again", self.bus);
        }
        Ok(was_silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_connection_is_kept_until_another_one_does_better() {
        let mut probe = Probe::new("a bus", &LinkTimes::default());
        let now = Instant::now();
        assert!(probe.next_check(now, || ProbeResult::Silence).is_some());
        let next = probe.next_check(now, || panic!("not due yet"));
        assert!(next.is_some_and(|next| next <= now + 2 * INTERVAL));
        probe.due = Some(now);
        let next = probe.next_check(now, || ProbeResult::Answer);
        assert!(next.is_some(), "the silent one has its grace");
        let next = probe.next_check(now, || panic!("asked and answered"));
        assert!(next.is_some_and(|next| next <= Instant::now() + GRACE));
        probe.answered = Some(now - GRACE);
        assert_eq!(probe.next_check(now, || ProbeResult::Silence), None);
    }

    #[test]
    fn a_silent_connection_is_given_up_where_nobody_listens_and_after_its_longest_time() {
        let mut probe = Probe::new("a bus", &LinkTimes::default());
        let now = Instant::now();
        assert_eq!(probe.next_check(now, || ProbeResult::Nobody), None);
        let last_received = now - probe.silence_max;
        assert_eq!(
            probe.next_check(last_received, || ProbeResult::Silence),
            None
        );
    }
}
