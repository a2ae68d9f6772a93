//! Fixed limits of the operator's page and of the demo.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const OPERATOR: &[Fixed] = &[
    Fixed {
        what: "Clients and topics that a survey for the operator's page looks at in one turn of the loop",
        value: "2,048",
        beyond: "the next turn goes on, after messages and clients had their turn",
        shows: Shows::Metric(names::SURVEYS),
        code: ("src/hub/survey.rs", "SURVEY_SLICE_MAX: usize = 2_048;"),
        test: "tests/hub_rules/survey.rs::a_survey_of_very_many_clients_looks_at_a_bounded_number_in_a_turn",
    },
    Fixed {
        what: "Clients by queue, clients by messages, and topics, that the operator's page names",
        value: "20 each",
        beyond: "the others are only counted",
        shows: Shows::Elsewhere("`clients` and `topics` in `/operator/state`"),
        code: ("src/hub/survey.rs", "SURVEY_NAMED_MAX: usize = 20;"),
        test: "tests/hub_rules/survey.rs::a_survey_names_the_largest_and_counts_the_others",
    },
    Fixed {
        what: "Time from one survey for the operator's page to the next",
        value: "1 s",
        beyond: "the page shows the survey before",
        shows: Shows::Metric(names::SURVEYS),
        code: (
            "src/reactor/turn/outputs.rs",
            "SURVEY_EVERY_US: u64 = 1_000_000;",
        ),
        test: "src/reactor/turn/outputs.rs::a_survey_begins_once_a_second_at_the_most",
    },
    Fixed {
        what: "Calls of the kernel for its numbers about clients whose send queue waits, in one look; a look comes every 250 ms",
        value: "64",
        beyond: "the next look goes on, so each client is asked about less often",
        shows: Shows::Metric(names::TCP_INFO_CALLS),
        code: ("src/hub/slow/waits.rs", "CALLS_MAX: u32 = 64;"),
        test: "tests/hub_rules/slow.rs::thousands_that_wait_share_the_calls_of_a_look_and_few_have_samples",
    },
    Fixed {
        what: "Slow clients for which a cause is looked for at once",
        value: "1,024",
        beyond: "the cause of the others is `unclear`",
        shows: Shows::Metric(names::SLOW_CLIENTS),
        code: ("src/hub/slow/waits.rs", "SAMPLED_MAX: usize = 1_024;"),
        test: "tests/hub_rules/slow.rs::thousands_that_wait_share_the_calls_of_a_look_and_few_have_samples",
    },
    Fixed {
        what: "Dropped clients that are kept for the operator's page",
        value: "128",
        beyond: "the oldest is forgotten",
        shows: Shows::Metric(names::CLIENT_CLOSES),
        code: ("src/reactor/turn/outputs.rs", "DROPS_MAX: usize = 128;"),
        test: "src/reactor/turn/outputs.rs::refusals_push_no_dropped_client_out",
    },
    Fixed {
        what: "Log lines about dropped clients in a second",
        value: "128",
        beyond: "the others are counted in the next line",
        shows: Shows::Elsewhere("`lines_left_out` in the log"),
        code: ("src/reactor/turn.rs", "DROP_LINES_PER_SECOND: u32 = 128;"),
        test: "tests/blackbox/test_dropped.py::test_no_refusal_hides_a_dropped_client",
    },
    Fixed {
        what: "Ended connections that are kept for the operator's page: ended by the client, and as many others but drops",
        value: "25 each",
        beyond: "the oldest is forgotten",
        shows: Shows::Metric(names::CLIENT_CLOSES),
        code: ("src/reactor/turn/outputs.rs", "ENDS_MAX: usize = 25;"),
        test: "src/reactor/turn/outputs.rs::ends_are_bounded_and_clients_that_leave_do_not_push_others_out",
    },
    Fixed {
        what: "Name that a tab of the demo gives its connection",
        value: "64 bytes",
        beyond: "ignored",
        shows: Shows::Elsewhere("`null` from `/page/tab`"),
        code: ("src/gateways/levels.rs", "NAME_BYTES_MAX: usize = 64;"),
        test: "src/gateways/levels.rs::a_name_is_in_the_query_and_short",
    },
    Fixed {
        what: "Tabs of the demo that are slowed at the same time",
        value: "100",
        beyond: "503; the page tries again",
        shows: Shows::Elsewhere("the status of the tab"),
        code: ("src/kinds/levels/slow.rs", "TABS_MAX: usize = 100;"),
        test: "src/kinds/levels/slow.rs::tabs_on_the_line_are_bounded_and_a_name_is_free_after_its_tab",
    },
    Fixed {
        what: "Time in which a slowed tab of the demo takes the next bytes",
        value: "30 s",
        beyond: "the connection ends",
        shows: Shows::Metric(names::CLIENT_CLOSES),
        code: (
            "src/kinds/levels/slow.rs",
            "WRITE_TIMEOUT: Duration = Duration::from_secs(30);",
        ),
        test: "src/kinds/levels/slow.rs::a_tab_that_takes_nothing_leaves_the_line",
    },
];
