//! The names that clients hold, and their sums over all clients, with a share for each client address.
//!
//! A name counts once in the sums, and once for each address with a client that holds it. Otherwise an address could
//! ask for the names of other addresses without a permit, and keep them all when the others leave. The memory that
//! links a client to a name counts for each client. A client holds a name from the grant on, also while it waits to
//! join with an answer.

use super::ChannelsStats;
use super::bus_requests::BusRequests;
use super::held::HeldNames;
use super::patterns::matcher;
use weirgate_core::{Active, TopicName};
use weirgate_wire::admission::{ClientAddr, Permit, Quota};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::{ChunkedSlab, ExtendibleMap};

/// Limits over all clients. A name that several clients hold counts once. An address gets more only while it holds less
/// than what is free.
#[derive(Clone, Copy, Debug)]
pub struct AllClientsLimits {
    /// Names, patterns included.
    pub names_max: usize,
    /// Patterns. Redis compares every publication with each of them, and the gateway every new name.
    pub patterns_max: usize,
    /// Memory of all names and of each client's hold on a name: [`Self::NAME_BYTES`], what the pattern takes parsed,
    /// [`Self::NAME_OF_CLIENT_BYTES`].
    pub name_bytes_max: usize,
}

impl AllClientsLimits {
    /// Memory of a name beside its text: its entries in the tables of the gateway, of the hub and of the bus thread. A test
    /// compares these constants with the allocator's figures.
    pub const NAME_BYTES: u64 = 640;

    /// Memory of one client that holds a name.
    pub const NAME_OF_CLIENT_BYTES: u64 = 104;

    /// Memory of a pattern that the gateway matches, beside the parsed pattern: its entries in the table of patterns.
    const PATTERN_BYTES: usize = 320;

    /// The most memory of a parsed pattern for each byte of its text: a NATS pattern can have a word for every two
    /// bytes.
    const PATTERN_BYTES_EACH: usize = 32;

    /// The least memory of a pattern that a client holds.
    const PATTERN_BYTES_LEAST: usize =
        (Self::NAME_BYTES + Self::NAME_OF_CLIENT_BYTES) as usize + Self::PATTERN_BYTES;

    /// Memory of a name of which a client gets all kept messages: its entries in the replay, in the questions and in those
    /// of the bus.
    pub const REPLAYED_NAME_BYTES: u64 = 736;

    /// The most patterns for which the memory of names has room.
    pub(super) fn patterns_with_memory(&self) -> usize {
        self.name_bytes_max / Self::PATTERN_BYTES_LEAST
    }

    /// The most memory of a pattern with so many bytes of text, beside the text and [`Self::NAME_BYTES`].
    pub(super) fn pattern_bytes_max(text_bytes: usize) -> usize {
        Self::PATTERN_BYTES + Self::PATTERN_BYTES_EACH * text_bytes
    }
}

impl Default for AllClientsLimits {
    fn default() -> Self {
        Self {
            names_max: 100_000,
            patterns_max: 1_000,
            name_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// A limit over all clients, in the order of the labels of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Names,
    Patterns,
    NameBytes,
    /// The copies of a message for different patterns.
    Copies,
    /// The steps of matching a name with a pattern.
    Steps,
}

impl Full {
    /// The error for a client; `max` is the limit.
    pub(super) fn error(self, max: u64) -> String {
        let what = match self {
            Self::Names => "channels",
            Self::Patterns => "wildcard subscriptions",
            Self::NameBytes => "channel name bytes",
            Self::Copies => "copies of a message",
            Self::Steps => "steps of matching",
        };
        format!("Server limit of {what} exceeded ({max})")
    }
}

/// How the messages of a name reach the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    /// In the kept feed, without a request to the bus.
    #[default]
    Kept,
    /// The bus is asked for the name.
    Requested,
    /// The gateway asks the bus for the pattern itself, though another pattern covers it.
    RequestedBesideCover,
    /// The gateway asks the bus for this pattern, which covers the name.
    Within(TopicName),
}

/// What a granted name is new to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The client holds it already.
    Nothing,
    ToClient,
    /// To the gateway too: the caller must choose how its messages come ([`Names::set_route`]).
    ToAll,
}

/// The limits in the order in which they are checked.
const ALL: [Full; 3] = [Full::Names, Full::Patterns, Full::NameBytes];

/// The names that clients hold.
#[derive(Debug)]
pub(super) struct Names {
    syntax: NameSyntax,
    /// In the order of [`ALL`].
    sums: [Quota; 3],
    /// What one client may hold, in the order of [`ALL`]. An address that holds less may also hold the names of other
    /// addresses, even if little is free.
    least: [u64; 3],
    entries: ChunkedSlab<NameEntry>,
    ids: ExtendibleMap<TopicName, u32>,
    addresses: ExtendibleMap<ClientAddr, OfAddress>,
    /// The requests to the bus for these names.
    pub(super) requests: BusRequests,
    /// The names with [`Route::RequestedBesideCover`].
    beside_covers: usize,
    /// Bytes of the texts.
    text_bytes: usize,
}

/// A name that somebody holds.
#[derive(Debug)]
struct NameEntry {
    name: TopicName,
    clients: u32,
    addresses: u32,
    /// Memory of the name, as charged.
    bytes: u32,
    route: Route,
    /// Messages are missing until the bus confirms the name: the stream no longer has it, or the bus has withdrawn it.
    is_missing: bool,
    /// The name is of the kept feed, the bus refuses it, and its members know.
    is_refused_in_feed: bool,
}

/// The names that the clients of an address hold.
#[derive(Debug)]
struct OfAddress {
    /// In the order of [`ALL`].
    permits: [Permit; 3],
    /// By the number of a name: how many clients of the address hold the name.
    clients: ExtendibleMap<u32, u32>,
}

/// The other clients that hold a client's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    None,
    /// Some have the address of the client.
    OfAddress,
    /// All have other addresses.
    OfOtherAddresses,
}

/// The amounts charged for a client's name, in the order of [`ALL`].
struct Amounts {
    all: [u64; 3],
    /// The part that the sums contain already because other addresses hold the name.
    shared: [u64; 3],
}

impl Amounts {
    /// `bytes` is the memory of the name.
    fn new(is_pattern: bool, bytes: u32, others: Others) -> Self {
        let name = [1, u64::from(is_pattern), u64::from(bytes)];
        let (mut all, shared) = match others {
            Others::OfAddress => ([0; 3], [0; 3]),
            Others::OfOtherAddresses => (name, name),
            Others::None => (name, [0; 3]),
        };
        all[Full::NameBytes as usize] += AllClientsLimits::NAME_OF_CLIENT_BYTES;
        Self { all, shared }
    }
}

/// Memory of a name beside what its clients take. A pattern counts parsed, even if only the bus matches its names: it may
/// be covered by another pattern later.
fn memory_bytes(syntax: NameSyntax, name: &str) -> u32 {
    let parsed = matcher(syntax, name).map_or(0, |matcher| {
        AllClientsLimits::PATTERN_BYTES + matcher.memory_bytes()
    });
    let bytes = AllClientsLimits::NAME_BYTES + (name.len() + parsed) as u64;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl OfAddress {
    fn new(sums: &[Quota; 3], address: ClientAddr) -> Self {
        Self {
            // No amount yet. The time does not matter, because no permit for names is evicted.
            permits: sums.each_ref().map(|sum| sum.hold(address, 0, 0)),
            clients: ExtendibleMap::default(),
        }
    }

    /// Charges a name for a client. `least` is given if another client holds it already: an address that holds less
    /// gets the name even if little is free. On an error nothing is charged.
    fn grant(&mut self, amounts: &Amounts, least: Option<[u64; 3]>) -> Result<(), Full> {
        for (at, full) in ALL.into_iter().enumerate() {
            let least = least.map_or(0, |least| least[at]);
            let (more, shared) = (amounts.all[at], amounts.shared[at]);
            if more > 0 && !self.permits[at].grant_more(more, shared, least) {
                self.give_back(amounts, at);
                return Err(full);
            }
        }
        Ok(())
    }

    /// Gives the first `count` amounts back.
    fn give_back(&mut self, amounts: &Amounts, count: usize) {
        let amounts = amounts.all.iter().zip(amounts.shared).take(count);
        for (permit, (all, shared)) in self.permits.iter_mut().zip(amounts) {
            permit.give_back(*all, shared);
        }
    }
}

impl Names {
    /// `least` is what one client may hold, in the order of [`ALL`].
    pub(super) fn new(limits: AllClientsLimits, syntax: NameSyntax, least: [usize; 3]) -> Self {
        let sum = |name, max| Quota::new(name, max as u64);
        Self {
            syntax,
            sums: [
                sum("names", limits.names_max),
                sum("patterns", limits.patterns_max),
                sum("name_bytes", limits.name_bytes_max),
            ],
            least: least.map(|least| least as u64),
            entries: ChunkedSlab::default(),
            ids: ExtendibleMap::default(),
            addresses: ExtendibleMap::default(),
            requests: BusRequests::default(),
            beside_covers: 0,
            text_bytes: 0,
        }
    }

    /// The sums over all clients.
    pub(super) fn sums(&self) -> &[Quota] {
        &self.sums
    }

    /// The memory of names, which includes waiting answers.
    pub(super) fn bytes(&self) -> &Quota {
        &self.sums[Full::NameBytes as usize]
    }

    /// Grants the name to the client, which may hold it already. Returns the name, and what is new.
    ///
    /// # Errors
    /// The limit that leaves no room for the name, and the limit's value.
    pub(super) fn hold(
        &mut self,
        client: &mut HeldNames,
        name: &str,
    ) -> Result<(TopicName, News), (Full, u64)> {
        let known = self.ids.get(name).copied();
        if let Some(id) = known
            && client.has(id)
        {
            return Ok((self.entries[id].name.clone(), News::Nothing));
        }
        let address = client.address();
        let new = || OfAddress::new(&self.sums, address);
        let of_address = self.addresses.get_or_insert_with(address, new);
        let others = match known {
            Some(id) if of_address.clients.contains_key(&id) => Others::OfAddress,
            Some(_) => Others::OfOtherAddresses,
            None => Others::None,
        };
        let is_pattern = self.syntax.is_pattern(name);
        let bytes = known.map_or_else(
            || memory_bytes(self.syntax, name),
            |id| self.entries[id].bytes,
        );
        let amounts = Amounts::new(is_pattern, bytes, others);
        if let Err(full) = of_address.grant(&amounts, known.map(|_| self.least)) {
            if of_address.clients.is_empty() {
                self.addresses.remove(&address);
            }
            return Err((full, self.sums[full as usize].max()));
        }
        let id = known.unwrap_or_else(|| {
            let name = TopicName::from(name);
            let id = self.entries.insert(NameEntry {
                name: name.clone(),
                clients: 0,
                addresses: 0,
                bytes,
                // Nothing is requested yet: the caller sets the route.
                route: Route::Kept,
                is_missing: false,
                is_refused_in_feed: false,
            });
            self.ids.insert(name, id);
            id
        });
        *of_address.clients.get_or_insert_default(id) += 1;
        let entry = &mut self.entries[id];
        entry.clients += 1;
        entry.addresses += u32::from(others != Others::OfAddress);
        client.add(id);
        client.patterns += u32::from(is_pattern);
        self.text_bytes += if known.is_none() { name.len() } else { 0 };
        let news = match known {
            Some(_) => News::ToClient,
            None => News::ToAll,
        };
        Ok((entry.name.clone(), news))
    }

    /// Whether the client holds the name.
    pub(super) fn is_held(&self, client: &HeldNames, name: &str) -> bool {
        self.ids.get(name).is_some_and(|id| client.has(*id))
    }

    /// The name with this number, if the client holds it.
    pub(super) fn held(&self, client: &HeldNames, id: u32) -> Option<TopicName> {
        let name = || self.entries[id].name.clone();
        client.has(id).then(name)
    }

    /// Every held name has a number below this one.
    pub(super) fn numbers(&self) -> u32 {
        u32::try_from(self.entries.numbers()).unwrap_or(u32::MAX)
    }

    /// The held name with this number, with whether it has [`Route::Kept`].
    pub(super) fn numbered(&self, id: u32) -> Option<(&TopicName, bool)> {
        let entry = self.entries.get(id)?;
        Some((&entry.name, entry.route == Route::Kept))
    }

    /// Sets how the messages of a held name come, and requests the name or its cover from the bus if necessary.
    pub(super) fn set_route(&mut self, name: &TopicName, route: Route) {
        let Some(id) = self.ids.get(name) else {
            return;
        };
        match &route {
            Route::Kept => {}
            Route::Requested => self.requests.want(name),
            Route::RequestedBesideCover => {
                self.beside_covers += 1;
                self.requests.want(name);
            }
            Route::Within(cover) => self.requests.want_cover(cover),
        }
        let before = std::mem::replace(&mut self.entries[*id].route, route);
        self.end_route(name, before);
    }

    /// Notes that messages of a held name are missing until the bus confirms the name, or the stream has it.
    pub(super) fn note_missing(&mut self, name: &TopicName) {
        if let Some(id) = self.ids.get(name) {
            self.entries[*id].is_missing = true;
        }
    }

    /// Whether messages of a held name are missing.
    pub(super) fn is_missing(&self, name: &TopicName) -> bool {
        let id = self.ids.get(name);
        id.is_some_and(|id| self.entries[*id].is_missing)
    }

    /// Records whether the bus refuses a held name of the kept feed. Returns whether it did before.
    pub(super) fn set_refused_in_feed(&mut self, name: &TopicName, is_refused: bool) -> bool {
        let id = self.ids.get(name);
        id.is_some_and(|id| {
            let before = &mut self.entries[*id].is_refused_in_feed;
            std::mem::replace(before, is_refused)
        })
    }

    /// What [`set_refused_in_feed`](Self::set_refused_in_feed) has recorded of a name: whether its members get the error
    /// of the refusal, or have got it. If not yet, a client that joins will get the error with them.
    pub(super) fn is_refused_in_feed(&self, name: &TopicName) -> bool {
        let id = self.ids.get(name);
        id.is_some_and(|id| self.entries[*id].is_refused_in_feed)
    }

    /// Whether messages of a name that comes from here on are missing. Returns true once.
    pub(super) fn take_missing(&mut self, name: &TopicName) -> bool {
        let id = self.ids.get(name);
        id.is_some_and(|id| std::mem::take(&mut self.entries[*id].is_missing))
    }

    /// Whether the messages of a held name come with the kept feed.
    pub(super) fn is_of_feed(&self, name: &TopicName) -> bool {
        // Only for the kept feed, `of_route` returns true without a call of the closure.
        self.of_route(name, |_, _| false)
    }

    /// Gives up what a route has requested from the bus; the kept feed has nothing to give up.
    fn end_route(&mut self, name: &TopicName, route: Route) {
        match route {
            Route::Kept => {}
            Route::Requested => self.requests.give_up(name),
            Route::RequestedBesideCover => {
                self.beside_covers -= 1;
                self.requests.give_up(name);
            }
            Route::Within(cover) => self.requests.give_up_cover(&cover),
        }
    }

    /// The wider pattern that the bus is asked for in place of a held name.
    pub(super) fn cover_of(&self, name: &TopicName) -> Option<TopicName> {
        match &self.entries[*self.ids.get(name)?].route {
            Route::Within(cover) => Some(cover.clone()),
            Route::Kept | Route::Requested | Route::RequestedBesideCover => None,
        }
    }

    /// The number of patterns requested from the bus although another pattern covers them.
    pub(super) fn beside_covers(&self) -> usize {
        self.beside_covers
    }

    /// Handles a client that gives a name up. Returns true if no client holds the name any more.
    pub(super) fn release(&mut self, client: &mut HeldNames, name: &TopicName) -> bool {
        let Some(id) = self.ids.get(name).copied() else {
            return false;
        };
        if !client.remove(id) {
            return false;
        }
        client.patterns -= u32::from(self.syntax.is_pattern(name.as_str()));
        self.release_id(client.address(), id).is_some()
    }

    /// Handles a client of this address group that has held the name with this number, and has given it up or has
    /// ended. Returns the name if no client holds it any more.
    pub(super) fn release_id(&mut self, address: ClientAddr, id: u32) -> Option<TopicName> {
        let entry = &mut self.entries[id];
        let of_address = self.addresses.get_mut(&address)?;
        let clients = of_address.clients.get_mut(&id)?;
        *clients -= 1;
        let of_address_left = *clients;
        if of_address_left == 0 {
            of_address.clients.remove(&id);
            entry.addresses -= 1;
        }
        entry.clients -= 1;
        let others = match (of_address_left, entry.addresses) {
            (1.., _) => Others::OfAddress,
            (0, 1..) => Others::OfOtherAddresses,
            (0, 0) => Others::None,
        };
        let is_pattern = self.syntax.is_pattern(entry.name.as_str());
        let amounts = Amounts::new(is_pattern, entry.bytes, others);
        of_address.give_back(&amounts, ALL.len());
        if of_address.clients.is_empty() {
            self.addresses.remove(&address);
        }
        (entry.clients == 0).then(|| self.remove_entry(id))
    }

    /// Removes a name that no client holds, and its request.
    fn remove_entry(&mut self, id: u32) -> TopicName {
        let NameEntry { name, route, .. } = self.entries.remove(id);
        self.ids.remove(&name);
        self.text_bytes -= name.as_str().len();
        self.end_route(&name, route);
        name
    }

    /// Applies `is` to the request that brings the messages of a held name: for the name itself, or for its cover.
    /// Returns true for the kept feed, which needs no request.
    fn of_route(&self, name: &TopicName, is: impl Fn(&BusRequests, &TopicName) -> bool) -> bool {
        let id = self.ids.get(name);
        id.is_some_and(|id| match &self.entries[*id].route {
            Route::Kept => true,
            Route::Requested | Route::RequestedBesideCover => is(&self.requests, name),
            Route::Within(cover) => is(&self.requests, cover),
        })
    }

    /// Whether messages of the name come: always, until the connection is lost, or not at all.
    pub(super) fn active(&self, name: &TopicName) -> Active {
        let route = self.ids.get(name).map(|id| &self.entries[*id].route);
        match route {
            Some(Route::Kept) => Active::Always,
            Some(_) if self.of_route(name, BusRequests::is_confirmed) => Active::UntilLoss,
            _ => Active::No,
        }
    }

    /// Returns true if the bus has confirmed or refused the newest request for the name, and for a name of the kept
    /// feed.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        self.of_route(name, BusRequests::is_settled)
    }

    /// Returns true if the bus has refused the newest request for the name, and for every name of the kept feed:
    /// whether it refuses one of these is in [`super::kept_names`].
    pub(super) fn is_refused(&self, name: &TopicName) -> bool {
        self.of_route(name, BusRequests::is_refused)
    }

    /// Updates the counts; `subscriptions` are clients times names.
    pub(super) fn update_stats(&self, stats: &ChannelsStats, subscriptions: usize) {
        let [names, patterns, _] = self.sums.each_ref().map(|sum| sum.held() as usize);
        stats.subscriptions.set(subscriptions);
        stats.channels.set(names - patterns);
        stats.patterns.set(patterns);
        stats.name_bytes.set(self.text_bytes);
    }
}
