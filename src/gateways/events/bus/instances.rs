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
    /// When its last message came.
    alive_us: u64,
    is_there: bool,
    /// A push waited for this instance in vain, and it has not answered since: pushes wait only briefly for it.
    is_late: bool,
    /// The number of the newest push that arrived, and the newest part of it.
    last: Option<(u64, u32)>,
    /// The number of the instance's newest push, arrived or not. `None` until the first sign of it since the bus was away.
    newest: Option<u64>,
    /// Whether the instance announces its newest push: earlier versions do not.
    says_newest: bool,
    /// When it was first heard of, the instance had taken pushes already. If it then says that it has connected anew,
    /// some of these may be recent, and did not arrive here.
    is_unsure: bool,
    partial: Option<Partial>,
}

/// Whether pushes of an instance did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    Nothing,
    /// The instance has taken pushes before its first sign, perhaps while this instance was on the bus.
    Perhaps,
    /// So many did not.
    Pushes(u64),
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
    /// The last instance beyond the limit `max`, and when a message of it came.
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
            newest: None,
            says_newest: false,
            is_unsure: false,
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
        let instance = self.known.get_mut(id);
        instance.is_some_and(|instance| std::mem::replace(&mut instance.is_there, false))
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

    /// An instance beyond the limit, if a message of one came lately. This instance does not wait for its answers.
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

    /// Restarts the time of silence of all present instances, because no message could have come until now. What did not
    /// arrive until now counts as one outage, so pushes are counted anew.
    pub(super) fn begin_anew(&mut self, now_us: u64) {
        for instance in self.known.values_mut() {
            instance.newest = None;
            instance.is_unsure = false;
        }
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
                silent.push(id.clone());
            }
        }
        silent
    }

    /// Drops an incomplete push up to the number `number`. Returns true if there was such a push.
    pub(super) fn abandon_to(&mut self, id: &InstanceId, number: u64) -> bool {
        let Some(instance) = self.known.get_mut(id) else {
            return false;
        };
        let partial = instance.partial.take_if(|one| one.number <= number);
        self.partial_bytes -= partial.as_ref().map_or(0, |partial| partial.body.len());
        partial.is_some()
    }

    /// Records that the instance has taken the push `newest`, and that every push up to `before` should have arrived.
    /// Returns whether some of these did not; what arrives late is no longer missed. `knows_all`: this instance knows
    /// every instance on the bus by now, so one without an earlier sign was not on the bus, or the bus did not carry
    /// its messages.
    pub(super) fn note_newest(
        &mut self,
        id: &InstanceId,
        (before, newest): (u64, u64),
        knows_all: bool,
    ) -> Missed {
        let Some(instance) = self.known.get_mut(id) else {
            return Missed::Nothing;
        };
        let known = instance.newest;
        instance.newest = known.max(Some(newest));
        match known.map(|known| before.saturating_sub(known)) {
            None if before > 0 && knows_all => Missed::Perhaps,
            None | Some(0) => Missed::Nothing,
            Some(pushes) => Missed::Pushes(pushes),
        }
    }

    /// As [`note_newest`](Self::note_newest), for a push that the instance announces as its newest.
    pub(super) fn note_announced(
        &mut self,
        id: &InstanceId,
        number: u64,
        knows_all: bool,
    ) -> Missed {
        if let Some(instance) = self.known.get_mut(id) {
            instance.says_newest = true;
            instance.is_unsure = instance.newest.is_none() && number > 0 && !knows_all;
        }
        // All pushes up to this one should have arrived, and it is the newest.
        self.note_newest(id, (number, number), knows_all)
    }

    /// Records that the instance has connected to the bus. Returns whether it may have taken pushes before that, of which
    /// nothing is known here. An earlier version does not say.
    pub(super) fn note_new(&mut self, id: &InstanceId) -> bool {
        let instance = self.known.get_mut(id);
        instance.is_some_and(|one| !one.says_newest || std::mem::take(&mut one.is_unsure))
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
