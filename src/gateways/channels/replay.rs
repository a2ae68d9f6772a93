//! All kept messages of names, for clients that ask for them (`"last":"all"`): page by page, at the pace of the client's
//! reading, and then the live messages. Here a replay begins and ends.
//!
//! A page comes from the history as soon as the history has everything after the client's position; the last page of
//! the history and the client's join are one call of the gateway, so nothing is missing between them and nothing comes
//! twice. What is older comes from the stream: a question for all messages, of which [`retained`](super::retained) keeps
//! the clients, the pages and the bytes.
//!
//! | file | owns |
//! | --- | --- |
//! | `state`, `cut` | one replay: how far it is, and from where it goes on; why messages are missing |
//! | `names` | the names of a replay, and the messages counted for each |
//! | `client` | the replays of a client; how one is added, found and removed |
//! | `rounds`, `pauses` | pages of the history, in rounds over the replays; clients that pause |
//! | `questions`, `stored` | questions to the stream; the messages that they bring |

mod client;
mod cut;
mod names;
mod pauses;
mod questions;
mod rounds;
mod state;
mod stored;

pub(super) use self::client::{ClientReplays, ReplaysByName};
use self::names::ReplayedName;
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
        let since = match since {
            AllSince::At(since) => since,
            AllSince::Absent => return Ok(()),
            AllSince::Invalid(why) => return Err(*why),
        };
        let since = CopyPosition::parse(since).ok_or(NotRecovered::Bad)?;
        core.check_feed(since.position)
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
        for name in &replayed.off {
            // The end follows what an earlier request brings.
            if !self.retained.is_replayed(name, key) {
                // No messages, and so no position.
                let frame = Answer::last(core, name, 0, Some(RetainedCut::Off), None);
                core.send(key, &frame);
            }
        }
        let since = replayed.since.as_deref().and_then(CopyPosition::parse);
        // A position of an event stream applies to all of its names, so these come together, in the order of the feed.
        if client.is_stream() {
            self.begin_replay(core, key, client, replayed.names, since);
            return;
        }
        // On a WebSocket each name has a position of its own: its messages are between those of other names, and requests
        // for more names may come at any time.
        for name in replayed.names {
            self.begin_replay(core, key, client, vec![name], since);
        }
    }

    /// Begins to send all kept messages of these names, in the order of the feed. Without room, the client gets none of
    /// them, and goes on live.
    fn begin_replay(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        names: Vec<TopicName>,
        since: Option<CopyPosition>,
    ) {
        if names.is_empty() {
            return;
        }
        let syntax = self.syntax();
        let names = names
            .into_iter()
            .map(|name| ReplayedName::new(syntax, name));
        let names: Vec<ReplayedName> = names.collect();
        match self.charge_replay(client.held.address(), &names) {
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
