use std::net::IpAddr;

use super::*;
use weirgate_wire::auth::{Refusal, TokenMarks};
use weirgate_wire::base::SplitMix64;

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 60 * 60 * 1000;

fn cut(json: &str) -> Cut {
    Cut::read(json.as_bytes()).unwrap_or_else(|wrong| panic!("{json}: {wrong}"))
}

fn marks(jti: &str, roles: &[&str], issued: Option<i64>) -> TokenMarks {
    TokenMarks {
        jti: Some(jti.into()),
        roles: roles.iter().map(|role| (*role).into()).collect(),
        digest: Some(format!("digest of {jti}").into()),
        issued_unix_ms: issued,
        expires_unix_ms: None,
    }
}

fn connected<'a>(user: &'a str, marks: &'a TokenMarks) -> Connected<'a> {
    Connected {
        user: Some(user),
        certificate: None,
        address: Some(IpAddr::from([192, 0, 2, 1])),
        session: "1-1",
        marks: Some(marks),
    }
}

impl Revoked {
    fn refuse(&self, who: &Connected<'_>, now_unix_ms: i64) -> bool {
        self.admit(who, now_unix_ms).is_err()
    }
}

#[test]
fn what_chooses_nobody_is_refused_with_the_reason() {
    for (json, words) in [
        ("", "wanted: a JSON object"),
        ("[]", "wanted: a JSON object"),
        ("{}", "wanted: a JSON object"),
        (r#"{"until":5}"#, "wanted: a JSON object"),
        (r#"{"user":null}"#, "wanted: a JSON object"),
        (r#"{"user":""}"#, "user: 1 to 8192 bytes"),
        (r#"{"user":7}"#, "wanted: a JSON object"),
        (r#"{"users":"ann"}"#, "users"),
        (r#"{"user":"a","user":"b"}"#, "user"),
        (r#"{"address":"192.0.2"}"#, "address"),
        (r#"{"user":"ann","until":"tomorrow"}"#, "wanted"),
    ] {
        let wrong = Cut::read(json.as_bytes()).expect_err(json);
        assert!(
            wrong.contains(words) && !wrong.contains('\n'),
            "{json}: {wrong}"
        );
    }
    let long = format!(
        r#"{{"user":"{}"}}"#,
        "a".repeat(Refusal::TOKEN_BYTES_MAX + 1)
    );
    assert!(Cut::read(long.as_bytes()).is_err());
    let mapped = cut(r#"{"address":"::ffff:192.0.2.1"}"#);
    assert_eq!(mapped.address, Some(IpAddr::from([192, 0, 2, 1])));
}

#[test]
fn a_time_that_means_nothing_is_refused_with_the_reason() {
    let (ahead, passed) = (NOW / 1000 + 60, NOW / 1000);
    for (json, in_request, in_file) in [
        (format!(r#"{{"user":"ann","until":{ahead}}}"#), "", ""),
        (
            format!(r#"{{"user":"ann","until":{ahead},"since":{passed}}}"#),
            "",
            "",
        ),
        (format!(r#"{{"session":"1-1","until":{ahead}}}"#), "", ""),
        (
            format!(r#"{{"user":"ann","until":{passed}}}"#),
            "has passed",
            "",
        ),
        (
            format!(r#"{{"user":"ann","until":{}}}"#, NOW + HOUR),
            "seconds",
            "seconds",
        ),
        (
            format!(r#"{{"user":"ann","since":{}}}"#, passed - 86_400),
            "more than a day ago",
            "",
        ),
        (
            format!(r#"{{"user":"ann","since":{}}}"#, passed - 86_399),
            "",
            "",
        ),
        (
            format!(r#"{{"user":"ann","since":{NOW}}}"#),
            "seconds",
            "seconds",
        ),
        (
            format!(r#"{{"user":"ann","until":{}}}"#, i64::MAX),
            "seconds",
            "seconds",
        ),
        (format!(r#"{{"role":"guest","until":{ahead}}}"#), "role", ""),
        (
            format!(r#"{{"role":"guest","user":"ann","until":{ahead}}}"#),
            "",
            "",
        ),
        (r#"{"role":"guest"}"#.to_owned(), "", ""),
    ] {
        let cut = cut(&json);
        for (checked, words) in [
            (cut.check_request(NOW), in_request),
            (cut.check_times(NOW), in_file),
        ] {
            match checked {
                Ok(()) => assert_eq!(words, "", "{json}"),
                Err(wrong) => assert!(
                    !words.is_empty() && wrong.contains(words),
                    "{json}: {wrong}"
                ),
            }
        }
    }
}

#[test]
fn a_role_or_a_connection_alone_is_closed_and_may_come_back() {
    for (json, lasts) in [
        (r#"{"role":"guest"}"#, false),
        (r#"{"role":"guest","until":5}"#, false),
        (r#"{"session":"1-1"}"#, false),
        (r#"{"session":"1-1","user":"ann"}"#, false),
        (r#"{"role":"guest","user":"ann"}"#, true),
        (r#"{"address":"::1"}"#, true),
        (r#"{"jti":"a"}"#, true),
        (r#"{"token":"a"}"#, true),
    ] {
        assert_eq!(cut(json).refused().is_some(), lasts, "{json}");
    }
    // The token of the connection is refused, and nobody else.
    let own = marks("a", &[], None);
    let refused = cut(r#"{"session":"1-1","user":"ann"}"#)
        .of_token(&own)
        .expect("a token");
    assert!(refused.matches(&connected("bob", &own)));
    assert!(!refused.matches(&connected("ann", &marks("b", &[], None))));
}

#[test]
fn a_cut_ends_as_it_says_or_after_a_day_whoever_was_connected() {
    let [old, new, bare] = [Some(NOW), Some(NOW + HOUR), None].map(|at| marks("a", &[], at));
    for (more, ends) in [
        (String::new(), [24, 24, 24]),
        (format!(r#","since":{}"#, NOW / 1000 - 3_600), [23, 23, 23]),
        (format!(r#","until":{}"#, (NOW + HOUR) / 1000), [1, 1, 1]),
        // Of a token without `iat` nobody knows whether it was made before.
        (
            format!(r#","until":{},"since":{}"#, (NOW + HOUR) / 1000, NOW / 1000),
            [24, 1, 24],
        ),
    ] {
        let list = Revoked::new(8);
        let cut = cut(&format!(r#"{{"user":"ann"{more}}}"#));
        let shown = list.add(&cut, NOW).expect("room");
        let latest = ends.iter().max().copied().unwrap_or_default();
        let until = (NOW + ends[1] * HOUR) / 1000;
        assert_eq!(shown.until, Some(until), "{more}");
        for (marks, end) in [&old, &new, &bare].into_iter().zip(ends) {
            assert!(
                list.refuse(&connected("ann", marks), NOW + end * HOUR - 1),
                "{more}"
            );
            assert!(
                !list.refuse(&connected("ann", marks), NOW + end * HOUR),
                "{more}"
            );
        }
        assert!(!list.refuse(&connected("bob", &old), NOW));
        assert_eq!(list.newest(NOW + latest * HOUR - 1).0, 1);
    }
}

/// A shorter cut takes nothing from a longer one.
#[test]
fn of_two_equal_cuts_the_later_end_holds() {
    let own = marks("a", &[], None);
    let hours = |hours: i64| {
        cut(&format!(
            r#"{{"user":"ann","until":{}}}"#,
            (NOW + hours * HOUR) / 1000
        ))
    };
    for (first, second, end) in [
        (hours(9), hours(1), 9),
        (hours(1), hours(9), 9),
        (cut(r#"{"user":"ann"}"#), hours(1), 24),
        (hours(48), cut(r#"{"user":"ann"}"#), 48),
    ] {
        let list = Revoked::new(1);
        list.add(&first, NOW).expect("room");
        let shown = list.add(&second, NOW).expect("its own entry");
        assert_eq!(shown.until, Some((NOW + end * HOUR) / 1000));
        assert!(list.refuse(&connected("ann", &own), NOW + end * HOUR - 1));
        assert!(!list.refuse(&connected("ann", &own), NOW + end * HOUR));
    }
}

#[test]
fn a_refusal_is_taken_back_by_its_conditions() {
    let list = Revoked::new(4);
    let own = marks("a", &[], None);
    let [ann, both] = [r#"{"user":"ann"}"#, r#"{"user":"ann","jti":"a"}"#].map(cut);
    let filed = cut(r#"{"user":"filed"}"#);
    list.replace_file(std::slice::from_ref(&filed), NOW)
        .expect("room");
    for cut in [&ann, &both, &filed] {
        list.add(cut, NOW).expect("room");
    }
    let lifted = |was_refused, is_in_file| Lifted {
        was_refused,
        is_in_file,
    };
    assert_eq!(list.lift(&ann, NOW), lifted(true, false));
    assert_eq!(list.lift(&ann, NOW), lifted(false, false));
    assert!(
        list.refuse(&connected("ann", &own), NOW),
        "the other still holds"
    );
    assert_eq!(list.lift(&both, NOW), lifted(true, false));
    assert!(!list.refuse(&connected("ann", &own), NOW));
    assert_eq!(list.lift(&filed, NOW), lifted(true, true));
    assert!(
        list.refuse(&connected("filed", &own), NOW),
        "as the file says"
    );
    // There is room again.
    list.add(&ann, NOW).expect("room");
    assert!(list.refuse(&connected("ann", &own), NOW));
    let wrong = [
        r#"{"role":"guest"}"#,
        r#"{"session":"1-1"}"#,
        r#"{"user":"ann","until":5}"#,
    ];
    for json in wrong {
        assert!(cut(json).check_lift().is_err(), "{json}");
    }
    assert_eq!(both.check_lift(), Ok(()));
}

#[test]
fn an_address_is_refused_with_its_network_and_for_a_day() {
    let list = Revoked::new(8);
    let own = marks("a", &[], Some(NOW + 1));
    let from = |ip: &str| Connected {
        address: Some(ip.parse().expect("an address")),
        ..connected("ann", &own)
    };
    let chosen = cut(r#"{"address":"2001:db8:0:1::7"}"#);
    assert!(chosen.matches(&from("2001:db8:0:1:a:b:c:d")));
    assert!(!chosen.matches(&from("2001:db8:0:2::7")));
    let shown = list.add(&chosen, NOW).expect("room");
    assert_eq!(shown.until, Some((NOW + 24 * HOUR) / 1000));
    for (ip, end) in [
        ("2001:db8:0:1:ffff::", 24),
        ("2001:db8:0:2::7", 0),
        ("192.0.2.1", 0),
    ] {
        for hour in [0, 23, 24] {
            let is_refused = list.refuse(&from(ip), NOW + hour * HOUR);
            assert_eq!(is_refused, hour < end, "{ip} {hour}");
        }
    }
    // A given end holds.
    let until = cut(&format!(
        r#"{{"address":"192.0.2.1","until":{}}}"#,
        (NOW + HOUR) / 1000
    ));
    list.add(&until, NOW).expect("room");
    assert!(!list.refuse(&from("192.0.2.1"), NOW + HOUR));
}

#[test]
fn what_a_response_shows_refuses_the_same_tokens_from_a_file() {
    let (list, filed) = (Revoked::new(8), Revoked::new(8));
    let (until, since) = ((NOW + HOUR) / 1000, NOW / 1000);
    let refused = format!(r#"{{"user":"ann","until":{until},"since":{since}}}"#);
    let shown = list.add(&cut(&refused), NOW).expect("room");
    assert_eq!(
        (shown.until, shown.since),
        (Some((NOW + HOUR) / 1000), Some(NOW / 1000))
    );
    // The other process reads the line later, in the same spelling.
    let line = cut(&sonic_rs::to_string(&shown).expect("a line"));
    filed.replace_file(&[line], NOW + HOUR / 2).expect("room");
    let [old, new] = [NOW, NOW + HOUR / 4].map(|at| marks("a", &[], Some(at)));
    for at in [
        NOW + HOUR / 2,
        NOW + HOUR,
        NOW + 24 * HOUR - 1,
        NOW + 24 * HOUR,
    ] {
        for own in [&old, &new] {
            let given = [&list, &filed].map(|list| list.refuse(&connected("ann", own), at));
            let wanted = at < NOW + HOUR || *own == old && at < NOW + 24 * HOUR;
            assert_eq!(given, [wanted; 2], "{at} {own:?}");
        }
    }
    assert_eq!(filed.newest(NOW + HOUR), (1, vec![shown]));
}

#[test]
fn of_two_lines_with_the_same_conditions_the_later_end_holds() {
    let own = marks("a", &[], Some(NOW - HOUR));
    let until = (NOW + HOUR) / 1000;
    let lines = [
        r#"{"user":"ann"}"#.to_owned(),
        r#"{"user":"ann","until":1}"#.to_owned(),
        format!(r#"{{"user":"ann","until":{until}}}"#),
    ]
    .map(|line| cut(&line));
    for (given, end) in [
        ([0, 1], i64::MAX),
        ([1, 0], i64::MAX),
        ([1, 2], NOW + HOUR),
        ([2, 1], NOW + HOUR),
    ] {
        let list = Revoked::new(1);
        list.replace_file(&given.map(|at| lines[at].clone()), NOW)
            .expect("room");
        assert!(list.refuse(&connected("ann", &own), end - 1), "{given:?}");
        assert!(!list.refuse(&connected("ann", &own), end), "{given:?}");
    }
}

#[test]
fn a_full_list_refuses_and_forgets_nobody() {
    let list = Revoked::new(2);
    let file = [cut(r#"{"user":"filed"}"#)];
    list.replace_file(&file, NOW).expect("room");
    let [ann, bob] = ["ann", "bob"].map(|user| cut(&format!(r#"{{"user":"{user}"}}"#)));
    list.add(&ann, NOW).expect("room");
    assert_eq!(list.add(&bob, NOW), Err(RevokedFull(2)));
    list.add(&ann, NOW + 1).expect("its own entry");
    let two = [file[0].clone(), cut(r#"{"jti":"a"}"#)];
    assert_eq!(list.replace_file(&two, NOW), Err(RevokedFull(2)));
    let own = marks("a", &[], None);
    assert!(list.refuse(&connected("filed", &own), i64::MAX - 1));
    assert!(!list.refuse(&connected("bob", &own), NOW));
    // What has ended makes room.
    list.add(&bob, NOW + 25 * HOUR).expect("room");
    assert!(!list.refuse(&connected("ann", &own), NOW + 25 * HOUR));
    list.replace_file(&[], NOW).expect("room");
    assert!(!list.refuse(&connected("filed", &own), NOW));
}

#[test]
fn what_has_ended_makes_room_in_both_lists() {
    let until = |user: &str| {
        let seconds = (NOW + HOUR) / 1000;
        cut(&format!(r#"{{"user":"{user}","until":{seconds}}}"#))
    };
    let forever = [cut(r#"{"user":"filed"}"#), cut(r#"{"jti":"filed"}"#)];
    let own = marks("a", &[], None);
    // Entries of the file, for a call.
    let list = Revoked::new(2);
    let filed = [until("ann"), until("bob")];
    list.replace_file(&filed, NOW).expect("room");
    assert_eq!(list.add(&until("cid"), NOW + HOUR - 1), Err(RevokedFull(2)));
    let cid = cut(r#"{"user":"cid"}"#);
    list.add(&cid, NOW + HOUR).expect("room");
    assert!(list.refuse(&connected("cid", &own), NOW + HOUR));
    // Entries of calls, for a file.
    let list = Revoked::new(2);
    for ended in &filed {
        list.add(ended, NOW).expect("room");
    }
    assert_eq!(
        list.replace_file(&forever, NOW + HOUR - 1),
        Err(RevokedFull(2))
    );
    list.replace_file(&forever, NOW + HOUR).expect("room");
    assert!(list.refuse(&connected("filed", &own), NOW + HOUR));
    list.replace_file(&[], NOW + HOUR).expect("room");
    assert_eq!(list.newest(NOW + HOUR).0, 0);
}

#[test]
fn a_clock_that_is_wrong_for_a_moment_frees_nobody() {
    let list = Revoked::new(10);
    let [ann, bob] = ["ann", "bob"].map(|user| cut(&format!(r#"{{"user":"{user}"}}"#)));
    let own = marks("a", &[], None);
    list.add(&ann, NOW).expect("room");
    let wrong = NOW + 25 * HOUR;
    list.add(&bob, wrong).expect("room");
    list.replace_file(&[], wrong).expect("room");
    assert!(!list.refuse(&connected("ann", &own), wrong));
    assert_eq!(list.newest(wrong).0, 1);
    let next = Revoked::new(10);
    assert_eq!(next.add_all(wrong, list.of_calls()), 0);
    for list in [&list, &next] {
        assert!(list.refuse(&connected("ann", &own), NOW + HOUR));
    }
    assert!(!list.lift(&ann, wrong).was_refused);
    assert!(!list.refuse(&connected("ann", &own), NOW + HOUR), "lifted");
}

#[test]
fn what_has_ended_before_it_is_read_takes_no_room() {
    let user = |user: &str, until: i64| {
        let seconds = until / 1000;
        cut(&format!(r#"{{"user":"{user}","until":{seconds}}}"#))
    };
    let now = NOW + HOUR;
    let lines = vec![
        user("ann", now),
        user("bob", NOW),
        user("cid", now + 1_000),
        user("dan", now + HOUR),
        user("eve", now + HOUR),
    ];
    let list = Revoked::new(2);
    assert_eq!(list.add_all(now, lines), 1);
    let own = marks("a", &[], None);
    let refused =
        ["ann", "bob", "cid", "dan", "eve"].map(|user| list.refuse(&connected(user, &own), now));
    assert_eq!(refused, [false, false, true, true, false]);
    assert_eq!(list.newest(now).0, 2);
}

/// Against a list that looks at every entry.
#[test]
fn random_lists_refuse_as_each_entry_says() {
    let mut random = SplitMix64::new(7);
    for _ in 0..300 {
        let mut pick = |choices: u64| (random.next_u64() % choices).to_string();
        let list = Revoked::new(64);
        let mut entries = Vec::new();
        for _ in 0..12 {
            let mut given = Vec::new();
            for name in ["user", "jti", "role", "token"] {
                if pick(2) == "0" {
                    given.push(format!(r#""{name}":"{}""#, pick(3)));
                }
            }
            if pick(4) == "0" {
                given.push(format!(r#""address":"192.0.2.{}""#, pick(3)));
            }
            let Ok(cut) = Cut::read(format!("{{{}}}", given.join(",")).as_bytes()) else {
                continue;
            };
            if let Some(refused) = cut.refused() {
                list.add(&refused, NOW).expect("room");
                entries.push(refused);
            }
        }
        for _ in 0..40 {
            let roles: Vec<Box<str>> = (0..pick(3).len() + 1).map(|_| pick(3).into()).collect();
            let own = TokenMarks {
                jti: (pick(3) != "0").then(|| pick(3).into()),
                roles: roles.into(),
                digest: Some(pick(3).into()),
                ..TokenMarks::default()
            };
            let certificate = pick(3);
            let (user, last) = (pick(3), pick(3).parse().unwrap_or(0));
            let connected = Connected {
                user: (pick(4) != "0").then_some(&*user),
                certificate: (pick(4) == "0").then_some(&*certificate),
                address: (pick(4) != "0").then_some(IpAddr::from([192, 0, 2, last])),
                session: "",
                marks: (pick(5) != "0").then_some(&own),
            };
            let wanted = entries.iter().any(|entry| entry.matches(&connected));
            assert_eq!(
                list.refuse(&connected, NOW),
                wanted,
                "{entries:?} {connected:?}"
            );
        }
    }
}
