//! Fixed limits of the memory of frames.

use weirgate::hub::CloseReason;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const FRAMES: &[Fixed] = &[
    Fixed {
        what: "Sessions and frames looked at in a flush while frames are over `--frame-bytes-max`",
        value: "8,192, at least one queue",
        beyond: "the next flush goes on",
        shows: Shows::Metric(names::FRAME_BYTES_ALIVE),
        code: ("src/hub/limits.rs", "FRAME_WALK_MAX: usize = 8_192;"),
        test: "tests/hub_rules/memory.rs::a_walk_looks_at_so_much_in_a_flush",
    },
    Fixed {
        what: "Time between two walks over the queues while frames are over `--frame-bytes-max` and \
               no client is to be dropped",
        value: "250 ms",
        beyond: "the next walk waits",
        shows: Shows::Metric(names::FRAME_BYTES_ALIVE),
        code: ("src/hub/memory.rs", "REST_US: u64 = 250_000;"),
        test: "tests/hub_rules/memory.rs::frames_that_wait_in_no_queue_drop_nobody",
    },
    Fixed {
        what: "Clients dropped at once for the memory of their frames",
        value: "1,024",
        beyond: "the others go after the next walk",
        shows: Shows::Reason(CloseReason::FrameMemory),
        code: ("src/hub/memory.rs", "CANDIDATES_MAX: usize = 1_024;"),
        test: "tests/hub_rules/memory.rs::what_very_many_clients_share_is_freed_in_steps",
    },
    Fixed {
        what: "Frames looked at to choose these clients",
        value: "65,536, at least one queue",
        beyond: "the others go after the next walk",
        shows: Shows::Reason(CloseReason::FrameMemory),
        code: ("src/hub/memory.rs", "CHOICE_FRAMES_MAX: usize = 65_536;"),
        test: "tests/hub_rules/memory.rs::what_very_many_clients_share_is_freed_in_steps",
    },
    Fixed {
        what: "Frames in the send queue of a slow client that are looked through for each new frame with a \
               conflation key",
        value: "64",
        beyond: "older frames of the same keys are removed when the queue has doubled, and \
                 `--send-queue-hard-bytes` holds",
        shows: Shows::Metric(names::MESSAGES_CONFLATED),
        code: ("src/hub/send_queue/conflate.rs", "FEW_FRAMES: usize = 64;"),
        test: "tests/hub_rules/queue.rs::of_many_keys_the_newest_stay_and_the_hard_limit_holds",
    },
    Fixed {
        what: "Conflation keys that are remembered of a topic",
        value: "64",
        beyond: "a client that leaves the topic gets the waiting frames of the other keys",
        shows: Shows::Metric(names::MESSAGES_CONFLATED),
        code: ("src/hub/topics.rs", "KEYS_MAX: usize = 64;"),
        test: "tests/hub_rules/queue.rs::keys_of_a_topic_are_remembered_up_to_a_limit",
    },
];
