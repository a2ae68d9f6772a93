//! The brokers of `weirgate publish`: connections, and the brokers' responses.

use super::PublishError;
use crate::sources::nats::{NatsSender, NatsSettings};
use crate::sources::redis::{RedisSender, RedisSenders};

/// A connection to a broker.
pub(super) trait Broker {
    /// Publishes a message. Returns the response of the broker.
    fn publish(&mut self, name: &str, message: &[u8]) -> Result<Told, PublishError>;

    /// Waits until the broker has received all messages.
    fn settle(&mut self, _name: &str) -> Result<(), PublishError> {
        Ok(())
    }
}

impl Broker for NatsSender {
    fn publish(&mut self, name: &str, message: &[u8]) -> Result<Told, PublishError> {
        Ok(match Self::publish(self, name, message)? {
            Some((stream, sequence)) => Told::Stored { stream, sequence },
            None => Told::Nothing,
        })
    }

    fn settle(&mut self, name: &str) -> Result<(), PublishError> {
        Ok(Self::settle(self, name)?)
    }
}

/// A connection to Redis, and the stream that gets the messages.
struct RedisBroker<'w> {
    sender: RedisSender<'w>,
    stream: Option<String>,
}

impl Broker for RedisBroker<'_> {
    fn publish(&mut self, name: &str, message: &[u8]) -> Result<Told, PublishError> {
        let Some(stream) = &self.stream else {
            return Ok(Told::Receivers(self.sender.publish(name, message)?));
        };
        let id = self.sender.add(stream, name, message)?;
        let stream = stream.clone();
        Ok(Told::Added { stream, id })
    }
}

/// The broker's response to the last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// NATS without JetStream has no response.
    Nothing,
    /// A stream has stored the message, under this number.
    Stored { stream: String, sequence: u64 },
    /// A Redis stream has stored the message, under this id.
    Added { stream: String, id: String },
    /// The number of Redis connections that got the message.
    Receivers(i64),
}

/// The way to a broker: one connection after the other.
pub(super) enum Brokers {
    Nats {
        settings: NatsSettings,
        jetstream: bool,
    },
    Redis {
        senders: RedisSenders,
        stream: Option<String>,
    },
}

impl Brokers {
    pub(super) fn connect(&mut self) -> Result<Box<dyn Broker + '_>, PublishError> {
        Ok(match self {
            Self::Nats {
                settings,
                jetstream,
            } => Box::new(NatsSender::connect(settings, *jetstream)?),
            Self::Redis { senders, stream } => Box::new(RedisBroker {
                sender: senders.connect()?,
                stream: stream.clone(),
            }),
        })
    }
}
