//! One write per client and turn, in batches of three passes: plan, borrow, apply.
//!
//! The plan makes what the write needs (deflated encodings, leads). The borrow collects slices of
//! the queues themselves, no byte of a shared frame is copied here. The shell tries each write
//! once, and the apply moves the queues by what the kernel took. The vectors live on from batch to
//! batch, so that a flush allocates nothing.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::clients::Clients;
use super::core::Core;
use super::session::{AfterWrite, Pause};
use super::shell::{Transmit, Write};
use super::{CloseReason, Effect, Limits, SendError, SessionKey};
use crate::wire::deflate::Deflater;

/// Sessions in one batch.
const BATCH_SESSIONS: usize = 128;

/// Vectors that are empty between batches and keep their memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    keys: Vec<SessionKey>,
    plans: Vec<Plan>,
    leads: Vec<u8>,
    slices: Vec<IoSlice<'static>>,
    writes: Vec<Write<'static>>,
    wrote: Vec<io::Result<usize>>,
    /// Turns so far: where the next flush starts.
    turn: usize,
}

#[derive(Debug)]
struct Plan {
    key: SessionKey,
    leads: Range<usize>,
    bytes: usize,
}

impl Core {
    /// Gives every session with something to send one write. `true`: some have more.
    pub(super) fn flush_dirty(&mut self, tx: &mut dyn Transmit) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.turn = scratch.turn.wrapping_add(1);
        for deflated in [false, true] {
            let list = &mut self.clients.dirty[usize::from(deflated)];
            if list.is_empty() {
                continue;
            }
            let mut keys = std::mem::take(&mut scratch.keys);
            std::mem::swap(&mut keys, list);
            // Nobody is always last: the start moves on by a prime each turn.
            let start = scratch.turn.wrapping_mul(7919) % keys.len();
            keys.rotate_left(start);
            for batch in keys.chunks(BATCH_SESSIONS) {
                self.flush_batch(batch, &mut scratch, tx);
            }
            keys.clear();
            scratch.keys = keys;
        }
        self.scratch = scratch;
        self.clients.dirty.iter().any(|list| !list.is_empty())
    }

    fn flush_batch(&mut self, batch: &[SessionKey], scratch: &mut Scratch, tx: &mut dyn Transmit) {
        scratch.plans.clear();
        scratch.leads.clear();
        scratch.wrote.clear();
        for &key in batch {
            let plan = plan(
                &mut self.clients,
                &self.limits,
                &mut self.deflater,
                &mut scratch.leads,
                key,
            );
            scratch.plans.extend(plan);
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
    deflater: &mut Deflater,
    leads: &mut Vec<u8>,
    key: SessionKey,
) -> Option<Plan> {
    let session = clients.sessions.get_mut(key.slot as usize)?;
    if session.generation() != key.generation {
        return None;
    }
    let worth_it = limits.deflate_min_bytes..=limits.deflate_max_bytes;
    let from = leads.len();
    let stats = &mut clients.stats;
    let writes = session.prepare_write(limits.write_bytes_max, leads, |frame| {
        frame.deflated_with(|body| {
            if !worth_it.contains(&body.len()) {
                return None;
            }
            stats.frames_deflated += 1;
            deflater.deflate(body)
        });
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
