//! The ends of pages and of questions, and what a question does when a step fails.

use std::sync::Arc;
use std::time::Instant;

use super::Retained;
use super::all_read::AfterCheck;
use super::events::{NatsCut, RetainedEvent};
use super::question::{Again, PendingQuestion, QuestionStep, ReplyNumber};
use super::reading::RefusalLasts;
use crate::requests::Wants;

impl Retained {
    /// Asks again after a pause.
    pub(super) fn pause(&mut self, number: ReplyNumber, again: Again, now: Instant) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.pause(again, now);
        }
    }

    /// Leaves a consumer that is of no use, and asks again which streams hold the subjects: another consumer may go on. After a
    /// stream was given up, there is no other.
    pub(super) fn ask_again(
        &mut self,
        number: ReplyNumber,
        why: &str,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if pending.patience.has_given_up() {
            return self.give_up_stream(number, why.to_owned(), now, out);
        }
        pending.patience.note_failure(why, now);
        self.pause(number, Again::Begin, now);
    }

    /// Goes on with the next stream, because this one gives no values for now.
    fn give_up_stream(
        &mut self,
        number: ReplyNumber,
        why: String,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.patience.give_up(now);
            pending.reading.left_out.refused(why, RefusalLasts::ForNow);
            self.next_stream(number, now, out);
        }
    }

    /// Handles a question whose time is over. The last answer counts, though it may be from before the newest message. If the
    /// values of a pattern are in further streams, these are read.
    pub(super) fn handle_silence(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get(&number) else {
            return;
        };
        if pending.has_older_answer() {
            return self.end(number, None, out);
        }
        let why = pending.patience.words();
        match pending.can_leave_stream() {
            true => self.give_up_stream(number, why, now, out),
            false => self.refuse(number, &why, RefusalLasts::ForNow, out),
        }
    }

    /// Handles a page of values that is full.
    pub(super) fn handle_full_page(&mut self, number: ReplyNumber, out: &mut Vec<u8>) {
        let pending = self.pending.get(&number);
        match pending.is_some_and(|pending| pending.reading.all().is_some()) {
            true => self.check_stream(number, AfterCheck::Page, out),
            false => self.end_page(number),
        }
    }

    /// Ends a page of values. The consumer is kept for the next page.
    pub(super) fn end_page(&mut self, number: ReplyNumber) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let consumer = match std::mem::take(&mut pending.step) {
                QuestionStep::Values { consumer, .. } => Some(consumer),
                _ => None,
            };
            pending.step = QuestionStep::NextPage(consumer);
            self.events.push(pending.open_page());
        }
    }

    /// Ends a question with its page, so that the gateway asks another one, which goes on from there.
    pub(super) fn end_to_begin_again(&mut self, number: ReplyNumber, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        if let Some(pending) = self.pending.remove(&number) {
            self.events.push(pending.last_page());
        }
    }

    /// Ends a question because NATS refuses it, with its words. If a question for last values is refused for now, the gateway
    /// asks again later.
    pub(super) fn refuse(
        &mut self,
        number: ReplyNumber,
        words: &str,
        lasts: RefusalLasts,
        out: &mut Vec<u8>,
    ) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.reading.left_out.note_lasts(lasts);
        }
        self.end(number, Some(NatsCut::refused(words)), out);
    }

    /// Ends a question, and reports its value and why others are missing.
    /// `cut`: why, if what was read does not say it.
    pub(super) fn end(&mut self, number: ReplyNumber, cut: Option<NatsCut>, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(mut pending) = self.pending.remove(&number) else {
            return;
        };
        if let Some(NatsCut::Refused(_)) = cut
            && pending.lacks_unsaid()
        {
            return self.events.push(pending.last_page());
        }
        if let (Some(message), None) = (pending.last_message.take(), &cut) {
            self.events.push(RetainedEvent::Value {
                question: pending.question.clone(),
                subject: Arc::clone(&pending.question.subscription.name),
                is_deletion: message.is_deletion(),
                payload: message.payload,
                id: Some(message.id),
            });
        }
        let cut = cut.or_else(|| pending.reading.cut());
        self.events.push(pending.into_end(cut));
    }
}

impl PendingQuestion {
    /// Whether messages are missing of which the gateway does not know yet. An end has one reason: this one is said first. The
    /// gateway asks another question, and that is refused as this one.
    fn lacks_unsaid(&self) -> bool {
        self.reading.all().is_some()
            && self.reading.last_cursor().cut.is_some()
            && self.question.after.cut.is_none()
    }

    /// The end of the question; `cut`: why something is missing.
    fn into_end(self, cut: Option<NatsCut>) -> RetainedEvent {
        let Self {
            question, reading, ..
        } = self;
        let may_answer_later =
            reading.left_out.may_answer_later() && question.wants == Wants::LastValues;
        match cut {
            Some(why @ NatsCut::Refused(_)) if may_answer_later => RetainedEvent::Unanswered {
                question,
                cursor: Arc::new(reading.cursor()),
                why,
            },
            cut => RetainedEvent::End { question, cut },
        }
    }
}
