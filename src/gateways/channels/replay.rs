//! All kept messages of names, for clients that ask for them (`"last":"all"`): page by page, at the pace of the client's
//! reading, and then the live messages.
//!
//! A page comes from the history as soon as the history has everything after the client's position; the last page of
//! the history and the client's join are one call of the gateway, so nothing is missing between them and nothing comes
//! twice. What is older comes from the stream: a question for all messages, of which [`Retained`] keeps the clients,
//! the pages and the bytes. A message that the client has already is left out: of the stream by its position, however often
//! the stream is asked, of the history by the history's number ([`KeptCursor`]), whatever is lost meanwhile.
//!
//! What a client may lack is said at the end. The bus sees what the stream has removed after the place where a question
//! begins, so no question begins before what the client has got. What this instance has lost after the client's position
//! counts too ([`KeptCursor::read_all`]).
//!
//! A replay has an end: a stream that brings nothing new is asked so many times, one that is made anew twice, and what the
//! history has is walked over once.
//!
//! The names of an event stream come together, in the order of the feed, because a position applies to all of them. On
//! a WebSocket each name comes by itself, from a position of its own: its messages are between those of other names,
//! and requests for more names may come at any time.
//!
//! JetStream is asked for one name at a time. Redis reads the whole stream for any name, so there a question has a
//! *scope*: all names of all clients. Those of a client that have come equally far share one reading, and so do clients
//! that begin together ([`super::retained`]); a name that is asked for meanwhile waits for the next.
//!
//! What a client waits for is charged with its names: without room, it gets no kept messages, and goes on live.
//!
//! | file | owns |
//! | --- | --- |
//! | `state`, `cut` | one replay: how far it is, and from where it goes on; why messages are missing |
//! | `names` | the names of a replay, and the messages counted for each |
//! | `of_client` | the replays of a client; how one is added, found and removed |
//! | `rounds`, `pauses` | pages of the history, in rounds over the replays; clients that pause |
//! | `questions`, `copies` | pages of the stream; the frames of their messages |

mod copies;
mod cut;
mod names;
mod of_client;
mod pauses;
mod questions;
mod rounds;
mod state;

use self::names::ReplayedName;
pub(super) use self::of_client::{ClientReplays, ReplaysByName};
pub(super) use self::pauses::PausedClients;
pub(super) use self::state::Replay;
use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::messages::Answer;
use super::resume::AllSince;
use weirgate_core::{
    CopyPosition, Core, NotRecovered, Outcome, RetainedCut, SessionKey, TopicName,
};
use weirgate_wire::admission::{ClientAddr, Permit};

/// A client gets no kept messages if they would leave less than one such part of the memory of names, an eighth, free
/// for its address.
const ROOM_OF_NAMES: u64 = 8;

/// Names of which a client gets all kept messages, and its position.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) names: Vec<TopicName>,
    /// Granted names without a resume: nothing is kept of them.
    pub(super) off: Vec<TopicName>,
    pub(super) since: Option<String>,
}

impl ChannelsGateway {
    /// Checks whether the position of a request, if it has one, may be one of the kept feed.
    ///
    /// # Errors
    /// It is no position, or one of another feed, or perhaps one from before a loss of the stream.
    pub(super) fn check_since(&self, core: &Core, since: &AllSince) -> Outcome {
        let feed_hash = core.newest_read().map(|position| position.feed_hash);
        let since = match since {
            AllSince::At(since) => since,
            AllSince::Absent => return Ok(()),
            AllSince::Invalid(why) => return Err(*why),
        };
        let since = CopyPosition::parse(since).ok_or(NotRecovered::Bad)?;
        let position = since.position;
        match feed_hash.is_none_or(|hash| hash == position.feed_hash) {
            true if core.may_be_before_loss(position) => Err(NotRecovered::Gap),
            true => Ok(()),
            false => Err(NotRecovered::Bad),
        }
    }

    /// Begins to send all kept messages of `replayed.names` to a client. It is told at once that nothing is kept of
    /// `replayed.off`, unless it still gets those from an earlier request.
    pub(super) fn begin_replays(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        replayed: Replayed,
    ) {
        for name in replayed.off {
            // The end follows what an earlier request brings.
            if self.retained.is_replayed(&name, key) {
                continue;
            }
            let cut = Some(RetainedCut::Off);
            // No messages, and so no position.
            let frame = Answer::last(core, &name, 0, cut, None);
            core.send(key, &frame);
        }
        let since = replayed.since.as_deref().and_then(CopyPosition::parse);
        let names = replayed.names;
        let together = match client.is_stream() {
            true => vec![names],
            false => names.into_iter().map(|name| vec![name]).collect(),
        };
        let (syntax, address) = (self.syntax(), client.held.address());
        for names in together.into_iter().filter(|names| !names.is_empty()) {
            let names = names
                .into_iter()
                .map(|name| ReplayedName::new(syntax, name));
            let names: Vec<ReplayedName> = names.collect();
            match self.charge_replay(address, &names) {
                Some(memory) => {
                    let replay = Replay::new(syntax, names, since, memory);
                    self.retained.replay(key, replay);
                }
                None => {
                    self.stats.retained_given_up.add(names.len() as u64);
                    self.go_live(core, key, client, &names, Some(RetainedCut::Limit));
                }
            }
        }
    }

    /// Charges a replay of these names. The names themselves have more room: without room for a replay, a client can
    /// still get live messages.
    fn charge_replay(&self, address: ClientAddr, names: &[ReplayedName]) -> Option<Permit> {
        let name_bytes = self.names.bytes();
        let bytes: u64 = names.iter().map(ReplayedName::memory_bytes).sum();
        let has_room = name_bytes.room_for(address) >= bytes + name_bytes.max() / ROOM_OF_NAMES;
        has_room.then(|| name_bytes.grant(address, bytes))?
    }

    /// Ends a replay: the client has all messages, joins the names in this call, and is told the count.
    fn end_replay(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) {
        if let Some(replay) = self.retained.remove_replay(name, key) {
            self.go_live(
                core,
                key,
                client,
                replay.names.as_slice(),
                replay.cut.reason(),
            );
            self.names.update_stats(&self.stats, core.memberships());
        }
    }

    /// Makes a client a member of names of which it gets no more kept messages, and tells it how many it has got.
    fn go_live(
        &self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        names: &[ReplayedName],
        cut: Option<RetainedCut>,
    ) {
        for name in names {
            self.join(core, key, client, name.name());
        }
        let position = core.position();
        for name in names {
            let frame = Answer::last(core, name.name(), name.count(), cut, position);
            core.send_end(key, name.name(), &frame);
        }
    }
}
