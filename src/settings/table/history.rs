//! The messages kept for clients after a reconnection.

use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, HOUR_MS, KIB};
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::ms(
        Heading::HISTORY,
        "history-ms",
        (0, 24 * HOUR_MS),
        "0",
        "How long messages are kept for clients that resume; 0 for none",
    )
    .more(
        "At least 20000. Messages then have a position, \"pos\", and clients get the status of the bus now and then. A client \
        that comes back, to whichever instance, sends its last position as \"since\" and gets what it missed.",
    )
    .limit(
        "the message is forgotten; a client that missed the message is told",
        Shows::Metric(names::RESUMES),
        "src/hub/history/tests.rs::what_is_too_old_is_forgotten_and_told",
    )
    .part(Part::History),
    Setting::bytes(
        Heading::HISTORY,
        "history-bytes-max",
        (64 * KIB, 16 * GIB),
        "67108864",
        "Memory of all kept messages; at most half of --frame-bytes-max",
    )
    .more(
        "Compressed forms, copies for clients of patterns, and the names of the messages' topics count too. The copies go \
         first: they can be made again.",
    )
    .limit(
        "the oldest messages are forgotten; a client that missed them is told",
        Shows::Metric(names::HISTORY_BYTES),
        "src/hub/history/tests.rs::the_oldest_go_first_when_all_need_too_much_memory",
    )
    .part(Part::History),
    Setting::new(
        Heading::HISTORY,
        "history-channel",
        Kind::Text,
        "weirgate:mark",
        "Redis channel on which instances publish a mark each second",
    )
    .more(
        "With --history-ms. The marks make the positions of one instance valid on all others. Without the \
        right to publish and to subscribe there, a client resumes on its own instance only.",
    )
    .part(Part::HistoryMarks),
    Setting::new(
        Heading::HISTORY,
        "stream",
        Kind::Text,
        "",
        "Stream to read in place of pub/sub; empty: none",
    )
    .more(
        "With --history-ms. A JetStream stream of --bus, or the key of a Redis stream, whose entries have the fields \
        channel and data. The stream keeps the messages, so no outage of the bus or of weirgate loses any. All \
        instances read the same stream.",
    )
    .part(Part::Stream),
];
