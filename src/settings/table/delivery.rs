//! The send queues of clients, the care of connections, and the messages kept for clients after a reconnection.

use super::super::field::field;
use super::super::groups::StreamSettings;
use super::super::kind::Kind;
use super::super::listen::ListenSettings;
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, HOUR_MS, KIB, MIB};
use crate::hub::{CloseReason, Limits};
use crate::telemetry::names;

pub(super) static SEND_QUEUES: &[Setting] = &Heading::SEND_QUEUE.of([
    Setting::bytes(
        "send-queue-soft-bytes",
        (4 * KIB, GIB),
        field!(Limits, send_queue.soft_bytes),
        "Bytes in the send queue of a client before the client is slow",
    )
    .limit(
        "frames with a conflation key are conflated: only the newest stays; for other frames \
            see `--send-queue-soft-for-ms`",
        Shows::Metric(names::MESSAGES_CONFLATED),
        "tests/hub_rules/queue.rs::only_the_newest_of_each_key_stays_and_goes_to_the_tail",
    ),
    Setting::ms(
        "send-queue-soft-for-ms",
        (0, HOUR_MS),
        field!(us Limits, send_queue.soft_for_us),
        "How long a client may stay over the soft limit",
    )
    .more("Applies only if frames cannot be conflated.")
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendQueueSoft),
        "tests/hub_rules/queue.rs::the_soft_limit_drops_after_its_time_and_not_before",
    ),
    Setting::bytes(
        "send-queue-hard-bytes",
        (4 * KIB, GIB),
        field!(Limits, send_queue.hard_bytes),
        "Bytes in the send queue of a client, if frames cannot be conflated",
    )
    .more(
        "One frame of any size fits an empty queue. Conflated frames too, if over 64 frames wait: the \
         newest of each key.",
    )
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendQueueHard),
        "tests/hub_rules/queue.rs::the_hard_limit_counts_what_waits_behind_the_first_frame",
    ),
    Setting::ms(
        "send-queue-conflate-after-ms",
        (1, HOUR_MS),
        field!(us Limits, send_queue.conflate_after_us),
        "Age of the oldest waiting frame before a send queue is conflated",
    )
    .limit(
        "of the frames with the same conflation key only the newest stays",
        Shows::Metric(names::MESSAGES_CONFLATED),
        "tests/hub_rules/queue.rs::an_old_queue_conflates_though_it_is_small",
    ),
    Setting::ms(
        "send-queue-stall-ms",
        (100, HOUR_MS),
        field!(us Limits, send_queue.stall_us),
        "How long the kernel may take no byte for a client while frames wait",
    )
    .more(
        "Behind a trusted proxy each 20 kB under way give a second more, up to four times this limit. \
         Less than 10000 also drops working clients on very slow connections.",
    )
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendStalled),
        "tests/blackbox/test_slow_clients.py::test_clients_that_never_read_are_dropped_with_the_reason",
    ),
    Setting::bytes(
        "frame-bytes-max",
        (MIB, 1024 * GIB),
        field!(Limits, frame_bytes_max),
        "Memory of the frames that wait for clients that read nothing",
    )
    .more(
        "A frame counts once, however many clients wait for it; each place in a queue of more than 16 frames \
         counts with 16 to 32 bytes.",
    )
    .memory_part(300)
    .limit(
        "slow clients are dropped, first those with the largest share of the frames, until enough \
         memory is free",
        Shows::Reason(CloseReason::FrameMemory),
        "tests/hub_rules/memory.rs::past_the_memory_limit_the_client_goes_whose_end_frees_most",
    ),
]);

pub(super) static CONNECTIONS: &[Setting] = &Heading::CONNECTION.of([
    Setting::ms(
        "ping-interval-ms",
        (0, HOUR_MS),
        field!(us Limits, ping_interval_us),
        "Time between pings to a client; 0 sends none",
    )
    .more("Longer with over 50,000 clients, up to 45000: all together get 2,500 in a second."),
    Setting::ms(
        "pong-timeout-ms",
        (100, HOUR_MS),
        field!(us Limits, pong_timeout_us),
        "Time from a ping to the pong",
    )
    .more(
        "While the client takes bytes that waited, or sends parts of a message, the time begins anew; \
         each 20 kB before the ping give it a second, up to --send-queue-stall-ms.",
    )
    .limit(
        "close 1011",
        Shows::Reason(CloseReason::PongTimeout),
        "tests/hub_rules/deadlines.rs::a_client_without_a_pong_is_closed_when_its_time_is_over",
    ),
    Setting::count(
        "deflate-level",
        (0, 9),
        field!(Limits, deflate_level),
        "Compression for clients that offer permessage-deflate; 0 for none",
    )
    .more("A message is compressed once for all clients, not for each. 1 is fastest, 9 is smallest."),
    Setting::bytes(
        "tcp-notsent-lowat-bytes",
        (0, GIB),
        field!(ListenSettings, options.notsent_lowat_bytes),
        "Unsent bytes in the kernel per client; 0 for the default of the kernel",
    )
    .more("Bytes in the kernel cannot be conflated, so this number should be small.")
    .limit(
        "messages wait in the send queue",
        Shows::Metric(names::MESSAGES_WAITING),
        "tests/blackbox/test_slow_clients.py::test_a_throttled_reader_stays_and_sees_fresh_data",
    ),
]);

pub(super) static HISTORY: &[Setting] = &Heading::HISTORY.in_part(Part::History).of([
    Setting::ms(
        "history-ms",
        (0, 24 * HOUR_MS),
        field!(us Limits, history.keep_us),
        "How long messages are kept for clients that resume; 0 for none",
    )
    .more(
        "At least 20000. Messages then have a position, \"pos\", and clients get the status of the bus now and then. A client \
        that comes back, to whichever instance, sends its last position as \"since\" and gets what it missed.",
    )
    .limit(
        "the message is forgotten; a client that missed the message is notified",
        Shows::Metric(names::RESUMES),
        "src/hub/history/tests.rs::what_is_too_old_is_forgotten_and_told",
    ),
    Setting::bytes(
        "history-bytes-max",
        (64 * KIB, 16 * GIB),
        field!(Limits, history.bytes_max),
        "Memory of all kept messages; at most half of --frame-bytes-max",
    )
    .more(
        "Compressed forms, copies for clients of patterns, and the names of the messages' topics count too. The copies go \
         first: they can be made again.",
    )
    .memory_part(100)
    .limit(
        "the oldest messages are forgotten; a client that missed them is notified",
        Shows::Metric(names::HISTORY_BYTES),
        "src/hub/history/tests.rs::the_oldest_go_first_when_all_need_too_much_memory",
    ),
    Setting::new(
        "history-channel",
        Kind::Text,
        field!(StreamSettings, marks_channel),
        "Redis channel on which instances publish a mark each second",
    )
    .more(
        "With --history-ms. The marks make the positions of one instance valid on all others. Without the \
        right to publish and to subscribe there, a client resumes on its own instance only.",
    )
    .part(Part::HistoryMarks),
    Setting::new(
        "stream",
        Kind::Text,
        field!(StreamSettings, name),
        "Stream to read in place of pub/sub; empty: none",
    )
    .more(
        "With --history-ms. A JetStream stream of --bus, or the key of a Redis stream, whose entries have the fields \
        channel and data. The stream keeps the messages, so no outage of the bus or of weirgate loses any. All \
        instances read the same stream.",
    )
    .part(Part::Stream),
]);
