//! The messages of a name through consumers: the last values of a pattern, of one stream after the other, and all messages
//! of a name.
//!
//! weirgate asks a consumer for a page at a time: neither here nor on the way more waits, however many values there are.
//! Each request is for as many messages as fit in the page if none is larger than those before; a consumer that brings far
//! more bytes all the same is left, and made again for the next page. nats-server 2.9 makes no consumer for a pattern of
//! copies whose origin is gone; the stream is asked for the last message of the pattern, which says whether values are
//! missing.
//!
//! # The order of values
//! The consumer brings the messages in the order of their numbers: first those that were the last of their subjects
//! when it was made, then all later ones. A stream is read once the consumer has brought as many messages as waited
//! when it was made: what was replaced since then has come as a later message, unless an older one can come back
//! ([`listed`](super::listed)). The server's count of what still waits can be wrong after deletions, so it alone ends nothing.
//! The consumer is deleted at the end; if the deletion fails, the server deletes the consumer after
//! [`LIMITS`](super::LIMITS), or sooner if the stream permits less.

use std::mem;
use std::time::{Duration, Instant};

use super::all_read::{AfterCheck, AllRead};
use super::answers::read_json;
use super::question::{Again, QuestionStep, ReplyNumber};
use super::reading::RefusalLasts;
use super::streams::StreamPart;
use super::{ASKED_MAX, Retained};
use crate::nats::api::ApiError;
use crate::nats::consumer::Consumer;
use crate::nats::protocol::{AckSubject, Delivery};
use crate::server_words::shown;

/// For so long a consumer waits for messages. If it brings none for twice this time, there are none.
pub(super) const PULL_TIMEOUT: Duration = Duration::from_secs(1);
/// The status of a consumer that has waited for as long as it was asked to.
const TIMEOUT: u16 = 408;

impl Retained {
    /// Leaves the consumer of a part, and requests a consumer of the next part. After the last one, asks again if a
    /// message was delivered before the question, and is not among the values.
    pub(super) fn next_stream(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        // The question waits, because what is read of a stream counts for the time at which the stream was made.
        if pending.reading.waits_for_stream() {
            return self.pause(number, Again::Begin, now);
        }
        if let Some(part) = pending.reading.next_part() {
            return self.create(number, part, now, out);
        }
        pending.reading.has_read_all = true;
        if pending.reading.all().is_some() {
            return self.check_stream(number, AfterCheck::End, out);
        }
        // What is missing may be in a stream that was left out.
        let may_lack_some = pending.reading.left_out.is_empty()
            && (pending.reading.reads_again() || pending.has_unstored(&mut self.live, now));
        match may_lack_some {
            true => self.pause(number, Again::Begin, now),
            false => self.end(number, None, out),
        }
    }

    /// Requests a consumer of a part, as soon as there is a slot.
    pub(super) fn create(
        &mut self,
        number: ReplyNumber,
        part: StreamPart,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::InLine(part);
            pending.patience.join_line(now);
            self.making.join_line(number);
            self.make_next(now, out);
        }
    }

    /// Requests the consumers whose turn it is.
    pub(super) fn make_next(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some(number) = self.making.next() {
            self.last_sid += 1;
            let (sid, deliver) = (self.last_sid, self.deliver_subject(self.last_sid));
            let Some(pending) = self.pending.get_mut(&number) else {
                continue;
            };
            match mem::take(&mut pending.step) {
                QuestionStep::InLine(part) => {
                    let start = pending.reading.consumer_start(&part);
                    let consumer = Consumer::new(&part.stream, sid, deliver, start);
                    pending.step = QuestionStep::Create { part, consumer };
                    pending.patience.leave_line(now);
                    self.making.note_sent(sid, number, now);
                    self.send(number, out);
                }
                step => pending.step = step,
            }
        }
    }

    /// Leaves the consumer of a question, if it has one or waits for one. If the request for the consumer is on its way, the
    /// consumer is left with the answer ([`Making::give_up`](super::making::Making::give_up)). The caller then sets the next
    /// step; a step without a consumer stays.
    pub(super) fn leave_consumer(&mut self, number: ReplyNumber, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let consumer = match mem::take(&mut pending.step) {
            QuestionStep::InLine(_) => return self.making.leave_line(number),
            QuestionStep::Create { consumer, .. } => self.making.give_up(consumer),
            QuestionStep::Values { consumer, .. } | QuestionStep::NextPage(Some(consumer)) => {
                Some(consumer)
            }
            step => {
                pending.step = step;
                return;
            }
        };
        if let Some(consumer) = consumer {
            consumer.leave(&self.reply_for_nobody(), out);
        }
    }

    /// Handles the answer to the request for a consumer.
    pub(super) fn handle_created(
        &mut self,
        number: ReplyNumber,
        answer: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if let Err(cut) = read_json(answer) {
            return self.end(number, Some(cut), out);
        }
        if answer.status.is_some() {
            return self.refuse(number, "nobody answers", RefusalLasts::ForNow, out);
        }
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        match mem::take(&mut pending.step) {
            QuestionStep::Create { part, mut consumer } => match consumer.made(&answer.payload) {
                Ok(()) => self.begin_consumer(number, part, consumer, now, out),
                Err(error) => self.handle_refused_consumer(number, part, &error, now, out),
            },
            step => pending.step = step,
        }
    }

    /// Asks for a consumer with smaller limits, if that is why the server refuses it. Otherwise leaves the stream out.
    fn handle_refused_consumer(
        &mut self,
        number: ReplyNumber,
        mut part: StreamPart,
        error: &ApiError,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        // These limits were asked for: the one that the server refuses is halved.
        if part.limits.shrink(part.limits, error) {
            return self.create(number, part, now, out);
        }
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let why = shown(&error.to_string());
        if error.filter_is_foreign() {
            pending.step = QuestionStep::AnyValue { part, why };
            return self.send(number, out);
        }
        let left_out = &mut pending.reading.left_out;
        left_out.refused(why, RefusalLasts::of(error));
        self.next_stream(number, now, out);
    }

    /// Begins to read with a consumer that was made, unless nothing waits for it, or another one is needed.
    fn begin_consumer(
        &mut self,
        number: ReplyNumber,
        part: StreamPart,
        mut consumer: Consumer,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let nobody = self.reply_for_nobody();
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let made = consumer.answer().cloned().unwrap_or_default();
        // Only the leader surely has the last values.
        if made.server.is_some_and(|server| server != part.leader) {
            consumer.leave(&nobody, out);
            pending.patience.note_placement(now);
            return self.pause(number, Again::Create(part), now);
        }
        if let Some(all) = pending.reading.all_mut() {
            if all.restart_by_number_if_late(made.begins) {
                consumer.leave(&nobody, out);
                return self.create(number, part, now, out);
            }
            all.expect(made.waiting);
        }
        if made.waiting == 0 {
            consumer.leave(&nobody, out);
            return self.next_stream(number, now, out);
        }
        pending.reading.begin(&part, made.waiting);
        pending.patience.note_step(now);
        consumer.listen(None, out);
        pending.step = QuestionStep::Values { consumer, left: 0 };
        // A page that is full already reads on only to find out whether messages are missing.
        let reads_on = pending.reading.all().is_some_and(AllRead::needs_consumer);
        match pending.reading.has_full_page() && !reads_on {
            true => self.handle_full_page(number, out),
            false => self.pull(number, out),
        }
        self.ask_for_end(number, out);
    }

    /// Leaves out a stream that refuses a consumer for the pattern, and may have values of it.
    pub(super) fn leave_out_stream(
        &mut self,
        number: ReplyNumber,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if let Some(pending) = self.pending.get_mut(&number)
            && let QuestionStep::AnyValue { why, .. } = &mut pending.step
        {
            let why = mem::take(why);
            pending.reading.left_out.refused(why, RefusalLasts::ForGood);
        }
        self.next_stream(number, now, out);
    }

    /// Asks a consumer for as many messages as the page has room for.
    pub(super) fn pull(&mut self, number: ReplyNumber, out: &mut Vec<u8>) {
        let awaited = self.awaited_beside(number);
        if let Some(pending) = self.pending.get_mut(&number)
            && let QuestionStep::Values { consumer, left } = &mut pending.step
        {
            let unknown_max = self.answer_bytes.waiting_max_beside(awaited, ASKED_MAX);
            let next = pending.reading.next_pull(unknown_max as u64);
            *left = consumer.pull(next, PULL_TIMEOUT, out);
        }
    }

    /// The bytes that the consumers of all other questions may still bring for what they were asked.
    fn awaited_beside(&self, number: ReplyNumber) -> usize {
        let others = self.pending.iter().filter(|(other, _)| **other != number);
        let awaited = others.map(|(_, pending)| pending.awaited_bytes(&self.answer_bytes));
        awaited.fold(0, usize::saturating_add)
    }

    /// Handles a message delivered by a consumer.
    pub(super) fn handle_delivery(
        &mut self,
        number: ReplyNumber,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Values { consumer, left } = &mut pending.step else {
            return;
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let Some(ack) = ack.filter(|ack| consumer.count_delivery(ack.consumer_sequence)) else {
            return self.ask_again(number, "a message is missing", now, out);
        };
        self.answer_bytes.note(delivery.size());
        *left = left.saturating_sub(1);
        let scope = pending.scope.as_ref();
        let live = self.live.number_of(scope, pending.begun, &delivery);
        let is_new = pending.reading.take(&delivery, ack, live);
        pending.patience.note_message(is_new, now);
        if is_new {
            self.events.extend(pending.value(delivery, ack));
        }
        self.read_on(number, ack, now, out);
    }

    /// Goes on after a message: with the next stream, the next page or the next request, if all has come that was asked for.
    fn read_on(&mut self, number: ReplyNumber, ack: AckSubject, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let has_all = matches!(pending.step, QuestionStep::Values { left: 0, .. });
        let reading = &mut pending.reading;
        if reading.all().is_some_and(AllRead::is_of_other_epoch) {
            self.end(number, None, out);
        } else if reading.has_all_of_part(ack) {
            reading.end_part();
            self.next_stream(number, now, out);
        } else if !has_all {
            if reading.is_far_over_page() {
                self.leave_consumer(number, out);
                self.handle_full_page(number, out);
            }
        } else if reading.has_full_page() {
            self.handle_full_page(number, out);
        } else {
            self.pull(number, out);
        }
    }

    /// Handles a status in place of messages: nothing has come for a time, the server permits only a smaller request, or the
    /// consumer is of no use.
    pub(super) fn handle_stop(
        &mut self,
        number: ReplyNumber,
        delivery: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Values { consumer, .. } = &mut pending.step else {
            return;
        };
        let (status, words) = (delivery.status.unwrap_or_default(), &*delivery.status_words);
        if consumer.is_permitted_less(words) {
            return self.pull(number, out);
        }
        let is_over = pending.patience.quiet_for(now) >= 2 * PULL_TIMEOUT;
        match status {
            // Nothing more is there, whatever the server counts.
            TIMEOUT if is_over && pending.reading.all().is_none() => {
                pending.reading.end_part();
                self.next_stream(number, now, out);
            }
            TIMEOUT if !is_over && pending.reading.has_full_page() => {
                self.handle_full_page(number, out)
            }
            TIMEOUT if !is_over => self.pull(number, out),
            // Messages may have been removed since, or are none for the consumer although the server has counted them
            // (a subject with a literal `>`), or the consumer has lost its server: another one knows.
            _ => {
                if status == TIMEOUT
                    && let Some(all) = pending.reading.all_mut()
                {
                    all.doubt_rest();
                }
                let why = shown(&format!("status {status} of its consumer: {words}"));
                self.ask_again(number, why.trim_end_matches([':', ' ']), now, out);
            }
        }
    }
}
