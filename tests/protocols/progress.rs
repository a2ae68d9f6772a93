//! The loop goes on whatever a client sends and whatever a protocol makes of it: a read ends when nothing
//! more is taken, and nothing is read behind a violation. A fault here does not fail: it never ends.

use weirgate_core::{Limits, PhaseKind, SendQueueLimits};
use weirgate_wire::base::SplitMix64;

use super::room::Room;
use super::{UPGRADE, say};

fn limits() -> Limits {
    Limits {
        event_stream: true,
        ping_interval_us: 0,
        message_bytes_max: 4_096,
        send_queue: SendQueueLimits {
            hard_bytes: 1 << 20,
            ..SendQueueLimits::default()
        },
        ..Limits::default()
    }
}

#[test]
fn a_violation_behind_which_messages_wait_is_read_once() {
    // What is sent in the query comes back: the close waits for it.
    let stream = "GET /ws?send=a HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let upgrade = std::str::from_utf8(UPGRADE).expect("text");
    for (request, wrong) in [(stream, 20_000), (upgrade, 20_000)] {
        // Once with the close written at once, once behind a message, once in one read with the request.
        for how in 0..3 {
            let mut room = Room::new(limits());
            let wrong = vec![0xff_u8; wrong];
            let key = match how {
                2 => room.connect(&[request.as_bytes(), &wrong].concat()),
                _ => room.connect(request.as_bytes()),
            };
            if how == 1 {
                room.socket(key).room = 0;
                room.say(say("waits"));
            }
            room.send(key, &wrong);
            room.send(key, &wrong);
            room.open_window(key, usize::MAX / 2);
            let phase = room.hub.core().phase(key);
            assert_ne!(phase, Some(PhaseKind::Open), "{request} {how}");
        }
    }
}

/// Bytes that a client may send: frames, whole and broken.
fn random_input(random: &mut SplitMix64) -> Vec<u8> {
    let len = (random.next_u64() % 40) as usize;
    let mut input: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
    match random.next_u64() % 5 {
        0 => input.splice(0..0, [0x81, 0x80, 0, 0, 0, 0]).for_each(drop),
        1 => input.splice(0..0, [0x89, 0x80, 0, 0, 0, 0]).for_each(drop),
        2 => input.splice(0..0, [0x88, 0x80, 0, 0, 0, 0]).for_each(drop),
        3 => input.resize(len * 500, b'x'),
        _ => {}
    }
    input
}

#[test]
fn any_input_in_any_state_ends_the_read() {
    let inputs = std::env::var("PROGRESS_INPUTS").ok();
    let inputs = inputs.and_then(|text| text.parse().ok()).unwrap_or(30_000);
    let stream = "GET /ws?send=a&send=b HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let requests = [UPGRADE, stream.as_bytes()];
    let mut random = SplitMix64::new(7);
    let mut done = 0_u64;
    while done < inputs {
        let mut room = Room::new(limits());
        let request = requests[(random.next_u64() % 2) as usize];
        let first = match random.next_u64() % 3 {
            0 => random_input(&mut random),
            _ => Vec::new(),
        };
        let key = room.connect(&[request, &first].concat());
        for _ in 0..20 {
            done += 1;
            if room.socket(key).released.is_some() {
                break;
            }
            match random.next_u64() % 8 {
                0 => room.socket(key).room = 0,
                1 => room.open_window(key, (random.next_u64() % 200) as usize),
                2 => room.say(say("some")),
                3 => room.pass(random.next_u64() % 40_000_000),
                4 if random.next_u64().is_multiple_of(8) => room.end(key),
                _ => {
                    let input = random_input(&mut random);
                    room.send(key, &input);
                }
            }
        }
    }
}
