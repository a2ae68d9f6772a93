//! Bodies in the proxy. They are passed on piece by piece, and the next piece is read when there is room for it. A
//! small request body is read completely first.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::{ProxiedRequest, ProxyOutcome, ServiceStats};
use super::headers;
use crate::services::{Lease, RepeatableBody, ServicePermit, Writing};
use weirgate_server::http::{BoxError, Progress, ReadBodyError, RequestBody};
use weirgate_wire::admission::Permit;

/// The largest announced length of a body that is read completely before the request gets a connection to its service,
/// so that a slow client with a small body holds no connection.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// Reads a small body whole. Fails as too slow if the body is evicted, because the bodies of others need its room: those
/// without progress for the longest are evicted first.
async fn read_small(body: RequestBody, room: &Permit) -> Result<Bytes, ReadBodyError> {
    let upload = body.progress();
    let mut read = pin!(body.read(SMALL_BYTES_MAX as usize));
    poll_fn(|cx| {
        room.wake_with(cx.waker());
        if room.is_evicted() {
            upload.give_up();
            return Poll::Ready(Err(ReadBodyError::TooSlow));
        }
        read.as_mut().poll(cx)
    })
    .await
}

/// A request body for the service.
#[derive(Debug)]
pub(super) struct ToService {
    kind: BodyKind,
    stats: Arc<ServiceStats>,
}

#[derive(Debug)]
enum BodyKind {
    /// No body, or nothing left.
    Nothing,
    /// A whole small body. Its bytes are charged until they are sent to the service: before that the request may have
    /// no connection to a service, so the limit of connections does not bound these bytes.
    Whole { bytes: Bytes, _room: Permit },
    /// A body that is passed on in pieces: it is large, of unknown length, or small while there is no room for another
    /// small body. It is read only once the request has a connection, so the limit of connections bounds its bytes. The
    /// [`ServicePermit`] records the progress of the client; `None` until `set_permit`.
    Pieces(RequestBody, Option<Arc<ServicePermit>>),
}

impl ToService {
    /// Makes the body of a request, before the request gets a connection to its service. Reads a small body whole if
    /// `room` grants its bytes; leaves any other body to be read in pieces.
    ///
    /// # Errors
    /// A small body broke off, arrived too slowly or had to be evicted.
    pub(super) async fn new(
        body: RequestBody,
        room: impl FnOnce(u64) -> Option<Permit>,
        stats: Arc<ServiceStats>,
    ) -> Result<Self, ReadBodyError> {
        let small = |length: &u64| *length <= SMALL_BYTES_MAX;
        let kind = if body.is_end_stream() {
            BodyKind::Nothing
        } else if let Some(length) = body.size_hint().exact().filter(small) {
            match room(length) {
                Some(room) => BodyKind::Whole {
                    bytes: read_small(body, &room).await?,
                    _room: room,
                },
                None => {
                    stats.count_ungathered();
                    BodyKind::Pieces(body, None)
                }
            }
        } else {
            BodyKind::Pieces(body, None)
        };
        Ok(Self { kind, stats })
    }

    /// Sets the permit of the request among the connections, which records the progress of a body in pieces.
    pub(super) fn set_permit(&mut self, permit: &Arc<ServicePermit>) {
        if let BodyKind::Pieces(_, held) = &mut self.kind {
            *held = Some(Arc::clone(permit));
        }
    }

    /// Returns true if the body has no known length, so that it is sent in chunks.
    pub(super) fn is_in_chunks(&self) -> bool {
        self.size_hint().exact().is_none()
    }
}

impl RepeatableBody for ToService {
    const WRITING: Writing = Writing::Copied;

    /// Only a missing body can be sent again.
    fn again(&self) -> Option<Self> {
        matches!(self.kind, BodyKind::Nothing).then(|| Self {
            kind: BodyKind::Nothing,
            stats: Arc::clone(&self.stats),
        })
    }
}

impl Body for ToService {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.kind {
            BodyKind::Nothing => None,
            BodyKind::Whole { bytes, .. } => {
                let frame = Frame::data(mem::take(bytes));
                self.kind = BodyKind::Nothing;
                Some(Ok(frame))
            }
            BodyKind::Pieces(body, permit) => {
                let frame = Pin::new(&mut *body).poll_frame(cx);
                // How far the client is behind its least speed: not at all if a piece has come.
                let behind = match frame.is_pending() {
                    true => body.behind(),
                    false => Duration::ZERO,
                };
                permit.iter().for_each(|permit| permit.note_behind(behind));
                ready!(frame)
            }
        };
        Poll::Ready(frame.map(|frame| frame.map(without_bad_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Nothing => true,
            BodyKind::Whole { .. } => false,
            BodyKind::Pieces(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Nothing => SizeHint::with_exact(0),
            BodyKind::Whole { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Pieces(body, _) => body.size_hint(),
        }
    }
}

/// The body of an answer for the client. After its end, the connection to the service is kept for reuse. If the body is
/// dropped earlier, that connection ends, so that the service notices that the client has left.
pub(super) struct ToClient {
    incoming: Incoming,
    ended: bool,
    /// Hides that the body is empty. The head of a 304 may have a length although there is no body (RFC 9110 §8.6), and
    /// hyper removes the length if it knows that the body is empty.
    pub(super) hides_end: bool,
    lease: Option<Lease<ToService>>,
    upload: Arc<Progress>,
    exchange: ProxiedRequest,
    silence: Duration,
    /// Since when there has been nothing to pass on.
    waits_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl ToClient {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease<ToService>,
        upload: Arc<Progress>,
        exchange: ProxiedRequest,
        silence: Duration,
    ) -> Self {
        Self {
            ended: incoming.is_end_stream(),
            hides_end: false,
            incoming,
            lease: Some(lease),
            upload,
            exchange,
            silence,
            waits_since: None,
            // `poll_end` sets it before it is used.
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Ready, with the reason, if the service was silent for too long while it had to send, or if the request has to
    /// be evicted because its body is too slow.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        let permit = self.lease.as_ref().and_then(Lease::permit);
        if permit.is_some_and(|permit| permit.is_evicted(cx)) {
            self.upload.give_up();
            return Poll::Ready("the request gives way");
        }
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let last_received = self.lease.as_ref().map(|lease| lease.activity().last());
        let mut due = since.max(last_received.unwrap_or(since)) + self.silence;
        // A service may wait for the rest of the request before it sends more.
        if self.upload.awaits_client() {
            due = due.max(Instant::now() + self.silence);
        }
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| "the service is silent")
    }
}

impl Body for ToClient {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waits_since = None;
                let bytes = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                let permit = self.lease.as_ref().and_then(Lease::permit);
                if let (Some(permit), Some(bytes)) = (permit, bytes) {
                    permit.note_unread(bytes.len());
                }
                self.ended = frame.is_none() || self.incoming.is_end_stream();
                frame.map(|frame| frame.map(without_bad_trailers).map_err(BoxError::from))
            }
            Poll::Pending => {
                // The client has taken everything that has come.
                let permit = self.lease.as_ref().and_then(Lease::permit);
                if let Some(permit) = permit.filter(|_| self.waits_since.is_none()) {
                    permit.note_behind(Duration::ZERO);
                }
                let why = ready!(self.poll_end(cx));
                Some(Err(io::Error::new(io::ErrorKind::TimedOut, why).into()))
            }
        };
        match &frame {
            // If the request body breaks off, the connection to the service ends, and with it the answer.
            Some(Err(_)) if self.upload.is_broken() => {
                let outcome = ProxyOutcome::of_broken(&self.upload);
                self.exchange.refuse(outcome);
            }
            Some(Err(error)) => {
                self.lease.iter().for_each(|lease| lease.cut(error));
                self.exchange.fail(ProxyOutcome::Cut, error.as_ref());
            }
            Some(Ok(_)) | None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        !self.hides_end && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.hides_end {
            return SizeHint::default();
        }
        self.incoming.size_hint()
    }
}

impl Drop for ToClient {
    fn drop(&mut self) {
        if !self.ended {
            return;
        }
        self.exchange.note_end();
        // A connection that still sends a request body cannot be reused.
        if let Some(lease) = self.lease.take()
            && self.upload.has_ended()
        {
            lease.keep();
        }
    }
}

fn without_bad_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::trailers(trailers);
    }
    frame
}
