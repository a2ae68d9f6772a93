//! Servers that die, freeze, cut us off, fall silent or come late.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use weirgate_test_support::LinkProxy;

use super::*;

const MANY: usize = 10_000;

/// On a stream. Nobody knows how much is added while Redis is away.
#[test]
fn how_far_it_is_behind_is_unknown_during_an_outage() {
    let mut server = RedisServer::start();
    let (_events, status) = stream::read(settings(&server.url()));
    let at_the_end = Some((Some(0), 0));
    eventually("it reads", || status.stream_behind() == at_the_end);
    server.kill();
    eventually("it is away", || !status.connected());
    eventually("unknown", || status.stream_behind().is_none());
    server.restart();
    eventually("it reads again", || status.stream_behind() == at_the_end);
}

#[test]
fn ten_thousand_channels_stand_again_after_a_kill() {
    let mut server = RedisServer::start();
    let source = run_with_room(settings(&server.url()), 4 * MANY);
    source.until("CaughtUp");
    for n in 0..MANY {
        source
            .interest
            .subscribe(Subscription::channel(format!("channel:{n}")));
    }
    let confirmed = source.until(&format!("+channel:{}", MANY - 1));
    assert_eq!(confirmed.len(), MANY);
    server.kill();
    assert_eq!(source.until("Down"), ["Gap", "Down"]);
    assert!(!source.status.connected() && source.status.away_ms(Now::default()).is_some());
    // The set changes while Redis is away, and nothing is told of it.
    source
        .interest
        .unsubscribe(Subscription::channel("channel:0"));
    source.interest.subscribe(Subscription::pattern("late*"));
    source.nothing_comes_for(Duration::from_secs(3));

    server.restart();
    let back = Instant::now();
    let seen = source.until("CaughtUp");
    assert!(
        back.elapsed() < patient(Duration::from_secs(3)),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(seen.len(), MANY + 2);
    assert!(seen.contains(&"+late*".into()) && !seen.contains(&"+channel:0".into()));
    let mut client = server.client();
    assert_eq!(channels(&mut client), MANY - 1);
    assert_eq!(source.status.reconnects(), 1);
    assert!(source.status.subscribed() && source.status.away_ms(Now::default()).is_none());
    publish(&mut client, "channel:9999", "again");
    publish(&mut client, "late1", "too");
    assert_eq!(source.next_short(), "channel:9999: again");
    assert_eq!(source.next_short(), "late1 (late*): too");
}

#[test]
fn a_server_that_comes_late_is_told_once() {
    let mut server = RedisServer::reserve("");
    let source = run(settings(&server.url()));
    source.interest.subscribe(Subscription::channel("a"));
    // Nothing was lost: it never stood.
    assert_eq!(source.until("Down"), ["Down"]);
    source.nothing_comes_for(Duration::from_secs(2));
    server.restart();
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn a_killed_client_is_back_at_once() {
    let server = RedisServer::start();
    let source = run_with(&server.url(), &[Subscription::channel("a")]);
    let mut client = server.client();
    for round in 1..4 {
        let mut command = redis::cmd("CLIENT");
        command.arg("KILL").arg("TYPE").arg("pubsub");
        let killed: usize = command.query(&mut client).expect("an answer");
        assert_eq!(killed, 1);
        assert_eq!(
            source.until("CaughtUp"),
            ["Gap", "Down", "+a", "Up", "CaughtUp"]
        );
        publish(&mut client, "a", round.to_string());
        assert_eq!(source.next_short(), format!("a: {round}"));
        assert_eq!(source.status.reconnects(), round);
    }
}

/// Redis serves the commands that waited in its sockets once it is done, and everything that was
/// published meanwhile comes on the connection that was kept.
#[test]
fn a_server_that_is_busy_for_seconds_loses_nothing() {
    const TRADES: usize = 100;
    for seconds in [4, 10] {
        let server = RedisServer::start_with("enable-debug-command local");
        let wanted = [
            Subscription::channel("channel:trade:A"),
            Subscription::pattern("channel:trade:*"),
        ];
        let source = run_with(&server.url(), &wanted);
        let (mut busy, mut client) = (server.client(), server.client());
        let sleep = thread::spawn(move || {
            let mut command = redis::cmd("DEBUG");
            let command = command.arg("SLEEP").arg(seconds);
            command.query::<()>(&mut busy).expect("it slept");
        });
        thread::sleep(Duration::from_millis(200));
        let publisher = thread::spawn(move || {
            let mut batch = redis::pipe();
            for n in 0..TRADES {
                let payload = n.to_string();
                batch.cmd("PUBLISH").arg("channel:trade:A").arg(payload);
            }
            batch.query::<Vec<usize>>(&mut client).expect("published")
        });
        assert_eq!(source.next_short(), "Down");
        assert!(!source.status.connected());
        assert_eq!(source.next_short(), "Up");
        for n in 0..TRADES {
            for pattern in ["", " (channel:trade:*)"] {
                let want = format!("channel:trade:A{pattern}: {n}");
                assert_eq!(source.next_short(), want, "{seconds} s");
            }
        }
        assert_eq!(publisher.join().expect("it ends"), [2; TRADES]);
        sleep.join().expect("it ends");
        assert!(source.status.connected() && source.status.subscribed());
        source.nothing_comes_for(Duration::from_millis(1_500));
        assert_eq!(source.status.reconnects(), 0);
    }
}

/// Commands that a busy server does not read must not fill the link: the kernel ends a connection
/// whose peer takes nothing for five seconds.
#[test]
fn a_busy_server_that_is_asked_for_much_keeps_its_link() {
    const NAMES: usize = 10_000;
    let server = RedisServer::start();
    let source = run_with(&server.url(), &[Subscription::channel("a")]);
    server.freeze();
    for n in 0..NAMES {
        let name = format!("{n}:{}", "x".repeat(n % 200));
        source.interest.subscribe(Subscription::channel(name));
        if n % 100 == 0 {
            // Several commands, each in a packet of its own.
            thread::sleep(Duration::from_millis(2));
        }
    }
    thread::sleep(Duration::from_secs(9));
    server.thaw();
    let last = format!("+{}:{}", NAMES - 1, "x".repeat((NAMES - 1) % 200));
    let seen = source.until(&last);
    assert_eq!(seen[..2], ["Down", "Up"]);
    assert_eq!(seen.len(), 2 + NAMES, "an outage");
    assert_eq!(source.status.reconnects(), 0);
    publish(&mut server.client(), "a", "1");
    assert_eq!(source.next_short(), "a: 1");
}

/// The link is dead and the server is not: a second connection shows that.
#[test]
fn a_dead_link_to_a_server_that_answers_is_left() {
    let server = RedisServer::start();
    let link = SwallowingLink::to(server.port());
    let url = format!("redis://127.0.0.1:{}", link.port);
    let source = run_with(&url, &[Subscription::channel("a")]);
    link.swallow(true);
    let since = Instant::now();
    eventually("the ping is swallowed", || {
        since.elapsed() > Duration::from_millis(1_500)
    });
    link.swallow(false);
    assert_eq!(
        source.until("CaughtUp"),
        ["Down", "Gap", "+a", "Up", "CaughtUp"]
    );
    assert!(since.elapsed() < patient(Duration::from_secs(7)));
    publish(&mut server.client(), "a", "through");
    assert_eq!(source.next_short(), "a: through");
}

#[test]
fn a_frozen_server_is_noticed_and_recovered_from() {
    let server = RedisServer::start();
    let source = impatient(&server.url());
    server.freeze();
    let frozen = Instant::now();
    let fault = source.fault();
    assert!(fault.contains("has not answered"), "{fault}");
    assert!(
        frozen.elapsed() < patient(Duration::from_secs(6)),
        "{:?}",
        frozen.elapsed()
    );
    assert!(!source.status.connected());
    assert_eq!(source.next_short(), "Gap");
    // Its kernel still accepts, so each attempt has to give up by itself.
    source.nothing_comes_for(Duration::from_secs(5).saturating_sub(frozen.elapsed()));
    server.thaw();
    let thawed = Instant::now();
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    assert!(
        thawed.elapsed() < patient(Duration::from_secs(5)),
        "{:?}",
        thawed.elapsed()
    );
    let mut client = server.client();
    eventually("the dead connection is gone", || {
        subscribers(&mut client, "a") == 1
    });
    publish(&mut client, "a", "1");
    assert_eq!(source.next_short(), "a: 1");
    source.nothing_comes_for(Duration::from_millis(300));
}

#[test]
fn a_server_that_is_busy_is_asked_until_it_is_not() {
    let server = RedisServer::start_with("lua-time-limit 50");
    let source = run_with(&server.url(), &[]);
    let mut busy = server.client();
    let script = thread::spawn(move || {
        let mut command = redis::cmd("EVAL");
        command.arg("while true do end").arg(0);
        command.query::<()>(&mut busy).expect_err("killed")
    });
    let mut client = server.client();
    eventually("it is busy", || {
        let pinged = redis::cmd("PING").query::<String>(&mut client);
        pinged.is_err_and(|e| e.to_string().contains("BUSY"))
    });
    source.interest.subscribe(Subscription::channel("a"));
    let fault = source.fault();
    assert!(
        fault.contains("SUBSCRIBE") && fault.contains("BUSY"),
        "{fault}"
    );
    source.nothing_comes_for(Duration::from_secs(1));
    let mut command = redis::cmd("SCRIPT");
    command
        .arg("KILL")
        .query::<()>(&mut client)
        .expect("killed");
    script.join().expect("the script ends");
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    assert_eq!(source.status.refused(), 0);
}

#[test]
fn a_quiet_server_is_left_alone() {
    let server = RedisServer::start();
    let mut settings = settings(&server.url());
    (
        settings.times.ping_interval_ms,
        settings.times.ping_timeout_ms,
    ) = (50, 5_000);
    let source = run(settings);
    // Pings are answered in two ways, with and without a subscription.
    source.until("CaughtUp");
    source.nothing_comes_for(Duration::from_millis(500));
    source.interest.subscribe(Subscription::channel("a"));
    source.until("+a");
    source.nothing_comes_for(Duration::from_millis(500));
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn a_link_that_swallows_everything_is_given_up() {
    let server = RedisServer::start();
    let link = SwallowingLink::to(server.port());
    let url = format!("redis://127.0.0.1:{}", link.port);
    let source = impatient(&url);
    link.swallow(true);
    let fault = source.fault();
    assert!(fault.contains("has not answered"), "{fault}");
    assert_eq!(source.next_short(), "Gap");
    source.nothing_comes_for(Duration::from_secs(1));
    link.swallow(false);
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    publish(&mut server.client(), "a", "through");
    assert_eq!(source.next_short(), "a: through");
}

/// A wish is answered by the news of the outage when the link is lost under it.
#[test]
fn a_wish_on_a_dying_link_is_answered_by_the_outage() {
    let server = RedisServer::start();
    let link = SwallowingLink::to(server.port());
    let url = format!("redis://127.0.0.1:{}", link.port);
    let mut settings = settings(&url);
    settings.times.silence_max_ms = 4_000;
    let source = run(settings);
    source.until("CaughtUp");
    link.swallow(true);
    source.interest.subscribe(Subscription::channel("a"));
    assert_eq!(source.until("Gap"), ["Down", "Gap"]);
    link.swallow(false);
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
}

/// Messages that come do not show that the commands of this side arrive.
#[test]
fn a_link_that_carries_messages_and_no_commands_is_left() {
    let server = RedisServer::start();
    let link = LinkProxy::to(("127.0.0.1", server.port()));
    let source = impatient(&link.url().replace("nats:", "redis:"));
    link.make_one_way();
    source.interest.subscribe(Subscription::channel("b"));
    let mut client = server.client();
    let told = loop {
        publish(&mut client, "a", "1");
        match source.next_short() {
            message if message == "a: 1" => thread::sleep(Duration::from_millis(100)),
            other => break other,
        }
    };
    assert_eq!(told, "Gap");
    let fault = source.fault();
    assert!(
        fault.contains("has not confirmed a subscription"),
        "{fault}"
    );
    let mut back = source.until("CaughtUp");
    back.sort();
    assert_eq!(back, ["+a", "+b", "CaughtUp", "Up"]);
}

/// What came on names that stood already is followed by a loss like any other.
#[test]
fn a_link_lost_while_names_are_restored_is_a_gap() {
    const NAMES: usize = 1_000;
    let server = RedisServer::start();
    // About half of the confirmations.
    let link = CuttingLink::to(server.port(), 30_000);
    let url = format!("redis://127.0.0.1:{}", link.port);
    let status = Arc::new(BusStatus::new(&[], 1));
    let (source, interest) =
        RedisSource::new(settings(&url), Arc::clone(&status)).expect("a source");
    for n in 0..NAMES {
        interest.subscribe(Subscription::channel(format!("channel:{n:06}")));
    }
    let (sender, events) = bounded(100 * NAMES);
    let link_to_loop = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let running = Running {
        interest,
        events,
        status,
        thread: thread::spawn(move || Box::new(source).run(link_to_loop)),
    };
    let stood = running.until("Gap").len() - 1;
    assert!((1..NAMES).contains(&stood), "{stood} names stood");
    assert_eq!(running.next_short(), "Down");
    let stood = running.until("Gap").len() - 1;
    assert!((1..NAMES).contains(&stood), "{stood} names stood again");
    link.heal();
    let seen = running.until("CaughtUp");
    assert!(seen.contains(&"Up".to_owned()) && !seen.contains(&"Down".to_owned()));
}

#[test]
fn a_loop_that_is_too_slow_is_cut_off_and_told() {
    let server = RedisServer::start_with("client-output-buffer-limit pubsub 1mb 1mb 1");
    let source = run_with_room(settings(&server.url()), 8);
    source.until("CaughtUp");
    source.interest.subscribe(Subscription::channel("a"));
    source.until("+a");
    let mut client = server.client();
    // Nobody takes what comes: the channel is full, then the sockets, then Redis's buffer for us.
    let payload = vec![b'x'; 100_000];
    eventually("it was cut off", || {
        publish(&mut client, "a", &payload) == 0
    });
    let seen = source.until("CaughtUp");
    let messages = seen.iter().take_while(|s| s.starts_with("a: ")).count();
    assert_eq!(seen[messages..], ["Gap", "Down", "+a", "Up", "CaughtUp"]);
    publish(&mut client, "a", "again");
    assert_eq!(source.next_short(), "a: again");
}

#[test]
fn what_is_no_redis_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"220 mail.example ESMTP\r\n"));
        }
    });
    let source = run(settings(&format!("redis://127.0.0.1:{port}")));
    let fault = source.fault();
    assert!(fault.contains("not the Redis protocol"), "{fault}");
}

/// A source that holds `a`, and gives up a silent server after 4 s.
fn impatient(url: &str) -> Running {
    let mut settings = settings(url);
    settings.times.silence_max_ms = 4_000;
    let source = run(settings);
    source.until("CaughtUp");
    source.interest.subscribe(Subscription::channel("a"));
    source.until("+a");
    source
}

/// A TCP proxy that ends each connection after so many bytes of the server.
struct CuttingLink {
    port: u16,
    bytes_max: Arc<AtomicUsize>,
}

impl CuttingLink {
    fn to(server: u16, bytes_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let bytes_max = Arc::new(AtomicUsize::new(bytes_max));
        let max = Arc::clone(&bytes_max);
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", server)).expect("the server");
                let mut commands = client.try_clone().expect("a clone");
                let mut to_server = server.try_clone().expect("a clone");
                thread::spawn(move || std::io::copy(&mut commands, &mut to_server));
                let bytes_max = max.load(Ordering::SeqCst) as u64;
                thread::spawn(move || {
                    let _ = std::io::copy(&mut (&server).take(bytes_max), &mut client);
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, bytes_max }
    }

    /// New connections last.
    fn heal(&self) {
        self.bytes_max.store(usize::MAX, Ordering::SeqCst);
    }
}

/// A TCP proxy that can fall silent both ways without closing anything.
struct SwallowingLink {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl SwallowingLink {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let swallows = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&swallows);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let from = from.try_clone().expect("a clone");
                    let to = to.try_clone().expect("a clone");
                    let flag = Arc::clone(&flag);
                    thread::spawn(move || forward(from, to, &flag));
                }
            }
        });
        Self { port, swallows }
    }

    fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::SeqCst);
    }
}

/// What was swallowed once never comes: such a connection stays silent.
fn forward(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    let mut is_dead = false;
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        is_dead |= swallows.load(Ordering::SeqCst);
        if !is_dead && to.write_all(&buffer[..bytes]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
