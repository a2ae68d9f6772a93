use super::*;

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
    retained.is_up = true;
    retained
}

/// The next question, after all clients have taken their values.
fn request(retained: &mut Retained) -> Option<(TopicName, u64)> {
    for key in mem::take(&mut retained.rooms) {
        retained.values_taken(key, ClientAddr::Unix);
    }
    retained.grant_shares(0, |_| false);
    let mut wanted = std::iter::from_fn(|| retained.requests.pop_front()).filter(|r| r.wanted);
    let next = wanted.next().map(|request| (request.name, request.number));
    assert!(wanted.next().is_none());
    next
}

fn receivers(retained: &mut Retained, name: &TopicName, subject: &str, number: u64) -> Vec<u32> {
    let subject = Some(subject.into()).filter(|_| retained.syntax.is_pattern(name.as_str()));
    let takers = retained.receivers(name, (subject.as_ref(), number), |_| 10);
    let mut slots: Vec<u32> = takers.iter().map(|key| key.slot).collect();
    slots.sort_unstable();
    slots
}

fn pass(retained: &mut Retained, name: &TopicName, subject: &str) {
    retained.note_live(name, Some(&subject.into()));
}

fn close(retained: &mut Retained, key: SessionKey) {
    for name in retained.closed(key).keys() {
        retained.stop_waiting(name, key);
    }
}

#[test]
fn one_question_is_on_its_way_and_the_next_is_for_all_who_came_meanwhile() {
    let mut retained = retained();
    for slot in 0..4 {
        retained.want(&A, client(slot), 1, false);
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
    assert!(retained.waiting.is_empty() && retained.waiters == 0);
}

#[test]
fn a_question_ends_with_the_last_client_that_waits() {
    let mut retained = retained();
    for slot in 0..2 {
        retained.want(&A, client(slot), 1, false);
        retained.answered(client(slot), 1);
    }
    assert_eq!(request(&mut retained), Some((A, 1)));
    close(&mut retained, client(0));
    assert_eq!(retained.requests.pop_front(), None);
    retained.forget(&A, client(1));
    let end = Interest {
        name: A,
        wanted: false,
        number: 1,
    };
    assert_eq!(retained.requests.pop_front(), Some(end));
    assert!(retained.waiting.is_empty() && retained.bytes.held() == 0);
}

#[test]
fn no_value_goes_behind_a_newer_message() {
    let mut retained = retained();
    retained.want(&ALL, client(0), 1, false);
    pass(&mut retained, &ALL, "a.x");
    retained.answered(client(0), 1);
    retained.want(&ALL, client(1), 1, false);
    retained.answered(client(1), 1);
    assert_eq!(request(&mut retained), Some((ALL, 1)));
    assert_eq!(receivers(&mut retained, &ALL, "a.x", 1), [1]);
    assert_eq!(receivers(&mut retained, &ALL, "a.y", 1), [0, 1]);
    pass(&mut retained, &ALL, "a.z");
    assert_eq!(receivers(&mut retained, &ALL, "a.z", 1), [0; 0]);
    retained.lost();
    retained.down();
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
    retained.want(&ALL, client(0), 1, false);
    for n in 0..retained.live_subjects_max() / 2 {
        pass(&mut retained, &ALL, &n.to_string());
    }
    pass(&mut retained, &ALL, "0");
    assert_eq!((retained.waiters, retained.given_up), (1, 0));
    pass(&mut retained, &ALL, "one more");
    assert_eq!((retained.waiters, retained.given_up), (0, 1));
    assert!(retained.waiting.is_empty() && retained.live_subjects == 0);
}

#[test]
fn and_so_are_those_of_all_patterns_which_leave_room_for_others() {
    let mut retained = Retained::new(NameSyntax::Nats, 1 << 20);
    let subjects_max = retained.live_subjects_max();
    let patterns = ["a.*", "b.*", "c.*"].map(TopicName::fixed);
    for (slot, pattern) in (0..).zip(&patterns) {
        retained.want(pattern, client(slot), 1, false);
        let free = subjects_max - retained.live_subjects;
        for n in 0..free / 2 {
            pass(&mut retained, pattern, &n.to_string());
        }
        assert_eq!(retained.waiting[pattern].len(), 1);
    }
    assert!(retained.live_subjects < subjects_max);
    pass(&mut retained, &patterns[0], "one more");
    assert_eq!((retained.waiters, retained.given_up), (2, 1));
    close(&mut retained, client(1));
    close(&mut retained, client(2));
    assert_eq!(retained.live_subjects, 0);
}
