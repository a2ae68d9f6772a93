//! Names that clients get and give up, and the answers that wait. A client that resumes a name joins it only when the
//! answer is sent ([`super::sending`]).

use super::ChannelsGateway;
use super::bus::REFUSED;
use super::client::ChannelsClient;
use super::messages::{Answer, FollowUp, NextAnswers};
use super::past::{PAST_WAIT_US, PastOf};
use super::replay::Last;
use super::rights::GrantedName;
use super::sending::Sending;
use weirgate_core::{Core, Joined, Left, SessionKey, TopicName};

impl ChannelsGateway {
    /// Makes the client a member of a name that it holds: at once, or with the answer if the client resumes.
    pub(super) fn grant(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        GrantedName { name, was_held }: GrantedName,
        follow_up: &mut FollowUp,
    ) {
        let is_member = was_held && core.is_member(key, &name);
        let is_kept = self.is_kept(&name);
        let is_refused = match is_kept {
            true => self.is_kept_refused(&name),
            false => self.names.is_refused(&name),
        };
        let is_replayed = was_held && !is_member && self.retained.is_replayed(&name, key);
        let resumed = follow_up.resumed.as_ref();
        let asks_again = was_held && is_kept && !is_refused && !is_replayed;
        let asks_again = asks_again && resumed.is_some_and(|resumed| resumed.asks_again(&name));
        // With `asks_again` it is a member by the time of this answer: answers go out in order.
        if was_held && !is_member && !asks_again {
            // It joins with an answer that waits, with this one, or after all of its kept messages.
            if let Some(resumed) = follow_up.resumed.as_mut().filter(|_| is_replayed) {
                resumed.off.insert(name);
            }
            return;
        }
        if let Some(resumed) = &mut follow_up.resumed {
            if is_kept && !is_refused && (!is_member || asks_again) {
                resumed.names.insert(name.clone());
                if asks_again {
                    resumed.held.insert(name.clone());
                }
                if matches!(resumed.last, Some(Last::Newest(_)))
                    && !can_resume(core, key, resumed.since.as_deref())
                {
                    match self.past_of(core, &name) {
                        PastOf::Here(None) => {}
                        PastOf::Here(Some(cut)) => {
                            let past = follow_up.past.get_or_insert_default();
                            past.cuts.insert(name, cut);
                        }
                        PastOf::Missing => {
                            let wait = self.wait_for_past(core, key, &name);
                            let past = follow_up.past.get_or_insert_default();
                            past.waits.insert(name, wait);
                        }
                    }
                }
                return;
            }
            if resumed.since.is_some() || resumed.last == Some(Last::All) {
                resumed.off.insert(name.clone());
            }
        }
        self.join(core, key, client, &name);
        if is_refused {
            self.queue_name_error(REFUSED, &name, vec![key]);
        }
        if is_kept {
            return;
        }
        if self.retained.has_values {
            let retained = &mut self.retained;
            let answer = follow_up
                .retained
                .get_or_insert_with(|| retained.next_answer());
            retained.want_of_request(&name, key, *answer, follow_up.wants_end);
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
    pub(super) fn is_kept_refused(&self, name: &TopicName) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.is_refused(name.as_str()))
    }

    pub(super) fn join(
        &self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) {
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
        client: &mut ChannelsClient,
        name: String,
    ) -> bool {
        let topic = TopicName::from(name);
        let is_resuming = client.answers.forget_resume(&topic);
        if core.leave(key, &topic) != Left::NoMember {
            client.held.kept -= u32::from(self.is_kept(&topic));
            client.held.skippable -= u32::from(self.is_skippable(&topic));
        } else if !is_resuming && !self.retained.forget_replayed(&topic, key) {
            return false;
        }
        if self.names.release(&mut client.held, &topic) {
            self.patterns.remove(&topic);
        }
        client.answers.settle(&topic);
        client.answers.forget_past(&topic);
        self.past.leave(&topic, key);
        self.retained.forget(&topic, key);
        self.ask_retained(core);
        true
    }

    /// Sends an answer, or queues it after earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        answer: Answer,
        follow_up: FollowUp,
    ) {
        let wait_us = match follow_up.waits_for_past() {
            true => self.bus_wait_us.max(PAST_WAIT_US),
            false => self.bus_wait_us,
        };
        let due_us = core.now().mono_us + wait_us;
        client.answers.push(answer, follow_up, due_us);
        self.send_ready(core, key, client);
        // Most answers are sent by now; only waiting answers are charged.
        let (bytes, address) = (self.names.bytes(), client.held.address());
        if !client.answers.charge(bytes, address, core.now().mono_us) {
            client.answers.wait_no_longer();
            self.send_ready(core, key, client);
        }
        if client.answers.are_too_many() && !core.has_requests(key) {
            core.pause_reading(key);
        }
    }

    /// Sends the ready answers, and sets the next deadline.
    pub(super) fn send_ready(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
    ) {
        let now = core.now();
        // The answers of an event stream go out together, after the last request.
        let (next, has_rest) = match client.is_stream() {
            true => (NextAnswers::All, client.has_rest()),
            false => (NextAnswers::First, false),
        };
        let has_more = core.has_requests(key) || has_rest;
        while !has_more
            && !client.is_sending()
            && let Some(ready) = client.answers.pop_ready(next, now.mono_us)
        {
            self.send_on(core, key, client, Sending::new(ready));
        }
        if !client.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = client.token_end.due_us(now);
        let due = client.answers.due_us(next);
        let due = due.filter(|_| !client.is_sending());
        core.set_deadline(key, due.into_iter().chain(end).min());
    }
}

/// Whether the missed messages of a request with a position are in the history: then nothing else is asked for.
fn can_resume(core: &Core, key: SessionKey, since: Option<&str>) -> bool {
    since.is_some_and(|since| core.resumes_from(key, since).is_ok())
}
