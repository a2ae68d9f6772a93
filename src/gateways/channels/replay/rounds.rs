//! Rounds over the replays of a client: each sends the next page that the history has, of one replay after the other.
//!
//! A page goes out once the client has taken the one before, so a round goes on over many turns. A client that has no
//! more of the history in a round is ready for what the bus brings.

use super::super::ChannelsGateway;
use super::super::client::ChannelsClient;
use super::super::retained::{Retained, ValuesState, WaitedName};
use super::client::ClientReplays;
use super::state::WithoutPage;
use weirgate_core::{Core, RetainedCut, SessionKey, TopicName};

/// How far a round over the replays of a client is.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The names of replays that still have their turn at the history, the next one last.
    rest: Vec<TopicName>,
    /// Whether the history has more for one of this round.
    has_more: bool,
}

/// How a replay goes on after a look at the history.
enum AfterLook {
    /// It waits: the history has no more now.
    Waits,
    /// It sends another page when the client has taken this one.
    Page,
    /// It looks at the history again: nothing was found so far.
    Look,
}

impl ClientReplays {
    /// Begins a round, unless one is under way.
    fn begin_round(&mut self) {
        if self.round.rest.is_empty() {
            self.round = Round {
                rest: self.names_last_first(),
                has_more: false,
            };
        }
    }
}

impl Retained {
    fn begin_round(&mut self, key: SessionKey) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            waiter.replays.begin_round();
        }
    }

    fn next_in_round(&mut self, key: SessionKey) -> Option<TopicName> {
        self.round_mut(key)?.rest.pop()
    }

    /// Lets a round go on in a later turn.
    fn pause_round(&mut self, key: SessionKey, now_us: u64) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            // Not busy, so that `wake_paused` gives it a turn.
            waiter.is_busy = false;
            self.paused.add(key, now_us);
        }
    }

    fn round_mut(&mut self, key: SessionKey) -> Option<&mut Round> {
        let waiter = self.clients.get_mut(&key)?;
        Some(&mut waiter.replays.round)
    }
}

impl ChannelsGateway {
    /// Sends a client the next page that the history has: of one name, and then of the next, in rounds. Returns true if
    /// the client has to take a page, or the round goes on later; false if the client is ready for what the bus brings.
    pub(in super::super) fn replay_kept(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
    ) -> bool {
        self.retained.begin_round(key);
        while let Some(name) = self.retained.next_in_round(key) {
            let after = self.replay_next(core, key, client, &name);
            let Some(round) = self.retained.round_mut(key) else {
                return false;
            };
            match after {
                AfterLook::Waits => {}
                AfterLook::Page => {
                    round.has_more = true;
                    // The round goes on when the hub reports that the client has taken the page.
                    self.retained.undrained.push(key);
                    return true;
                }
                AfterLook::Look => round.rest.push(name),
            }
            // Each look at the history takes time, also if it finds nothing.
            if !round.rest.is_empty() && !core.has_time() {
                self.retained.pause_round(key, core.now().mono_us);
                return true;
            }
        }
        let round = self.retained.round_mut(key);
        let has_more = round.is_some_and(|round| std::mem::take(&mut round.has_more));
        if has_more {
            self.retained.undrained.push(key);
        }
        has_more
    }

    /// Sends the next page of a replay, if the history has it.
    fn replay_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) -> AfterLook {
        // Once the history is filled, the bus is there again, and wakes the client.
        if core.is_filling() {
            return AfterLook::Waits;
        }
        let Some(waiter) = self.retained.clients.get_mut(&key) else {
            return AfterLook::Waits;
        };
        let Some(replay) = waiter.replays.get_mut(name) else {
            return AfterLook::Waits;
        };
        let waited = waiter.names.get(replay.scope());
        let awaits_bus = |waited: &WaitedName| matches!(waited.state, ValuesState::Asked(_));
        if !waited.is_some_and(|waited| replay.may_look(awaits_bus(waited))) {
            return AfterLook::Waits;
        }
        let (wanted, lacks) = (replay.names.wanted(), replay.lacks());
        match core.kept_page(key, &replay.cursor, &wanted, lacks) {
            Ok(page) => {
                if page.was_lost_meanwhile {
                    replay.cut.note(RetainedCut::Window);
                }
                replay.paged(page.reached, &page.counts);
                let is_left_behind = page.has_skipped && replay.skipped();
                let scope = replay.scope().clone();
                let is_empty = page.messages.is_empty();
                core.send_missed(key, page.messages);
                self.retained.leave_if_unread(&scope, key);
                match page.is_last || is_left_behind {
                    true => self.end_replay(core, key, client, name),
                    false if is_empty => return AfterLook::Look,
                    false => return AfterLook::Page,
                }
            }
            Err(why) => match replay.go_on_without_page(why) {
                WithoutPage::Waits => {}
                WithoutPage::Again => return AfterLook::Look,
                WithoutPage::Rests => self.retained.paused.add(key, core.now().mono_us),
                WithoutPage::Ends => self.end_replay(core, key, client, name),
            },
        }
        AfterLook::Waits
    }
}
