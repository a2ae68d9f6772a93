use super::*;

/// Recorded samples of clients with a known cause: `tests/vectors/slow/samples.tsv`.
const SAMPLES: &str = include_str!("../../../tests/vectors/slow/samples.tsv");

struct Row {
    client: String,
    want: String,
    is_slow: bool,
    sample: TcpSample,
}

fn rows() -> Vec<Row> {
    let mut lines = SAMPLES
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let names = lines.next().expect("a header");
    let row = |cells: Vec<&str>| {
        let cell = |name| cells[names.iter().position(|one| *one == name).expect(name)];
        let number = |name| cell(name).parse::<u64>().expect(name);
        let small = |name| u32::try_from(number(name)).expect(name);
        Row {
            client: format!("{} {}", cell("run"), cell("cause")),
            want: cell("want").to_owned(),
            is_slow: cell("slow") == "1",
            sample: TcpSample {
                at_us: (cell("t").parse::<f64>().expect("a time") * 1e6) as u64,
                retransmits: number("retransmits") as u8,
                mss_bytes: small("mss"),
                last_ack_ms: small("last_ack"),
                rtt_us: small("rtt"),
                min_rtt_us: small("min_rtt"),
                cwnd_segments: small("cwnd"),
                unsent_bytes: 0,
                window_bytes: small("snd_wnd"),
                sent_bytes: number("sent"),
                resent_bytes: number("retrans"),
                acked_bytes: number("acked"),
                busy_us: number("busy"),
                window_limited_us: number("rwnd"),
            },
        }
    };
    lines.map(row).collect()
}

#[test]
fn recorded_clients_are_slow_for_their_known_cause() {
    let rows = rows();
    let (mut verdicts, mut wrong) = (0, Vec::new());
    let mut before = None;
    for neighbours in rows.windows(2) {
        let [first, second] = neighbours else {
            continue;
        };
        if first.client != second.client {
            before = None;
            continue;
        }
        let pair = Pair::new(first.sample, second.sample).expect("later");
        if !second.is_slow {
            continue;
        }
        let cause = pair.cause(0);
        let why = cause.why().or(before).unwrap_or(SlowReason::Unclear);
        before = Some(why);
        verdicts += 1;
        let is_right = match why {
            SlowReason::Silent => second.want == "network",
            why => why.label() == second.want,
        };
        let say = pair.say(cause, 0, 0);
        if !is_right {
            wrong.push(format!(
                "{} at {}: {why:?}, {say}",
                second.client, second.sample.at_us
            ));
        }
        assert!(!say.contains("NaN") && !say.contains("inf"), "{say}");
    }
    assert_eq!(verdicts, 374);
    assert!(wrong.len() * 100 <= verdicts, "{wrong:#?}");
}

/// A client that reads slowly: a second in which the window was the limit all the time.
fn pair() -> Pair {
    let before = TcpSample {
        mss_bytes: 1_000,
        rtt_us: 1_000,
        min_rtt_us: 1_000,
        cwnd_segments: 100,
        window_bytes: 50_000,
        ..TcpSample::default()
    };
    let after = TcpSample {
        at_us: 1_000_000,
        busy_us: 1_000_000,
        window_limited_us: 1_000_000,
        sent_bytes: 60_000,
        acked_bytes: 20_000,
        ..before
    };
    Pair { before, after }
}

fn cause(change: impl FnOnce(&mut TcpSample)) -> Cause {
    let mut pair = pair();
    change(&mut pair.after);
    pair.cause(0)
}

#[test]
fn each_rule_has_its_edges() {
    use Cause::*;

    assert_eq!(cause(|_| ()), Reads);
    assert_eq!(cause(|s| s.busy_us = 500_000), Reads);
    assert_eq!(cause(|s| s.busy_us = 499_999), Idle);
    let mut idle = pair();
    idle.after.busy_us = 0;
    assert_eq!([idle.cause(49_999), idle.cause(50_000)], [Idle, Late]);
    let silent = |retransmits, last_ack_ms, acked_bytes| {
        cause(|s| {
            (s.retransmits, s.last_ack_ms) = (retransmits, last_ack_ms);
            s.acked_bytes = acked_bytes;
        })
    };
    assert_eq!(silent(2, 1_000, 59_000), Silent);
    assert_eq!(silent(1, 1_000, 59_000), Reads);
    assert_eq!(silent(2, 999, 59_000), Reads);
    assert_eq!(
        silent(2, 1_000, 59_001),
        Reads,
        "nothing of a segment is under way"
    );
    let queued = |rtt_us, min_rtt_us, in_flight| {
        cause(|s| {
            (s.rtt_us, s.min_rtt_us) = (rtt_us, min_rtt_us);
            s.acked_bytes = s.sent_bytes - in_flight;
            // Otherwise so many bytes a round trip would be a small window.
            s.window_bytes = 10_000;
            s.cwnd_segments = 1;
        })
    };
    assert_eq!(queued(300_000, 100_000, 3_000), Queued);
    assert_eq!(queued(299_999, 100_000, 3_000), Reads);
    assert_eq!(
        queued(200_000, 1_000, 3_000),
        Reads,
        "less than 200 ms of queue"
    );
    assert_eq!(
        queued(300_000, 100_000, 2_999),
        Reads,
        "less than 30 % of the window"
    );
    let window = |rtt_us, min_rtt_us, window_bytes, cwnd_segments| {
        cause(|s| {
            (s.rtt_us, s.min_rtt_us) = (rtt_us, min_rtt_us);
            (s.window_bytes, s.cwnd_segments) = (window_bytes, cwnd_segments);
        })
    };
    assert_eq!(window(100_000, 100_000, 4_000, 5), Window);
    assert_eq!(window(99_000, 99_000, 4_000, 5), Reads);
    assert_eq!(window(150_000, 50_000, 4_000, 5), Window);
    assert_eq!(
        window(150_000, 49_999, 4_000, 5),
        Reads,
        "the round trip is long because the client reads in pieces"
    );
    assert_eq!(
        window(100_000, 100_000, 4_000, 4),
        Reads,
        "the path allows no more than the window"
    );
    assert_eq!(window(100_000, 100_000, 1_000, 5), Window);
    assert_eq!(
        window(100_000, 100_000, 999, 5),
        Reads,
        "the client's program has filled the window, with a segment under way"
    );
    let closed = |window_bytes, acked_bytes| {
        cause(|s| (s.window_bytes, s.acked_bytes) = (window_bytes, acked_bytes))
    };
    assert_eq!(closed(999, 59_001), Closed);
    assert_ne!(closed(999, 59_000), Closed);
    let reads = |limited_us, in_flight| {
        cause(|s| {
            s.window_limited_us = limited_us;
            s.acked_bytes = s.sent_bytes - in_flight;
        })
    };
    assert_eq!(reads(500_000, 0), Reads);
    assert_eq!(reads(499_999, 49_000), Path);
    assert_eq!(reads(200_000, 49_001), Reads);
    assert_eq!(reads(199_999, 49_001), Path);
}

#[test]
fn equal_samples_and_jumps_of_counters_give_no_cause_and_no_panic() {
    let now = pair().after;
    assert!(Pair::new(now, now).is_none());
    let back = TcpSample {
        at_us: now.at_us + 1,
        ..TcpSample::default()
    };
    let pair = Pair::new(now, back).expect("later");
    assert_eq!(pair.cause(0).why(), None);
    let most = TcpSample {
        at_us: u64::MAX,
        retransmits: u8::MAX,
        mss_bytes: u32::MAX,
        rtt_us: u32::MAX,
        cwnd_segments: u32::MAX,
        window_bytes: u32::MAX,
        sent_bytes: u64::MAX,
        resent_bytes: u64::MAX,
        acked_bytes: u64::MAX,
        busy_us: u64::MAX / 8,
        window_limited_us: u64::MAX / 8,
        ..now
    };
    let pair = Pair::new(back, most).expect("later");
    pair.say(pair.cause(u64::MAX), u64::MAX, u64::MAX);
}

#[test]
fn a_line_for_a_person_has_figures() {
    let pair = pair();
    let says = |cause| pair.say(cause, 300_000, 9_100_000);
    assert_eq!(
        says(Cause::Late),
        "our loop was late: 300 ms in the last second"
    );
    assert_eq!(
        says(Cause::Closed),
        "takes nothing for 9.1 s: its window is closed"
    );
    assert_eq!(says(Cause::Reads), "reads 19.5 KiB/s");
    assert_eq!(
        says(Cause::Window),
        "its 48.8 KiB window allows 47.7 MiB/s at 1.0 ms"
    );
    assert_eq!(
        says(Cause::Path),
        "its path carries 19.5 KiB/s; round trip 1.0 ms, was 1.0 ms"
    );
    let mut lossy = pair;
    lossy.after.resent_bytes = 1_200;
    assert_eq!(
        lossy.say(Cause::Path, 0, 0),
        "its path loses 2.0 %, carries 19.5 KiB/s; round trip 1.0 ms"
    );
    let mut silent = pair;
    (silent.after.retransmits, silent.after.last_ack_ms) = (3, 3_100);
    assert_eq!(
        silent.say(Cause::Silent, 0, 0),
        "no acknowledgement for 3.1 s, 3 retransmissions"
    );
}
