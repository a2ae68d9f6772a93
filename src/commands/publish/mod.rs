//! `weirgate publish`: publishes messages on a NATS subject or a Redis channel.
//!
//! Blocking, in a process of its own; no gateway uses this module. Called by `commands`.

mod broker;
mod input;
pub(super) mod line;
mod template;

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::broker::{Broker, Brokers, Receipt};
use self::input::StandardInput;
use self::template::Template;
use super::program::complain;
use super::standard::write_until;
use super::tail::{RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN, Stop};
use weirgate_bus::nats::{Credentials, NatsError};
use weirgate_bus::redis::{RedisEndpoint, RedisError};
use weirgate_runtime::Clock;

/// The longest line of standard input that is published.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often the connection is served while nothing is published. nats-server ends a connection that answers no ping for some
/// minutes.
const SERVED_EVERY: Duration = Duration::from_secs(1);

/// How much of standard input is read at once.
const INPUT_BYTES: usize = 64 * 1024;

/// `weirgate publish`, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct PublishCommand {
    /// The broker; the URL may contain a password.
    pub url: BrokerUrl,
    /// The subject or channel.
    pub name: String,
    /// The messages.
    pub messages: Messages,
    /// The number of messages after which the command ends; `None`: at the end of the input, or never.
    pub count: Option<u64>,
    /// Messages per second; `None`: as fast as the broker takes them.
    pub rate: Option<f64>,
    /// Whether a JetStream stream must acknowledge each message.
    pub jetstream: bool,
    /// The Redis stream that gets the messages; `None` to publish on the channel.
    pub stream: Option<String>,
    /// Whether to connect again after the broker was away.
    pub retry: bool,
    /// The authorities for TLS; `None` for the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The PEM files of the client certificate and its key, for a broker that asks for a certificate.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A broker, by its kind.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum BrokerUrl {
    /// `nats://` or `tls://`, and the login where the URL has none.
    Nats(String, Credentials),
    /// `redis://`, `rediss://` or `unix://`.
    Redis(RedisEndpoint),
}

/// Shows only the kind, because the URL may contain a password.
impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats(..) => "Nats(***)",
            Self::Redis(_) => "Redis(***)",
        })
    }
}

/// The source of messages.
#[derive(Clone, Debug)]
pub(crate) enum Messages {
    /// A text with placeholders.
    Made(Template),
    /// The bytes of a file.
    File(Vec<u8>),
    /// The lines of standard input.
    Lines,
}

/// The reason why not every message was published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// NATS is not available, or refuses.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Redis is not available, or refuses.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Standard input cannot be read, or the system refuses a resource.
    #[error("{0}")]
    Other(String),
}

impl PublishError {
    /// Whether another attempt may succeed after `published` messages. Once a stream has taken a message, it exists; it
    /// is only missing while its server starts.
    fn may_pass(&self, published: u64) -> bool {
        match self {
            Self::Nats(NatsError::NoStream { .. } | NatsError::NotConfirmed(_)) => published > 0,
            Self::Nats(error) => error.may_pass(),
            Self::Redis(error) => error.may_pass(),
            _ => false,
        }
    }

    /// Whether the broker does not know of the error: it was found before the message was sent.
    fn is_our_own(&self) -> bool {
        matches!(
            self,
            Self::Nats(NatsError::TooLarge { .. }) | Self::Other(_)
        )
    }

    /// Whether the broker may have taken the message that it has not confirmed. A message that was refused was not taken.
    fn leaves_open(&self, published: u64) -> bool {
        matches!(self, Self::Nats(NatsError::NotConfirmed(_))) || self.may_pass(published)
    }
}

/// The end of `weirgate publish` before everything was published.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Unfinished {
    error: PublishError,
    /// What was published before; `None` if nothing was.
    summary: Option<String>,
}

/// The error, and on a line of its own what was published before, so that a user knows where to go on.
impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, summary } = self;
        match summary {
            None => write!(f, "{error}"),
            Some(summary) => write!(f, "{error}\n{summary}"),
        }
    }
}

/// The progress over all connections.
struct Progress {
    published: u64,
    /// How many of these no broker has confirmed.
    unconfirmed: u64,
    receipt: Receipt,
    /// The message that the broker did not take.
    held: Option<Vec<u8>>,
    /// Whether a message was taken on this connection.
    is_well: bool,
}

impl PublishCommand {
    /// Publishes until there are no more messages, or until the user stops. Returns the text to show.
    ///
    /// # Errors
    /// The broker is not available or refuses a message, or the input cannot be read.
    pub(crate) fn run(mut self) -> Result<String, Unfinished> {
        let mut progress = Progress {
            published: 0,
            unconfirmed: 0,
            receipt: Receipt::Nothing,
            held: None,
            is_well: false,
        };
        match self.publish(&mut progress) {
            Ok(()) => Ok(progress.summary(&self.name)),
            Err(error) => Err(progress.unfinished(error, &self.name)),
        }
    }

    /// Publishes, with as many connections as it takes.
    fn publish(&mut self, progress: &mut Progress) -> Result<(), PublishError> {
        let stop = Stop::at_signals();
        let stop =
            stop.map_err(|error| PublishError::Other(format!("the system refuses: {error}")))?;
        write_until(&stop, None);
        let mut brokers = Brokers::of(self, &stop)?;
        let mut input = BufReader::with_capacity(INPUT_BYTES, StandardInput::until(&stop));
        let mut delay = RECONNECT_DELAY_MIN;
        loop {
            progress.is_well = false;
            let error = match brokers.connect() {
                Ok(mut broker) => {
                    let sent = self.send(&mut broker, &mut input, progress, &stop);
                    if matches!(&sent, Err(error) if error.is_our_own()) && !stop.is_asked() {
                        // The messages before may still be confirmed. What is told is the error before.
                        let _ = broker.wait_until_taken(&self.name);
                    }
                    progress.unconfirmed += broker.unconfirmed();
                    match sent {
                        Ok(()) => return Ok(()),
                        // The user ends a wait for a broker that does not answer.
                        Err(_) if stop.is_asked() => return Ok(()),
                        Err(error) if error.may_pass(progress.published) => error,
                        Err(error) => return Err(error),
                    }
                }
                Err(_) if stop.is_asked() => return Ok(()),
                // If a message was published before, the login and the names are right.
                Err(error) if progress.published > 0 || error.may_pass(0) => error,
                Err(error) => return Err(error),
            };
            if !self.retry {
                return Err(error);
            }
            if progress.is_well {
                delay = RECONNECT_DELAY_MIN;
            }
            complain(&format!("{error}; again in {:.1} s", delay.as_secs_f64()));
            if !stop.sleep_until(Instant::now() + delay) {
                return Ok(());
            }
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
    }

    /// Publishes the remaining messages on a connection.
    fn send(
        &mut self,
        broker: &mut Broker<'_>,
        input: &mut BufReader<StandardInput<'_>>,
        progress: &mut Progress,
        stop: &Stop,
    ) -> Result<(), PublishError> {
        let (begun, before) = (Instant::now(), progress.published);
        let is_endless = self.count.is_none() && !matches!(self.messages, Messages::Lines);
        if is_endless && before == 0 {
            complain(&format!("publishing on {}; Ctrl-C ends it", self.name));
        }
        let count = self.count;
        let wants_more = |published| count.is_none_or(|count| published < count);
        while wants_more(progress.published) && !stop.is_asked() {
            // A wrong name shows with the first message, not only when somebody ends an endless publication.
            if progress.published == 1 && progress.receipt == Receipt::Receivers(0) {
                complain(&format!(
                    "no receiver so far: nobody is subscribed to {}",
                    self.name
                ));
            }
            if let Some(rate) = self.rate {
                let due_s = (progress.published - before) as f64 / rate;
                if !sleep_until(begun + Duration::from_secs_f64(due_s), broker, stop)? {
                    break;
                }
            }
            if matches!(self.messages, Messages::Lines) {
                wait_for_input(input, broker)?;
            }
            let Some(message) = self.next_message(input, progress, stop)? else {
                break;
            };
            match broker.publish(&self.name, &message) {
                Ok(receipt) => progress.receipt = receipt,
                Err(error) => {
                    progress.held = Some(message);
                    return Err(error);
                }
            }
            progress.published += 1;
            if !progress.is_well && before > 0 {
                complain(&format!("publishing on {} again", self.name));
            }
            progress.is_well = true;
        }
        broker.wait_until_taken(&self.name)
    }

    /// The next message: the one that a lost connection did not take, if there is one. Returns `None` after the last.
    fn next_message(
        &mut self,
        input: &mut impl BufRead,
        progress: &mut Progress,
        stop: &Stop,
    ) -> Result<Option<Vec<u8>>, PublishError> {
        if let Some(held) = progress.held.take() {
            return Ok(Some(held));
        }
        Ok(match &mut self.messages {
            Messages::Made(template) => Some(template.next(Clock::start().now().unix_ms())),
            Messages::File(bytes) => Some(bytes.clone()),
            Messages::Lines => {
                let line = next_line(input, progress.published + 1)?;
                // A stop ends the input, perhaps in the middle of a line.
                line.filter(|_| !stop.is_asked())
            }
        })
    }
}

impl Progress {
    /// The end by an error.
    fn unfinished(mut self, error: PublishError, name: &str) -> Unfinished {
        let is_open = error.leaves_open(self.published);
        self.held.take_if(|_| !is_open);
        let is_open = is_open && (self.unconfirmed > 0 || self.held.is_some());
        let is_something = is_open || self.published > self.unconfirmed;
        Unfinished {
            error,
            summary: is_something.then(|| self.summary(name)),
        }
    }

    /// The text at the end. A message counts as published if the broker has confirmed it.
    fn summary(&self, name: &str) -> String {
        let messages = match self.published - self.unconfirmed {
            1 => "1 message".to_owned(),
            n => format!("{n} messages"),
        };
        let receipt = match &self.receipt {
            Receipt::Nothing => String::new(),
            Receipt::Stored { stream, sequence } => {
                format!(": stored in stream {stream}, up to sequence {sequence}")
            }
            Receipt::Added { stream, id } => format!(": stored in stream {stream}, up to {id}"),
            Receipt::Receivers(0) => {
                ": no receiver; nobody is subscribed to this channel".to_owned()
            }
            Receipt::Receivers(1) => ": 1 receiver".to_owned(),
            Receipt::Receivers(n) => format!(": {n} receivers"),
        };
        let more = match self.unconfirmed + u64::from(self.held.is_some()) {
            0 => String::new(),
            n => format!("; not confirmed, and perhaps published: {n} more"),
        };
        format!("published {messages} on {name}{receipt}{more}")
    }
}

/// Sleeps until `until`, and serves the connection meanwhile. Returns false if the user stops.
fn sleep_until(until: Instant, broker: &mut Broker<'_>, stop: &Stop) -> Result<bool, PublishError> {
    loop {
        let next = until.min(Instant::now() + SERVED_EVERY);
        if !stop.sleep_until(next) {
            return Ok(false);
        }
        if next == until {
            return Ok(true);
        }
        broker.serve()?;
    }
}

/// Waits for something to read or the end of the input, and serves the connection meanwhile.
fn wait_for_input(
    input: &BufReader<StandardInput<'_>>,
    broker: &mut Broker<'_>,
) -> Result<(), PublishError> {
    let is_ready = || input.get_ref().is_ready(Instant::now() + SERVED_EVERY);
    while input.buffer().is_empty() && !is_ready().map_err(cannot_read)? {
        broker.serve()?;
    }
    Ok(())
}

fn cannot_read(error: io::Error) -> PublishError {
    PublishError::Other(format!("cannot read standard input: {error}"))
}

/// Reads the next line, without its line break. Returns `None` at the end of the input.
fn next_line(input: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, PublishError> {
    let mut line = Vec::new();
    // Two more bytes for the line break.
    let mut limited = io::Read::take(input, LINE_BYTES_MAX as u64 + 2);
    let bytes = limited.read_until(b'\n', &mut line);
    if bytes.map_err(cannot_read)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match line.len() > LINE_BYTES_MAX {
        true => Err(PublishError::Other(format!(
            "line {number} of standard input is over {LINE_BYTES_MAX} bytes"
        ))),
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
        let stored = Receipt::Stored {
            stream: "NEWS".into(),
            sequence: 9,
        };
        for (published, receipt, want) in [
            (1, Receipt::Nothing, "published 1 message on n"),
            (
                2,
                stored,
                "published 2 messages on n: stored in stream NEWS, up to sequence 9",
            ),
            (
                1,
                Receipt::Receivers(0),
                "published 1 message on n: no receiver; nobody is subscribed to this channel",
            ),
            (
                0,
                Receipt::Receivers(1),
                "published 0 messages on n: 1 receiver",
            ),
            (
                3,
                Receipt::Receivers(2),
                "published 3 messages on n: 2 receivers",
            ),
        ] {
            assert_eq!(progress(published, 0, receipt).summary("n"), want);
        }
    }

    fn progress(published: u64, unconfirmed: u64, receipt: Receipt) -> Progress {
        Progress {
            published,
            unconfirmed,
            receipt,
            held: None,
            is_well: true,
        }
    }

    /// A user who pipes a file has to know where to go on.
    #[test]
    fn an_error_says_what_was_published_before() {
        let ended = |published, error| {
            let held = Some(Vec::new());
            let progress = Progress {
                held,
                ..progress(published, 0, Receipt::Nothing)
            };
            progress.unfinished(error, "n").to_string()
        };
        let refused = || PublishError::Other("line 4 is too long".to_owned());
        let told = "line 4 is too long\npublished 3 messages on n";
        assert_eq!(ended(3, refused()), told);
        assert_eq!(ended(0, refused()), "line 4 is too long");
        let lost = ended(3, NatsError::Lost.into());
        assert!(
            lost.ends_with(
                "\npublished 3 messages on n; not confirmed, and perhaps published: 1 more"
            ),
            "{lost}"
        );
    }

    #[test]
    fn the_summary_says_what_is_not_confirmed() {
        let held = Some(Vec::new());
        let redis = progress(1, 0, Receipt::Receivers(1));
        for (progress, want) in [
            (
                progress(9, 4, Receipt::Nothing),
                "published 5 messages on n; not confirmed, and perhaps published: 4 more",
            ),
            (
                Progress { held, ..redis },
                "published 1 message on n: 1 receiver; not confirmed, and perhaps published: 1 more",
            ),
        ] {
            assert_eq!(progress.summary("n"), want);
        }
    }
}
