//! Budgets of one turn of the loop, and what the bus may send.

use super::super::setting::Heading::{Bus, Loop};
use super::super::setting::Setting;
use super::{GIB, KIB, MIB};

pub(super) static ROWS: &[Setting] = &[
    Setting::bytes(
        Loop,
        "turn-message-bytes-max",
        (1, GIB),
        "262144",
        "Message bytes of one client, inflated, that are looked at in one turn",
    ),
    Setting::bytes(
        Loop,
        "write-bytes-max",
        (KIB, 16 * MIB),
        "131072",
        "Bytes handed to one client in one write",
    ),
    Setting::bytes(
        Loop,
        "read-bytes-per-turn-max",
        (KIB, 16 * MIB),
        "65536",
        "Bytes read from one client in one turn",
    ),
    Setting::count(
        Loop,
        "accepts-per-turn-max",
        (1, 65_536),
        "256",
        "Connections accepted in one turn",
    ),
    Setting::bytes(
        Loop,
        "turn-publication-bytes-max",
        (KIB, 512 * MIB),
        "131072",
        "Bytes of messages queued for all before they are written out",
    )
    .more("Never more than half of --send-queue-soft-bytes."),
    Setting::count(
        Bus,
        "bus-queue-messages-max",
        (1, 1_048_576),
        "1024",
        "Messages between the bus and the loop; then the bus has to wait",
    ),
    Setting::bytes(
        Bus,
        "bus-message-bytes-max",
        (KIB, GIB),
        "16777216",
        "One message from the bus; larger ones are counted, logged and skipped",
    ),
    Setting::count(
        Bus,
        "json-depth-max",
        (1, 1024),
        "512",
        "Nesting of JSON; deeper messages are refused",
    ),
];
