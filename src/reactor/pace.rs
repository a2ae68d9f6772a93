//! Clients that are written to no faster than so many bytes a second, as a slow line would take
//! them: what the demo shows ([`Effect::Pace`](crate::hub::Effect::Pace)). Nobody else is in here.

use std::collections::HashMap;
use std::io::IoSlice;

use crate::hub::SessionKey;

/// Paced clients that wait are written to this often.
const TICK_US: u64 = 50_000;

#[derive(Debug, Default)]
pub(super) struct Paces {
    by_slot: HashMap<u32, Pace>,
    /// Those that waited when their pace was taken away.
    unpaced: Vec<SessionKey>,
    /// Some wait, and are written to at this moment, microseconds of the monotonic clock.
    tick_at_us: Option<u64>,
}

#[derive(Debug)]
struct Pace {
    key: SessionKey,
    bytes_per_second: u32,
    /// Bytes that it may have, times 1,000,000.
    credit: u64,
    credited_us: u64,
    waits: bool,
}

impl Pace {
    /// Bytes that it may have now: at most those of two ticks, or a client that was idle would get
    /// a burst.
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
    /// Sets the pace of a client, or takes it away.
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
            // What waited for its pace goes at once.
            self.unpaced.push(key);
            self.tick_at_us = Some(now_us);
        }
    }

    /// The socket of this slot has gone.
    pub(super) fn forget(&mut self, slot: u32) {
        self.by_slot.remove(&slot);
    }

    /// Bytes that the client may have now; `None`: it has no pace.
    #[inline]
    pub(super) fn room(&mut self, key: SessionKey, now_us: impl FnOnce() -> u64) -> Option<usize> {
        if self.by_slot.is_empty() {
            return None;
        }
        let pace = self.by_slot.get_mut(&key.slot)?;
        (pace.key == key).then(|| pace.room(now_us()))
    }

    /// A paced client has taken so many bytes; `waits`: it would have taken more.
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

    /// When those that wait are to be written to.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.tick_at_us
    }

    /// Those that wait, if their moment has come.
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

/// The first `bytes` of these slices.
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
