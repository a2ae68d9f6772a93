//! Requests that wait for a source.

use std::net::IpAddr;

use super::*;
use crate::socket::Waiter;

fn wish(subscription: &Subscription, wanted: bool, number: u64) -> (Subscription, InterestChange) {
    (subscription.clone(), InterestChange { wanted, number })
}

/// The source takes no changes while a client keeps changing its names.
#[test]
fn changes_that_nobody_takes_are_no_more_than_the_names() {
    let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
    let (interest, wishes) = interest(wake);
    let kept = Subscription::channel("kept");
    interest.subscribe(kept.clone());
    assert_eq!(wishes.take(), [wish(&kept, true, 0)]);
    for n in 0..10_000 {
        let name = Subscription::pattern(format!("{n}*"));
        interest.subscribe(name.clone());
        interest.unsubscribe(kept.clone());
        interest.unsubscribe(name);
        interest.subscribe_numbered(kept.clone(), n);
    }
    assert_eq!(interest.unanswered().waiting, 1);
    assert_eq!(wishes.take(), [wish(&kept, true, 9_999)]);
    interest.unsubscribe(kept.clone());
    interest.unsubscribe(Subscription::channel("never"));
    assert_eq!(wishes.take(), [wish(&kept, false, 0)]);
    assert_eq!(wishes.take(), []);
}

#[test]
fn many_changes_are_taken_in_parts_and_in_their_order() {
    let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
    let (interest, wishes) = interest(wake);
    let names: Vec<_> = (0..20 * TAKEN_MAX)
        .map(|n| Subscription::channel(n.to_string()))
        .collect();
    names
        .iter()
        .for_each(|name| interest.subscribe(name.clone()));
    for part in names.chunks(TAKEN_MAX) {
        let want: Vec<_> = part.iter().map(|name| wish(name, true, 0)).collect();
        assert_eq!(wishes.take(), want);
    }
    assert_eq!(wishes.take(), []);
}

#[test]
fn questions_go_with_those_who_wait_and_the_newest_word_counts() {
    let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
    let (interest, wishes) = interest(wake);
    let ask = |n: u64| {
        let who = (n, ClientAddr::Unix);
        interest.ask_retained(Subscription::channel("kept"), None, who, Arc::default());
    };
    for n in 1..10_000 {
        ask(n);
        interest.forget_retained(n);
    }
    (0..2).for_each(|n| ask(10_000 + n));
    assert_eq!(interest.unanswered_questions().waiting, 2);
    assert_eq!(wishes.next_page_request(), None);
    for n in 0..2 {
        let taken = wishes
            .next_question(|| true)
            .map(|question| question.number);
        assert_eq!(taken, Some(10_000 + n));
        (0..10).for_each(|_| interest.ask_more_retained(10_000 + n));
    }
    assert_eq!(wishes.next_question(|| true), None);
    interest.forget_retained(10_001);
    assert_eq!(
        wishes.next_page_request(),
        Some((10_000, PageRequest::More))
    );
    assert_eq!(
        wishes.next_page_request(),
        Some((10_001, PageRequest::Forget))
    );
    assert_eq!(wishes.next_page_request(), None);
}

#[test]
fn addresses_take_turns_and_questions_for_a_message_do_not_wait_for_those_that_read() {
    let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
    let (interest, wishes) = interest(wake);
    let client = |last: u8| ClientAddr::from(IpAddr::from([192, 0, 2, last]));
    let ask = |number, last, name: Subscription| interest.ask_newest(name, number, client(last));
    (1..=4).for_each(|n| ask(n, 1, Subscription::pattern("a.*")));
    ask(5, 2, Subscription::pattern("b.*"));
    (6..=8).for_each(|n| ask(n, 1, Subscription::channel("a")));
    ask(9, 2, Subscription::channel("b"));
    interest.forget_retained(2);
    let next = |may_read| wishes.next_question(|| may_read).map(|one| one.number);
    assert_eq!([next(false), next(false)], [Some(6), Some(9)]);
    assert_eq!([next(true), next(true), next(true)], [1, 5, 3].map(Some));
    assert_eq!(
        [next(false), next(false), next(false)],
        [Some(7), Some(8), None]
    );
    assert_eq!([next(true), next(true)], [Some(4), None]);
    assert_eq!(interest.unanswered_questions().waiting, 0);
    (10..=12).for_each(|n| ask(n, 1, Subscription::pattern("a.*")));
    ask(13, 2, Subscription::pattern("b.*"));
    interest.move_retained(12, client(3));
    interest.move_retained(9, client(3));
    let order = [next(true), next(true), next(true), next(true), next(true)];
    assert_eq!(order, [Some(10), Some(13), Some(12), Some(11), None]);
}
