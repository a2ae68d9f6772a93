//! The loop goes on whatever a client sends and whatever a protocol makes of it: a read ends when nothing
//! more is taken, and nothing is read behind a violation. A fault here does not fail: it never ends.

use weirgate::base::SplitMix64;
use weirgate::hub::{
    CloseCode, CloseReason, Greeted, Limits, Message, PhaseKind, Protocol, Request, RequestRefusal,
    SendQueueLimits, Speaks, Step,
};
use weirgate::wire::frame_reader::FrameScratch;

use super::lines::{CODEC, LINES};
use super::room::Room;
use super::{UPGRADE, say};

/// A protocol that returns the same step for ever, and takes nothing.
pub(crate) const STUCK: Speaks = Speaks {
    check: LINES.check,
    greet,
};

fn greet(request: &Request<'_>, out: &mut Vec<u8>) -> Result<Greeted, RequestRefusal> {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    let step: fn() -> Step = match request.head.path().trim_start_matches("/stuck/") {
        "message" => || Step::Message(Message::Text("".into())),
        "ping" => || Step::Ping,
        "pong" => || Step::Pong,
        "closed" => || Step::PeerClosed(None),
        _ => || Step::Violation(CloseCode::bare(1002), CloseReason::ProtocolError),
    };
    Ok(Greeted::new(Box::new(Stuck(step)), &CODEC))
}

#[derive(Debug)]
struct Stuck(fn() -> Step);

impl Protocol for Stuck {
    fn read(&mut self, _: &mut &[u8], _: &mut Vec<u8>, _: &mut FrameScratch) -> Option<Step> {
        Some(self.0())
    }

    fn keep_alive(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }

    fn close(&mut self, _: &mut Vec<u8>, _: CloseCode) {}
}

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
fn a_step_that_takes_nothing_ends_the_read() {
    for step in ["message", "ping", "pong", "closed", "violation"] {
        for is_queued in [false, true] {
            let mut room = Room::new(limits());
            let request = format!("GET /stuck/{step} HTTP/1.1\r\nHost: a\r\n\r\n");
            let key = room.connect(request.as_bytes());
            if is_queued {
                room.socket(key).room = 0;
                room.say(say("a message that waits"));
            }
            room.send(key, b"any");
            room.send(key, b"");
            room.say(say("and another one"));
        }
    }
}

#[test]
fn a_violation_behind_which_messages_wait_is_read_once() {
    // What is sent in the query comes back: the close waits for it.
    let stream = "GET /ws?send=a HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let lines = "GET /lines HTTP/1.1\r\nHost: a\r\n\r\n";
    let upgrade = std::str::from_utf8(UPGRADE).expect("text");
    for (request, wrong) in [(stream, 20_000), (lines, 100), (upgrade, 20_000)] {
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

/// Bytes that a client of some protocol may send: frames and lines, whole and broken.
fn random_input(random: &mut SplitMix64) -> Vec<u8> {
    let len = (random.next_u64() % 40) as usize;
    let mut input: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
    match random.next_u64() % 6 {
        0 => input.splice(0..0, [0x81, 0x80, 0, 0, 0, 0]).for_each(drop),
        1 => input.splice(0..0, [0x89, 0x80, 0, 0, 0, 0]).for_each(drop),
        2 => input.splice(0..0, [0x88, 0x80, 0, 0, 0, 0]).for_each(drop),
        3 => input.extend_from_slice(b"\nquit\n!\n"),
        4 => input.resize(len * 500, b'x'),
        _ => {}
    }
    input
}

#[test]
fn any_input_in_any_state_ends_the_read() {
    let inputs = std::env::var("PROGRESS_INPUTS").ok();
    let inputs = inputs.and_then(|text| text.parse().ok()).unwrap_or(30_000);
    let stream = "GET /ws?send=a&send=b HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let requests = [
        UPGRADE,
        stream.as_bytes(),
        b"GET /lines HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /stuck/message HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let mut random = SplitMix64::new(7);
    let mut done = 0_u64;
    while done < inputs {
        let mut room = Room::new(limits());
        let request = requests[(random.next_u64() % 4) as usize];
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
