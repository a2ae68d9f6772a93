//! Answers of other programs that said "recovered" and were wrong, each by the issue that told of it. What
//! clients do is in `clients/conformance/resume.json`; what positions of streams and a long history find is
//! in `src/core/history/tests.rs`.

use serde_json::Value;
use weirgate_core::{FeedNotice, Mark, Position};

use super::resume::{Bench, MARK, SECOND, at};
use super::*;

/// The kept list of [`at`].
const NAMES: u32 = 5;

fn read(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Whether the answer promises everything, and the reason if it does not.
fn recovered(answer: &str) -> (bool, String) {
    let data = &read(answer)["data"];
    let why = data["why"].as_str().unwrap_or_default().to_owned();
    (data["recovered"] == true, why)
}

fn position(text: &str) -> String {
    read(text)["pos"].as_str().expect("a position").to_owned()
}

fn prices(texts: &[String]) -> Vec<u64> {
    let price = |text: &String| read(text)["data"]["price"].as_u64();
    texts.iter().filter_map(price).collect()
}

fn trade(bench: &mut Bench, price: u64) {
    bench.trade("A", &format!(r#"{{"price":{price}}}"#));
}

/// centrifuge-js#434, centrifuge-go#159: the first answer had no epoch, so the check was skipped.
#[test]
fn a_position_without_one_of_its_parts_is_bad() {
    let mut bench = Bench::new(5);
    trade(&mut bench, 1);
    let whole = at(0).to_string();
    let parts: Vec<&str> = whole.split('.').collect();
    for missing in 0..parts.len() {
        let mut left = parts.clone();
        left.remove(missing);
        let mut empty = parts.clone();
        empty[missing] = "";
        for since in [left.join("."), empty.join(".")] {
            let got = bench.comes_back(r#"["A"]"#, &since);
            assert_eq!(recovered(&got[0]), (false, "bad".into()), "{since}");
            assert_eq!(got.len(), 1, "nothing of what was missed: {since}");
        }
    }
}

/// centrifuge-go#160: the new epoch was joined with an old offset. Of streams:
/// `a_message_of_a_stream_is_found_by_both_parts_of_its_id` of the history.
#[test]
fn the_count_of_one_mark_with_another_mark_is_no_place_or_that_of_the_other_mark() {
    let mut bench = Bench::new(5);
    (1..=5).for_each(|price| trade(&mut bench, price));
    for (nonce, counter) in [(MARK.nonce + 1, MARK.counter), (MARK.nonce, 2), (0, 0)] {
        let mark = Mark { nonce, counter };
        let unknown = Position::counted(NAMES, mark, 3);
        let got = bench.comes_back(r#"["A"]"#, &unknown.to_string());
        assert_eq!(recovered(&got[0]), (false, "epoch".into()));
        assert_eq!(got.len(), 1);
    }
    // A mark that is known, with a count that nobody reached behind it.
    let mark = Mark { counter: 2, ..MARK };
    bench.bus(BusEvent::Feed(FeedNotice::Mark {
        feed_hash: NAMES,
        mark,
        count: 5,
    }));
    let beyond = Position::counted(NAMES, mark, 5);
    let got = bench.comes_back(r#"["A"]"#, &beyond.to_string());
    assert_eq!(recovered(&got[0]), (false, "ahead".into()));
    assert_eq!(got.len(), 1);
}

/// mercure#1321, mercure#1215: an unknown id was answered with the newest id, as if nothing were missing.
#[test]
fn behind_an_unknown_position_stands_the_place_of_what_was_sent() {
    let mut bench = Bench::new(5);
    (1..=3).for_each(|price| trade(&mut bench, price));
    let unknown = "m5.0123456789ab.1.2";
    let key = bench.client();
    let got = bench.resumes(key, r#"["A"]"#, unknown);
    assert_eq!(recovered(&got[0]), (false, "epoch".into()));
    let answered = position(&got[0]);
    trade(&mut bench, 4);
    let live = bench.world.texts(key);
    assert_eq!(
        prices(&live),
        [4],
        "the first message behind the position that the answer told"
    );
    let told = position(&live[0]);
    trade(&mut bench, 5);
    for (since, missed) in [(answered, vec![4, 5]), (told, vec![5])] {
        let got = bench.comes_back(r#"["A"]"#, &since);
        assert!(recovered(&got[0]).0);
        assert_eq!(prices(&got), missed);
    }
}

/// mercure#1382, mercure#704: an id that is not found stayed with the client for ever.
#[test]
fn a_client_with_a_bad_position_is_live_each_time_and_recovers_with_the_next_good_one() {
    let mut bench = Bench::new(5);
    let mut good = String::new();
    for round in 0..3 {
        let key = bench.client();
        let got = bench.resumes(key, r#"["A"]"#, "no position");
        assert_eq!(recovered(&got[0]), (false, "bad".into()));
        trade(&mut bench, round);
        let live = bench.world.texts(key);
        assert_eq!(prices(&live), [round], "live");
        good = position(&live[0]);
        bench.world.end(key, true);
    }
    trade(&mut bench, 3);
    let got = bench.comes_back(r#"["A"]"#, &good);
    assert_eq!((recovered(&got[0]).0, prices(&got)), (true, vec![3]));
}

/// otcv6#22, cmux#9615: after a restart the history was empty, and "from the first" was answered with the
/// live messages.
#[test]
fn an_instance_that_has_just_started_recovers_nothing() {
    let mut bench = Bench::new(5);
    for (nonce, counter, count) in [(7, 1, 0), (7, 1, 1), (0, 0, 0), (MARK.nonce, 0, 0)] {
        let mark = Mark { nonce, counter };
        let since = Position::counted(NAMES, mark, count);
        let got = bench.comes_back(r#"["A"]"#, &since.to_string());
        assert_eq!(recovered(&got[0]), (false, "epoch".into()), "{since}");
    }
}

/// socket.io#5419, socket.io#4880: the second recovery brought the messages of the first again, or failed.
#[test]
fn a_quiet_time_between_two_resumes_repeats_nothing() {
    let mut bench = Bench::new(5);
    trade(&mut bench, 1);
    let got = bench.comes_back(r#"["A"]"#, &at(0).to_string());
    assert_eq!(prices(&got), [1]);
    let since = position(&got[1]);
    for _ in 0..10 {
        let key = bench.client();
        let got = bench.resumes(key, r#"["A"]"#, &since);
        assert_eq!((recovered(&got[0]).0, got.len()), (true, 1), "{got:?}");
        bench.world.end(key, false);
    }
    trade(&mut bench, 2);
    let got = bench.comes_back(r#"["A"]"#, &since);
    assert_eq!((recovered(&got[0]).0, prices(&got)), (true, vec![2]));
}

/// socket.io#4733, socket.io-redis-streams-adapter#26: a client that was cut before its first message, or
/// had none for long, could not recover.
#[test]
fn a_client_without_any_message_resumes_from_the_answer_and_from_each_status() {
    let mut bench = Bench::new(5);
    let key = bench.client();
    let answered = position(&subscribe(&mut bench.world, key, r#"["A"]"#));
    bench.world.advance(10 * SECOND);
    let status = bench.world.texts(key);
    let first = position(&status[0]);
    for since in [answered, first] {
        let got = bench.comes_back(r#"["A"]"#, &since);
        assert_eq!((recovered(&got[0]).0, got.len()), (true, 1));
    }
    // An hour in which others speak, and the kept messages are those of the last minute.
    let mut newest = String::new();
    for _ in 0..360 {
        bench.trade("B", r#"{"price":0}"#);
        bench.world.advance(10 * SECOND);
        newest = position(bench.world.texts(key).last().expect("a status"));
    }
    trade(&mut bench, 1);
    let got = bench.comes_back(r#"["A"]"#, &newest);
    assert_eq!((recovered(&got[0]).0, prices(&got)), (true, vec![1]));
}
