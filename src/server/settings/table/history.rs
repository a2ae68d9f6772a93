//! Which messages are kept for clients that resume, or read from a stream.
//!
//! A pair of numbers is the range of a value. `limit` has the effect beyond the limit, where an operator sees it, and a
//! test that exceeds it. `field!(us …)` is a field in microseconds, for a row in milliseconds. `memory_thousandths` is
//! the part of `--memory-max`.

use super::super::groups::StreamSettings;
use super::super::kind::Kind;
use super::super::setting::{Heading, Setting, Shows, TablePart};
use super::{GIB, HOUR_MS, KIB};
use crate::field;
use crate::telemetry::MetricName;
use weirgate_core::Limits;

pub(super) static HISTORY: &[Setting] = &Heading::HISTORY.in_part(TablePart::History).of([
    Setting::ms(
        "history-ms",
        (0, 24 * HOUR_MS),
        field!(us Limits, history.keep_us),
        "How long messages are kept for clients that resume; 0 for none",
    )
    .more(
        "If not 0, at least 20000. A client that reconnects to any instance with its last position as \"since\" gets the \
         messages that it missed.",
    )
    .limit(
        "older messages are dropped; a client that missed a dropped message is notified",
        Shows::Metric(MetricName::RESUMES),
        "src/core/history/tests.rs::what_is_too_old_is_forgotten_and_told",
    ),
    Setting::bytes(
        "history-bytes-max",
        (64 * KIB, 16 * GIB),
        field!(Limits, history.bytes_max),
        "Memory of all kept messages; at most half of --frame-bytes-max",
    )
    .memory_thousandths(90)
    .limit(
        "the oldest messages are dropped; a client that missed a dropped message is notified. For a large message, this takes several [turns](../glossary.md): meanwhile, up to a quarter more is kept, and weirgate takes nothing from the bus",
        Shows::Metric(MetricName::HISTORY_BYTES),
        "src/core/history/tests.rs::the_oldest_go_first_when_all_need_too_much_memory",
    ),
    Setting::new(
        "history-channel",
        Kind::Text,
        field!(StreamSettings, marks_channel),
        "Redis channel on which instances publish a mark each second",
    )
    .more(
        "Used with --history-ms. If Redis does not let weirgate publish and subscribe there, a client can resume on \
         its own instance only. No client of channels gets its messages, also without --history-ms: give all instances on \
         this Redis the same value.",
    )
    .part(TablePart::HistoryMarks),
    Setting::new(
        "stream",
        Kind::Text,
        field!(StreamSettings, name),
        "Stream to read instead of pub/sub; empty: none",
    )
    .more(
        "Needs --history-ms. It is a JetStream stream of --bus, or the key of a Redis stream, whose entries have the \
         fields channel and data. All instances must read the same stream.",
    )
    .part(TablePart::Stream),
]);
