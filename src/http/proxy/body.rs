//! Bodies on their way through the proxy: piece by piece, each asked for when there is room. A small
//! one of a request is read whole before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::{Exchange, Outcome, ServiceStats};
use super::headers;
use super::shares::Share;
use crate::http::body::{BoxError, Progress, ReadBodyError, RequestBody};
use crate::http::services::{Again, Lease};

/// A body that announces no more than this is whole before it takes a connection to its service: a
/// client that is slow with so little holds none.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// A request's body on its way to the service.
#[derive(Debug)]
pub(super) struct ToService {
    kind: Kind,
    stats: Arc<ServiceStats>,
}

#[derive(Debug)]
enum Kind {
    /// No body, or nothing of it left.
    Nothing,
    /// All of a small one.
    Whole(Bytes),
    /// What is passed on piece by piece.
    Pieces(RequestBody),
}

impl ToService {
    /// The body of a request, once that may take a connection to its service.
    ///
    /// # Errors
    /// A small body broke off.
    pub(super) async fn new(
        body: RequestBody,
        stats: Arc<ServiceStats>,
    ) -> Result<Self, ReadBodyError> {
        let is_small = |length| length <= SMALL_BYTES_MAX;
        let kind = if body.is_end_stream() {
            Kind::Nothing
        } else if body.size_hint().exact().is_some_and(is_small) {
            Kind::Whole(body.read(SMALL_BYTES_MAX as usize).await?)
        } else {
            Kind::Pieces(body)
        };
        Ok(Self { kind, stats })
    }

    /// Nobody knows the length of the body.
    pub(super) fn is_in_chunks(&self) -> bool {
        self.size_hint().exact().is_none()
    }
}

impl Again for ToService {
    /// Only where there is nothing to send.
    fn again(&self) -> Option<Self> {
        matches!(self.kind, Kind::Nothing).then(|| Self {
            kind: Kind::Nothing,
            stats: Arc::clone(&self.stats),
        })
    }
}

impl Body for ToService {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.kind {
            Kind::Nothing => None,
            Kind::Whole(bytes) => {
                let frame = Frame::data(mem::take(bytes));
                self.kind = Kind::Nothing;
                Some(Ok(frame))
            }
            Kind::Pieces(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            self.stats.count_request_bytes(data_bytes(frame));
        }
        Poll::Ready(frame.map(|frame| frame.map(without_bad_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Nothing => true,
            Kind::Whole(_) => false,
            Kind::Pieces(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Nothing => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Pieces(body) => body.size_hint(),
        }
    }
}

/// What a request holds until its answer is out: a connection to its service, and a part of its
/// address's share of them.
pub(super) struct Held {
    pub(super) lease: Lease<ToService>,
    pub(super) share: Option<Share>,
}

/// An answer's body on its way to the client. Once it has ended, its connection is kept; dropped
/// before, that ends too, and the service sees that nobody listens.
pub(super) struct ToClient {
    incoming: Incoming,
    ended: bool,
    /// Does not say beforehand that there is nothing in it.
    hides_end: bool,
    lease: Option<Lease<ToService>>,
    /// Only held: what counts for the client's address.
    _share: Option<Share>,
    upload: Arc<Progress>,
    exchange: Exchange,
    silence: Duration,
    /// Since when nothing is there to pass on.
    waits_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl ToClient {
    pub(super) fn new(
        incoming: Incoming,
        held: Held,
        upload: Arc<Progress>,
        exchange: Exchange,
        silence: Duration,
    ) -> Self {
        Self {
            ended: incoming.is_end_stream(),
            hides_end: false,
            incoming,
            lease: Some(held.lease),
            _share: held.share,
            upload,
            exchange,
            silence,
            waits_since: None,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// The same for an answer whose head has a length that its body has not: a 304 (RFC 9110
    /// §8.6). hyper takes that length out of the head where it knows that there is no body.
    pub(super) fn hiding_end(mut self) -> Self {
        self.hides_end = true;
        self
    }

    /// Ready once the service has been silent for too long while it was its turn.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let heard = self.lease.as_ref().map(|lease| lease.activity().last());
        let mut due = since.max(heard.unwrap_or(since)) + self.silence;
        if self.upload.is_owed() {
            due = due.max(Instant::now() + self.silence);
        }
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx)
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
                self.ended = frame.is_none() || self.incoming.is_end_stream();
                frame.map(|frame| frame.map(without_bad_trailers).map_err(BoxError::from))
            }
            Poll::Pending => {
                ready!(self.poll_silent(cx));
                let silent = io::Error::new(io::ErrorKind::TimedOut, "the service is silent");
                Some(Err(silent.into()))
            }
        };
        match &frame {
            Some(Ok(frame)) => self.exchange.count_answer_bytes(data_bytes(frame)),
            // The service's connection ends with a body that breaks off.
            Some(Err(_)) if self.upload.is_broken() => self.exchange.refuse(Outcome::BadRequest),
            Some(Err(error)) => self.exchange.fail(Outcome::Cut, error.as_ref()),
            None => {}
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
        self.exchange.is_whole();
        // A connection that still takes a body is of no use to others.
        if let Some(lease) = self.lease.take()
            && self.upload.has_ended()
        {
            lease.keep();
        }
    }
}

fn data_bytes(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

fn without_bad_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::trailers(trailers);
    }
    frame
}
