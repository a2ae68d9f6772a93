//! What waits for a client, and how a connection is kept.

use super::super::setting::Heading::{Connection, SendQueue};
use super::super::setting::Setting;
use super::{GIB, HOUR_MS, KIB, MIB};

pub(super) static ROWS: &[Setting] = &[
    Setting::bytes(
        SendQueue,
        "send-queue-soft-bytes",
        (4 * KIB, GIB),
        "262144",
        "Waiting bytes from which a client counts as slow",
    )
    .more(
        "Frames that replace each other are conflated from here: only the newest stays. Others may \
         stay over it for --send-queue-soft-for-ms.",
    ),
    Setting::ms(
        SendQueue,
        "send-queue-soft-for-ms",
        (0, HOUR_MS),
        "10000",
        "How long a client may stay over the soft limit; closed beyond",
    )
    .more("Only where frames cannot be conflated."),
    Setting::bytes(
        SendQueue,
        "send-queue-hard-bytes",
        (4 * KIB, GIB),
        "1048576",
        "Waiting bytes from which a client is closed",
    )
    .more("Only where frames cannot be conflated. One frame of any size fits an empty queue."),
    Setting::ms(
        SendQueue,
        "send-queue-conflate-after-ms",
        (1, HOUR_MS),
        "1000",
        "Age of the oldest waiting frame from which a queue is conflated",
    ),
    Setting::ms(
        SendQueue,
        "send-queue-stall-ms",
        (100, HOUR_MS),
        "30000",
        "A client that takes no byte for this long is closed",
    )
    .more("Less than 10000 also drops clients on very thin lines that are still alive."),
    Setting::bytes(
        SendQueue,
        "frame-bytes-max",
        (MIB, 1024 * GIB),
        "536870912",
        "All frames in memory together; beyond, the largest queues go first",
    )
    .more("A frame counts once, however many clients wait for it."),
    Setting::bytes(
        SendQueue,
        "control-bytes-max",
        (256, MIB),
        "16384",
        "Waiting pongs of one client; it is not read until they are out",
    ),
    Setting::ms(
        Connection,
        "ping-interval-ms",
        (0, HOUR_MS),
        "20000",
        "Time between pings to a client; 0 sends none",
    ),
    Setting::ms(
        Connection,
        "pong-timeout-ms",
        (100, HOUR_MS),
        "20000",
        "From a ping to its pong; closed with 1011 beyond",
    ),
    Setting::ms(
        Connection,
        "close-timeout-ms",
        (10, HOUR_MS),
        "5000",
        "From a close frame to the end of the connection",
    ),
    Setting::count(
        Connection,
        "deflate-level",
        (0, 9),
        "2",
        "Compression for clients that offer permessage-deflate; 0 for none",
    )
    .more("A message is compressed once for all of them. 1 is fastest, 9 is smallest."),
    Setting::bytes(
        Connection,
        "deflate-min-bytes",
        (0, GIB),
        "256",
        "Messages below this many bytes are not compressed",
    ),
    Setting::bytes(
        Connection,
        "tcp-notsent-lowat-bytes",
        (0, GIB),
        "16384",
        "Unsent bytes that the kernel may hold for a client; 0 for its default",
    )
    .more("What waits in the kernel cannot be conflated, so it should be little."),
];
