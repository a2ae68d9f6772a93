//! Answers to clients, until they are ready to be sent: after earlier answers, and once their names are confirmed and the
//! stream has given what the history lacks ([`super::sending`] sends them).

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::messages::{Answer, AnswerDue, FollowUp, NextAnswers};
use super::past::PAST_WAIT_US;
use super::sending::Sending;
use weirgate_core::{Core, SessionKey};

impl ChannelsGateway {
    /// Sends an answer, or queues it after earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        answer: Answer,
        follow_up: FollowUp,
    ) {
        let confirmed_us = core.now().mono_us + self.bus_wait_us;
        let past_us = confirmed_us.max(core.now().mono_us + PAST_WAIT_US);
        let due = AnswerDue {
            confirmed_us,
            past_us,
        };
        client.answers.push(answer, follow_up, due);
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
            self.continue_sending(core, key, client, Sending::new(ready));
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
