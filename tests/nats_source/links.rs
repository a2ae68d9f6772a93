//! Links that die without a word, and lists of servers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use nats::jetstream::ConsumerConfig;

use super::silence::through;
use super::*;
use weirgate_test_support::LinkProxy;

fn streams_consumers(js: &JetStream) -> usize {
    let stream = js.stream_info("LEVEL_SIGNALS").expect("the stream");
    stream.state.consumer_count
}

fn expect_in_order(source: &Running, numbers: std::ops::Range<usize>) {
    for n in numbers {
        assert_eq!(source.next_message().payload, n.to_string().into_bytes());
    }
}

/// A source behind the link that has relayed messages 0, 1 and 2 and has acknowledged them.
fn relaying_over(link: &LinkProxy, server: &NatsServer) -> (Running, JetStream) {
    let source = run(settings(&link.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..3);
    expect_in_order(&source, 0..3);
    eventually("all is acknowledged", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|i| i.num_ack_pending == 0)
    });
    (source, js)
}

#[test]
fn a_black_holed_link_is_left_for_a_new_one() {
    let server = NatsServer::start();
    let link = LinkProxy::to(server.address());
    let (source, js) = relaying_over(&link, &server);
    link.black_hole();
    let holed = Instant::now();
    publish(&js, LEVELS, 3..5);
    assert_eq!(source.until("Down"), ["Down"]);
    assert!(
        holed.elapsed() < patient(Duration::from_secs(6)),
        "{holed:?}"
    );
    assert!(!source.status.connected());
    // Attempts on a link that accepts and says nothing change nothing.
    source.nothing_comes_for(Duration::from_secs(2));

    link.let_new_ones_through();
    let seen = source.until_but_up("levels 4");
    assert_eq!(seen, ["levels 3", "levels 4"]);
    // To the server the old connection looks well, so the durable looks bound.
    eventually("an unnamed consumer brings the messages", || {
        streams_consumers(&js) == 2
    });
    publish(&js, LEVELS, 5..8);
    assert_eq!(source.until_but_up("levels 7").len(), 3);

    link.end_dead_ones();
    eventually("the durable is taken over", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        streams_consumers(&js) == 1 && info.is_ok_and(|i| i.push_bound && i.num_ack_pending == 0)
    });
    publish(&js, LEVELS, 8..20);
    expect_in_order(&source, 8..20);
    assert_eq!(source.status.reconnects(), 1);
}

#[test]
fn a_lost_connection_is_made_again() {
    let server = NatsServer::start();
    let link = LinkProxy::to(server.address());
    let (source, js) = relaying_over(&link, &server);
    link.end_one(0);
    assert_eq!(source.until("Down"), ["Down"]);
    source.until("CaughtUp");
    publish(&js, LEVELS, 3..6);
    expect_in_order(&source, 3..6);
}

#[test]
fn a_silence_of_the_connection_is_told() {
    let server = NatsServer::start();
    let link = LinkProxy::to(server.address());
    let (source, js) = relaying_over(&link, &server);
    let silent = Instant::now();
    link.black_hole_one(0);
    eventually("the silence is told", || !source.status.connected());
    // Another connection is answered, so this one is left.
    assert_eq!(source.until("Down"), ["Down"]);
    assert!(
        silent.elapsed() < patient(Duration::from_secs(6)),
        "{silent:?}"
    );
    source.until("CaughtUp");
    publish(&js, LEVELS, 3..6);
    expect_in_order(&source, 3..6);
}

#[test]
fn what_was_pushed_into_a_dead_link_comes_again_at_once() {
    let server = NatsServer::start();
    let link = LinkProxy::to(server.address());
    let (source, js) = relaying_over(&link, &server);
    link.black_hole();
    publish(&js, LEVELS, 3..30);
    assert_eq!(source.until("Down"), ["Down"]);
    let info = || js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
    assert_eq!(info().expect("the durable").num_ack_pending, 27);
    link.end_dead_ones();
    eventually("the durable is free", || {
        info().is_ok_and(|i| !i.push_bound)
    });
    link.let_new_ones_through();
    // More than a few: a backlog, so it comes quietly and the newest state comes first.
    let warm = ["levels 29 quiet", "WarmedUp", "Up"];
    let mut want = warm.map(str::to_owned).to_vec();
    want.extend((3..30).map(|n| format!("levels {n} quiet")));
    want.push("CaughtUp".to_owned());
    assert_eq!(source.until("CaughtUp"), want);
}

#[test]
fn servers_that_are_dead_or_silent_are_passed_by() {
    let server = NatsServer::start();
    let nobody = NatsServer::reserve("");
    let silent = LinkProxy::to(server.address());
    silent.black_hole();
    let urls = format!(
        "nats://no.such.host.invalid:4222, {},{},{}",
        nobody.url(),
        silent.url(),
        server.url()
    );
    let source = run(settings(&urls));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
}

/// A server that leads to the streams of another one, as the nodes of a cluster do.
fn leaf_of(hub_port: u16) -> NatsServer {
    NatsServer::start_without_jetstream(&format!(
        "leafnodes {{ remotes: [{{ url: \"nats://127.0.0.1:{hub_port}\" }}], reconnect: 1 }}\n\
         default_js_domain {{ \"$G\": hub }}"
    ))
}

#[test]
fn the_next_server_of_the_list_goes_on_with_the_same_streams() {
    let leaf_port = NatsServer::reserve("").address().1;
    let hub = NatsServer::start_with(&format!(
        "jetstream {{ domain: hub }}\nleafnodes {{ listen: \"127.0.0.1:{leaf_port}\" }}"
    ));
    let [mut first, mut second] = [leaf_of(leaf_port), leaf_of(leaf_port)];
    for leaf in [&first, &second] {
        let js = jetstream(&leaf.url());
        eventually("the streams can be seen through it", || {
            js.account_info().is_ok()
        });
    }
    let source = run(settings(&format!("{},{}", first.url(), second.url())));
    source.until("CaughtUp");
    let js = jetstream(&hub.url());
    let mut published = 0;
    let mut some = |count| {
        publish(&js, LEVELS, published..published + count);
        published += count;
    };
    some(3);
    expect_in_order(&source, 0..3);
    for (dies, at) in [(&mut first, 3), (&mut second, 6)] {
        dies.kill();
        source.until("Down");
        some(3);
        let seen = source.until_but_up(&format!("levels {}", at + 2));
        let want: Vec<String> = (at..at + 3).map(|n| format!("levels {n}")).collect();
        assert_eq!(seen, want);
        dies.restart();
    }
    some(1);
    assert_eq!(source.until_but_up("levels 9"), ["levels 9"]);
}

#[test]
fn a_server_with_other_streams_of_the_same_names_counts_as_news() {
    let mut first = NatsServer::start();
    let second = NatsServer::start();
    let source = run(settings(&format!("{},{}", first.url(), second.url())));
    source.until("CaughtUp");
    publish(&jetstream(&first.url()), LEVELS, 0..5);
    expect_in_order(&source, 0..5);
    first.kill();
    source.until("Down");
    let js = jetstream(&second.url());
    eventually("the streams are made there", || {
        js.publish(LEVELS, "5").is_ok()
    });
    assert_eq!(source.until_but_up("levels 5"), ["levels 5"]);
}

#[test]
fn of_sources_that_start_at_once_one_has_the_durable() {
    for left_behind in [true, false, true, false, true, true] {
        let server = NatsServer::start();
        let js = jetstream(&server.url());
        make_streams(&js);
        if left_behind {
            // by another client, which made up the subject
            let config = ConsumerConfig {
                durable_name: Some("gateway_levels".into()),
                deliver_subject: Some("_INBOX.of.another".into()),
                filter_subject: LEVELS.into(),
                ..ConsumerConfig::default()
            };
            js.add_consumer("LEVEL_SIGNALS", config).expect("a durable");
        }
        let sources = [(); 4].map(|()| run(settings(&server.url())));
        for source in &sources {
            source.until("CaughtUp");
        }
        // The others read from consumers of their own.
        assert_eq!(streams_consumers(&js), sources.len());
        publish(&js, LEVELS, 0..10);
        for source in &sources {
            expect_in_order(source, 0..10);
        }
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        let info = info.expect("the durable");
        assert!(
            info.push_bound && info.delivered.consumer_seq == 10,
            "{info:?}"
        );
    }
}

/// The message that would follow this one, as the consumer would deliver it.
fn following(message: &str) -> String {
    let head = message.lines().next().expect("a line");
    let [_, subject, sid, reply, _] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{head}");
    };
    let mut fields: Vec<String> = reply.split('.').map(str::to_owned).collect();
    // From 2.10 on domain and account may come first.
    let sequences = if fields.len() == 9 { 5..7 } else { 7..9 };
    for field in &mut fields[sequences] {
        *field = (field.parse::<u64>().expect("a sequence") + 1).to_string();
    }
    format!("MSG {subject} {sid} {} 1\r\n9\r\n", fields.join("."))
}

#[test]
fn a_server_that_breaks_the_protocol_is_left_and_what_came_before_is_relayed() {
    let server = NatsServer::start();
    let breaks = Arc::new(AtomicBool::new(false));
    let is_due = Arc::clone(&breaks);
    let down = move |bytes: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(bytes);
        // On a busy machine one read has other operations too.
        let mut lines = text.lines();
        let message = lines.find(|line| line.starts_with("MSG ") && line.contains("$JS.ACK"));
        if let Some(message) = message
            && is_due.swap(false, SeqCst)
        {
            let following = following(message);
            bytes.extend(b"WHAT IS THIS\r\n");
            bytes.extend(following.as_bytes());
        }
    };
    let source = run(settings(&through(&server, |_| {}, down)));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    breaks.store(true, SeqCst);
    publish(&js, FLOW, 0..1);
    assert_eq!(source.until("Down"), ["flow 0", "Down"]);
    publish(&js, FLOW, 1..3);
    assert_eq!(source.until_but_up("flow 2").last().unwrap(), "flow 2");
}

#[test]
fn a_stop_with_messages_that_were_read_and_not_relayed_settles_the_others() {
    let mut server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    let (sender, events) = bounded(4_096);
    let (events, handed) = (Mutex::new(Some(events)), AtomicUsize::new(0));
    let wake = move || match handed.fetch_add(1, SeqCst) {
        // What comes meanwhile is in one read.
        3 => thread::sleep(Duration::from_millis(300)),
        6 => *events.lock().unwrap() = None,
        _ => {}
    };
    let status = Arc::new(BusStatus::new(
        &[("gateway_levels", LEVELS), ("gateway_flow", FLOW)],
        1,
    ));
    let source = Box::new(NatsSource::new(settings(&server.url()), status));
    let link = SourceLink::new(sender, Box::new(wake), Clock::start());
    let thread = thread::spawn(move || source.run(link));
    eventually("the source reads", || {
        js.consumer_info("MARKET_DATA", "gateway_flow").is_ok()
    });
    publish(&js, FLOW, 0..50);
    thread.join().expect("the source ends");
    let info = js
        .consumer_info("MARKET_DATA", "gateway_flow")
        .expect("the durable");
    // Up, CaughtUp, and five messages were handed over.
    assert_eq!(info.ack_floor.stream_seq, 5);
    server.shut_down();
}
