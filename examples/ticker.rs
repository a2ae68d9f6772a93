//! A fifth gateway, put on the parts from outside: a counter that ticks, for whoever asks for it.
//!
//!     cargo run --example ticker -- --tick-interval-ms 1000 --port 8090
//!
//! A client connects to `/ws` and sends `subscribe`; from then on it gets the newest tick, and each
//! that follows. Flags, environment, `--help`, `--check`, `/health`, `/metrics`, limits, compression,
//! slow clients and a graceful stop come with the parts.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use weirgate::auth::Origins;
use weirgate::commands::{self, Program};
use weirgate::feeds::{BusEvent, BusMessage};
use weirgate::http::{Answer, Route, StatusCode};
use weirgate::hub::{
    Accepted, Admission, CloseReason, ConflationKey, Core, Feed, FeedStats, Frame, FrameBytes,
    Gateway, Incoming, Now, Publication, Retain, SessionKey, TopicName,
};
use weirgate::run::{CommonSettings, GatewayKind, Parts, RunError, say, start_process};
use weirgate::settings::{Checked, Heading, Part, Rows, Setting};
use weirgate::sources::{Source, SourceLink};
use weirgate::telemetry::BusStatus;
use weirgate::wire::head::RequestHead;

const TICKS: TopicName = TopicName::fixed("ticks");
const OWN: &[Setting] = &[Setting::ms(
    Heading("Ticks"),
    "tick-interval-ms",
    (1, 60_000),
    "250",
    "Time between two ticks",
)];
static PROGRAM: Program = Program {
    name: "ticker",
    about: "A counter that ticks, over WebSocket",
    start_with: "Clients connect to /ws and send: subscribe",
    gateways: &[TICKER],
};
const TICKER: GatewayKind = GatewayKind::new(
    "ticker",
    "Send a counter to those who subscribe",
    Rows::gateway(&[Part::Bus]).own(&[OWN]),
    run,
);

fn main() -> ExitCode {
    commands::main(&PROGRAM)
}

fn run(checked: &Checked) -> Result<(), RunError> {
    let common = CommonSettings::new(checked);
    let interval = Duration::from_millis(checked.number("tick-interval-ms"));
    let clock = start_process(checked)?;
    let status = Arc::new(BusStatus::new(&[], clock.now().unix_ms));
    let (source, alive) = (Ticks(interval, Arc::clone(&status)), FrameBytes::default());
    let feed = TickFeed(FeedStats::of(["ticks"]), alive.clone());
    let gateway = Ticker(common.origins());
    Parts::new(TICKER.name, common, feed, gateway)
        .frame_bytes(alive)
        .source(source, status)
        .routes(|telemetry| {
            let telemetry = Arc::clone(telemetry);
            let text = move || format!(r#"{{"clients":{}}}"#, telemetry.event_loop.clients());
            let health = move |_: &_| Answer::json(StatusCode::OK, text()).no_store();
            vec![Route::get("/health", health)]
        })
        .run(clock, |listening| {
            say(&format!("ticker on ws://{}/ws", listening.addr))
        })
}

/// The bus, on a thread of its own: a message now and then.
struct Ticks(Duration, Arc<BusStatus>);

impl Source for Ticks {
    fn run(self: Box<Self>, link: SourceLink) {
        self.1.set_up(true);
        let message = |n: u64| BusMessage {
            subject: "ticks".into(),
            pattern: None,
            payload: n.to_string().into_bytes(),
            position: None,
            received: link.now(),
            quiet: false,
        };
        let mut is_there = link.send(BusEvent::CaughtUp).is_ok();
        for n in 1.. {
            if !is_there {
                return;
            }
            thread::sleep(self.0);
            is_there = link.send(BusEvent::Message(message(n))).is_ok();
        }
    }
}

/// A frame for each message: encoded once, kept for new clients, replaced where a client is slow.
struct TickFeed(FeedStats, FrameBytes);

impl Feed for TickFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, event: BusEvent, out: &mut Vec<Publication>) {
        self.0.caught_up |= matches!(event, BusEvent::CaughtUp);
        let BusEvent::Message(message) = event else {
            return;
        };
        self.0.subjects[0].messages += 1;
        self.0.last_message_unix_ms = Some(message.received.unix_ms);
        let frame = Frame::text(&self.1)
            .key(ConflationKey(0))
            .received(message.received);
        out.push(Publication {
            topic: TICKS,
            frame: frame
                .body(br#"{"tick":"#)
                .body(&message.payload)
                .body(b"}")
                .finish(),
            deliver: true,
            retain: Retain::Set,
        });
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// The client side: who may connect, and what `subscribe` does.
struct Ticker(Origins);

impl Gateway for Ticker {
    type Command = ();

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        match head.asks_upgrade() && head.path() == "/ws" {
            true if self.0.allow(head.header("Origin")) => Admission::Accept(Accepted::default()),
            true => Admission::Refuse {
                status: 403,
                detail: "Origin not allowed",
            },
            false => Admission::ToHttp,
        }
    }

    fn opened(&mut self, _: &mut Core, _: SessionKey) {}

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        if message == Incoming::Text("subscribe") {
            core.join(key, &TICKS);
        }
    }

    fn command(&mut self, _: &mut Core, (): ()) {}

    fn closed(&mut self, _: &mut Core, _: SessionKey, _: CloseReason) {}
}
