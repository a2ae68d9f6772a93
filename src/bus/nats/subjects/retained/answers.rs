//! The answers to the requests of questions, each given to the step that waits for it.

use std::time::Instant;

use super::events::NatsCut;
use super::last_message::LastMessage;
use super::making::MadeFor;
use super::question::{QuestionStep, ReplyNumber};
use super::reading::RefusalLasts;
use super::{FIRST_SID, Retained};
use crate::nats::api::refusal;
use crate::nats::protocol::Delivery;
use weirgate_wire::json::Json;

impl Retained {
    /// Takes a message of a question's subscription: an answer, or what a consumer delivers.
    pub(in crate::nats::subjects) fn take(
        &mut self,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if delivery.sid == FIRST_SID {
            if let Some(number) = delivery.request() {
                self.take_answer(number, &delivery, now, out);
                self.make_next(now, out);
            }
            return;
        }
        let reads = self.number_of(|pending| match &pending.step {
            QuestionStep::Values { consumer, .. } => consumer.sid == delivery.sid,
            _ => false,
        });
        match reads {
            Some(number) if delivery.status.is_some() => {
                self.handle_stop(number, &delivery, now, out)
            }
            Some(number) => self.handle_delivery(number, delivery, now, out),
            // It is of a consumer that was left.
            None => {}
        }
    }

    /// Takes the answer to a request. The number that ends its subject is that of a question, or the `sid` of the consumer
    /// that was asked for.
    fn take_answer(&mut self, number: u64, answer: &Delivery, now: Instant, out: &mut Vec<u8>) {
        match self.making.take_answered(number) {
            Some(MadeFor::Question(number)) => self.handle_created(number, answer, now, out),
            Some(MadeFor::Nobody(mut consumer)) => {
                // The answer says the name, by which the server can delete it.
                if consumer.made(&answer.payload).is_ok() {
                    consumer.leave(&self.reply_for_nobody(), out);
                }
            }
            None => self.take_answer_of(ReplyNumber(number), answer, now, out),
        }
    }

    /// Takes the answer to another request of a question, or to that for the list of all streams.
    fn take_answer_of(
        &mut self,
        number: ReplyNumber,
        answer: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if self.all_streams.asked() == Some(number) {
            self.handle_list_page(number, answer, now, out);
        } else if answer.is_cut() {
            self.handle_cut_answer(number, answer, now, out);
        } else {
            self.handle_answer(number, answer, now, out);
        }
    }

    /// Handles the answer to the request of a question's step.
    fn handle_answer(
        &mut self,
        number: ReplyNumber,
        delivery: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.note_message(number, delivery);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let answer = match read_json(delivery) {
            Ok(answer) => answer,
            Err(cut) => return self.end(number, Some(cut), out),
        };
        match (&pending.step, refusal(answer)) {
            (QuestionStep::Values { .. } | QuestionStep::NextPage(_), _) => {
                pending.reading.take_end(answer);
            }
            // These steps wait for no answer of their own: it is a late one.
            (
                QuestionStep::Pause { .. }
                | QuestionStep::InLine(_)
                | QuestionStep::Create { .. }
                | QuestionStep::AllStreams,
                _,
            ) => {}
            _ if delivery.status.is_some() => {
                self.refuse(number, "nobody answers", RefusalLasts::ForNow, out);
            }
            (QuestionStep::AnyValue { .. }, Some(error)) if error.message_is_missing() => {
                self.next_stream(number, now, out);
            }
            (QuestionStep::AnyValue { .. }, _) => self.leave_out_stream(number, now, out),
            (_, Some(error)) if !error.message_is_missing() => {
                let lasts = RefusalLasts::of(&error);
                self.refuse(number, &error.to_string(), lasts, out);
            }
            (QuestionStep::Streams, _) => self.handle_streams(number, answer, now, out),
            (QuestionStep::Message(_), _) => {
                let message = LastMessage::read(answer, self.settings.payload_bytes_max);
                self.handle_message(number, message, now, out);
            }
            (QuestionStep::Check(after_check), _) => {
                let after_check = *after_check;
                self.handle_check(number, after_check, answer, now, out);
            }
        }
    }

    /// Counts the size of an answer that has a message.
    fn note_message(&mut self, number: ReplyNumber, answer: &Delivery) {
        let step = self.pending.get(&number).map(|pending| &pending.step);
        if let Some(QuestionStep::Message(_) | QuestionStep::AnyValue { .. }) = step {
            self.answer_bytes.note(answer.size());
        }
    }

    /// Handles an answer that is longer than an answer may be. If it has a message, its beginning is
    /// enough: the message is over the payload limit. Any other answer is of no use without the missing part.
    fn handle_cut_answer(
        &mut self,
        number: ReplyNumber,
        answer: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.note_message(number, answer);
        match self.pending.get(&number).map(|pending| &pending.step) {
            Some(QuestionStep::Message(_)) => {
                let bytes_max = self.settings.payload_bytes_max;
                let message = LastMessage::read_beginning(answer, bytes_max);
                self.handle_message(number, message, now, out);
            }
            // So long an answer has a message, so the stream has a value.
            Some(QuestionStep::AnyValue { .. }) => self.leave_out_stream(number, now, out),
            Some(QuestionStep::Streams | QuestionStep::Check(_)) => {
                self.end(number, Some(NatsCut::too_long()), out);
            }
            Some(
                QuestionStep::AllStreams
                | QuestionStep::InLine(_)
                | QuestionStep::Create { .. }
                | QuestionStep::Values { .. }
                | QuestionStep::NextPage(_)
                | QuestionStep::Pause { .. },
            )
            | None => {}
        }
    }
}

/// The JSON of an answer.
///
/// # Errors
/// [`NatsCut::Unreadable`]: it is too long, or no JSON.
pub(super) fn read_json(answer: &Delivery) -> Result<Json<'_>, NatsCut> {
    match answer.is_cut() {
        true => Err(NatsCut::too_long()),
        false => Ok(Json::read(&answer.payload)?),
    }
}
