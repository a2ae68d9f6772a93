//! A protocol of lines of text, on the public traits alone: `> BODY` for each message, `?` to ask
//! for a sign of life, `close CODE` as the last words. The client says `!` for a pong, `quit`, and
//! anything else as a message.

use std::cell::Cell;

use weirgate::hub::{
    CloseCode, CloseReason, Codec, Frame, Greeted, Limits, Message, Protocol, Request,
    RequestRefusal, Speaks, Step,
};
use weirgate::wire::frame_reader::FrameScratch;
use weirgate::wire::head::RequestHead;

pub(crate) const LINES: Speaks = Speaks { check, greet };
/// Longest line of a client, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64;

thread_local! {
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

/// Lines that this test has made of frames.
pub(crate) fn encoded() -> usize {
    ENCODED.get()
}

pub(crate) static CODEC: Codec = Codec::new(b"> ", |frame: &Frame, out: &mut Vec<u8>| {
    ENCODED.set(ENCODED.get() + 1);
    out.extend_from_slice(frame.body());
    out.push(b'\n');
});

fn check(head: &RequestHead<'_>, _: &Limits) -> Result<(), RequestRefusal> {
    match head.method() {
        "GET" => Ok(()),
        _ => Err(RequestRefusal {
            status: 405,
            headers: &[("Allow", "GET")],
            detail: "lines are got",
        }),
    }
}

fn greet(_: &Request<'_>, out: &mut Vec<u8>) -> Result<Greeted, RequestRefusal> {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n");
    Ok(Greeted::new(Box::new(Lines::default()), &CODEC))
}

/// One client's line so far.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
}

impl Protocol for Lines {
    fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>, _: &mut FrameScratch) -> Option<Step> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (line, rest) = input.split_at(end.unwrap_or(input.len()));
        self.line.extend_from_slice(line);
        *input = rest.strip_prefix(b"\n").unwrap_or(rest);
        if self.line.len() > LINE_BYTES_MAX {
            let code = CloseCode::bare(1009);
            return Some(Step::Violation(code, CloseReason::MessageTooBig));
        }
        end?;
        let line = String::from_utf8(std::mem::take(&mut self.line));
        Some(match line.as_deref() {
            Ok("!") => Step::Pong,
            Ok("quit") => {
                out.extend_from_slice(b"bye\n");
                Step::PeerClosed(None)
            }
            Ok(text) => Step::Message(Message::Text(text.into())),
            Err(_) => Step::Violation(CloseCode::bare(1007), CloseReason::BadUtf8),
        })
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"?\n");
        true
    }

    fn close(&mut self, out: &mut Vec<u8>, code: CloseCode) {
        out.extend_from_slice(format!("close {}\n", code.code).as_bytes());
    }
}
