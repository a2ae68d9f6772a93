//! Publishes for a command in a terminal.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::api::{ANSWER_TIMEOUT, ApiError, JetStream};
use super::endpoint::redacted;
use super::error::NatsError;
use super::requester::Requester;
use super::servers::NatsServers;
use super::settings::NatsSettings;
use weirgate_wire::json::Json;

/// How long the server may take to confirm all messages.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// The limit on messages in flight before waiting for the server to confirm them.
const UNCONFIRMED_MAX: u32 = 1_000;

/// Publishes on NATS for a command, with or without the acknowledgement of a stream, and waits: every fault is an
/// error, and nothing is tried again.
pub struct NatsSender {
    requester: Requester,
    url: String,
    /// Messages that were sent since the server has confirmed the ones before.
    unconfirmed: u32,
}

impl NatsSender {
    /// Connects to the first server that accepts. Soon after `is_stopped` is set, every wait ends with an error.
    ///
    /// # Errors
    /// No server is reached, or none accepts.
    pub fn connect(
        settings: &NatsSettings,
        is_stopped: &Arc<AtomicBool>,
    ) -> Result<Self, NatsError> {
        let open =
            |server: &_| Requester::open_until_stop(server, settings, ANSWER_TIMEOUT, is_stopped);
        Ok(Self {
            requester: NatsServers::default().connect(settings, open)?,
            url: redacted(&settings.urls.expose()),
            unconfirmed: 0,
        })
    }

    /// Publishes a message to the subscribers of the moment.
    ///
    /// # Errors
    /// The connection is lost, or the message is too large or not permitted.
    pub fn publish(&mut self, subject: &str, message: &[u8]) -> Result<(), NatsError> {
        self.check_bytes(message)?;
        self.requester.send(subject, message, CONFIRMED_WITHIN)?;
        self.unconfirmed += 1;
        if self.unconfirmed < UNCONFIRMED_MAX {
            return Ok(());
        }
        self.wait_until_taken(subject).inspect_err(|_| {
            // The caller learns of this message by the error.
            self.unconfirmed -= 1;
        })
    }

    /// Returns an error if the message is larger than the server accepts (`max_payload`).
    fn check_bytes(&self, message: &[u8]) -> Result<(), NatsError> {
        let largest = self.requester.info().max_payload();
        if message.len() <= largest {
            return Ok(());
        }
        Err(NatsError::TooLarge {
            url: self.url.clone(),
            bytes_max: largest,
            what: "the message has",
            bytes: message.len(),
        })
    }

    /// Answers the pings of the server, without a wait; to be called while no message is to be published.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn serve(&mut self) -> Result<(), NatsError> {
        self.requester.serve()
    }

    /// How many messages were published that the server has not confirmed.
    pub fn unconfirmed(&self) -> u32 {
        self.unconfirmed
    }

    /// Waits until the server has taken everything.
    ///
    /// # Errors
    /// The connection is lost, or this user may not publish on the subject.
    pub fn wait_until_taken(&mut self, subject: &str) -> Result<(), NatsError> {
        let confirmed = (self.requester).confirm_published(subject, CONFIRMED_WITHIN)?;
        match confirmed {
            true => {
                self.unconfirmed = 0;
                Ok(())
            }
            // The server does not say which of them it has refused.
            false => Err(NatsError::not_permitted("publish", subject)),
        }
    }

    /// Publishes a message that a stream has to store. Returns the name of the stream and the message's sequence there.
    ///
    /// # Errors
    /// The connection is lost, the message is too large or not permitted, or no stream stores it.
    pub fn store(&mut self, subject: &str, message: &[u8]) -> Result<(String, u64), NatsError> {
        self.check_bytes(message)?;
        let stored = self.requester.request(subject, message);
        let stored = stored.and_then(|answer| {
            let answer = Json::read(&answer)?;
            match (answer.text(&["stream"]), answer.number(&["seq"])) {
                (Some(stream), Some(sequence)) => Ok((stream, sequence)),
                _ => Err(ApiError::Unreadable("no acknowledgement".to_owned())),
            }
        });
        stored.map_err(|error| match error {
            ApiError::NotPermitted(_) => NatsError::not_permitted("publish", subject),
            ApiError::Lost => NatsError::Lost,
            ApiError::NoJetStream => no_stream(subject, "no stream has this subject"),
            // A stream with `no_ack` stores the message without a word. With other subscribers to the subject, the
            // server does not report a missing stream.
            ApiError::NoAnswer(_) => NatsError::NotConfirmed(subject.to_owned()),
            error => NatsError::NotStored {
                subject: subject.to_owned(),
                reason: error.to_string(),
            },
        })
    }
}

fn no_stream(subject: &str, reason: &'static str) -> NatsError {
    let subject = subject.to_owned();
    NatsError::NoStream { subject, reason }
}
