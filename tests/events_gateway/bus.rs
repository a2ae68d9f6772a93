//! Several instances on a toy bus: what devices get, what services are told, who is missing.

use std::sync::Arc;

use weirgate::gateways::events::bus::{Exchange, ExchangeSettings};

use super::toy_bus::{Bus, WAIT_US, body, event, exchange_settings};

#[test]
fn a_push_reaches_every_connection_of_a_device_once_wherever_it_is() {
    let mut bus = Bus::new(3);
    assert_eq!(bus.others(), [3, 3, 3]);
    let mut keys = Vec::new();
    for (instance, devices) in [(0, &["a", "b"][..]), (1, &["a", "a"]), (2, &["c"])] {
        for device in devices {
            let key = bus.instances[instance].connect(device);
            keys.push((instance, key, *device));
        }
    }
    for from in 0..3 {
        let data = format!(r#"{{"n":{from}}}"#);
        let pushed = bus.push(from, &["a", "c", "c", "nobody"], &data);
        assert_eq!(bus.answer(from, pushed), (5, true, vec![]), "from {from}");
        for (instance, key, device) in &keys {
            let texts = bus.instances[*instance].world.texts(*key);
            let times = match *device {
                "a" => 1,
                "c" => 2,
                _ => 0,
            };
            assert_eq!(texts, vec![event(&data); times], "{device} on {instance}");
        }
    }
    assert!(bus.instances.iter().all(|one| one.stats.waiting.get() == 0));
    assert_eq!(bus.instances[0].stats.sent.get(), 1);
    assert_eq!(bus.instances[0].stats.received.get(), 2);
}

#[test]
fn pushes_of_one_instance_keep_their_order_on_every_other() {
    let mut bus = Bus::new(2);
    let key = bus.instances[1].connect("a");
    let large = "x".repeat(5_000);
    for n in 0..20 {
        let pad = if n % 3 == 0 { &large } else { "" };
        bus.push(0, &["a"], &format!(r#"{{"n":{n},"pad":"{pad}"}}"#));
    }
    let texts = bus.instances[1].world.texts(key);
    assert_eq!(texts.len(), 20);
    for (n, text) in texts.iter().enumerate() {
        assert!(text.contains(&format!(r#""data":{{"n":{n},"#)), "{text}");
    }
}

#[test]
fn an_instance_that_does_not_answer_is_missing_and_then_forgotten() {
    let mut bus = Bus::new(3);
    let local = bus.instances[0].connect("a");
    bus.instances[1].connect("a");
    bus.instances[2].is_connected = false;
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(pushed.0, 1, "its own devices wait for nobody");
    assert_eq!(bus.instances[0].world.texts(local).len(), 1);
    assert!(bus.instances[0].told.is_empty());
    assert_eq!(bus.instances[0].stats.waiting.get(), 1);
    bus.advance(WAIT_US / 1_000);
    assert_eq!(bus.answer(0, pushed), (2, true, vec!["i2"]));
    assert_eq!(bus.instances[0].stats.incomplete.get(), 1);
    // The next push waits for it for a tenth of the time, and still says that it is missing.
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.instances[0].stats.waiting.get(), 1);
    bus.advance(WAIT_US / 10_000 + 10);
    assert_eq!(bus.answer(0, pushed), (2, true, vec!["i2"]));
    bus.advance(4_000);
    assert_eq!(bus.others()[..2], [2, 2]);
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (2, true, vec![]));
    // Back, it is one of them at once.
    bus.connect(2, false);
    bus.connect(2, true);
    bus.advance(10);
    assert_eq!(bus.others(), [3, 3, 3]);
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (2, true, vec![]));
}

#[test]
fn an_instance_that_was_late_and_answers_again_is_not_missing() {
    let mut bus = Bus::new(2);
    bus.instances[1].is_hung = true;
    let first = bus.push(0, &["a"], "{}");
    bus.advance(WAIT_US / 1_000);
    assert_eq!(bus.answer(0, first), (0, true, vec!["i1"]));
    bus.advance(10_000);
    assert_eq!(bus.others(), [2, 2], "it says that it is there");
    bus.instances[1].connect("a");
    bus.instances[1].is_hung = false;
    let second = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, second), (1, true, vec![]));
}

#[test]
fn who_has_answered_is_not_late_while_the_answer_is_unread() {
    let mut bus = Bus::new(3);
    bus.instances[1].is_hung = true;
    let pushed = bus.push(0, &["a"], "{}");
    let unread_since = bus.now.mono_us + WAIT_US - 1;
    bus.now = bus.now.plus_us(20 * WAIT_US);
    let late = bus.now;
    bus.instances[0].exchange.handle_timeout(late, unread_since);
    bus.carry();
    assert!(bus.instances[0].told.is_empty());
    assert_eq!(bus.instances[0].stats.instances(), 3, "nobody is silent");
    assert!(bus.instances[0].stats.is_up());
    bus.inject(format!("weirgate-events/1 i1 answer {} 0\n", pushed.1).as_bytes());
    assert_eq!(bus.answer(0, pushed), (0, true, vec![]));
}

#[test]
fn an_instance_that_hangs_holds_up_each_push_for_a_short_time_only() {
    let mut bus = Bus::new(3);
    for n in 0..3 {
        bus.instances[n].connect("a");
    }
    bus.instances[1].is_hung = true;
    bus.push(0, &["a"], "{}");
    bus.advance(WAIT_US / 1_000);
    for _ in 0..50 {
        let pushed = bus.push(0, &["a"], "{}");
        bus.advance(WAIT_US / 10_000 + 10);
        assert_eq!(bus.answer(0, pushed), (2, true, vec!["i1"]));
    }
    // An instance that is not late is waited for the whole time, whoever else is late.
    bus.instances[2].is_hung = true;
    let pushed = bus.push(0, &["a"], "{}");
    bus.advance(WAIT_US / 1_000 - 30);
    assert_eq!(bus.instances[0].stats.waiting.get(), 1);
    bus.advance(30);
    assert_eq!(bus.answer(0, pushed), (1, true, vec!["i1", "i2"]));
    // It answers late, so the next push waits for it again; a push that is over is as it was told.
    let pushed = bus.push(0, &["a"], "{}");
    bus.inject(format!("weirgate-events/1 i1 answer {} 1\n", pushed.1).as_bytes());
    bus.advance(WAIT_US / 10_000 + 10);
    assert_eq!(bus.answer(0, pushed), (2, true, vec!["i2"]));
    let pushed = bus.push(0, &["a"], "{}");
    bus.advance(WAIT_US / 1_000 - 30);
    assert_eq!(bus.instances[0].stats.waiting.get(), 1, "i1 is not late");
    bus.instances[0].exchange.announce_stop();
    bus.advance(30);
    assert_eq!(bus.answer(0, pushed), (1, true, vec!["i1", "i2"]));
}

#[test]
fn with_the_bus_away_own_devices_are_served_and_the_answer_says_so() {
    let mut bus = Bus::new(2);
    let keys = [0, 1].map(|n| bus.instances[n].connect("a"));
    let waits = {
        bus.instances[1].is_connected = false;
        bus.push(0, &["a"], "{}")
    };
    bus.connect(0, false);
    assert_eq!(bus.answer(0, waits), (1, false, vec!["i1"]), "told at once");
    assert!(!bus.instances[0].stats.is_up());
    bus.advance(60_000);
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (1, false, vec!["i1"]));
    assert_eq!(bus.instances[0].world.texts(keys[0]).len(), 2);
    let before = bus.instances[0].published.len();
    bus.connect(1, false);
    bus.connect(0, true);
    bus.connect(1, true);
    bus.advance(1_000);
    assert!(bus.instances[0].published.len() > before);
    assert!(
        bus.instances[1].world.texts(keys[1]).is_empty(),
        "nothing comes late"
    );
    let pushed = bus.push(0, &["a"], r#"{"n":3}"#);
    assert_eq!(bus.answer(0, pushed), (2, true, vec![]));
    assert_eq!(bus.instances[1].world.texts(keys[1]), [event(r#"{"n":3}"#)]);
}

#[test]
fn a_bus_that_carries_nothing_back_counts_as_away() {
    let mut bus = Bus::new(2);
    // It is connected, and nothing that it publishes comes back: it may not publish, say.
    bus.instances[0].is_connected = false;
    bus.advance(3_100);
    assert!(!bus.instances[0].stats.is_up());
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (0, false, vec!["i1"]));
    bus.instances[0].is_connected = true;
    bus.advance(500);
    assert!(bus.instances[0].stats.is_up());
    let alone = Bus::new(1);
    assert!(alone.instances[0].stats.is_up(), "it hears itself");
}

#[test]
fn pushes_right_after_a_connection_wait_for_whoever_answers() {
    let mut bus = Bus::new(1);
    bus.instances[0].connect("a");
    let new = bus.add(exchange_settings());
    let early = bus.push(new, &["a"], "{}");
    assert!(
        bus.instances[new].told.is_empty(),
        "nobody knows yet who is there"
    );
    bus.advance(WAIT_US / 1_000);
    assert_eq!(bus.answer(new, early), (1, true, vec![]));
    let later = bus.push(new, &["a"], "{}");
    assert_eq!(bus.answer(new, later), (1, true, vec![]));
}

#[test]
fn an_instance_that_stops_is_not_missing() {
    let mut bus = Bus::new(3);
    bus.instances[2].is_hung = true;
    let pushed = bus.push(0, &["a"], "{}");
    assert!(bus.instances[0].told.is_empty());
    bus.instances[2].exchange.announce_stop();
    bus.carry();
    assert!(bus.instances[2].exchange.has_left());
    assert_eq!(bus.answer(0, pushed), (0, true, vec![]));
    assert_eq!(bus.others()[..2], [2, 2]);
    // The end of its process may take a while.
    bus.instances[2].is_hung = false;
    bus.push(0, &["a"], "{}");
    let late = bus.push(2, &["a"], "{}");
    assert_eq!(bus.answer(2, late), (0, false, vec!["i0", "i1"]));
    bus.advance(2_500);
    assert_eq!(bus.others()[..2], [2, 2], "it is silent");
}

#[test]
fn what_comes_again_is_delivered_once() {
    let mut bus = Bus::new(2);
    let key = bus.instances[1].connect("a");
    bus.push(0, &["a"], r#"{"n":1}"#);
    bus.push(0, &["a"], r#"{"n":2}"#);
    assert_eq!(bus.instances[1].world.texts(key).len(), 2);
    let pushes: Vec<_> = bus.instances[0]
        .published
        .iter()
        .map(|(_, bytes)| bytes.clone())
        .collect();
    bus.connect(1, false);
    bus.advance(20_000);
    bus.connect(1, true);
    for bytes in &pushes {
        bus.inject(bytes);
    }
    assert!(bus.instances[1].world.texts(key).is_empty());
    assert_eq!(bus.instances[1].ignored("duplicate"), 2);
}

#[test]
fn a_large_push_goes_in_parts() {
    let mut bus = Bus::new(2);
    let key = bus.instances[1].connect("a");
    let data = format!(r#"{{"x":"{}"}}"#, "é".repeat(2_000));
    let pushed = bus.push(0, &["a"], &data);
    assert_eq!(bus.answer(0, pushed), (1, true, vec![]));
    assert_eq!(bus.instances[1].world.texts(key), [event(&data)]);
    let parts = bus.instances[0]
        .published
        .iter()
        .filter(|(_, bytes)| bytes.len() > 900);
    assert_eq!(parts.count(), 4);
    assert!(
        bus.instances[0]
            .published
            .iter()
            .all(|(_, bytes)| bytes.len() <= 1_256)
    );
}

#[test]
fn a_push_without_room_is_published_nowhere_and_the_response_says_so() {
    let mut bus = Bus::new(2);
    let key = bus.instances[1].connect("a");
    let data = format!(r#"{{"x":"{}"}}"#, "é".repeat(2_000));
    bus.instances[0].is_full = true;
    let pushed = bus.push(0, &["a"], &data);
    assert_eq!(bus.answer(0, pushed), (0, true, vec!["i1"]));
    assert_eq!(bus.instances[0].stats.sent.get(), 0);
    bus.instances[0].is_full = false;
    let pushed = bus.push(0, &["a"], &data);
    assert_eq!(bus.answer(0, pushed), (1, true, vec![]));
    assert_eq!(bus.instances[1].world.texts(key), [event(&data)]);
    assert_eq!(bus.instances[1].ignored("incomplete"), 0);
    assert_eq!(losses(&bus).0, 1, "the other instance knows of the first");
}

/// Pushes that instance 1 knows as lost, and a number that changes whenever some may be.
fn losses(bus: &Bus) -> (u64, u64) {
    let stats = &bus.instances[1].stats;
    (stats.lost.get(), stats.losses())
}

#[test]
fn pushes_that_an_instance_takes_while_it_is_cut_off_are_lost_at_the_others() {
    let mut bus = Bus::new(2);
    bus.push(0, &["a"], "{}");
    let before = losses(&bus);
    bus.advance(60_000);
    assert_eq!(
        losses(&bus),
        before,
        "nothing is lost while nothing happens"
    );
    bus.connect(0, false);
    for _ in 0..2 {
        bus.push(0, &["a"], "{}");
    }
    bus.advance(500);
    bus.connect(0, true);
    assert_eq!(
        losses(&bus),
        (before.0 + 2, before.1 + 2),
        "before the next push"
    );
    bus.push(0, &["a"], "{}");
    bus.advance(2_000);
    assert_eq!(
        losses(&bus),
        (before.0 + 2, before.1 + 2),
        "they count once"
    );
    // What an instance takes after 3 s of silence, nobody can know: every earlier position is in doubt.
    bus.connect(0, false);
    bus.advance(3_100);
    assert_eq!(losses(&bus), (before.0 + 2, before.1 + 3));
    bus.push(0, &["a"], "{}");
    bus.advance(70_000);
    bus.connect(0, true);
    bus.advance(200);
    assert_eq!(
        losses(&bus),
        (before.0 + 2, before.1 + 4),
        "it was forgotten"
    );
    bus.connect(0, false);
    bus.connect(0, true);
    bus.advance(2_000);
    assert_eq!(
        losses(&bus),
        (before.0 + 2, before.1 + 4),
        "nothing was lost"
    );
}

#[test]
fn a_push_that_the_bus_loses_is_known_within_a_second() {
    let mut bus = Bus::new(2);
    let key = bus.instances[1].connect("a");
    bus.push(0, &["a"], r#"{"n":1}"#);
    let before = losses(&bus);
    let is_push = |bytes: &[u8]| bytes.windows(6).any(|w| w == b" push ");
    bus.arrives = Box::new(move |bytes| match is_push(bytes) {
        true => vec![],
        false => vec![bytes.to_vec()],
    });
    let data = format!(r#"{{"n":2,"pad":"{}"}}"#, "x".repeat(2_000));
    bus.push(0, &["a"], &data);
    bus.advance(1_000);
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 1));
    // Its parts come late: the device gets the push, and nothing else is lost.
    let parts: Vec<_> = bus.instances[0]
        .published
        .iter()
        .map(|(_, bytes)| bytes.clone())
        .collect();
    for bytes in parts.iter().filter(|bytes| is_push(bytes)).skip(1) {
        bus.inject(bytes);
    }
    assert_eq!(
        bus.instances[1].world.texts(key),
        [event(r#"{"n":1}"#), event(&data)]
    );
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 1));
    // The last part of a push is lost.
    bus.arrives = Box::new(
        move |bytes| match bytes.windows(6).any(|w| w == b" 2 3 2") {
            true => vec![],
            false => vec![bytes.to_vec()],
        },
    );
    bus.push(0, &["a"], &data);
    bus.advance(1_000);
    assert_eq!(bus.instances[1].ignored("incomplete"), 1);
    assert!(losses(&bus).1 > before.1 + 1);
}

#[test]
fn an_instance_that_ends_in_the_middle_of_a_push_has_lost_it() {
    for ends in ["gone", "silent"] {
        let mut bus = Bus::new(2);
        let before = losses(&bus).1;
        bus.inject(&part(1, (0, 2), 20, 10));
        assert_eq!(losses(&bus).1, before);
        match ends {
            "gone" => bus.inject(b"weirgate-events/1 other gone\n"),
            _ => bus.advance(4_000),
        }
        assert_eq!(bus.instances[1].ignored("incomplete"), 1, "{ends}");
        assert!(losses(&bus).1 > before, "{ends}");
    }
    // It has taken a push that it could not publish.
    let mut bus = Bus::new(2);
    let before = losses(&bus);
    bus.arrives = Box::new(|bytes| match bytes.windows(6).any(|w| w == b" push ") {
        true => vec![],
        false => vec![bytes.to_vec()],
    });
    bus.push(0, &["a"], "{}");
    bus.instances[0].exchange.announce_stop();
    bus.carry();
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 1));
}

#[test]
fn a_new_instance_has_lost_nothing_and_nothing_of_it_is_lost() {
    let mut bus = Bus::new(2);
    bus.push(0, &["a"], "{}");
    bus.advance(10_000);
    let before = losses(&bus);
    let new = bus.add(exchange_settings());
    let stats = Arc::clone(&bus.instances[new].stats);
    bus.advance(5_000);
    for from in [0, 1, new] {
        bus.push(from, &["a"], "{}");
        bus.advance(1_000);
    }
    assert_eq!((losses(&bus), stats.losses()), (before, 0));
    // The bus was away for all of them. What another has taken before it was back may be lost.
    (0..3).for_each(|n| bus.connect(n, false));
    bus.connect(new, true);
    bus.advance(100);
    let restarted = stats.losses();
    bus.push(0, &["a"], "{}");
    bus.connect(0, true);
    assert_eq!(stats.losses(), restarted + 1);
    bus.connect(1, true);
    bus.advance(5_000);
    assert_eq!(stats.losses(), restarted + 2);
    assert_eq!(
        stats.lost.get(),
        0,
        "an outage is counted where it is noticed"
    );
}

#[test]
fn a_push_that_comes_before_the_bus_has_proved_itself_is_announced() {
    let mut bus = Bus::new(2);
    bus.advance(5_000);
    bus.connect(0, false);
    let before = losses(&bus);
    // Its announcements do not come back yet, though the others get them.
    bus.instances[0].exchange.connected(bus.now);
    bus.advance(10);
    bus.instances[0].exchange.push(bus.now, b"{}");
    bus.instances[0].is_connected = true;
    bus.instances[0]
        .exchange
        .handle_message(bus.now, b"weirgate-events/1 i0 here\n");
    bus.carry();
    assert!(bus.instances[0].stats.is_up());
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 1));
}

#[test]
fn pushes_of_an_instance_of_an_earlier_version_are_counted_by_their_numbers() {
    let mut bus = Bus::new(2);
    let text = body(&["a"], "{}");
    bus.advance(4_000);
    let push = |n: u64| format!("weirgate-events/1 old push {n} 0 1 {}\n{text}", text.len());
    let before = losses(&bus);
    bus.inject(b"weirgate-events/1 old here\n");
    for n in [1, 2] {
        bus.inject(push(n).as_bytes());
    }
    assert_eq!(losses(&bus), before);
    bus.inject(push(4).as_bytes());
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 1));
    // It has reconnected, and does not say whether it has taken pushes meanwhile.
    bus.inject(b"weirgate-events/1 old new\n");
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 2));
    // One that is not known has taken pushes before.
    bus.inject(push(7).replace(" old ", " older ").as_bytes());
    assert_eq!(losses(&bus), (before.0 + 1, before.1 + 3));
    // What this instance says of itself, an earlier version reads as an answer to no push.
    let says = bus.instances[0].published.iter();
    let says = says.filter(|(_, bytes)| bytes.starts_with(b"weirgate-events/1 i0 answer 0 0\n"));
    assert!(says.count() > 0);
}

/// A part of a push of another instance, whose body has as many bytes as the line says.
fn part(number: u64, (part, parts): (u32, u32), whole: usize, bytes: usize) -> Vec<u8> {
    let line = format!("weirgate-events/1 other push {number} {part} {parts} {whole}\n");
    let mut message = line.into_bytes();
    message.resize(message.len() + bytes, b' ');
    message
}

#[test]
fn a_push_whose_parts_are_lost_or_too_many_has_no_effect() {
    let mut bus = Bus::new(1);
    let key = bus.instances[0].connect("a");
    bus.inject(&part(1, (0, 3), 30, 10));
    bus.inject(&part(1, (2, 3), 30, 10));
    assert_eq!(bus.instances[0].ignored("incomplete"), 1);
    bus.inject(&part(2, (1, 2), 20, 10));
    assert_eq!(bus.instances[0].ignored("incomplete"), 2);
    // The next push comes before the last part.
    bus.inject(&part(3, (0, 2), 20, 10));
    bus.inject(&part(4, (0, 2), 20, 10));
    assert_eq!(bus.instances[0].ignored("incomplete"), 3);
    // Over the size of one push, said or sent.
    bus.inject(&part(5, (0, 1), 10_001, 10_001));
    bus.inject(&part(6, (0, 2), 10_001, 10));
    bus.inject(&part(6, (1, 2), 10_001, 10));
    assert_eq!(bus.instances[0].ignored("too_large"), 3);
    assert_eq!(bus.instances[0].ignored("incomplete"), 4);
    // Several at once may hold twice that.
    for (sender, too_large) in [("x", 3), ("y", 3), ("other", 4)] {
        let bytes = String::from_utf8(part(9, (0, 2), 9_500, 9_000)).expect("text");
        bus.inject(bytes.replace("other", sender).as_bytes());
        assert_eq!(bus.instances[0].ignored("too_large"), too_large, "{sender}");
    }
    assert!(bus.instances[0].world.texts(key).is_empty());
    assert_eq!(bus.instances[0].stats.received.get(), 0);
}

#[test]
fn a_push_that_is_not_as_long_as_its_line_says_has_no_effect() {
    let mut bus = Bus::new(1);
    let key = bus.instances[0].connect("a");
    let body = body(&["a"], r#"{"x":"0123456789"}"#);
    let whole = body.len();
    let mut inject = |number: u64, (at, parts): (u32, u32), bytes: usize, text: &str| {
        let line = format!("weirgate-events/1 other push {number} {at} {parts} {bytes}\n{text}");
        bus.inject(line.as_bytes());
        let one = &bus.instances[0];
        (one.ignored("incomplete"), one.ignored("bad"))
    };
    // The text is cut in the middle, and is good JSON.
    let (first, rest) = body.split_at(body.find("123").expect("it"));
    inject(1, (0, 2), whole, first);
    assert_eq!(inject(1, (1, 2), whole, &rest[3..]), (1, 0));
    // A part too few, by the line of each part.
    inject(2, (0, 3), whole, first);
    assert_eq!(inject(2, (1, 2), whole, rest), (2, 0));
    inject(3, (0, 2), whole, first);
    assert_eq!(inject(3, (1, 2), whole - 1, rest), (3, 0));
    assert_eq!(inject(4, (0, 1), whole + 1, &body), (4, 0));
    assert_eq!(inject(5, (0, 1), whole - 1, &body), (4, 1));
    // The form of instances that said no length.
    let old = format!("weirgate-events/1 other push 6 0 1\n{body}");
    bus.inject(old.as_bytes());
    assert_eq!(bus.instances[0].ignored("bad"), 2);
    assert_eq!(
        bus.others(),
        [2],
        "an old instance is there, and so it is missing"
    );
    assert!(bus.instances[0].world.texts(key).is_empty());
    let good = format!("weirgate-events/1 other push 7 0 1 {whole}\n{body}");
    bus.inject(good.as_bytes());
    assert_eq!(bus.instances[0].world.texts(key).len(), 1);
}

#[test]
fn a_message_over_the_limit_of_the_bus_is_no_part_of_a_push() {
    let mut bus = Bus::with(vec![ExchangeSettings {
        push_bytes_max: 3 * Exchange::MESSAGE_BYTES_MAX,
        ..exchange_settings()
    }]);
    let bytes = Exchange::MESSAGE_BYTES_MAX - 100;
    let largest = part(1, (0, 2), 2 * bytes, bytes);
    bus.inject(&largest);
    assert_eq!(bus.instances[0].ignored("too_large"), 0);
    let cut = part(
        2,
        (0, 2),
        2 * Exchange::MESSAGE_BYTES_MAX,
        Exchange::MESSAGE_BYTES_MAX,
    );
    bus.inject(&cut[..=Exchange::MESSAGE_BYTES_MAX]);
    assert_eq!(bus.instances[0].ignored("too_large"), 1);
}

#[test]
fn one_instance_too_many_is_ignored() {
    let mut bus = Bus::new(4);
    assert_eq!(bus.others(), [4, 4, 4, 4]);
    let here = |id: &str| format!("weirgate-events/1 {id} here\n");
    let text = body(&["a"], "{}");
    let push = |id: &str| format!("weirgate-events/1 {id} push 1 0 1 {}\n{text}", text.len());
    let key = bus.instances[0].connect("a");
    bus.inject(here("e").as_bytes());
    bus.inject(push("e").as_bytes());
    assert_eq!(bus.instances[0].ignored("instances"), 2);
    assert!(bus.instances[0].world.texts(key).is_empty());
    // Its devices get no push of those that have no room for it, either: a service is told.
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (1, true, vec!["e"]));
    assert_eq!(bus.instances[0].world.texts(key), [event("{}")]);
    // One that is gone makes room.
    bus.connect(3, false);
    bus.advance(4_000);
    bus.inject(push("e").as_bytes());
    assert_eq!(bus.instances[0].world.texts(key), [event("{}")]);
    for n in 0..10_000 {
        bus.inject(here(&format!("f{n}")).as_bytes());
    }
    assert_eq!(bus.others()[..3], [4, 4, 4]);
}

#[test]
fn two_machines_with_the_most_processes_miss_nobody() {
    const INSTANCES: usize = 2 * 64;
    let mut bus = Bus::with(vec![ExchangeSettings::default(); INSTANCES]);
    assert_eq!(bus.others(), [INSTANCES as u64; INSTANCES]);
    for instance in &mut bus.instances {
        instance.connect("a");
    }
    let pushed = bus.push(0, &["a"], "{}");
    assert_eq!(bus.answer(0, pushed), (INSTANCES as u64, true, vec![]));
    bus.instances[INSTANCES - 1].is_connected = false;
    let pushed = bus.push(0, &["a"], "{}");
    bus.advance(WAIT_US / 1_000);
    let told = bus.answer(0, pushed);
    assert_eq!(told, (INSTANCES as u64 - 1, true, vec!["i127"]));
}

#[test]
fn what_is_no_message_is_counted_and_has_no_effect() {
    let mut bus = Bus::new(1);
    let key = bus.instances[0].connect("a");
    for bytes in [
        &b""[..],
        b"PING",
        b"\xff\xfe\n",
        b"weirgate-events/2 x here\n",
        b"weirgate-events/1 x.> here\n",
        br#"{"event":"e","targets":{"device_ids":["a"]}}"#,
    ] {
        bus.inject(bytes);
    }
    assert_eq!(bus.instances[0].ignored("bad"), 6);
    // Answers to no question, and larger than any count.
    bus.inject(format!("weirgate-events/1 x answer 9 {}\n", u64::MAX).as_bytes());
    bus.advance(500);
    let pushed = bus.push(0, &["a"], "{}");
    for sender in ["x", "x", "y"] {
        bus.inject(
            format!(
                "weirgate-events/1 {sender} answer {} {}\n",
                pushed.1,
                u64::MAX
            )
            .as_bytes(),
        );
    }
    bus.advance(WAIT_US / 1_000);
    let (sent, is_up, _) = bus.answer(0, (0, pushed.1));
    assert_eq!((sent, is_up), (u64::MAX, true));
    assert_eq!(bus.instances[0].world.texts(key).len(), 1);
}
