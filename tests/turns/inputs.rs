//! The order in which the loop takes inputs of other threads.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};
use weirgate::gateways::NoFeed;
use weirgate_core::{Accepted, Admission, ByClient, Core, Gateway, Incoming, SessionKey};
use weirgate_runtime::{Clock, LateWake};
use weirgate_server::listening::ListenAddr;
use weirgate_server::run::{CommonSettings, Inputs, Parts};
use weirgate_wire::RequestHead;

use crate::WORK;

/// Works for a while on each input, and notes it.
struct Notes(Arc<Mutex<Vec<&'static str>>>);

impl Gateway for Notes {
    type Client = ();
    type In = &'static str;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(&mut self, _: &mut Core, _: SessionKey, (): &mut (), _: Incoming<'_>) {}

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, input: &'static str) {
        thread::sleep(WORK);
        self.0.lock().expect("no panic").push(input);
    }
}

const MANY: usize = 200;

/// Sends many inputs to one channel of a loop and then one to the other. Returns how many the loop took before that one.
fn taken_before_the_one(is_urgent: bool) -> usize {
    let notes = Arc::<Mutex<Vec<_>>>::default();
    let (input, receiver) = unbounded();
    let (urgent, urgent_receiver) = unbounded();
    let wake = LateWake::default();
    let inputs = Inputs::new(receiver, wake.clone()).urgent(urgent_receiver);
    let toy = Notes(Arc::clone(&notes));
    let mut common = CommonSettings::default();
    common.reactor.listen.addrs = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
    let (many, one): (Sender<_>, Sender<_>) = match is_urgent {
        true => (input, urgent),
        false => (urgent, input),
    };
    (0..MANY).for_each(|_| many.send("many").expect("the loop"));
    one.send("one").expect("the loop");
    thread::spawn(move || {
        Parts::new("toy", common, NoFeed::default(), toy)
            .inputs(inputs)
            .run(Clock::start(), |_| {})
            .expect("the loop runs");
    });
    let began = Instant::now();
    while began.elapsed().as_secs() < 20 {
        wake.wake();
        thread::sleep(WORK);
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = notes.iter().position(|note| *note == "one") {
            return at;
        }
    }
    panic!("it was not taken");
}

#[test]
fn urgent_inputs_come_first_and_the_others_still_come() {
    assert_eq!(
        taken_before_the_one(true),
        0,
        "an urgent one waits for no other"
    );
    let before = taken_before_the_one(false);
    assert!(
        before > 0 && before < MANY / 4,
        "one of the others in each turn: {before}"
    );
}
