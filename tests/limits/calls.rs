//! Limits of the calls of services (events).

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const CALLS: &[Fixed] = &[
    Fixed {
        what: "Failures of a service in a row before calls of the service pause for a second. Failures of calls that one \
            address had under way together count once, and none counts if the service has answered since the call began",
        value: "20",
        beyond: "`upstream_error`, \"Upstream unreachable\", at once: for all if the failures are of several addresses, \
            otherwise for this address; then a single call of each address probes the service",
        shows: Shows::Metric(names::UPSTREAM_CIRCUIT_OPEN),
        code: ("src/gateways/events/circuit.rs", "FAILURES_MAX: u64 = 20;"),
        test: "src/gateways/events/calls.rs::twenty_failures_in_a_row_open_the_circuit_and_one_call_probes",
    },
    Fixed {
        what: "Client addresses with failures of a service that are remembered while its calls pause",
        value: "1,000",
        beyond: "all are forgotten, and each address may probe the service again",
        shows: Shows::Metric(names::UPSTREAM_CIRCUIT_OPEN),
        code: (
            "src/gateways/events/circuit.rs",
            "ADDRESSES_MAX: usize = 1_000;",
        ),
        test: "src/gateways/events/circuit.rs::the_clients_of_one_network_count_as_one_and_addresses_are_bounded",
    },
    Fixed {
        what: "Devices in line for a call that the loop takes from the line in one go",
        value: "16",
        beyond: "the rest waits for the next turn; so many leave only if a service is not called any more",
        shows: Shows::Metric(names::LOOP_TURNS),
        code: ("src/gateways/events/mod.rs", "LEAVING_MAX: usize = 16;"),
        test: "tests/events_gateway/waiting.rs::a_long_line_is_told_over_several_turns",
    },
    Fixed {
        what: "Places to which a service redirects calls, each with a line in the log",
        value: "16 of each service",
        beyond: "redirects to other places are not logged",
        shows: Shows::Elsewhere("the log"),
        code: ("src/http/services/redirects.rs", "PLACES_MAX: usize = 16;"),
        test: "src/http/services/redirects.rs::places_are_bounded",
    },
];
