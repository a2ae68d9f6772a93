//! The checks of the stream that is the kept feed, before, between and after the pages of a question for all messages.
//!
//! Such a question takes the steps of [`consuming`](super::consuming) with a consumer of all messages, from the time of the
//! last one that was read on: in another epoch of the stream (it was made anew, or went back in time), a lower number or
//! another message of the same number comes. If the clock has gone back, the consumer begins behind messages that were not
//! read, and is made again from the number of the last one on. So it is for a stream in memory, too
//! ([`StreamInfo::can_start_at_time`]), and once a message was read: only the position that the client has may be of another
//! epoch of the stream. The consumer is left after each page.
//!
//! Between two messages of the name are numbers of others, so a number that does not come may have been removed before it
//! was read: if the stream begins behind such a place after the page, or has lost messages within
//! ([`removals`](super::removals)), messages may be missing.
//!
//! A leader that was elected a moment ago, or no longer is the leader, may lack messages that the source of the kept feed has
//! read from another server. Clients get later ones live, so those between would be missing. So a question goes on only if
//! the answer about the stream has the newest that the source had read, and is over only if the leader is still the one
//! whose consumer was read.
//!
//! If the stream was made anew, the source finds that out at its next look, up to a second later. What a question brought of
//! the new stream before that would come again as live messages, and the loop would take it for a part of the old stream.
//! So the question waits for the source, and ends: another one begins when the loop knows of the loss.

use std::time::Instant;

use super::Retained;
use super::all_read::AfterCheck;
use super::events::NatsCut;
use super::question::{Again, QuestionStep, ReplyNumber};
use super::reading::RefusalLasts;
use super::streams::{StreamPart, parts_in_stream};
use crate::nats::api::ApiError;
use crate::nats::stream_info::StreamInfo;
use weirgate_wire::json::Json;

impl Retained {
    /// Ends a page of a question for all messages, or the question. If messages may be missing since the last check, or another
    /// server may lead the stream by now, asks about the stream first, and [`Self::handle_check`] goes on.
    pub(super) fn check_stream(
        &mut self,
        number: ReplyNumber,
        after_check: AfterCheck,
        out: &mut Vec<u8>,
    ) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let Some(all) = pending.reading.all_mut() else {
            return;
        };
        if all.needs_check(after_check) {
            pending.step = QuestionStep::Check(after_check);
            return self.send(number, out);
        }
        match after_check {
            AfterCheck::Read | AfterCheck::End => self.end(number, None, out),
            AfterCheck::Page => self.end_page(number),
        }
    }

    /// Handles the answer about the stream of a question for all messages.
    pub(super) fn handle_check(
        &mut self,
        number: ReplyNumber,
        after_check: AfterCheck,
        answer: Json<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get(&number) else {
            return;
        };
        if answer.get(&["config"]).is_none() {
            return self.end(number, Some(NatsCut::lacks("config")), out);
        }
        let found = parts_in_stream(&pending.question.subscription.name, answer);
        match StreamInfo::of(answer) {
            Ok(stream) => self.judge_stream(number, after_check, found, &stream, now, out),
            Err(ApiError::Unfinished) => self.pause(number, Again::Check(after_check), now),
            Err(error) => self.refuse(number, &error.to_string(), RefusalLasts::ForGood, out),
        }
    }

    /// Goes on by what the leader says about the stream; `found`: the parts of the name in it.
    fn judge_stream(
        &mut self,
        number: ReplyNumber,
        after_check: AfterCheck,
        found: Vec<StreamPart>,
        stream: &StreamInfo,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let Some(all) = pending.reading.all_mut() else {
            return self.end(number, None, out);
        };
        let source = self.progress.now();
        if all.is_behind(stream) || source.reads_other_than(stream.created_ns) {
            return self.pause(number, Again::Check(after_check), now);
        }
        if source.has_changed_since(pending.question.asked) {
            return self.end_to_begin_again(number, out);
        }
        if all.needs_list(stream, now) {
            return self.send(number, out);
        }
        all.check(stream, after_check, now);
        match after_check {
            _ if all.is_of_other_epoch() => self.end(number, None, out),
            AfterCheck::End if all.is_led_elsewhere(stream) => {
                self.ask_again(number, "another server leads the stream", now, out);
            }
            // Begins, or goes on reading; or only the number of messages that wait for the next consumer tells whether
            // some were removed.
            after_check if after_check == AfterCheck::Read || all.needs_consumer() => {
                // The stream may still have messages of the name, of which it makes no consumer.
                if found.is_empty() {
                    return self.end(number, Some(NatsCut::Off), out);
                }
                let name = &pending.question.subscription.name;
                pending.reading.begin_all(name, found, stream);
                self.next_stream(number, now, out);
            }
            AfterCheck::Page => self.end_page(number),
            AfterCheck::Read | AfterCheck::End => self.end(number, None, out),
        }
    }
}
