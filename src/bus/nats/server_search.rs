//! Looks for the server to try first for the next connection, on one of three signs: the connection in use is silent, or
//! JetStream is silent, or the server is about to stop (lame duck mode).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::api::{self, ANSWER_TIMEOUT};
use super::connection::{Connection, Patience};
use super::endpoint::{Endpoint, learn};
use super::error::NatsError;
use super::needs::Action;
use super::protocol::{self, Op, PayloadLimits, inbox};
use super::servers::waiter;
use super::settings::NatsSettings;
use super::stream_info::StreamCluster;
use crate::probe::{Probe, ProbeResult};
use crate::relay::Relay;
use crate::socket::Waiter;
use weirgate_runtime::{LoopGone, detached};
use weirgate_wire::json::Json;

/// Limits on the time for a second connection. The silent connection is not read meanwhile; a working server answers at
/// once on both.
const PATIENCE: Patience = Patience {
    connect: Duration::from_millis(500),
    greeting: Duration::from_secs(1),
    login: Duration::from_secs(1),
};
/// The interval of looks for another server, while the one in use is in lame duck mode.
const OTHERS_INTERVAL: Duration = Duration::from_secs(1);
/// The payload limit of a second connection: no useful message is larger.
const PAYLOAD_LIMITS: PayloadLimits = PayloadLimits::of_all(64 * 1024);

/// The search for the server of the next connection, beside the connection in use. While that is silent, a second
/// connection, which logs in and subscribes to nothing, decides whether the silent one is kept. The tries alternate between
/// another server of the list and the silent server. If the silent server hangs, another server answers; if only the link
/// is dead, the same server answers on a new connection.
pub(super) struct ServerSearch {
    probe: Probe,
    /// The servers learned before this connection.
    learned: Vec<Endpoint>,
    tries: usize,
    /// When the last look for a successor began, and what it finds.
    successor: Option<(Instant, Receiver<Option<Endpoint>>)>,
    /// The server that answered.
    next: Option<Endpoint>,
}

impl ServerSearch {
    /// A search beside a connection that begins. `learned`: the servers beside those of the URL.
    pub(super) fn new(settings: &NatsSettings, learned: Vec<Endpoint>) -> Self {
        Self {
            probe: Probe::new("NATS", &settings.times),
            learned,
            tries: 0,
            successor: None,
            next: None,
        }
    }

    /// As [`Probe::probe_if_due`]. `connection` is the silent connection.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn probe_if_due(
        &mut self,
        last_received: Instant,
        relay: &mut Relay<NatsError>,
        settings: &NatsSettings,
        connection: &Connection,
    ) -> Result<Option<Instant>, LoopGone> {
        let Self {
            probe,
            learned,
            tries,
            next,
            ..
        } = self;
        let used = &connection.endpoint;
        probe.probe_if_due(last_received, relay, || {
            let is_others_turn = tries.is_multiple_of(2);
            *tries += 1;
            let others = match is_others_turn {
                true => {
                    // Each try at another server begins one host later.
                    let hosts = hosts_in_turn(learned.clone(), settings, connection, *tries / 2);
                    servers_of_first(&hosts, settings, connection.peer)
                }
                false => Vec::new(),
            };
            let (to, asked) = match others.is_empty() {
                true => (SecondTo::InUse, vec![used.clone()]),
                false => (SecondTo::Other, others),
            };
            for server in asked {
                match log_in(&server, to, settings) {
                    ProbeResult::Silence => {}
                    found => {
                        // A server that refuses the connection is not the one to try next.
                        *next = Some(server).filter(|_| found == ProbeResult::Answer);
                        return found;
                    }
                }
            }
            ProbeResult::Silence
        })
    }

    /// Whether the server of a silent connection answers on a second one.
    pub(super) fn is_alive(settings: &NatsSettings, silent: &Connection) -> bool {
        log_in(&silent.endpoint, SecondTo::InUse, settings) == ProbeResult::Answer
    }

    /// Asks another server, each time the next one, about the streams that are read, while JetStream is silent on a
    /// connection that is well. Returns whether it answers about one of them, which is a reason to leave.
    pub(super) fn find_jetstream_elsewhere(
        &mut self,
        streams: &[String],
        settings: &NatsSettings,
        connection: &Connection,
    ) -> bool {
        self.tries += 1;
        let hosts = hosts_in_turn(self.learned.clone(), settings, connection, self.tries);
        let others = servers_of_first(&hosts, settings, connection.peer);
        let answers = |server: &Endpoint| has_jetstream(server, streams, settings);
        self.next = others.into_iter().find(answers);
        self.next.is_some()
    }

    /// Looks for another server, each time the next one, while the one in use is in lame duck mode. Without other
    /// servers, the connection stays until the server ends it. The look has a thread of its own, because the connection in
    /// use is read meanwhile. `streams`: another server has to answer about one of them. Returns whether there is one.
    pub(super) fn find_successor(
        &mut self,
        streams: &[String],
        settings: &NatsSettings,
        connection: &Connection,
    ) -> bool {
        if !connection.info.ldm {
            return false;
        }
        if let Some((began, found)) = &self.successor {
            match found.try_recv() {
                Ok(Some(server)) => {
                    self.next = Some(server);
                    return true;
                }
                Err(TryRecvError::Empty) => return false,
                Ok(None) | Err(TryRecvError::Disconnected) if began.elapsed() < OTHERS_INTERVAL => {
                    return false;
                }
                Ok(None) | Err(TryRecvError::Disconnected) => {}
            }
        }
        self.tries += 1;
        let hosts = hosts_in_turn(self.learned.clone(), settings, connection, self.tries);
        let found = look_for_successor(hosts, streams.to_vec(), settings.clone(), connection.peer);
        self.successor = Some((Instant::now(), found));
        false
    }

    /// Records that the server of this connection has sent something, as [`Probe::end_silence`].
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn end_silence(
        &mut self,
        relay: &mut Relay<NatsError>,
        is_restored: bool,
    ) -> Result<bool, LoopGone> {
        self.next = None;
        self.probe.end_silence(relay, is_restored)
    }

    /// The server that answered, if that ended this connection: the one to try first.
    pub(super) fn into_next(self) -> Option<Endpoint> {
        self.next
    }
}

/// All hosts that are known, beginning with the one whose turn it is.
fn hosts_in_turn(
    mut learned: Vec<Endpoint>,
    settings: &NatsSettings,
    connection: &Connection,
    turn: usize,
) -> Vec<Endpoint> {
    let mut all: Vec<_> = settings.endpoints().flatten().collect();
    learn(&mut learned, connection.neighbours().collect(), &all);
    all.append(&mut learned);
    let first = turn % all.len().max(1);
    all.rotate_left(first);
    all
}

/// The servers of the first of these hosts that has an address other than the one in use, without the one in use. The
/// name lookup can take long.
fn servers_of_first(
    hosts: &[Endpoint],
    settings: &NatsSettings,
    in_use: SocketAddr,
) -> Vec<Endpoint> {
    let is_other = |server: &Endpoint| server.address != Some(in_use);
    hosts
        .iter()
        .filter_map(|host| host.servers(settings).ok())
        .map(|servers| servers.into_iter().filter(is_other).collect::<Vec<_>>())
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

/// Looks for a server that answers, on a thread of its own. Without a thread, the end of the channel says that there is none.
fn look_for_successor(
    hosts: Vec<Endpoint>,
    streams: Vec<String>,
    settings: NatsSettings,
    in_use: SocketAddr,
) -> Receiver<Option<Endpoint>> {
    let (sender, found) = bounded(1);
    let look = move || {
        let servers = servers_of_first(&hosts, &settings, in_use);
        let answers = |server: &Endpoint| match streams.is_empty() {
            true => log_in(server, SecondTo::Other, &settings) == ProbeResult::Answer,
            false => has_jetstream(server, &streams, &settings),
        };
        // The connection in use may have ended meanwhile.
        let _ = sender.send(servers.into_iter().find(answers));
    };
    if let Err(error) = detached("nats-successor", look) {
        tracing::warn!(%error, "cannot look for a server in place of the one that is about to stop");
    }
    found
}

/// Which server a second connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecondTo {
    /// That of the silent connection.
    InUse,
    Other,
}

/// Logs in at a server. A refusal by the server of the silent connection counts as an answer, because the server is
/// alive. Another server that refuses the log-in is of no use.
fn log_in(endpoint: &Endpoint, to: SecondTo, settings: &NatsSettings) -> ProbeResult {
    let is_in_use = to == SecondTo::InUse;
    match open(endpoint, settings) {
        Ok((connection, waiter)) => {
            connection.close(&waiter);
            ProbeResult::Answer
        }
        Err(NatsError::Refused { .. } | NatsError::Tls { .. }) if is_in_use => ProbeResult::Answer,
        Err(NatsError::Unreachable { source, .. })
            if is_in_use && source.kind() == ErrorKind::ConnectionRefused =>
        {
            ProbeResult::Nobody
        }
        Err(error) => {
            tracing::debug!(%error, "a second connection is not answered either");
            ProbeResult::Silence
        }
    }
}

fn open(endpoint: &Endpoint, settings: &NatsSettings) -> Result<(Connection, Waiter), NatsError> {
    let (mut waiter, _) = waiter("the second connection to NATS")?;
    let connection = Connection::open(&mut waiter, endpoint, settings, PAYLOAD_LIMITS, PATIENCE)?;
    Ok((connection, waiter))
}

/// Whether JetStream answers at a server in time: about one of the streams, or at all if none is known.
fn has_jetstream(endpoint: &Endpoint, streams: &[String], settings: &NatsSettings) -> bool {
    ask_jetstream(endpoint, streams, settings).is_ok_and(|is_answered| is_answered)
}

/// Asks the server about each of the streams, or about the account if there are none. Returns true at the first good
/// answer, and false if every answer is a refusal or [`ANSWER_TIMEOUT`] is over. An answer about a stream without a
/// leader counts as a refusal.
fn ask_jetstream(
    endpoint: &Endpoint,
    streams: &[String],
    settings: &NatsSettings,
) -> Result<bool, NatsError> {
    let (mut connection, mut waiter) = open(endpoint, settings)?;
    let (reply, until) = (inbox(), Instant::now() + ANSWER_TIMEOUT);
    // The only subscription of this connection; it has no queue group.
    protocol::subscribe(connection.out(), &reply, None, 1);
    let of_streams = streams
        .iter()
        .map(|stream| Action::StreamInfo.subject_about(stream));
    let in_general = streams
        .is_empty()
        .then(|| Action::AccountInfo.subject_without_stream());
    let mut unanswered = 0;
    for question in of_streams.chain(in_general) {
        protocol::publish(connection.out(), &question, &reply, b"");
        unanswered += 1;
    }
    let mut is_answered = false;
    while !is_answered && unanswered > 0 && Instant::now() < until {
        connection.flush(&mut waiter)?;
        if !connection.read(&mut waiter)? {
            waiter
                .wait(until)
                .map_err(|error| connection.lost(&error))?;
        }
        while let Some(op) = connection.next_op()? {
            if let Op::Message(message) = op {
                let is_refused =
                    |answer| api::refusal(answer).is_some() || StreamCluster::read(answer).is_err();
                // An answer that cannot be read, such as a long one that is cut, shows too that JetStream answers.
                let is_good = !Json::read(&message.payload).is_ok_and(is_refused);
                is_answered |= message.status.is_none() && is_good;
                unanswered -= 1;
            }
        }
    }
    connection.close(&waiter);
    Ok(is_answered)
}
