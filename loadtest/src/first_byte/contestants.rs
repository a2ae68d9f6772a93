//! The contestants: the relays and the servers, each on a separate nats-server, so a message wakes
//! only a single contestant.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::FirstByteArgs;
use super::client::Client;
use super::relay::Relay;
use crate::bus::{Bus, Outlet};
use crate::compare::names;
use crate::fault::Fault;
use crate::launch::{self, Program};
use crate::metrics;
use crate::payload::Payload;
use crate::process::{Process, pin_thread};

/// The relays; the first is the base.
pub(super) const RELAYS: [(&str, Bus); 2] =
    [("relay", Bus::Nats), ("relay of JetStream", Bus::Jetstream)];
/// With `--pin`: the CPU of relays and event loops, and the CPU of everything else.
const CPU_OF_LOOPS: usize = 0;
const CPU_OF_OTHERS: usize = 1;

/// A way from the bus to a client.
pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) samples_us: Vec<Vec<f64>>,
    publisher: Outlet,
    client: Client,
    next_n: u64,
    /// Dropped in this order.
    _relay: Option<Relay>,
    server: Option<Program>,
    _nats: Program,
}

/// Starts all contestants, the relays first.
pub(super) fn start(a: &FirstByteArgs) -> Result<Vec<Contestant>, Fault> {
    if a.pin {
        Process::new(std::process::id())?.pin(CPU_OF_OTHERS)?;
    }
    let taken = BTreeSet::from(RELAYS.map(|(name, _)| name.to_owned()));
    let names = names(&a.servers, taken)?;
    let mut all = Vec::new();
    for (name, bus) in RELAYS {
        let nats = nats(a)?;
        let cpu = a.pin.then_some(CPU_OF_LOOPS);
        let relay = Relay::start(bus, &launch::nats_url(&nats), &a.subject, cpu)?;
        let addr = relay.addr;
        all.push(Contestant::new(
            name.into(),
            addr,
            (Some(relay), None),
            nats,
            a,
        )?);
    }
    for (name, server) in names.into_iter().zip(&a.servers) {
        let nats = nats(a)?;
        let server = launch::server(&server.command, &launch::nats_url(&nats))?;
        if a.pin {
            let pid = server.pid();
            Process::new(pid)?.pin(CPU_OF_OTHERS)?;
            pin_thread(
                rustix::process::Pid::from_raw(pid.cast_signed()),
                CPU_OF_LOOPS,
            )?;
        }
        let addr = server.addr;
        all.push(Contestant::new(name, addr, (None, Some(server)), nats, a)?);
    }
    Ok(all)
}

fn nats(a: &FirstByteArgs) -> Result<Program, Fault> {
    let nats = launch::nats_server()?;
    if a.pin {
        nats.process()?.pin(CPU_OF_OTHERS)?;
    }
    Ok(nats)
}

impl Contestant {
    fn new(
        name: String,
        addr: SocketAddr,
        (relay, server): (Option<Relay>, Option<Program>),
        nats: Program,
        a: &FirstByteArgs,
    ) -> Result<Self, Fault> {
        Ok(Self {
            name,
            samples_us: Vec::new(),
            publisher: Outlet::connect(&launch::nats_url(&nats))?,
            client: Client::connect(addr, &a.path)?,
            next_n: 1,
            _relay: relay,
            server,
            _nats: nats,
        })
    }

    /// Publishes a message and waits for the arrival; returns the time between, microseconds.
    pub(super) fn one(&mut self, subject: &str, payload: &mut Payload) -> Result<f64, Fault> {
        let n = self.next_n;
        self.next_n += 1;
        let text = payload.stamped(0, n);
        self.publisher.add(subject, text);
        let published = Instant::now();
        self.publisher.send()?;
        let arrived = self.client.wait_for(n)?;
        Ok((arrived - published).as_secs_f64() * 1e6)
    }

    /// The mean time inside a server since the start; `None` if the server does not report the time.
    pub(super) fn inside_us(&self) -> Option<f64> {
        let addr = self.server.as_ref()?.addr;
        let name = "weirgate_stage_duration_seconds";
        let sample = |part: &str| {
            let all = metrics::by_label(addr, &format!("{name}_{part}"), "stage").ok()?;
            all.get("first_write").copied()
        };
        let count = sample("count").filter(|count| *count > 0.0)?;
        Some(sample("sum")? / count * 1e6)
    }
}
