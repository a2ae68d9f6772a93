//! Requests about names, sending answers, and resuming: the missed messages follow the answer to the request, and come
//! before newer messages.
//!
//! A client that resumes a name joins it with the answer. In a single step the gateway answers which names are
//! complete, sends the missed messages, and makes the client a member.

use super::ChannelsGateway;
use super::bus::REFUSED;
use super::bus_requests::wanted;
use super::client::Client;
use super::messages::{Answer, FollowUp, Resumed};
use super::patterns::matcher;
use crate::gateways::shared::history::{Follow, gets_newest};
use weirgate_core::{
    Core, Gateway as _, Joined, Left, NotRecovered, Outcome, SessionKey, TopicName, Wanted,
};
use weirgate_wire::auth::NamePatterns;

impl ChannelsGateway {
    /// Makes the client a member of a name that it holds: at once, or with the answer if the client resumes.
    pub(super) fn grant(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        (name, was_held): (TopicName, bool),
        follow_up: &mut FollowUp,
    ) {
        let is_member = was_held && core.is_member(key, &name);
        if was_held && !is_member {
            // It joins with an answer that waits, or with this one.
            return;
        }
        let is_kept = self.is_kept(&name);
        let is_refused = match is_kept {
            true => self.is_kept_refused(&name),
            false => self.names.is_refused(&name),
        };
        if let Some(resumed) = &mut follow_up.resumed {
            if is_kept && !is_member && !is_refused {
                resumed.names.insert(name);
                return;
            }
            if resumed.since.is_some() {
                resumed.off.push(name.clone());
            }
        }
        self.join(core, key, client, &name);
        if is_refused {
            self.tell_later(REFUSED, &name, vec![key]);
        }
        if is_kept {
            return;
        }
        if self.retained.bytes.max() > 0 {
            let retained = &mut self.retained;
            let answer = follow_up
                .retained
                .get_or_insert_with(|| retained.next_answer());
            retained.want(&name, key, *answer, follow_up.says_end);
        }
        if self.statuses.is_up() && !self.names.is_settled(&name) {
            follow_up.unconfirmed.insert(name);
        }
    }

    pub(super) fn is_kept(&self, name: &TopicName) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.covers(name.as_str()))
    }

    /// Whether the bus refuses this name of the kept feed: then the messages of the time before are not sent either.
    fn is_kept_refused(&self, name: &TopicName) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.is_refused(name.as_str()))
    }

    fn join(&self, core: &mut Core, key: SessionKey, client: &mut Client, name: &TopicName) {
        if matches!(core.join(key, name), Joined::First | Joined::Another) {
            client.held.kept += u32::from(self.is_kept(name));
            client.held.skippable += u32::from(self.is_skippable(name));
        }
        core.set_active(name, self.names.active(name));
    }

    /// Makes the client give up a name. Returns false if it does not hold the name.
    pub(super) fn release(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        name: String,
    ) -> bool {
        let topic = TopicName::from(name);
        if core.leave(key, &topic) != Left::NoMember {
            client.held.kept -= u32::from(self.is_kept(&topic));
            client.held.skippable -= u32::from(self.is_skippable(&topic));
        } else if !client.answers.forget_resume(&topic) {
            return false;
        }
        if self.names.release(&mut client.held, &topic) {
            self.patterns.remove(&topic);
        }
        client.answers.settle(&topic);
        self.retained.forget(&topic, key);
        self.ask_retained(core);
        true
    }

    /// Sends an answer, or queues it after earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        answer: Answer,
        follow_up: FollowUp,
    ) {
        let due_us = core.now().mono_us + self.bus_wait_us;
        client.answers.push(answer, follow_up, due_us);
        self.send_ready(core, key, client);
        // Most answers are sent by now; only waiting answers are charged.
        let (bytes, address) = (self.names.bytes(), client.held.address());
        if !client.answers.charge(bytes, address, core.now().mono_us) {
            client.answers.settle_if(|_| true);
            self.send_ready(core, key, client);
        }
        if client.answers.are_too_many() && !core.has_requests(key) {
            core.pause_reading(key);
        }
    }

    /// Sends the ready answers, and sets the next deadline.
    pub(super) fn send_ready(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        let now = core.now();
        // The answers of an event stream go out together, after the last request.
        let has_more = core.has_requests(key) || client.is_stream() && client.has_rest();
        if !has_more {
            let is_stream = client.is_stream();
            while let Some(ready) = client.answers.pop_ready(now.mono_us, is_stream) {
                self.send(core, key, client, ready);
            }
        }
        if !client.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = client.token_end.due_us(now);
        let due = client.answers.due_us();
        core.set_deadline(key, due.into_iter().chain(end).min());
    }

    /// Sends answers, and the messages after all of them.
    fn send(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        mut answers: Vec<(Answer, FollowUp)>,
    ) {
        let mut follow = Follow::default();
        for (answer, follow_up) in &mut answers {
            if let Some(resumed) = &mut follow_up.resumed {
                self.join_moved(core, key, client, resumed);
                let outcomes = self.find(core, key, resumed, &mut follow);
                if outcomes.contains(&Err(NotRecovered::Large)) {
                    client.requests.charge_search(core.now());
                }
                answer.recovered(resumed, &outcomes);
                for name in &resumed.names {
                    self.join(core, key, client, name);
                }
            }
        }
        // Also for a request about other names: after an answer without a position, the client would have no position
        // to resume from.
        let has_kept = client.held.kept > 0;
        let mut retained = None;
        let mut left = answers.len();
        for (mut answer, follow_up) in answers {
            left -= 1;
            answer.brings(|name| core.brings(name, self.source_of(name)));
            let position = follow.position(core, has_kept && left == 0);
            let frame = answer.frame(core, position);
            core.send(key, &frame);
            retained = follow_up.retained.or(retained);
        }
        self.statuses.send_behind(core, key, follow, has_kept);
        if let Some(answer) = retained {
            self.retained.answered(key, answer);
        }
        self.names.store(&self.stats, core.memberships());
        self.ask_retained(core);
    }

    /// Joins the names that are no longer of the kept feed: its stream has got other subjects since the request.
    fn join_moved(
        &self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        resumed: &mut Resumed,
    ) {
        let names = std::mem::take(&mut resumed.names).into_iter();
        let (kept, moved): (Vec<_>, Vec<_>) = names.partition(|name| self.is_kept(name));
        resumed.names = kept.into_iter().collect();
        for name in &moved {
            self.join(core, key, client, name);
        }
        if resumed.since.is_some() {
            resumed.off.extend(moved);
        }
    }

    /// Adds the messages after an answer. Returns the outcome for each name to resume.
    fn find(
        &self,
        core: &mut Core,
        key: SessionKey,
        resumed: &Resumed,
        follow: &mut Follow,
    ) -> Vec<Outcome> {
        let patterns_of = |name| matcher(self.syntax(), name);
        let names: Vec<(TopicName, Option<NamePatterns>)> = resumed
            .names
            .iter()
            .map(|name| (name.clone(), patterns_of(name)))
            .collect();
        let names: Vec<Wanted<'_>> = names.iter().map(wanted).collect();
        let Some(since) = &resumed.since else {
            let newest = follow.newest(core, key, &names, resumed.last);
            return vec![newest; names.len()];
        };
        resumed
            .off
            .iter()
            .for_each(|_| core.count_not_recovered(NotRecovered::Off));
        let outcomes = follow.missed(core, key, since, &names);
        let lost = names.iter().zip(&outcomes);
        let lost = lost.filter(|(_, outcome)| gets_newest(Some(**outcome)));
        let lost: Vec<Wanted<'_>> = lost.map(|(name, _)| *name).collect();
        // If the newest messages cannot be sent either, the answer gives the outcome of the position.
        let _ = follow.newest(core, key, &lost, resumed.last);
        outcomes
    }
}
