//! Budgets of one turn of the loop, the wait of the loop, and the messages from the bus.

use super::super::kind::{Kind, Unit};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, KIB, MIB};
use crate::telemetry::names;

/// A budget loses nothing: the next turn continues.
const NEXT_TURN: Shows = Shows::Metric(names::LOOP_TURNS);

pub(super) static ROWS: &[Setting] = &[
    Setting::bytes(
        Heading::LOOP,
        "turn-message-bytes-max",
        (1, GIB),
        "262144",
        "Inflated message bytes of one client per turn",
    )
    .limit(
        "the next message of the client waits for the next turn",
        NEXT_TURN,
        "tests/blackbox/test_limits_turns.py::test_a_client_that_floods_has_its_share_and_no_more",
    ),
    Setting::bytes(
        Heading::LOOP,
        "turn-all-message-bytes-max",
        (1, GIB),
        "524288",
        "Message bytes of all clients, inflated, that are looked at in one turn",
    )
    .more("Clients that cost little have as much, and clients that cost much have as much.")
    .limit(
        "the next message waits for the next turn",
        Shows::Metric(names::LOOP_BUDGETS_SPENT),
        "tests/hub_rules/reading.rs::messages_of_all_clients_have_one_budget_and_none_is_lost",
    ),
    Setting::bytes(
        Heading::LOOP,
        "write-bytes-max",
        (KIB, 16 * MIB),
        "131072",
        "Bytes handed to one client in one write",
    )
    .limit(
        "the rest goes with the next flush",
        NEXT_TURN,
        "tests/hub_rules/queue.rs::a_write_has_so_many_bytes_and_the_rest_follows",
    ),
    Setting::bytes(
        Heading::LOOP,
        "read-bytes-per-turn-max",
        (KIB, 16 * MIB),
        "65536",
        "Bytes read from one client in one turn",
    )
    .limit(
        "the rest is read in the next turn",
        NEXT_TURN,
        "tests/blackbox/test_limits_turns.py::test_a_client_that_floods_has_its_share_and_no_more",
    ),
    Setting::count(
        Heading::LOOP,
        "accepts-per-turn-max",
        (1, 65_536),
        "256",
        "Connections accepted in one turn",
    )
    .limit(
        "the others are accepted in the next turn",
        Shows::Metric(names::LOOP_BUDGETS_SPENT),
        "tests/blackbox/test_limits_turns.py::test_small_budgets_lose_nothing",
    ),
    Setting::bytes(
        Heading::LOOP,
        "turn-publication-bytes-max",
        (KIB, 512 * MIB),
        "131072",
        "Bytes of messages queued for all clients before a flush",
    )
    .more(
        "Never more than half of --send-queue-soft-bytes. While a flush to many clients takes several turns, no more \
         are taken once three quarters of --send-queue-soft-bytes wait for the last clients, except messages that \
         newer ones replace.",
    )
    .limit(
        "a flush comes first, then the next messages",
        Shows::Metric(names::LOOP_BUDGETS_SPENT),
        "tests/blackbox/test_limits_turns.py::test_small_budgets_lose_nothing",
    ),
    Setting::new(
        Heading::LATENCY,
        "spin-us",
        Kind::number(Unit::Microseconds, (0, 1_000_000)),
        "0",
        "How long loop and bus thread poll without sleeping after work; 0: not at all",
    )
    .more("Lower latency for a whole CPU of each of the two threads, while they poll."),
    Setting::count(
        Heading::BUS,
        "bus-queue-messages-max",
        (1, 1_048_576),
        "1024",
        "Messages between the bus and the event loop",
    )
    .limit(
        "the bus waits; JetStream keeps the rest",
        Shows::Metric(names::CONSUMER_LAG),
        "tests/nats_source/outages.rs::a_full_channel_leaves_the_rest_with_the_server",
    )
    .part(Part::Bus),
    Setting::bytes(
        Heading::BUS,
        "bus-queue-bytes-max",
        (KIB, 1024 * GIB),
        "67108864",
        "Bytes of messages between the bus and the loop",
    )
    .more("One message of any size always has room.")
    .memory_part(60)
    .limit(
        "the bus waits, as over --bus-queue-messages-max",
        Shows::Metric(names::BUS_QUEUE_BYTES),
        "src/sources/mod.rs::large_messages_wait_at_the_bus_and_not_in_memory",
    )
    .part(Part::Bus),
    Setting::bytes(
        Heading::BUS,
        "bus-message-bytes-max",
        (KIB, GIB),
        "16777216",
        "Bytes of one message from the bus",
    )
    .limit(
        "counted, logged and skipped",
        Shows::Metric(names::BUS_MESSAGES_BAD),
        "tests/blackbox/test_limits_turns.py::test_bus_messages_over_a_limit_are_skipped_and_counted",
    )
    .part(Part::BusMessages),
    Setting::count(
        Heading::BUS,
        "json-depth-max",
        (1, 1024),
        "512",
        "Nesting of JSON in a message from the bus",
    )
    .limit(
        "counted, logged and skipped",
        Shows::Metric(names::BUS_MESSAGES_BAD),
        "tests/blackbox/test_limits_turns.py::test_bus_messages_over_a_limit_are_skipped_and_counted",
    )
    .part(Part::Json),
];
