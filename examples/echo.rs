//! An echo server on the same sessions, send queues and compression as the gateways: what the
//! conformance and abuse suites are run against.
//!
//!     cargo run --release --example echo -- --listen 127.0.0.1:9001

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use clap::{Arg, Command, value_parser};
use crossbeam_channel::never;
use weirgate::clock::Clock;
use weirgate::http::{Cors, HttpPlane, HttpSettings, Site};
use weirgate::hub::{
    Accepted, Admission, CloseReason, Core, DrainPlan, Feed, FeedStats, Frame, FrameBytes, Gateway,
    Hub, Incoming, Limits, Now, Publication, SendQueueLimits, SessionKey,
};
use weirgate::reactor::{ListenSettings, Reactor, ReactorSettings, Seams, TurnBudgets, way_back};
use weirgate::telemetry::{Build, Telemetry};
use weirgate::wire::head::RequestHead;

/// Sends every message back.
struct Echo;

impl Gateway for Echo {
    type Command = Infallible;

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        if head.asks_upgrade() {
            Admission::Accept(Accepted::default())
        } else {
            Admission::ToHttp
        }
    }

    fn opened(&mut self, _: &mut Core, _: SessionKey) {}

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let (frame, body) = match message {
            Incoming::Text(text) => (Frame::text(core.frame_bytes()), text.as_bytes()),
            Incoming::Binary(bytes) => (Frame::binary(core.frame_bytes()), bytes),
        };
        let frame = frame.with_capacity(body.len()).answer().body(body).finish();
        core.send(key, &frame);
    }

    fn command(&mut self, _: &mut Core, never: Self::Command) {
        match never {}
    }

    fn closed(&mut self, _: &mut Core, _: SessionKey, _: CloseReason) {}
}

/// There is no bus.
#[derive(Default)]
struct NoFeed(FeedStats);

impl Feed for NoFeed {
    type Event = Infallible;

    fn event(&mut self, _: Now, never: Infallible, _: &mut Vec<Publication>) {
        match never {}
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Command::new("echo")
        .arg(
            Arg::new("listen")
                .long("listen")
                .default_value("127.0.0.1:9001"),
        )
        .arg(
            Arg::new("message-bytes-max")
                .long("message-bytes-max")
                .value_parser(value_parser!(usize))
                .default_value("16777216"),
        )
        .get_matches();
    let addr: SocketAddr = options
        .get_one::<String>("listen")
        .ok_or("--listen")?
        .parse()?;
    let message_bytes_max = *options
        .get_one("message-bytes-max")
        .ok_or("--message-bytes-max")?;

    let clock = Clock::start();
    let frame_bytes = FrameBytes::default();
    let limits = Limits {
        message_bytes_max,
        // One echo of the largest message may wait behind another.
        send_queue: SendQueueLimits {
            hard_bytes: message_bytes_max.max(1024 * 1024),
            ..SendQueueLimits::default()
        },
        ..Limits::default()
    };
    let hub = Hub::new(
        Core::new(limits, frame_bytes, u64::from(std::process::id())),
        Echo,
    );
    let feed = NoFeed::default();
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        gateway: "echo",
        features: String::new(),
    };
    let telemetry = Telemetry::new(build, feed.stats().clone(), None, clock.now());
    let site = Site {
        routes: Vec::new(),
        fallback: None,
        cors: Cors::Any,
    };
    let http = HttpPlane::start(site, None, HttpSettings::default())?;
    let seams = |wake: &_| {
        let (back, returned) = way_back(wake);
        Ok(Seams {
            bus: never(),
            commands: never(),
            replies: never(),
            outside: Box::new(|_| {}),
            http: http.handle(back),
            returned,
            telemetry,
        })
    };
    let mut reactor = Reactor::bind(settings(addr), hub, feed, clock, seams)?;
    println!("echo on ws://{}/", reactor.local_addr()?);
    reactor.run()?;
    Ok(())
}

fn settings(addr: SocketAddr) -> ReactorSettings {
    ReactorSettings {
        listen: ListenSettings {
            addr,
            backlog: 4096,
            notsent_lowat_bytes: 16 * 1024,
        },
        budgets: TurnBudgets {
            accepts_max: 256,
            read_bytes_max: 64 * 1024,
            publication_bytes_max: 128 * 1024,
        },
        drain: DrainPlan::default(),
        stop_timeout_us: 5_000_000,
    }
}
