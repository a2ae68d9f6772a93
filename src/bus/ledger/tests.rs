//! The ledger against a model of a server that answers commands in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A server, the commands on their way there, and the requests that wait for an answer.
#[derive(Default)]
struct World {
    ledger: Ledger,
    connected: bool,
    on_their_way: VecDeque<SubscriptionChange>,
    confirmed: BTreeSet<(bool, String)>,
    forbidden: BTreeSet<(bool, String)>,
    wanted: BTreeSet<(bool, String)>,
    /// The names with a request that has no answer yet.
    waiting: BTreeSet<(bool, String)>,
    /// The number of the newest request.
    wishes: u64,
    /// The newest request for each name.
    newest: BTreeMap<(bool, String), u64>,
    /// If subscriptions settle for [`SETTLE`]: the start of the clock. `passed` is the time since then.
    clock: Option<Instant>,
    passed: Duration,
    /// The subscribed names that have not settled.
    unsettled: BTreeSet<(bool, String)>,
}

const SETTLE: Duration = Duration::from_millis(300);

fn key(subscription: &Subscription) -> (bool, String) {
    (subscription.is_pattern, subscription.name.to_string())
}

impl World {
    fn want(&mut self, subscription: &Subscription) {
        self.wanted.insert(key(subscription));
        self.waiting.insert(key(subscription));
        self.wishes += 1;
        self.newest.insert(key(subscription), self.wishes);
        if self.ledger.want(subscription, self.wishes) {
            assert!(self.confirmed.contains(&key(subscription)));
            assert!(!self.unsettled.contains(&key(subscription)));
            assert!(!self.is_on_its_way(subscription));
            self.waiting.remove(&key(subscription));
        }
    }

    fn unwant(&mut self, subscription: &Subscription) {
        self.wanted.remove(&key(subscription));
        self.waiting.remove(&key(subscription));
        self.ledger.unwant(subscription);
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.ledger.begin_connection();
        }
    }

    fn lose(&mut self) {
        self.connected = false;
        self.on_their_way.clear();
        self.confirmed.clear();
        self.unsettled.clear();
        // All waiting requests learn that the bus is away.
        self.waiting.clear();
        self.ledger.end_connection();
    }

    fn is_on_its_way(&self, subscription: &Subscription) -> bool {
        self.on_their_way.iter().any(|change| {
            change.patterns == subscription.is_pattern && change.names.contains(&subscription.name)
        })
    }

    fn ask(&mut self) -> bool {
        let Some(change) = self.ledger.next_change() else {
            return false;
        };
        assert!(self.connected && !change.names.is_empty());
        for subscription in subscriptions(&change) {
            assert!(
                !self.is_on_its_way(&subscription),
                "two commands for {subscription:?}"
            );
        }
        self.on_their_way.push_back(change);
        true
    }

    fn answer(&mut self) -> bool {
        let Some(change) = self.on_their_way.pop_front() else {
            return false;
        };
        let all = subscriptions(&change);
        let refused = change.wanted && all.iter().any(|s| self.forbidden.contains(&key(s)));
        for subscription in &all {
            if refused {
                let number = match all.len() {
                    1 => self.ledger.refused(subscription),
                    _ => {
                        self.ledger.refused_with_others(subscription);
                        None
                    }
                };
                self.is_reported(subscription, number);
                continue;
            }
            match change.wanted {
                true => self.confirmed.insert(key(subscription)),
                false => self.confirmed.remove(&key(subscription)),
            };
            self.unsettled.remove(&key(subscription));
            if let Some(start) = self.clock.filter(|_| change.wanted) {
                self.unsettled.insert(key(subscription));
                let due = start + self.passed + SETTLE;
                self.ledger.subscribed_from(subscription, due);
                continue;
            }
            let number = match change.wanted {
                true => self.ledger.subscribed(subscription),
                false => {
                    self.ledger.unsubscribed(subscription);
                    None
                }
            };
            self.is_reported(subscription, number);
        }
        true
    }

    /// Advances the clock by half of the settling time. Returns whether there were names to settle.
    fn pass(&mut self) -> bool {
        let Some(start) = self.clock else {
            return false;
        };
        let waits = self.ledger.settle_due().is_some();
        self.passed += SETTLE / 2;
        let now = start + self.passed;
        while let Some((subscription, number)) = self.ledger.next_settled(now) {
            assert!(self.unsettled.contains(&key(&subscription)));
            assert!(self.confirmed.contains(&key(&subscription)));
            self.is_reported(&subscription, Some(number));
        }
        let still = self.ledger.settling.values().map(|s| key(&s.subscription));
        self.unsettled = still.collect();
        waits
    }

    /// Checks that the answer belongs to the newest request.
    fn is_reported(&mut self, subscription: &Subscription, number: Option<u64>) {
        if number.is_some() {
            assert!(self.wanted.contains(&key(subscription)));
            assert_eq!(number.as_ref(), self.newest.get(&key(subscription)));
            self.waiting.remove(&key(subscription));
        }
    }

    fn settle(&mut self) {
        while self.ask() || self.answer() || self.pass() {}
    }

    fn check_sizes(&self) {
        let entries = self.ledger.channels.len() + self.ledger.patterns.len();
        assert!(self.ledger.queue.len() <= entries);
        assert_eq!(self.ledger.settling.len(), self.unsettled.len());
        let asked: usize = self.on_their_way.iter().map(|c| c.names.len()).sum();
        assert_eq!(self.ledger.asked, asked);
        assert!(self.connected || entries == self.wanted.len());
    }

    fn check_settled(&self) {
        let may_be_confirmed: BTreeSet<_> =
            self.wanted.difference(&self.forbidden).cloned().collect();
        assert_eq!(self.confirmed, may_be_confirmed);
        assert!(
            self.waiting.is_empty(),
            "never answered: {:?}",
            self.waiting
        );
        assert!(self.ledger.is_restored());
        let entries = self.ledger.channels.len() + self.ledger.patterns.len();
        assert_eq!(entries, self.wanted.len(), "forgotten or kept for nothing");
    }
}

fn subscriptions(change: &SubscriptionChange) -> Vec<Subscription> {
    let one = |name: &Arc<str>| Subscription {
        name: Arc::clone(name),
        is_pattern: change.patterns,
    };
    change.names.iter().map(one).collect()
}

#[derive(Clone, Debug)]
enum LedgerStep {
    Want(Subscription),
    Unwant(Subscription),
    Ask,
    Answer,
    Connect,
    Lose,
    Forbid(Subscription),
    Retry,
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<LedgerStep>> {
    let subscription = || {
        (0..4_u8, any::<bool>()).prop_map(|(n, is_pattern)| Subscription {
            name: n.to_string().into(),
            is_pattern,
        })
    };
    let step = prop_oneof![
        6 => subscription().prop_map(LedgerStep::Want),
        6 => subscription().prop_map(LedgerStep::Unwant),
        6 => Just(LedgerStep::Ask),
        6 => Just(LedgerStep::Answer),
        2 => Just(LedgerStep::Connect),
        1 => Just(LedgerStep::Lose),
        1 => subscription().prop_map(LedgerStep::Forbid),
        1 => Just(LedgerStep::Retry),
        3 => Just(LedgerStep::Pass),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever changes and fails, in the end exactly the wanted and permitted names are subscribed, every request was
    /// answered, and the ledger keeps nothing else.
    #[test]
    fn the_last_word_counts(steps in steps(), settles: bool) {
        let mut world = World {
            clock: settles.then(Instant::now),
            ..World::default()
        };
        for step in steps {
            match step {
                LedgerStep::Want(subscription) => world.want(&subscription),
                LedgerStep::Unwant(subscription) => world.unwant(&subscription),
                LedgerStep::Ask => { world.ask(); }
                LedgerStep::Answer => { world.answer(); }
                LedgerStep::Connect => world.connect(),
                LedgerStep::Lose => world.lose(),
                // The server ends the connections that have a subscription to this name.
                LedgerStep::Forbid(subscription) => {
                    world.forbidden.insert(key(&subscription));
                    world.lose();
                }
                LedgerStep::Retry => world.ledger.retry_refused(),
                LedgerStep::Pass => { world.pass(); }
            }
            world.check_sizes();
        }
        world.connect();
        world.settle();
        // A request without a connection has its answer at once, that the bus is away, so a refusal may follow or not.
        world.waiting.retain(|name| !world.forbidden.contains(name));
        world.check_settled();
        world.forbidden.clear();
        world.ledger.retry_refused();
        world.settle();
        world.check_settled();
    }
}

#[test]
fn commands_are_bounded_and_all_names_go_out() {
    let mut world = World::default();
    for n in 0..10_000 {
        world.want(&Subscription::channel(format!("channel:{n}")));
    }
    world.connect();
    while world.ask() {}
    assert_eq!(world.ledger.asked, ASKED_MAX);
    assert_eq!(world.on_their_way.len(), ASKED_MAX / NAMES_MAX);
    assert!(!world.ledger.is_restored());
    world.settle();
    world.check_settled();
    assert_eq!(world.confirmed.len(), 10_000);
}

#[test]
fn long_names_fill_a_command_sooner() {
    let mut world = World::default();
    for n in 0..10 {
        let name = format!("{n}{}", "x".repeat(COMMAND_BYTES_MAX / 2));
        world.want(&Subscription::channel(name));
    }
    world.connect();
    while world.ask() {}
    assert_eq!(world.on_their_way.len(), 10);
}

#[test]
fn long_names_on_their_way_are_bounded_in_bytes() {
    let mut world = World::default();
    for n in 0..100 {
        let name = format!("{n}{}", "x".repeat(100_000));
        world.want(&Subscription::channel(name));
    }
    world.connect();
    while world.ask() {}
    let asked_bytes = world.ledger.asked_bytes;
    assert!((RESTORING_BYTES_MAX..RESTORING_BYTES_MAX + 100_040).contains(&asked_bytes));
    world.settle();
    world.check_settled();
    assert_eq!(world.ledger.asked_bytes, 0);
    // Once the names are restored, fewer bytes may be on their way.
    for n in 0..100 {
        world.want(&Subscription::channel(format!("{n}{}", "y".repeat(1_000))));
    }
    while world.ask() {}
    let asked_bytes = world.ledger.asked_bytes;
    assert!((ASKED_BYTES_MAX..ASKED_BYTES_MAX + 1_040).contains(&asked_bytes));
    world.settle();
    world.check_settled();
}

#[test]
fn one_forbidden_name_does_not_take_the_others_with_it() {
    let mut world = World::default();
    let names: Vec<_> = (0..5)
        .map(|n| Subscription::channel(n.to_string()))
        .collect();
    world.forbidden.insert(key(&names[3]));
    for name in &names {
        world.want(name);
    }
    world.connect();
    world.settle();
    world.check_settled();
    assert_eq!(world.confirmed.len(), 4);
    assert!(!world.ask(), "asked again at once");
    // A second request gets the refusal too, while the first is still wanted.
    world.want(&names[3]);
    world.settle();
    world.check_settled();
    // After a reconnection the name is requested again, but its refusal is not reported again.
    world.lose();
    world.waiting.insert(key(&names[3]));
    world.connect();
    world.settle();
    assert_eq!(world.waiting.len(), 1);
    // A new request gets the refusal again.
    world.unwant(&names[3]);
    world.want(&names[3]);
    world.settle();
    world.check_settled();
}

/// The server takes commands and answers none, while a client keeps changing its names.
#[test]
fn names_that_came_and_went_while_the_server_was_silent_leave_nothing() {
    let mut ledger = Ledger::default();
    ledger.begin_connection();
    let come_and_go = |ledger: &mut Ledger| {
        for n in 0..3 * ASKED_MAX {
            let name = Subscription::channel(n.to_string());
            ledger.want(&name, 1);
            ledger.next_change();
            ledger.unwant(&name);
        }
    };
    come_and_go(&mut ledger);
    let Unanswered { queued, asked, .. } = ledger.unanswered();
    assert!(queued == 0 && asked <= ASKED_BYTES_MAX / COMMAND_BYTES);
    // Enough commands are on their way, so this name has to wait for an answer.
    ledger.want(&Subscription::pattern("stays*"), 2);
    come_and_go(&mut ledger);
    assert_eq!(ledger.unanswered(), unanswered(1, asked, 0));
    assert_eq!(ledger.channels.len(), asked);
}

#[test]
fn a_change_of_mind_costs_no_command() {
    let mut world = World::default();
    world.connect();
    let name = Subscription::pattern("a*");
    world.want(&name);
    world.unwant(&name);
    assert!(!world.ask());
    world.want(&name);
    world.settle();
    world.unwant(&name);
    world.want(&name);
    assert!(!world.ask());
    world.check_settled();
    let counts = BTreeMap::from([(true, world.ledger.patterns.len())]);
    assert_eq!(counts[&true], 1);
}

/// The permissions may change while a name is subscribed, and while its unsubscription waits to be sent.
#[test]
fn a_name_that_the_server_takes_away_is_refused_and_asked_for_again() {
    let mut ledger = Ledger::default();
    let [kept, given_up] = ["kept", "given up"].map(Subscription::channel);
    ledger.begin_connection();
    for (name, number) in [(&kept, 1), (&given_up, 2)] {
        assert_eq!(ledger.revoked(name), None, "nobody has it");
        ledger.want(name, number);
    }
    assert!(ledger.next_change().is_some());
    for name in [&kept, &given_up] {
        ledger.subscribed(name);
    }
    ledger.unwant(&given_up);
    assert_eq!(ledger.revoked(&given_up), None);
    assert_eq!(ledger.revoked(&kept), Some(1));
    assert_eq!(ledger.revoked(&kept), None, "reported once");
    assert_eq!(ledger.wanted_names().refused, 1);
    assert_eq!(ledger.next_change(), None);
    assert!(ledger.has_refused());
    ledger.retry_refused();
    assert!(!ledger.has_refused(), "asked for again");
    let again = ledger.next_change().expect("a change");
    assert!(again.wanted && again.names.iter().eq([&kept.name]));
    assert_eq!(ledger.subscribed(&kept), Some(1));
    assert_eq!(ledger.unanswered(), unanswered(0, 0, 0));
}

#[test]
fn a_name_without_room_is_asked_for_again_when_another_is_given_up() {
    let mut ledger = Ledger::default();
    let [held, first, gone, denied] = ["h", "f", "g", "d"].map(Subscription::channel);
    ledger.begin_connection();
    ledger.want(&held, 1);
    assert!(ledger.next_change().is_some());
    ledger.subscribed(&held);
    assert!(!ledger.has_refused(), "nothing needs the time");
    for (number, name) in [&first, &gone, &denied].into_iter().enumerate() {
        ledger.want(name, number as u64);
        assert!(ledger.next_change().is_some());
        assert_eq!(ledger.refused(name), Some(number as u64));
        if name != &denied {
            ledger.refused_for_room(name.clone());
        }
    }
    ledger.unwant(&gone);
    ledger.unwant(&held);
    assert!(ledger.next_change().is_some_and(|change| !change.wanted));
    ledger.retry_without_room();
    let again = ledger.next_change().expect("a change");
    assert!(again.wanted && again.names.iter().eq([&first.name]));
    assert_eq!(ledger.refused(&first), None, "reported once");
    assert!(ledger.has_refused());
    ledger.refused_for_room(first);
    ledger.retry_without_room();
    assert!(ledger.next_change().is_some() && ledger.without_room.is_empty());
}

/// A thousand names settle together, and a name that was given up while it settled leaves nothing behind.
#[test]
fn names_settle_together() {
    let mut world = World {
        clock: Some(Instant::now()),
        ..World::default()
    };
    world.connect();
    let names: Vec<_> = (0..1_000)
        .map(|n| Subscription::channel(format!("channel:{n}")))
        .collect();
    names.iter().for_each(|name| world.want(name));
    while world.ask() || world.answer() {}
    assert_eq!(world.ledger.unanswered(), unanswered(0, 0, 1_000));
    world.pass();
    assert_eq!(world.waiting.len(), 1_000);
    // The first name is subscribed again, and now settles from the newest answer on.
    world.unwant(&names[0]);
    while world.ask() || world.answer() {}
    world.want(&names[0]);
    while world.ask() || world.answer() {}
    world.unwant(&names[1]);
    world.want(&names[1]);
    world.pass();
    assert_eq!(world.waiting, BTreeSet::from([key(&names[0])]));
    world.pass();
    world.check_settled();
    assert_eq!(world.ledger.unanswered(), unanswered(0, 0, 0));
}

#[test]
fn a_connection_is_restored_when_its_names_have_settled() {
    let mut world = World {
        clock: Some(Instant::now()),
        ..World::default()
    };
    let [kept, revoked] = ["kept", "revoked"].map(Subscription::channel);
    for name in [&kept, &revoked] {
        world.want(name);
    }
    world.connect();
    while world.ask() || world.answer() {}
    assert!(!world.ledger.is_restored() && world.ledger.is_restoring(&kept));
    let number = world.newest[&key(&revoked)];
    assert_eq!(world.ledger.revoked(&revoked), Some(number));
    assert!(!world.ledger.is_restoring(&revoked));
    world.pass();
    assert!(!world.ledger.is_restored());
    world.pass();
    assert!(world.ledger.is_restored() && !world.ledger.is_restoring(&kept));
    // `kept` has settled and counts as confirmed, so its loss is reported.
    assert!(world.ledger.end_connection());
    world.ledger.begin_connection();
    // The revoked name has a command of its own, before or after that of the other.
    let again: Vec<_> = std::iter::from_fn(|| world.ledger.next_change()).collect();
    world.ledger.subscribed_from(&kept, Instant::now());
    assert!(again.iter().any(|change| change.names.contains(&kept.name)));
    assert!(!world.ledger.end_connection());
}

fn unanswered(queued: usize, asked: usize, settling: usize) -> Unanswered {
    Unanswered {
        queued,
        asked,
        settling,
    }
}
