//! One connection from its hand-over to its end, or to its way back: hyper behind the gate, the
//! clock, and a polite close.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response, service};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::connection_clock::ConnectionClock;
use super::gate::{Gate, HeadLimits, Stop};
use super::plane::{Handover, HttpSettings, WayBack};
use super::service::Service;
use super::site::{Answer, RequestParts};
use crate::wire::response;

/// What all connections share.
pub(super) struct Server {
    service: Service,
    settings: HttpSettings,
    protocol: http1::Builder,
}

impl Server {
    pub(super) fn new(service: Service, settings: HttpSettings) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            // The connection clock tells a slow head from an idle connection; hyper's does not.
            .header_read_timeout(None)
            .max_header_size(settings.head_bytes_max)
            .max_headers(settings.head_headers_max)
            .max_buf_size((2 * settings.head_bytes_max).max(64 * 1024))
            // A client may end its half once it has asked.
            .half_close(true);
        Self {
            service,
            settings,
            protocol,
        }
    }
}

/// How hyper's part of a connection ended.
enum End {
    /// By the protocol: asked for by either side, or the client left, or the gate let no more
    /// through. All answers are out.
    Done,
    /// The client broke the protocol or its connection.
    Fault(hyper::Error),
    /// Nothing came, or a head did not get whole, in time.
    TimedOut,
    /// The process stops.
    Stopped,
}

/// Serves a connection until it ends, or until its client asks for a WebSocket and it goes `back`.
/// At its end its place in the connection limits is free.
pub(super) async fn serve(
    server: Rc<Server>,
    handover: Handover,
    back: Option<WayBack>,
    mut stopping: watch::Receiver<bool>,
) {
    let Handover {
        stream,
        read,
        peer,
        permit,
    } = handover;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, %error, "HTTP connection could not be taken over"),
    };
    let settings = &server.settings;
    let clock = Rc::new(ConnectionClock::start(
        !read.is_empty(),
        Duration::from_millis(settings.head_timeout_ms),
        Duration::from_millis(settings.idle_timeout_ms),
    ));
    let limits = HeadLimits {
        bytes_max: settings.head_bytes_max,
        headers_max: settings.head_headers_max,
    };
    // Who read bytes of a head has decided that it is served here.
    let decided = !read.is_empty();
    let gate = Gate::new(stream, read, decided, limits, Rc::clone(&clock));
    let requests = Requests {
        server: Rc::clone(&server),
        peer,
    };
    let mut http = server
        .protocol
        .serve_connection(TokioIo::new(gate), requests);
    let end = run(&mut http, &clock, &mut stopping).await;
    let (stream, stop) = http.into_parts().io.into_inner().into_parts();
    match (end, stop) {
        (End::Done, Some(Stop::Upgrade(read))) => match back {
            Some(back) => {
                // A socket that cannot leave the runtime is broken: closing it is all there is.
                if let Ok(stream) = stream.into_std() {
                    back(Handover {
                        stream,
                        read,
                        peer,
                        permit,
                    });
                }
                return;
            }
            None => linger(stream, &refusal(403, "No WebSocket here"), settings).await,
        },
        (End::Done, Some(Stop::BadHead(error))) => {
            linger(stream, &refusal(error.status(), error.reason()), settings).await;
        }
        (End::Done, None) => linger(stream, &[], settings).await,
        (End::Fault(error), _) => {
            debug!(%peer, %error, "HTTP connection ended by a fault");
            linger(stream, &[], settings).await;
        }
        (End::TimedOut, _) => debug!(%peer, "HTTP connection timed out"),
        (End::Stopped, _) => {}
    }
    drop(permit);
}

fn refusal(status: u16, detail: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    response::refusal(&mut answer, status, &[], detail);
    answer
}

async fn run(
    http: &mut http1::Connection<TokioIo<Gate>, Requests>,
    clock: &ConnectionClock,
    stopping: &mut watch::Receiver<bool>,
) -> End {
    let mut timer = pin!(sleep_until(clock.deadline()));
    let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
    let mut stopped = false;
    poll_fn(|cx| {
        if !stopped && stop.as_mut().poll(cx).is_ready() {
            stopped = true;
            Pin::new(&mut *http).graceful_shutdown();
        }
        // Not `poll_without_shutdown`: that one may be ready while the last answer is still in its
        // buffer. So may this one, once, after a request that names some protocol in `Upgrade`:
        // asked again it goes the way of all others.
        let polled = match Pin::new(&mut *http).poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut *http).poll(cx),
            polled => polled,
        };
        match polled {
            Poll::Ready(_) if stopped => return Poll::Ready(End::Stopped),
            Poll::Ready(Ok(())) => return Poll::Ready(End::Done),
            Poll::Ready(Err(error)) => return Poll::Ready(End::Fault(error)),
            Poll::Pending => {}
        }
        let deadline = clock.deadline();
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| End::TimedOut)
    })
    .await
}

/// Sends a last answer, ends our half, then reads what the client still sends, within limits:
/// closing a socket with unread bytes resets it, and a reset can overtake the last answer
/// (RFC 9112 §9.6).
async fn linger(mut stream: TcpStream, mut answer: &[u8], settings: &HttpSettings) {
    let drain = async {
        while !answer.is_empty() {
            let wrote = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, answer)).await?;
            answer = answer.get(wrote..).unwrap_or_default();
        }
        // After a fault hyper has not done it; twice does no harm.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        let mut scratch = vec![0; 4096];
        let mut left = settings.linger_bytes_max;
        while left > 0 {
            stream.readable().await?;
            match stream.try_read(&mut scratch) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), io::Error>(())
    };
    // However it ends, there is nobody left to tell.
    let _ = timeout(Duration::from_millis(settings.linger_ms), drain).await;
}

/// The requests of one connection.
struct Requests {
    server: Rc<Server>,
    peer: SocketAddr,
}

impl service::Service<Request<Incoming>> for Requests {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let parts = RequestParts {
            head,
            peer: self.peer,
        };
        let mut answer = self.server.service.answer(&parts);
        if !body.is_end_stream() {
            // Nobody reads this body. To look for a request behind it would be to trust its
            // length, which is what request smuggling lives on.
            answer = answer.close();
        }
        ready(Ok(response(answer)))
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
