//! Requests that wait for a source.

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
        interest.ask_retained(Subscription::channel("kept"), n, Arc::default());
    };
    for n in 1..10_000 {
        ask(n);
        interest.forget_retained(n);
    }
    (0..2).for_each(|n| ask(10_000 + n));
    assert_eq!(interest.unanswered_questions().waiting, 2);
    assert_eq!(wishes.next_page_request(), None);
    for n in 0..2 {
        let taken = wishes.next_question().map(|question| question.number);
        assert_eq!(taken, Some(10_000 + n));
        (0..10).for_each(|_| interest.ask_more_retained(10_000 + n));
    }
    assert_eq!(wishes.next_question(), None);
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
