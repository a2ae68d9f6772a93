//! Requests to the processes, over their channels.

use std::io;
use std::mem::replace;
use std::pin::pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::channel::Channel;
use crate::http::{BoxError, RequestBody, read_body};

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request to a process, as at the admin address of one that is alone.
#[derive(Clone, Debug)]
pub(super) struct AdminRequest {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl AdminRequest {
    /// A `GET` without headers.
    pub(super) fn get(target: &str) -> Self {
        Self {
            method: Method::GET,
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// Asks the process of this channel. Must run in a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// The process takes no connection, the answer is too large, or is not whole within `limit`.
    pub(super) async fn ask(self, channel: &Channel, limit: Duration) -> io::Result<AdminAnswer> {
        let asked = timeout(limit, self.send(channel)).await;
        asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends the request to the process of this channel. Returns its answer.
    ///
    /// # Errors
    /// There is no connection, or no whole answer.
    async fn send(self, channel: &Channel) -> io::Result<AdminAnswer> {
        let stream = UnixStream::from_std(channel.connect()?)?;
        let (head, body) = self.into_parts()?;
        exchange(stream, head, Full::new(body)).await
    }

    /// The request as HTTP sends it.
    ///
    /// # Errors
    /// The target is not valid.
    fn into_parts(self) -> io::Result<(Parts, Bytes)> {
        let request = Request::builder()
            .method(self.method)
            .uri(self.target)
            .header(HOST, "localhost")
            .body(())
            .map_err(io::Error::other)?;
        let (mut head, ()) = request.into_parts();
        head.headers.extend(self.headers);
        Ok((head, self.body))
    }

    /// Passes the request on with a body that comes in pieces, of which the supervisor holds one at a time: the process
    /// judges the request, and counts the bytes. The process has at least `limit` for the answer from the end of the
    /// body on, and at most twice as long.
    ///
    /// # Errors
    /// No whole answer, or the body is broken.
    pub(super) async fn pass_on(
        self,
        stream: UnixStream,
        body: RequestBody,
        limit: Duration,
    ) -> io::Result<AdminAnswer> {
        let progress = body.progress();
        // Whether the body had ended before the present wait of `limit` began.
        let mut had_ended = progress.has_ended();
        let (head, _) = self.into_parts()?;
        let mut answer = pin!(exchange(stream, head, body));
        loop {
            match timeout(limit, answer.as_mut()).await {
                Ok(said) => return said,
                Err(_) if progress.awaits_client() => {}
                Err(_) if progress.has_ended() && !replace(&mut had_ended, true) => {}
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// Sends a request on a new connection. Returns the answer, which may come before the body has ended.
async fn exchange<B>(stream: UnixStream, head: Parts, body: B) -> io::Result<AdminAnswer>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // A fault of the connection shows in the answer.
    let driver = spawn_local(async { drop(connection.await) });
    let response = sender.send_request(Request::from_parts(head, body)).await;
    let (head, incoming) = response.map_err(io::Error::other)?.into_parts();
    // `None`: the bytes are not charged.
    let body = read_body(incoming, ANSWER_BYTES_MAX, None).await;
    driver.abort();
    Ok(AdminAnswer {
        status: head.status,
        headers: head.headers,
        body: body.map_err(io::Error::other)?.into(),
    })
}

/// The answer of a process. Variables with such an answer are called `said`, to differ from the answer to the client.
#[derive(Clone, Debug)]
pub(super) struct AdminAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}
