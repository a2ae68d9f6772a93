//! An echo server on the same sessions, send queues and compression as the gateways: the server of the
//! conformance and abuse suites.
//!
//!     cargo run --release --example echo -- --listen 127.0.0.1:9001
//!     cargo run --release --example echo -- --tls-listen 127.0.0.1:9002 --tls-cert cert.pem --tls-key key.pem

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use weirgate::gateways::NoFeed;
use weirgate_core::{Accepted, Admission, ByClient, Core, Frame, Gateway, Incoming, SessionKey};
use weirgate_runtime::Clock;
use weirgate_server::run::{ClientTls, CommonSettings, Parts};
use weirgate_wire::RequestHead;

/// Handshakes under way at once: one address has half of them.
const HANDSHAKES_MAX: u64 = 2_048;

/// Sends every message back.
struct Echo;

impl Gateway for Echo {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let (frame, body) = match message {
            Incoming::Text(text) => (Frame::text(core.frame_bytes()), text.as_bytes()),
            Incoming::Binary(bytes) => (Frame::binary(core.frame_bytes()), bytes),
        };
        let frame = frame.with_capacity(body.len()).answer().body(body).finish();
        core.send(key, &frame);
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// TLS with the certificate of the options.
fn tls(options: &ArgMatches) -> Result<ClientTls, Box<dyn Error>> {
    let path = |name| options.get_one::<String>(name).map(PathBuf::from);
    let chain = path("tls-cert").ok_or("--tls-cert")?;
    let key = path("tls-key").ok_or("--tls-key")?;
    Ok(ClientTls::with_certificate(chain, key, HANDSHAKES_MAX))
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
        .args(["tls-listen", "tls-cert", "tls-key"].map(|name| Arg::new(name).long(name)))
        .get_matches();
    let addr: SocketAddr = options
        .get_one::<String>("listen")
        .ok_or("--listen")?
        .parse()?;
    let message_bytes_max = *options
        .get_one("message-bytes-max")
        .ok_or("--message-bytes-max")?;

    let mut common = CommonSettings::default();
    common.reactor.listen.addrs = vec![addr.into()];
    common.limits.message_bytes_max = message_bytes_max;
    // An echo of the largest message may wait behind another.
    let hard_bytes = &mut common.limits.send_queue.hard_bytes;
    *hard_bytes = message_bytes_max.max(*hard_bytes);
    if let Some(addr) = options.get_one::<String>("tls-listen") {
        let addr: SocketAddr = addr.parse()?;
        common.reactor.listen.tls_addrs = vec![addr.into()];
        common.tls = Some(tls(&options)?);
    }
    Parts::new("echo", common, NoFeed::default(), Echo).run(Clock::start(), |listening| {
        println!("echo on {}", listening.url("ws", "/"));
    })?;
    Ok(())
}
