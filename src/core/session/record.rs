//! What operators see of a connection: the client at a moment, and the log line at its end.

use crate::handshake::UNCONFIRMED_SUBPROTOCOL;
use std::sync::Arc;

use super::{PhaseKind, Sending, Session};
use crate::reason::labelled;
use crate::{
    CloseReason, Connected, Dropped, Ended, Now, Secured, SessionKey, SlowSnapshot, TopicName,
    Traffic, WasConnected,
};
use weirgate_wire::admission::{ClientAddr, Peer};
use weirgate_wire::auth::TokenMarks;
use weirgate_wire::base::allocated_bytes;

/// Characters of a request's path in the record: enough to recognize the client.
const PATH_CHARS_MAX: usize = 128;

/// Characters of a user that the log shows.
const USER_CHARS_MAX: usize = 64;

/// Bytes before parameters of a path or a query, and between their names and values.
const PARAMETERS: &[u8] = b";?&=#";

labelled! {
    /// How fast a client takes the messages.
    pub enum ClientState {
        /// The request head is not complete.
        Head = "head",
        /// Nothing waits.
        Idle = "idle",
        /// Messages wait for the next write.
        Waiting = "waiting",
        /// The kernel takes no more: the client or the network is slower than the messages.
        Blocked = "blocked",
        /// So much waits, or something has waited for so long, that newer messages replace older messages of the same
        /// key.
        Conflating = "conflating",
        /// Frames without a conflation key are over the soft limit: the client is dropped unless it reads in time.
        OverSoft = "over_soft_limit",
        /// The connection is about to end.
        Closing = "closing",
    }
}

/// A client at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// The connection.
    pub session: SessionKey,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: ClientAddr,
    /// The user, as the client's token, certificate or message says.
    pub user: Option<Box<str>>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<&'static str>,
    /// Path of the request, without its query.
    pub path: Box<str>,
    /// How fast the client takes the messages.
    pub state: ClientState,
    /// Time since the accept, microseconds.
    pub age_us: u64,
    /// Messages in the send queue, including a partly written message, and messages that wait at the
    /// client's own rate.
    pub queue_messages: u64,
    /// Bytes of these messages.
    pub queue_bytes: u64,
    /// Time since the oldest of these messages arrived, microseconds; `None`: the queue is empty.
    pub oldest_us: Option<u64>,
    /// Time since the kernel last took a byte of the queue, microseconds; `None`: nothing waits.
    pub stuck_us: Option<u64>,
    /// The traffic so far.
    pub traffic: Traffic,
    /// Topics of which the client is a member.
    pub topics: u64,
    /// The topic as operators see it, if the client is a member of a single topic.
    pub topic: Option<TopicName>,
    /// Messages in both directions since the last survey; 0 outside of a survey.
    pub recent_messages: u64,
    /// Why the client is slow; `None` if it is not.
    pub slow: Option<SlowSnapshot>,
}

/// The data of a connection so far.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) peer: Peer,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: ClientAddr,
    /// Path of the request up to its parameters, cut to [`PATH_CHARS_MAX`].
    path: Arc<str>,
    /// The handshake of TLS; `None` for a plain connection. Boxed: each idle client pays for the record.
    secured: Option<Box<Secured>>,
    /// The user, if the gateway has set a user.
    user: Option<Box<str>>,
    /// Whether the client itself has chosen `user`, without a token.
    is_own_name: bool,
    /// The marks of the client's token.
    pub(crate) marks: Option<Arc<TokenMarks>>,
    /// The reason of the refusal, if known more exactly than by the reason of the close.
    pub(crate) refusal: Option<&'static str>,
    accepted: Now,
    /// The code of the first close frame, or the status that refused the handshake.
    pub(crate) code: Option<u16>,
    /// Bytes from the client, the request head included. The send queue counts those for the client, and the messages.
    pub(crate) bytes_in: u64,
    pub(crate) messages_in: u64,
    /// Messages replaced by newer messages.
    pub(super) messages_conflated: u64,
    /// Messages in both directions at the last survey.
    messages_surveyed: u64,
}

/// A client that leaves within this time has not accepted the response.
const LEFT_AT_ONCE_US: u64 = 1_000_000;

impl Record {
    pub(super) fn new(peer: Peer, now: Now) -> Self {
        Self {
            peer,
            client: peer.client(),
            path: Arc::default(),
            user: None,
            is_own_name: false,
            secured: None,
            marks: None,
            refusal: None,
            accepted: now,
            code: None,
            bytes_in: 0,
            messages_in: 0,
            messages_conflated: 0,
            messages_surveyed: 0,
        }
    }

    /// Sets the client that a trusted proxy names in a header before the client's first byte.
    pub(crate) fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
        self.client = peer.client();
    }

    /// Sets the results of the handshake of TLS.
    pub(crate) fn set_secured(&mut self, secured: Secured) {
        self.secured = Some(Box::new(secured));
    }

    /// Sets the user of a token. The name in the certificate stays the client's too.
    pub(crate) fn set_user(&mut self, user: Option<Box<str>>) {
        (self.user, self.is_own_name) = (user, false);
    }

    /// Sets the hash of a name that the client has chosen itself.
    pub(crate) fn set_own_name(&mut self, name: Option<Box<str>>) {
        (self.user, self.is_own_name) = (name, true);
    }

    /// Memory of the user and of the marks.
    pub(super) fn token_bytes(&self) -> usize {
        let user = self
            .user
            .as_ref()
            .map_or(0, |user| allocated_bytes(user.len()));
        let marks = self.marks.as_ref().map_or(0, |marks| marks.memory_bytes());
        user + marks
    }

    /// The version of TLS.
    fn tls(&self) -> Option<&'static str> {
        self.secured.as_ref().map(|secured| secured.version)
    }

    /// The name in the client's certificate.
    fn certificate(&self) -> Option<&str> {
        self.secured.as_ref()?.user.as_deref()
    }

    /// The user for the log and the operator's page: of a token, else of the certificate, else by the client's own word.
    fn shown_user(&self) -> Option<&str> {
        let (user, certificate) = (self.user.as_deref(), self.certificate());
        match self.is_own_name {
            true => certificate.or(user),
            false => user.or(certificate),
        }
    }

    /// Keeps the path, without parameters: a client may have put a token there. `last` is the path of another client:
    /// most clients have the same, and share its text.
    pub(crate) fn set_path(&mut self, path: &str, last: &mut Arc<str>) {
        let path = &path[..parameters_begin(path)];
        let cut = path.char_indices().nth(PATH_CHARS_MAX);
        let path = &path[..cut.map_or(path.len(), |(at, _)| at)];
        if **last != *path {
            *last = path.into();
        }
        self.path = Arc::clone(last);
    }

    fn connected<'a>(&'a self, session: &'a str) -> Connected<'a> {
        Connected {
            user: self.user.as_deref(),
            certificate: self.certificate(),
            address: self.client.ip(),
            session,
            marks: self.marks.as_deref(),
        }
    }

    /// The data of the client that a cut is compared with, kept beyond the connection.
    pub(crate) fn was_connected(&self) -> WasConnected {
        WasConnected {
            user: self.user.clone(),
            certificate: self.certificate().map(Into::into),
            address: self.client.ip(),
            marks: self.marks.clone(),
        }
    }

    /// The data for the log line about the end.
    pub(super) fn ended(
        &mut self,
        now: Now,
        reason: CloseReason,
        traffic: Traffic,
        dropped: Option<Dropped>,
    ) -> Ended {
        let age_us = now.mono_us - self.accepted.mono_us;
        let is_left = matches!(
            reason,
            CloseReason::PeerClosed | CloseReason::PeerGone | CloseReason::SocketError
        );
        Ended {
            peer: self.peer,
            client: self.client,
            tls: self.tls(),
            user: self.shown_user().map(Into::into),
            refusal: self.refusal.filter(|refusal| {
                // Most clients do not mind. Browsers close the connection at once.
                *refusal != UNCONFIRMED_SUBPROTOCOL || is_left && age_us < LEFT_AT_ONCE_US
            }),
            path: Box::from(&*self.path),
            reason,
            code: self.code,
            age_us,
            traffic,
            dropped,
        }
    }
}

impl Session {
    /// How fast the client takes the messages.
    pub(crate) fn state(&self) -> ClientState {
        match self.phase() {
            PhaseKind::Head => return ClientState::Head,
            PhaseKind::Closing | PhaseKind::Gone => return ClientState::Closing,
            PhaseKind::Open => {}
        }
        if self.queue.is_empty() {
            ClientState::Idle
        } else if self.queue.over_soft_since().is_some() {
            ClientState::OverSoft
        } else if self.queue.is_conflating() {
            ClientState::Conflating
        } else if self.sending == Sending::Blocked {
            ClientState::Blocked
        } else {
            ClientState::Waiting
        }
    }

    /// Time since the oldest waiting message arrived, microseconds.
    pub(crate) fn oldest_us(&self, now: Now) -> Option<u64> {
        let oldest_at = self.queue.oldest_at()?;
        Some(now.mono_us.saturating_sub(oldest_at))
    }

    /// Messages in both directions since the last call.
    pub(crate) fn take_recent_messages(&mut self) -> u64 {
        let traffic = self.traffic();
        let messages = traffic.messages_in + traffic.messages_out;
        let surveyed = std::mem::replace(&mut self.cold.record.messages_surveyed, messages);
        messages - surveyed
    }

    /// The traffic so far.
    pub(super) fn traffic(&self) -> Traffic {
        let record = &self.cold.record;
        Traffic {
            bytes_in: record.bytes_in,
            bytes_out: self.queue.bytes_out(),
            messages_in: record.messages_in,
            messages_out: self.queue.frames_out(),
            messages_conflated: record.messages_conflated,
        }
    }

    /// The user as operators see it, and the role, if the gateway has roles.
    pub(crate) fn user_and_role(&self) -> (Option<&str>, Option<&str>) {
        let record = &self.cold.record;
        let roles = record.marks.as_ref().and_then(|marks| marks.roles.first());
        (record.shown_user(), roles.map(|role| &**role))
    }

    /// The data of the client that a cut is compared with; `session` is its key as text.
    pub(crate) fn connected<'a>(&'a self, session: &'a str) -> Connected<'a> {
        self.cold.record.connected(session)
    }

    /// The data of the client that a cut is compared with, kept beyond the connection.
    pub(crate) fn was_connected(&self) -> WasConnected {
        self.cold.record.was_connected()
    }

    /// The client with all numbers, without topics.
    pub(crate) fn snapshot(&self, session: SessionKey, now: Now) -> ClientSnapshot {
        let record = &self.cold.record;
        let waits = self.has_waiting();
        ClientSnapshot {
            session,
            client: record.client,
            user: record.shown_user().map(Into::into),
            tls: record.tls(),
            path: Box::from(&*record.path),
            state: self.state(),
            age_us: now.mono_us.saturating_sub(record.accepted.mono_us),
            queue_messages: self.queued_frames() as u64,
            queue_bytes: self.queued_and_held_bytes() as u64,
            oldest_us: self.oldest_us(now),
            stuck_us: waits.then(|| self.untaken_us(now.mono_us)),
            traffic: self.traffic(),
            topics: 0,
            topic: None,
            recent_messages: 0,
            slow: None,
        }
    }

    /// The waiting frames, for the line about a client that is dropped.
    pub(super) fn waiting(&self, now: Now) -> Dropped {
        Dropped {
            messages: self.queued_frames() as u64,
            bytes: self.queued_and_held_bytes() as u64,
            untaken_us: self.untaken_us(now.mono_us),
            ..Dropped::default()
        }
    }
}

impl Ended {
    /// The beginning of the user, for the log. A cut needs the whole.
    pub fn user_in_log(&self) -> Option<&str> {
        self.user.as_deref().map(user_in_log)
    }
}

/// The beginning of a user's name that the log shows.
pub(crate) fn user_in_log(user: &str) -> &str {
    let end = user.char_indices().nth(USER_CHARS_MAX);
    &user[..end.map_or(user.len(), |(at, _)| at)]
}

/// The index of the first byte of [`PARAMETERS`] in a path, plain or percent-encoded any number of
/// times (`%3B`, `%253B`); the length of the path if there is none.
fn parameters_begin(path: &str) -> usize {
    let begins = |at: &usize| match &path.as_bytes()[*at..] {
        [b'%', encoded @ ..] => decoded(encoded).is_some_and(|byte| PARAMETERS.contains(&byte)),
        [byte, ..] => PARAMETERS.contains(byte),
        [] => false,
    };
    (0..path.len()).find(begins).unwrap_or(path.len())
}

/// The byte that two hexadecimal digits after a `%` mean, once each `%25` is decoded to `%`.
fn decoded(mut encoded: &[u8]) -> Option<u8> {
    while let Some(rest) = encoded.strip_prefix(b"25") {
        encoded = rest;
    }
    let digits = str::from_utf8(encoded.get(..2)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;

    fn logged(path: &str) -> String {
        let peer = Peer::Unix(None);
        let now = Now {
            mono_us: 0,
            unix_us: 0,
        };
        let mut record = Record::new(peer, now);
        record.set_path(path, &mut Arc::default());
        String::from(
            record
                .ended(now, CloseReason::Policy, Traffic::default(), None)
                .path,
        )
    }

    #[test]
    fn the_name_in_a_certificate_stays_beside_the_user() {
        let now = Now {
            mono_us: 0,
            unix_us: 0,
        };
        let mut record = Record::new(Peer::Unix(None), now);
        record.set_secured(Secured {
            version: "1.3",
            user: Some("ann.example".into()),
            certificate_bytes: 0,
        });
        let cut = |user: &str| {
            let json = format!(r#"{{"user":"{user}"}}"#);
            Cut::read(json.as_bytes()).expect("a cut")
        };
        for (user, is_own_name, shown) in [
            (None, false, "ann.example"),
            (Some("ann"), false, "ann"),
            // A new token without a user.
            (None, false, "ann.example"),
            // A device.
            (Some("sha256:1"), true, "ann.example"),
        ] {
            match is_own_name {
                true => record.set_own_name(user.map(Into::into)),
                false => record.set_user(user.map(Into::into)),
            }
            assert_eq!(record.shown_user(), Some(shown), "{user:?}");
            let chosen = |user: &str| cut(user).matches(&record.connected(""));
            assert!(chosen("ann.example"), "{user:?}");
            for other in ["ann", "sha256:1"] {
                assert_eq!(chosen(other), user == Some(other), "{user:?}");
            }
        }
    }

    #[test]
    fn a_long_user_is_short_in_the_log_alone() {
        let now = Now {
            mono_us: 0,
            unix_us: 0,
        };
        let mut record = Record::new(Peer::Unix(None), now);
        let user = "\u{e4}".repeat(200);
        record.set_user(Some(user.as_str().into()));
        let ended = record.ended(now, CloseReason::Policy, Traffic::default(), None);
        assert_eq!(ended.user.as_deref(), Some(&*user));
        assert_eq!(ended.user_in_log(), Some(&*"\u{e4}".repeat(USER_CHARS_MAX)));
    }

    #[test]
    fn a_path_is_logged_up_to_where_parameters_may_begin() {
        for (path, want) in [
            ("/ws", "/ws"),
            ("/market/ws%20a/%41", "/market/ws%20a/%41"),
            ("/ws;token=SECRET", "/ws"),
            ("/ws;a/b", "/ws"),
            ("/ws/%3Ftoken=SECRET", "/ws/"),
            ("/ws%3ftoken%3dSECRET", "/ws"),
            ("/ws%253Ftoken=SECRET", "/ws"),
            ("/ws%25253btoken=SECRET", "/ws"),
            ("/ws&token=SECRET", "/ws"),
            ("/ws/token=SECRET", "/ws/token"),
            ("/ws/token%3DSECRET", "/ws/token"),
            ("/ws%23token", "/ws"),
            ("/100%/%", "/100%/%"),
            ("/%25/%2", "/%25/%2"),
        ] {
            assert_eq!(logged(path), want, "{path}");
        }
        assert_eq!(logged(&"/".repeat(1_000)).len(), PATH_CHARS_MAX);
    }
}
