//! The broker that gets the messages: NATS with or without JetStream, a Redis channel or a Redis stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{BrokerUrl, PublishCommand, PublishError, Stop};
use weirgate_bus::nats::{NatsSender, NatsSettings, Tls};
use weirgate_bus::redis::{RedisSender, RedisSenders, RedisSettings};
use weirgate_runtime::Lookup;

/// How long the lookup of the broker's name may take: as long as the broker's answer to a message.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker, with what each new connection to it needs.
pub(super) enum Brokers {
    Nats {
        settings: Box<NatsSettings>,
        /// Whether a stream has to store each message.
        jetstream: bool,
        is_stopped: Arc<AtomicBool>,
    },
    Redis {
        senders: Box<RedisSenders>,
        /// The stream that gets the messages; `None` to publish on the channel.
        stream: Option<String>,
    },
}

impl Brokers {
    /// The broker of a command, which `stop` ends.
    pub(super) fn of(command: &PublishCommand, stop: &Stop) -> Result<Self, PublishError> {
        Ok(match &command.url {
            BrokerUrl::Nats(url, credentials) => {
                let tls = Tls {
                    ca: command.ca_file.clone(),
                    client: command.certificate.clone(),
                };
                let mut settings = NatsSettings::plain(url, credentials.clone(), tls);
                settings.lookup = Lookup::until_stop(LOOKUP_TIMEOUT, stop.flag());
                Self::Nats {
                    settings: Box::new(settings),
                    jetstream: command.jetstream,
                    is_stopped: stop.flag(),
                }
            }
            BrokerUrl::Redis(endpoint) => {
                let mut settings = RedisSettings::new(endpoint.clone());
                settings.lookup = Lookup::until_stop(LOOKUP_TIMEOUT, stop.flag());
                settings.tls_ca_file.clone_from(&command.ca_file);
                settings.tls_client.clone_from(&command.certificate);
                Self::Redis {
                    senders: Box::new(RedisSenders::new(settings, stop.flag())?),
                    stream: command.stream.clone(),
                }
            }
        })
    }

    /// Connects to the broker.
    pub(super) fn connect(&mut self) -> Result<Broker<'_>, PublishError> {
        Ok(match self {
            Self::Nats {
                settings,
                jetstream,
                is_stopped,
            } => {
                let sender = NatsSender::connect(settings, is_stopped)?;
                Broker::Nats(Box::new(sender), *jetstream)
            }
            Self::Redis { senders, stream } => {
                Broker::Redis(Box::new(senders.connect()?), stream.as_deref())
            }
        })
    }
}

/// A connection to a broker.
pub(super) enum Broker<'w> {
    /// With whether a stream has to store the messages.
    Nats(Box<NatsSender>, bool),
    /// With the stream that gets the messages.
    Redis(Box<RedisSender<'w>>, Option<&'w str>),
}

impl Broker<'_> {
    /// Publishes a message. Returns the response of the broker.
    pub(super) fn publish(&mut self, name: &str, message: &[u8]) -> Result<Receipt, PublishError> {
        Ok(match self {
            Self::Nats(sender, true) => {
                let (stream, sequence) = sender.store(name, message)?;
                Receipt::Stored { stream, sequence }
            }
            Self::Nats(sender, false) => {
                sender.publish(name, message)?;
                Receipt::Nothing
            }
            Self::Redis(sender, None) => Receipt::Receivers(sender.publish(name, message)?),
            Self::Redis(sender, Some(stream)) => Receipt::Added {
                id: sender.add(stream, name, message)?,
                stream: (*stream).to_owned(),
            },
        })
    }

    /// Waits until the broker has received all messages.
    pub(super) fn wait_until_taken(&mut self, name: &str) -> Result<(), PublishError> {
        match self {
            Self::Nats(sender, _) => Ok(sender.wait_until_taken(name)?),
            // Each command has waited for its response.
            Self::Redis(..) => Ok(()),
        }
    }

    /// Keeps the connection alive while no message is to be published: answers the pings of NATS. Redis sends none.
    pub(super) fn serve(&mut self) -> Result<(), PublishError> {
        match self {
            Self::Nats(sender, _) => Ok(sender.serve()?),
            Self::Redis(..) => Ok(()),
        }
    }

    /// How many messages were published that the broker has not confirmed.
    pub(super) fn unconfirmed(&self) -> u64 {
        match self {
            Self::Nats(sender, _) => sender.unconfirmed().into(),
            Self::Redis(..) => 0,
        }
    }
}

/// The broker's response to the last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    /// NATS without JetStream has no response.
    Nothing,
    /// A stream has stored the message, under this number.
    Stored { stream: String, sequence: u64 },
    /// A Redis stream has stored the message, under this id.
    Added { stream: String, id: String },
    /// The number of Redis connections that got the message.
    Receivers(i64),
}
