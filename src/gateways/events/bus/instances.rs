//! The other instances: which are present, and the progress of each instance's pushes.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::message::PushPart;
use super::{Ignored, InstanceId};

/// An instance without a message for this time counts as absent.
pub(super) const SILENCE_US: u64 = 3_000_000;

/// How long the push numbers of an absent instance are remembered, so that repeated pushes are recognised.
const REMEMBERED_US: u64 = 60_000_000;

/// Another instance.
#[derive(Debug)]
struct Instance {
    alive_us: u64,
    is_there: bool,
    /// A push waited for this instance in vain, and it has not answered since: pushes wait only briefly for it.
    is_late: bool,
    /// The number of the instance's newest push, and the newest part of it.
    last: Option<(u64, u32)>,
    partial: Option<Partial>,
}

/// A push with parts still to come.
#[derive(Debug)]
struct Partial {
    number: u64,
    parts: u32,
    body_bytes: usize,
    parts_taken: u32,
    body: Vec<u8>,
}

impl Partial {
    /// Begins the push of the part `first`; `None` if `first` is not part 0.
    fn begin(first: &PushPart<'_>) -> Option<Self> {
        (first.part == 0).then_some(Self {
            number: first.number,
            parts: first.parts,
            body_bytes: first.body_bytes,
            parts_taken: 0,
            body: Vec::new(),
        })
    }

    fn is_followed_by(&self, next: &PushPart<'_>) -> bool {
        let of_same = (next.number, next.parts, next.body_bytes);
        of_same == (self.number, self.parts, self.body_bytes) && next.part == self.parts_taken
    }
}

/// All other instances.
#[derive(Debug)]
pub(super) struct Instances {
    known: HashMap<InstanceId, Instance, RandomState>,
    max: usize,
    /// The most bytes of a push.
    push_bytes_max: usize,
    /// Bytes of all pushes with parts still to come.
    partial_bytes: usize,
    /// The last instance for which there was no room, and when.
    beyond: Option<(InstanceId, u64)>,
}

impl Instances {
    /// At most `max` other instances, with pushes of up to `push_bytes_max` bytes.
    pub(super) fn new(max: usize, push_bytes_max: usize) -> Self {
        Self {
            known: HashMap::default(),
            max,
            push_bytes_max,
            partial_bytes: 0,
            beyond: None,
        }
    }

    /// Records a message from this instance. Returns whether the instance was absent before; `None` if there are too
    /// many instances.
    pub(super) fn note_alive(&mut self, now_us: u64, id: &InstanceId) -> Option<bool> {
        if let Some(instance) = self.known.get_mut(id) {
            instance.alive_us = now_us;
            let is_new = !std::mem::replace(&mut instance.is_there, true);
            instance.is_late &= !is_new;
            return Some(is_new);
        }
        if self.known.len() >= self.max && !self.forget_one() {
            self.beyond = Some((id.clone(), now_us));
            return None;
        }
        let instance = Instance {
            alive_us: now_us,
            is_there: true,
            is_late: false,
            last: None,
            partial: None,
        };
        self.known.insert(id.clone(), instance);
        Some(true)
    }

    /// Makes room: removes the instance that has been absent for the longest time. Returns false if none is absent.
    fn forget_one(&mut self) -> bool {
        let away = self.known.iter().filter(|(_, one)| !one.is_there);
        let oldest = away.min_by_key(|(_, one)| one.alive_us);
        let oldest = oldest.map(|(id, _)| id.clone());
        oldest.is_some_and(|id| self.known.remove(&id).is_some())
    }

    /// Records the stop of an instance. Returns true if the instance was present.
    pub(super) fn note_stopped(&mut self, id: &InstanceId) -> bool {
        let Some(instance) = self.known.get_mut(id) else {
            return false;
        };
        self.partial_bytes -= drop_partial(instance);
        std::mem::replace(&mut instance.is_there, false)
    }

    /// The present instances.
    pub(super) fn there(&self) -> impl Iterator<Item = &InstanceId> {
        let there = self.known.iter().filter(|(_, one)| one.is_there);
        there.map(|(id, _)| id)
    }

    /// The count of present instances.
    pub(super) fn count(&self) -> usize {
        self.there().count()
    }

    /// An instance for which there was no room lately: it ignores pushes of this instance, or will not be waited for.
    pub(super) fn beyond(&self, now_us: u64) -> Option<&InstanceId> {
        let beyond = self.beyond.as_ref();
        let beyond = beyond.filter(|(_, since_us)| now_us < since_us + SILENCE_US);
        beyond.map(|(id, _)| id)
    }

    /// Whether a push waited for the instance in vain, and it has not answered since.
    pub(super) fn is_late(&self, id: &InstanceId) -> bool {
        self.known.get(id).is_some_and(|instance| instance.is_late)
    }

    /// Records that a push waited for the instance in vain.
    pub(super) fn note_late(&mut self, id: &InstanceId) {
        if let Some(instance) = self.known.get_mut(id) {
            instance.is_late = true;
        }
    }

    /// Records that the instance has answered a push.
    pub(super) fn note_answer(&mut self, id: &InstanceId) {
        if let Some(instance) = self.known.get_mut(id) {
            instance.is_late = false;
        }
    }

    /// Restarts the time of silence of all present instances, because no message could have come until now.
    pub(super) fn begin_anew(&mut self, now_us: u64) {
        for instance in self.known.values_mut().filter(|one| one.is_there) {
            instance.alive_us = now_us;
            instance.is_late = false;
        }
    }

    /// Returns the instances that have become silent. Forgets instances that have been absent for long.
    pub(super) fn silent(&mut self, now_us: u64) -> Vec<InstanceId> {
        let for_us = |one: &Instance| now_us.saturating_sub(one.alive_us);
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

    /// Drops an incomplete push with a number below `number`. Returns true if there was such a push.
    pub(super) fn abandon_before(&mut self, id: &InstanceId, number: u64) -> bool {
        let Some(instance) = self.known.get_mut(id) else {
            return false;
        };
        let is_before = |partial: &Partial| partial.number < number;
        let is_left = instance.partial.as_ref().is_some_and(is_before);
        if is_left {
            self.partial_bytes -= drop_partial(instance);
        }
        is_left
    }

    /// Takes a part of a push. After the last part, returns the whole body if it has the announced length.
    ///
    /// # Errors
    /// Returns why the part has no effect.
    pub(super) fn take_part(
        &mut self,
        id: &InstanceId,
        part: &PushPart<'_>,
    ) -> Result<Option<Vec<u8>>, Ignored> {
        let instance = self.known.get_mut(id).ok_or(Ignored::Instances)?;
        let at = (part.number, part.part);
        if instance.last.is_some_and(|last| last >= at) {
            return Err(Ignored::Duplicate);
        }
        instance.last = Some(at);
        let partial = instance.partial.take();
        self.partial_bytes -= partial.as_ref().map_or(0, |partial| partial.body.len());
        if part.body_bytes > self.push_bytes_max {
            return Err(Ignored::TooLarge);
        }
        let partial = partial.filter(|partial| partial.is_followed_by(part));
        let mut partial = partial
            .or_else(|| Partial::begin(part))
            .ok_or(Ignored::Incomplete)?;
        let total = partial.body.len() + part.bytes.len();
        if total > part.body_bytes {
            return Err(Ignored::Bad);
        }
        // All incomplete pushes together may have at most twice the bytes of a push.
        if part.parts > 1 && self.partial_bytes + total > 2 * self.push_bytes_max {
            return Err(Ignored::TooLarge);
        }
        partial.body.extend_from_slice(part.bytes);
        partial.parts_taken += 1;
        if partial.parts_taken < part.parts {
            self.partial_bytes += partial.body.len();
            instance.partial = Some(partial);
            return Ok(None);
        }
        match total == part.body_bytes {
            true => Ok(Some(partial.body)),
            false => Err(Ignored::Incomplete),
        }
    }
}

/// Returns the dropped bytes.
fn drop_partial(instance: &mut Instance) -> usize {
    let partial = instance.partial.take();
    partial.map_or(0, |partial| partial.body.len())
}
