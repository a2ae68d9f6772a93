//! The table of services: which service handles an event or a path of clients. The services of the contract are its
//! first rows; each `--route` gives further events to a service, which is a new row unless its URL is in the table. Pure.

use std::fmt;

/// The most routes beside those of the contract. A part of the calls is reserved for each service, and each has several
/// series of metrics.
const ROUTES_MAX: usize = 32;

/// A service behind the gateway: its number in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsService(usize);

impl EventsService {
    /// `LOBBY_URL`.
    pub const LOBBY: Self = Self(0);
    /// `MEASUREMENT_URL`.
    pub const MEASUREMENT: Self = Self(1);
    /// `SIMULATION_URL`.
    pub const SIMULATION: Self = Self(2);

    /// The index of its row in the table.
    pub const fn number(self) -> usize {
        self.0
    }

    /// The services of any table, in the order of their numbers.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// The name in metrics, logs and pages: of the contract, or the events of the first route to the service.
    pub name: &'static str,
    /// The base URL, as [`Upstream`](crate::services::Upstream) shows it.
    pub url: String,
    /// Paths of clients that go to the service (http.md, "The proxy of the events gateway"): the path of the route, and the
    /// prefix that the gateway removes before it forwards the request.
    pub proxied: &'static [(&'static str, &'static str)],
}

/// A service of the contract, before its URL is known.
struct OfContract {
    name: &'static str,
    events: &'static [&'static str],
    /// As in [`ServiceRow`].
    proxied: &'static [(&'static str, &'static str)],
}

/// The services and routes of the contract. Events of measurement sessions go to the lobby, which keeps the state of the
/// sessions; only measurement jobs, which have no state, go to the measurement service.
const CONTRACT: [OfContract; 3] = [
    OfContract {
        name: "lobby",
        events: &["lobby.*", "role.*", "measurement.*"],
        proxied: &[],
    },
    OfContract {
        name: "measurement",
        events: &[
            "measurement.create_job",
            "measurement.get_job",
            "measurement.get_audio_info",
            "analysis.*",
        ],
        proxied: &[("/v1/measurement/{path}", ""), ("/v1/jobs/{path}", "")],
    },
    OfContract {
        name: "simulation",
        events: &["simulation.*"],
        proxied: &[("/v1/simulation/{path}", "/v1/simulation")],
    },
];

/// The URL of a service of the contract, unless it is set.
pub(super) fn default_url(name: &str) -> String {
    format!("http://{name}:8000")
}

/// The events of a route: one event, or with `.*` at the end all that begin with the words before and a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Events(String);

impl Events {
    /// Reads words of letters, digits, `-`, `_` and `:` with dots between them. Events of the gateway itself are no
    /// route's: `identify`, and those that begin with `gateway`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words = text.strip_suffix(".*").unwrap_or(text);
        let is_word = |word: &str| {
            let is_good = |c: char| c.is_alphanumeric() || "-_:".contains(c);
            !word.is_empty() && word.chars().all(is_good)
        };
        let is_own = text == "identify" || words.split('.').next() == Some("gateway");
        (words.split('.').all(is_word) && !is_own).then(|| Self(text.to_owned()))
    }

    /// Whether `event` is one of these events.
    fn contain(&self, event: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => event.starts_with(beginning),
            None => self.0 == event,
        }
    }

    /// Of two that have the same event, the more specific has the larger rank: one event, or the longer beginning.
    fn rank(&self) -> (bool, usize) {
        (!self.0.ends_with('*'), self.0.len())
    }
}

/// The text that [`Events::parse`] reads.
impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a route is not added to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteRefusal {
    /// The events have a route, to the service of this name.
    Taken(&'static str),
    /// There are as many routes as there may be.
    Full,
}

/// Says what is allowed.
impl fmt::Display for RouteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(name) => write!(f, "events without a route; these go to {name}"),
            Self::Full => write!(f, "at most {ROUTES_MAX} routes"),
        }
    }
}

/// The table of services and their events.
#[derive(Clone, Debug)]
pub struct Services {
    rows: Vec<ServiceRow>,
    /// The most specific events first.
    routes: Vec<(Events, EventsService)>,
}

/// The contract's, at the URLs of the contract.
impl Default for Services {
    fn default() -> Self {
        Self::new(CONTRACT.map(|service| default_url(service.name)))
    }
}

impl Services {
    /// The services of the contract, at these URLs.
    pub(super) fn new(urls: [String; CONTRACT.len()]) -> Self {
        let mut table = Self {
            rows: Vec::new(),
            routes: Vec::new(),
        };
        for (of_contract, url) in CONTRACT.into_iter().zip(urls) {
            let OfContract {
                name,
                events,
                proxied,
            } = of_contract;
            let service = table.insert(ServiceRow { name, url, proxied });
            let events = events.iter().map(|&events| Events(events.to_owned()));
            table.routes.extend(events.map(|events| (events, service)));
        }
        table.sort();
        table
    }

    /// Gives these events to the service at `url`.
    ///
    /// # Errors
    /// Exactly these events have a route, or there are too many routes.
    pub(super) fn route(&mut self, events: Events, url: &str) -> Result<(), RouteRefusal> {
        if let Some((_, service)) = self.routes.iter().find(|(taken, _)| *taken == events) {
            return Err(RouteRefusal::Taken(self.row(*service).name));
        }
        let of_contract = CONTRACT.iter().map(|service| service.events.len());
        if self.routes.len() >= ROUTES_MAX + of_contract.sum::<usize>() {
            return Err(RouteRefusal::Full);
        }
        let known = self.rows.iter().position(|row| row.url == url);
        let service =
            known.map_or_else(|| self.insert(ServiceRow::of(&events, url)), EventsService);
        self.routes.push((events, service));
        self.sort();
        Ok(())
    }

    fn insert(&mut self, row: ServiceRow) -> EventsService {
        self.rows.push(row);
        EventsService(self.rows.len() - 1)
    }

    fn sort(&mut self) {
        let rank = |(events, _): &(Events, EventsService)| std::cmp::Reverse(events.rank());
        self.routes.sort_by_key(rank);
    }

    /// The service of an event; `None` for an unknown event. If several routes have the event, the most specific counts.
    pub fn service_for(&self, event: &str) -> Option<EventsService> {
        let mut routes = self.routes.iter();
        routes
            .find(|(events, _)| events.contain(event))
            .map(|(_, service)| *service)
    }

    /// The row of a service of this table.
    pub fn row(&self, service: EventsService) -> &ServiceRow {
        &self.rows[service.0]
    }

    /// All services with their rows, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (EventsService, &ServiceRow)> {
        EventsService::all().zip(&self.rows)
    }

    /// The rows, in the order of their numbers.
    pub fn rows(&self) -> &[ServiceRow] {
        &self.rows
    }
}

impl ServiceRow {
    /// A service of a route. The name is a label of metrics, which live as long as the process.
    fn of(events: &Events, url: &str) -> Self {
        Self {
            name: events.to_string().leak(),
            url: url.to_owned(),
            proxied: &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Events {
        Events::parse(text).unwrap_or_else(|| panic!("{text} are no events"))
    }

    #[test]
    fn events_of_the_contract_go_to_their_services() {
        let table = Services::default();
        let (lobby, measurement, simulation) = (
            Some(EventsService::LOBBY),
            Some(EventsService::MEASUREMENT),
            Some(EventsService::SIMULATION),
        );
        for (event, service) in [
            ("lobby.create", lobby),
            ("lobby.", lobby),
            ("role.assign.x", lobby),
            ("measurement.create_job", measurement),
            ("measurement.get_job", measurement),
            ("measurement.get_audio_info", measurement),
            ("measurement.get_job.x", lobby),
            ("measurement.ready", lobby),
            ("analysis.run", measurement),
            ("simulation.run", simulation),
            ("lobby", None),
            ("Lobby.create", None),
            ("lobbyx.create", None),
            (".lobby", None),
            ("identify", None),
        ] {
            assert_eq!(table.service_for(event), service, "{event}");
        }
        let names: Vec<_> = table.rows().iter().map(|row| row.name).collect();
        assert_eq!(names, ["lobby", "measurement", "simulation"]);
        for (number, (service, _)) in table.iter().enumerate() {
            assert_eq!(service.number(), number);
        }
    }

    #[test]
    fn the_most_specific_route_counts_in_whatever_order_they_are_given() {
        let routes = [
            ("orders.*", "http://orders"),
            ("orders.vip.*", "http://vip"),
            ("orders.vip.get", "http://get"),
            ("lobby.chat.*", "http://chat"),
            ("ping", "http://ping"),
            ("measurement.ready", "http://orders"),
        ];
        for turned in 0..routes.len() {
            let mut table = Services::default();
            for (text, url) in routes.iter().cycle().skip(turned).take(routes.len()) {
                table.route(events(text), url).expect("a route");
            }
            for (event, url) in [
                ("orders.get", Some("http://orders")),
                ("orders.", Some("http://orders")),
                ("orders", None),
                ("orders.vip", Some("http://orders")),
                ("orders.vip.x", Some("http://vip")),
                ("orders.vip.get", Some("http://get")),
                ("orders.vip.get.x", Some("http://vip")),
                ("lobby.chat.say", Some("http://chat")),
                ("lobby.chat", Some("http://lobby:8000")),
                ("measurement.ready", Some("http://orders")),
                ("measurement.get_job", Some("http://measurement:8000")),
                ("ping", Some("http://ping")),
                ("ping.x", None),
            ] {
                let found = table
                    .service_for(event)
                    .map(|service| table.row(service).url.as_str());
                assert_eq!(found, url, "{event}");
            }
        }
    }

    #[test]
    fn a_service_is_its_url() {
        let mut table = Services::default();
        for (text, url) in [
            ("orders.*", "http://shop"),
            ("carts.*", "http://shop"),
            ("chat.*", "http://lobby:8000"),
        ] {
            table.route(events(text), url).expect("a route");
        }
        let name = |event| {
            table
                .service_for(event)
                .map(|service| table.row(service).name)
        };
        assert_eq!(table.rows().len(), 4);
        assert_eq!(name("carts.get"), Some("orders.*"));
        assert_eq!(name("chat.say"), Some("lobby"));
    }

    #[test]
    fn events_have_one_route_each_and_routes_a_limit() {
        let mut table = Services::default();
        let mut route = |text: &str, url: &str| table.route(events(text), url);
        for (text, name) in [
            ("lobby.*", "lobby"),
            ("measurement.*", "lobby"),
            ("measurement.get_job", "measurement"),
            ("analysis.*", "measurement"),
        ] {
            assert_eq!(route(text, "http://x"), Err(RouteRefusal::Taken(name)));
        }
        for n in 0..ROUTES_MAX {
            assert_eq!(route(&format!("r{n}.*"), "http://x"), Ok(()));
        }
        assert_eq!(route("r0.*", "http://y"), Err(RouteRefusal::Taken("r0.*")));
        assert_eq!(route("more.*", "http://x"), Err(RouteRefusal::Full));
        assert_eq!(table.rows().len(), 4);
    }

    #[test]
    fn what_is_no_event_of_a_service_has_no_route() {
        for good in [
            "a.*",
            "a",
            "a.b",
            "a-b_c:d.é.*",
            "Identify",
            "gateways.*",
            "identify.*",
        ] {
            assert_eq!(events(good).to_string(), good);
        }
        for bad in [
            "",
            "*",
            ".*",
            "a*",
            "a.*.b",
            "a.*.*",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a=b",
            "a,b",
            "a.>",
            "identify",
            "gateway",
            "gateway.*",
            "gateway.x",
            "http://a",
            "a\"",
            "a\u{7}",
        ] {
            assert_eq!(Events::parse(bad), None, "{bad}");
        }
    }
}
