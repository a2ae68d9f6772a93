//! The NATS JetStream source: relays subjects of streams through push consumers.
//!
//! Messages are acknowledged after the hand-over to the loop, several at a time. When the loop's channel is full, this
//! thread waits, the server stops sending at the consumer's limit of unacknowledged messages, and the stream keeps the
//! rest. Slowness loses nothing.
//!
//! The order of events: for each subscription the last message of the subject, quiet (warm-up); `BusEvent::WarmedUp`;
//! `BusEvent::Up` once all subscriptions are set up; the backlog, quiet if longer than a few messages;
//! `BusEvent::CaughtUp`; from then on messages as they arrive. After a loss comes a single `BusEvent::Down`, however many
//! attempts follow, and then the same order, but with the warm-up only for a long backlog. No message is handed over twice, whichever consumer or
//! connection brings it, except for the last message: warm-up and backlog may both bring it, both times quiet.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the choice of the server, and a session on it; `super::relay` has the thread |
//! | `session` | a connection: the turn of messages and answers |
//! | `attach` | the same session: attaching subjects to consumers, at first and again |
//! | `subscription` | a subject: its consumer, its backlog, its messages |
//! | `cursor` | how far the stream of a subject was relayed; pure |
//! | `streams` | finding and making the streams of subjects; optional streams |
//! | `consumers` | finding and making consumers, and the log lines about the durable consumer of a subject |
//! | `look_back` | the last good message of a subject, when the newest are bad |
//! | `api` | requests to JetStream and their answers |
//! | `consumer` | a consumer of any source: the request for it, its deliveries and heartbeats, its end; pure |
//! | `consumer_limits` | the limits of a consumer of any source, which shrink to what the server permits; pure |
//! | `in_flight` | how many messages may be on their way at once, by their sizes; pure |
//! | `requester` | a connection for the checks and for commands |
//! | `check`, `check_subjects` | the check before a start, of levels and of all others: streams, consumers, limits of the account, permissions |
//! | `needs` | what a source may need permissions for; each source has its needs beside its requests |
//! | `sender` | a command that publishes |
//! | `watchdog` | asking the server whether the consumers are well; pure |
//! | `health` | judging its answers and silences about a subject; pure |
//! | `servers` | the order in which servers are tried |
//! | `server_search` | the server to try first for the next connection: the second connection beside a silent one (`super::probe` has the rule), and questions to other servers |
//! | `endpoint` | a server: its URL and its addresses, and the servers that it announces |
//! | `jetstream_connection` | a connection: messages of consumers, requests to JetStream and their answers |
//! | `acks` | acknowledgements to the consumers of subjects, several at a time; pure |
//! | `connection` | connecting, TLS, logging in, operations in and commands out, pings of a silent server |
//! | `protocol` | the client protocol of NATS; pure |
//! | `login` | what a server says of itself in its first line, credentials, and certificates for TLS |
//! | `subjects/` | plain subjects and patterns, chosen by clients while the source runs, and for gateways that speak to each other |
//! | `stream/` | the source that reads a stream in place of subjects |
//! | `stream_info` | what the leader of a stream says about it; pure |
//! | `stream_state` | what a server says of a stream: whether it takes messages, and why not |
//! | `standstill` | why a stream gets no messages; pure |
//! | `account` | the limits of an account of JetStream, and what it uses; pure |
//! | `refusals` | the server's refusals of permissions, and the parser of their texts |
//! | `error` | error texts |
//! | `settings` | settings, and the check of the files that they name |

// The whole `nats` crate is marked deprecated in favour of an async crate, which would put a runtime into the data
// path. Only its types of streams and consumers are used.
#![allow(deprecated)]

mod account;
mod acks;
mod api;
mod attach;
mod check;
mod check_subjects;
mod connection;
mod consumer;
mod consumer_limits;
mod consumers;
mod cursor;
mod endpoint;
mod error;
mod health;
mod in_flight;
mod jetstream_connection;
mod login;
mod look_back;
mod needs;
mod protocol;
mod refusals;
mod requester;
mod sender;
mod server_search;
mod servers;
mod session;
mod settings;
mod standstill;
mod stream;
mod stream_info;
mod stream_state;
mod streams;
mod subjects;
mod subscription;
mod watchdog;

use std::sync::Arc;
use std::time::Instant;

use self::error::Stop;
use self::jetstream_connection::{JetStreamConnection, PAYLOAD_BYTES_MAX};
use self::refusals::Refusal;
use self::server_search::ServerSearch;
use self::servers::NatsServers;
use self::session::{ConsumersSession, reset_status};
use self::standstill::Standstills;
use self::subscription::Subscription;
use super::LinkTimes;
use super::relay::{self, Bus, Relay};
use weirgate_runtime::{BusStatus, Source, SourceLink};

pub(crate) use self::endpoint::redacted;
pub use self::error::NatsError;
pub use self::login::{Credentials, Tls};
pub use self::needs::NatsNeeds;
pub use self::sender::NatsSender;
pub use self::settings::{LookBack, NatsSettings, StreamSpec, SubscriptionSpec};
pub use self::stream::NatsStreamSource;
pub use self::subjects::{NatsSubjectsSettings, NatsSubjectsSource, Settle};

/// Relays JetStream messages, for ever.
pub struct NatsSource {
    settings: NatsSettings,
    status: Arc<BusStatus>,
    subscriptions: Vec<Subscription>,
    servers: NatsServers,
    standstills: Standstills,
}

impl NatsSource {
    /// Makes a source. `status` should name the durable consumers and subjects of the subscriptions; the source keeps
    /// `status` up to date from here on.
    pub fn new(settings: NatsSettings, status: Arc<BusStatus>) -> Self {
        let specs = settings.subscriptions.iter().cloned();
        let subscriptions = specs.map(|spec| Subscription::new(spec, &settings));
        Self {
            subscriptions: subscriptions.collect(),
            settings,
            status,
            servers: NatsServers::default(),
            standstills: Standstills::default(),
        }
    }

    /// Sets up the consumers on a new connection, then relays their messages until it is lost. `before`: the
    /// connection before it, which is closed once the consumers are moved.
    fn use_connection(
        &mut self,
        jetstream: &mut JetStreamConnection,
        search: &mut ServerSearch,
        relay: &mut Relay<NatsError>,
        before: Option<JetStreamConnection>,
    ) -> Result<Stop, Stop> {
        let (settings, all) = (&self.settings, &mut self.subscriptions);
        let standstills = &mut self.standstills;
        let mut session =
            ConsumersSession::new(settings, relay, all, jetstream, search, standstills);
        let set_up = session.set_up();
        if let Some(before) = before {
            before.close();
        }
        set_up?;
        let away_ms = session.relay.report_up()?;
        session.relay.status.set_subscription_refused(false);
        let url = redacted(&self.settings.urls.expose());
        tracing::info!(url, away_ms, "subscribed on NATS");
        Ok(session.run())
    }
}

impl Source for NatsSource {
    fn run(mut self: Box<Self>, link: SourceLink) {
        relay::run(&mut *self, link);
    }
}

impl Bus for NatsSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";
    /// The streams keep the messages.
    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        // The connection to a server in lame duck mode.
        let mut before: Option<JetStreamConnection> = None;
        loop {
            let settings = &self.settings;
            let open =
                |endpoint: &_| JetStreamConnection::open(endpoint, settings, PAYLOAD_BYTES_MAX);
            let mut jetstream = match self.servers.connect(settings, open) {
                Ok(connected) => connected,
                Err(error) => return Stop::Bus(error),
            };
            let mut search = self.servers.search(settings);
            relay.link.wake_at_end(&jetstream.wake);
            let stop = self.use_connection(&mut jetstream, &mut search, relay, before.take());
            let stop = stop.unwrap_or_else(|stop| stop);
            if let Stop::Bus(error) = &stop {
                self.standstills.note_failure(error, Instant::now());
                self.standstills.show(&self.status);
            }
            let next = search.into_next();
            self.servers
                .note_end(&self.settings, &jetstream.connection, next, &stop);
            for refusal in jetstream.refusals.take_news() {
                if let Refusal::Subscription(_) = refusal {
                    self.status.count_refused();
                }
            }
            if let Stop::Bus(NatsError::NotPermitted { .. }) = &stop {
                self.status.set_subscription_refused(true);
            }
            for subscription in &mut self.subscriptions {
                reset_status(&self.status, subscription);
                subscription.stop_reading(&mut jetstream);
            }
            if let Stop::Bus(error @ NatsError::LameDuck) = &stop {
                tracing::info!(%error, "NATS moves");
                // This also sends the UNSUBs, so the next connection finds the durable consumers free.
                jetstream.flush_and_wait();
                before = Some(jetstream);
                continue;
            }
            jetstream.close();
            return stop;
        }
    }
}
