//! Subscriptions that change while the source runs, and what comes through them.

use super::*;

/// The most bytes of the name of a message.
const NAME_BYTES_MAX: usize = 4 * 1024;

#[test]
fn what_is_published_after_a_confirmation_comes() {
    let server = RedisServer::start();
    let source = run(settings(&server.url()));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    assert!(source.status.subscribed() && source.status.away_ms(Now::default()).is_none());
    let mut client = server.client();
    // Each name is published to by a test that has just read its confirmation.
    for n in 0..200 {
        let name = format!("channel:{n}");
        source.interest.subscribe(Subscription::channel(&*name));
        assert_eq!(source.next_short(), format!("+{name}"));
        assert_eq!(publish(&mut client, &name, "x"), 1);
        assert_eq!(source.next_short(), format!("{name}: x"));
    }
    assert_eq!(channels(&mut client), 200);
}

/// Other instances on the same Redis may keep a feed.
#[test]
fn marks_are_not_relayed_without_a_kept_feed_either() {
    let server = RedisServer::start();
    let source = run_made(settings(&server.url()), 100, |source| {
        source
            .with_marks("app:marks".to_owned(), None)
            .expect("no thread")
    });
    source.until("CaughtUp");
    let subscribed = [
        Subscription::pattern("app:*"),
        Subscription::channel("app:marks"),
    ];
    for subscription in subscribed {
        source.interest.subscribe(subscription.clone());
        assert_eq!(source.next_short(), format!("+{}", subscription.name));
    }
    let mut client = server.client();
    for name in ["app:marks", "app:mark", "app:marks:1"] {
        publish(&mut client, name, "000000000001.1");
    }
    let texts = ["app:mark", "app:marks:1"].map(|name| format!("{name} (app:*): 000000000001.1"));
    assert_eq!([source.next_short(), source.next_short()], texts);
}

#[test]
fn wishes_before_the_start_and_of_both_kinds_stand_when_it_is_up() {
    let server = RedisServer::start();
    let status = Arc::new(BusStatus::new(&[], 1));
    let (source, interest) = RedisSource::new(settings(&server.url()), status).expect("a source");
    interest.subscribe(Subscription::pattern("channel:trade:*"));
    interest
        .clone()
        .subscribe(Subscription::channel("channel:trade:A"));
    let (sender, events) = bounded(100);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    thread::spawn(move || Box::new(source).run(link));
    let next = || short(&events.recv_timeout(PATIENCE).expect("an event"));
    let mut confirmed = [next(), next()];
    confirmed.sort();
    assert_eq!(confirmed, ["+channel:trade:*", "+channel:trade:A"]);
    assert_eq!([next(), next()], ["Up", "CaughtUp"]);
    // Redis sends the exact one first.
    publish(&mut server.client(), "channel:trade:A", "1");
    assert_eq!(next(), "channel:trade:A: 1");
    assert_eq!(next(), "channel:trade:A (channel:trade:*): 1");
}

#[test]
fn names_that_stand_are_confirmed_again_and_names_that_left_are_silent() {
    let server = RedisServer::start();
    let (a, b) = (Subscription::channel("a"), Subscription::channel("b"));
    let source = run_with(&server.url(), &[a.clone(), b.clone()]);
    let mut client = server.client();
    source.interest.subscribe(a.clone());
    assert_eq!(source.next_short(), "+a");
    source.interest.unsubscribe(a.clone());
    eventually("a left Redis", || subscribers(&mut client, "a") == 0);
    assert_eq!(publish(&mut client, "a", "lost"), 0);
    publish(&mut client, "b", "kept");
    assert_eq!(source.next_short(), "b: kept");
    // A change of mind that nobody but the source saw.
    source.interest.unsubscribe(b.clone());
    source.interest.subscribe(b);
    assert_eq!(source.next_short(), "+b");
    publish(&mut client, "b", "still");
    assert_eq!(source.next_short(), "b: still");
    // Never subscribed: nothing happens.
    source.interest.unsubscribe(Subscription::pattern("never"));
    source.interest.subscribe(a);
    assert_eq!(source.next_short(), "+a");
}

#[test]
fn quick_changes_of_mind_end_in_the_last_one() {
    let server = RedisServer::start();
    let source = run_with(&server.url(), &[]);
    let mut client = server.client();
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for round in 0..41 {
        for (at, name) in names.iter().enumerate() {
            let subscription = Subscription::channel(&**name);
            match (round + at) % 2 {
                0 => source.interest.subscribe(subscription),
                _ => source.interest.unsubscribe(subscription),
            }
        }
    }
    // The last round leaves the even ones.
    eventually("only the even ones stand", || {
        let is_even = |name: &String| name.parse::<u32>().is_ok_and(|n| n % 2 == 0);
        let all = |c: &mut redis::Connection| {
            names
                .iter()
                .all(|n| subscribers(c, n) == usize::from(is_even(n)))
        };
        all(&mut client)
    });
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn a_burst_comes_whole_and_in_order_over_all_channels() {
    const MESSAGES: usize = 50_000;
    let server = RedisServer::start();
    let names = ["a", "b", "c"];
    let mut wanted: Vec<_> = names.iter().map(|&n| Subscription::channel(n)).collect();
    wanted.push(Subscription::pattern("d*"));
    let source = run_with(&server.url(), &wanted);
    let mut client = server.client();
    let publisher = thread::spawn(move || {
        for first in (0..MESSAGES).step_by(1_000) {
            let mut batch = redis::pipe();
            for n in first..first + 1_000 {
                let channel = ["a", "b", "c", "d1"][n % 4];
                let payload = format!("{n:0200}");
                batch.cmd("PUBLISH").arg(channel).arg(payload).ignore();
            }
            batch.query::<()>(&mut client).expect("published");
        }
    });
    let from = Instant::now();
    for n in 0..MESSAGES {
        let message = source.next_message();
        assert_eq!(&*message.subject, ["a", "b", "c", "d1"][n % 4]);
        assert_eq!(message.payload, format!("{n:0200}").into_bytes());
    }
    let took = from.elapsed();
    println!("{MESSAGES} messages of 200 bytes in {took:?}");
    publisher.join().expect("the publisher ends");
}

#[test]
fn payloads_of_any_bytes_and_any_size_stop_nothing() {
    let server = RedisServer::start();
    let mut settings = settings(&server.url());
    settings.payload_bytes_max = 1_000_000;
    let source = run(settings);
    source.until("CaughtUp");
    source.interest.subscribe(Subscription::pattern("*"));
    source.until("+*");
    let mut client = server.client();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let payloads = [
        Vec::new(),
        all_bytes.clone(),
        b"\r\n$5\r\n*3\r\n-ERR no\r\n".to_vec(),
        b"{\"half\":".to_vec(),
        vec![b'x'; 1_000_000],
    ];
    for payload in &payloads {
        publish(&mut client, "x", payload);
        let message = source.next_message();
        assert!(&message.payload == payload && &*message.subject == "x");
        assert_eq!(message.pattern.as_deref(), Some("*"));
    }
    // Of a longer one comes the beginning, one byte too long for any feed. (Redis itself cuts a
    // subscriber off for one of 32 MiB.)
    publish(&mut client, "x", vec![b'y'; 20_000_000]);
    assert!(source.next_message().payload == vec![b'y'; 1_000_001]);
    // A channel whose name is no text, and those whose names are too long.
    let mut command = redis::cmd("PUBLISH");
    command.arg(&[b'c', 0xff][..]).arg("named");
    command.query::<()>(&mut client).expect("published");
    assert_eq!(source.next_short(), "-*", "it is told");
    for bytes in [NAME_BYTES_MAX + 1, 500_000, 1_000_001] {
        publish(&mut client, &"n".repeat(bytes), "skipped");
        assert_eq!(source.next_short(), "-*", "it is told");
    }
    let long = "n".repeat(NAME_BYTES_MAX);
    for name in [&long, "after"] {
        publish(&mut client, name, "all");
        assert_eq!(source.next_short(), format!("{name} (*): all"));
    }
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn names_of_any_bytes_can_be_subscribed_to() {
    let server = RedisServer::start();
    let source = run_with(&server.url(), &[]);
    let mut client = server.client();
    let long = "long".repeat(50_000);
    for name in ["", " ", "a\r\nb", "ключ", "*", "[x", &long] {
        source.interest.subscribe(Subscription::channel(name));
        assert_eq!(source.next_short(), format!("+{name}"));
        publish(&mut client, name, "1");
        assert_eq!(source.next_short(), format!("{name}: 1"));
    }
}

#[test]
fn the_source_ends_when_the_loop_is_gone() {
    let server = RedisServer::start();
    let source = run_with(&server.url(), &[Subscription::channel("a")]);
    drop(source.events);
    publish(&mut server.client(), "a", "to nobody");
    source.thread.join().expect("the source ends");
}

/// Who has asked anew can tell which request an answer is for.
#[test]
fn an_answer_brings_the_number_of_the_newest_request() {
    let server = RedisServer::start_with("user weirgate on >pw resetchannels &a +@all");
    let source = run_with(&server.url_as("weirgate:pw"), &[]);
    let (a, forbidden) = (Subscription::channel("a"), Subscription::channel("b"));
    let answer = || match source.next() {
        BusEvent::Subscribed { number, .. } => (true, number),
        BusEvent::Refused { number, .. } => (false, number),
        other => panic!("{other:?}"),
    };
    for number in [1, 5, 9] {
        source.interest.subscribe_numbered(a.clone(), number);
        assert_eq!(answer(), (true, number));
        source.interest.subscribe_numbered(a.clone(), number + 1);
        assert_eq!(answer(), (true, number + 1), "it stands");
        source.interest.unsubscribe(a.clone());
    }
    source.interest.subscribe_numbered(forbidden.clone(), 20);
    assert_eq!(answer(), (false, 20));
    source.interest.unsubscribe(forbidden.clone());
    source.interest.subscribe_numbered(forbidden, 22);
    assert_eq!(answer(), (false, 22));
}
