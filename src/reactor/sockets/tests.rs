//! Sockets with TLS over the loopback interface, without a loop.

use std::io::Write;
use std::net::{TcpListener, TcpStream as Peer};

use mio::Poll;

use super::*;
use crate::listening::tls::session_tests::{VERSIONS, greeted, sent};

const KEY: SessionKey = SessionKey {
    slot: 0,
    generation: 0,
};

/// Both ends of a connection.
fn loopback() -> (Peer, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let peer = Peer::connect(listener.local_addr().expect("its address")).expect("connected");
    peer.set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    (peer, listener.accept().expect("accepted").0)
}

/// A table with one socket.
fn sockets(poll: &Poll, stream: Peer, session: TlsSession) -> Sockets {
    stream.set_nonblocking(true).expect("nonblocking");
    let registry = poll.registry().try_clone().expect("a registry");
    let mut sockets = Sockets::new(registry, Clock::start(), HeldBytes::new(usize::MAX));
    let stream = TcpStream::from_std(stream);
    sockets
        .insert(KEY, stream, Some(Box::new(session)))
        .expect("registered");
    sockets
}

#[test]
fn the_sending_side_ends_with_whichever_step_sends_the_last_record() {
    let poll = Poll::new().expect("a poll");
    let (mut peer, stream) = loopback();
    let (mut tls, session) = greeted(VERSIONS[0]);
    let mut sockets = sockets(&poll, stream, session);
    let bytes = [0; 64 * 1024];
    while sockets.write(KEY, &[IoSlice::new(&bytes)]).is_ok() {}
    sockets.half_close(KEY);
    let mut scratch = [0; 64 * 1024];
    let has_kept = |sockets: &mut Sockets| {
        let socket = sockets.socket(KEY).expect("the socket");
        socket.tls.as_ref().is_some_and(|tls| tls.has_kept())
    };
    assert!(has_kept(&mut sockets));
    while has_kept(&mut sockets) {
        assert!(peer.read(&mut scratch).expect("bytes") > 0);
        tls.writer().write_all(b"x").expect("a record");
        peer.write_all(&sent(&mut tls)).expect("sent");
        // No report of room in between.
        let _ = sockets.read(KEY, &mut scratch);
    }
    while peer.read(&mut scratch).expect("bytes or the end") > 0 {}
}

#[test]
fn the_last_message_of_a_client_that_takes_no_more_arrives() {
    let poll = Poll::new().expect("a poll");
    let (mut peer, stream) = loopback();
    let (mut tls, mut session) = greeted(VERSIONS[0]);
    session.keep(b"a record that cannot be sent");
    stream.shutdown(Shutdown::Write).expect("ended");
    let mut sockets = sockets(&poll, stream, session);
    tls.writer().write_all(b"bye").expect("a record");
    peer.write_all(&sent(&mut tls)).expect("sent");
    let mut scratch = [0; 100];
    let got = sockets.read(KEY, &mut scratch).expect("a message");
    assert_eq!(&scratch[..got.plain_bytes], b"bye");
}
