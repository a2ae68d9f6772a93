//! The gateway's requests to the bus for the messages of names, each name once, and the bus's responses. Names of the
//! kept feed ([`super::kept_names`]) are not requested.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use weirgate_core::TopicName;
use weirgate_wire::base::{ChunkedQueue, ExtendibleMap};

/// A subscription or its end, for the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The channel or pattern.
    pub name: TopicName,
    /// True to subscribe, false to unsubscribe.
    pub wanted: bool,
    /// The number of the request. If a name is given up and requested again, a late response to the earlier request has
    /// the earlier number.
    pub number: u64,
}

/// The requested names, and the changes that the bus has not received yet.
#[derive(Debug, Default)]
pub(super) struct BusRequests {
    wanted: ExtendibleMap<TopicName, RequestedName>,
    changes: ChunkedQueue<Interest>,
    /// The number of the newest change.
    number: u64,
    /// Losses of the connection so far.
    losses: u32,
    /// Patterns that covered patterns of clients and that the bus has refused on this connection; it may grant narrower
    /// patterns.
    pub(super) refused_covers: HashSet<TopicName, RandomState>,
}

/// A requested name. There are many, so the fields are small.
#[derive(Debug)]
struct RequestedName {
    /// The number of the request.
    number: u64,
    /// The response, and how many losses of the connection came before it.
    response: (BusAnswer, u32),
    /// How many names get their messages by this request.
    uses: u32,
    /// How many of these are other names, which this pattern covers.
    covers: u32,
}

/// The bus's response to the request for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusAnswer {
    /// No response yet, or the connection that confirmed is lost: the source then repeats the request by itself.
    Waits,
    Confirmed,
    Refused,
}

impl BusRequests {
    /// Requests a name from the bus, unless it is requested already.
    pub(super) fn want(&mut self, name: &TopicName) {
        self.add_use(name, 0);
    }

    /// Requests a pattern that covers another name from the bus, unless it is requested already: the messages of the
    /// name come by this request.
    pub(super) fn want_cover(&mut self, pattern: &TopicName) {
        self.add_use(pattern, 1);
    }

    /// Counts a use of the name, and requests it from the bus if it is the first. `covers` is 1 if the name is a
    /// pattern that is used for a name that it covers, otherwise 0.
    fn add_use(&mut self, name: &TopicName, covers: u32) {
        if let Some(wanted) = self.wanted.get_mut(name) {
            wanted.uses += 1;
            wanted.covers += covers;
            return;
        }
        self.change(name, true);
        let wanted = RequestedName {
            number: self.number,
            response: (BusAnswer::Waits, self.losses),
            uses: 1,
            covers,
        };
        self.wanted.insert(name.clone(), wanted);
    }

    /// Takes a [`want`](Self::want) back. If nothing needs the name any more, cancels the request.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        let Some(wanted) = self.wanted.get_mut(name) else {
            return;
        };
        wanted.uses -= 1;
        if wanted.uses == 0 {
            self.wanted.remove(name);
            self.change(name, false);
        }
    }

    /// Takes a [`want_cover`](Self::want_cover) back.
    pub(super) fn give_up_cover(&mut self, pattern: &TopicName) {
        if let Some(wanted) = self.wanted.get_mut(pattern) {
            wanted.covers -= 1;
        }
        self.give_up(pattern);
    }

    /// Whether the messages of other names come through this pattern.
    pub(super) fn covers(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.covers > 0)
    }

    /// Queues a change for the bus, under the next number.
    fn change(&mut self, name: &TopicName, wanted: bool) {
        self.number += 1;
        self.changes.push_back(Interest {
            name: name.clone(),
            wanted,
            number: self.number,
        });
    }

    /// Takes the next change for the bus.
    pub(super) fn next_change(&mut self) -> Option<Interest> {
        self.changes.pop_front()
    }

    /// Records the bus's response to the request `number`, and returns the state before. `None`: it is the response to
    /// an earlier request, which is ignored, because the name may have been given up since.
    pub(super) fn record_answer(
        &mut self,
        name: &TopicName,
        number: u64,
        answer: BusAnswer,
    ) -> Option<BusAnswer> {
        let before = self.state(name);
        let wanted = self.wanted.get_mut(name);
        let wanted = wanted.filter(|wanted| wanted.number == number)?;
        wanted.response = (answer, self.losses);
        before
    }

    /// Handles the loss of the connection: no name is confirmed any more. Refused names stay refused; only a
    /// confirmation on the next connection changes that.
    pub(super) fn lost(&mut self) {
        self.losses += 1;
        // The next connection may have other rights.
        self.refused_covers.clear();
    }

    /// Returns true if the bus has confirmed the newest request for the name on this connection.
    pub(super) fn is_confirmed(&self, name: &TopicName) -> bool {
        self.state(name) == Some(BusAnswer::Confirmed)
    }

    /// Returns true if the bus's newest response to the request is a confirmation, also of an earlier connection: messages
    /// of the name have come.
    pub(super) fn was_confirmed(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.response.0 == BusAnswer::Confirmed)
    }

    /// Returns true if the bus has confirmed or refused the newest request for the name.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        self.state(name)
            .is_some_and(|state| state != BusAnswer::Waits)
    }

    /// Returns true if the bus has refused the newest request for the name.
    pub(super) fn is_refused(&self, name: &TopicName) -> bool {
        self.state(name) == Some(BusAnswer::Refused)
    }

    fn state(&self, name: &TopicName) -> Option<BusAnswer> {
        let (state, losses) = self.wanted.get(name)?.response;
        match state {
            BusAnswer::Confirmed if losses != self.losses => Some(BusAnswer::Waits),
            state => Some(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_asked_once_for_each_change() {
        let mut asked = BusRequests::default();
        let [a, b] = ["a", "b*"].map(TopicName::fixed);
        let change = |name: &TopicName, wanted, number| {
            let name = name.clone();
            Some(Interest {
                name,
                wanted,
                number,
            })
        };
        asked.want(&a);
        asked.want(&a);
        asked.want(&b);
        asked.give_up(&a);
        assert_eq!(
            asked.record_answer(&a, 1, BusAnswer::Confirmed),
            Some(BusAnswer::Waits)
        );
        assert_eq!(
            asked.record_answer(&a, 1, BusAnswer::Confirmed),
            Some(BusAnswer::Confirmed)
        );
        assert!(asked.is_settled(&a));
        asked.give_up(&a);
        asked.give_up(&a);
        assert_eq!(
            asked.record_answer(&a, 1, BusAnswer::Confirmed),
            None,
            "it may be confirmed late"
        );
        asked.want(&a);
        assert_eq!(
            asked.record_answer(&a, 1, BusAnswer::Confirmed),
            None,
            "to the first request"
        );
        assert!(!asked.is_settled(&a), "asked anew");
        assert_eq!(
            asked.record_answer(&a, 4, BusAnswer::Confirmed),
            Some(BusAnswer::Waits)
        );
        assert!(asked.is_settled(&a));
        for want in [
            change(&a, true, 1),
            change(&b, true, 2),
            change(&a, false, 3),
            change(&a, true, 4),
            None,
        ] {
            assert_eq!(asked.next_change(), want);
        }
    }
}
