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
            "src/reactor/turn/survey.rs",
            "SURVEY_EVERY_US: u64 = 1_000_000;",
        ),
        test: "src/reactor/turn/survey.rs::a_survey_begins_once_a_second_at_the_most",
    },
    Fixed {
        what: "Ended connections that are kept for the operator's page: ended by the client, and as many others",
        value: "25 each",
        beyond: "the oldest is forgotten",
        shows: Shows::Metric(names::CLIENT_CLOSES),
        code: ("src/reactor/turn/survey.rs", "ENDS_MAX: usize = 25;"),
        test: "src/reactor/turn/survey.rs::ends_are_bounded_and_clients_that_leave_do_not_push_others_out",
    },
    Fixed {
        what: "Name that a tab of the demo gives its connection",
        value: "64 bytes",
        beyond: "ignored",
        shows: Shows::Elsewhere("`null` from `/page/tab`"),
        code: ("src/gateways/demo.rs", "NAME_BYTES_MAX: usize = 64;"),
        test: "src/gateways/demo.rs::a_tab_says_its_name_and_its_pace_and_nothing_else_is_heard",
    },
];
