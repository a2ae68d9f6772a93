//! Which streams a question reads or asks: by the subjects that streams take from publishers ([`streams`](super::streams)), and
//! by those of transforms and of copies ([`AllStreams`](super::all_streams::AllStreams)). A question about the stream that is
//! the kept feed needs no search.

use std::time::Instant;

use super::Retained;
use super::all_streams::AfterPage;
use super::answers::read_json;
use super::events::NatsCut;
use super::question::{Again, PendingQuestion, QuestionStep, ReplyNumber};
use super::reading::STREAMS_MAX;
use super::streams::{parts_in_stream, parts_taken_by_streams};
use crate::nats::api::refusal;
use crate::nats::protocol::Delivery;
use weirgate_wire::json::Json;

impl Retained {
    /// Handles the answer about the streams of a question.
    pub(super) fn handle_streams(
        &mut self,
        number: ReplyNumber,
        answer: Json<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if pending.question.is_of_stream() {
            return self.handle_kept_stream(number, answer, now, out);
        }
        let subscription = &pending.question.subscription;
        if answer.get(&["streams"]).is_none() {
            self.end(number, Some(NatsCut::lacks("streams")), out);
        } else if subscription.is_pattern {
            pending.reading.take_streams(&subscription.name, answer);
            self.search_all_streams(number, now, out);
        } else {
            let found = parts_taken_by_streams(&subscription.name, answer);
            match (found.parts.is_empty(), found.has_more_streams) {
                // The subjects of two streams never overlap, so at most one takes the name.
                (false, _) => self.find_message(number, found.parts.into_iter().take(1), now, out),
                // The leader of the stream did not answer in time.
                (true, true) => self.pause(number, Again::Begin, now),
                (true, false) => self.search_all_streams(number, now, out),
            }
        }
    }

    /// Handles the answer about the stream that is the kept feed, which alone is asked for the newest messages.
    fn handle_kept_stream(
        &mut self,
        number: ReplyNumber,
        answer: Json<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let subscription = &pending.question.subscription;
        let parts = parts_in_stream(&subscription.name, answer);
        if answer.get(&["config"]).is_none() {
            self.end(number, Some(NatsCut::lacks("config")), out);
        } else if subscription.is_pattern {
            pending.reading.take_parts(parts.into());
            self.next_stream(number, now, out);
        } else {
            // All parts are of one stream, which is asked once.
            self.find_message(number, parts.into_iter().take(1), now, out);
        }
    }

    /// Looks for streams that have the name by transforms or as copies, in the list of all streams.
    fn search_all_streams(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        if self.all_streams.is_known(now) {
            return self.handle_searched_streams(number, now, out);
        }
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::AllStreams;
        }
        // All questions that wait for the list go on with the same answers.
        let number = self.last.next();
        if self.all_streams.ask(number, now) {
            self.last = number;
            self.ask_list_page(number, out);
        }
    }

    /// Handles a page of the list of all streams: once the list is whole, all questions that wait for it go on.
    pub(super) fn handle_list_page(
        &mut self,
        number: ReplyNumber,
        delivery: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let after_page = read_list_page(delivery).map(|page| self.all_streams.add_page(page));
        match after_page {
            Ok(AfterPage::NextPage) => return self.ask_list_page(number, out),
            Ok(AfterPage::Known) => {}
            Err(_) => self.all_streams.refused(),
        }
        let waits = |pending: &PendingQuestion| matches!(pending.step, QuestionStep::AllStreams);
        for number in self.numbers(waits) {
            match &after_page {
                Err(cut) => self.end(number, Some(cut.clone()), out),
                Ok(_) => self.handle_searched_streams(number, now, out),
            }
        }
    }

    /// Goes on with the streams that were found in the list of all.
    fn handle_searched_streams(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let subscription = &pending.question.subscription;
        let parts = self.all_streams.parts_elsewhere(&subscription.name);
        if subscription.is_pattern {
            let has_more_streams = self.all_streams.has_more_streams();
            pending.reading.extend(parts, has_more_streams);
            return self.next_stream(number, now, out);
        }
        self.find_message(number, parts.into_iter().take(STREAMS_MAX), now, out);
    }
}

/// The page in an answer with a part of the list of all streams.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
fn read_list_page(delivery: &Delivery) -> Result<Json<'_>, NatsCut> {
    if delivery.status.is_some() {
        return Err(NatsCut::refused("nobody answers"));
    }
    let answer = read_json(delivery)?;
    match refusal(answer) {
        Some(error) => Err(NatsCut::refused(&error.to_string())),
        None if answer.get(&["streams"]).is_none() => Err(NatsCut::lacks("streams")),
        None => Ok(answer),
    }
}
