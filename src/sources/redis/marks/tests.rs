//! The role of a server, and its links.

use super::*;

#[test]
fn marks_count_while_the_server_says_that_it_is_a_lone_master() {
    let (marks, _to_publish) = bounded(1);
    let mut publisher = MarkPublisher {
        channel: "m".into(),
        marks,
        learned: Arc::default(),
        next: None,
        publishes: true,
        held: true,
        origin: Instant::now() - 2 * ROLE_HOLDS,
        is_shared: false,
    };
    publisher.connected(None, true, publisher.now_ms());
    assert!(publisher.may_share(), "said on the connection itself");
    let learned = Arc::clone(&publisher.learned);
    publisher.connected(None, true, publisher.now_ms());
    publisher.learned.master_ms.store(0, Relaxed);
    assert!(!publisher.may_share(), "long ago");
    learned.master_ms.store(publisher.now_ms(), Relaxed);
    assert!(
        !publisher.may_share(),
        "beside a mark for another connection"
    );
    let learned = Arc::clone(&publisher.learned);
    learned.master_ms.store(publisher.now_ms(), Relaxed);
    assert!(publisher.may_share(), "beside a mark");
    learned.is_refused.store(true, Relaxed);
    assert!(!publisher.may_share(), "nobody will say so again");
    publisher.connected(None, true, publisher.now_ms());
    assert!(publisher.may_share());
}

#[test]
fn links_are_told_apart_by_their_making() {
    let bulk = |text: &str| Value::Bulk(text.into());
    let link = |node: &str, made| {
        let pairs = ["direction", "to", "node", node, "create-time"].map(bulk);
        Value::Array(pairs.into_iter().chain([Value::Integer(made)]).collect())
    };
    let links = |made| Value::Array(vec![link("a", 1), link("b", made)]);
    let master = |id: &str| bulk(&format!("id={id} addr=h:1 age=7\nid=9 addr=h:2 age=7\n"));
    let refused = Value::Error("NOPERM".into());
    let of = |answers: &[&Value]| links_in(&answers.iter().copied().cloned().collect::<Vec<_>>());
    assert_eq!(
        of(&[&master("1"), &links(2)]),
        of(&[&master("1"), &links(2)])
    );
    assert_ne!(
        of(&[&master("1"), &links(2)]),
        of(&[&master("1"), &links(3)])
    );
    assert_ne!(of(&[&master("1"), &refused]), of(&[&master("2"), &refused]));
    assert_ne!(of(&[&master("1")]), of(&[&bulk("")]));
    let turned = Value::Array(vec![link("b", 2), link("a", 1)]);
    assert_eq!(of(&[&links(2)]), of(&[&turned]));
    assert_ne!(of(&[&refused]), 0);
}
