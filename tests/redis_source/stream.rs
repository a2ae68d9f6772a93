//! A stream in place of channels: slow links, trims, and users with few rights.

use std::collections::BTreeSet;

use redis::ConnectionLike;
use weirgate_bus::StreamSettings;
use weirgate_bus::redis::{RedisNeeds, RedisStreamSource};
use weirgate_core::TopicName;
use weirgate_test_support::LinkProxy;
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::Finding;

use super::*;

pub(super) const KEY: &str = "ticks";

pub(super) fn source(settings: RedisSettings, status: &Arc<BusStatus>) -> RedisStreamSource {
    let stream = StreamSettings {
        name: KEY.to_owned(),
        history_ms: 60_000,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 64 * 1024 * 1024,
        only: None,
    };
    RedisStreamSource::new(settings, stream, Arc::clone(status)).expect("a source")
}

pub(super) fn run(source: impl Source + 'static) -> Receiver<BusEvent> {
    let (sender, events) = bounded(4_096);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    thread::spawn(move || Box::new(source).run(link));
    events
}

pub(super) fn read(settings: RedisSettings) -> (Receiver<BusEvent>, Arc<BusStatus>) {
    let status = Arc::new(BusStatus::new(&[], 1));
    let source = source(settings, &status);
    (run(source), status)
}

/// The events up to the n-th message.
pub(super) fn until(events: &Receiver<BusEvent>, messages: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut came = 0;
    while came < messages {
        let event = soon(events).expect("a message");
        came += usize::from(matches!(event, BusEvent::Message(_)));
        seen.push(short(&event));
    }
    seen
}

pub(super) fn add(client: &mut redis::Connection, trim: &[&str], data: impl AsRef<[u8]>) {
    let mut command = redis::cmd("XADD");
    command.arg(KEY).arg(trim).arg("*").arg("channel").arg("a");
    let id: String = command
        .arg("data")
        .arg(data.as_ref())
        .query(client)
        .expect("an id");
    assert!(!id.is_empty());
}

#[test]
fn a_large_answer_over_a_thin_line_is_no_silence() {
    let server = RedisServer::start();
    let mut client = server.client();
    // Two seconds of bytes for a patience of one.
    (0..30).for_each(|_| add(&mut client, &[], [b'1'; 100_000]));
    let link = LinkProxy::to(("127.0.0.1", server.port()));
    link.slow();
    let mut settings = settings(&link.url().replace("nats", "redis"));
    settings.times.ping_timeout_ms = 1;
    let (events, status) = read(settings);
    let seen = until(&events, 30);
    assert!(
        seen.iter().all(|event| event.starts_with("a: ")),
        "{seen:?}"
    );
    assert_eq!(status.reconnects(), 0);
}

/// Adds an entry with so many fields that do not count, before and behind these `fields`.
fn add_amid(client: &mut redis::Connection, others: usize, fields: &[&str]) {
    let half = "$1\r\no\r\n$1\r\n1\r\n".repeat(others / 2);
    let parts = 3 + others / 2 * 4 + fields.len();
    let mut command = format!("*{parts}\r\n$4\r\nXADD\r\n$5\r\n{KEY}\r\n$1\r\n*\r\n{half}");
    for part in fields {
        command += &format!("${}\r\n{part}\r\n", part.len());
    }
    command += &half;
    let answer = client.req_packed_command(command.as_bytes());
    assert!(
        matches!(answer, Ok(redis::Value::BulkString(_))),
        "{answer:?}"
    );
}

#[test]
fn an_entry_with_very_many_fields_is_a_message_and_the_next_ones_come() {
    const FIELDS: usize = 530_000;
    let server = RedisServer::start();
    let mut client = server.client();
    add_amid(&mut client, 3_000, &["channel", "a"]);
    let needs = RedisNeeds {
        stream: Some(KEY.to_owned()),
        ..RedisNeeds::default()
    };
    let found = needs.check(&settings(&server.url()), PATIENCE);
    let good = Finding::Good(format!("may read the stream {KEY}"));
    assert!(found.contains(&good), "{found:?}");
    // The newest one at the start.
    add_amid(&mut client, FIELDS, &["channel", "a", "data", "0"]);
    let (events, status) = read(settings(&server.url()));
    assert_eq!(until(&events, 1), ["-", "a: 0"]);
    // While the source waits.
    add_amid(&mut client, FIELDS, &["channel", "a", "data", "1"]);
    add(&mut client, &[], "2");
    assert_eq!(until(&events, 2), ["Up", "CaughtUp", "a: 1", "a: 2"]);
    assert_eq!(status.reconnects(), 0);
}

#[test]
fn what_was_trimmed_after_it_was_read_is_no_loss_if_the_user_may_count() {
    let server = RedisServer::start();
    let mut client = server.client();
    let rights = "resetchannels -@all +ping +xread +xrange +xrevrange ~ticks";
    for (user, more, is_lost) in [
        ("few", "", true),
        ("scripts", "+eval_ro", true),
        ("counters", "+eval_ro +xinfo|stream", true),
        ("all", "+eval_ro +xinfo|stream +info", false),
    ] {
        let () = redis::cmd("DEL").arg(KEY).query(&mut client).expect("gone");
        let words: Vec<_> = rights
            .split(' ')
            .chain(more.split_terminator(' '))
            .collect();
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER").arg(user).arg("on").arg(">p").arg(words);
        let () = acl.query(&mut client).expect("a user");
        add(&mut client, &[], "0");
        let (events, status) = read(settings(&server.url_as(&format!("{user}:p"))));
        until(&events, 1);
        assert!(matches!(soon(&events), Some(BusEvent::Up)));
        // Each one trims all before, which was read.
        let mut seen = Vec::new();
        for n in 1..4 {
            add(&mut client, &["MAXLEN", "1"], n.to_string());
            seen.extend(until(&events, 1));
        }
        assert_eq!(seen.contains(&"Gap".to_owned()), is_lost, "{user} {seen:?}");
        let came: Vec<_> = seen
            .iter()
            .filter(|event| event.starts_with("a: "))
            .collect();
        assert_eq!(came, ["a: 1", "a: 2", "a: 3"], "{user}");
        assert_eq!(status.stream_behind(), Some((Some(0), 0)));
    }
}

/// A young stream is made anew by a transaction, or between two looks, and trimmed by as many entries as it ever had: its
/// counters are those of a stream of which everything was read.
#[test]
fn a_young_stream_made_anew_is_a_loss_though_as_many_entries_are_gone_as_were_read() {
    for had in [1, 5] {
        let server = RedisServer::start();
        let mut client = server.client();
        let (events, _) = read(settings(&server.url_as("")));
        assert!(matches!(soon(&events), Some(BusEvent::Up)));
        for n in 0..had {
            add(&mut client, &["MAXLEN", "1"], n.to_string());
            let seen = until(&events, 1);
            assert!(!seen.contains(&"Gap".to_owned()), "{seen:?}");
        }
        let mut anew = redis::pipe();
        anew.atomic().cmd("DEL").arg(KEY).ignore();
        for n in 0..=had {
            anew.cmd("XADD")
                .arg(KEY)
                .arg(&["MAXLEN", "1", "*", "channel", "a", "data"]);
            anew.arg(format!("new {n}")).ignore();
        }
        let () = anew.query(&mut client).expect("made anew");
        let seen = until(&events, 1);
        assert!(seen.contains(&"Gap".to_owned()), "{had} {seen:?}");
        assert_eq!(seen.last(), Some(&format!("a: new {had}")));
    }
}

/// Without an entry that was read there is nothing to compare. But the server counts the commands that add entries.
#[test]
fn a_reconnection_to_a_stream_that_was_always_empty_is_no_loss() {
    let server = RedisServer::start();
    let mut client = server.client();
    let rights = "resetchannels -@all +ping +info +xread +xrange +xrevrange ~ticks";
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("few").arg("on").arg(">p");
    acl.arg(rights.split(' ').collect::<Vec<_>>());
    let () = acl.query(&mut client).expect("a user");
    let (events, status) = read(settings(&server.url_as("few:p")));
    let up_again = |reconnects: u64| {
        eventually("it is back", || status.reconnects() == reconnects);
        let seen: Vec<_> = std::iter::from_fn(|| next_of(&events, Instant::now()))
            .map(|event| short(&event))
            .collect();
        seen.contains(&"Gap".to_owned())
    };
    eventually("it reads", || status.subscribed());
    let kill = |pipe: &mut redis::Pipeline| {
        pipe.atomic()
            .cmd("CLIENT")
            .arg("KILL")
            .arg("USER")
            .arg("few");
    };
    for reconnects in 1..3 {
        let mut pipe = redis::pipe();
        kill(&mut pipe);
        let _: Vec<i64> = pipe.query(&mut client).expect("killed");
        assert!(!up_again(reconnects), "nothing was ever added");
    }
    let mut pipe = redis::pipe();
    kill(&mut pipe);
    pipe.cmd("XADD")
        .arg(KEY)
        .arg("*")
        .arg("channel")
        .arg("a")
        .arg("data")
        .arg("0")
        .ignore();
    pipe.cmd("XTRIM").arg(KEY).arg("MAXLEN").arg("0").ignore();
    let _: Vec<i64> = pipe.query(&mut client).expect("killed");
    assert!(up_again(3), "an entry came and went");
    add(&mut client, &[], "1");
    assert_eq!(until(&events, 1).last().expect("a message"), "a: 1");
}

/// Redis ends connections with larger answers. Small entries do not show that large ones follow them.
#[test]
fn entries_are_asked_for_in_answers_that_redis_has_room_for() {
    const LARGE: usize = 200_000;
    let server = RedisServer::start();
    let mut client = server.client();
    (0..700).for_each(|_| add(&mut client, &[], "1"));
    (0..60).for_each(|_| add(&mut client, &[], [b'2'; LARGE]));
    add(&mut client, &[], "3");
    let mut limit = redis::cmd("CONFIG");
    limit.arg("SET").arg("client-output-buffer-limit");
    let () = limit.arg("normal 8mb 0 0").query(&mut client).expect("set");
    let rights = "resetchannels -@all +ping +xread +xrange +xrevrange ~ticks";
    for (user, more, may_lose) in [("few", "", true), ("all", "+eval_ro", false)] {
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER").arg(user).arg("on").arg(">p");
        acl.arg(rights.split(' ').collect::<Vec<_>>());
        acl.arg(more.split_terminator(' ').collect::<Vec<_>>());
        let () = acl.query(&mut client).expect("a user");
        let status = Arc::new(BusStatus::new(&[], 1));
        let source = source(settings(&server.url_as(&format!("{user}:p"))), &status);
        let (source, interest) = source.with_pages().expect("pages");
        let events = run(source);
        let seen = until(&events, 761);
        assert!(!seen.contains(&"Gap".to_owned()), "{user}: no loss");
        assert!(may_lose || status.reconnects() == 0, "{user}");
        // A client asks for all messages of a name, which has none.
        let names = Arc::from([TopicName::fixed("b")]);
        let who = (1, ClientAddr::Unix);
        interest.ask_all(Subscription::channel("b"), who, (Arc::default(), names));
        let end = loop {
            let event = soon(&events).expect("an end");
            if let BusEvent::RetainedEnd { .. } | BusEvent::RetainedPage { .. } = event {
                break event;
            }
        };
        assert!(
            may_lose || matches!(end, BusEvent::RetainedEnd { cut: None, .. }),
            "{end:?}"
        );
    }
}

#[test]
fn readers_that_stand_still_do_not_keep_others_from_all_messages() {
    const READERS: u64 = 80;
    let server = RedisServer::start();
    let mut client = server.client();
    // A page has half a MiB.
    (0..7).for_each(|_| add(&mut client, &[], [b'1'; 100_000]));
    let (settings, status) = (settings(&server.url()), Arc::new(BusStatus::new(&[], 1)));
    let with_pages = source(settings, &status).with_pages();
    let (source, interest) = with_pages.expect("pages");
    let events = run(source);
    // None of them asks for a second page.
    for number in 1..=READERS {
        let names = Arc::from([TopicName::fixed("a")]);
        let who = (number, ClientAddr::Unix);
        interest.ask_all(Subscription::pattern("*"), who, (Arc::default(), names));
    }
    let mut given = BTreeSet::new();
    while given.len() < READERS as usize {
        match events.recv_timeout(PATIENCE).expect("a page for each") {
            BusEvent::RetainedPage {
                number,
                is_open: true,
                ..
            } => assert!(given.insert(number), "{number}"),
            // Until the size of the entries is known, an answer may have all of them.
            BusEvent::RetainedEnd { number, .. } => assert!(given.insert(number), "{number}"),
            _ => {}
        }
    }
}

/// A client may lack a copy of the last message that it has.
#[test]
fn all_messages_after_one_begin_with_that_one_if_that_is_asked() {
    let server = RedisServer::start();
    let mut client = server.client();
    (0..4).for_each(|n| add(&mut client, &[], n.to_string()));
    let status = Arc::new(BusStatus::new(&[], 1));
    let with_pages = source(settings(&server.url()), &status).with_pages();
    let (source, interest) = with_pages.expect("pages");
    let events = run(source);
    let all = |number, from: PageCursor| {
        let names = Arc::from([TopicName::fixed("a")]);
        let who = (number, ClientAddr::Unix);
        interest.ask_all(Subscription::channel("a"), who, (Arc::new(from), names));
        let mut came = Vec::new();
        loop {
            match soon(&events).expect("an end") {
                BusEvent::LastValue { message, .. } => match message.place.position() {
                    Some(position) => came.push(position),
                    None => panic!("no position"),
                },
                BusEvent::RetainedEnd { cut, .. } => break (came, cut),
                _ => {}
            }
        }
    };
    let (whole, _) = all(1, PageCursor::default());
    let second = PageCursor::at(whole[1]);
    for (number, repeats, from) in [(2, false, 2), (3, true, 1)] {
        let after = PageCursor {
            repeats,
            ..second.clone()
        };
        assert_eq!(all(number, after), (whole[from..].to_vec(), None));
    }
    // A version without hashes has sent the position.
    let after = PageCursor::after(second.after);
    assert_eq!(all(4, after), (whole[2..].to_vec(), None));
    // Another server has given the id to another message.
    let after = PageCursor {
        hash: PageCursor::at(whole[0]).hash,
        ..second
    };
    assert_eq!(all(5, after), (Vec::new(), Some(RetainedCut::Epoch)));
}

/// A client takes a page of all messages. Meanwhile, a publisher who numbers the entries begins again.
#[test]
fn all_messages_of_a_stream_made_anew_between_two_pages_do_not_mix() {
    const BYTES: usize = 100_000;
    let server = RedisServer::start();
    let mut client = server.client();
    let anew = |client: &mut redis::Connection, name: &str| {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("DEL").arg(KEY);
        for n in 1..=20 {
            let data = format!("{name}{}", "x".repeat(BYTES));
            let fields = ["channel", "a", "data", &data];
            pipe.cmd("XADD").arg(KEY).arg(format!("{n}-1")).arg(&fields);
        }
        let _: Vec<redis::Value> = pipe.query(client).expect("added");
    };
    for (is_other, is_open) in [(false, true), (true, true), (false, false), (true, false)] {
        anew(&mut client, "old");
        let (settings, status) = (settings(&server.url()), Arc::new(BusStatus::new(&[], 1)));
        let with_pages = source(settings, &status).with_pages();
        let (source, interest) = with_pages.expect("pages");
        let events = run(source);
        let name = TopicName::fixed("a");
        let ask = |number, from: PageCursor| {
            let names = Arc::from([name.clone()]);
            let who = (number, ClientAddr::Unix);
            interest.ask_all(Subscription::channel("a"), who, (Arc::new(from), names));
        };
        ask(1, PageCursor::default());
        let page = |kinds: &mut BTreeSet<String>| loop {
            match events.recv_timeout(PATIENCE).expect("a page") {
                BusEvent::LastValue { message, .. } => {
                    kinds.insert(String::from_utf8_lossy(&message.payload[..3]).into_owned());
                }
                BusEvent::RetainedPage { cursor, .. } => break Ok(cursor),
                BusEvent::RetainedEnd { cut, .. } => break Err(cut),
                _ => {}
            }
        };
        let mut kinds = BTreeSet::new();
        let cursor = page(&mut kinds).expect("a page");
        anew(&mut client, if is_other { "new" } else { "old" });
        match is_open {
            true => interest.ask_more_retained(1),
            // The question has ended, and another one goes on from its cursor.
            false => ask(2, PageCursor::clone(&cursor)),
        }
        let second = page(&mut kinds);
        assert_eq!(kinds, BTreeSet::from(["old".to_owned()]), "{is_open}");
        let ends_anew = second.err() == Some(Some(RetainedCut::Epoch));
        assert_eq!(ends_anew, is_other, "{is_open}");
    }
}

/// A publisher who numbers the entries begins again, so the last entry that was read has the id of another one.
#[test]
fn a_stream_made_anew_with_the_ids_of_before_is_a_loss_and_is_read_from_its_first_entry() {
    const BYTES_MAX: usize = 40_000;
    let server = RedisServer::start();
    let mut client = server.client();
    let rights = "resetchannels -@all +ping +info +xread +xrange +xrevrange ~ticks";
    for (user, more) in [("few", ""), ("all", "+eval_ro +xinfo|stream")] {
        let words = rights.split(' ').chain(more.split_terminator(' '));
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER").arg(user).arg("on").arg(">p");
        let () = acl
            .arg(words.collect::<Vec<_>>())
            .query(&mut client)
            .expect("a user");
        // The last one is cut. Above 4 KiB, the script answers with a sample.
        for pad in [0, 3_000, 5_000, BYTES_MAX + 1] {
            let mut anew = |count: u64, name: char| {
                let mut pipe = redis::pipe();
                pipe.atomic().cmd("DEL").arg(KEY);
                for n in 1..=count {
                    let data = format!("{name}{n}{}", "x".repeat(pad));
                    let fields = ["channel", "a", "more", "y", "data", "z", "data", &data];
                    pipe.cmd("XADD").arg(KEY).arg(format!("{n}-1")).arg(&fields);
                }
                let _: Vec<redis::Value> = pipe.query(&mut client).expect("added");
            };
            anew(5, 'o');
            let mut settings = settings(&server.url_as(&format!("{user}:p")));
            settings.payload_bytes_max = BYTES_MAX;
            let (events, status) = read(settings);
            until(&events, 5);
            assert!(matches!(soon(&events), Some(BusEvent::Up)));
            // More than a check of the last entry, which is the same.
            thread::sleep(Duration::from_millis(2_500));
            anew(8, 'n');
            let seen = until(&events, 8);
            let seen = seen.iter().filter_map(|event| event.split('x').next());
            let came = (1..=8).map(|n| format!("a: n{n}"));
            let expected = ["CaughtUp", "Gap"]
                .map(str::to_owned)
                .into_iter()
                .chain(came);
            assert!(seen.eq(expected), "{user} {pad}");
            assert_eq!(status.reconnects(), 0);
        }
    }
}

/// The parser cuts its name elsewhere than a payload.
#[test]
fn the_last_entry_is_the_one_that_was_read_though_its_name_is_too_long() {
    let server = RedisServer::start();
    let mut client = server.client();
    let (events, status) = read(settings(&server.url()));
    eventually("it reads", || status.subscribed());
    for _ in 0..2 {
        add_amid(
            &mut client,
            0,
            &["channel", &"n".repeat(9_000), "data", "0"],
        );
        thread::sleep(Duration::from_millis(1_500));
    }
    add(&mut client, &[], "1");
    let seen = until(&events, 1);
    assert!(!seen.contains(&"Gap".to_owned()), "{seen:?}");
}

#[test]
fn a_check_warns_of_each_right_without_which_trims_count_as_losses() {
    let server = RedisServer::start();
    let mut client = server.client();
    let rights = "resetchannels -@all +ping +xread +xrange +xrevrange ~ticks";
    let needs = RedisNeeds {
        stream: Some(KEY.to_owned()),
        ..RedisNeeds::default()
    };
    let warnings = |user: &str, more: &[&str], client: &mut redis::Connection| {
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER").arg(user).arg("on").arg(">p");
        acl.arg(rights.split(' ').collect::<Vec<_>>()).arg(more);
        let () = acl.query(client).expect("a user");
        let found = needs.check(&settings(&server.url_as(&format!("{user}:p"))), PATIENCE);
        let counters = |finding: &&Finding| matches!(finding, Finding::Warning(text) if text.contains("counters"));
        found.iter().filter(counters).count()
    };
    for has_stream in [false, true] {
        if has_stream {
            add(&mut client, &[], "0");
        }
        for (user, more, count) in [
            ("no", &[][..], 1),
            ("script", &["+eval_ro", "+info"], 1),
            ("counters", &["+xinfo|stream", "+info"], 1),
            ("both", &["+eval_ro", "+xinfo|stream"], 1),
            ("all", &["+eval_ro", "+xinfo|stream", "+info"], 0),
        ] {
            assert_eq!(
                warnings(user, more, &mut client),
                count,
                "{user} {has_stream}"
            );
        }
    }
}

/// A server that does not let anybody read the stream says nothing of the rights of this user.
#[test]
fn what_is_no_right_is_not_said_to_be_missing() {
    let server = RedisServer::start();
    let mut client = server.client();
    let needs = RedisNeeds {
        stream: Some(KEY.to_owned()),
        ..RedisNeeds::default()
    };
    let mut refusal = |commands: &[&[&str]]| {
        for words in commands {
            let mut command = redis::cmd(words[0]);
            let () = command.arg(&words[1..]).query(&mut client).expect("done");
        }
        let found = needs.check(&settings(&server.url()), PATIENCE);
        let bad = found
            .into_iter()
            .filter(|one| !matches!(one, Finding::Good(_)));
        match &bad.collect::<Vec<_>>()[..] {
            [Finding::Error(text)] => text.clone(),
            bad => panic!("{bad:?}"),
        }
    };
    let text = refusal(&[&["SET", KEY, "0"]]);
    assert!(text.ends_with("; check the key and the database"), "{text}");
    let text = refusal(&[
        &["CONFIG", "SET", "replica-serve-stale-data", "no"],
        &["REPLICAOF", "127.0.0.1", "1"],
    ]);
    assert!(text.contains(": MASTERDOWN"), "{text}");
}

#[test]
fn a_key_without_a_stream_is_said_to_be_one() {
    let server = RedisServer::start();
    let mut client = server.client();
    let () = redis::cmd("SET")
        .arg(KEY)
        .arg("0")
        .query(&mut client)
        .expect("set");
    let (events, _) = read(settings(&server.url()));
    let down = events.recv_timeout(PATIENCE).expect("an outage");
    let BusEvent::Down(words) = down else {
        panic!("{down:?}");
    };
    assert!(
        words.contains("ticks") && words.contains("--stream"),
        "{words}"
    );
    assert!(!words.contains("password"), "{words}");
}
