//! Clients that have missed so many messages that a turn has no time to queue all of them.

use super::resume::{Kept, MARK, TICK, at};
use super::*;

/// Missed messages: several steps.
const MISSED: u64 = 5_000;
/// The most that a client gets queued in a turn of three steps, with what comes meanwhile.
const QUEUED_MAX: u64 = 3_000;

/// A client that missed so many messages of a name, in a gateway with time for so many steps in a turn. Its request is
/// handled in one turn.
struct Resuming {
    kept: Kept,
    key: SessionKey,
    sent: u64,
}

impl Resuming {
    fn new(steps: u64, missed: u64, request: &Value) -> Self {
        let mut kept = Kept::in_steps(settings(), steps);
        let key = kept.bench.client();
        let mut resuming = Self { kept, key, sent: 0 };
        resuming.publish(missed);
        resuming.kept.bench.world.held = true;
        resuming.kept.bench.say(resuming.key, request);
        resuming
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.sent += 1;
            self.kept.publish(TICK, self.sent.to_string());
        }
    }

    fn waiting(&self) -> u64 {
        self.kept.bench.world.hub.core().stats().messages_waiting
    }

    fn waits_for_share(&self) -> bool {
        self.kept.bench.world.hub.waiting_shares() > 0
    }

    fn share(&mut self) {
        let world = &mut self.kept.bench.world;
        world.hub.begin_part(crate::world::PART_US);
        world.hub.handle_next_share(world.now);
    }

    /// Gives the client shares until the answer is queued, and the first messages.
    fn share_until_answered(&mut self) {
        while self.waiting() == 0 {
            assert!(self.waits_for_share());
            self.share();
        }
        assert!(self.waits_for_share(), "nothing is left");
    }

    /// Gives the client shares to the end. Returns how many.
    fn share_to_the_end(&mut self) -> usize {
        let mut turns = 0;
        while self.waits_for_share() {
            self.share();
            turns += 1;
        }
        turns
    }

    /// Lets out what waits. Returns what the client got.
    fn got(&mut self) -> Vec<Value> {
        self.kept.bench.world.held = false;
        self.kept.bench.world.settle();
        self.kept.bench.got(self.key)
    }
}

fn since(count: u64) -> Value {
    let since = Kept::position(count).to_string();
    json!({"action": "subscribe", "channels": [TICK], "since": since})
}

/// The numbers that are the data of messages.
fn numbers(got: &[Value]) -> Vec<u64> {
    let data = got.iter().filter(|one| one["type"] == "data");
    data.map(|one| one["data"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn very_many_missed_messages_are_queued_over_several_turns() {
    for steps in [1, 3] {
        let mut resuming = Resuming::new(steps, MISSED, &since(10));
        let (mut turns, mut before) = (0, resuming.waiting());
        while resuming.waits_for_share() {
            resuming.share();
            resuming.publish(20);
            let waiting = resuming.waiting();
            assert!(waiting - before < QUEUED_MAX, "{waiting}, {before}");
            (turns, before) = (turns + 1, waiting);
        }
        assert!(turns > 3, "{turns}");
        resuming.publish(5);
        let got = resuming.got();
        assert_eq!(got[0]["type"], "subscribed");
        assert_eq!(got[0]["recovered"], json!({TICK: true}));
        assert_eq!(got[0].get("pos"), None);
        let all: Vec<u64> = (11..=resuming.sent).collect();
        assert_eq!(numbers(&got), all, "{steps}");
        let quota = resuming.kept.bench.world.hub.core().resumed_messages();
        assert_eq!(quota.held(), 0);
    }
}

#[test]
fn other_clients_have_their_turns_between_very_many_missed_messages() {
    let mut resuming = Resuming::new(1, MISSED, &since(0));
    resuming.share_until_answered();
    let bench = &mut resuming.kept.bench;
    bench.world.held = false;
    let others: Vec<SessionKey> = (0..3).map(|_| bench.client()).collect();
    bench.world.held = true;
    for other in others {
        bench.say(other, &json!({"action": "ping"}));
        bench.world.flush();
        assert_eq!(bench.got(other).last().expect("an answer")["type"], "pong");
    }
}

#[test]
fn a_request_waits_for_the_missed_messages_of_the_one_before() {
    let mut resuming = Resuming::new(1, MISSED, &since(0));
    resuming.share_until_answered();
    let ping = json!({"action": "ping"});
    resuming.kept.bench.say(resuming.key, &ping);
    let got = resuming.got();
    assert_eq!(numbers(&got).len() as u64, MISSED);
    assert_eq!(got.last().expect("a pong")["type"], "pong");
}

#[test]
fn a_client_may_leave_or_be_stopped_among_its_missed_messages() {
    for end in 0..3 {
        let mut resuming = Resuming::new(1, MISSED, &since(0));
        resuming.share_until_answered();
        resuming.publish(10);
        let key = resuming.key;
        let bench = &mut resuming.kept.bench;
        assert_eq!(bench.world.hub.core().resumed_messages().held(), MISSED);
        bench.world.held = false;
        match end {
            0 => bench.world.end(key, true),
            1 => bench.world.end(key, false),
            _ => {
                let plan = weirgate_core::DrainPlan::default();
                bench.world.hub.drain(bench.world.now, plan);
                bench.world.settle();
                let got = bench.got(key);
                // What the client has is without a hole, so it can go on from its last position.
                let numbers = numbers(&got);
                assert!(numbers.len() < MISSED as usize);
                assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
                let last = got.iter().rfind(|one| one.get("pos").is_some());
                let last = last.expect("a position");
                let at = Kept::position(numbers.len() as u64);
                assert_eq!(last["pos"], at.to_string());
            }
        }
        for _ in 0..2_000 {
            bench.world.advance(1_000);
        }
        assert_eq!(bench.counts(), (0, 0, 0), "{end}");
        assert_eq!(bench.world.hub.core().resumed_messages().held(), 0, "{end}");
        assert_eq!(bench.world.hub.core().received().held(), 0, "{end}");
        assert_eq!(bench.world.hub.waiting_shares(), 0, "{end}");
    }
}

#[test]
fn a_loss_among_the_missed_messages_leaves_them_whole() {
    let mut resuming = Resuming::new(1, MISSED, &since(0));
    resuming.share_until_answered();
    resuming.publish(7);
    resuming.kept.bench.bus(BusEvent::Gap { lost: None });
    let before = resuming.sent;
    resuming.kept.begin(MARK);
    resuming.publish(3);
    let got = resuming.got();
    assert_eq!(got[0]["recovered"], json!({TICK: true}));
    let all: Vec<u64> = (1..=resuming.sent).collect();
    assert_eq!(numbers(&got), all);
    let lost = got.iter().position(|one| one["lost"] == true);
    let newer = got.iter().position(|one| one["data"] == before + 1);
    assert!(lost.expect("a notice") < newer.expect("a message"));
}

#[test]
fn what_comes_among_very_many_missed_messages_waits_within_a_limit() {
    let mut resuming = Resuming::new(1, MISSED, &since(0));
    resuming.share_until_answered();
    let mut waiting = resuming.waiting();
    assert!(waiting < MISSED / 2, "{waiting}");
    // 10 KB each: over 4 MiB, a few of those that wait make room for each.
    for n in 1..=780 {
        let payload = format!("{}{:09999}", n % 10, MISSED + n);
        resuming.kept.publish(TICK, format!("\"{payload}\""));
        let more = resuming.waiting() - waiting;
        assert!(more < 100, "{more} at once");
        waiting += more;
    }
    assert!(waiting > MISSED, "{waiting}");
    resuming.share_to_the_end();
    let got = resuming.got();
    assert_eq!(got[0]["recovered"], json!({TICK: true}));
    let data = got.iter().filter(|one| one["type"] == "data");
    let data: Vec<u64> = data
        .map(|one| match &one["data"] {
            Value::String(text) => text[1..].parse().expect("a number"),
            number => number.as_u64().expect("a number"),
        })
        .collect();
    assert_eq!(data, (1..=MISSED + 780).collect::<Vec<_>>());
}

#[test]
fn the_present_position_follows_very_many_newest_messages() {
    let names: Vec<String> = (0..50).map(|n| format!("{TICK}:{n}")).collect();
    let mut kept = Kept::in_steps(settings(), 1);
    for n in 0..5_000 {
        kept.publish(&names[n % names.len()], n.to_string());
    }
    let key = kept.bench.client();
    kept.bench.world.held = true;
    let request = json!({"action": "subscribe", "channels": names, "last": 100});
    kept.bench.say(key, &request);
    let mut turns = 0;
    while kept.bench.world.hub.waiting_shares() > 0 {
        kept.bench.world.hub.begin_part(crate::world::PART_US);
        kept.bench.world.hub.handle_next_share(kept.bench.world.now);
        kept.publish(&names[0], "7");
        turns += 1;
    }
    assert!(turns > 10, "{turns}");
    kept.bench.world.held = false;
    kept.bench.world.settle();
    let got = kept.bench.got(key);
    let status = got.iter().position(|one| one["type"] == "status");
    let status = status.expect("a status");
    // The status has the position of the message before it, so all are there up to its position.
    assert_eq!(got[status]["pos"], got[status - 1]["pos"]);
    let data = got.iter().filter(|one| one["type"] == "data");
    let positions: Vec<u64> = data
        .map(|one| {
            let pos = one["pos"].as_str().expect("a position");
            let (_, count) = pos.rsplit_once('.').expect("a count");
            u64::from_str_radix(count, 36).expect("a number")
        })
        .collect();
    assert!(positions.is_sorted_by(|one, next| one < next));
    let live = positions.partition_point(|position| *position <= 5_000);
    assert!(live >= 4_900, "{live}");
    // From the first message that is among the newest, or has come since.
    let all: Vec<u64> = (positions[live]..=5_000 + turns).collect();
    assert_eq!(positions[live..], all);
}

#[test]
fn a_client_that_reads_nothing_gets_no_more_than_the_limit_of_missed_messages() {
    let mut kept = Kept::in_steps(settings(), 1);
    let other = "market:other";
    let large = format!("\"{}\"", "y".repeat(1_000));
    for name in [TICK, other] {
        for _ in 0..2_500 {
            kept.publish(name, &large);
        }
    }
    let bench = &mut kept.bench;
    // The kernel takes no more.
    let key = bench.world.accept(4 * 1024);
    bench
        .world
        .send(key, &crate::world::client::request("/ws", None));
    let of = |name| {
        let since = Kept::position(0).to_string();
        json!({"action": "subscribe", "channels": [name], "since": since})
    };
    bench.say(key, &of(TICK));
    let held = bench.world.hub.core().resumed_messages().held();
    assert!((2_400..=2_500).contains(&held), "{held}");
    bench.say(key, &of(other));
    bench.world.open_window(key, usize::MAX);
    let got = bench.got(key);
    let answers: Vec<&Value> = got
        .iter()
        .filter(|one| one["type"] == "subscribed")
        .collect();
    assert_eq!(answers[0]["recovered"], json!({TICK: true}));
    assert_eq!(answers[1]["why"], json!({other: "large"}));
    assert_eq!(bench.world.hub.core().resumed_messages().held(), 0);
}

/// Each step of a search finds out anew what it has no room to remember: nothing is refused to the client.
#[test]
fn a_search_without_room_for_what_it_remembers_counts_no_refusal() {
    let mut kept = Kept::changed(
        settings(),
        |limits| {
            limits.history = HistoryLimits {
                bytes_max: 1 << 26,
                ..super::resume::limits()
            };
            (limits.share_us, limits.work_us, limits.resume_messages_max) = (1, 1, 10);
        },
        |gateway| gateway.with_kept(vec!["*".to_owned()]).expect("names"),
    );
    for n in 0..5_000 {
        kept.publish(&format!("market:{n}"), "1");
    }
    let key = kept.bench.client();
    let since = Kept::position(0).to_string();
    let request = json!({"action": "subscribe", "channels": ["none:*"], "since": since});
    kept.bench.say(key, &request);
    let got = kept.bench.got(key);
    assert_eq!(got[0]["recovered"], json!({"none:*": true}), "{got:?}");
    let resumed = kept.bench.world.hub.core().resumed_messages();
    assert_eq!(resumed.counts().refused, 0);
}

/// Clients that come back together, each with a spelling of its own of a pattern, so that each needs frames of its own.
#[test]
fn missed_messages_are_made_for_one_client_after_the_other_while_memory_is_short() {
    const LIMIT: u64 = 400_000;
    let mut kept = Kept::changed(
        settings(),
        |limits| {
            limits.frame_bytes_max = LIMIT;
            limits.history = HistoryLimits {
                bytes_max: 150_000,
                ..super::resume::limits()
            };
        },
        |gateway| gateway.with_kept(vec!["*".to_owned()]).expect("names"),
    );
    for n in 0..20 {
        kept.publish(TICK, format!("\"{n:04000}\""));
    }
    let clients: Vec<_> = (1..30).map(|_| kept.bench.client()).collect();
    let ask = |kept: &mut Kept, key, stars: usize| {
        let pattern = format!("m{}", "*".repeat(stars));
        let request = json!({"action": "subscribe", "channels": [pattern], "since": at(0)});
        kept.bench.say(key, &request);
    };
    kept.bench.world.held = true;
    for (key, stars) in clients.iter().zip(1..) {
        ask(&mut kept, *key, stars);
        assert!(kept.bench.world.frame_bytes.alive() <= LIMIT, "{stars}");
    }
    kept.bench.world.held = false;
    kept.bench.world.settle();
    for (key, stars) in clients.iter().zip(1_usize..) {
        let got = kept.bench.got(*key);
        let pattern = format!("m{}", "*".repeat(stars));
        assert_eq!(got[0]["recovered"], json!({ pattern: true }), "{stars}");
        assert_eq!(got.len(), 21);
    }

    // Those that do not read hold up the others for a moment each, whether they take too much or not.
    for stars in [30, 40] {
        let slow: Vec<_> = (0..10).map(|_| kept.bench.client()).collect();
        for (key, stars) in slow.iter().zip(stars..) {
            let socket = kept.bench.world.net.sockets.get_mut(key);
            socket.expect("a socket").room = 0;
            ask(&mut kept, *key, stars);
        }
        let reader = kept.bench.client();
        ask(&mut kept, reader, stars + 30);
        for _ in 0..30 {
            kept.bench.world.advance(SECOND / 10);
            let alive = kept.bench.world.frame_bytes.alive();
            assert!(alive <= LIMIT + 250_000, "{alive}");
        }
        assert_eq!(kept.bench.got(reader).len(), 21);
    }
}
