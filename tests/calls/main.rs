//! Calls of services over real sockets: each service is a thread that says what the test wants.

mod rig;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use rig::{
    Asked, Outcome, PATIENCE, ReadWrite, SILENCE, Script, World, body, hang, limits, ok, patient,
    say,
};
use weirgate::gateways::events::EventsService;
use weirgate::gateways::events::call::CallFailure;
use weirgate::gateways::events::http_calls::CallLimits;
use weirgate_wire::admission::Quota;

#[test]
fn a_call_is_a_post_and_its_answer_comes_back_as_it_was() {
    let echo: Script = |stream, asked| {
        let body = &asked.text;
        let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let head = "HTTP/1.1 307 Elsewhere\r\nLocation: /x\r\nContent-Type: Text/Odd; a=b\r\n\
                    Content-Encoding: GZip\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n";
        say(stream, head) && say(stream, &chunk)
    };
    let world = World::with(echo, "/base/", limits());
    for _ in 0..2 {
        world.make(r#"{"a":1}"#);
        let answer = world.reply().expect("an answer");
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (307, "Text/Odd; a=b")
        );
        let asked = String::from_utf8(answer.body).expect("text");
        assert!(
            asked.starts_with("post /base/gateway/handle http/1.1\r\n"),
            "{asked}"
        );
        assert!(asked.ends_with("\r\n\r\n{\"a\":1}"), "{asked}");
        for header in [
            "\r\nhost: 127.0.0.1:",
            "\r\ncontent-type: application/json\r\n",
            "\r\naccept-encoding: identity\r\n",
            "\r\ntraceparent: 00-1-2-01\r\n",
            "\r\ntracestate: a=b,c=d\r\n",
        ] {
            assert!(asked.contains(header), "{asked}");
        }
        assert!(!asked.contains("cookie"), "{asked}");
    }
    assert_eq!(world.requests(), 2, "redirects are not followed");
    assert_eq!(world.ended()[0], (["lobby", "answered"], 2));
    assert_eq!(world.in_flight(), 0);
}

#[test]
fn an_answer_that_was_compressed_all_the_same_is_read() {
    let gzip: Script = |stream, _| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"[1]").expect("memory");
        let body = encoder.finish().expect("memory");
        let head = "HTTP/1.1 200 OK\r\nContent-Encoding: GZip\r\nContent-Length: ";
        say(stream, &format!("{head}{}\r\n\r\n", body.len())) && stream.write_all(&body).is_ok()
    };
    assert_eq!(body(World::new(gzip).call()), "[1]");
}

#[test]
fn a_service_that_says_nothing_is_given_up() {
    let silent: Script = |stream, _| hang(stream);
    let within: Script =
        |stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") && hang(stream);
    for script in [silent, within] {
        let world = World::new(script);
        assert_eq!(world.call(), Err(CallFailure::Timeout));
        assert_eq!(world.requests(), 1, "it is not asked again");
    }
}

#[test]
fn a_slow_service_has_time_while_it_goes_on() {
    let slow: Script = |stream, _| {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow";
        // Longer in all than one silence may be.
        text.as_bytes().chunks(6).all(|part| {
            thread::sleep(SILENCE / 5);
            stream.write_all(part).is_ok()
        })
    };
    assert_eq!(body(World::new(slow).call()), "slow");
    let for_ever: Script = |stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
        while say(stream, "x") {
            thread::sleep(SILENCE / 10);
        }
        false
    };
    let short = CallLimits {
        whole: 2 * SILENCE,
        ..limits()
    };
    let outcome = World::with(for_ever, "/", short).call();
    assert_eq!(outcome, Err(CallFailure::Timeout), "but not for ever");
}

#[test]
fn an_answer_over_its_limit_is_not_read_to_its_end() {
    let announced: Script =
        |stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n") && hang(stream);
    let endless: Script = |stream, _| {
        say(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        while say(stream, "64\r\n") && say(stream, &"x".repeat(100)) && say(stream, "\r\n") {}
        false
    };
    let many_lines: Script = |stream, _| {
        let lines: String = (1..=101).map(|n| format!("X-{n}: 1\r\n")).collect();
        say(stream, &format!("HTTP/1.1 200 OK\r\n{lines}\r\n")) && hang(stream)
    };
    let large_head: Script = |stream, _| {
        let value = "x".repeat(200_000);
        say(stream, &format!("HTTP/1.1 200 OK\r\nX: {value}\r\n\r\n")) && hang(stream)
    };
    for script in [announced, endless, many_lines, large_head] {
        assert_eq!(World::new(script).call(), Err(CallFailure::TooLarge));
    }
    let just: Script = |stream, _| ok(stream, &"x".repeat(1000));
    assert_eq!(body(World::new(just).call()).len(), 1000);
}

#[test]
fn answers_of_all_calls_have_one_limit() {
    // Half of the answer comes, and nothing more.
    let rests: Script = |stream, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        say(stream, &(head.to_owned() + &"x".repeat(500))) && hang(stream)
    };
    let answers = Quota::new("answer_bytes", 2_000);
    let limits = CallLimits {
        answers: answers.clone(),
        ..patient()
    };
    let world = World::with(rests, "/", limits);
    for _ in 0..4 {
        world.make("{}");
    }
    let too_large = || {
        let ended = world.ended();
        let found = ended.iter().find(|(labels, _)| labels[1] == "too_large");
        found.map(|(_, number)| *number)
    };
    // Each takes 1,000 bytes, as announced: the third makes two of them give way, so that an eighth is free.
    for _ in 0..2 {
        assert_eq!(world.reply(), Err(CallFailure::TooLarge));
    }
    assert_eq!(too_large(), Some(2));
    assert!(answers.held() <= 2_000, "{answers:?}");
}

/// The bytes of the answers of [`swelling`] without their coding.
const SWOLLEN_BYTES: usize = 900_000;

/// Answers with some hundred bytes of gzip, or as `deflate`, if the request ends with that.
fn swelling(stream: &mut dyn ReadWrite, asked: &Asked) -> bool {
    let is_deflate = asked.text.ends_with("deflate");
    let plain = vec![b'x'; SWOLLEN_BYTES];
    let (coding, body) = match is_deflate {
        true => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&plain).expect("memory");
            ("deflate", encoder.finish())
        }
        false => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&plain).expect("memory");
            ("gzip", encoder.finish())
        }
    };
    let body = body.expect("memory");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: ");
    say(stream, &format!("{head}{}\r\n\r\n", body.len())) && stream.write_all(&body).is_ok()
}

#[test]
fn answers_of_all_calls_have_one_limit_when_they_are_decoded_too() {
    const ANSWERS_BYTES_MAX: u64 = 1_500_000;
    // Two decode at a time, and one that gives way may have yet to notice.
    const BEYOND_BYTES: u64 = 2 * 64 * 1024 + SWOLLEN_BYTES as u64;
    let answers = Quota::new("answer_bytes", ANSWERS_BYTES_MAX);
    let limits = CallLimits {
        answer_bytes_max: SWOLLEN_BYTES,
        answers: answers.clone(),
        ..patient()
    };
    let world = World::with(swelling, "/", limits);
    let most = Arc::new(AtomicU64::new(0));
    for n in 0..8 {
        let (most, answers) = (Arc::clone(&most), answers.clone());
        world.make_read(["gzip", "deflate"][n % 2], move || {
            // The others have time to be decoded meanwhile.
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(10));
                most.fetch_max(answers.held(), SeqCst);
            }
        });
    }
    let outcomes = world.replies(8);
    let is_whole = |one: &Outcome| matches!(one, Ok(answer) if answer.body.len() == SWOLLEN_BYTES);
    let is_refused = |one: &Outcome| *one == Err(CallFailure::TooLarge);
    assert!(outcomes.iter().all(|one| is_whole(one) || is_refused(one)));
    assert!(outcomes.iter().any(is_whole), "not all give way");
    let most = most.load(SeqCst);
    assert!(most <= ANSWERS_BYTES_MAX + BEYOND_BYTES, "{most}");
    assert_eq!(answers.held(), 0);
}

#[test]
fn calls_go_on_while_an_answer_is_decoded() {
    const LARGE_BYTES: usize = 400_000;
    let script: Script = |stream, asked| match asked.text.rsplit('\n').next() {
        Some("large") => ok(stream, &"x".repeat(LARGE_BYTES)),
        Some("gzip") => swelling(stream, asked),
        _ => ok(stream, "x"),
    };
    let limits = CallLimits {
        answer_bytes_max: SWOLLEN_BYTES,
        ..patient()
    };
    let world = World::with(script, "/", limits);
    let desk = Arc::new(Desk::default());
    for _ in 0..2 {
        let desk = Arc::clone(&desk);
        world.make_read("large", move || desk.read());
    }
    desk.wait_for(2);
    while world.in_flight() > 0 {
        thread::yield_now();
    }
    // Both threads for large answers are busy. What is large only without its coding waits for one of them too.
    world.make("gzip");
    while world.requests() < 3 {
        thread::yield_now();
    }
    for _ in 0..30 {
        assert_eq!(body(world.call()), "x");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(
        world.in_flight(),
        1,
        "it is not decoded on the thread of the calls"
    );
    desk.go_on();
    let mut bytes: Vec<_> = world
        .replies(3)
        .into_iter()
        .map(|one| body(one).len())
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [LARGE_BYTES, LARGE_BYTES, SWOLLEN_BYTES]);
}

#[test]
fn a_kept_connection_that_turns_out_closed_is_replaced() {
    let resets: Script = |stream, asked| {
        asked.of_connection == 0 && ok(stream, &asked.connection.to_string()) || stream.reset()
    };
    // As one whose end was on its way when the request was sent.
    let ends_then_resets: Script = |stream, asked| {
        if asked.of_connection == 0 {
            return ok(stream, &asked.connection.to_string());
        }
        stream.end();
        thread::sleep(Duration::from_millis(10));
        stream.reset()
    };
    // TLS says its own end before that of the connection.
    for (script, over_tls) in [
        (resets, false),
        (ends_then_resets, false),
        (resets, true),
        (ends_then_resets, true),
    ] {
        // On a busy machine a reset may come too late to be taken for a crossing.
        let are_replaced = |_| {
            let world = kept_world(script, over_tls);
            let answers = (0..3).map(|_| world.call());
            let bodies: Vec<_> = answers.map_while(Result::ok).map(|one| one.body).collect();
            bodies == [b"0", b"1", b"2"] && world.requests() == 5
        };
        assert!(
            (0..50).any(are_replaced),
            "one each, and two that met the end, over TLS: {over_tls}"
        );
    }
    let ends: Script = |stream, asked| {
        ok(stream, &asked.connection.to_string());
        stream.end();
        false
    };
    for over_tls in [false, true] {
        let world = kept_world(ends, over_tls);
        for connection in 0..20 {
            assert_eq!(body(world.call()), connection.to_string());
        }
    }
}

fn kept_world(script: Script, over_tls: bool) -> World {
    match over_tls {
        true => World::over_tls(script, "localhost"),
        false => World::with(script, "/", patient()),
    }
}

/// Nothing is called any more, and the services close no connection.
#[test]
fn idle_connections_are_closed_after_their_time() {
    let world = World::of_two(|stream, _| ok(stream, "{}"), limits());
    let call = |service| {
        world.make_to(service, "{}", || {});
        world.reply().expect("an answer");
    };
    for _ in 0..2 {
        call(EventsService::LOBBY);
        call(EventsService::MEASUREMENT);
    }
    world.wait_for_open(&[1, 1], PATIENCE);
    thread::sleep(Duration::from_secs(3));
    call(EventsService::LOBBY);
    world.wait_for_open(&[1, 0], Duration::from_secs(2));
    world.wait_for_open(&[0, 0], Duration::from_secs(5));
}

#[test]
fn a_new_connection_closes_the_idle_one_of_any_service_that_is_the_oldest() {
    let two = CallLimits {
        connections_max: 2,
        ..limits()
    };
    // Slow enough that a call meets the one before it.
    let script: Script = |stream, asked| {
        let pause = match asked.text.rsplit("\r\n").next() {
            Some("slow") => 4 * SILENCE / 10,
            Some("slower") => 8 * SILENCE / 10,
            _ => Duration::ZERO,
        };
        thread::sleep(pause);
        ok(stream, "{}")
    };
    let world = World::of_two(script, two);
    let make = |service, body| world.make_to(service, body, || {});
    for _ in 0..2 {
        make(EventsService::LOBBY, "slow");
    }
    assert!(world.replies(2).iter().all(Result::is_ok));
    world.wait_for_open(&[2, 0], PATIENCE);
    make(EventsService::MEASUREMENT, "{}");
    world.reply().expect("an answer");
    world.wait_for_open(&[1, 1], PATIENCE);
    // Those that have a call are not closed: another call waits for its connection.
    make(EventsService::LOBBY, "slow");
    for _ in 0..2 {
        make(EventsService::MEASUREMENT, "slower");
    }
    assert!(world.replies(3).iter().all(Result::is_ok));
    world.wait_for_open(&[0, 2], PATIENCE);
}

/// And so is the buffer for reading, which stays with the connection.
#[test]
fn a_head_of_an_answer_is_bounded_as_for_the_proxy() {
    let large: Script = |stream, asked| {
        let bytes = asked.text.rsplit("\r\n").next().expect("a body").parse();
        let padding = "x".repeat(bytes.expect("a number"));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: ";
        say(stream, &format!("{head}{padding}\r\n\r\n{{}}"))
    };
    let world = World::new(large);
    for (bytes, is_ok) in [("60000", true), ("300000", false)] {
        world.make(bytes);
        assert_eq!(world.reply().is_ok(), is_ok, "{bytes}");
    }
}

#[test]
fn what_a_service_took_is_not_asked_again() {
    let cuts: Script = |stream, asked| asked.of_connection == 0 && ok(stream, "");
    let dies: Script = |stream, asked| {
        if asked.of_connection == 0 {
            return ok(stream, "");
        }
        thread::sleep(Duration::from_millis(25));
        stream.reset()
    };
    let ends: Script = |stream, asked| {
        asked.of_connection == 0 && ok(stream, "") || {
            stream.end();
            false
        }
    };
    // A part of an answer, and then a reset.
    let begins: Script = |stream, asked| {
        asked.of_connection == 0 && ok(stream, "") || {
            say(stream, "HTTP/1.1 200 ");
            thread::sleep(Duration::from_millis(5));
            stream.reset()
        }
    };
    let scripts = [cuts, dies, ends, begins].into_iter();
    for (script, over_tls) in scripts.flat_map(|one| [(one, false), (one, true)]) {
        let world = kept_world(script, over_tls);
        assert_eq!(body(world.call()), "");
        assert_eq!(world.call(), Err(CallFailure::Unreachable));
        assert_eq!(world.requests(), 2);
    }
}

#[test]
fn cut_refused_and_nonsense_are_unreachable() {
    let cut: Script = |_, _| false;
    let cut_within: Script = |stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        false
    };
    let nonsense: Script = |stream, _| say(stream, "220 smtp ready\r\n\r\n");
    for script in [cut, cut_within, nonsense] {
        let world = World::new(script);
        assert_eq!(world.call(), Err(CallFailure::Unreachable));
        assert_eq!(world.requests(), 1, "it is not asked again");
    }
    // Nobody listens at port 1.
    for url in ["http://127.0.0.1:1", "http://no.such.host.invalid"] {
        let world = World::at(url, Arc::default(), None, patient());
        assert_eq!(world.call(), Err(CallFailure::Unreachable), "{url}");
    }
}

#[test]
fn calls_do_not_wait_for_each_other() {
    let by_body: Script = |stream, asked| match asked.text.ends_with("slow") {
        true => hang(stream),
        false => ok(stream, "quick"),
    };
    let world = World::new(by_body);
    world.make("slow");
    for _ in 0..5 {
        assert_eq!(body(world.call()), "quick");
    }
    assert_eq!(world.reply(), Err(CallFailure::Timeout));
}

/// Readers at work, and whether they may go on.
#[derive(Default)]
struct Desk {
    reading: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Desk {
    fn read(&self) {
        let mut reading = self.reading.lock().expect("no panic");
        reading.0 += 1;
        self.changed.notify_all();
        let done = self.changed.wait_while(reading, |(_, go_on)| !*go_on);
        drop(done.expect("no panic"));
    }

    fn wait_for(&self, readers: usize) {
        let reading = self.reading.lock().expect("no panic");
        let few = |(now, _): &mut (usize, bool)| *now < readers;
        let waited = self.changed.wait_timeout_while(reading, PATIENCE, few);
        assert!(!waited.expect("no panic").1.timed_out(), "too few readers");
    }

    fn go_on(&self) {
        self.reading.lock().expect("no panic").1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn calls_go_on_while_large_answers_are_read_two_at_a_time() {
    const LARGE_BYTES: usize = 400_000;
    let script: Script = |stream, asked| {
        let large = asked.text.ends_with("large");
        ok(stream, &"x".repeat(if large { LARGE_BYTES } else { 1 }))
    };
    let limits = CallLimits {
        answer_bytes_max: LARGE_BYTES,
        ..patient()
    };
    let world = World::with(script, "/", limits);
    let desk = Arc::new(Desk::default());
    for _ in 0..3 {
        let desk = Arc::clone(&desk);
        world.make_read("large", move || desk.read());
    }
    desk.wait_for(2);
    while world.in_flight() > 0 {
        thread::yield_now();
    }
    assert_eq!(body(world.call()), "x", "it waits for no reader");
    assert_eq!(desk.reading.lock().expect("no panic").0, 2);
    desk.go_on();
    for _ in 0..3 {
        assert_eq!(body(world.reply()).len(), LARGE_BYTES);
    }
}

#[test]
fn a_service_at_https_has_to_be_who_it_should_be() {
    for (host, outcome) in [
        ("localhost", Ok("secret".to_owned())),
        ("127.0.0.1", Err(CallFailure::Unreachable)),
    ] {
        let world = World::over_tls(|stream, _| ok(stream, "secret"), host);
        let text = world
            .call()
            .map(|answer| String::from_utf8(answer.body).expect("text"));
        assert_eq!(text, outcome, "{host}");
    }
}
