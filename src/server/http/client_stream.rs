//! A client's socket on the HTTP thread, with TLS or without: hyper and the gate see plain bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::listening::room::takes_more;
use crate::listening::tls::{RECORD_BYTES_MAX, TlsSession};

/// The most bytes to read from the network at a time, for a connection with TLS.
const RAW_BYTES: usize = 16 * 1024;

/// A connected socket.
#[derive(Debug)]
pub(super) struct ClientStream {
    tcp: TcpStream,
    tls: Option<Box<TlsSession>>,
    /// Whether the client would take the end of the connection for the end of an answer that is still being sent.
    ends_answer: bool,
}

impl ClientStream {
    /// Takes a nonblocking socket into the runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub(super) fn new(tcp: std::net::TcpStream, tls: Option<Box<TlsSession>>) -> io::Result<Self> {
        let tcp = TcpStream::from_std(tcp)?;
        Ok(Self {
            tcp,
            tls,
            ends_answer: false,
        })
    }

    /// Takes the socket out of the runtime.
    ///
    /// # Errors
    /// The socket cannot leave the runtime.
    pub(super) fn into_std(self) -> io::Result<(std::net::TcpStream, Option<Box<TlsSession>>)> {
        Ok((self.tcp.into_std()?, self.tls))
    }

    /// Waits for a state of the socket.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.tcp.ready(interest).await
    }

    /// Ready when a read finds bytes or an end.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.has_input() {
            true => Poll::Ready(Ok(())),
            false => self.tcp.poll_read_ready(cx),
        }
    }

    /// Checks for input, encrypted or plain, without taking any. Ready with 0 at the end of the client's side.
    pub(super) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.has_input() {
            true => Poll::Ready(Ok(1)),
            false => self.tcp.poll_peek(cx, &mut ReadBuf::new(&mut [0])),
        }
    }

    fn has_input(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.has_input())
    }

    /// Whether the client broke the protocol of TLS.
    pub(super) fn has_failed(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|session| session.has_failed())
    }

    /// Whether the client has begun a record of TLS.
    pub(super) fn has_begun_record(&self) -> bool {
        let session = self.tls.as_ref();
        session.is_some_and(|session| session.has_begun_record())
    }

    /// Whether the connection has to end because the TLS sessions of all clients together hold too many bytes. If not,
    /// wakes the task once it has to.
    pub(super) fn is_evicted(&mut self, cx: &Context<'_>) -> bool {
        let session = self.tls.as_mut();
        session
            .filter(|session| session.held_bytes() > 0)
            .is_some_and(|session| {
                session.wake_with(cx.waker());
                session.is_evicted()
            })
    }

    /// Resets the connection, and discards the bytes that the kernel still holds.
    pub(super) fn reset(self) {
        // Cannot fail on an open socket.
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }

    /// Sets whether the client would take the connection's end for the end of an answer. While it would, the
    /// connection ends with a reset, even if the process ends.
    pub(super) fn set_ends_answer(&mut self, ends: bool) {
        if self.ends_answer != ends {
            self.ends_answer = ends;
            let linger = ends.then_some(Duration::ZERO);
            // Cannot fail on an open socket.
            let _ = SockRef::from(&self.tcp).set_linger(linger);
        }
    }

    /// Whether the client would take the end of the connection for the end of an answer.
    pub(super) fn ends_answer(&self) -> bool {
        self.ends_answer
    }

    /// Waits for bytes from the network.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    /// Reads and drops bytes, unopened with TLS.
    pub(super) fn try_discard(&self, scratch: &mut [u8]) -> io::Result<usize> {
        self.tcp.try_read(scratch)
    }

    /// Sends the records of TLS that the session keeps until the network takes them.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(session) = &mut self.tls else {
            return Poll::Ready(Ok(()));
        };
        loop {
            session.send_kept(|bytes| self.tcp.try_write(bytes))?;
            if !session.has_kept() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }

    /// Sends the kept records. Ready with how many plain bytes to seal next.
    fn poll_bytes_to_seal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_kept(cx))?;
            let Some(session) = &self.tls else {
                return Poll::Ready(Ok(RECORD_BYTES_MAX));
            };
            let bytes = session.bytes_to_seal(RECORD_BYTES_MAX, || takes_more(&self.tcp));
            if bytes > 0 {
                return Poll::Ready(Ok(bytes));
            }
            // As after a write that the kernel refuses: the runtime waits for room.
            let refused = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.tcp.try_io(Interest::WRITABLE, refused);
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, tls, .. } = &mut *self;
        let Some(session) = tls else {
            return Pin::new(tcp).poll_read(cx, buf);
        };
        let mut raw = [0; RAW_BYTES];
        loop {
            // Waiting input needs no system call, so tokio does not count it against the task's budget; this call does.
            let read = if session.has_input() {
                ready!(coop::poll_proceed(cx)).made_progress();
                0
            } else if session.has_ended() {
                break;
            } else {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_read(&mut raw) {
                    Ok(0) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    read => read?,
                }
            };
            let opened = session.open(&mut raw[..read], buf.initialize_unfilled());
            // Records for the client, such as alerts. What the network does not take now goes out with the next write,
            // which also shows a broken connection.
            let _ = session.send_kept(|bytes| tcp.try_write(bytes));
            let bytes = opened?;
            buf.advance(bytes);
            if bytes > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.tls.is_none() {
            return Pin::new(&mut self.tcp).poll_write(cx, buf);
        }
        let bytes_max = ready!(self.poll_bytes_to_seal(cx))?;
        let Self { tcp, tls, .. } = &mut *self;
        let Some(session) = tls else {
            // Cannot be: without TLS the function has returned above.
            return Poll::Ready(Ok(0));
        };
        // One record for each call. What the socket does not take of it stays in the session, so all of it counts as
        // written.
        let part = &buf[..buf.len().min(bytes_max)];
        let mut records = [0; TlsSession::sealed_bytes_max(RECORD_BYTES_MAX)];
        let sealed = session.seal(part, &mut records)?;
        session.keep(&records[..sealed]);
        session.send_kept(|bytes| tcp.try_write(bytes))?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.tls.is_none() {
            return Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| buf))
    }

    /// False with TLS: hyper then joins the parts of an answer in one buffer, which becomes a single record.
    fn is_write_vectored(&self) -> bool {
        self.tls.is_none()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(session) = &mut self.tls {
            // hyper may call this again; the second call keeps no second alert.
            session.keep_close_notify();
        }
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream as Peer};

    use tokio::runtime;

    use super::*;
    use crate::listening::tls::session_tests::{VERSIONS, greeted, sent};

    /// Sends each text as a record of TLS, and returns the plain bytes that the stream reads.
    fn read_of(texts: &[&[u8]], takes_no_more: bool, into_bytes: usize) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("its address");
        let mut peer = Peer::connect(addr).expect("connected");
        let (stream, _) = listener.accept().expect("accepted");
        stream.set_nonblocking(true).expect("nonblocking");
        let (mut tls, mut session) = greeted(VERSIONS[0]);
        if takes_no_more {
            stream.shutdown(Shutdown::Write).expect("ended");
            session.keep(b"a record that cannot be sent");
        }
        for text in texts {
            tls.writer().write_all(text).expect("a record");
        }
        peer.write_all(&sent(&mut tls)).expect("sent");
        let runtime = runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            let mut stream = ClientStream::new(stream, Some(Box::new(session))).expect("taken");
            let mut got = Vec::new();
            while got.len() < texts.concat().len() {
                let mut bytes = vec![0; into_bytes];
                let mut buf = ReadBuf::new(&mut bytes);
                poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf))
                    .await
                    .expect("a request");
                got.extend_from_slice(buf.filled());
            }
            got
        })
    }

    #[test]
    fn the_last_request_of_a_client_that_takes_no_more_arrives() {
        assert_eq!(read_of(&[b"bye"], true, 100), b"bye");
    }

    #[test]
    fn records_that_wait_for_the_next_step_are_read_without_another_event() {
        let texts = [&b"one of many"[..]; 300];
        assert_eq!(read_of(&texts, false, 1_000), texts.concat());
    }
}
