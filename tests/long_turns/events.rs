//! Events: calls of services, devices, pushes.

use std::mem::take;
use std::sync::Arc;

use serde_json::json;
use weirgate::gateways::events::broadcast::Broadcast;
use weirgate::gateways::events::call::{Call, CallFailure, ServiceAnswer};
use weirgate::gateways::events::{EventsGateway, EventsGatewaySettings, Input, Push};
use weirgate_core::{FrameBytes, HistoryLimits, Hub, Limits};
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::acts::{Act, Outside, Request};
use super::cases::{Case, all, messages_of_one, says, says_of, turns};
use super::turns::{Contract, FIRST_POSITION};

/// Bytes of a request, as many as the gateway reads unless set.
const MESSAGE_BYTES: usize = 65_536;

pub(crate) struct Events {
    frame_bytes: FrameBytes,
}

impl Contract for Events {
    type Gateway = EventsGateway;
    type Event = Input;

    /// The bits: pushes are kept, other instances push, few calls at once.
    fn new(kind: u64, frame_bytes: &FrameBytes) -> (Self, EventsGateway, Limits) {
        let settings = EventsGatewaySettings {
            message_bytes_max: MESSAGE_BYTES,
            rate_burst: 1_000_000,
            rate_per_second_milli: 1_000_000_000,
            shares_pushes: kind & 2 == 2,
            calls_max: if kind & 4 == 4 { 10 } else { 10_000 },
            ..EventsGatewaySettings::default()
        };
        let limits = Limits {
            ping_interval_us: 0,
            event_stream: true,
            history: HistoryLimits {
                keep_us: if kind & 1 == 1 { 60_000_000 } else { 0 },
                bytes_max: 1 << 26,
            },
            ..Limits::default()
        };
        let events = Self {
            frame_bytes: frame_bytes.clone(),
        };
        let gateway = EventsGateway::new(settings, Origins::new([]), Arc::default());
        (events, gateway, limits)
    }

    fn target(flavour: u8) -> String {
        match flavour & 2 == 2 {
            true => "/ws".to_owned(),
            false => format!("/ws?device_id=d{}", flavour % 4),
        }
    }

    fn text(request: &Request) -> String {
        let device = |_: u8, n: u32| format!("d{n}");
        let words: Vec<String> = request.texts(device, MESSAGE_BYTES);
        let event = match request.verb {
            0..3 => "lobby.get",
            3..6 => "simulation.run",
            6 => "measurement.get_job",
            7..10 => "identify",
            10 => "jump",
            _ => "analysis.x",
        };
        let data = match request.extra & 1 == 1 {
            true => json!(words),
            false if request.extra & 2 == 2 => {
                json!({"device_id": words.first(), "since": FIRST_POSITION})
            }
            false => json!({"device_id": words.first(), "since": request.number.to_string()}),
        };
        json!({"event": event, "request_id": request.number.to_string(), "data": data}).to_string()
    }

    fn outside(&mut self, outside: &Outside, outputs: &mut Vec<Call>, now: Now) -> Vec<Input> {
        match outside {
            Outside::Publish(names, messages, bytes) => {
                let device = |_: u8, n: u32| format!("d{n}");
                let mut parts = Vec::new();
                let device_ids = names.texts(device);
                for _ in 0..(*messages).min(1 + 30_000 / device_ids.len().max(1) as u16) {
                    let broadcast = Broadcast {
                        event: "\"lobby.updated\"".to_owned(),
                        data: format!("\"{}\"", "y".repeat(*bytes as usize)),
                        device_ids: device_ids.clone(),
                    };
                    let pushes = Push::parts(broadcast, &self.frame_bytes, now, Box::new(|_| ()));
                    parts.extend(pushes.into_iter().map(Input::Push));
                }
                parts
            }
            Outside::Answers(how) => {
                let calls = take(outputs).into_iter();
                let reply = |call: Call| {
                    let outcome = match how {
                        0 => Err(CallFailure::Timeout),
                        _ => Ok(ServiceAnswer {
                            status: 200,
                            content_type: "application/json".to_owned(),
                            body: format!("\"{}\"", "z".repeat(*how as usize * 100)).into_bytes(),
                            unknown_coding: None,
                        }),
                    };
                    Input::Reply(call.reader.reply(call.id, outcome))
                };
                calls.map(reply).collect()
            }
            Outside::Away | Outside::Gap => vec![Input::Others(false)],
            Outside::Back => vec![Input::Others(true)],
        }
    }

    fn take(&mut self, hub: &mut Hub<EventsGateway>, now: Now, event: Input) {
        hub.handle_input(now, event);
    }
}

/// A request with very many texts, and a push to very many devices.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, kind, acts| Case {
        name,
        kind,
        flavour: 0,
        acts,
    };
    let push = || Act::Outside(Outside::Publish(all().remove(0), 1, 100));
    vec![
        case("a call", 0, vec![says(3, 1, 0)]),
        case("identify", 1, vec![says(7, 1, 0)]),
        case("a push", 0, vec![push()]),
        case("a push that is kept", 1, vec![push()]),
        case("a push for other instances too", 3, vec![push()]),
        Case {
            name: "pushes to devices that were quiet for a minute",
            kind: 1,
            flavour: 0,
            acts: (0..3)
                .flat_map(|_| [push(), Act::Turns(255), Act::Pass(61_000_000)])
                .chain(turns())
                .collect(),
        },
        Case {
            name: "since, 30,000 pushes to a device",
            kind: 1,
            // It has no device in its address.
            flavour: 2,
            acts: [messages_of_one(30_000)]
                .into_iter()
                .chain(turns())
                .chain([says_of(7, 0, 2, 0)])
                .collect(),
        },
    ]
}
