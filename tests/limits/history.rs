//! Limits of missed messages.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const HISTORY: &[Fixed] = &[
    Fixed {
        what: "Missed messages that wait for one client, over all of its requests (`--history-ms`)",
        value: "4 MiB",
        beyond: "the client gets none, and is told: `large`",
        shows: Shows::Metric(names::RESUMES),
        code: (
            "src/hub/resume.rs",
            "RESUME_BYTES_MAX: usize = 4 * 1024 * 1024;",
        ),
        test: "tests/trades_gateway/resume_limits.rs::what_waits_for_a_client_counts_over_its_requests",
    },
    Fixed {
        what: "Steps of matching in one search for missed or newest messages, for all patterns of a request",
        value: "500,000: a name needs one or two for each pattern that ends in its only wildcard",
        beyond: "the client gets none, and is told: `large`",
        shows: Shows::Metric(names::RESUMES),
        code: (
            "src/hub/history/wanted.rs",
            "MATCH_STEPS_MAX: usize = 500_000;",
        ),
        test: "src/hub/history/tests/searches.rs::a_search_has_one_budget_of_matching_steps",
    },
    Fixed {
        what: "Memory of the patterns that are remembered for each name of channels whose messages the gateway matches",
        value: "16 MiB, beside `--history-bytes-max`",
        beyond: "names without a recent message are forgotten, and compared with all patterns again",
        shows: Shows::Elsewhere("nothing: only its cost differs"),
        code: (
            "src/gateways/channels/patterns.rs",
            "ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;",
        ),
        test: "src/gateways/channels/patterns.rs::what_is_remembered_is_bounded_and_a_known_name_is_compared_with_new_patterns_only",
    },
    Fixed {
        what: "Bytes of a push that has a position and is kept (`--history-ms`)",
        value: "4 MiB",
        beyond: "the push is sent without a position; a device that comes back over the push is told: `window`",
        shows: Shows::Metric(names::RESUMES),
        code: (
            "src/gateways/events/broadcast.rs",
            "self.frame.queue_bytes() <= RESUME_BYTES_MAX",
        ),
        test: "tests/events_gateway/resume.rs::a_push_that_is_too_large_to_send_again_is_a_hole_that_is_told",
    },
    Fixed {
        what: "Missed messages that wait for all clients that come back. The clients of an address (an IPv6 /64) get more only while they hold less than what is left: one address up to half, two up to a third each",
        value: "4,194,304: 64 MiB of places in the queues",
        beyond: "a client that comes back is told: `large`",
        shows: Shows::Metric(names::RESUMES),
        code: ("src/hub/limits.rs", "RESUME_MESSAGES_MAX: u64 = 4_194_304;"),
        test: "tests/trades_gateway/resume_limits.rs::no_more_is_sent_again_to_an_address_that_holds_what_is_left",
    },
    Fixed {
        what: "Marks that are remembered, of all instances",
        value: "4,096, the newest",
        beyond: "a position of an older mark is told: `epoch`",
        shows: Shows::Metric(names::RESUMES),
        code: ("src/hub/history/places.rs", "MARKS_MAX: usize = 4_096;"),
        test: "src/hub/history/tests.rs::the_oldest_marks_are_forgotten",
    },
    Fixed {
        what: "Ids of a stream's messages that are remembered beyond the kept messages",
        value: "65,536, the newest",
        beyond: "a position of an older message is told: `window`",
        shows: Shows::Metric(names::RESUMES),
        code: (
            "src/hub/history/places.rs",
            "FORGOTTEN_IDS_MAX: usize = 65_536;",
        ),
        test: "src/hub/history/tests/streams.rs::ids_are_remembered_longer_than_messages_up_to_a_number",
    },
    Fixed {
        what: "Names without a kept message that the history remembers, to know that nothing came",
        value: "65,536, and a quarter of `--history-bytes-max`",
        beyond: "an old position of a forgotten name is told: `window`",
        shows: Shows::Metric(names::RESUMES),
        code: ("src/hub/history/names.rs", "QUIET_MAX: usize = 65_536;"),
        test: "src/hub/history/tests.rs::names_are_remembered_up_to_their_limits",
    },
    Fixed {
        what: "Clients that hear of a loss of the bus or of its status in one turn of the loop, or closed at a stop, or have something due",
        value: "`--turn-all-message-bytes-max`: each counts 256 bytes, and 32 more for each of its names",
        beyond: "the others take their turn in the next turns of the loop; a client that gets a message hears of the loss before",
        shows: Shows::Elsewhere("nothing: each client has its turn"),
        code: ("src/hub/limits.rs", "CLIENT_COST: usize = 256;"),
        test: "tests/trades_gateway/losses.rs::a_loss_is_told_before_a_message_and_to_quiet_clients_over_several_turns",
    },
];
