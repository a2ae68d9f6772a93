//! Limits between the instances of an events gateway, and between a gateway and what it publishes on.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const INSTANCES: &[Fixed] = &[
    Fixed {
        what: "Bodies of pushes that wait for the counts of other instances",
        value: "64 MiB together; a single body of any size has room",
        beyond: "503 `Too many pushes wait for other instances`, and no device gets the push",
        shows: Shows::Metric(names::EVENTS_BUS_PUSHES_REFUSED),
        code: (
            "src/kinds/events/bus/mod.rs",
            "WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;",
        ),
        test: "src/kinds/events/bus/mod.rs::pushes_that_wait_are_bounded_in_number_and_bytes",
    },
    Fixed {
        what: "Messages that wait to be written to the bus between instances",
        value: "4,096, and 64 MiB",
        beyond: "the push is answered with every other instance in `missing`",
        shows: Shows::Metric(names::EVENTS_BUS_PUSHES_INCOMPLETE),
        code: ("src/sources/publisher.rs", "MESSAGES_MAX: usize = 4_096;"),
        test: "src/sources/publisher.rs::what_waits_to_be_published_is_bounded_in_messages_and_bytes",
    },
    Fixed {
        what: "Messages of the bus between instances that were received and not looked at",
        value: "1,024, and 64 MiB",
        beyond: "NATS: the newest are dropped and counted; Redis: weirgate does not read, and Redis ends the connection at its `client-output-buffer-limit`",
        shows: Shows::Metric(names::EVENTS_BUS_LOST),
        code: (
            "src/kinds/events/bus/connect.rs",
            "EVENTS_MAX: usize = 1_024;",
        ),
        test: "src/sources/mod.rs::a_bus_that_cannot_wait_learns_that_there_is_no_room",
    },
    Fixed {
        what: "Bytes of a message on the bus between instances that is read",
        value: "16 MiB and 256 bytes, whatever `--events-bus-message-bytes-max` of this instance is",
        beyond: "the message is ignored and counted, and the push is answered with this instance in `missing`",
        shows: Shows::Metric(names::EVENTS_BUS_IGNORED),
        code: (
            "src/gateways/events/bus/message.rs",
            "MESSAGE_BYTES_MAX: usize = PART_BYTES_MAX + LINE_BYTES_MAX;",
        ),
        test: "tests/events_gateway/bus.rs::a_message_over_the_limit_of_the_bus_is_no_part_of_a_push",
    },
    Fixed {
        what: "Pushes of other instances that the loop has not delivered",
        value: "64",
        beyond: "no further message of the bus is looked at",
        shows: Shows::Metric(names::EVENTS_BUS_LOST),
        code: (
            "src/kinds/events/bus/thread.rs",
            "DELIVERING_MAX: usize = 64;",
        ),
        test: "src/kinds/events/bus/thread.rs::a_loop_that_delivers_nothing_stops_the_bus",
    },
    Fixed {
        what: "Bytes of pushes of other instances of which parts are still to come",
        value: "twice `--broadcast-bytes-max`, over all instances",
        beyond: "the push is ignored and counted",
        shows: Shows::Metric(names::EVENTS_BUS_IGNORED),
        code: (
            "src/gateways/events/bus/instances.rs",
            "self.partial_bytes + total > 2 * self.push_bytes_max",
        ),
        test: "tests/events_gateway/bus.rs::a_push_whose_parts_are_lost_or_too_many_has_no_effect",
    },
    Fixed {
        what: "Time that a push waits for an instance that has let an earlier push wait in vain, until the instance answers again",
        value: "a tenth of `--events-bus-wait-ms`",
        beyond: "the response names the instance in `missing`",
        shows: Shows::Metric(names::EVENTS_BUS_PUSHES_INCOMPLETE),
        code: (
            "src/gateways/events/bus/exchange.rs",
            "LATE_SHARE: u64 = 10;",
        ),
        test: "tests/events_gateway/bus.rs::an_instance_that_hangs_holds_up_each_push_for_a_short_time_only",
    },
    Fixed {
        what: "Time for which the pushes of an instance that is away are remembered",
        value: "60 s",
        beyond: "a push of that instance that came again would be delivered again",
        shows: Shows::Metric(names::EVENTS_BUS_IGNORED),
        code: (
            "src/gateways/events/bus/instances.rs",
            "REMEMBERED_US: u64 = 60_000_000;",
        ),
        test: "tests/events_gateway/bus.rs::what_comes_again_is_delivered_once",
    },
    Fixed {
        what: "Silence of an instance, or of the bus between instances",
        value: "3 s",
        beyond: "the instance is no longer counted; the bus counts as away",
        shows: Shows::Metric(names::EVENTS_BUS_INSTANCES),
        code: (
            "src/gateways/events/bus/instances.rs",
            "SILENCE_US: u64 = 3_000_000;",
        ),
        test: "tests/events_gateway/bus.rs::an_instance_that_does_not_answer_is_missing_and_then_forgotten",
    },
];
