//! A fifth gateway, from outside of the library: a ticking counter for clients that send `subscribe` on
//! `/ws`. Flags, `--check`, `/metrics`, limits and a graceful stop come with the parts.
//!
//!     cargo run --example ticker -- --tick-interval-ms 1000 --port 8090

use std::{convert::Infallible, process::ExitCode, sync::Arc, thread, time::Duration};

use weirgate::commands::{GatewayKind, Program};
use weirgate_core::*;
use weirgate_core::{BusEvent, BusMessage};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink};
use weirgate_server::http::{Answer, Route, StatusCode};
use weirgate_server::run::{CommonSettings, Parts, Prepared, RunError, say};
use weirgate_server::settings::{At, Checked, Heading, Rows, Setting, TablePart};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

const TICKS: TopicName = TopicName::fixed("ticks");
const HELP: &str = "Time between two ticks";
const OWN: &[Setting] = &Heading("Ticks").of([Setting::ms(
    "tick-interval-ms",
    (1, 60_000),
    &At(|ticks: &mut TickSettings| &mut ticks.interval_ms),
    HELP,
)
.in_short_help()]);
const ABOUT: &str = "Send a counter to those who subscribe";
const ROWS: Rows = Rows::gateway(&[TablePart::Bus]).own(&[OWN]);
static PROGRAM: Program = Program {
    name: "ticker",
    about: ABOUT,
    start_with: "Clients connect to /ws and send: subscribe",
    most_used: "ticker",
    gateways: &[GatewayKind::new("ticker", ABOUT, ROWS, prepare)],
};

/// The row writes the field; the default is here.
#[derive(Clone)]
struct TickSettings {
    interval_ms: u64,
}

impl Default for TickSettings {
    fn default() -> Self {
        Self { interval_ms: 250 }
    }
}

fn main() -> ExitCode {
    PROGRAM.main()
}

fn prepare(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let interval = Duration::from_millis(checked.get::<TickSettings>().interval_ms);
    let status = Arc::new(BusStatus::new(&[], clock.mono_us()));
    let (source, alive) = (Ticks(interval, status.clone()), FrameBytes::default());
    let feed = TickFeed(FeedStats::of(["ticks"]), alive.clone());
    let gateway = Ticker(common.origins());
    Parts::new("ticker", common, feed, gateway)
        .frame_bytes(alive)
        .source(source, status)
        .routes(|telemetry| {
            let telemetry = Arc::clone(telemetry);
            let text = move || format!(r#"{{"clients":{}}}"#, telemetry.event_loop.clients());
            let health = move |_: &_| Answer::json(StatusCode::OK, text()).no_store();
            vec![Route::get("/health", health)]
        })
        .prepare(clock, |at| {
            let websocket = at.url("ws", "/ws");
            let as_json = || tracing::info!(websocket, "ticker");
            say(&format!("ticker on {websocket}"), as_json);
        })
}

/// The bus, on its own thread: a message now and then, until the loop has ended.
struct Ticks(Duration, Arc<BusStatus>);

impl Source for Ticks {
    fn run(self: Box<Self>, link: SourceLink) {
        self.1.set_up(true);
        let mut sent = link.send(BusEvent::CaughtUp);
        for n in 1_u64.. {
            if sent.is_err() {
                return;
            }
            thread::sleep(self.0);
            sent = link.send(BusEvent::Message(BusMessage::new(
                "ticks",
                n.to_string().into_bytes(),
                link.now(),
            )));
        }
    }
}

/// Makes a frame for each message: encoded once, kept for new clients, replaced if a client is slow.
struct TickFeed(FeedStats, FrameBytes);

impl Feed for TickFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, event: BusEvent, out: &mut Vec<Publication>) {
        self.0.caught_up |= matches!(event, BusEvent::CaughtUp);
        if let BusEvent::Message(tick) = event {
            self.0.subjects[0].messages += 1;
            self.0.last_message_unix_ms = Some(tick.received.unix_ms());
            // Ticks are nobody's own, so compressed ones may refer to each other.
            let frame = Frame::text(&self.1)
                .common(true)
                .key(ConflationKey(0))
                .body(b"{\"tick\":");
            let frame = frame
                .received(tick.received)
                .body(&tick.payload)
                .body(b"}")
                .finish();
            out.push(Publication {
                retain: Retain::Set,
                ..Publication::new(TICKS, frame)
            });
        }
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// The client side: decides who may connect, and handles `subscribe`.
struct Ticker(Origins);

impl Gateway for Ticker {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path {
            "/ws" => Entrance::Clients(&self.0),
            _ => Entrance::None,
        }
    }

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        sent: Incoming<'_>,
    ) {
        if sent == Incoming::Text("subscribe") {
            core.join(key, &TICKS);
        }
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}
