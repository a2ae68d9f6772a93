//! `weirgate publish`: publishes messages on a NATS subject or a Redis channel.
//!
//! Blocking, in a process of its own; no gateway uses it. Called by `main`.

pub(super) mod line;
mod template;

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use self::template::Template;
use super::program::complain;
use super::tail::Stop;
use crate::base::Clock;
use crate::sources::nats::{Credentials, NatsError, NatsSender, NatsSettings, Tls};
use crate::sources::redis::{Endpoint, RedisError, RedisSender, RedisSettings};

/// The largest line of standard input that is published.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// `weirgate publish`, ready to run.
#[derive(Clone, Debug)]
pub struct PublishCommand {
    /// The broker; may hold a password.
    pub url: BrokerUrl,
    /// The subject or channel.
    pub name: String,
    /// What to publish.
    pub messages: Messages,
    /// The end after so many messages; `None`: at the end of the input, or never.
    pub count: Option<u64>,
    /// Messages per second; `None`: as fast as they are taken.
    pub rate: Option<f64>,
    /// Whether a JetStream stream has to acknowledge each message.
    pub jetstream: bool,
    /// The credentials file of a NATS user.
    pub creds: Option<PathBuf>,
    /// The authorities to trust for TLS; the system's when `None`.
    pub ca_file: Option<PathBuf>,
}

/// The URL of a broker, by its kind.
#[derive(Clone, PartialEq, Eq)]
pub enum BrokerUrl {
    /// `nats://` or `tls://`.
    Nats(String),
    /// `redis://` or `rediss://`.
    Redis(String),
}

/// The kind alone: the URL may hold a password.
impl std::fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nats(_) => "Nats(***)",
            Self::Redis(_) => "Redis(***)",
        })
    }
}

/// Where messages come from.
#[derive(Clone, Debug)]
pub enum Messages {
    /// From a text with places for values.
    Made(Template),
    /// The lines of standard input.
    Lines,
}

/// Why not everything was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// NATS is away, or refuses.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Redis is away, or refuses.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Standard input cannot be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// A line is too long.
    #[error("line {number} of standard input is over {LINE_BYTES_MAX} bytes")]
    LongLine {
        /// The number of the line, from 1.
        number: u64,
    },
    /// The system refuses something of this machine.
    #[error("the system refuses: {0}")]
    System(io::Error),
}

/// A connection to a broker.
trait Broker {
    /// Publishes a message. Returns what the broker said of it.
    fn publish(&mut self, name: &str, message: &[u8]) -> Result<Told, PublishError>;

    /// Waits until the broker has taken everything.
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

impl Broker for RedisSender {
    fn publish(&mut self, name: &str, message: &[u8]) -> Result<Told, PublishError> {
        Ok(Told::Receivers(Self::publish(self, name, message)?))
    }
}

/// What the broker said of the last message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// NATS without JetStream says nothing.
    Nothing,
    /// A stream has stored it, under this number.
    Stored { stream: String, sequence: u64 },
    /// So many connections to Redis got it.
    Receivers(i64),
}

impl PublishCommand {
    /// Publishes everything, or until the user ends it. Returns what to show.
    ///
    /// # Errors
    /// The broker is away or refuses a message, or the input cannot be read.
    pub fn run(mut self) -> Result<String, PublishError> {
        let stop = Stop::at_signals().map_err(PublishError::System)?;
        let mut broker = self.connect()?;
        if self.count.is_none() && matches!(self.messages, Messages::Made(_)) {
            complain(&format!("publishing on {}; Ctrl-C ends it", self.name));
        }
        let mut input = io::stdin().lock();
        let (begun, mut published) = (Instant::now(), 0);
        let mut told = Told::Nothing;
        while self.count.is_none_or(|count| published < count) && !stop.is_asked() {
            if !self.is_time(begun, published, &stop) {
                break;
            }
            let message = match &mut self.messages {
                Messages::Made(template) => template.next(Clock::start().now().unix_ms),
                Messages::Lines => match next_line(&mut input, published + 1)? {
                    Some(line) => line,
                    None => break,
                },
            };
            told = broker.publish(&self.name, &message)?;
            published += 1;
        }
        broker.settle(&self.name)?;
        Ok(summary(&self.name, published, &told))
    }

    /// Waits until the next message is due. Returns `false` if the user asked for the end.
    fn is_time(&self, begun: Instant, published: u64, stop: &Stop) -> bool {
        let Some(rate) = self.rate else { return true };
        let due = begun + Duration::from_secs_f64(published as f64 / rate);
        stop.sleep_until(due)
    }

    fn connect(&self) -> Result<Box<dyn Broker>, PublishError> {
        match &self.url {
            BrokerUrl::Nats(url) => self.nats(url),
            BrokerUrl::Redis(url) => self.redis(url),
        }
    }

    fn nats(&self, url: &str) -> Result<Box<dyn Broker>, PublishError> {
        let creds = self.creds.clone();
        let credentials = creds.map_or(Credentials::None, Credentials::CredsFile);
        let tls = Tls {
            ca: self.ca_file.clone(),
            ..Tls::default()
        };
        let settings = NatsSettings::plain(url, credentials, tls);
        Ok(Box::new(NatsSender::connect(&settings, self.jetstream)?))
    }

    fn redis(&self, url: &str) -> Result<Box<dyn Broker>, PublishError> {
        let mut settings = RedisSettings::new(Endpoint::parse(url)?);
        settings.tls_ca_file.clone_from(&self.ca_file);
        Ok(Box::new(RedisSender::new(&settings)?))
    }
}

/// What is shown at the end.
fn summary(name: &str, published: u64, told: &Told) -> String {
    let messages = match published {
        1 => "1 message".to_owned(),
        n => format!("{n} messages"),
    };
    match told {
        Told::Nothing => format!("published {messages} on {name}"),
        Told::Stored { stream, sequence } => {
            format!(
                "published {messages} on {name}: stored in stream {stream}, up to sequence {sequence}"
            )
        }
        Told::Receivers(0) => format!(
            "published {messages} on {name}: no receiver; nobody is subscribed to this channel"
        ),
        Told::Receivers(1) => format!("published {messages} on {name}: 1 receiver"),
        Told::Receivers(n) => format!("published {messages} on {name}: {n} receivers"),
    }
}

/// The next line without its line break; `None` at the end of the input.
fn next_line(input: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, PublishError> {
    let mut line = Vec::new();
    let mut limited = io::Read::take(input, LINE_BYTES_MAX as u64 + 2);
    let bytes = limited.read_until(b'\n', &mut line);
    if bytes.map_err(PublishError::Input)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match line.len() > LINE_BYTES_MAX {
        true => Err(PublishError::LongLine { number }),
        false => Ok(Some(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_line_break_alone() {
        let mut input = " a \r\n\nlast".as_bytes();
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input, 1).expect("a line") {
            lines.push(String::from_utf8(line).expect("UTF-8"));
        }
        assert_eq!(lines, [" a ", "", "last"]);
    }

    #[test]
    fn a_line_has_a_limit() {
        let whole = vec![b'x'; LINE_BYTES_MAX];
        let line = next_line(&mut whole.as_slice(), 1).expect("a line");
        assert_eq!(line.map(|line| line.len()), Some(LINE_BYTES_MAX));
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let error = next_line(&mut long.as_slice(), 7).expect_err("too long");
        assert!(error.to_string().starts_with("line 7 "), "{error}");
    }

    #[test]
    fn the_summary_says_what_the_broker_said() {
        let stored = Told::Stored {
            stream: "NEWS".into(),
            sequence: 9,
        };
        for (published, told, want) in [
            (1, Told::Nothing, "published 1 message on n"),
            (
                2,
                stored,
                "published 2 messages on n: stored in stream NEWS, up to sequence 9",
            ),
            (
                1,
                Told::Receivers(0),
                "published 1 message on n: no receiver; nobody is subscribed to this channel",
            ),
            (
                0,
                Told::Receivers(1),
                "published 0 messages on n: 1 receiver",
            ),
            (
                3,
                Told::Receivers(2),
                "published 3 messages on n: 2 receivers",
            ),
        ] {
            assert_eq!(summary("n", published, &told), want);
        }
    }
}
