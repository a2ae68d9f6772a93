//! `"last":"all"` while messages are lost or the stream is made anew: no message comes twice, there is an end, and `cut`
//! is `epoch` only of a client that lacks nothing.

use weirgate_core::FeedNotice;

use super::*;

/// A gateway whose history has the messages 1 to 199, more than the client takes of them.
fn with_a_slow_client() -> (Bench, SessionKey) {
    let mut bench = on_a_stream_with(HistoryLimits {
        bytes_max: 1 << 24,
        ..limits()
    });
    for sequence in 1..200 {
        bench.comes_with("a:1", sequence, 6_000);
    }
    let key = bench.client();
    bench.room(key, 10_000);
    bench.ask_all(key, &["a:1"], Some(1));
    (bench, key)
}

impl Bench {
    fn comes_with(&mut self, name: &str, sequence: u64, bytes: usize) {
        let text = format!("\"{sequence} {}\"", "x".repeat(bytes));
        let message = self.entry(name, sequence, &text);
        self.bus(BusEvent::Message(message));
    }

    pub(super) fn room(&mut self, key: SessionKey, bytes: usize) {
        let socket = self.world.net.sockets.get_mut(&key);
        socket.expect("a socket").room = bytes;
    }

    pub(super) fn loses(&mut self) {
        self.bus(BusEvent::Gap { lost: None });
        self.world.advance(1);
    }

    /// Lets the client read all. Returns the numbers of the messages, and the ends.
    fn reads_all(&mut self, key: SessionKey) -> (Vec<u64>, Vec<String>) {
        self.world.open_window(key, 1 << 30);
        self.world.advance(1);
        let came = self.brought(key);
        let (ends, data): (Vec<_>, Vec<_>) = came
            .into_iter()
            .filter(|one| !one.starts_with("subscribed"))
            .partition(|one| one.starts_with("last"));
        let number = |one: &String| {
            let digits = one.trim_start_matches(|c: char| c != ' ');
            let digits = digits.trim_start_matches([' ', '"']);
            let end = digits.find(|c: char| !c.is_ascii_digit());
            digits[..end.unwrap_or(digits.len())].parse()
        };
        (
            data.iter().filter_map(|one| number(one).ok()).collect(),
            ends,
        )
    }
}

/// Each once, oldest first.
fn assert_once(got: &[u64]) {
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
}

#[test]
fn a_replay_that_is_cut_short_after_a_loss_sends_nothing_twice_and_ends() {
    let (mut bench, key) = with_a_slow_client();
    bench.loses();
    let (before, ends) = bench.reads_all(key);
    assert!(before.len() > 10 && ends.is_empty(), "{ends:?}");
    for _ in 0..2 {
        bench.ends(Some(RetainedCut::Refused));
    }
    let (rest, ends) = bench.reads_all(key);
    let got: Vec<u64> = before.into_iter().chain(rest).collect();
    assert!(got.into_iter().eq(2..200), "each once");
    assert_eq!(ends, ["last a:1 198 \"refused\""]);
    assert_eq!(bench.world.outputs.all.len(), 2);
    bench.comes("a:1", 200);
    assert_eq!(bench.brought(key), ["a:1 200"]);
    bench.world.hub.check_invariants();
}

#[test]
fn a_stream_that_is_made_anew_under_a_replay_ends_it_and_the_missing_are_said() {
    // The new stream is empty, or has messages that this instance has read, or is yet to read.
    for (read, brought) in [(0, 0), (3, 3), (1, 3)] {
        let (mut bench, key) = with_a_slow_client();
        bench.loses();
        let (mut got, _) = bench.reads_all(key);
        assert_eq!(bench.asked_after(), got.last().copied());
        bench.ends(Some(RetainedCut::Epoch));
        assert_eq!(
            (bench.world.outputs.all.len(), bench.asked_after()),
            (2, None)
        );
        let anew = |n: u64| 1_000 + n;
        for n in 0..read {
            bench.comes("a:1", anew(n));
        }
        for n in 0..brought {
            bench.finds("a:1", anew(n), &anew(n).to_string());
        }
        bench.ends(None);
        for n in read..brought + 1 {
            bench.world.advance(SECOND / 10);
            bench.comes("a:1", anew(n));
        }
        bench.world.advance(SECOND);
        let (rest, ends) = bench.reads_all(key);
        assert!(rest.iter().copied().eq((0..=brought).map(anew)), "{rest:?}");
        got.extend(rest);
        assert_once(&got);
        let [end] = &ends[..] else { panic!("{ends:?}") };
        assert!(end.ends_with("\"window\""), "{end}");
        assert_eq!(bench.world.outputs.all.len(), 2, "{read} {brought}");
    }
}

#[test]
fn a_stream_that_is_made_anew_all_the_time_is_read_twice() {
    let (mut bench, key) = with_a_slow_client();
    bench.loses();
    let (got, _) = bench.reads_all(key);
    for _ in 0..5 {
        bench.ends(Some(RetainedCut::Epoch));
        bench.loses();
    }
    let (rest, ends) = bench.reads_all(key);
    assert_once(&got);
    assert_eq!(
        (rest.len(), ends),
        (0, vec![format!("last a:1 {} \"window\"", got.len())])
    );
    assert_eq!(bench.world.outputs.all.len(), 2);
    bench.comes("a:1", 7);
    assert_eq!(bench.brought(key), ["a:1 7"]);
}

/// A client that had the newest message of the earlier stream lacks none; of any other it is not known.
#[test]
fn only_a_client_that_had_all_is_told_of_another_epoch_alone() {
    for (since, cut) in [(9, "\"epoch\""), (8, "\"window\""), (90, "\"window\"")] {
        for is_empty in [true, false] {
            let mut bench = on_a_stream();
            bench.comes("a:1", 8);
            bench.comes("a:1", 9);
            bench.loses();
            if !is_empty {
                bench.bus(BusEvent::Feed(FeedNotice::Head(position(3))));
            }
            let key = bench.client();
            bench.ask_all(key, &["a:1"], Some(since));
            bench.ends(Some(RetainedCut::Epoch));
            assert_eq!(bench.asked_after(), None);
            let count = if is_empty { 0 } else { 1 };
            if !is_empty {
                bench.finds("a:1", 3, "3");
            }
            bench.ends(None);
            let ends = bench.reads_all(key).1;
            assert_eq!(
                ends,
                [format!("last a:1 {count} {cut}")],
                "{since} {is_empty}"
            );
        }
    }
    // One that lacked messages before is not told that it has all.
    let mut bench = on_a_stream();
    bench.comes("a:1", 9);
    bench.loses();
    let key = bench.client();
    bench.ask_all(key, &["a:1"], Some(9));
    bench.ends(Some(RetainedCut::Epoch));
    bench.ends(Some(RetainedCut::Window));
    assert_eq!(bench.reads_all(key).1, ["last a:1 0 \"window\""]);
}

/// A client that is slower than the feed gets live messages where it is left behind a second time.
#[test]
fn a_replay_that_is_cut_short_does_not_run_after_the_feed() {
    let mut bench = on_a_stream_with(HistoryLimits {
        bytes_max: 1 << 20,
        ..limits()
    });
    bench.comes("a:1", 1);
    let key = bench.client();
    bench.room(key, 10_000);
    bench.ask_all(key, &["a:1"], None);
    let mut sequence = 1;
    let mut runs = |bench: &mut Bench| {
        for _ in 0..200 {
            sequence += 1;
            bench.comes_with("a:1", sequence, 6_000);
        }
    };
    runs(&mut bench);
    for _ in 0..2 {
        bench.ends(Some(RetainedCut::Refused));
    }
    runs(&mut bench);
    bench.world.open_window(key, 300_000);
    let (got, ends) = bench.reads_all(key);
    assert_once(&got);
    assert!(
        ends.len() == 1 && ends[0].ends_with("\"refused\""),
        "{ends:?}"
    );
    assert!(got.len() < 150, "two pages");
}

/// The bus lets the question begin again that it has. The other one has waited for the first page of that.
#[test]
fn a_question_that_waits_while_the_stream_is_made_anew_brings_the_new_stream_once() {
    let mut bench = on_jetstream();
    bench.comes("a.1", 8);
    let clients = [bench.client(), bench.client()];
    for key in clients {
        bench.ask_all(key, &["a.1"], None);
    }
    assert_eq!(bench.world.outputs.all.len(), 1);
    bench.loses();
    let number = bench.question();
    bench.bus(BusEvent::RetainedPage {
        number,
        cursor: Arc::new(PageCursor::after(None)),
        is_open: false,
    });
    bench.world.advance(1);
    let mut asked = number;
    while bench.question() != asked {
        asked = bench.question();
        assert_eq!(bench.asked_after(), None);
        bench.finds("a.1", 3, "3");
        bench.ends(None);
    }
    bench.comes("a.1", 3);
    bench.world.advance(SECOND / 10);
    bench.comes("a.1", 4);
    for key in clients {
        let mut came = bench.brought(key);
        came.retain(|one| !one.starts_with("subscribed") && one != "status");
        assert_eq!(came, ["a.1 3", "last a.1 1 null", "a.1 4"]);
    }
    bench.world.hub.check_invariants();
}
