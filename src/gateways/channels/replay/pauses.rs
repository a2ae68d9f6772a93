//! Pauses of replays: while a client is ahead of this instance, or there is no room for its next page, neither the
//! history nor the bus is asked for a moment. All clients that pause go on together.

use std::mem;

use super::super::retained::Retained;
use weirgate_core::SessionKey;

/// A pause, microseconds.
const PAUSE_US: u64 = 20_000;
/// The most pauses without a page between.
const PAUSES_MAX: u32 = 1_500;

/// The pauses of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    /// It pauses now.
    is_paused: bool,
    /// The pauses since the last page.
    count: u32,
}

impl Pauses {
    pub(super) fn is_paused(self) -> bool {
        self.is_paused
    }

    /// Begins a pause. Returns false if there were too many.
    pub(super) fn begin(&mut self) -> bool {
        if self.count >= PAUSES_MAX {
            return false;
        }
        self.is_paused = true;
        self.count += 1;
        true
    }

    pub(super) fn end(&mut self) {
        self.is_paused = false;
    }

    /// A page has come.
    pub(super) fn paged(&mut self) {
        self.count = 0;
    }
}

/// Clients that pause before they get further kept messages.
#[derive(Debug, Default)]
pub(in super::super) struct PausedClients {
    clients: Vec<SessionKey>,
    /// When all of them go on, microseconds.
    until_us: u64,
}

impl PausedClients {
    /// Pauses a client for a moment.
    pub(super) fn add(&mut self, key: SessionKey, now_us: u64) {
        if self.clients.is_empty() {
            self.until_us = now_us + PAUSE_US;
        }
        // A client may pause with thousands of names, one after the other.
        if self.clients.last() != Some(&key) {
            self.clients.push(key);
        }
    }

    /// When the clients go on; `None` without a client.
    pub(in super::super) fn due_us(&self) -> Option<u64> {
        Some(self.until_us).filter(|_| !self.clients.is_empty())
    }

    /// Takes the clients out if their pause is over.
    fn take_due(&mut self, now_us: u64) -> Vec<SessionKey> {
        match now_us < self.until_us {
            true => Vec::new(),
            false => mem::take(&mut self.clients),
        }
    }
}

impl Retained {
    /// Ends the pause of clients.
    pub(in super::super) fn wake_paused(&mut self, now_us: u64) {
        for key in self.paused.take_due(now_us) {
            if let Some(waiter) = self.clients.get_mut(&key) {
                waiter.replays.end_pauses();
            }
            self.wake(key);
        }
    }
}
