//! The replays of a client, and how they begin and end among everything that the client waits for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::super::retained::{Retained, ValuesState, WaitedName};
use super::rounds::Round;
use super::state::Replay;
use weirgate_core::{PageCursor, SessionKey, TopicName};

/// By name; the replay of an event stream with several names has the empty name.
pub(in super::super) type ReplaysByName = BTreeMap<TopicName, Replay>;

/// The replays of a client, and the round over them.
#[derive(Debug, Default)]
pub(in super::super) struct ClientReplays {
    by_name: ReplaysByName,
    pub(super) round: Round,
}

/// The names of the replays whose questions have this name.
fn names_in(scope: &TopicName) -> (Bound<&str>, Bound<&str>) {
    match scope.as_str() {
        "" => (Bound::Unbounded, Bound::Unbounded),
        name => (Bound::Included(name), Bound::Included(name)),
    }
}

impl ClientReplays {
    pub(in super::super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(in super::super) fn into_by_name(self) -> ReplaysByName {
        self.by_name
    }

    pub(super) fn get_mut(&mut self, name: &TopicName) -> Option<&mut Replay> {
        self.by_name.get_mut(name)
    }

    /// Takes a replay out that a question is for, until it is [put back](Self::put_back). Another replay of the name may
    /// have begun since the question.
    pub(super) fn take_asked(&mut self, name: TopicName) -> Option<(TopicName, Replay)> {
        match self.by_name.entry(name) {
            Entry::Occupied(replay) if replay.get().is_asked() => Some(replay.remove_entry()),
            _ => None,
        }
    }

    pub(super) fn put_back(&mut self, name: TopicName, replay: Replay) {
        self.by_name.insert(name, replay);
    }

    /// The replays whose questions have this name.
    pub(super) fn in_scope(
        &self,
        scope: &TopicName,
    ) -> impl Iterator<Item = (&TopicName, &Replay)> {
        self.by_name.range::<str, _>(names_in(scope))
    }

    pub(super) fn in_scope_mut(&mut self, scope: &TopicName) -> impl Iterator<Item = &mut Replay> {
        let replays = self.by_name.range_mut::<str, _>(names_in(scope));
        replays.map(|(_, replay)| replay)
    }

    /// The names of all replays, the last one first.
    pub(super) fn names_last_first(&self) -> Vec<TopicName> {
        self.by_name.keys().rev().cloned().collect()
    }

    pub(super) fn end_pauses(&mut self) {
        self.by_name.values_mut().for_each(Replay::end_pause);
    }

    /// The name of the replay that brings all kept messages of a name: by itself, or with the other names of an event
    /// stream. A client may get those of very many names, so they are not walked over.
    fn replay_with(&self, name: &TopicName) -> Option<TopicName> {
        let has = |key: &TopicName| {
            let replay = self.by_name.get(key);
            replay.is_some_and(|replay| replay.names.has(name))
        };
        [name.clone(), TopicName::default()].into_iter().find(has)
    }
}

impl Retained {
    /// Begins to send all kept messages to a client.
    pub(super) fn replay(&mut self, key: SessionKey, replay: Replay) {
        let newest_live = self.newest_live();
        let waiter = self.clients.get_or_insert_default(key);
        // No live message ends the wait, so the client is not among those of `waiting`.
        let waits = waiter.names.entry(replay.scope().clone());
        waits.or_insert_with(|| WaitedName {
            cursor: self.questions.cursor_from(PageCursor::default()),
            // No answer has to be sent first.
            ..WaitedName::new(None, newest_live)
        });
        let before = waiter.replays.by_name.insert(replay.key(), replay);
        self.replaying += usize::from(before.is_none());
        self.wake(key);
    }

    /// Ends a replay of a client.
    pub(super) fn remove_replay(&mut self, name: &TopicName, key: SessionKey) -> Option<Replay> {
        let waiter = self.clients.get_mut(&key)?;
        let replay = waiter.replays.by_name.remove(name)?;
        self.replaying -= 1;
        let has_others = waiter.replays.in_scope(replay.scope()).next().is_some();
        match has_others {
            true => self.leave_if_unread(replay.scope(), key),
            false => self.remove(replay.scope(), key),
        }
        Some(replay)
    }

    /// Takes a client out of a question that is for none of its replays any more.
    pub(super) fn leave_if_unread(&mut self, scope: &TopicName, key: SessionKey) {
        let Some(waiter) = self.clients.get(&key) else {
            return;
        };
        let wanted = waiter.names.get(scope);
        let is_in = wanted.is_some_and(|wanted| !matches!(wanted.state, ValuesState::Waits(_)));
        if is_in && waiter.replays.asked(scope).next().is_none() {
            self.leave_question(scope, key);
        }
    }

    /// Whether a client is still getting all kept messages of a name.
    pub(in super::super) fn is_replayed(&self, name: &TopicName, key: SessionKey) -> bool {
        let waiter = self.clients.get(&key);
        waiter.is_some_and(|waiter| waiter.replays.replay_with(name).is_some())
    }

    /// Forgets a name of which a client gets all kept messages. Returns false if there is none.
    pub(in super::super) fn forget_replayed(&mut self, name: &TopicName, key: SessionKey) -> bool {
        let replays = self.clients.get_mut(&key).map(|waiter| &mut waiter.replays);
        let Some(replays) = replays else {
            return false;
        };
        let Some(replay_key) = replays.replay_with(name) else {
            return false;
        };
        let replay = replays.get_mut(&replay_key);
        if replay.is_some_and(|replay| replay.names.forget(name)) {
            self.remove_replay(&replay_key, key);
        }
        true
    }

    /// Gives a client its turn as [`Self::client_up`] does, but also while the bus is away: the history may have the
    /// rest.
    pub(super) fn wake(&mut self, key: SessionKey) {
        if let Some(waiter) = self.clients.get_mut(&key)
            && !waiter.is_busy
        {
            waiter.is_busy = true;
            self.undrained.push(key);
        }
    }
}
