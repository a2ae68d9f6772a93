//! A stream at two servers, of which one is behind the other.

use weirgate_core::{PageCursor, RetainedCut, StoredId, TopicName};
use weirgate_test_support::LinkProxy;
use weirgate_wire::admission::ClientAddr;

use super::stream::{KEY, add, read, run, source, until};
use super::*;

/// A master, its replica, and a link whose new connections lead to one of them.
struct Two {
    master: RedisServer,
    replica: RedisServer,
    clients: [redis::Connection; 2],
    link: LinkProxy,
}

impl Two {
    /// Both have three entries. The link leads to the master.
    fn start() -> Self {
        let (master, replica) = (RedisServer::start(), RedisServer::start());
        let clients = [master.client(), replica.client()];
        let link = LinkProxy::to(("127.0.0.1", master.port()));
        let mut two = Self {
            master,
            replica,
            clients,
            link,
        };
        two.follow();
        (0..3).for_each(|n| two.add(n));
        two.until_equal();
        two
    }

    fn add(&mut self, n: u32) {
        add(&mut self.clients[0], &[], n.to_string());
    }

    fn replica_of(&mut self, words: [&str; 2]) {
        let mut command = redis::cmd("REPLICAOF");
        let () = command.arg(&words).query(&mut self.clients[1]).expect("OK");
    }

    /// Lets the replica follow the master.
    fn follow(&mut self) {
        let port = self.master.port().to_string();
        self.replica_of(["127.0.0.1", &port]);
    }

    /// Cuts the replica off from the master. It stays a replica, and gives what it has.
    fn cut_off(&mut self) {
        let nobody = free_port().to_string();
        self.replica_of(["127.0.0.1", &nobody]);
    }

    fn until_equal(&mut self) {
        let [master, replica] = &mut self.clients;
        let length = |client: &mut redis::Connection| -> usize {
            redis::cmd("XLEN").arg(KEY).query(client).expect("a length")
        };
        eventually("the replica has all", || length(master) == length(replica));
    }

    fn settings(&self) -> RedisSettings {
        settings(&self.link.url().replace("nats", "redis"))
    }
}

/// A source with its pages.
struct RunningPages {
    interest: BusInterest,
    events: Receiver<BusEvent>,
    number: u64,
}

impl RunningPages {
    fn run(settings: RedisSettings) -> Self {
        let status = Arc::new(BusStatus::new(&[], 1));
        let with_pages = source(settings, &status).with_pages();
        let (source, interest) = with_pages.expect("pages");
        let events = run(source);
        let number = 0;
        Self {
            interest,
            events,
            number,
        }
    }

    fn ask(&mut self, after: Option<StoredId>) {
        self.number += 1;
        let (names, after) = (Arc::from([TopicName::fixed("a")]), PageCursor::after(after));
        let who = (self.number, ClientAddr::Unix);
        let all = Subscription::pattern("*");
        self.interest.ask_all(all, who, (Arc::new(after), names));
    }

    /// The messages that the question brings within this time, in which it does not end.
    fn messages_for(&self, time: Duration) -> Vec<String> {
        let mut values = Vec::new();
        let until = Instant::now() + time;
        while let Some(event) = next_of(&self.events, until) {
            match event {
                BusEvent::LastValue { message, .. } => {
                    values.push(String::from_utf8(message.payload).expect("text"));
                }
                BusEvent::RetainedEnd { .. } => panic!("{event:?} after {values:?}"),
                _ => {}
            }
        }
        values
    }

    /// The messages that the question brings, and why others are missing.
    fn answer(&self) -> (Vec<String>, Option<RetainedCut>) {
        let mut values = Vec::new();
        loop {
            match soon(&self.events).expect("an answer") {
                BusEvent::LastValue {
                    number, message, ..
                } if number == self.number => {
                    values.push(String::from_utf8(message.payload).expect("text"));
                }
                BusEvent::RetainedEnd { number, cut, .. } if number == self.number => {
                    return (values, cut);
                }
                _ => {}
            }
        }
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn all_messages_come_from_the_server_that_the_source_reads_now() {
    let mut two = Two::start();
    let mut pages = RunningPages::run(two.settings());
    until(&pages.events, 3);
    pages.ask(None);
    assert_eq!(pages.answer(), (numbers(0..3), None));
    // The master lives on, and the connection of the pages with it; that of the source leads to the new master.
    two.replica_of(["NO", "ONE"]);
    two.link.lead_to(two.replica.port());
    two.link.end_one(0);
    for n in 3..6 {
        add(&mut two.clients[1], &[], n.to_string());
    }
    until(&pages.events, 3);
    pages.ask(None);
    assert_eq!(pages.answer(), (numbers(0..6), None));
}

#[test]
fn all_messages_wait_for_a_server_that_is_behind() {
    let mut two = Two::start();
    let mut pages = RunningPages::run(two.settings());
    until(&pages.events, 3);
    two.cut_off();
    two.link.lead_to(two.replica.port());
    (3..6).for_each(|n| two.add(n));
    until(&pages.events, 3);
    pages.ask(None);
    let before = pages.messages_for(Duration::from_millis(700));
    assert_eq!(before, numbers(0..3));
    two.follow();
    assert_eq!(pages.answer(), (numbers(3..6), None));
}

#[test]
fn a_server_that_stays_behind_does_not_give_all_messages() {
    let mut two = Two::start();
    let mut pages = RunningPages::run(two.settings());
    until(&pages.events, 3);
    two.cut_off();
    two.link.lead_to(two.replica.port());
    two.add(3);
    until(&pages.events, 1);
    pages.ask(None);
    let refused = Some(RetainedCut::Refused);
    assert_eq!(pages.answer(), (numbers(0..3), refused));
}

#[test]
fn a_position_that_a_server_does_not_have_yet_is_one_of_the_stream() {
    let mut two = Two::start();
    let mut pages = RunningPages::run(two.settings());
    until(&pages.events, 3);
    two.cut_off();
    two.link.lead_to(two.replica.port());
    two.add(3);
    until(&pages.events, 1);
    let newest = newest_id(&mut two.clients[0]);
    pages.ask(Some(newest));
    let none = pages.messages_for(Duration::from_millis(700));
    assert!(none.is_empty(), "{none:?}");
    two.follow();
    assert_eq!(pages.answer(), (Vec::new(), None));
}

#[test]
fn all_messages_end_where_the_newest_one_was_deleted() {
    let server = RedisServer::start();
    let mut client = server.client();
    (0..3).for_each(|n| add(&mut client, &[], n.to_string()));
    let mut pages = RunningPages::run(settings(&server.url()));
    until(&pages.events, 3);
    let StoredId { major, minor } = newest_id(&mut client);
    let mut delete = redis::cmd("XDEL");
    let deleted: usize = delete
        .arg(KEY)
        .arg(format!("{major}-{minor}"))
        .query(&mut client)
        .expect("deleted");
    assert_eq!(deleted, 1);
    pages.ask(None);
    assert_eq!(pages.answer(), (numbers(0..2), None));
}

fn newest_id(client: &mut redis::Connection) -> StoredId {
    let script = "return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]";
    let mut command = redis::cmd("EVAL");
    let id: String = command
        .arg(script)
        .arg(1)
        .arg(KEY)
        .query(client)
        .expect("an id");
    let (major, minor) = id.split_once('-').expect("two parts");
    StoredId {
        major: major.parse().expect("a number"),
        minor: minor.parse().expect("a number"),
    }
}

#[test]
fn the_source_leaves_a_server_that_is_behind_and_nothing_comes_twice() {
    let mut two = Two::start();
    let (events, _) = read(two.settings());
    until(&events, 3);
    two.cut_off();
    (3..6).for_each(|n| two.add(n));
    until(&events, 3);
    two.link.lead_to(two.replica.port());
    two.link.end_one(0);
    thread::sleep(Duration::from_secs(1));
    two.follow();
    two.add(6);
    assert_eq!(until(&events, 1), ["Down", "Up", "CaughtUp", "a: 6"]);
}

/// Its link to the master stands, and brings nothing for longer than another server would be waited for.
#[test]
fn a_replica_that_lacks_writes_is_waited_for_and_nothing_comes_twice() {
    let mut two = Two::start();
    let path = LinkProxy::to(("127.0.0.1", two.master.port()));
    let port = path.url().rsplit(':').next().expect("a port").to_owned();
    two.replica_of(["127.0.0.1", &port]);
    two.add(3);
    two.until_equal();
    let (events, _) = read(two.settings());
    until(&events, 4);
    path.black_hole();
    (4..7).for_each(|n| two.add(n));
    until(&events, 3);
    // Until the source knows how far the writes of the master have come.
    thread::sleep(Duration::from_millis(2_500));
    two.link.lead_to(two.replica.port());
    two.link.end_one(0);
    thread::sleep(Duration::from_secs(12));
    path.let_new_ones_through();
    path.end_dead_ones();
    two.until_equal();
    two.add(7);
    assert_eq!(until(&events, 1), ["Down", "Up", "CaughtUp", "a: 7"]);
}

#[test]
fn a_new_master_without_the_newest_entries_is_a_loss_after_some_seconds() {
    let mut two = Two::start();
    let (events, _) = read(two.settings());
    until(&events, 3);
    two.cut_off();
    two.add(3);
    until(&events, 1);
    two.replica_of(["NO", "ONE"]);
    two.link.lead_to(two.replica.port());
    two.link.end_one(0);
    let began = Instant::now();
    while short(&soon(&events).expect("an event")) != "Gap" {}
    assert!(began.elapsed() < patient(Duration::from_secs(10)));
    add(&mut two.clients[1], &[], "4");
    let seen = until(&events, 1);
    assert_eq!(seen[1..], ["Up", "CaughtUp", "a: 4"], "{seen:?}");
}
