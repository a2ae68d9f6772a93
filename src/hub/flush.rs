//! One write per client and turn, in batches of three passes: plan, borrow, apply.
//!
//! The plan makes what the write needs (deflated encodings, leads). The borrow collects slices of
//! the queues themselves, no byte of a shared frame is copied here. The shell tries each write
//! once, and the apply moves the queues by what the kernel took. The vectors live on from batch to
//! batch, so that a flush allocates nothing.
//!
//! A flush of many clients takes long, so the shell may stop a flush between two batches. The next
//! flush goes on with the clients that had no write yet, and takes others behind them.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::clients::Clients;
use super::core::Core;
use super::deflated::Compressor;
use super::session::{AfterWrite, Pause};
use super::shell::{Transmit, Write};
use super::{CloseReason, Effect, Limits, SendError, SessionKey};

/// Sessions in one batch.
const BATCH_SESSIONS: usize = 128;

/// Bytes deflated in one batch; the last payload may go over.
const BATCH_DEFLATED_BYTES: usize = 256 * 1024;

/// Vectors that are empty between batches and keep their memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Of this flush: plain clients, then deflated ones.
    rounds: [Round; 2],
    plans: Vec<Plan>,
    leads: Vec<u8>,
    slices: Vec<IoSlice<'static>>,
    writes: Vec<Write<'static>>,
    wrote: Vec<io::Result<usize>>,
    /// Turns so far: where the next flush starts.
    turn: usize,
}

/// The clients of one list, and how many of them have had their write.
#[derive(Debug, Default)]
struct Round {
    keys: Vec<SessionKey>,
    done: usize,
}

impl Round {
    fn is_over(&self) -> bool {
        self.done == self.keys.len()
    }

    /// Takes the clients of a list. Nobody is always last: the start moves on by a prime each turn.
    fn begin(&mut self, list: &mut Vec<SessionKey>, turn: usize) {
        self.keys.clear();
        self.done = 0;
        if list.is_empty() {
            return;
        }
        std::mem::swap(&mut self.keys, list);
        let start = turn.wrapping_mul(7919) % self.keys.len();
        self.keys.rotate_left(start);
    }
}

impl Scratch {
    /// A flush has stopped before its end.
    pub(super) fn is_under_way(&self) -> bool {
        !self.rounds.iter().all(Round::is_over)
    }
}

#[derive(Debug)]
struct Plan {
    key: SessionKey,
    leads: Range<usize>,
    bytes: usize,
}

impl Core {
    /// Gives every session with something to send one write, while `tx` has time. What an earlier
    /// flush left goes first.
    pub(super) fn flush_dirty(&mut self, tx: &mut dyn Transmit) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let is_over = !scratch.is_under_way() || self.flush_rounds(&mut scratch, tx);
        if is_over {
            scratch.turn = scratch.turn.wrapping_add(1);
            for (round, list) in scratch.rounds.iter_mut().zip(&mut self.clients.dirty) {
                round.begin(list, scratch.turn);
            }
            self.flush_rounds(&mut scratch, tx);
        }
        self.scratch = scratch;
    }

    /// Some clients wait for a write that the kernel may take.
    pub(super) fn has_unflushed(&self) -> bool {
        let listed = || self.clients.dirty.iter().any(|list| !list.is_empty());
        self.scratch.is_under_way() || listed()
    }

    /// `false`: the time was over before the end.
    fn flush_rounds(&mut self, scratch: &mut Scratch, tx: &mut dyn Transmit) -> bool {
        for index in 0..scratch.rounds.len() {
            let mut round = std::mem::take(&mut scratch.rounds[index]);
            while !round.is_over() && tx.has_time() {
                let left = &round.keys[round.done..];
                let batch = &left[..left.len().min(BATCH_SESSIONS)];
                round.done += self.flush_batch(batch, scratch, tx);
            }
            scratch.rounds[index] = round;
        }
        !scratch.is_under_way()
    }

    /// Returns how many sessions of the batch had their write: fewer than all where many bytes had
    /// to be deflated.
    fn flush_batch(
        &mut self,
        batch: &[SessionKey],
        scratch: &mut Scratch,
        tx: &mut dyn Transmit,
    ) -> usize {
        scratch.plans.clear();
        scratch.leads.clear();
        scratch.wrote.clear();
        let (mut planned, mut deflated_bytes) = (0, 0);
        for &key in batch {
            planned += 1;
            let plan = plan(
                &mut self.clients,
                &self.limits,
                &mut self.compressor,
                &mut scratch.leads,
                key,
            );
            deflated_bytes += self.compressor.take_bytes();
            scratch.plans.extend(plan);
            if deflated_bytes > BATCH_DEFLATED_BYTES {
                break;
            }
        }

        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        let bytes_max = self.limits.write_bytes_max;
        for plan in &mut scratch.plans {
            let from = slices.len();
            if let Some(session) = self.clients.session(plan.key) {
                let leads = &scratch.leads[plan.leads.clone()];
                session.gather(bytes_max, leads, &mut slices);
            }
            plan.bytes = slices[from..].iter().map(|s| s.len()).sum();
            // From here on the range says which slices are this plan's.
            plan.leads = from..slices.len();
        }
        let mut writes = recycle_writes(std::mem::take(&mut scratch.writes));
        writes.extend(scratch.plans.iter().map(|plan| Write {
            key: plan.key,
            slices: &slices[plan.leads.clone()],
        }));
        tx.send(&writes, &mut scratch.wrote);
        debug_assert_eq!(writes.len(), scratch.wrote.len(), "one outcome per write");
        scratch.writes = recycle_writes(writes);
        scratch.slices = recycle(slices);

        let outcomes = scratch.plans.drain(..).zip(scratch.wrote.drain(..));
        for (plan, outcome) in outcomes {
            self.apply(plan.key, plan.bytes, outcome);
        }
        planned
    }

    /// Moves one queue by what the kernel took.
    fn apply(&mut self, key: SessionKey, bytes: usize, outcome: io::Result<usize>) {
        let now = self.now;
        let stats = &mut self.clients.stats;
        let Some(session) = self.clients.sessions.get_mut(key.slot as usize) else {
            return;
        };
        stats.writes += 1;
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                stats.send_errors[SendError::of(&error) as usize] += 1;
                self.end(key, CloseReason::SocketError, true);
                return;
            }
        };
        let written = session.wrote(now, taken, bytes);
        stats.bytes_sent += taken as u64;
        stats.messages_sent += u64::from(written.wrote.frames);
        stats.count_removed(written.wrote.frames, written.wrote.bytes);
        stats.writes_short += u64::from(written.short);
        if written.follows {
            self.after_write(key, written.wrote.control_out);
        }
    }

    /// What the common case, an open session with an empty queue, never needs.
    fn after_write(&mut self, key: SessionKey, control_out: bool) {
        let (now, limits) = (self.now, &self.limits);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        match session.after_write(now, control_out, limits) {
            AfterWrite::Nothing => {}
            AfterWrite::CloseWritten(reason) => self.start_closing(key, reason),
            AfterWrite::HalfClose => self.effects.push_back(Effect::HalfClose(key)),
            AfterWrite::End(reason) => self.end(key, reason, false),
        }
        if control_out {
            self.resume(key, Pause::Control);
        }
        self.clients.mark_dirty(key);
        self.arm(key);
    }
}

/// Makes what the write of one session needs; `None` if there is nothing to write.
#[inline]
fn plan(
    clients: &mut Clients,
    limits: &Limits,
    compressor: &mut Compressor,
    leads: &mut Vec<u8>,
    key: SessionKey,
) -> Option<Plan> {
    let session = clients.sessions.get_mut(key.slot as usize)?;
    if session.generation() != key.generation {
        return None;
    }
    let from = leads.len();
    let stats = &mut clients.stats;
    let writes = session.prepare_write(limits.write_bytes_max, leads, |frame, client| {
        compressor.encode(frame, client, stats);
    });
    writes.then_some(Plan {
        key,
        leads: from..leads.len(),
        bytes: 0,
    })
}

/// An empty vector of the same memory, for slices of another lifetime: collecting in place keeps
/// the allocation.
fn recycle<'a>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}

/// The same for writes.
fn recycle_writes<'a>(mut writes: Vec<Write<'_>>) -> Vec<Write<'a>> {
    writes.clear();
    let none = |write: Write<'_>| Write {
        key: write.key,
        slices: &[],
    };
    writes.into_iter().map(none).collect()
}
