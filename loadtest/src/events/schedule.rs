//! Requests by the clock: each is due at a fixed time, whatever happened to earlier requests. The
//! latency counts from the due time.

use std::ops::Range;

use super::LATE_US;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Tally};
use crate::payload::Payload;

/// A kind of request, sent by the devices in turn.
pub(super) struct Stream {
    devices: Range<usize>,
    event: &'static str,
    rate: f64,
    sent: u64,
}

/// A request of a device.
pub(super) struct Request<'a> {
    pub(super) device: usize,
    pub(super) event: &'static str,
    pub(super) n: u64,
    /// A stamped JSON object; the stamp is the due time of the request.
    pub(super) data: &'a str,
}

/// A destination of requests.
pub(super) trait Side {
    /// Sends a request immediately.
    fn send(&mut self, request: &Request<'_>) -> Result<(), Fault>;
    /// Reads responses until this time.
    fn run_until(&mut self, at_us: u64) -> Result<(), Fault>;
    /// The responses so far.
    fn tally(&self) -> &Tally;
    /// Restarts the counts, for responses to requests numbered `n` and above.
    fn count_from(&mut self, n: u64);
}

impl Stream {
    pub(super) fn new(devices: Range<usize>, event: &'static str, rate: f64) -> Self {
        Self {
            devices,
            event,
            rate,
            sent: 0,
        }
    }

    fn due_us(&self, start_us: u64) -> u64 {
        start_us + clock::due_after_us(self.sent, self.rate)
    }

    fn next_device(&mut self) -> usize {
        let device = self.devices.start + self.sent as usize % self.devices.len();
        self.sent += 1;
        device
    }
}

/// Makes the requests of all parts; the numbers continue from part to part.
pub(super) struct Player {
    payload: Payload,
    next_n: u64,
}

impl Player {
    /// Requests with this much data.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            payload: Payload::new(bytes),
            next_n: 1,
        }
    }

    /// Plays all streams for `seconds`, then waits for the responses to the first stream; returns the
    /// expected number of these responses.
    pub(super) fn play(
        &mut self,
        side: &mut impl Side,
        streams: &mut [Stream],
        seconds: f64,
    ) -> Result<u64, Fault> {
        side.count_from(self.next_n);
        for stream in streams.iter_mut() {
            stream.sent = 0;
        }
        let start_us = clock::now_us() + 1_000;
        let end_us = start_us + clock::seconds_us(seconds);
        loop {
            let next = streams.iter_mut().min_by_key(|s| s.due_us(start_us));
            let Some(stream) = next.filter(|s| s.due_us(start_us) < end_us) else {
                break;
            };
            let due_us = stream.due_us(start_us);
            side.run_until(due_us)?;
            let data = self.payload.stamped(due_us, self.next_n);
            side.send(&Request {
                device: stream.next_device(),
                event: stream.event,
                n: self.next_n,
                data: &String::from_utf8_lossy(data),
            })?;
            self.next_n += 1;
        }
        side.run_until(end_us)?;
        let expected = streams.first().map_or(0, |stream| stream.sent);
        while side.tally().deliveries < expected && clock::now_us() < end_us + LATE_US {
            side.run_until(clock::now_us() + 10_000)?;
        }
        Ok(expected)
    }
}

/// Requests through the gateway, each on the connection of the device.
impl Side for Fleet {
    fn send(&mut self, request: &Request<'_>) -> Result<(), Fault> {
        let Request { event, n, data, .. } = request;
        self.send_from(
            request.device,
            &format!(r#"{{"event":"{event}","request_id":"{n}","data":{data}}}"#),
        );
        Ok(())
    }

    fn run_until(&mut self, at_us: u64) -> Result<(), Fault> {
        Self::run_until(self, at_us)
    }

    fn tally(&self) -> &Tally {
        &self.readers
    }

    fn count_from(&mut self, n: u64) {
        Self::count_from(self, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records each request with the due time.
    struct Notes(Tally, Vec<(usize, &'static str, u64)>);

    impl Side for Notes {
        fn send(&mut self, request: &Request<'_>) -> Result<(), Fault> {
            let stamp = crate::stamp::find(request.data.as_bytes()).unwrap();
            assert_eq!(stamp.n, request.n);
            self.1.push((request.device, request.event, stamp.us));
            self.0.deliveries += 1;
            Ok(())
        }

        fn run_until(&mut self, _: u64) -> Result<(), Fault> {
            Ok(())
        }

        fn tally(&self) -> &Tally {
            &self.0
        }

        fn count_from(&mut self, n: u64) {
            self.0.from_n = n;
        }
    }

    #[test]
    fn each_stream_keeps_its_rate_and_its_devices_take_turns() {
        let mut side = Notes(Tally::new(), Vec::new());
        let mut streams = [
            Stream::new(0..2, "a", 1_000.0),
            Stream::new(2..3, "b", 500.0),
        ];
        let mut player = Player::new(200);
        assert_eq!(player.play(&mut side, &mut streams, 0.004).unwrap(), 4);
        let start_us = side.1[0].2;
        let mut seen: Vec<_> = side
            .1
            .iter()
            .map(|(d, e, us)| (us - start_us, *e, *d))
            .collect();
        seen.sort_unstable();
        let a = |us, device| (us, "a", device);
        let b = |us| (us, "b", 2);
        assert_eq!(
            seen,
            [
                a(0, 0),
                b(0),
                a(1_000, 1),
                a(2_000, 0),
                b(2_000),
                a(3_000, 1)
            ]
        );
        player.play(&mut side, &mut streams, 0.001).unwrap();
        assert_eq!(side.0.from_n, 7, "numbers go on");
    }
}
