//! `"last":"all"` while this instance loses messages: the end says that some may be missing, whatever the bus says of the
//! stream by then; and a question that is asked again lets the bus see what is gone.

use weirgate_core::{CopyPosition, FeedNotice};

use super::*;

/// A gateway on each bus, and the name and the pattern that clients ask for.
fn on_both() -> [(Bench, &'static str, &'static str); 2] {
    [
        (on_a_stream(), "a:1", "a:*"),
        (on_jetstream(), "a.1", "a.*"),
    ]
}

impl Bench {
    /// What came of names, as [`brought`](Self::brought), with the positions.
    fn placed(&mut self, key: SessionKey) -> Vec<(String, Option<u64>)> {
        let mut placed = Vec::new();
        for message in self.got(key) {
            let at = message["pos"].as_str().and_then(CopyPosition::parse);
            let at = at.and_then(|at| match at.position.point {
                Point::Stored { id, .. } => Some(id.major),
                Point::Counted { .. } => None,
            });
            placed.push((said(&message), at));
        }
        placed.retain(|(said, _)| said != "status" && !said.starts_with("subscribed"));
        placed
    }

    fn last(&mut self, key: SessionKey) -> Vec<String> {
        let mut came = self.brought(key);
        came.retain(|one| !one.starts_with("subscribed"));
        came
    }
}

#[test]
fn a_loss_while_a_question_is_open_is_said_at_the_end() {
    // The rest comes with this question, or with another one.
    for is_rest_in_it in [true, false] {
        for (mut bench, name, _) in on_both() {
            bench.comes(name, 8);
            let key = bench.client();
            bench.ask_all(key, &[name], None);
            // The client has not taken the page, which ends where the source is, when messages are lost.
            bench.room(key, 0);
            bench.finds(name, 3, "3");
            bench.finds(name, 8, "8");
            bench.pages(8, true);
            bench.loses();
            bench.comes(name, 20);
            bench.world.open_window(key, 1 << 20);
            bench.world.advance(1);
            assert_eq!(bench.world.outputs.more.len(), 1);
            if !is_rest_in_it {
                bench.ends(None);
                assert_eq!(bench.asked_after(), Some(8));
            }
            bench.finds(name, 20, "20");
            bench.ends(None);
            bench.comes(name, 21);
            // Nothing has told the client of the loss before the end.
            let placed = bench.placed(key);
            let end = format!("last {name} 3 \"window\"");
            let none = None::<u64>;
            assert_eq!(
                placed,
                [
                    (format!("{name} 3"), Some(3)),
                    (format!("{name} 8"), Some(8)),
                    (format!("{name} 20"), none),
                    (end, Some(20)),
                    (format!("{name} 21"), Some(21)),
                ]
            );
            bench.world.hub.check_invariants();
        }
    }
}

/// A connection that ends before the end would resume behind what it never got, as if nothing was missing.
#[test]
fn behind_what_the_bus_does_not_give_no_message_has_a_position_before_the_end() {
    for (mut bench, name, _) in on_both() {
        bench.comes(name, 8);
        let key = bench.client();
        bench.ask_all(key, &[name], None);
        bench.finds(name, 3, "3");
        bench.ends(Some(RetainedCut::Unreadable));
        bench.world.advance(SECOND / 10);
        bench.comes(name, 9);
        let data = |n: u64, at| (format!("{name} {n}"), at);
        let end = (format!("last {name} 2 \"unreadable\""), Some(8));
        let placed = bench.placed(key);
        assert_eq!(
            placed,
            [data(3, Some(3)), data(8, None), end, data(9, Some(9))]
        );
    }
}

/// The pages were ahead of the source, whose next message is behind the loss.
#[test]
fn a_loss_after_the_last_page_is_said_at_the_end() {
    for (mut bench, name, _) in on_both() {
        bench.comes(name, 8);
        let key = bench.client();
        bench.ask_all(key, &[name], None);
        bench.finds(name, 8, "8");
        bench.finds(name, 12, "12");
        bench.ends(None);
        bench.loses();
        bench.comes(name, 20);
        bench.world.advance(SECOND / 10);
        assert_eq!(bench.asked_after(), Some(12));
        bench.finds(name, 20, "20");
        bench.ends(None);
        let end = format!("last {name} 3 \"window\"");
        assert_eq!(bench.last(key).last(), Some(&end));
    }
}

/// A loss ends with the next message that is read. What the stream loses until then is part of it.
#[test]
fn what_is_read_first_after_a_loss_does_not_follow_what_a_question_before_it_has_brought() {
    for (mut bench, name, _) in on_both() {
        bench.comes(name, 8);
        bench.loses();
        let key = bench.client();
        bench.ask_all(key, &[name], Some(8));
        bench.comes(name, 20);
        bench.ends(None);
        assert_eq!(
            (bench.world.outputs.all.len(), bench.asked_after()),
            (2, Some(8))
        );
        bench.finds(name, 20, "20");
        bench.ends(None);
        let end = format!("last {name} 1 \"window\"");
        assert_eq!(bench.last(key), [format!("{name} 20"), end]);
    }
}

/// Of a question from the beginning of the stream the bus cannot know what is gone since the client got a message.
#[test]
fn a_question_that_is_asked_again_begins_after_a_message_that_came() {
    for how in ["away", "ended", "refused"] {
        for (mut bench, name, _) in on_both() {
            bench.comes(name, 8);
            let key = bench.client();
            bench.ask_all(key, &[name], None);
            bench.finds(name, 3, "3");
            bench.finds(name, 4, "4");
            let number = bench.question();
            match how {
                "away" => {
                    bench.down();
                    bench.bus(BusEvent::Up);
                }
                "ended" => bench.bus(BusEvent::RetainedPage {
                    number,
                    cursor: Arc::default(),
                    is_open: false,
                }),
                _ => bench.ends(Some(RetainedCut::Refused)),
            }
            bench.world.advance(SECOND);
            assert_eq!(bench.world.outputs.all.len(), 2, "{how}");
            assert_eq!(bench.asked_after(), Some(3), "{how}");
            bench.finds(name, 4, "4");
            bench.finds(name, 8, "8");
            bench.ends(None);
            let data = |n: u64| format!("{name} {n}");
            let end = format!("last {name} 3 null");
            assert_eq!(bench.last(key), [data(3), data(4), data(8), end], "{how}");
        }
    }
}

#[test]
fn a_client_of_a_pattern_goes_on_after_its_position() {
    for (mut bench, name, pattern) in on_both() {
        let key = bench.client();
        bench.subscribe(key, &[pattern]);
        bench.comes(name, 9);
        let got = bench.got(key);
        let pos = got.iter().rev().find_map(|one| one["pos"].as_str());
        let pos = pos.expect("a position").to_owned();
        bench.loses();
        for (names, asks_for_last) in [(vec![pattern], false), (vec![name], true)] {
            let other = bench.client();
            bench.say(
                other,
                &json!({"action": "subscribe", "channels": names, "last": "all", "since": pos}),
            );
            bench.world.advance(1);
            assert_eq!(bench.asked_after(), Some(9), "{names:?}");
            assert_eq!(bench.asks_for_last(), asks_for_last, "{names:?}");
            bench.ends(None);
        }
        // The names of an event stream come together. The client may lack the copy of the last message for its other name.
        let other = format!("{name}0");
        for (exact, came) in [(&*other, &["10", "10"][..]), (name, &["9", "10"])] {
            let names = [pattern, exact];
            let request = json!({"action": "subscribe", "channels": names, "last": "all"});
            let key = bench.stream_from(&[request], Some(&pos));
            assert_eq!(bench.asked_after(), Some(9), "{names:?}");
            assert!(bench.asks_for_last(), "{names:?}");
            bench.finds(name, 9, "9");
            bench.finds(&other, 10, "10");
            bench.ends(None);
            let mut got = bench.got_all(key);
            got.retain(|one| one.parse::<u64>().is_ok());
            assert_eq!(got, came, "{names:?}");
        }
    }
}

/// The bus says at the end of a page what is missing before it.
#[test]
fn a_question_that_ended_in_a_page_is_asked_again_though_the_history_has_the_rest() {
    for (mut bench, name, _) in on_both() {
        bench.comes(name, 20);
        bench.comes(name, 21);
        let key = bench.client();
        bench.ask_all(key, &[name], Some(3));
        bench.finds(name, 20, "20");
        bench.down();
        bench.world.advance(1);
        bench.bus(BusEvent::Up);
        bench.world.advance(SECOND);
        assert_eq!(
            (bench.world.outputs.all.len(), bench.asked_after()),
            (2, Some(3))
        );
        bench.finds(name, 20, "20");
        bench.finds(name, 21, "21");
        bench.ends(Some(RetainedCut::Window));
        let end = format!("last {name} 2 \"window\"");
        let mut came = bench.last(key);
        came.retain(|one| one != "status");
        assert_eq!(came, [format!("{name} 20"), format!("{name} 21"), end]);
    }
}

/// The history has the rest, but the source is about to find out whether messages between were removed before it read them.
#[test]
fn all_are_not_said_to_be_there_before_that_is_known() {
    for is_lost in [false, true] {
        for (mut bench, name, _) in on_both() {
            bench.comes(name, 8);
            bench.bus(BusEvent::Feed(FeedNotice::InDoubt(true)));
            bench.comes(name, 12);
            let key = bench.client();
            bench.ask_all(key, &[name], Some(8));
            bench.world.advance(SECOND / 2);
            assert_eq!(bench.last(key), [""; 0]);
            if is_lost {
                bench.loses();
            }
            bench.bus(BusEvent::Feed(FeedNotice::InDoubt(false)));
            bench.world.advance(SECOND / 10);
            bench.comes(name, 13);
            bench.world.advance(SECOND / 10);
            if is_lost {
                assert_eq!(bench.asked_after(), Some(8));
                bench.finds(name, 12, "12");
                bench.finds(name, 13, "13");
                bench.ends(None);
            }
            let (count, cut) = if is_lost {
                (2, "\"window\"")
            } else {
                (1, "null")
            };
            let end = format!("last {name} {count} {cut}");
            let mut came = bench.last(key);
            came.retain(|one| one.starts_with("last"));
            assert_eq!(came, [end]);
        }
    }
}
