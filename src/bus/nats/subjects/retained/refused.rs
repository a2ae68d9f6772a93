//! What the server refuses to the user of the connection: the subscription for answers, or to publish a request.

use std::time::Instant;

use super::question::{PendingQuestion, ReplyNumber};
use super::reading::RefusalLasts;
use super::{FIRST_SID, Retained};
use crate::nats::api::ApiError;
use crate::nats::needs::Action;
use crate::nats::protocol;
use crate::nats::refusals::{INBOXES, PermissionsViolation};
use crate::server_words::shown;

impl Retained {
    /// Subscribes to the answers, unless the server has refused that a moment ago.
    ///
    /// # Errors
    /// The words of the refusal: no answers come.
    pub(super) fn listen(&mut self, now: Instant, out: &mut Vec<u8>) -> Result<(), String> {
        if self.listening.begins(now) {
            protocol::subscribe(out, &format!("{}.*", self.inbox), None, FIRST_SID);
        }
        match self.listening.refused_with() {
            Some(words) => Err(words.to_owned()),
            None => Ok(()),
        }
    }

    /// Handles the server's refusal to let this user publish to a subject, or subscribe to it: ends the questions that
    /// need it. Returns whether the refusal is of an action of questions.
    pub(in crate::nats::subjects) fn not_permitted(
        &mut self,
        violation: &PermissionsViolation,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        match violation {
            PermissionsViolation::Subscribe(subject) => {
                let is_of_answers = subject.starts_with(&self.inbox);
                if is_of_answers {
                    let error = ApiError::NotPermitted(format!("subscribe to {INBOXES}"));
                    self.handle_deafness(error.to_string(), now, out);
                }
                is_of_answers
            }
            PermissionsViolation::Publish(subject) => {
                let has_ended = self.end_those_that_ask(subject, out);
                has_ended || Self::needs().iter().any(|need| violation.is_of(need))
            }
        }
    }

    /// Ends the questions whose requests go to a subject to which the server lets nobody publish. Returns whether there are
    /// any.
    fn end_those_that_ask(&mut self, subject: &str, out: &mut Vec<u8>) -> bool {
        let asks = |pending: &PendingQuestion| {
            let asked = self.asked_subject(pending);
            asked.is_some_and(|asked| asked == subject)
        };
        let ended = self.numbers(asks);
        if subject == Action::StreamList.subject_without_stream() {
            self.all_streams.refused();
        }
        let error = ApiError::NotPermitted(format!("publish to {subject}")).to_string();
        for number in &ended {
            self.making.forget(*number);
            self.refuse(*number, &error, RefusalLasts::ForGood, out);
        }
        !ended.is_empty()
    }

    /// Handles the error that the connection has too many subscriptions. `oldest`: the number of the ping after the oldest
    /// change of names without an answer. Returns whether the subscription for answers is meant: once there is room, it is
    /// made again.
    pub(in crate::nats::subjects) fn lacks_room(
        &mut self,
        words: &str,
        oldest: Option<u64>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let is_meant = self.listening.may_be_meant(oldest);
        if is_meant {
            self.handle_deafness(shown(words), now, out);
        }
        is_meant
    }

    /// Handles the refusal of the subscription for answers, also a later one: a server whose permissions change ends the
    /// subscription, and does not make it again when the permission is back. No answer arrives any more.
    fn handle_deafness(&mut self, words: String, now: Instant, out: &mut Vec<u8>) {
        protocol::unsubscribe(out, FIRST_SID);
        self.all_streams.refused();
        for number in self.numbers(|_| true) {
            self.making.forget(number);
            self.refuse(number, &words, RefusalLasts::ForNow, out);
        }
        self.listening.refused(words, now);
    }

    /// Ends a question whose request is too large for the server, and was not sent.
    pub(super) fn give_up_request(&mut self, number: ReplyNumber, bytes: usize, out: &mut Vec<u8>) {
        self.making.forget(number);
        if let Some(pending) = self.pending.get_mut(&number) {
            // Without the consumer that it asks for.
            pending.begin();
        }
        let bytes_max = self.request_bytes_max;
        let words = format!("the request has {bytes} bytes, and max_payload is {bytes_max}");
        self.refuse(number, &words, RefusalLasts::ForGood, out);
    }
}
