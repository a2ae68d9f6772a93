//! A device that comes back to the same instance gets the pushes that it missed, or is told that it does not.

use weirgate_core::{Frame, HistoryLimits};

use super::*;

const SECOND: u64 = 1_000_000;

/// A gateway that keeps pushes for a minute.
fn keeping(shares_pushes: bool) -> Events {
    let share_us = Limits::default().share_us;
    keeping_with(shares_pushes, share_us)
}

/// The same, in which a client has time for so many steps in a turn.
fn keeping_in_steps(steps: u64) -> Events {
    keeping_with(false, steps)
}

fn keeping_with(shares_pushes: bool, share_us: u64) -> Events {
    keeping_within(1 << 24, shares_pushes, share_us)
}

fn keeping_within(bytes_max: usize, shares_pushes: bool, share_us: u64) -> Events {
    let settings = EventsGatewaySettings {
        shares_pushes,
        ..settings()
    };
    keeping_as(settings, |limits| {
        limits.history.bytes_max = bytes_max;
        limits.share_us = share_us;
    })
}

fn keeping_as(settings: EventsGatewaySettings, change: impl FnOnce(&mut Limits)) -> Events {
    let mut limits = Limits {
        event_stream: true,
        ping_interval_us: 0,
        history: HistoryLimits {
            keep_us: 60 * SECOND,
            bytes_max: 1 << 24,
        },
        ..Limits::default()
    };
    change(&mut limits);
    let gateway = EventsGateway::new(settings, Origins::new([]), Arc::default());
    World::new(limits, gateway, 1)
}

/// The last member of a message, if it is a position.
fn pos(message: &str) -> Option<&str> {
    let (_, pos) = message.rsplit_once(r#","pos":""#)?;
    pos.strip_suffix("\"}")
}

/// The answer to a device in the address, without a position.
fn answer_to(device: &str, more: &str) -> String {
    response(
        "identify",
        "null",
        &format!(r#"{{"device_id":"{device}"{more}}}"#),
    )
}

/// What a device gets that connects with a position in the address.
fn comes_back(world: &mut Events, device: &str, since: &str) -> Vec<String> {
    let target = format!("/ws?device_id={device}&since={since}");
    let key = world.connect(&target, None);
    let got = world.texts(key);
    world.end(key, false);
    got
}

/// Connects a device; returns the position that the device gets.
fn first(world: &mut Events, device: &str) -> (SessionKey, String) {
    let key = world.connect(&format!("/ws?device_id={device}"), None);
    let got = world.texts(key);
    let at = pos(&got[0]).expect("a position before the first push");
    (key, at.to_owned())
}

fn pushed(world: &mut Events, key: SessionKey, devices: &[&str], n: u32) -> String {
    push(world, devices, &format!(r#"{{"n":{n}}}"#));
    world.texts(key).pop().expect("a push")
}

#[test]
fn missed_pushes_follow_the_answer_byte_for_byte_as_live() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    let (other, _) = first(&mut world, "b");
    let pushes: Vec<String> = (0..5)
        .map(|n| match n {
            2 => pushed(&mut world, other, &["b"], n),
            _ => pushed(&mut world, live, &["b", "a"], n),
        })
        .collect();
    let event = r#"{"type":"event","event":"lobby.updated","request_id":null,"data":{"n":0},"error":null,"pos":"m0."#;
    assert!(pushes[0].starts_with(event), "{}", pushes[0]);
    let of_a = [0, 1, 3, 4].map(|n| pushes[n].as_str());
    let whole = answer_to("a", r#","recovered":true"#);
    let got = comes_back(&mut world, "a", &start);
    assert_eq!(got[0], whole, "no position: each push has its own");
    assert_eq!(got[1..], of_a, "the same bytes in the same order");
    for (after, rest) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 4)] {
        let at = pos(&pushes[after]).expect("a position");
        let got = comes_back(&mut world, "a", at);
        assert_eq!(got[1..], of_a[rest..], "after {after}");
    }
    let newest = pos(&pushes[4]).expect("a position").to_owned();
    assert_eq!(comes_back(&mut world, "nobody", &newest).len(), 1);
    // Again and again, and quiet for long: a device without pushes misses nothing.
    for _ in 0..10 {
        world.advance(600 * SECOND);
        let quiet = answer_to("a", r#","recovered":true"#);
        assert_eq!(comes_back(&mut world, "a", &newest), [quiet]);
    }
    world.hub.check_invariants();
}

#[test]
fn identify_resumes_too_and_the_answer_keeps_its_place() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    let missed = pushed(&mut world, live, &["a"], 1);
    let key = world.connect("/ws", None);
    world.texts(key);
    let identify = |since: &str| {
        format!(
            r#"{{"event":"identify","request_id":"7","data":{{"device_id":"a","since":{since}}}}}"#
        )
    };
    world.text(key, "{");
    world.text(key, &identify(&format!("\"{start}\"")));
    ask(&mut world, key, "nope", 8);
    let got = world.texts(key);
    let whole = response("identify", "\"7\"", r#"{"device_id":"a","recovered":true}"#);
    assert!(got[0].contains("Invalid JSON"), "{got:?}");
    assert_eq!(got[1..3], [whole, missed]);
    assert!(got[3].contains("unknown_event"), "{got:?}");
    let live = pushed(&mut world, key, &["a"], 2);
    assert!(pos(&live).is_some(), "{live}");
    // `null` asks for nothing.
    let key = world.connect("/ws", None);
    world.texts(key);
    world.text(key, &identify("null"));
    let got = world.texts(key).pop().expect("an answer");
    assert!(
        got.starts_with(&response("identify", "\"7\"", r#"{"device_id":"a"}"#)[..50]),
        "{got}"
    );
    assert_eq!(pos(&got), pos(&live), "the newest");
}

#[test]
fn a_doubt_is_told_and_the_device_is_live() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    pushed(&mut world, live, &["a"], 1);
    let mark = start.strip_suffix(".0").expect("a count");
    let long = "1".repeat(65);
    for (since, why) in [
        ("x", "bad"),
        (long.as_str(), "bad"),
        ("s0.1.2", "epoch"),
        ("m0.7f3a09c2b11e.0.0", "epoch"),
        (&format!("{mark}.zz"), "ahead"),
    ] {
        let key = world.connect(&format!("/ws?device_id=a&since={since}"), None);
        let got = world.texts(key);
        let told = answer_to("a", &format!(r#","recovered":false,"why":"{why}""#));
        let [answer] = got.as_slice() else {
            panic!("{since}: {got:?}");
        };
        assert!(
            answer.starts_with(told.trim_end_matches('}')),
            "{since}: {answer}"
        );
        assert_eq!(
            pos(answer),
            Some(format!("{mark}.1").as_str()),
            "from here on"
        );
        assert!(pos(&pushed(&mut world, key, &["a"], 1)).is_some());
        world = keeping(false);
        let (live, same) = first(&mut world, "a");
        pushed(&mut world, live, &["a"], 1);
        assert_eq!(same, start, "the same seed");
    }
    world.advance(70 * SECOND);
    world.advance(SECOND);
    let got = comes_back(&mut world, "a", &start);
    assert!(got[0].contains(r#""why":"window""#), "{got:?}");
}

#[test]
fn without_a_history_only_a_question_gets_an_answer() {
    let mut world = world(settings());
    let key = world.connect("/ws?device_id=a&since=", None);
    assert!(world.texts(key).is_empty());
    let event =
        r#"{"type":"event","event":"lobby.updated","request_id":null,"data":{"n":1},"error":null}"#;
    assert_eq!(pushed(&mut world, key, &["a"], 1), event);
    let off = answer_to("a", r#","recovered":false,"why":"off""#);
    let since = "m0.7f3a09c2b11e.0.0";
    assert_eq!(comes_back(&mut world, "a", since), [off]);
}

/// Between the two copies of an event for a device that is named twice the connection may be cut.
#[test]
fn a_device_that_is_named_twice_gets_two_positions() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    assert_eq!(push(&mut world, &["a", "b", "a", "a"], "{}"), 3);
    let copies = world.texts(live);
    for (n, copy) in copies.iter().enumerate() {
        let at = pos(copy).expect("a position").to_owned();
        let got = comes_back(&mut world, "a", &at);
        assert_eq!(got[1..], copies[n + 1..]);
    }
    assert_eq!(comes_back(&mut world, "a", &start)[1..], copies);
}

#[test]
fn every_device_of_a_large_broadcast_resumes() {
    let mut world = keeping(false);
    let ids: Vec<String> = (0..1_200).map(|n| format!("d{n}")).collect();
    let (_, start) = first(&mut world, "d0");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for n in 0..3 {
        push(&mut world, &ids, &format!(r#"{{"n":{n}}}"#));
    }
    for device in ["d0", "d1", "d199", "d200", "d1199"] {
        let got = comes_back(&mut world, device, &start);
        assert_eq!(got.len(), 4, "{device}");
        for (n, missed) in got[1..].iter().enumerate() {
            let at = pos(missed).expect("a position").to_owned();
            assert_eq!(
                comes_back(&mut world, device, &at)[1..],
                got[n + 2..],
                "{device} {n}"
            );
        }
    }
}

#[test]
fn a_push_that_is_too_large_to_send_again_is_a_hole_that_is_told() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(4 << 20));
    push(&mut world, &["a"], &large);
    let got = world.texts(live).pop().expect("the push");
    assert_eq!(pos(&got), None, "the loop copies no push of this size");
    let after = pushed(&mut world, live, &["a"], 1);
    let got = comes_back(&mut world, "a", &start);
    assert!(
        got.len() == 1 && got[0].contains(r#""why":"window""#),
        "{got:?}"
    );
    let (_, b) = first(&mut world, "b");
    assert_eq!(comes_back(&mut world, "b", &start).len(), 1, "of others");
    assert_eq!(
        comes_back(&mut world, "a", pos(&after).expect("a position")).len(),
        1
    );
    assert_eq!(Some(b.as_str()), pos(&after));
}

#[test]
fn pushes_of_other_instances_that_were_lost_are_a_gap() {
    let mut world = keeping(true);
    let others = |world: &mut Events, come| {
        world.hub.handle_input(world.now, Input::Others(come));
        world.settle();
    };
    let early = world.connect("/ws?device_id=a", None);
    assert_eq!(
        world.texts(early),
        [answer_to("a", "")],
        "others' pushes do not come yet"
    );
    others(&mut world, true);
    let before = pushed(&mut world, early, &["a"], 1);
    let before = pos(&before).expect("a position").to_owned();
    assert_eq!(comes_back(&mut world, "a", &before).len(), 1);
    others(&mut world, false);
    let alone = pushed(&mut world, early, &["a"], 2);
    assert_eq!(pos(&alone), None, "no device goes on from here");
    let away = answer_to("a", r#","recovered":false,"why":"gap""#);
    assert_eq!(comes_back(&mut world, "a", &before), [away]);
    others(&mut world, true);
    let got = comes_back(&mut world, "a", &before);
    assert!(got[0].contains(r#""why":"gap","#) || got[0].contains(r#""why":"gap"}"#));
    let now = pos(&got[0]).expect("a position").to_owned();
    let missed = pushed(&mut world, early, &["a"], 3);
    assert_eq!(comes_back(&mut world, "a", &now)[1..], [missed]);
    // A loss without an outage.
    others(&mut world, true);
    let got = comes_back(&mut world, "a", &now);
    assert!(
        got.len() == 1 && got[0].contains(r#""why":"gap""#),
        "{got:?}"
    );
}

#[test]
fn a_stream_goes_on_from_its_last_id_and_not_from_the_address() {
    let mut world = keeping(false);
    let (live, start) = first(&mut world, "a");
    let pushes: Vec<String> = (0..3)
        .map(|n| pushed(&mut world, live, &["a"], n))
        .collect();
    let stream = |world: &mut Events, target: &str, last: &str| {
        let key = world.accept(usize::MAX);
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{last}\r\n");
        world.send(key, request.as_bytes());
        world.sent(key)
    };
    let ids = |sent: &str| -> Vec<String> {
        let ids = sent.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.map(str::to_owned).collect()
    };
    let of = |from: usize| -> Vec<String> {
        let pushes = pushes[from..].iter().map(|push| pos(push).expect("one"));
        pushes.map(str::to_owned).collect()
    };
    let target = format!("/ws?device_id=a&since={start}");
    assert_eq!(ids(&stream(&mut world, &target, "")), of(0));
    let last = format!("Last-Event-ID: {}\r\n", of(0)[1]);
    assert_eq!(ids(&stream(&mut world, &target, &last)), of(2));
    let newer = format!("{target}&lastEventId={}", of(0)[1]);
    assert_eq!(ids(&stream(&mut world, &newer, "")), of(2));
    let identify = "/ws?send=%7B%22event%22:%22identify%22,%22data%22:%7B%22device_id%22:%22a%22%7D%7D&send=%7B%22event%22:%22nope%22%7D";
    let sent = stream(&mut world, identify, &last);
    assert_eq!(ids(&sent), of(2));
    assert!(sent.contains("unknown_event"), "the second request: {sent}");
    world.hub.check_invariants();
}

/// A device that is away and comes back at random times, over cuts of every kind.
#[test]
fn random_cuts_lose_nothing_and_repeat_nothing() {
    for seed in 0..200 {
        let mut random = world::Random::new(seed);
        let mut world = keeping(false);
        let (mut key, mut at) = first(&mut world, "a");
        let mut seen: Vec<u32> = Vec::new();
        let mut take = |world: &mut Events, key, at: &mut String| {
            for text in world.texts(key) {
                assert!(!text.contains(r#""recovered":false"#), "{seed}: {text}");
                *at = pos(&text).map_or_else(|| at.clone(), str::to_owned);
                if let Some((_, n)) = text.split_once(r#""data":{"n":"#) {
                    let n = n.split('}').next().expect("a number");
                    seen.push(n.parse().expect("a number"));
                }
            }
        };
        let mut pushes = 0;
        for _ in 0..100 {
            match random.below(4) {
                0 => {
                    world.end(key, true);
                    let target = format!("/ws?device_id=a&since={at}");
                    for _ in 0..random.below(3) {
                        push(&mut world, &["a", "b"], &format!(r#"{{"n":{pushes}}}"#));
                        pushes += 1;
                    }
                    key = world.connect(&target, None);
                }
                1 => world.advance(random.below(SECOND)),
                _ => {
                    let devices: &[&str] = [&["a"][..], &["b", "a"], &["a", "c"]][pushes % 3];
                    push(&mut world, devices, &format!(r#"{{"n":{pushes}}}"#));
                    pushes += 1;
                }
            }
            take(&mut world, key, &mut at);
        }
        assert_eq!(seen, (0..pushes as u32).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn very_many_missed_pushes_are_queued_over_several_turns() {
    let mut world = keeping_in_steps(1);
    let (_, since) = first(&mut world, "a");
    world.settle();
    for n in 0..3_000 {
        push(&mut world, &["a"], &n.to_string());
    }
    let key = world.connect("/ws", None);
    world.texts(key);
    world.held = true;
    let data = format!(r#"{{"device_id":"a","since":"{since}"}}"#);
    world.text(key, &format!(r#"{{"event":"identify","data":{data}}}"#));
    let (mut turns, mut sent) = (0, 3_000);
    while world.hub.waiting_shares() > 0 {
        let waiting = world.hub.stats().messages_waiting;
        world.hub.begin_part(crate::world::PART_US);
        world.hub.handle_next_share(world.now);
        let more = world.hub.stats().messages_waiting - waiting;
        assert!(more <= 1_000, "{more}");
        push(&mut world, &["a"], &sent.to_string());
        (turns, sent) = (turns + 1, sent + 1);
    }
    assert!(turns >= 2, "{turns}");
    world.held = false;
    world.settle();
    let got = world.texts(key);
    assert!(got[0].contains(r#""recovered":true"#), "{}", got[0]);
    assert_eq!(got.len(), 1 + sent);
    let is_of = |(text, n): (&String, usize)| text.contains(&format!(r#""data":{n},"#));
    assert!(got[1..].iter().zip(0..).all(is_of), "{}", got[1]);
    assert_eq!(world.hub.core().resumed_messages().held(), 0);
}

/// Devices have no `last`: a push stays for nobody once a resume no longer gets it.
#[test]
fn every_push_in_the_memory_of_the_history_is_there_for_its_device() {
    let mut world = keeping_within(1 << 18, false, Limits::default().share_us);
    let (live, start) = first(&mut world, "live");
    let mut before = vec![start];
    let filler = "x".repeat(500);
    for n in 0..600 {
        let device = format!("d{n}");
        push(
            &mut world,
            &[&device, "live"],
            &format!(r#"{{"n":"{filler}"}}"#),
        );
        let got = world.texts(live).pop().expect("a push");
        before.push(pos(&got).expect("a position").to_owned());
    }
    let history = world.hub.stats().history.expect("a history");
    assert!((100..1_000).contains(&history.messages), "{history:?}");
    let resumes = |n: &usize| {
        let got = comes_back(&mut world, &format!("d{n}"), &before[*n]);
        got.len() == 2 && got[0] == answer_to(&format!("d{n}"), r#","recovered":true"#)
    };
    let resumed = (0..600).filter(resumes).count() as u64;
    // Each push is one of `live`, too, whose oldest may be gone.
    assert_eq!(history.messages.div_ceil(2), resumed);
}

/// One device after the other gets what it has missed while memory is short, whether its URL names it or `identify` does.
#[test]
fn devices_that_come_back_wait_while_memory_is_short() {
    const LIMIT: u64 = 400_000;
    let mut world = keeping_as(settings(), |limits| limits.frame_bytes_max = LIMIT);
    let (live, since) = first(&mut world, "a");
    pushed(&mut world, live, &["a"], 1);
    let outside = vec![b'x'; LIMIT as usize / 4 * 3];
    let outside = Frame::text(&world.frame_bytes).body(&outside).finish();
    let identify = format!(
        r#"{{"event":"identify","request_id":"7","data":{{"device_id":"a","since":"{since}"}}}}"#
    );
    let asks = |world: &mut Events, names_in_url: bool| {
        if names_in_url {
            return world.connect(&format!("/ws?device_id=a&since={since}"), None);
        }
        let key = world.connect("/ws", None);
        world.texts(key);
        world.text(key, &identify);
        key
    };
    for names_in_url in [true, false] {
        // The kernel of the first takes nothing.
        let slow = world.connect("/ws", None);
        world.net.sockets.get_mut(&slow).expect("a socket").room = 0;
        world.text(slow, &identify);
        let key = asks(&mut world, names_in_url);
        let gone = asks(&mut world, names_in_url);
        world.text(key, r#"{"event":"nope","request_id":"8"}"#);
        assert_eq!(world.texts(key), [""; 0], "{names_in_url}");
        world.end(gone, false);
        world.advance(SECOND / 10);
        let got = world.texts(key);
        assert!(got[0].contains(r#""recovered":true"#), "{got:?}");
        assert_eq!(got.len(), 3, "{got:?}");
        assert!(got[2].contains("unknown_event"), "{got:?}");
        for key in [slow, key] {
            world.end(key, true);
        }
        world.advance(SECOND);
    }
    drop(outside);
    world.hub.check_invariants();
}
