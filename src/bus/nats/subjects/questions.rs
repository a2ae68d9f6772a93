//! The questions for stored messages on a connection: from the loop to JetStream, and the values and ends back to the loop.
//! [`Retained`](super::retained::Retained) knows how to ask.

use std::time::{Duration, Instant};

use super::super::error::Stop;
use super::retained::{LiveScope, NatsCut, RetainedEvent};
use super::session::SubjectsSession;
use crate::kept::{place_in, stored_at};
use crate::requests::{PageRequest, Question};
use crate::server_words::shown;
use weirgate_core::{BusEvent, BusMessage, Place, StoredId};
use weirgate_wire::base::Now;

impl SubjectsSession<'_> {
    /// Goes on with the questions: those of which the loop wants more or nothing more, those that are due, and new ones.
    pub(super) fn work_on_questions(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        let retained = &mut self.retained;
        retained.request_bytes_max = self.connection.info.max_payload();
        while let Some((number, request)) = self.source.names.next_page_request() {
            match request {
                PageRequest::More => retained.more(number, now, self.connection.out()),
                PageRequest::Forget => retained.forget(number, self.connection.out()),
            }
        }
        let connection = &mut *self.connection;
        retained.note_pongs(|ping| connection.is_answered(ping));
        retained.work(now, connection.out());
        self.ask_questions(now);
        if self.retained.needs_ping(now) {
            self.retained.note_ping(self.connection.ping(), now);
        }
        let (asked, paused) = (self.retained.asked(), self.retained.paused());
        self.source.names.show_asked_questions(asked, paused);
        self.send_retained()
    }

    /// Asks the questions for last values that wait, while there is room. Questions must not fill the link to a silent
    /// server.
    fn ask_questions(&mut self, now: Instant) {
        let retained = &mut self.retained;
        let timeout = Duration::from_millis(self.source.settings.nats.times.ping_timeout_ms);
        let is_silent = |pinged| now >= pinged + timeout;
        while retained.has_room(now)
            && !self.connection.pinged().is_some_and(is_silent)
            && let Some(question) = self
                .source
                .names
                .next_question(|| retained.has_room_to_read())
        {
            let scope = LiveScope::of(&question, |name| self.sids.sid_of(name));
            retained.ask(question, scope, now, self.connection.out());
        }
    }

    /// Sends the last values, and the ends of questions.
    pub(super) fn send_retained(&mut self) -> Result<(), Stop> {
        for event in std::mem::take(&mut self.retained.events) {
            let event = match event {
                RetainedEvent::Value {
                    question,
                    subject,
                    payload,
                    is_deletion,
                    id,
                } => {
                    let now = self.relay.link.now();
                    let (place, received) = self.origin_of_value(&question, id, now);
                    let subscription = question.subscription;
                    BusEvent::LastValue {
                        number: question.number,
                        is_deletion,
                        message: BusMessage {
                            pattern: subscription.is_pattern.then_some(subscription.name),
                            place,
                            quiet: true,
                            ..BusMessage::new(subject, payload, received)
                        },
                    }
                }
                RetainedEvent::Page {
                    number,
                    cursor,
                    is_open,
                } => BusEvent::RetainedPage {
                    number,
                    cursor,
                    is_open,
                },
                RetainedEvent::Unanswered {
                    question,
                    cursor,
                    why,
                } => {
                    self.count_cut(&question, &why);
                    BusEvent::RetainedUnanswered {
                        number: question.number,
                        cursor,
                    }
                }
                RetainedEvent::End { question, cut } => {
                    if let Some(cut) = &cut {
                        self.count_cut(&question, cut);
                    }
                    BusEvent::RetainedEnd {
                        subscription: question.subscription,
                        number: question.number,
                        cut: cut.as_ref().map(NatsCut::reason),
                    }
                }
            };
            self.relay.link.send(event)?;
        }
        Ok(())
    }

    /// The place of a value, and the time that counts as its arrival: a value came when the stream stored it. It has a place
    /// if the stream is the kept feed.
    fn origin_of_value(&self, question: &Question, id: Option<StoredId>, now: Now) -> (Place, Now) {
        let Some(id) = id else {
            return (Place::Outside, now);
        };
        let place = match &self.source.settings.stream {
            Some(stream) if question.is_of_stream() => place_in(stream, id),
            _ => Place::Outside,
        };
        (place, stored_at(id, now))
    }

    /// Counts and logs why last values are missing. Skips the causes that lie in the position of the client, or in its name:
    /// the client gets those, and no operator can change them.
    fn count_cut(&mut self, question: &Question, cut: &NatsCut) {
        match cut {
            NatsCut::Refused(_) => self.relay.status.count_retained_refused(),
            // Clients learn of it, and nobody can change it.
            NatsCut::Window | NatsCut::Epoch | NatsCut::Off => return,
            NatsCut::TooManyStreams | NatsCut::Unnamed | NatsCut::Unreadable(_) => {
                self.relay.status.count_retained_limited()
            }
        }
        if let Some(lines_left_out) = self.source.names.lines.line(self.relay.link.now()) {
            tracing::warn!(
                name = shown(&question.subscription.name),
                lines_left_out,
                "{cut}"
            );
        }
    }
}
