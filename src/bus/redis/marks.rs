//! The kept feed on a connection. Messages have positions as soon as all names are subscribed. Once the channel of the
//! marks is subscribed too, published marks make the positions valid on other instances.
//!
//! Positions are valid only on a lone master: a replica that resynchronises, and nodes of a cluster that lose each
//! other, drop messages without a sign while our connection stays. The source asks the server for its role before the
//! first subscription. Then a thread with a connection of its own asks each second, and publishes the marks, so that a
//! slow answer delays no message. On a server that is no lone master, the thread also asks for its links to other
//! servers, and a changed link counts as a loss. A mark is published at most once, because a second copy would come at
//! another place among the messages.

use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use foldhash::fast::FixedState;

use super::connection::Connection;
use super::error::{RedisError, Stop, shown_trimmed};
use super::resp::{CutString, Value};
use super::role::{LINKS, links_in, says_lone_master};
use super::servers::{HANDSHAKE_TIMEOUT, RedisServers, waiter};
use super::session::{Expected, PubSubSession};
use super::settings::RedisEndpoint;
use crate::kept::CountedFeed;
use crate::requests::RETRY_REFUSED;
use crate::socket::Waiter;
use weirgate_core::{BusEvent, Mark, Place, Subscription};
use weirgate_runtime::{BusStatus, detached};

/// The interval at which the thread asks for the role, and at which an instance publishes marks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long positions are valid after the server has confirmed its role.
const ROLE_HOLDS: Duration = Duration::from_secs(3);
/// The time for the answer to a mark.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The kept feed, and the channel to the thread that publishes its marks.
pub(super) struct MarkedFeed {
    pub(super) feed: CountedFeed,
    marks: Sender<ToPublish>,
    /// What the thread has learned about this connection.
    learned: Arc<Learned>,
    /// When to ask for the role next; `None` before the feed begins.
    next: Option<Instant>,
    /// Whether marks are published: their channel is subscribed.
    publishes: bool,
    /// When to request their channel again, if it was refused.
    request_at: Option<Instant>,
    /// Whether the log says that the channel was refused on this connection.
    is_refusal_logged: bool,
    /// Whether [`Self::holds`] was true at the last look.
    held: bool,
    /// The times in [`Learned`] and [`ToPublish`] count from here.
    origin: Instant,
    /// Whether the positions are counted from a published mark, and so are valid on other instances.
    is_shared: bool,
}

impl MarkedFeed {
    /// Starts the thread that publishes marks on `channel`. It ends when this value is dropped.
    ///
    /// # Errors
    /// The system has no descriptor or thread left.
    pub(super) fn start(
        feed: CountedFeed,
        servers: RedisServers,
        channel: &str,
    ) -> Result<Self, RedisError> {
        // A single mark at a time: a mark that waited for a slow answer would be of no use.
        let (marks, to_publish) = bounded(1);
        let (waiter, _) = waiter("the publisher of marks")?;
        let thread = MarkThread {
            channel: channel.into(),
            to_publish,
        };
        detached("redis-marks", move || thread.run(servers, waiter)).map_err(RedisError::System)?;
        Ok(Self {
            feed,
            marks,
            learned: Arc::default(),
            next: None,
            publishes: false,
            request_at: None,
            is_refusal_logged: false,
            held: false,
            origin: Instant::now(),
            is_shared: false,
        })
    }

    /// Handles a new connection, before its first subscription.
    pub(super) fn connected(
        &mut self,
        connection: &mut Connection<'_>,
        status: &BusStatus,
    ) -> Result<(), RedisError> {
        status.set_positions_shared(false);
        let asked_ms = self.now_ms();
        let answer = connection.ask_one(&["HELLO"], HANDSHAKE_TIMEOUT)?;
        let is_lone_master = says_lone_master(&answer);
        if self.feed.connected(is_lone_master) {
            tracing::warn!(server = connection.server(), "{NO_POSITIONS}");
        }
        let server = (connection.endpoint.clone(), connection.address);
        self.begin(Learned {
            server: Some(server),
            was_lone_master: is_lone_master,
            master_ms: asked_ms.into(),
            ..Learned::default()
        });
        Ok(())
    }

    /// Resets the state for a new connection. `learned`: what the server has just said of its role.
    fn begin(&mut self, learned: Learned) {
        self.learned = Arc::new(learned);
        (self.next, self.request_at, self.is_refusal_logged) = (None, None, false);
        (self.publishes, self.held, self.is_shared) = (false, false, false);
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Whether the server has lately confirmed the role that it had at the start of the connection.
    fn holds(&self) -> bool {
        let said_ms = self.learned.master_ms.load(Relaxed);
        self.now_ms().saturating_sub(said_ms) < ROLE_HOLDS.as_millis() as u64
    }

    /// Whether published marks count.
    fn may_share(&self) -> bool {
        !self.is_refused() && self.holds()
    }

    /// Whether this user may not publish marks, by the last answer.
    fn is_refused(&self) -> bool {
        self.learned.refused_ms.load(Relaxed) > 0
    }

    /// Whether to publish marks: also some time after a refusal, because the right may have been given back.
    fn may_publish(&self) -> bool {
        let refused_ms = self.learned.refused_ms.load(Relaxed);
        let since_ms = self.now_ms().saturating_sub(refused_ms);
        self.publishes && (refused_ms == 0 || since_ms >= RETRY_REFUSED.as_millis() as u64)
    }

    /// Lets the thread publish `mark` and ask for the role, if it is not busy with the question before.
    fn ask(&mut self, mark: Option<Mark>) {
        self.next = Some(Instant::now() + INTERVAL);
        // The channel is full if the server is slow, and closed if the thread has ended.
        let _ = self.marks.try_send(ToPublish {
            mark,
            learned: Arc::clone(&self.learned),
            at_ms: self.now_ms(),
        });
    }
}

impl PubSubSession<'_, '_> {
    /// If all names of the feed are subscribed, begins to count from a mark that is valid on this connection only, and
    /// subscribes to the channel of the marks, to count from published marks later. On a server that is no lone master,
    /// reports that messages have no positions.
    pub(super) fn begin_feed(&mut self) -> Result<(), Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(());
        };
        if !kept.feed.may_begin() {
            return Ok(());
        }
        kept.next.get_or_insert_with(Instant::now);
        self.relay.link.send(kept.feed.begin())?;
        if !kept.learned.was_lone_master {
            return Ok(());
        }
        self.request_marks();
        Ok(())
    }

    fn request_marks(&mut self) {
        if let Some(channel) = self.marks_channel {
            self.connection.queue(&["SUBSCRIBE", channel]);
            self.expected.push_back(Expected::Marks);
        }
    }

    /// Handles the confirmation of the marks' channel: the marks of all instances come from here on.
    pub(super) fn marks_confirmed(&mut self, name: &Value) -> Result<(), Stop> {
        self.expected.pop_front();
        let fits = matches!(name, Value::Bulk(name) if self.is_of_marks(name));
        match &mut self.kept {
            Some(kept) if fits => {
                kept.publishes = true;
                kept.is_refusal_logged = false;
                // The first mark to publish is due at once.
                kept.next = Some(Instant::now());
                Ok(())
            }
            _ => Err(self.wrong("a confirmation of what was not asked")),
        }
    }

    /// Handles the refusal of the marks' channel, which is requested again after a while.
    pub(super) fn marks_refused(&mut self, words: &str) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        kept.request_at = Some(Instant::now() + RETRY_REFUSED);
        if std::mem::replace(&mut kept.is_refusal_logged, true) {
            return;
        }
        tracing::warn!(
            channel = self.marks_channel,
            reason = shown_trimmed(words),
            "this user may not subscribe to the marks (&CHANNEL), so positions are valid on this \
             connection only; asking again every 30 s"
        );
    }

    /// Handles a message on the marks' channel.
    pub(super) fn take_mark(&mut self, payload: &[u8]) -> Result<(), Stop> {
        if let Some(kept) = &mut self.kept
            && kept.may_share()
            && let Some(event) = kept.feed.marked(payload)
        {
            kept.is_shared = true;
            self.relay.status.set_positions_shared(true);
            self.relay.link.send(event)?;
        }
        Ok(())
    }

    /// Publishes a mark if it is due. If published marks may not be used any more, or the server has not said for a
    /// while that it is a lone master, counts anew from a mark that is valid on this connection only. Returns the time
    /// of the next mark.
    pub(super) fn mark(&mut self) -> Result<Option<Instant>, Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(None);
        };
        if kept.learned.has_changed.load(Relaxed) {
            return Err(self.connection.moved().into());
        }
        if kept.learned.has_lost.swap(false, Relaxed) {
            tracing::warn!(
                server = self.connection.server(),
                "this server has lost its link to another one, and maybe messages; clients are notified"
            );
            self.relay.link.send(BusEvent::Gap { lost: None })?;
        }
        let Some(next) = kept.next else {
            return Ok(None);
        };
        let (holds, may_share) = (kept.holds(), kept.may_share());
        let is_in_doubt = std::mem::replace(&mut kept.held, holds) && !holds;
        // A server that was no lone master has given no positions, so a doubt about its role changes nothing.
        if is_in_doubt && kept.learned.was_lone_master || kept.is_shared && !may_share {
            kept.is_shared = false;
            self.relay.status.set_positions_shared(false);
            self.relay.link.send(kept.feed.begin())?;
        }
        if next <= Instant::now() {
            let mark = kept.may_publish().then(|| kept.feed.next_mark());
            kept.ask(mark);
        }
        let next = kept.next;
        if (kept.request_at.take_if(|at| *at <= Instant::now())).is_some() {
            self.request_marks();
        }
        Ok(next)
    }

    /// The place of a message; `None` for a further copy of it.
    pub(super) fn place(&mut self, subscription: &Subscription, channel: &[u8]) -> Option<Place> {
        let Some(kept) = &mut self.kept else {
            return Some(Place::Outside);
        };
        kept.feed.place(subscription, channel)
    }

    /// The place of a message whose channel name was cut; `None` for a further copy of it.
    pub(super) fn place_of_cut(
        &mut self,
        subscription: &Subscription,
        name: &CutString,
    ) -> Option<Place> {
        let Some(kept) = &mut self.kept else {
            return Some(Place::Outside);
        };
        let name_hash = FixedState::default().hash_one(name);
        kept.feed.place_of_long(subscription, name_hash)
    }
}

/// What the publishing thread has learned about the reader's connection.
#[derive(Debug, Default)]
struct Learned {
    /// The server and its address, because another address of the same name may be another server.
    server: Option<(RedisEndpoint, SocketAddr)>,
    /// Whether the server was a lone master when the connection was made, and whether that has changed.
    was_lone_master: bool,
    has_changed: AtomicBool,
    /// The links of a server that is not a lone master, as a hash; 0 before the first answer. `has_lost`: they have
    /// changed since the reading thread last looked.
    links: AtomicU64,
    has_lost: AtomicBool,
    /// When a mark was published that this user may not publish, milliseconds since [`MarkedFeed::origin`]; 0 if the last
    /// one was accepted.
    refused_ms: AtomicU64,
    /// When the server was last asked and had the same role as at the start of the connection, milliseconds since
    /// [`MarkedFeed::origin`].
    master_ms: AtomicU64,
}

/// A mark to publish, and then the question for the role.
#[derive(Debug)]
struct ToPublish {
    /// `None` if this user may not publish marks, or may not read them.
    mark: Option<Mark>,
    /// What is learned goes here. It belongs to one connection of the reading thread, and names the server to ask:
    /// after a failover this is another one.
    learned: Arc<Learned>,
    /// Milliseconds since [`MarkedFeed::origin`].
    at_ms: u64,
}

struct MarkThread {
    channel: Arc<str>,
    to_publish: Receiver<ToPublish>,
}

impl MarkThread {
    /// Publishes the marks that arrive: connects for the first one, and uses the connection for further ones until it
    /// is of no use. Ends when nothing can send to this thread any more.
    fn run(self, servers: RedisServers, mut waiter: Waiter) {
        let mut next = self.to_publish.recv().ok();
        let mut is_refusal_logged = false;
        while let Some(first) = next {
            let server = first.learned.server.clone();
            let connected = servers.connect_at(&mut waiter, server.as_ref());
            if let Some(error) = refusal_to_log(&connected, &mut is_refusal_logged) {
                tracing::warn!(
                    %error,
                    "cannot log in to publish marks, so positions are valid on one connection only"
                );
            }
            let published = connected.and_then(|connection| self.publish_on(connection, first));
            next = published.unwrap_or_else(|error| {
                // A mark is never published again.
                tracing::debug!(%error, "a mark may not have been published");
                None
            });
            next = next.or_else(|| self.to_publish.recv().ok());
        }
    }

    /// Publishes and asks on a connection until it is of no use. Returns a question that is for another server.
    fn publish_on(
        &self,
        mut connection: Connection<'_>,
        first: ToPublish,
    ) -> Result<Option<ToPublish>, RedisError> {
        let learned = Arc::clone(&first.learned);
        let mut next = first;
        loop {
            let (mark, channel) = (next.mark.map(|mark| mark.to_string()), &*self.channel);
            let publish = mark.iter().map(|mark| vec!["PUBLISH", channel, mark]);
            let links = LINKS.iter().filter(|_| !learned.was_lone_master);
            let links = links.map(|words| words.to_vec());
            let commands: Vec<_> = publish.chain(links).chain([vec!["HELLO"]]).collect();
            let answers = connection.ask(&commands, ANSWER_TIMEOUT)?;
            match (answers.first(), mark) {
                // No mark was published.
                (_, None) => {}
                (Some(Value::Integer(_)), _) => learned.refused_ms.store(0, Relaxed),
                (Some(Value::Error(words)), _) if words.starts_with("NOPERM") => {
                    // At least 1, because 0 means that the last mark was accepted.
                    if learned.refused_ms.swap(next.at_ms.max(1), Relaxed) == 0 {
                        tracing::warn!(
                            channel,
                            reason = shown_trimmed(words),
                            "this user may not publish marks (+publish, &CHANNEL), so positions are \
                             valid on this connection only; trying again every 30 s"
                        );
                    }
                }
                _ => return Err(connection.wrong("no number of receivers")),
            }
            if answers.last().is_some_and(says_lone_master) != learned.was_lone_master {
                learned.has_changed.store(true, Relaxed);
                return Ok(None);
            }
            learned.master_ms.store(next.at_ms, Relaxed);
            let links = links_in(&answers);
            // 0 is the first answer of this connection, and the same hash means the same links: then no link has
            // changed.
            if ![0, links].contains(&learned.links.swap(links, Relaxed)) {
                learned.has_lost.store(true, Relaxed);
            }
            match self.to_publish.recv() {
                Ok(mark) if Arc::ptr_eq(&mark.learned, &learned) => next = mark,
                // It is of another connection of the reading thread, perhaps to another server.
                Ok(mark) => return Ok(Some(mark)),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// The refusal of a log-in, if the log does not say it yet. It is said once until a log-in succeeds, whatever else fails
/// meanwhile: a server that restarts is away for a moment, and then refuses again.
fn refusal_to_log<'a, T>(
    connected: &'a Result<T, RedisError>,
    is_logged: &mut bool,
) -> Option<&'a RedisError> {
    match connected {
        Ok(_) => {
            *is_logged = false;
            None
        }
        Err(error @ RedisError::Refused { .. }) => {
            (!std::mem::replace(is_logged, true)).then_some(error)
        }
        Err(_) => None,
    }
}

/// Why messages have no positions, and the remedy.
pub(super) const NO_POSITIONS: &str = "messages have no positions, so clients that come back are not told what they \
    missed: this server is a replica or in a cluster, or cannot say that it is not, and there messages can be lost \
    without a sign; read a stream (--stream), or name a master without a cluster";

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_wire::auth::NameSyntax;

    #[test]
    fn a_refused_log_in_is_logged_once_until_one_succeeds() {
        let refused = || {
            Err(RedisError::Refused {
                server: "s".to_owned(),
                command: "AUTH",
                reason: "no".to_owned(),
            })
        };
        let lost = || Err(RedisError::Silent(1));
        let mut is_logged = false;
        for (connected, is_to_log) in [
            (lost(), false),
            (refused(), true),
            (refused(), false),
            (lost(), false),
            (refused(), false),
            (Ok(()), false),
            (refused(), true),
        ] {
            let logged = refusal_to_log(&connected, &mut is_logged);
            assert_eq!(logged.is_some(), is_to_log, "{connected:?}");
        }
    }

    #[test]
    fn marks_count_while_the_server_says_that_it_is_a_lone_master() {
        let (marks, _to_publish) = bounded(1);
        let feed = CountedFeed::new(NameSyntax::Redis, Vec::new());
        let mut publisher = MarkedFeed {
            feed: feed.expect("no names"),
            marks,
            learned: Arc::default(),
            next: None,
            publishes: true,
            request_at: None,
            is_refusal_logged: false,
            held: true,
            origin: Instant::now() - 2 * ROLE_HOLDS,
            is_shared: false,
        };
        let lone_master = |publisher: &MarkedFeed| Learned {
            was_lone_master: true,
            master_ms: publisher.now_ms().into(),
            ..Learned::default()
        };
        publisher.begin(lone_master(&publisher));
        assert!(publisher.may_share(), "said on the connection itself");
        let learned = Arc::clone(&publisher.learned);
        publisher.begin(lone_master(&publisher));
        publisher.learned.master_ms.store(0, Relaxed);
        assert!(!publisher.may_share(), "long ago");
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(
            !publisher.may_share(),
            "beside a mark for another connection"
        );
        let learned = Arc::clone(&publisher.learned);
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(publisher.may_share(), "beside a mark");
        publisher.publishes = true;
        learned.refused_ms.store(publisher.now_ms(), Relaxed);
        assert!(!publisher.may_share(), "others do not see its marks");
        assert!(!publisher.may_publish());
        publisher.origin -= RETRY_REFUSED;
        learned.master_ms.store(publisher.now_ms(), Relaxed);
        assert!(publisher.may_publish(), "the right may be back");
        assert!(!publisher.may_share(), "nobody has said so");
        publisher.begin(lone_master(&publisher));
        assert!(publisher.may_share());
    }
}
