//! What one turn of the loop does in which order, and how much of it, over real sockets.

mod turns {
    mod budgets;
    mod inputs;
    mod watchdog;
}
mod world;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use weirgate_core::{
    Accepted, Admission, BusEvent, BusMessage, ByClient, Core, Feed, FeedStats, Frame, FrameBytes,
    Gateway, Incoming, Publication, SessionKey, TopicName,
};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink};
use weirgate_server::listening::ListenAddr;
use weirgate_server::run::{CommonSettings, Listening, Parts};
use weirgate_wire::RequestHead;
use weirgate_wire::base::Now;
use world::client::{frame, request};

/// Sleeps for half a second at the text `nap`. Goes on in a later turn with the text `rest`, for three milliseconds. Says to
/// the text `count` how many of these it has read. Echoes another short message, then says at a deadline that is due at once how many bytes the client has
/// not been sent. A long message costs three milliseconds.
struct Toy;

const LONG_BYTES: usize = 20_000;
const WORK: Duration = Duration::from_millis(3);
const NAP: Duration = Duration::from_millis(500);
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn say(core: &mut Core, key: SessionKey, text: &str) {
    let frame = Frame::text(core.frame_bytes()).answer();
    core.send(key, &frame.body(text.as_bytes()).finish());
}

impl Gateway for Toy {
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
        match message {
            Incoming::Text("nap") => thread::sleep(NAP),
            Incoming::Text("rest") => core.go_on_later(key, 1),
            Incoming::Text("count") => {
                let before = COUNT.fetch_add(1, Relaxed);
                say(core, key, &before.to_string());
            }
            Incoming::Text(text) if text.len() < LONG_BYTES => {
                say(core, key, text);
                core.set_deadline(key, Some(core.now().mono_us));
            }
            _ => thread::sleep(WORK),
        }
    }

    fn handle_rest(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        thread::sleep(WORK);
        say(core, key, "rested");
    }

    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        let unsent = core.unsent_bytes(key);
        say(core, key, &unsent.to_string());
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// Takes long over each message, and publishes nothing.
#[derive(Default)]
struct Refuses(FeedStats);

impl Feed for Refuses {
    type Event = BusEvent;

    fn event(&mut self, _: Now, _: BusEvent, _: &mut Vec<Publication>) {
        thread::sleep(WORK);
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// Sends so many messages, of so many bytes each, each time that it is told to.
struct Bursts(mpsc::Receiver<usize>, usize);

impl Source for Bursts {
    fn run(self: Box<Self>, link: SourceLink) {
        for burst in self.0 {
            for _ in 0..burst {
                let message = BusMessage::new("bad", vec![0; self.1], link.now());
                if link.send(BusEvent::Message(message)).is_err() {
                    return;
                }
            }
        }
    }
}

/// All clients are members of one topic. Notes the most bytes that waited for any of them when a
/// message was published.
struct Everybody(Arc<AtomicUsize>);

const TOPIC: TopicName = TopicName::fixed("all");

impl Gateway for Everybody {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        core.join(key, &TOPIC);
    }

    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
        let waiting = core
            .members(&publication.topic)
            .map(|key| core.unsent_bytes(key));
        self.0.fetch_max(waiting.max().unwrap_or(0), Relaxed);
    }

    fn handle_message(&mut self, _: &mut Core, _: SessionKey, (): &mut (), _: Incoming<'_>) {}

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// Publishes each message to all.
#[derive(Default)]
struct Publishes(FeedStats, FrameBytes);

impl Feed for Publishes {
    type Event = BusEvent;

    fn event(&mut self, _: Now, event: BusEvent, publications: &mut Vec<Publication>) {
        if let BusEvent::Message(message) = event {
            let frame = Frame::text(&self.1).body(&message.payload).finish();
            publications.push(Publication::new(TOPIC, frame));
        }
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// Runs until the test binary ends; the sender starts bursts of bad messages.
fn start() -> (SocketAddr, mpsc::Sender<usize>) {
    let (listening, burst) = start_spinning(0);
    (port(&listening), burst)
}

fn port(listening: &Listening) -> SocketAddr {
    match listening.addrs[0] {
        ListenAddr::Tcp(addr) => addr,
        _ => panic!("{listening:?}"),
    }
}

/// The same with a loop that polls without sleeping for so long after work.
fn start_spinning(spin_us: u64) -> (Listening, mpsc::Sender<usize>) {
    let mut common = CommonSettings::default();
    common.reactor.spin_us = spin_us;
    start_toy(common, Refuses::default(), Toy)
}

/// Any toy; the sender starts bursts of messages.
fn start_toy<G, F>(common: CommonSettings, feed: F, toy: G) -> (Listening, mpsc::Sender<usize>)
where
    G: Gateway<In = Infallible, Out = Infallible> + Send + 'static,
    F: Feed<Event = BusEvent> + Send + 'static,
{
    start_with(common, feed, toy, 64 * 1024)
}

/// The same with messages of so many bytes.
fn start_with<G, F>(
    mut common: CommonSettings,
    feed: F,
    toy: G,
    message_bytes: usize,
) -> (Listening, mpsc::Sender<usize>)
where
    G: Gateway<In = Infallible, Out = Infallible> + Send + 'static,
    F: Feed<Event = BusEvent> + Send + 'static,
{
    common.reactor.listen.addrs = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
    let (send, listening) = mpsc::channel();
    let (burst, bursts) = mpsc::channel();
    thread::spawn(move || {
        let status = Arc::new(BusStatus::new(&[], 0));
        Parts::new("toy", common, feed, toy)
            .source(Bursts(bursts, message_bytes), status)
            .run(Clock::start(), |listening| {
                send.send(listening.clone()).expect("the test listens");
            })
            .expect("the loop runs");
    });
    (listening.recv().expect("it listens"), burst)
}

struct Client(TcpStream);

impl Client {
    fn connect(addr: SocketAddr) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, addr)
    }

    fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = SocketAddr::from((source, 0));
        socket.bind(&source.into()).expect("a local address");
        socket.connect(&addr.into()).expect("connected");
        Self::begin(TcpStream::from(socket))
    }

    fn begin(mut stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(&request("/ws", None)).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a 101");
            head.extend(byte);
        }
        Self(stream)
    }

    fn send(&mut self, text: &str) {
        self.0
            .write_all(&frame(0x81, text.as_bytes()))
            .expect("sent");
    }

    fn text(&mut self) -> String {
        const PING: u8 = 0x89;
        let mut header = [PING, 0];
        while header[0] == PING {
            self.0.read_exact(&mut header).expect("a frame");
        }
        let mut text = vec![0; usize::from(header[1])];
        self.0.read_exact(&mut text).expect("a payload");
        String::from_utf8(text).expect("text")
    }

    /// How long a short message takes to its echo, and how many bytes waited at the deadline.
    fn round_trip(&mut self) -> (Duration, String) {
        let start = Instant::now();
        self.send("ask");
        assert_eq!(self.text(), "ask");
        let took = start.elapsed();
        (took, self.text())
    }
}

#[test]
fn a_deadline_that_is_due_comes_after_the_flush_of_its_turn() {
    let mut client = Client::connect(start().0);
    for _ in 0..20 {
        assert_eq!(client.round_trip().1, "0", "bytes that were not flushed");
    }
}

#[test]
fn clients_that_cost_much_do_not_keep_others_waiting() {
    is_below(Duration::from_millis(400), || {
        let (addr, _burst) = start();
        let mut bystander = Client::connect(addr);
        bystander.round_trip();
        let mut workers: Vec<Client> = (0..100).map(|_| Client::connect(addr)).collect();
        let work = frame(0x81, &[b'x'; LONG_BYTES]);
        for worker in &mut workers {
            (0..4).for_each(|_| worker.0.write_all(&work).expect("sent"));
        }
        longest_round_trip(&mut bystander)
    });
}

/// Its message was short, and the rest of it long. So its next message waits for that of another client, which comes later.
/// On a busy machine a try may show nothing: a short read may take long, or so much time may pass that all is paid.
#[test]
fn a_client_whose_rest_costs_much_does_not_keep_others_waiting() {
    let comes_last = || {
        let (addr, _burst) = start();
        let [mut costly, mut other, mut sleeper] = [0; 3].map(|_| Client::connect(addr));
        costly.round_trip();
        other.round_trip();
        // What they have cost so far is paid.
        thread::sleep(NAP);
        costly.send("rest");
        assert_eq!(costly.text(), "rested");
        sleeper.send("nap");
        thread::sleep(NAP / 10);
        costly.send("count");
        other.send("count");
        let number = |mut client: Client| client.text().parse::<usize>().expect("a number");
        number(costly) > number(other)
    };
    let last = (0..5).filter(|_| comes_last()).count();
    assert!(last >= 3, "{last} of 5");
}

fn longest_round_trip(client: &mut Client) -> Duration {
    let until = Instant::now() + WORK * 250;
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        longest = longest.max(client.round_trip().0);
    }
    longest
}

/// On a busy machine one try may wait for a CPU; a loop that keeps clients waiting does so in each.
fn is_below(limit: Duration, measured: impl Fn() -> Duration) {
    let mut tries = Vec::new();
    while tries.iter().all(|took| *took >= limit) {
        assert!(tries.len() < 10, "{tries:?}");
        tries.push(measured());
    }
}

/// Hundreds of clients of another address do what `prepares` and then all have three messages waiting
/// that cost much; returns how long a short message of a client takes meanwhile. Without turns by
/// address that is as long as the messages of all the others: seconds.
fn among_hundreds(prepares: impl Fn(&mut Client)) -> Duration {
    let (addr, _burst) = start();
    let others = Ipv4Addr::new(127, 0, 0, 2);
    let mut workers: Vec<Client> = (0..300)
        .map(|_| Client::connect_from(others, addr))
        .collect();
    let mut bystander = Client::connect(addr);
    workers.iter_mut().for_each(&prepares);
    prepares(&mut bystander);
    let work = frame(0x81, &[b'x'; LONG_BYTES]).repeat(3);
    for worker in &mut workers {
        worker.0.write_all(&work).expect("sent");
    }
    bystander.round_trip().0
}

#[test]
fn a_first_message_does_not_wait_for_those_of_another_address() {
    is_below(Duration::from_millis(300), || among_hundreds(|_| {}));
}

#[test]
fn a_client_that_costs_much_does_not_wait_for_those_of_another_address() {
    let costs_much = |client: &mut Client| {
        // By its bytes, and is answered by an echo behind it.
        client.send(&"x".repeat(LONG_BYTES));
        client.round_trip();
        client.send(&"x".repeat(LONG_BYTES));
    };
    is_below(Duration::from_millis(300), || among_hundreds(costs_much));
}

#[test]
fn messages_that_are_refused_have_their_share_of_a_turn() {
    is_below(Duration::from_millis(400), || {
        let (addr, burst) = start();
        round_trip_in_a_burst(addr, &burst)
    });
}

/// Ten bytes each: the bytes alone would allow all of them in a turn.
#[test]
fn small_messages_have_their_share_of_a_turn() {
    is_below(Duration::from_millis(400), || {
        let (listening, burst) = start_with(CommonSettings::default(), Refuses::default(), Toy, 10);
        round_trip_in_a_burst(port(&listening), &burst)
    });
}

/// The longest round trip of a client while the bus says much.
fn round_trip_in_a_burst(addr: SocketAddr, burst: &mpsc::Sender<usize>) -> Duration {
    let mut bystander = Client::connect(addr);
    bystander.round_trip();
    burst.send(200).expect("it runs");
    longest_round_trip(&mut bystander)
}

/// A flush to hundreds of clients takes several turns. Were a part of a burst taken in each of them,
/// all of it would wait for those whose turn comes late, and make them slow clients.
#[test]
fn a_client_that_keeps_up_stays_below_its_soft_limit_in_a_burst() {
    const CLIENTS: usize = 400;
    const MESSAGES: usize = 8;
    const FRAME_BYTES: usize = 64 * 1024 + 10;
    let mut common = CommonSettings::default();
    // The kernel takes all at once, so that a client never waits for itself.
    common.reactor.listen.options.notsent_lowat_bytes = 0;
    let soft_bytes = common.limits.send_queue.soft_bytes;
    let most_waiting = Arc::new(AtomicUsize::new(0));
    let toy = Everybody(Arc::clone(&most_waiting));
    let (listening, burst) = start_toy(common, Publishes::default(), toy);
    let addr = port(&listening);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    burst.send(MESSAGES).expect("it runs");
    let mut bytes = vec![0; MESSAGES * FRAME_BYTES];
    for client in &mut clients {
        client.0.read_exact(&mut bytes).expect("all messages");
    }
    let most = most_waiting.load(Relaxed);
    assert!((FRAME_BYTES..=soft_bytes).contains(&most), "{most}");
}

#[test]
fn a_loop_that_spins_finds_its_work_awake_and_sleeps_when_none_comes() {
    let (listening, burst) = start_spinning(50_000);
    let spin = || listening.telemetry.event_loop.numbers().times.spin;
    let mut client = Client::connect(port(&listening));
    // On a busy machine the loop may lose its CPU for as long as it spins, so there is work until some is found.
    let finds = |work: &mut dyn FnMut()| {
        let (found, until) = (spin().found, Instant::now() + Duration::from_secs(20));
        while spin().found < found + 5 && Instant::now() < until {
            work();
            thread::sleep(Duration::from_millis(10));
        }
        spin().found >= found + 5
    };
    let is_found = finds(&mut || drop(client.round_trip()));
    assert!(is_found, "sockets: {:?}", spin());
    let is_found = finds(&mut || burst.send(1).expect("it runs"));
    assert!(is_found, "the bus: {:?}", spin());
    // An idle turn, at least every half second, tells the last of it; later on a busy machine.
    let sleeps = (0..10).any(|_| {
        let spun = spin();
        thread::sleep(Duration::from_millis(1_500));
        spin() == spun
    });
    assert!(sleeps, "nothing came, and it did not sleep: {:?}", spin());
    client.round_trip();
}

#[test]
fn a_loop_that_may_not_spin_does_not() {
    let (listening, _burst) = start_spinning(0);
    let mut client = Client::connect(port(&listening));
    (0..50).for_each(|_| drop(client.round_trip()));
    let spin = listening.telemetry.event_loop.numbers().times.spin;
    assert_eq!((spin.found, spin.spun_us), (0, 0));
}
