//! The acknowledgements of the messages of a stream. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::nats::protocol;

/// Messages are acknowledged together: when a fourth of the consumer's limit on unacknowledged messages is reached, or
/// after [`ACK_WAIT`].
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);

/// The acknowledgements of a consumer that wait; acknowledging the newest message acknowledges all before it.
#[derive(Debug, Default)]
pub(super) struct CumulativeAcks {
    /// The reply subject of the newest message without an acknowledgement, and its number among the consumer's deliveries.
    newest: Option<(String, u64)>,
    /// The number of messages without an acknowledgement.
    count: u64,
    /// When these messages have to be acknowledged.
    pub(super) due: Option<Instant>,
    /// The numbers of the messages whose acknowledgement was sent, as far as the server may stop so many messages behind them
    /// that were not read yet.
    acked: VecDeque<u64>,
}

impl CumulativeAcks {
    /// Notes a message to acknowledge, by its reply subject and its number among the consumer's deliveries. The server stops
    /// at `pending_max` messages. Returns whether it may have stopped after this one: exactly so many behind an earlier
    /// acknowledgement, and nobody knows when the server got the later ones.
    pub(super) fn owe(
        &mut self,
        (reply, number): (String, u64),
        pending_max: u64,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let is_past = |acked: &u64| *acked + pending_max < number;
        while self.acked.front().is_some_and(is_past) {
            self.acked.pop_front();
        }
        let stops = |acked: &u64| *acked + pending_max == number;
        let may_stop = stops(&0) || self.acked.front().is_some_and(stops);
        self.newest = Some((reply, number));
        self.count += 1;
        self.due.get_or_insert(now + ACK_WAIT);
        if self.count >= pending_max / ACKED_SHARE {
            self.send(out);
        }
        may_stop
    }

    /// Sends the acknowledgement, if due.
    pub(super) fn send_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.due.is_some_and(|due| now >= due) {
            self.send(out);
        }
    }

    fn send(&mut self, out: &mut Vec<u8>) {
        if let Some((subject, number)) = self.newest.take() {
            protocol::publish(out, &subject, "", b"");
            self.acked.push_back(number);
        }
        (self.count, self.due) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gets the acknowledgements late stops after one of the messages for which that is said.
    #[test]
    fn a_server_can_stop_only_where_that_is_said() {
        const PENDING_MAX: u64 = 8;
        for batch in [1, 3, 20] {
            let (mut acks, mut now, mut out) =
                (CumulativeAcks::default(), Instant::now(), Vec::new());
            let mut acked = vec![0];
            for number in 1..100 {
                let may_stop =
                    acks.owe((format!("a.{number}"), number), PENDING_MAX, now, &mut out);
                let stops = acked.iter().any(|acked| acked + PENDING_MAX == number);
                assert_eq!(may_stop, stops, "{number} of {acked:?}");
                if number % batch == 0 {
                    now += ACK_WAIT;
                    acks.send_due(now, &mut out);
                }
                if !std::mem::take(&mut out).is_empty() {
                    acked.push(number);
                }
                assert!(acks.acked.len() as u64 <= PENDING_MAX + 1);
            }
        }
    }
}
