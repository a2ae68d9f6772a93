//! The data of the operator's page: a survey of clients and topics on request, the newest messages of watched
//! topics, and the connections that ended last.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Reactor;
use crate::hub::{CloseReason, Ended, Feed, Gateway, Now};
use crate::telemetry::{EndedAt, Surveyed};

/// Ends that are kept: this many ends by clients, and as many others. In a shared list, clients that come and
/// go would displace all other ends.
const ENDS_MAX: usize = 25;

/// From the beginning of a survey to the beginning of the next.
const SURVEY_EVERY_US: u64 = 1_000_000;

/// The connections that ended last.
#[derive(Debug, Default)]
pub(super) struct Ends {
    by_clients: VecDeque<EndedAt>,
    others: VecDeque<EndedAt>,
    /// The beginning of the last survey, microseconds of the monotonic clock.
    surveyed_us: Option<u64>,
}

impl Ends {
    pub(super) fn push(&mut self, now: Now, ended: Ended) {
        let list = match ended.reason {
            CloseReason::PeerClosed | CloseReason::PeerGone => &mut self.by_clients,
            _ => &mut self.others,
        };
        if list.len() == ENDS_MAX {
            list.pop_front();
        }
        let at_unix_ms = now.unix_ms;
        list.push_back(EndedAt { at_unix_ms, ended });
    }

    /// Returns both lists as one, the newest end first.
    fn newest_first(&self) -> Vec<EndedAt> {
        let both = self.by_clients.iter().chain(&self.others);
        let mut ends: Vec<EndedAt> = both.cloned().collect();
        ends.sort_by_key(|end| std::cmp::Reverse(end.at_unix_ms));
        ends
    }

    /// Whether a survey may begin now; if so, records its beginning.
    fn begins(&mut self, now_us: u64) -> bool {
        let rests = |last: u64| now_us < last + SURVEY_EVERY_US;
        let begins = !self.surveyed_us.is_some_and(rests);
        if begins {
            self.surveyed_us = Some(now_us);
        }
        begins
    }
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Surveys some clients, if a survey is under way or requested.
    pub(super) fn survey(&mut self) {
        let surveys = &self.seams.telemetry.surveys;
        let is_surveying = self.hub.is_surveying();
        if !is_surveying && !surveys.is_asked() {
            return;
        }
        let now = self.clock.now();
        if !is_surveying {
            if !self.ends.begins(now.mono_us) {
                return;
            }
            surveys.begun();
        }
        if let Some(survey) = self.hub.survey(now) {
            let ends = self.ends.newest_first();
            surveys.put(Surveyed { survey, ends });
        }
    }

    /// Passes requests for topics to the hub, and its messages to the page. Costs nothing without requests.
    pub(super) fn tails(&mut self) {
        if !self.seams.telemetry.tails.is_asked() && !self.hub.has_tails() {
            return;
        }
        let now = self.clock.now();
        let telemetry = Arc::clone(&self.seams.telemetry);
        let hub = &mut self.hub;
        telemetry
            .tails
            .take_asked(|topic, until_us| hub.want_tail(now, topic, until_us));
        if let Some(looks) = hub.look_at_tails(now)
            && !telemetry.tails.put(looks, hub.tail_messages())
        {
            hub.look_was_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{ClientAddr, Peer};
    use crate::hub::Traffic;

    fn ended(reason: CloseReason) -> Ended {
        Ended {
            peer: Peer::Unix(None),
            client: ClientAddr::Unix,
            user: None,
            tls: None,
            path: "/ws".into(),
            reason,
            refusal: None,
            code: None,
            age_us: 1,
            traffic: Traffic::default(),
        }
    }

    #[test]
    fn ends_are_bounded_and_clients_that_leave_do_not_push_others_out() {
        let mut ends = Ends::default();
        let at = |unix_ms| Now {
            mono_us: 0,
            unix_ms,
        };
        ends.push(at(0), ended(CloseReason::SendStalled));
        for unix_ms in 1..=1_000 {
            ends.push(at(unix_ms), ended(CloseReason::PeerClosed));
        }
        let kept = ends.newest_first();
        assert_eq!(kept.len(), ENDS_MAX + 1);
        assert_eq!(kept[0].at_unix_ms, 1_000);
        assert_eq!(kept[ENDS_MAX].ended.reason, CloseReason::SendStalled);
    }

    #[test]
    fn a_survey_begins_once_a_second_at_the_most() {
        let mut ends = Ends::default();
        let begins = [0, 1, 999_999, 1_000_000, 1_500_000, 2_000_000];
        let begun = begins.map(|now_us| ends.begins(now_us));
        assert_eq!(begun, [true, false, false, true, false, true]);
    }
}
