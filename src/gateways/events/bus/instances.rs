//! The other instances: which are there, and how far the pushes of each have come.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::InstanceId;
use super::stats::Ignored;

/// An instance that says nothing for this long is no longer there.
pub(super) const SILENCE_US: u64 = 3_000_000;

/// How long the numbers of an instance that is no longer there are remembered: until then a push
/// that comes again is known.
const REMEMBERED_US: u64 = 60_000_000;

/// One other instance.
#[derive(Debug)]
struct Instance {
    heard_us: u64,
    is_there: bool,
    /// It let a push wait in vain, and has answered none since: no push waits for it.
    is_late: bool,
    /// Number and part of the newest part of a push that came from it.
    last: Option<(u64, u32)>,
    partial: Option<Partial>,
}

/// A push of which more parts are to come.
#[derive(Debug)]
struct Partial {
    number: u64,
    parts_taken: u32,
    body: Vec<u8>,
}

/// All other instances.
#[derive(Debug)]
pub(super) struct Instances {
    known: HashMap<InstanceId, Instance, RandomState>,
    max: usize,
    /// Bytes of one push.
    push_bytes_max: usize,
    /// Bytes of all pushes of which more parts are to come.
    partial_bytes: usize,
}

impl Instances {
    /// `max` others, with pushes of up to so many bytes.
    pub(super) fn new(max: usize, push_bytes_max: usize) -> Self {
        Self {
            known: HashMap::default(),
            max,
            push_bytes_max,
            partial_bytes: 0,
        }
    }

    /// Something came from this instance. `None`: it is one too many. `Some(true)`: it was not there
    /// before.
    pub(super) fn heard(&mut self, now_us: u64, id: &InstanceId) -> Option<bool> {
        if let Some(instance) = self.known.get_mut(id) {
            instance.heard_us = now_us;
            let is_new = !std::mem::replace(&mut instance.is_there, true);
            instance.is_late &= !is_new;
            return Some(is_new);
        }
        if self.known.len() >= self.max && !self.forget_one() {
            return None;
        }
        let instance = Instance {
            heard_us: now_us,
            is_there: true,
            is_late: false,
            last: None,
            partial: None,
        };
        self.known.insert(id.clone(), instance);
        Some(true)
    }

    /// Makes room: the instance that has been away for the longest goes.
    fn forget_one(&mut self) -> bool {
        let away = self.known.iter().filter(|(_, one)| !one.is_there);
        let oldest = away.min_by_key(|(_, one)| one.heard_us);
        let oldest = oldest.map(|(id, _)| id.clone());
        oldest.is_some_and(|id| self.known.remove(&id).is_some())
    }

    /// The instance has stopped. Returns whether it was there.
    pub(super) fn gone(&mut self, id: &InstanceId) -> bool {
        let Some(instance) = self.known.get_mut(id) else {
            return false;
        };
        self.partial_bytes -= drop_partial(instance);
        std::mem::replace(&mut instance.is_there, false)
    }

    /// Those that are there, with whether a push should wait for them.
    pub(super) fn there(&self) -> impl Iterator<Item = (&InstanceId, bool)> {
        let there = self.known.iter().filter(|(_, one)| one.is_there);
        there.map(|(id, one)| (id, !one.is_late))
    }

    /// How many are there.
    pub(super) fn count(&self) -> usize {
        self.there().count()
    }

    /// Whether the instance has let a push wait in vain, and has answered none since.
    pub(super) fn set_late(&mut self, id: &InstanceId, is_late: bool) {
        if let Some(instance) = self.known.get_mut(id) {
            instance.is_late = is_late;
        }
    }

    /// Nobody could be heard until now.
    pub(super) fn begin_anew(&mut self, now_us: u64) {
        for instance in self.known.values_mut().filter(|one| one.is_there) {
            instance.heard_us = now_us;
            instance.is_late = false;
        }
    }

    /// Returns those that have become silent. Those that are away for long are forgotten.
    pub(super) fn silent(&mut self, now_us: u64) -> Vec<InstanceId> {
        let for_us = |one: &Instance| now_us.saturating_sub(one.heard_us);
        self.known
            .retain(|_, one| one.is_there || for_us(one) < REMEMBERED_US);
        let mut silent = Vec::new();
        for (id, instance) in &mut self.known {
            if instance.is_there && for_us(instance) >= SILENCE_US {
                instance.is_there = false;
                self.partial_bytes -= drop_partial(instance);
                silent.push(id.clone());
            }
        }
        silent
    }

    /// A part of a push. Returns the whole body, once the last part has come.
    ///
    /// # Errors
    /// The part has no effect, and why.
    pub(super) fn take_part(
        &mut self,
        id: &InstanceId,
        number: u64,
        (part, parts): (u32, u32),
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Ignored> {
        let instance = self.known.get_mut(id).ok_or(Ignored::Instances)?;
        if instance.last.is_some_and(|last| last >= (number, part)) {
            return Err(Ignored::Duplicate);
        }
        instance.last = Some((number, part));
        self.partial_bytes -= drop_partial_unless(instance, number, part);
        let mut partial = match instance.partial.take() {
            Some(partial) => partial,
            None if part == 0 => Partial {
                number,
                parts_taken: 0,
                body: Vec::new(),
            },
            None => return Err(Ignored::Incomplete),
        };
        self.partial_bytes -= partial.body.len();
        let total = partial.body.len() + bytes.len();
        // Of pushes that come in parts, two as large as one may be have room.
        let is_full = parts > 1 && self.partial_bytes + total > 2 * self.push_bytes_max;
        if total > self.push_bytes_max || is_full {
            return Err(Ignored::TooLarge);
        }
        partial.body.extend_from_slice(bytes);
        partial.parts_taken += 1;
        if partial.parts_taken == parts {
            return Ok(Some(partial.body));
        }
        self.partial_bytes += partial.body.len();
        instance.partial = Some(partial);
        Ok(None)
    }
}

/// Drops the parts that this one does not follow. Returns how many bytes they had.
fn drop_partial_unless(instance: &mut Instance, number: u64, part: u32) -> usize {
    let follows = |partial: &Partial| partial.number == number && partial.parts_taken == part;
    match instance.partial.as_ref().is_some_and(follows) {
        true => 0,
        false => drop_partial(instance),
    }
}

/// Returns how many bytes they had.
fn drop_partial(instance: &mut Instance) -> usize {
    let partial = instance.partial.take();
    partial.map_or(0, |partial| partial.body.len())
}
