//! A connection for the checks before a start, and for commands in a terminal. Every method waits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::api::{ApiError, JetStream, request_failed};
use super::endpoint::Endpoint;
use super::error::NatsError;
use super::jetstream_connection::JetStreamConnection;
use super::login::Info;
use super::needs::{Action, Need};
use super::protocol;
use super::refusals::{INBOXES, Refusal, Refusals};
use super::servers::waiter;
use super::settings::NatsSettings;
use crate::socket::Waiter;
use weirgate_runtime::Wake;
use weirgate_wire::base::Finding;

/// Bytes kept of an answer: a long list of streams is cut, and cannot be read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So many bytes may wait to be written.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024;
/// The consumer in the questions for permissions that name none; no consumer has this name.
const CONSUMER: &str = "weirgate-check";

/// The names in requests: `None` for requests that name none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named<'a> {
    pub(super) stream: Option<&'a str>,
    pub(super) consumer: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// Requests about a stream.
    pub(super) const fn stream(stream: &'a str) -> Self {
        Self {
            stream: Some(stream),
            consumer: None,
        }
    }
}

/// The connection.
pub(super) struct Requester {
    jetstream: JetStreamConnection,
}

impl JetStream for Requester {
    fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        self.jetstream.request(subject, body)
    }
}

impl Requester {
    /// Connects and logs in. An answer may take `answer_timeout`.
    pub(super) fn open(
        server: &Endpoint,
        settings: &NatsSettings,
        answer_timeout: Duration,
    ) -> Result<Self, NatsError> {
        let waiter = waiter("the connection to NATS")?;
        Self::open_with(waiter, server, settings, answer_timeout)
    }

    /// As [`Self::open`]; soon after `is_stopped` is set, every wait ends with an error.
    pub(super) fn open_until_stop(
        server: &Endpoint,
        settings: &NatsSettings,
        answer_timeout: Duration,
        is_stopped: &Arc<AtomicBool>,
    ) -> Result<Self, NatsError> {
        let (mut waiter, wake) = waiter("weirgate publish")?;
        waiter.end_at_stop(Arc::clone(is_stopped));
        Self::open_with((waiter, wake), server, settings, answer_timeout)
    }

    fn open_with(
        waiter: (Waiter, Wake),
        server: &Endpoint,
        settings: &NatsSettings,
        answer_timeout: Duration,
    ) -> Result<Self, NatsError> {
        let opened = JetStreamConnection::open_with(waiter, server, settings, ANSWER_BYTES_MAX);
        let mut jetstream = opened?;
        jetstream.answer_timeout = answer_timeout;
        jetstream.refusals = Refusals::unlogged();
        Ok(Self { jetstream })
    }

    /// The server's first line.
    pub(super) fn info(&self) -> &Info {
        &self.jetstream.connection.info
    }

    /// One finding for each of these needs whose permission this user lacks, for requests with any of these names. The
    /// requests have a body that JetStream refuses, and an acknowledgement has a word that it ignores.
    ///
    /// # Errors
    /// There is no answer; `action` says for what.
    pub(super) fn missing_permissions(
        &mut self,
        needs: &[Need],
        names: &[Named<'_>],
        action: &str,
    ) -> Result<Vec<Finding>, NatsError> {
        let mut findings = Vec::new();
        for need in needs {
            let mut missing = Vec::new();
            for named in names {
                let permission = need.action.permission(named.stream, named.consumer);
                if !missing.contains(&permission)
                    && !self.has_permission(need.action, *named, action)?
                {
                    missing.push(permission);
                }
            }
            findings.extend(need.finding_without(&missing));
        }
        Ok(findings)
    }

    /// Whether this user may do this with the stream and the consumer of these names. Changes nothing.
    fn has_permission(
        &mut self,
        tried: Action,
        Named { stream, consumer }: Named<'_>,
        action: &str,
    ) -> Result<bool, NatsError> {
        let subject = tried.subject(stream.unwrap_or_default(), consumer.unwrap_or(CONSUMER));
        match tried {
            Action::Acknowledge | Action::ControlFlow | Action::NextMessages => {
                self.may_publish(&subject, b"check")
            }
            _ => match self.request(&subject, b"{") {
                Err(ApiError::NotPermitted(what)) if !what.ends_with(INBOXES) => Ok(false),
                Err(error) if !error.is_an_answer() => {
                    Err(request_failed(action.to_owned(), error))
                }
                _ => Ok(true),
            },
        }
    }

    /// Whether this user may subscribe to `subject`.
    pub(super) fn may_subscribe(&mut self, subject: &str) -> Result<bool, NatsError> {
        let (sid, refusal) = (self.jetstream.next_sid(), Refusal::of_subscription(subject));
        self.jetstream.refusals.forget(&refusal);
        protocol::subscribe(self.jetstream.connection.out(), subject, None, sid);
        let may = self.is_permitted(&refusal, self.jetstream.answer_timeout)?;
        protocol::unsubscribe(self.jetstream.connection.out(), sid);
        Ok(may)
    }

    /// Publishes a message. Returns whether this user may.
    pub(super) fn may_publish(&mut self, subject: &str, payload: &[u8]) -> Result<bool, NatsError> {
        let timeout = self.jetstream.answer_timeout;
        self.send(subject, payload, timeout)?;
        self.confirm_published(subject, timeout)
    }

    /// Publishes a message, and waits while many bytes are unwritten. [`Self::confirm_published`] says whether the
    /// server took it.
    ///
    /// # Errors
    /// The connection is lost, or the server does not read within this time.
    pub(super) fn send(
        &mut self,
        subject: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), NatsError> {
        protocol::publish(self.jetstream.connection.out(), subject, "", payload);
        let now = Instant::now();
        let until = now + timeout;
        // Does not wait, but notices the end of the connection.
        self.jetstream.step(now)?;
        while self.jetstream.connection.queued_bytes() > UNWRITTEN_BYTES_MAX {
            if Instant::now() >= until {
                return Err(self.jetstream.connection.silent());
            }
            self.jetstream.step(until)?;
        }
        Ok(())
    }

    /// Answers what the server has asked, a ping above all, without a wait. A caller that sends nothing for minutes calls it
    /// meanwhile: nats-server ends a connection that leaves pings unanswered.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn serve(&mut self) -> Result<(), NatsError> {
        while self.jetstream.step(Instant::now())? {}
        Ok(())
    }

    /// Waits until the server has taken all messages. Returns whether it has refused none on `subject` since the last
    /// call.
    ///
    /// # Errors
    /// The connection is lost, or the server does not answer within this time.
    pub(super) fn confirm_published(
        &mut self,
        subject: &str,
        timeout: Duration,
    ) -> Result<bool, NatsError> {
        self.is_permitted(&Refusal::of_publishing(subject), timeout)
    }

    /// Whether the server has not sent this refusal when it answers a ping.
    fn is_permitted(&mut self, refusal: &Refusal, timeout: Duration) -> Result<bool, NatsError> {
        if !self.jetstream.confirm(timeout)? {
            return Err(self.jetstream.connection.silent());
        }
        let is_refused = self.jetstream.refusals.has(refusal);
        self.jetstream.refusals.forget(refusal);
        Ok(!is_refused)
    }

    /// Ends the connection.
    pub(super) fn close(self) {
        self.jetstream.close();
    }
}
