//! `weirgate tail`: a WebSocket client in a terminal. Messages go to standard output, one on each line;
//! everything about the connection goes to standard error.
//!
//! Blocking, in a process of its own; no gateway uses this module. The [`Dialect`] has the differences
//! between gateways. Called by `commands`.
//!
//! | file | has |
//! | --- | --- |
//! | `line` | the flags |
//! | `output` | printing messages, and the rate |
//! | `end` | why a connection ended, in words |

mod end;
pub(super) mod line;
mod output;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket, client};

use self::end::RECONNECT;
pub(super) use self::end::TailError;
pub(super) use self::output::Style;
use self::output::{Next, Output, Payload};
pub(super) use super::link::Target;
use super::link::{LinkError, Stream, is_timeout};
use super::program::{complain, hide_secret};
use super::standard::write_until;
use crate::commands::{BusWord, Dialect};
use weirgate_server::run::stop_signals_are_taken;
use weirgate_server::settings::{Rows, SecretText};
use weirgate_wire::base::escaped;

/// How long a read waits for a message before the command checks signals and deadlines again.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How long to wait for a greeting before the warning that nothing was subscribed.
const GREETING_PATIENCE: Duration = Duration::from_secs(3);
/// After this many ticks without a byte from the server, the command sends a ping.
const SILENT_TICKS_TO_PING: u32 = 100;
/// After this many ticks without a byte from the server, the command ends the connection.
const SILENT_TICKS_MAX: u32 = 200;
/// The delay before the first reconnection. Each further delay doubles.
pub(super) const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(250);
/// The longest delay.
pub(super) const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(10);
/// The time limit of connecting and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message that is accepted: enough for the largest bus message and what a gateway adds.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A connection that lasted this long was good: the next reconnection has the first delay again.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// `weirgate tail`, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct TailCommand {
    /// The target of the connection.
    pub target: Target,
    /// The dialect; `None`: the greeting of the server decides.
    pub dialect: Option<Dialect>,
    /// The gateways with known greetings, and their names.
    pub known: Vec<(&'static str, Dialect)>,
    /// The names to subscribe to.
    pub subscribe: Vec<String>,
    /// Texts to send once, after the subscriptions.
    pub send: Vec<String>,
    /// The token of the handshake.
    pub token: Option<SecretText>,
    /// The authorities for `wss://`; `None` for the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The format of printed messages.
    pub style: Style,
    /// Whether to print the rate once a second.
    pub rate: bool,
    /// The number of messages until the end.
    pub count: Option<u64>,
    /// The time until the end.
    pub timeout: Option<Duration>,
    /// Whether to connect again when a connection ends.
    pub reconnect: bool,
}

/// The stop by the user (Ctrl-C, SIGTERM).
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The first signal requests a stop, the second ends the process.
    pub(super) fn at_signals() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in TERM_SIGNALS {
            // Registered first, so that it finds `stop` still unset at the first signal. 1 is the exit status.
            flag::register_conditional_shutdown(*signal, 1, Arc::clone(&stop))?;
            flag::register(*signal, Arc::clone(&stop))?;
        }
        stop_signals_are_taken();
        Ok(Self(stop))
    }

    /// Set once the user stops.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps until `until`. Returns false if the user stops meanwhile.
    pub(super) fn sleep_until(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.is_asked() || left.is_zero() {
                return !self.is_asked();
            }
            thread::sleep(left.min(TICK));
        }
    }
}

impl TailCommand {
    /// Prints messages until the user stops, `--count` or `--timeout-s` is reached, or standard output is closed.
    ///
    /// # Errors
    /// The connection failed or ended.
    pub(crate) fn run(self) -> Result<(), TailError> {
        hide_secret("--token", Rows::TAIL, self.token.as_ref());
        let begun = Instant::now();
        let stop = Stop::at_signals().map_err(|error| TailError::system(&error))?;
        let deadline = self.timeout.map(|timeout| begun + timeout);
        write_until(&stop, deadline);
        let mut output = Output::new(self.style, self.rate, self.count, begun);
        let mut delay = RECONNECT_DELAY_MIN;
        loop {
            let connected = Instant::now();
            let session = Session {
                command: &self,
                output: &mut output,
                stop: &stop,
                deadline,
                dialect: self.dialect,
                greeting_until: None,
                silent_ticks: 0,
                received: 0,
                closed: None,
                bus_is_away: false,
                asked: VecDeque::new(),
                has_grant: !self.send.is_empty(),
            };
            let ended = session.run();
            let error = match ended {
                // The signal of the user may itself have ended a system call with an error.
                Err(_) if stop.is_asked() => return Ok(()),
                Err(error) if self.reconnect && error.may_pass => error,
                ended => return ended,
            };
            if connected.elapsed() > STABLE_AFTER {
                delay = RECONNECT_DELAY_MIN;
            }
            // An attempt that the deadline has cut short is no reason for another one.
            if let Some(end) = self.end_of_time(deadline, &output) {
                return end;
            }
            let wait = error.retry_after.map_or(delay, |asked| asked.max(delay));
            complain(&format!("{error}; again in {:.1} s", wait.as_secs_f64()));
            let until = Instant::now() + wait;
            if !stop.sleep_until(deadline.map_or(until, |end| end.min(until))) {
                return Ok(());
            }
            if let Some(end) = self.end_of_time(deadline, &output) {
                return end;
            }
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
    }

    /// The end of the command once `deadline` is over: an error if `--count` messages have not come. `None` before that.
    fn end_of_time(
        &self,
        deadline: Option<Instant>,
        output: &Output,
    ) -> Option<Result<(), TailError>> {
        deadline.filter(|deadline| Instant::now() >= *deadline)?;
        Some(match self.count {
            None => Ok(()),
            Some(want) => Err(TailError::lasting(format!(
                "{} of {want} messages within --timeout-s",
                output.messages()
            ))),
        })
    }
}

/// A connection, from the handshake to the end.
struct Session<'a> {
    command: &'a TailCommand,
    output: &'a mut Output,
    stop: &'a Stop,
    deadline: Option<Instant>,
    dialect: Option<Dialect>,
    /// When to warn that no greeting has come; `None` after a greeting, or if none is needed.
    greeting_until: Option<Instant>,
    /// Ticks without a byte from the server. Time in which standard output blocks does not count.
    silent_ticks: u32,
    /// Bytes from the server, as of the last tick.
    received: u64,
    /// The server's close frame; `None` before it has come, or if it has no code.
    closed: Option<CloseFrame>,
    /// Whether the last status said that the bus is away.
    bus_is_away: bool,
    /// The names of the subscribe requests that are neither granted nor refused yet, in order.
    asked: VecDeque<Vec<String>>,
    /// Whether anything was granted, or may be by the user's own texts (`--send`), whose responses are not interpreted.
    has_grant: bool,
}

impl Session<'_> {
    /// Connects, subscribes and prints, until the user stops or the output is complete. Any other end of the connection
    /// is an error.
    fn run(mut self) -> Result<(), TailError> {
        let Some(mut link) = self.open_unless_stopped()? else {
            return Ok(());
        };
        complain(&format!("connected to {}", self.command.target));
        if self.dialect.is_some() || self.command.subscribe.is_empty() {
            self.speak(&mut link)?;
        } else {
            self.greeting_until = Some(Instant::now() + GREETING_PATIENCE);
        }
        loop {
            if self.stop.is_asked() {
                let frame = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                // The command ends whether or not the server gets the frame.
                let _ = link.close(Some(frame)).and_then(|()| link.flush());
                return Ok(());
            }
            if self.check_time()? || self.take(&mut link)? == Next::End {
                return Ok(());
            }
        }
    }

    /// Connects on a thread of its own: the lookup of a name, the connection and its handshakes may each block for seconds.
    /// Returns `None` if the user stops meanwhile.
    fn open_unless_stopped(&self) -> Result<Option<Link>, TailError> {
        let (tell, opened) = mpsc::channel();
        let (command, deadline) = (self.command.clone(), self.deadline);
        let connecting = thread::Builder::new().spawn(move || {
            // Nobody waits any longer after a stop.
            let _ = tell.send(open(&command, deadline));
        });
        connecting.map_err(|error| TailError::system(&error))?;
        loop {
            let link = opened.recv_timeout(TICK);
            if self.stop.is_asked() {
                return Ok(None);
            }
            match link {
                Ok(link) => return link.map(Some),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TailError::lasting("the thread that connects has failed"));
                }
            }
        }
    }

    /// Checks the deadline, prints the rate if due, and warns if no greeting has come. Returns true at the end.
    fn check_time(&mut self) -> Result<bool, TailError> {
        let now = Instant::now();
        self.output.tick(now);
        if self.greeting_until.is_some_and(|until| now >= until) {
            self.greeting_until = None;
            complain(
                "the server sent no greeting of a gateway with subscriptions, so --subscribe was \
                 not sent",
            );
        }
        let end = self.command.end_of_time(self.deadline, self.output);
        end.map_or(Ok(false), |end| end.map(|()| true))
    }

    /// Sends the subscriptions and the user's texts.
    fn speak(&mut self, link: &mut Link) -> Result<(), TailError> {
        if let Some(dialect) = self.dialect {
            for names in self.command.subscribe.chunks(dialect.names_per_request) {
                self.ask(link, dialect, names)?;
            }
        }
        for text in &self.command.send {
            send(link, text)?;
        }
        Ok(())
    }

    /// Subscribes to these names, with one request.
    fn ask(
        &mut self,
        link: &mut Link,
        dialect: Dialect,
        names: &[String],
    ) -> Result<(), TailError> {
        self.asked.push_back(names.to_vec());
        send(link, &(dialect.subscribe)(names))
    }

    /// Handles the next message, if one comes within a tick.
    fn take(&mut self, link: &mut Link) -> Result<Next, TailError> {
        link.get_mut().begin_turn(TICK);
        match link.read() {
            Ok(Message::Text(text)) => self.handle_message(link, Payload::Text(text.as_bytes())),
            Ok(Message::Binary(bytes)) => self.handle_message(link, Payload::Binary(&bytes)),
            Ok(Message::Close(frame)) => {
                self.closed = frame;
                Ok(Next::GoOn)
            }
            // Pings, which tungstenite answers, and pongs.
            Ok(_) => Ok(Next::GoOn),
            Err(Error::Io(error)) if is_timeout(&error) => self.silence(link),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                Err(TailError::closed(self.closed.take()))
            }
            // TCP ended after the server's close frame. The rest of the closing handshake does not matter.
            Err(_) if self.closed.is_some() => Err(TailError::closed(self.closed.take())),
            Err(error) => Err(TailError::broken(&error)),
        }
    }

    /// Handles a tick without a whole message: without a byte, pings the server, or gives it up.
    fn silence(&mut self, link: &mut Link) -> Result<Next, TailError> {
        let received = link.get_mut().received();
        if std::mem::replace(&mut self.received, received) != received {
            self.silent_ticks = 0;
            return Ok(Next::GoOn);
        }
        self.silent_ticks += 1;
        if self.silent_ticks == SILENT_TICKS_TO_PING {
            link.send(Message::Ping(Vec::new().into()))
                .map_err(|error| TailError::broken(&error))?;
        }
        match self.silent_ticks < SILENT_TICKS_MAX {
            true => Ok(Next::GoOn),
            false => Err(TailError::passing(format!(
                "nothing came for {} s, not even an answer to a ping: the network failed, or the \
                 server hangs; {RECONNECT}",
                (TICK * SILENT_TICKS_MAX).as_secs()
            ))),
        }
    }

    /// Subscribes after a greeting, explains a status of the gateway, and prints any other message.
    fn handle_message(&mut self, link: &mut Link, message: Payload<'_>) -> Result<Next, TailError> {
        let text = std::str::from_utf8(message.bytes()).unwrap_or_default();
        if self.greeting_until.is_some() {
            self.meet(link, text)?;
        } else if self.dialect.is_none() {
            // No subscription waits for this greeting: it only says how to read what follows.
            let known = self.command.known.iter();
            let greeting = known.map(|(_, dialect)| dialect);
            self.dialect = greeting.copied().find(|known| (known.is_greeting)(text));
        }
        let status = self.dialect.and_then(|dialect| (dialect.status)(text));
        if let Some(status) = &status {
            complain(status);
        }
        self.count_grant(link, text)?;
        let bus = self.dialect.and_then(|dialect| (dialect.bus)(text));
        if let Some(word) = bus {
            self.show_bus(word);
        }
        if (status.is_some() || bus.is_some()) && self.command.style != Style::Raw {
            return Ok(Next::GoOn);
        }
        match self.output.print(message) {
            Ok(next) => Ok(next),
            // The reader has closed standard output, as in `weirgate tail … | head -1`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Next::End),
            Err(error) => Err(TailError::lasting(format!(
                "cannot write to standard output: {error}"
            ))),
        }
    }

    /// Says that the bus is away, and that it is back. While the bus is there, a gateway may send the status again and
    /// again.
    fn show_bus(&mut self, word: BusWord) {
        let lost = match word.has_lost {
            true => "; messages were lost",
            false => "",
        };
        match (self.bus_is_away, word.is_up) {
            (false, false) => complain(&format!(
                "the bus of the gateway is away: no messages until it is back{lost}"
            )),
            (true, true) => complain(&format!("the bus of the gateway is back{lost}")),
            _ if word.has_lost => complain("the gateway has lost messages of the bus"),
            _ => {}
        }
        self.bus_is_away = !word.is_up;
    }

    /// Handles the response to a subscribe request. If the gateway has refused several names because of one, asks for
    /// each name alone. If it has refused every request, ends the command, because no message would ever come.
    fn count_grant(&mut self, link: &mut Link, text: &str) -> Result<(), TailError> {
        let Some(dialect) = self.dialect else {
            return Ok(());
        };
        let Some(grants) = (dialect.grants)(text) else {
            return Ok(());
        };
        let Some(names) = self.asked.pop_front() else {
            return Ok(());
        };
        self.has_grant |= grants;
        match &names[..] {
            _ if grants || !dialect.refuses_whole => {}
            [name] => complain(&format!("refused: {}", escaped(name, &[]))),
            names => {
                for name in names.chunks(1) {
                    self.ask(link, dialect, name)?;
                }
            }
        }
        match self.asked.is_empty() && !self.has_grant {
            true => Err(TailError::lasting(format!(
                "the gateway grants nothing of --subscribe; {}",
                dialect.if_refused
            ))),
            false => Ok(()),
        }
    }

    /// Handles the first message of a server that was named by a URL. If it is a known greeting, it decides the
    /// dialect.
    fn meet(&mut self, link: &mut Link, text: &str) -> Result<(), TailError> {
        self.greeting_until = None;
        let mut known = self.command.known.iter();
        let Some((name, dialect)) = known.find(|(_, known)| (known.is_greeting)(text)) else {
            complain(
                "the first message is not a greeting of a gateway with subscriptions, so --subscribe \
                 was not sent",
            );
            return Ok(());
        };
        complain(&format!("the server speaks as weirgate {name}"));
        self.dialect = Some(*dialect);
        self.speak(link)
    }
}

fn send(link: &mut Link, text: &str) -> Result<(), TailError> {
    link.send(Message::text(text))
        .map_err(|error| TailError::broken(&error))
}

/// An open WebSocket, whose reads time out after a tick.
type Link = WebSocket<Stream>;

/// Connects before `deadline` and before the connect timeout.
fn open(command: &TailCommand, deadline: Option<Instant>) -> Result<Link, TailError> {
    let target = &command.target;
    let latest = Instant::now() + CONNECT_TIMEOUT;
    let until = deadline.map_or(latest, |deadline| deadline.min(latest));
    let stream = target.open(command.ca_file.as_deref(), until);
    let stream = stream.map_err(|error| match error {
        LinkError::Unreachable(error) => TailError::passing(format!(
            "no connection to {target}: {error}; check the address and the port, and that the gateway \
             runs"
        )),
        LinkError::Tls { reason, may_pass } => {
            let text = format!(
                "no TLS with {target}: {reason}; check the certificate, --ca-file, or use ws://"
            );
            match may_pass {
                true => TailError::passing(text),
                false => TailError::lasting(text),
            }
        }
    })?;
    let mut link = shake_hands(command, stream)?;
    let timeouts = link.get_mut().set_timeouts(TICK, CONNECT_TIMEOUT);
    timeouts.map_err(|error| TailError::system(&error))?;
    Ok(link)
}

/// Opens a WebSocket on a connection, with the token if there is one. The error says whether another attempt may
/// succeed ([`TailError::passing`]).
fn shake_hands(command: &TailCommand, stream: Stream) -> Result<Link, TailError> {
    let target = &command.target;
    let scheme = if target.tls { "wss" } else { "ws" };
    let uri = format!("{scheme}://{}{}", target.authority, target.path).parse();
    let uri = uri.map_err(|error: tungstenite::http::uri::InvalidUri| {
        TailError::broken(&Error::HttpFormat(error.into()))
    })?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(token) = &command.token {
        let bearer = format!("Bearer {}", token.expose());
        request = request.with_header("Authorization", bearer);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let advice = "check the address and the port, and use wss:// for a port of TLS";
    let no_response = |reason: String| {
        TailError::passing(format!(
            "{target} sent no whole response to the handshake: {reason}; {advice}"
        ))
    };
    match client::client_with_config(request, stream, Some(config)) {
        Ok((link, _)) => Ok(link),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            Err(TailError::refused(target, &command.known, &response))
        }
        Err(HandshakeError::Failure(Error::Io(error))) if is_timeout(&error) => {
            Err(no_response("its time is over".to_owned()))
        }
        // A read that would block has reached the timeout of the socket.
        Err(HandshakeError::Interrupted(_)) => Err(no_response("its time is over".to_owned())),
        // As behind a proxy of TCP while the gateway restarts.
        Err(HandshakeError::Failure(
            error @ (Error::Io(_)
            | Error::ConnectionClosed
            | Error::Protocol(ProtocolError::HandshakeIncomplete)),
        )) => Err(no_response(error.to_string())),
        Err(HandshakeError::Failure(error)) => Err(TailError::lasting(format!(
            "{target} does not speak WebSocket: {error}; {advice}"
        ))),
    }
}
