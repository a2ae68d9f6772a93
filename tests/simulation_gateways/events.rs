//! Events: each connection is a strict sequence of requests, services answer in any order or not at
//! all, and pushes go to the devices that they name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use weirgate::gateways::events::broadcast::Broadcast;
use weirgate::gateways::events::call::{CallFailure, ServiceAnswer};
use weirgate::gateways::events::{EventsGateway, EventsGatewaySettings, EventsStats, Input, Push};
use weirgate_core::{Gateway as _, SessionKey};
use weirgate_wire::admission::Quota;
use weirgate_wire::auth::Origins;

use super::bench::{Bench, Contract, SECOND, noise, take};
use crate::world::Random;

const DEVICES: [&str; 4] = ["d1", "d2", "é 3", "d4"];
const MESSAGE_BYTES_MAX: usize = 400;

#[derive(Debug)]
enum Want {
    Hint,
    Identified,
    /// Of a service, or an error in its place.
    Service(u64),
    /// An error with this code, and the request's id if that could be read.
    Error(&'static str, Option<u64>),
}

/// What the model knows of one client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    device: Option<String>,
    answers: VecDeque<Want>,
    pushes: VecDeque<u64>,
}

/// See [`Contract`].
pub(crate) struct Events {
    stats: Arc<EventsStats>,
    settings: EventsGatewaySettings,
    next: Option<String>,
}

impl Bench<Events> {
    fn reply(&mut self) {
        let calls = self.world.outputs.len() as u64;
        let at = self.random.below(calls) as usize;
        let call = self.world.outputs.swap_remove(at);
        let body: Value = serde_json::from_slice(&call.body).expect("JSON");
        let id = body["message"]["request_id"].clone();
        let answer = |status, content_type: &str, body: String| {
            Ok(ServiceAnswer {
                status,
                content_type: content_type.to_owned(),
                body: body.into_bytes(),
                unknown_coding: None,
            })
        };
        let outcome = match self.random.below(12) {
            0 => Err(CallFailure::Timeout),
            1 => Err(CallFailure::Unreachable),
            2 => answer(500, "application/json", json!({"detail": id}).to_string()),
            3 => answer(200, "application/json", "{".to_owned()),
            4 => answer(200, "text/plain", "x".repeat(20_000)),
            _ => answer(200, "application/json", json!({ "id": id }).to_string()),
        };
        let reply = call.reader.reply(call.id, outcome);
        let now = self.world.now;
        self.world.hub.handle_input(now, Input::Reply(reply));
        self.world.settle();
    }

    /// A service pushes an event to some devices; a device may be named twice.
    fn push(&mut self) {
        self.number += 1;
        let n = self.number;
        let count = self.random.below(4);
        let devices: Vec<&str> = (0..count).map(|_| self.random.pick(&DEVICES)).collect();
        let mut expected = 0;
        for device in &devices {
            for known in self.clients.values_mut() {
                if known.model.device.as_deref() == Some(device) {
                    known.model.pushes.push_back(n);
                    expected += 1;
                }
            }
        }
        let broadcast = Broadcast {
            event: "\"lobby.updated\"".to_owned(),
            data: format!("{{\"n\":{n}}}"),
            device_ids: devices.iter().map(|&device| device.to_owned()).collect(),
        };
        let sent = Arc::new(AtomicU64::new(u64::MAX));
        let told = Arc::clone(&sent);
        let tell = Box::new(move |count| told.store(count, Ordering::Relaxed));
        let now = self.world.now;
        for part in Push::parts(broadcast, &self.world.frame_bytes, now, tell) {
            self.world.hub.handle_input(now, Input::Push(part));
        }
        assert_eq!(
            sent.load(Ordering::Relaxed),
            expected,
            "connections of {devices:?}"
        );
        self.world.settle();
    }
}

/// A message is one of these, or over the rate.
fn fits(want: &Want, json: &Value) -> bool {
    let code = json["error"]["code"].as_str();
    let id = |id: &Option<u64>| id.map_or(Value::Null, |id| Value::from(id.to_string()));
    match want {
        Want::Hint => json["event"] == "gateway.identify_required",
        _ if code == Some("rate_limited") => json["event"] == "gateway",
        Want::Identified => json["event"] == "identify" && json["type"] == "response",
        Want::Service(asked) => {
            let asked = asked.to_string();
            let mine = json["request_id"] == asked.as_str();
            let echoed = json["data"]["id"] == asked.as_str() || json["data"]["text"].is_string();
            mine && (code == Some("upstream_error") || json["type"] == "response" && echoed)
        }
        Want::Error(expected, asked) => code == Some(expected) && json["request_id"] == id(asked),
    }
}

impl Contract for Events {
    type Gateway = EventsGateway;
    type Client = Client;

    fn new(random: &mut Random) -> Self {
        Self {
            stats: Arc::default(),
            settings: EventsGatewaySettings {
                message_bytes_max: MESSAGE_BYTES_MAX,
                rate_burst: random.pick(&[3, 50, 1_000]),
                rate_per_second_milli: random.pick(&[1_000, 100_000]),
                calls_max: random.pick(&[3, 10, 100]),
                orphans_max: random.pick(&[2, 1_000]),
                waiting_bytes_max: random.pick(&[500, 1_000_000]),
                ..EventsGatewaySettings::default()
            },
            next: None,
        }
    }

    fn gateway(&mut self) -> EventsGateway {
        let stats = Arc::clone(&self.stats);
        EventsGateway::new(self.settings.clone(), Origins::new([]), stats)
    }

    fn begin(_: &mut Bench<Self>) {}

    /// When the `identify` of a slow client is looked at, or of one without room for its messages, the
    /// model cannot know.
    fn target(&mut self, random: &mut Random, slow: bool) -> String {
        let (device, query) =
            random.pick(&[("d1", "d1"), ("d2", "x&device_id=d2"), ("é 3", "%C3%A9+3")]);
        let is_late = slow || self.settings.waiting_bytes_max < 1_000;
        let named = is_late || random.chance(80);
        self.next = named.then(|| device.to_owned());
        match named {
            true => format!("/ws?device_id={query}"),
            false => "/ws".to_owned(),
        }
    }

    fn opened(bench: &mut Bench<Self>, key: SessionKey) {
        let device = bench.contract.next.take();
        let client = bench.client(key);
        if device.is_none() {
            client.answers.push_back(Want::Hint);
        }
        client.device = device;
    }

    fn say(bench: &mut Bench<Self>, key: SessionKey) {
        bench.number += 1;
        let n = bench.number;
        let kind = bench.random.below(10);
        let named = bench.client(key).device.is_some();
        let event = bench.random.pick(&[
            "lobby.get",
            "simulation.run",
            "analysis.x",
            "measurement.get_job",
        ]);
        let (text, want) = match kind {
            0 => {
                let words = noise(&mut bench.random, r#"{"event":5,"request_id":"x"}"#);
                let code = match words.len() > MESSAGE_BYTES_MAX {
                    true => "message_too_large",
                    false => "bad_request",
                };
                bench.client(key).answers.push_back(Want::Error(code, None));
                return bench.send(key, &words);
            }
            1 => (
                "x".repeat(MESSAGE_BYTES_MAX + 1),
                Want::Error("message_too_large", None),
            ),
            2 if named => {
                let text = json!({"event": "jump", "request_id": n.to_string()});
                (text.to_string(), Want::Error("unknown_event", Some(n)))
            }
            _ if named => {
                let pad = "p".repeat(bench.random.below(200) as usize);
                let text = json!({"event": event, "request_id": n.to_string(), "data": {"p": pad}});
                (text.to_string(), Want::Service(n))
            }
            2..7 => {
                let text = json!({"event": event, "request_id": n.to_string()});
                (text.to_string(), Want::Error("unauthenticated", Some(n)))
            }
            _ => {
                let device = bench.random.pick(&DEVICES);
                let text = json!({"event": "identify", "data": {"device_id": device}});
                bench.client(key).device = Some(device.to_owned());
                (text.to_string(), Want::Identified)
            }
        };
        bench.client(key).answers.push_back(want);
        bench.send(key, text.as_bytes());
    }

    fn outside(bench: &mut Bench<Self>) {
        if bench.random.chance(60) && !bench.world.outputs.is_empty() {
            bench.reply();
        } else {
            bench.push();
        }
    }

    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let client = bench.client(key);
        if json["event"] == "lobby.updated" {
            assert_eq!(json["data"]["n"], take(&mut client.pushes, text), "{text}");
            return true;
        }
        let want = take(&mut client.answers, text);
        assert!(fits(&want, &json), "{want:?}, but there came {text}");
        let limited = json["error"]["code"] == "rate_limited";
        if matches!(want, Want::Identified) && limited {
            client.device = None;
        }
        false
    }

    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String> {
        let client = &bench.clients[&key].model;
        if let Some(push) = client.pushes.front() {
            return Some(format!("push {push}"));
        }
        // Whoever has much to read first rests for a moment; the end of the run asks for the rest.
        let may_rest = bench.world.hub.core().limits().write_bytes_max < 100_000;
        if bench.clients[&key].slow || may_rest || bench.lacks_room() {
            return None;
        }
        // Answers may wait for services, the client's own or those of others.
        let first = client.answers.front()?;
        bench.world.outputs.is_empty().then(|| format!("{first:?}"))
    }

    fn check(bench: &Bench<Self>) {
        let named = bench
            .clients
            .values()
            .filter(|known| known.model.device.is_some());
        assert_eq!(
            bench.world.hub.core().memberships(),
            named.count(),
            "devices"
        );
        let calls = bench.world.hub.gateway();
        let services = bench.contract.settings.services.iter();
        let in_flight = services.map(|(service, _)| calls.calls_in_flight(service));
        let in_flight: usize = in_flight.sum();
        assert_eq!(in_flight, bench.world.outputs.len(), "calls in flight");
        assert!(
            in_flight <= bench.contract.settings.calls_max,
            "too many calls"
        );
        let held = |of: &str| {
            let holdings = calls.holdings();
            let holdings = holdings.iter().map(Quota::counts);
            let held = holdings.filter(|held| held.name.starts_with(of));
            held.map(|held| held.held).sum::<u64>()
        };
        assert_eq!(held("calls"), in_flight as u64, "slots");
        assert!(held("orphans") <= bench.contract.settings.orphans_max as u64);
    }

    fn come_to_rest(bench: &mut Bench<Self>) {
        for _ in 0..10_000 {
            while !bench.world.outputs.is_empty() {
                bench.reply();
                bench.check();
            }
            // A client that had to read first rests for a moment.
            if bench
                .clients
                .values()
                .all(|known| known.model.answers.is_empty())
            {
                break;
            }
            bench.pass(SECOND / 5);
            bench.check();
        }
        for (key, known) in &bench.clients {
            assert!(known.model.answers.is_empty(), "{key:?}: {:?}", known.model);
        }
        let gateway = bench.world.hub.gateway();
        assert!(
            gateway.is_idle(),
            "something is under way for clients that have gone"
        );
        assert!(gateway.holdings().iter().all(|holding| holding.held() == 0));
    }

    fn check_empty(bench: &Bench<Self>) {
        assert!(bench.world.hub.gateway().is_idle());
        let holdings = bench.world.hub.gateway().holdings();
        assert!(holdings.iter().all(|holding| holding.held() == 0));
    }
}
