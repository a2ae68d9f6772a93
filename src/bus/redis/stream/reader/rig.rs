//! Lets a reader read from a [model of a server](super::model).

use super::model::{ModelStep, StreamServer};
use super::{RedisStreamReader, Step, StreamReadError};
use crate::kept::KeptEvent;
use crate::redis::resp::Value;

pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) const HISTORY_MS: u64 = 60_000;

pub(super) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A reader of payloads of up to so many bytes.
pub(super) fn reading(payload_bytes_max: usize) -> RedisStreamReader {
    RedisStreamReader::new("ticks", HISTORY_MS, payload_bytes_max, HELD_BYTES_MAX)
}

/// Hands answers to the reader as a connection does.
pub(super) fn take(
    reader: &mut RedisStreamReader,
    (bytes, now_ms): (usize, u64),
    answers: Vec<Value>,
    events: &mut Vec<KeptEvent>,
) -> Result<(), StreamReadError> {
    for answer in answers {
        match answer {
            Value::Array(entries) if reader.takes_entries() => {
                for entry in entries {
                    reader.take(entry, bytes, now_ms, events)?;
                }
                reader.take(Value::Array(Vec::new()), 4, now_ms, events)?;
            }
            answer => {
                let entries = match &answer {
                    Value::Array(entries) => entries.len(),
                    _ => 1,
                };
                reader.take(answer, bytes * entries, now_ms, events)?;
            }
        }
    }
    Ok(())
}

/// What the reader said, and which messages may be missing.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) events: Vec<KeptEvent>,
    /// The serial numbers of entries that a failover has lost, or that were deleted.
    pub(super) unreadable: Vec<u64>,
    /// How long servers were behind, milliseconds.
    pub(super) behind_ms: u64,
}

impl Log {
    /// Lets the reader send its commands and take the answers; after each command, the server does the step `between`.
    pub(super) fn take_amid(
        &mut self,
        reader: &mut RedisStreamReader,
        server: &mut StreamServer,
        between: &ModelStep,
    ) {
        let mut answers = Vec::new();
        for command in reader.commands() {
            answers.push(server.answer(&command));
            self.unreadable.extend(server.step(between));
        }
        let now = (server.entry_bytes, NOW_MS + self.behind_ms);
        match take(reader, now, answers, &mut self.events) {
            // The next attempt.
            Err(StreamReadError::Behind | StreamReadError::CatchingUp) => {
                self.behind_ms += 1_000;
                reader.connected();
            }
            taken => taken.expect("good answers"),
        }
    }

    pub(super) fn take(&mut self, reader: &mut RedisStreamReader, server: &mut StreamServer) {
        self.take_amid(reader, server, &ModelStep::Add(0));
    }

    /// Reads until the reader waits for new entries.
    pub(super) fn take_all(&mut self, reader: &mut RedisStreamReader, server: &mut StreamServer) {
        (0..10).for_each(|_| self.take(reader, server));
        while matches!(reader.step, Step::CatchUp { .. }) {
            self.take(reader, server);
        }
    }
}

/// What the reader says until it waits for new entries, without how far it is behind.
pub(super) fn read(reader: &mut RedisStreamReader, server: &mut StreamServer) -> Vec<KeptEvent> {
    let mut log = Log::default();
    log.take_all(reader, server);
    let events = log.events.into_iter();
    events
        .filter(|events| !matches!(events, KeptEvent::Lag { .. }))
        .collect()
}

/// A server with a stream of so many entries, and a reader that has read them.
pub(super) fn read_all(has_counters: bool, entries: u8) -> (StreamServer, RedisStreamReader) {
    let mut server = StreamServer {
        has_counters,
        ..StreamServer::new()
    };
    server.step(&ModelStep::Add(entries));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    (server, reader)
}

/// A server, and a reader that has seen its stream empty. `had_entries`: the stream had some before, which were trimmed.
pub(super) fn seen_empty(
    has_counters: bool,
    had_entries: bool,
) -> (StreamServer, RedisStreamReader) {
    let mut server = StreamServer {
        has_counters,
        ..StreamServer::new()
    };
    if had_entries {
        server.step(&ModelStep::Add(5));
        server.step(&ModelStep::Trim(5));
    }
    let mut reader = reading(1_000);
    assert_eq!(read(&mut reader, &mut server), [KeptEvent::CaughtUp]);
    (server, reader)
}

/// The serial numbers of the messages.
pub(super) fn serials(events: &[KeptEvent]) -> Vec<u64> {
    let serial = |event: &KeptEvent| match event {
        KeptEvent::Message { payload, .. } => String::from_utf8_lossy(payload).parse().ok(),
        _ => None,
    };
    events.iter().filter_map(serial).collect()
}

pub(super) fn is_old(events: &KeptEvent) -> Option<bool> {
    match events {
        KeptEvent::Message { is_old, .. } => Some(*is_old),
        _ => None,
    }
}
