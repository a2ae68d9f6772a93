//! Limits of the compression towards clients that are no settings.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const COMPRESSION: &[Fixed] = &[
    Fixed {
        what: "Window of the compression towards clients",
        value: "32 KiB; 4 KiB for clients that ask for a smaller window, and for messages over 128 KiB",
        beyond: "older bytes are not referred to; a client with a window under 4 KiB gets larger \
            messages in stored blocks",
        shows: Shows::Metric(names::DEFLATE_ENCODINGS),
        code: ("src/wire/deflate.rs", "WINDOW_BITS: u8 = 15;"),
        test: "src/wire/deflate/tests.rs::deflated_bodies_fit_the_windows_that_were_promised",
    },
    Fixed {
        what: "Messages kept for later messages to refer to, with `--deflate-window shared`",
        value: "1 MiB, and at least one message",
        beyond: "the oldest are let go; what would refer to them is compressed alone",
        shows: Shows::Metric(names::DEFLATE_ENCODINGS),
        code: ("src/hub/window.rs", "KEPT_BYTES_MAX: usize = 1024 * 1024;"),
        test: "src/hub/window.rs::frames_are_kept_up_to_so_many_bytes",
    },
    Fixed {
        what: "Message that is compressed with the large window, and can refer to another",
        value: "128 KiB",
        beyond: "compressed alone with the small window, which takes half as long at worst",
        shows: Shows::Metric(names::DEFLATE_ENCODINGS),
        code: ("src/hub/deflated.rs", "LARGE_BYTES: usize = 128 * 1024;"),
        test: "tests/hub_rules/window.rs::a_large_message_refers_to_none",
    },
    Fixed {
        what: "Earlier messages of a topic that a message can refer to, with `--deflate-window shared`",
        value: "8",
        beyond: "a client that got none of them gets the message compressed alone",
        shows: Shows::Metric(names::DEFLATE_ENCODINGS),
        code: ("src/hub/window.rs", "REACH: usize = 8;"),
        test: "src/hub/window.rs::a_retained_frame_is_kept_when_another_takes_its_place",
    },
    Fixed {
        what: "Text of a client's compressed messages that weirgate keeps compressed",
        value: "8 KiB of text, or the window if it is smaller",
        beyond: "the text is kept as it is, up to the window",
        shows: Shows::Metric(names::INFLATE_WINDOW_BYTES),
        code: (
            "src/wire/deflate/windows.rs",
            "PACKED_TEXT_MAX: usize = 8 * 1024;",
        ),
        test: "src/wire/deflate/windows.rs::messages_may_refer_to_whatever_the_client_has_sent",
    },
    Fixed {
        what: "Text of a client's compressed messages that gathers before weirgate compresses the text",
        value: "512 bytes",
        beyond: "the whole text is compressed",
        shows: Shows::Metric(names::INFLATE_WINDOW_BYTES),
        code: (
            "src/wire/deflate/windows.rs",
            "LOOSE_TEXT_MAX: usize = 512;",
        ),
        test: "src/wire/deflate/windows.rs::the_text_of_a_few_short_requests_takes_some_hundred_bytes",
    },
    Fixed {
        what: "Compressions of a message after messages older than the one before it",
        value: "4",
        beyond: "further clients that skipped messages get the message compressed alone",
        shows: Shows::Metric(names::DEFLATE_ENCODINGS),
        code: ("src/hub/window.rs", "OLDER_MAX: usize = 4;"),
        test: "tests/hub_rules/window.rs::clients_that_skip_cost_so_many_compressions_together",
    },
];
