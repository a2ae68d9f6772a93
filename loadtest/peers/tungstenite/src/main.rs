//! The naive way with tungstenite: one thread, and `send(message.clone())` for each client.

use std::io::ErrorKind;
use std::sync::{Arc, mpsc};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tungstenite::{Error, Message, WebSocket};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

fn main() -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(feed::address())?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, messages) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = feed::run(|text| {
            let _ = sender.send(Message::text(text));
            let _ = waker.wake();
        });
        std::process::exit(0);
    });
    let mut clients: Slab<WebSocket<TcpStream>> = Slab::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(&listener, &poll, &mut clients)?,
                WAKER => {}
                Token(key) => {
                    if !clients.get_mut(key).is_none_or(alive) {
                        clients.remove(key);
                    }
                }
            }
        }
        while let Ok(message) = messages.try_recv() {
            // A broken connection is removed at its event; what a full socket does not take, waits.
            for (_, client) in &mut clients {
                let _ = client.send(message.clone());
            }
        }
    }
}

/// Reads what there is and writes what waits.
fn alive(client: &mut WebSocket<TcpStream>) -> bool {
    let would_block = |e: &Error| matches!(e, Error::Io(e) if e.kind() == ErrorKind::WouldBlock);
    loop {
        match client.read() {
            Ok(_) => {}
            Err(e) if would_block(&e) => {
                return client.flush().map_or_else(|e| would_block(&e), |()| true);
            }
            Err(_) => return false,
        }
    }
}

/// Handshakes block: they are no part of what is measured.
fn accept(
    listener: &TcpListener,
    poll: &Poll,
    clients: &mut Slab<WebSocket<TcpStream>>,
) -> std::io::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        let stream = std::net::TcpStream::from(stream);
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        // A connection that is not a WebSocket is dropped.
        let Ok(client) = tungstenite::accept(stream.try_clone()?) else {
            continue;
        };
        drop(client);
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let entry = clients.vacant_entry();
        poll.registry().register(
            &mut stream,
            Token(entry.key()),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(WebSocket::from_raw_socket(
            stream,
            tungstenite::protocol::Role::Server,
            None,
        ));
    }
    Ok(())
}
