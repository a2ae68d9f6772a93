//! The frames of a gateway: the bytes for clients of weirgate, without the checks of weirgate.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use clap::ValueEnum;
use serde::Serialize;

use crate::wire::parser::{append_server_header, opcode, server_header};

/// The gateway whose frames a limit sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Gateway {
    /// `{"flow":PAYLOAD}`
    #[default]
    Levels,
    /// `{"type":"data","seq":N,"channel":SUBJECT,"pattern":null,"data":PAYLOAD,"timestamp":TIME}`
    Channels,
    /// `{"type":"trade","data":PAYLOAD,"timestamp":MILLISECONDS}`
    Trades,
}

impl Gateway {
    /// The frame for a new client, if any.
    pub(super) fn welcome(self) -> Option<Vec<u8>> {
        match self {
            Self::Levels => None,
            Self::Channels => Some(text_frame(
                r#"{"type":"connected","seq":1,"clientId":"00000000-0000-4000-8000-000000000000","role":"user","timestamp":"1970-01-01T00:00:00.000Z"}"#,
            )),
            Self::Trades => Some(text_frame(
                r#"{"type":"success","message":"Connected to WebSocket Gateway","data":{},"timestamp":0}"#,
            )),
        }
    }

    /// The response to any request, if the gateway has requests. A limit sends every message to every client, whatever the
    /// request says.
    pub(super) fn response(self) -> Option<Vec<u8>> {
        match self {
            Self::Levels => None,
            Self::Channels => Some(text_frame(
                r#"{"type":"subscribed","seq":2,"channels":[],"errors":[],"requestId":null,"timestamp":"1970-01-01T00:00:00.000Z"}"#,
            )),
            Self::Trades => Some(text_frame(
                r#"{"type":"success","message":"Successfully subscribed to 1 symbol(s)","data":{},"timestamp":0}"#,
            )),
        }
    }
}

fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = server_header(opcode::TEXT, text.len());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Makes frames of payloads.
pub(super) struct Frames {
    gateway: Gateway,
    subject: String,
    /// The number of the next message of a channel. The welcome and the response are 1 and 2; the numbers are common to all
    /// clients, and so is the whole frame.
    seq: u64,
    clock: IsoClock,
    body: Vec<u8>,
}

impl Frames {
    pub(super) fn new(gateway: Gateway, subject: &str) -> Self {
        Self {
            gateway,
            subject: subject.to_owned(),
            seq: 3,
            clock: IsoClock::default(),
            body: Vec::new(),
        }
    }

    /// Appends the text frame of a payload.
    pub(super) fn append(&mut self, payload: &[u8], to: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        self.body.clear();
        match self.gateway {
            Gateway::Levels => return append_flow(payload, to),
            Gateway::Channels => {
                let (seq, subject) = (self.seq, &self.subject);
                let _ = write!(
                    self.body,
                    r#"{{"type":"data","seq":{seq},"channel":"{subject}","pattern":null,"data":"#
                );
                self.seq += 1;
                self.body.extend_from_slice(payload);
                self.body.extend_from_slice(br#","timestamp":""#);
                self.clock.append(unix_ms(), &mut self.body);
                self.body.extend_from_slice(br#""}"#);
            }
            Gateway::Trades => {
                self.body.extend_from_slice(br#"{"type":"trade","data":"#);
                self.body.extend_from_slice(payload);
                let _ = write!(self.body, r#","timestamp":{}}}"#, unix_ms());
            }
        }
        append_server_header(to, opcode::TEXT, self.body.len());
        to.extend_from_slice(&self.body);
    }
}

/// The text frame of `{"flow":PAYLOAD}`: the same bytes as from a levels gateway with only the flow.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 32);
    append_flow(payload, &mut frame);
    frame
}

fn append_flow(payload: &[u8], to: &mut Vec<u8>) {
    append_server_header(to, opcode::TEXT, payload.len() + br#"{"flow":}"#.len());
    to.extend_from_slice(br#"{"flow":"#);
    to.extend_from_slice(payload);
    to.push(b'}');
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Writes times by ISO 8601 in UTC; keeps the text of the current second.
#[derive(Default)]
struct IsoClock {
    second: u64,
    text: String,
}

impl IsoClock {
    fn append(&mut self, unix_ms: u64, to: &mut Vec<u8>) {
        let second = unix_ms / 1_000;
        if second != self.second || self.text.is_empty() {
            let time = DateTime::from_timestamp_secs(second.cast_signed()).unwrap_or_default();
            self.text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = second;
        }
        to.extend_from_slice(self.text.as_bytes());
        let _ = write!(to, ".{:03}Z", unix_ms % 1_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_calendar_s() {
        let at = |unix_ms: u64| {
            let mut text = Vec::new();
            IsoClock::default().append(unix_ms, &mut text);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_827_696_007), "2000-02-29T12:34:56.007Z");
        assert_eq!(at(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
    }

    #[test]
    fn each_gateway_has_its_frame() {
        let body = |gateway: Gateway| {
            let mut frames = Frames::new(gateway, "a:b");
            let mut frame = Vec::new();
            frames.append(b"[1]", &mut frame);
            assert_eq!(usize::from(frame[1]), frame.len() - 2, "a short header");
            String::from_utf8(frame.split_off(2)).unwrap()
        };
        assert_eq!(body(Gateway::Levels), r#"{"flow":[1]}"#);
        let channels = body(Gateway::Channels);
        let begin =
            r#"{"type":"data","seq":3,"channel":"a:b","pattern":null,"data":[1],"timestamp":"2"#;
        assert!(
            channels.starts_with(begin) && channels.ends_with("Z\"}"),
            "{channels}"
        );
        let trades = body(Gateway::Trades);
        let begin = r#"{"type":"trade","data":[1],"timestamp":1"#;
        assert!(
            trades.starts_with(begin) && trades.ends_with('}'),
            "{trades}"
        );
        for gateway in [Gateway::Channels, Gateway::Trades] {
            for frame in [gateway.welcome().unwrap(), gateway.response().unwrap()] {
                serde_json::from_slice::<serde_json::Value>(
                    &frame[if frame[1] < 126 { 2 } else { 4 }..],
                )
                .unwrap();
            }
        }
    }
}
