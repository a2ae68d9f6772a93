//! Clients with a limit of bytes a second, as on a slow line: for the demo
//! ([`Effect::Pace`](crate::hub::Effect::Pace)). Other clients have no entry here.

use std::collections::HashMap;
use std::io::IoSlice;

use crate::hub::SessionKey;

/// The interval at which the loop writes to waiting paced clients.
const TICK_US: u64 = 50_000;

#[derive(Debug, Default)]
pub(super) struct Paces {
    by_slot: HashMap<u32, Pace>,
    /// Clients that waited when their pace was removed.
    unpaced: Vec<SessionKey>,
    /// The time of the next writes to waiting clients, microseconds of the monotonic clock; `None`: no client
    /// waits.
    tick_at_us: Option<u64>,
}

#[derive(Debug)]
struct Pace {
    key: SessionKey,
    bytes_per_second: u32,
    /// Bytes that the client may get, times 1,000,000.
    credit: u64,
    credited_us: u64,
    waits: bool,
}

impl Pace {
    /// Returns the bytes that the client may get now: at most the bytes of two ticks, so that a client gets
    /// no burst after a rest.
    fn room(&mut self, now_us: u64) -> usize {
        let rate = u64::from(self.bytes_per_second);
        let elapsed_us = now_us.saturating_sub(self.credited_us).min(2 * TICK_US);
        self.credited_us = now_us;
        let most = (rate * 2 * TICK_US).max(1_000_000);
        self.credit = (self.credit + rate * elapsed_us).min(most);
        usize::try_from(self.credit / 1_000_000).unwrap_or(usize::MAX)
    }
}

impl Paces {
    /// Sets the pace of a client, or removes the pace.
    pub(super) fn set(&mut self, key: SessionKey, bytes_per_second: Option<u32>, now_us: u64) {
        let before = self.by_slot.remove(&key.slot);
        let waits = before.is_some_and(|pace| pace.waits);
        if let Some(bytes_per_second) = bytes_per_second {
            let pace = Pace {
                key,
                bytes_per_second,
                credit: 0,
                credited_us: now_us,
                waits,
            };
            self.by_slot.insert(key.slot, pace);
        } else if waits {
            // A client that waited for its pace gets the next bytes at once.
            self.unpaced.push(key);
            self.tick_at_us = Some(now_us);
        }
    }

    /// Removes the pace of this slot; the socket is closed.
    pub(super) fn forget(&mut self, slot: u32) {
        self.by_slot.remove(&slot);
    }

    /// Returns the bytes that the client may get now; `None` for a client without a pace.
    #[inline]
    pub(super) fn room(&mut self, key: SessionKey, now_us: impl FnOnce() -> u64) -> Option<usize> {
        if self.by_slot.is_empty() {
            return None;
        }
        let pace = self.by_slot.get_mut(&key.slot)?;
        (pace.key == key).then(|| pace.room(now_us()))
    }

    /// Records that a paced client took `bytes`; `waits`: the client has more to get.
    pub(super) fn took(&mut self, key: SessionKey, bytes: usize, waits: bool) {
        if let Some(pace) = self.by_slot.get_mut(&key.slot) {
            pace.credit = pace.credit.saturating_sub(bytes as u64 * 1_000_000);
            pace.waits |= waits;
            if waits {
                let next_us = pace.credited_us + TICK_US;
                self.tick_at_us.get_or_insert(next_us);
            }
        }
    }

    /// The time of the next writes to waiting clients.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.tick_at_us
    }

    /// Returns the waiting clients, if their tick has come.
    pub(super) fn take_due(&mut self, now_us: u64) -> Vec<SessionKey> {
        if self.tick_at_us.is_none_or(|at| now_us < at) {
            return Vec::new();
        }
        self.tick_at_us = None;
        let mut due = std::mem::take(&mut self.unpaced);
        for pace in self.by_slot.values_mut().filter(|pace| pace.waits) {
            pace.waits = false;
            due.push(pace.key);
        }
        due
    }
}

/// Returns the first `bytes` of the slices.
pub(super) fn cut<'a>(slices: &'a [IoSlice<'a>], mut bytes: usize) -> Vec<IoSlice<'a>> {
    let mut cut = Vec::new();
    for slice in slices {
        if bytes == 0 {
            break;
        }
        let part = &slice[..slice.len().min(bytes)];
        bytes -= part.len();
        cut.push(IoSlice::new(part));
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey {
        slot: 3,
        generation: 7,
    };

    #[test]
    fn a_paced_client_has_its_bytes_a_second_and_no_burst() {
        let mut paces = Paces::default();
        paces.set(KEY, Some(10_000), 0);
        let mut taken = 0;
        for now_us in (0..=1_000_000).step_by(50_000) {
            let room = paces.room(KEY, || now_us).expect("a pace");
            paces.took(KEY, room, true);
            taken += room;
        }
        assert_eq!(taken, 10_000);
        let after_a_rest = paces.room(KEY, || 60_000_000);
        assert_eq!(after_a_rest, Some(1_000), "two ticks");
    }

    #[test]
    fn who_waits_is_due_a_tick_later_and_at_once_without_a_pace() {
        let mut paces = Paces::default();
        paces.set(KEY, Some(1_000), 0);
        assert_eq!((paces.room(KEY, || 0), paces.due_us()), (Some(0), None));
        paces.took(KEY, 0, true);
        assert_eq!(paces.due_us(), Some(TICK_US));
        assert_eq!(paces.take_due(TICK_US - 1), []);
        assert_eq!(paces.take_due(TICK_US), [KEY]);
        assert_eq!((paces.take_due(TICK_US), paces.due_us()), (vec![], None));
        paces.took(KEY, 0, true);
        paces.set(KEY, None, 60_000);
        assert_eq!(paces.due_us(), Some(60_000));
        assert_eq!(paces.take_due(60_000), [KEY]);
        assert_eq!(paces.room(KEY, || 60_000), None);
    }

    #[test]
    fn the_next_client_of_a_slot_has_no_pace() {
        let mut paces = Paces::default();
        paces.set(KEY, Some(1_000), 0);
        let next = SessionKey {
            generation: 8,
            ..KEY
        };
        assert_eq!(paces.room(next, || 0), None);
        paces.forget(KEY.slot);
        assert_eq!(paces.room(KEY, || 0), None);
    }

    #[test]
    fn slices_are_cut_where_the_room_ends() {
        let slices = [IoSlice::new(b"abc"), IoSlice::new(b"defg")];
        let length = |bytes| {
            cut(&slices, bytes)
                .iter()
                .map(|s| s.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(length(0), Vec::<usize>::new());
        assert_eq!(length(2), [2]);
        assert_eq!(length(5), [3, 2]);
        assert_eq!(length(9), [3, 4]);
    }
}
