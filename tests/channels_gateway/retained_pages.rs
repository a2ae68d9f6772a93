//! Last values in pages: as the clients of a question take them, and each client whole.

use super::retained::{HERE, SHARE, large};
use super::*;

const PATTERN: &str = "indicators:*";
/// As in the gateway.
const LAG_MAX_US: u64 = 500_000;

impl Bench {
    /// A client that is told the end, with the bus's word, and whose kernel takes so many bytes from here on.
    fn holder(&mut self, room: usize) -> SessionKey {
        let key = self.client();
        let request = json!({"action": "subscribe", "channels": [PATTERN], "status": true});
        self.say(key, &request);
        if self.questions() == 0 {
            self.confirm(PATTERN);
        }
        let socket = self.world.net.sockets.get_mut(&key);
        socket.expect("a socket").room = room;
        key
    }

    /// Brings these values of a question, and the end of a page.
    fn brings(&mut self, number: u64, rows: std::ops::RangeInclusive<u64>) {
        let last = *rows.end();
        for n in rows {
            let subject = format!("indicators:{n}");
            self.numbered_value(&subject, Some(PATTERN), &large(40_000), number);
        }
        self.page_of(number, last, true);
    }

    fn more(&self) -> Vec<u64> {
        let more = self.world.outputs.more.iter();
        more.map(|(_, number)| *number).collect()
    }

    /// The rows that came since the last call, and the count of the end.
    fn rows(&mut self, key: SessionKey) -> (Vec<u64>, Option<u64>) {
        let (mut rows, mut end) = (Vec::new(), None);
        for message in self.got(key) {
            if message["type"] == "data" {
                let name = message["channel"].as_str().expect("a name");
                let row = name.strip_prefix("indicators:").expect("a row");
                rows.push(row.parse().expect("a number"));
            }
            if message["type"] == "retained" {
                assert_eq!(message.get("cut"), None);
                end = message["count"].as_u64();
            }
        }
        (rows, end)
    }
}

fn rows(rows: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    rows.collect()
}

#[test]
fn the_next_page_is_asked_for_when_the_client_has_taken_the_last() {
    let mut bench = Bench::retaining();
    let key = bench.holder(100_000);
    let mut got = Vec::new();
    for page in 0..20 {
        bench.brings(1, page * 10 + 1..=page * 10 + 10);
        assert!(bench.unsent(key) < SHARE);
        assert_eq!(bench.more().len(), page as usize, "not taken");
        assert!(bench.stats.retained_bytes.get() as usize >= bench.unsent(key));
        bench.world.advance(5 * SECOND);
        bench.world.open_window(key, 410_000);
        got.extend(bench.rows(key).0);
        bench.stop(key);
    }
    bench.world.open_window(key, usize::MAX);
    bench.end_of(PATTERN, 1);
    let (last, end) = bench.rows(key);
    got.extend(last);
    assert_eq!((got, end), (rows(1..=200), Some(200)));
    assert_eq!(
        (bench.questions(), bench.stats.retained_bytes.get()),
        (1, 0)
    );
}

#[test]
fn clients_share_a_question_and_who_lags_goes_on_alone_from_where_it_was() {
    let mut bench = Bench::retaining();
    let keys: Vec<_> = (0..10).map(|_| bench.holder(usize::MAX)).collect();
    assert_eq!(bench.questions(), 1);
    bench.end_of(PATTERN, 1);
    let slow = keys[4];
    bench.stop(slow);
    assert_eq!(bench.questions(), 2, "the others share the next");
    bench.brings(2, 1..=10);
    assert_eq!(bench.more(), [0; 0], "one has not taken the page");
    bench.world.advance(LAG_MAX_US - 1);
    assert_eq!(bench.more(), [0; 0]);
    bench.world.advance(1);
    assert_eq!(bench.more(), [2]);
    bench.brings(2, 11..=20);
    bench.end_of(PATTERN, 2);
    assert_eq!(bench.questions(), 2, "the slow one has not taken its page");
    bench.world.open_window(slow, usize::MAX);
    assert_eq!((bench.questions(), bench.read_before(3)), (3, 10));
    bench.brings(3, 11..=20);
    assert_eq!(bench.more().last(), Some(&3));
    bench.end_of(PATTERN, 3);
    for key in &keys[1..] {
        assert_eq!(bench.rows(*key), (rows(1..=20), Some(20)));
    }
    assert_eq!(bench.stats.retained_waiting.get(), 0);
    assert_eq!(bench.stats.retained_bytes.get(), 0);
}

#[test]
fn who_leaves_in_the_middle_keeps_nobody_waiting_and_with_the_last_the_question_ends() {
    for closes in [false, true] {
        let mut bench = Bench::retaining();
        let [first, leaves, stays] = [(); 3].map(|()| bench.holder(usize::MAX));
        bench.end_of(PATTERN, 1);
        bench.stop(leaves);
        bench.brings(2, 1..=10);
        assert_eq!(bench.more(), [0; 0]);
        let leave = |bench: &mut Bench, key| match closes {
            true => bench.world.end(key, true),
            false => bench.unsubscribe(key, &[PATTERN]),
        };
        leave(&mut bench, leaves);
        assert_eq!(bench.more(), [2]);
        bench.brings(2, 11..=20);
        leave(&mut bench, stays);
        assert_eq!(bench.world.outputs.forgotten, [(PATTERN.to_owned(), 2)]);
        assert_eq!(bench.rows(first).1, Some(0));
        assert_eq!(bench.stats.retained_waiting.get(), 0);
    }
}

#[test]
fn a_question_goes_on_over_an_outage() {
    let mut bench = Bench::retaining();
    let key = bench.holder(usize::MAX);
    bench.brings(1, 1..=10);
    for n in 11..=13 {
        let subject = format!("indicators:{n}");
        bench.numbered_value(&subject, Some(PATTERN), "1", 1);
    }
    bench.page_of(1, 13, false);
    assert_eq!((bench.questions(), bench.read_before(2)), (2, 13));
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    bench.world.advance(SECOND);
    assert_eq!(bench.world.outputs.forgotten, [(PATTERN.to_owned(), 2)]);
    bench.confirm(PATTERN);
    bench.bus(BusEvent::Up);
    bench.world.advance(2 * SECOND);
    assert_eq!((bench.questions(), bench.read_before(3)), (3, 13));
    bench.brings(3, 14..=20);
    bench.end_of(PATTERN, 3);
    assert_eq!(bench.rows(key), (rows(1..=20), Some(20)));
}

/// The bus forgets a consumer that nobody asks for a time.
#[test]
fn a_question_whose_page_nobody_takes_ends_and_goes_on_later() {
    let mut bench = Bench::retaining();
    let key = bench.holder(1_000);
    bench.brings(1, 1..=10);
    for _ in 0..12 {
        bench.world.advance(10 * SECOND);
        bench.world.open_window(key, 1);
        assert_eq!(bench.questions(), 1);
    }
    assert_eq!(bench.world.outputs.forgotten, [(PATTERN.to_owned(), 1)]);
    bench.world.open_window(key, usize::MAX);
    assert_eq!((bench.questions(), bench.read_before(2)), (2, 10));
    bench.end_of(PATTERN, 2);
    assert_eq!(bench.rows(key), (rows(1..=10), Some(10)));
}

#[test]
fn a_client_that_comes_later_does_not_wait_for_a_slow_one() {
    let mut bench = Bench::retaining();
    let slow = bench.holder(1_000);
    bench.brings(1, 1..=10);
    let late = bench.holder(usize::MAX);
    assert_eq!((bench.questions(), bench.read_before(2)), (2, 0));
    bench.brings(2, 1..=10);
    bench.end_of(PATTERN, 2);
    assert_eq!(bench.rows(late), (rows(1..=10), Some(10)));
    bench.world.open_window(slow, usize::MAX);
    assert_eq!(bench.more(), [2, 1]);
    bench.end_of(PATTERN, 1);
    assert_eq!(bench.rows(slow), (rows(1..=10), Some(10)));
}

#[test]
fn exact_names_wait_for_one_page_and_patterns_come_one_after_the_other() {
    let mut bench = Bench::retaining();
    let key = bench.client_from(HERE);
    let names = [PATTERN, "market:tick:*", "market:tick:A"];
    bench.subscribe(key, &names);
    names.iter().for_each(|name| bench.confirm(name));
    assert_eq!(bench.questions_from(0), [PATTERN]);
    bench.brings(1, 1..=10);
    assert_eq!(bench.questions_from(1), ["market:tick:A"]);
    bench.end("market:tick:A");
    assert_eq!((bench.questions(), bench.more()), (2, vec![1]));
    bench.end_of(PATTERN, 1);
    assert_eq!(bench.questions_from(2), ["market:tick:*"]);
}
