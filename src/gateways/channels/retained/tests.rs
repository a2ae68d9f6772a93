use super::super::leaving::DropLater;
use super::questions::OPEN_MAX;
use super::*;
use weirgate_core::KeptHead;
use weirgate_wire::admission::ClientAddr;

const A: TopicName = TopicName::fixed("a");
const ALL: TopicName = TopicName::fixed("a.*");

fn client(slot: u32) -> SessionKey {
    SessionKey {
        slot,
        generation: 0,
    }
}

/// A table that is switched on, with the bus there.
fn retained() -> Retained {
    let mut retained = Retained::new(NameSyntax::Nats, 1 << 30);
    (retained.is_up, retained.has_values) = (true, true);
    retained
}

/// The next question, after all clients have taken their values.
fn request(retained: &mut Retained) -> Option<(TopicName, u64)> {
    for key in mem::take(&mut retained.undrained) {
        retained.values_taken(key, ClientAddr::Unix);
    }
    retained.grant_shares(0, KeptHead::default(), |_| false);
    let asked = |request| match request {
        RetainedRequest::Ask { name, number, .. } => Some((name, number)),
        _ => None,
    };
    let mut wanted = std::iter::from_fn(|| retained.next_request(|_| None)).filter_map(asked);
    let next = wanted.next();
    assert!(wanted.next().is_none());
    next
}

fn receivers(retained: &mut Retained, name: &TopicName, subject: &str, number: u64) -> Vec<u32> {
    let subject = Some(subject.into()).filter(|_| retained.syntax.is_pattern(name.as_str()));
    let takers = retained.receivers(name, subject.as_ref(), number, |_| 10);
    let mut slots: Vec<u32> = takers.iter().map(|key| key.slot).collect();
    slots.sort_unstable();
    slots
}

fn pass(retained: &mut Retained, name: &TopicName, subject: &str) {
    retained.note_live(name, Some(&subject.into()));
}

fn close(retained: &mut Retained, key: SessionKey) {
    for (name, wanted) in &retained.closed(key).0 {
        retained.stop_waiting(name, key, wanted);
    }
}

#[test]
fn one_question_is_on_its_way_and_the_next_is_for_all_who_came_meanwhile() {
    let mut retained = retained();
    for slot in 0..4 {
        retained.want(&A, client(slot), Some(1));
    }
    assert_eq!(request(&mut retained), None, "nobody has an answer");
    retained.answered(client(0), 1);
    assert_eq!(request(&mut retained), Some((A, 1)));
    retained.answered(client(1), 1);
    retained.answered(client(2), 1);
    assert_eq!(request(&mut retained), None);
    assert_eq!(receivers(&mut retained, &A, "a", 1), [0]);
    retained.ended(&A, 1, None);
    retained.ended(&A, 1, None);
    assert_eq!(request(&mut retained), Some((A, 2)));
    retained.forget(&A, client(1));
    assert_eq!(
        receivers(&mut retained, &A, "a", 1),
        [0; 0],
        "an old answer"
    );
    assert_eq!(receivers(&mut retained, &A, "a", 2), [2]);
    retained.ended(&A, 2, None);
    assert_eq!(request(&mut retained), None);
    close(&mut retained, client(3));
    assert!(retained.waiting.is_empty() && retained.waiting.count() == 0);
}

#[test]
fn a_question_ends_with_the_last_client_that_waits() {
    let mut retained = retained();
    for slot in 0..2 {
        retained.want(&A, client(slot), Some(1));
        retained.answered(client(slot), 1);
    }
    assert_eq!(request(&mut retained), Some((A, 1)));
    close(&mut retained, client(0));
    assert_eq!(retained.next_request(|_| None), None);
    retained.forget(&A, client(1));
    let (name, number) = (A, 1);
    let end = RetainedRequest::Forget { name, number };
    assert_eq!(retained.next_request(|_| None), Some(end));
    assert!(retained.waiting.is_empty() && retained.bytes.held() == 0);
}

#[test]
fn no_value_goes_behind_a_newer_message() {
    let mut retained = retained();
    retained.want(&ALL, client(0), Some(1));
    pass(&mut retained, &ALL, "a.x");
    retained.answered(client(0), 1);
    retained.want(&ALL, client(1), Some(1));
    retained.answered(client(1), 1);
    assert_eq!(request(&mut retained), Some((ALL, 1)));
    assert_eq!(receivers(&mut retained, &ALL, "a.x", 1), [1]);
    assert_eq!(receivers(&mut retained, &ALL, "a.y", 1), [0, 1]);
    pass(&mut retained, &ALL, "a.z");
    assert_eq!(receivers(&mut retained, &ALL, "a.z", 1), [0; 0]);
    retained.lost();
    retained.down(&mut DropLater::default());
    assert_eq!(request(&mut retained), None);
    retained.is_up = true;
    (0..2).for_each(|slot| retained.client_up(client(slot)));
    assert_eq!(request(&mut retained), Some((ALL, 2)));
    assert_eq!(
        receivers(&mut retained, &ALL, "a.z", 2),
        [0, 1],
        "asked anew"
    );
    retained.ended(&ALL, 2, None);
    assert!(retained.waiting.is_empty());
}

#[test]
fn subjects_that_are_remembered_are_bounded() {
    let mut retained = retained();
    retained.want(&ALL, client(0), Some(1));
    for n in 0..retained.live_subjects_max() / 2 {
        pass(&mut retained, &ALL, &n.to_string());
    }
    pass(&mut retained, &ALL, "0");
    assert_eq!((retained.waiting.count(), retained.given_up), (1, 0));
    pass(&mut retained, &ALL, "one more");
    assert_eq!((retained.waiting.count(), retained.given_up), (0, 1));
    assert!(retained.waiting.is_empty() && retained.live.count() == 0);
}

#[test]
fn and_so_are_those_of_all_patterns_which_leave_room_for_others() {
    let mut retained = Retained::new(NameSyntax::Nats, 1 << 20);
    let subjects_max = retained.live_subjects_max();
    let patterns = ["a.*", "b.*", "c.*"].map(TopicName::fixed);
    for (slot, pattern) in (0..).zip(&patterns) {
        retained.want(pattern, client(slot), Some(1));
        let free = subjects_max - retained.live.count();
        for n in 0..free / 2 {
            pass(&mut retained, pattern, &n.to_string());
        }
        assert_eq!(retained.waiting.of(pattern).map(BTreeSet::len), Some(1));
    }
    assert!(retained.live.count() < subjects_max);
    pass(&mut retained, &patterns[0], "one more");
    assert_eq!((retained.waiting.count(), retained.given_up), (2, 1));
    close(&mut retained, client(1));
    close(&mut retained, client(2));
    assert_eq!(retained.live.count(), 0);
}

/// A client that has taken its `subscribed`.
fn answered(retained: &mut Retained, slot: u32, name: &TopicName) {
    retained.want(name, client(slot), Some(1));
    retained.answered(client(slot), 1);
}

#[test]
fn so_many_questions_are_open_and_the_slowest_goes_on_later() {
    let mut retained = retained();
    let names: Vec<TopicName> = (0..=OPEN_MAX)
        .map(|n| TopicName::from(format!("{n}.*")))
        .collect();
    for (slot, name) in (0..).zip(&names[..OPEN_MAX]) {
        answered(&mut retained, slot, name);
        let (_, number) = request(&mut retained).expect("a question");
        let now_us = u64::from(slot);
        retained.paged(number, &Arc::default(), true, now_us);
        retained.undrained.clear();
    }
    let last = OPEN_MAX as u32;
    answered(&mut retained, last, &names[OPEN_MAX]);
    for key in mem::take(&mut retained.undrained) {
        retained.values_taken(key, ClientAddr::Unix);
    }
    retained.grant_shares(0, KeptHead::default(), |_| false);
    let (name, number) = (names[0].clone(), 1);
    let requests: Vec<_> = std::iter::from_fn(|| retained.next_request(|_| None)).collect();
    assert!(matches!(
        requests[0],
        RetainedRequest::Ask { number: 257, .. }
    ));
    assert_eq!(requests[1..], [RetainedRequest::Forget { name, number }]);
    // It goes on once its client has taken the page.
    retained.values_taken(client(0), ClientAddr::Unix);
    retained.grant_shares(0, KeptHead::default(), |_| false);
    let asked = |request| matches!(request, RetainedRequest::Ask { number: 258, .. });
    assert!(retained.next_request(|_| None).is_some_and(asked));
    for slot in 0..=last {
        close(&mut retained, client(slot));
    }
    assert!(retained.waiting.is_empty() && retained.bytes.held() == 0);
    assert_eq!(retained.due_us(), None);
}

/// Lets a client that has taken its `subscribed` and has room want a name. Returns the requests to the bus.
fn wants(
    retained: &mut Retained,
    slot: u32,
    client_addr: ClientAddr,
    name: &TopicName,
) -> Vec<RetainedRequest> {
    answered(retained, slot, name);
    for key in mem::take(&mut retained.undrained) {
        retained.values_taken(key, client_addr);
    }
    retained.grant_shares(0, KeptHead::default(), |_| false);
    std::iter::from_fn(|| retained.next_request(|_| None)).collect()
}

/// An address with many questions at the bus, and low slots, wants what others want, too.
#[test]
fn a_question_of_several_clients_waits_behind_none_that_only_others_want() {
    let mut retained = retained();
    let address = |last: u8| ClientAddr::from(std::net::IpAddr::from([192, 0, 2, last]));
    let (many, one, other) = (address(1), address(2), address(3));
    for slot in 0..10 {
        let name = TopicName::from(format!("{slot}.*"));
        assert_eq!(wants(&mut retained, slot, many, &name).len(), 1);
    }
    let asked = wants(&mut retained, 10, many, &ALL);
    let [
        RetainedRequest::Ask {
            number: 11, client, ..
        },
    ] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(*client, many);
    assert!(wants(&mut retained, 11, many, &ALL).is_empty());
    // The question that the others wait for moves once, to an address that has no other.
    let (name, number) = (ALL, 11);
    let moved = RetainedRequest::Move {
        name,
        number,
        client: one,
    };
    assert_eq!(wants(&mut retained, 12, one, &ALL), [moved]);
    assert!(wants(&mut retained, 13, other, &ALL).is_empty());
    // And so does the next one, which all of these share.
    retained.ended(&ALL, 11, None);
    let next: Vec<_> = std::iter::from_fn(|| retained.next_request(|_| None)).collect();
    let [
        RetainedRequest::Ask {
            number: 12, client, ..
        },
    ] = &next[..]
    else {
        panic!("{next:?}");
    };
    assert_eq!(*client, one);
    for number in 1..=12 {
        let name = retained.questions.name_of(number).cloned();
        name.into_iter()
            .for_each(|name| drop(retained.ended(&name, number, None)));
    }
    let counts = [many, one, other].map(|client| retained.questions.begun_of(client));
    assert_eq!(counts, [0; 3]);
}
