//! The reader as a whole, against a model of a server.

mod masters_by_turns;
mod random_steps;

use super::model::{ModelStep, StreamServer};
use super::rig::{HISTORY_MS, Log, NOW_MS, reading, take};
use super::*;

#[test]
fn a_refusal_and_a_wrong_answer_end_the_connection() {
    for (answer, trouble) in [
        (
            Value::Error("WRONGTYPE x".to_owned()),
            StreamReadError::Refused("WRONGTYPE x".to_owned()),
        ),
        (
            Value::Integer(1),
            StreamReadError::Wrong("an answer that fits no question"),
        ),
    ] {
        let mut reader = reading(1_000);
        let commands = reader.commands().len();
        let answers = vec![answer; commands];
        let taken = take(&mut reader, (100, NOW_MS), answers, &mut Vec::new());
        assert_eq!(taken, Err(trouble));
    }
}

#[test]
fn answers_stay_within_their_bytes() {
    let number = |reader: &mut RedisStreamReader, name: &str| {
        let commands = reader.commands();
        let at = commands[0].iter().position(|word| word == "COUNT");
        assert_eq!(commands[0][0], name);
        commands[0][at.expect("a count") + 1].parse::<usize>()
    };
    // The limit on what is held, the limit on a payload, and the COUNT of XREAD.
    for (held_bytes_max, bytes_max, held) in [
        (64 << 20, 1_000, 16),
        (64 << 20, 16 << 20, 4),
        (64 << 20, 1 << 30, 1),
        (20 << 20, 10 << 20, 2),
        (1 << 20, 10 << 20, 1),
    ] {
        let mut server = StreamServer::new();
        (0..20).for_each(|_| drop(server.step(&ModelStep::Add(100))));
        let mut reader = RedisStreamReader::new("ticks", HISTORY_MS, bytes_max, held_bytes_max);
        let mut log = Log::default();
        log.take_all(&mut reader, &mut server);
        assert_eq!(number(&mut reader, "XREAD"), Ok(held));
        // What follows on another connection may be larger.
        reader.connected();
        log.take(&mut reader, &mut server);
        assert_eq!(number(&mut reader, "XRANGE"), Ok(2));
    }
}
