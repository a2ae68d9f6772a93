//! `weirgate publish`: publishes messages on a NATS subject or a Redis channel.
//!
//! Blocking, in a process of its own; no gateway uses it. Called by `commands`.

mod brokers;
pub(super) mod line;

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::brokers::{Broker, Brokers, Told};
use super::program::complain;
use super::tail::{RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN, Stop};
use crate::base::{Clock, SplitMix64};
use crate::sources::nats::{Credentials, NatsError, NatsSettings, Tls};
use crate::sources::redis::{RedisEndpoint, RedisError, RedisSenders, RedisSettings};

/// The longest line of standard input that is published.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// `weirgate publish`, ready to run.
#[derive(Clone, Debug)]
pub struct PublishCommand {
    /// The broker; the URL may contain a password.
    pub url: BrokerUrl,
    /// The subject or channel.
    pub name: String,
    /// The messages.
    pub messages: Messages,
    /// The number of messages until the end; `None` for the end of the input, or no end.
    pub count: Option<u64>,
    /// Messages per second; `None` for the speed of the broker.
    pub rate: Option<f64>,
    /// Whether a JetStream stream must acknowledge each message.
    pub jetstream: bool,
    /// The Redis stream that gets the messages; `None` to publish on the channel.
    pub stream: Option<String>,
    /// Whether to connect again after the broker was away.
    pub retry: bool,
    /// The credentials file of a NATS user.
    pub creds: Option<PathBuf>,
    /// The authorities for TLS; `None` for the system's authorities.
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

/// Only the kind is shown: the URL may contain a password.
impl std::fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nats(_) => "Nats(***)",
            Self::Redis(_) => "Redis(***)",
        })
    }
}

/// The source of messages.
#[derive(Clone, Debug)]
pub enum Messages {
    /// A text with placeholders.
    Made(Template),
    /// The lines of standard input.
    Lines,
}

/// The reason why not every message was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// NATS is not available, or refuses.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Redis is not available, or refuses.
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
    /// The system refuses a resource.
    #[error("the system refuses: {0}")]
    System(io::Error),
}

impl PublishError {
    /// Whether another attempt may succeed after `published` messages. A stream that has taken a message is
    /// missing while its server starts.
    fn may_pass(&self, published: u64) -> bool {
        match self {
            Self::Nats(NatsError::NoStream { .. }) => published > 0,
            Self::Nats(error) => error.may_pass(),
            Self::Redis(error) => error.may_pass(),
            _ => false,
        }
    }
}

/// The progress over all connections.
struct Progress {
    published: u64,
    told: Told,
    /// The message that the broker did not take.
    held: Option<Vec<u8>>,
    /// Whether a message was taken on this connection.
    is_well: bool,
}

/// The pace of a connection: the time of its first message, and the messages before.
struct Pace {
    rate: Option<f64>,
    begun: Instant,
    before: u64,
}

impl Pace {
    /// Waits until the next message is due. Returns false if the user stops.
    fn is_time(&self, published: u64, stop: &Stop) -> bool {
        let Some(rate) = self.rate else { return true };
        let here = published - self.before;
        let due = self.begun + Duration::from_secs_f64(here as f64 / rate);
        stop.sleep_until(due)
    }
}

impl PublishCommand {
    /// Publishes all messages, or until the user stops. Returns the text to show.
    ///
    /// # Errors
    /// The broker is not available or refuses a message, or the input cannot be read.
    pub fn run(mut self) -> Result<String, PublishError> {
        let stop = Stop::at_signals().map_err(PublishError::System)?;
        let mut brokers = self.brokers()?;
        let mut input = io::stdin().lock();
        let mut progress = Progress {
            published: 0,
            told: Told::Nothing,
            held: None,
            is_well: false,
        };
        let mut delay = RECONNECT_DELAY_MIN;
        loop {
            progress.is_well = false;
            let sent = match brokers.connect() {
                // Once a message was published, the login and the names are right.
                Err(error) => Err((progress.published > 0 || error.may_pass(0), error)),
                Ok(mut broker) => self
                    .send(&mut *broker, &mut input, &mut progress, &stop)
                    .map_err(|error| (error.may_pass(progress.published), error)),
            };
            let error = match sent {
                Ok(()) => break,
                Err((true, error)) if self.retry => error,
                Err((_, error)) => return Err(error),
            };
            if progress.is_well {
                delay = RECONNECT_DELAY_MIN;
            }
            complain(&format!("{error}; again in {:.1} s", delay.as_secs_f64()));
            if !stop.sleep_until(Instant::now() + delay) {
                break;
            }
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
        Ok(summary(&self.name, progress.published, &progress.told))
    }

    /// Publishes the remaining messages on a connection.
    fn send(
        &mut self,
        broker: &mut dyn Broker,
        input: &mut impl BufRead,
        progress: &mut Progress,
        stop: &Stop,
    ) -> Result<(), PublishError> {
        let pace = Pace {
            rate: self.rate,
            begun: Instant::now(),
            before: progress.published,
        };
        let is_endless = self.count.is_none() && matches!(self.messages, Messages::Made(_));
        if is_endless && pace.before == 0 {
            complain(&format!("publishing on {}; Ctrl-C ends it", self.name));
        }
        let wants_more = |published| self.count.is_none_or(|count| published < count);
        while wants_more(progress.published) && !stop.is_asked() {
            if !pace.is_time(progress.published, stop) {
                break;
            }
            let message = match (progress.held.take(), &mut self.messages) {
                (Some(held), _) => held,
                (None, Messages::Made(template)) => template.next(Clock::start().now().unix_ms),
                (None, Messages::Lines) => match next_line(input, progress.published + 1)? {
                    Some(line) => line,
                    None => break,
                },
            };
            match broker.publish(&self.name, &message) {
                Ok(told) => progress.told = told,
                Err(error) => {
                    progress.held = Some(message);
                    return Err(error);
                }
            }
            progress.published += 1;
            if !progress.is_well && pace.before > 0 {
                complain(&format!("publishing on {} again", self.name));
            }
            progress.is_well = true;
        }
        broker.settle(&self.name)
    }

    fn brokers(&self) -> Result<Brokers, PublishError> {
        Ok(match &self.url {
            BrokerUrl::Nats(url) => Brokers::Nats {
                settings: self.nats(url),
                jetstream: self.jetstream,
            },
            BrokerUrl::Redis(url) => {
                let mut settings = RedisSettings::new(RedisEndpoint::parse(url)?);
                settings.tls_ca_file.clone_from(&self.ca_file);
                Brokers::Redis {
                    senders: RedisSenders::new(settings)?,
                    stream: self.stream.clone(),
                }
            }
        })
    }

    fn nats(&self, url: &str) -> NatsSettings {
        let creds = self.creds.clone();
        let credentials = creds.map_or(Credentials::None, Credentials::CredsFile);
        let tls = Tls {
            ca: self.ca_file.clone(),
            ..Tls::default()
        };
        NatsSettings::plain(url, credentials, tls)
    }
}

/// The text at the end.
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
        Told::Added { stream, id } => {
            format!("published {messages} on {name}: stored in stream {stream}, up to {id}")
        }
        Told::Receivers(0) => format!(
            "published {messages} on {name}: no receiver; nobody is subscribed to this channel"
        ),
        Told::Receivers(1) => format!("published {messages} on {name}: 1 receiver"),
        Told::Receivers(n) => format!("published {messages} on {name}: {n} receivers"),
    }
}

/// Returns the next line without its line break, or `None` at the end of the input.
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

/// The beginning of the random walk, in hundredths.
const WALK_BEGIN: i64 = 10_000;
/// The largest step of the walk, in hundredths.
const WALK_STEP_MAX: i64 = 25;

/// A text with placeholders: `{number}` is the number of the message from 1, `{time}` the Unix time in
/// milliseconds, `{walk}` a number that changes a little with each message, from 100.00 on. Other braces are
/// literal.
///
/// ```
/// use weirgate::commands::publish::Template;
///
/// let mut template = Template::new(r#"{"n":{number},"time":{time}}"#, 7);
/// assert_eq!(template.next(1_700_000_000_000), br#"{"n":1,"time":1700000000000}"#);
/// assert_eq!(template.next(1_700_000_000_001), br#"{"n":2,"time":1700000000001}"#);
/// ```
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    n: u64,
    walk: i64,
    random: SplitMix64,
}

impl Template {
    /// A template of this text; the same seed gives the same walk.
    pub fn new(text: &str, seed: u64) -> Self {
        Self {
            text: text.to_owned(),
            n: 0,
            walk: WALK_BEGIN,
            random: SplitMix64::new(seed),
        }
    }

    /// Returns the next message.
    pub fn next(&mut self, unix_ms: i64) -> Vec<u8> {
        self.n += 1;
        let steps = 2 * WALK_STEP_MAX as u64 + 1;
        let step = (self.random.next_u64() % steps) as i64 - WALK_STEP_MAX;
        // Never below 0.01, and so never negative.
        self.walk = (self.walk + step).max(1);
        let walk = format!("{}.{:02}", self.walk / 100, self.walk % 100);
        let text = self.text.replace("{number}", &self.n.to_string());
        let text = text.replace("{time}", &unix_ms.to_string());
        text.replace("{walk}", &walk).into_bytes()
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

    #[test]
    fn other_braces_mean_themselves() {
        let text = r#"{"a":{},"b":"{Number} {number","c":{number}}"#;
        let made = Template::new(text, 1).next(0);
        assert_eq!(made, br#"{"a":{},"b":"{Number} {number","c":1}"#);
    }

    #[test]
    fn the_walk_moves_in_small_steps_and_is_the_same_for_a_seed() {
        let walk = |seed| {
            let mut template = Template::new("{walk}", seed);
            let next = |_| String::from_utf8(template.next(0)).expect("UTF-8");
            (0..1_000).map(next).collect::<Vec<_>>()
        };
        let values = walk(1);
        assert_eq!(values, walk(1));
        assert_ne!(values, walk(2));
        let mut before = 100.0;
        for text in &values {
            let value: f64 = text.parse().expect("a number");
            let step: f64 = value - before;
            assert!(step.abs() < 0.2501 && value > 0.0, "{before} to {text}");
            before = value;
        }
        assert!(values.iter().any(|value| value != "100.00"));
    }

    #[test]
    fn a_walk_that_falls_stays_above_zero() {
        let mut template = Template::new("{walk}", 3);
        template.walk = 1;
        for _ in 0..1_000 {
            let made = String::from_utf8(template.next(0)).expect("UTF-8");
            assert!(made.parse::<f64>().expect("a number") > 0.0, "{made}");
            template.walk = template.walk.min(20);
        }
    }
}
