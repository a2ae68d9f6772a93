//! Bodies on their way through the proxy: piece by piece, each asked for when there is room.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::client::Lease;
use super::headers;
use crate::http::body::{BoxError, RequestBody};

/// How far the client is with its body, for whoever waits for the service.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// The next piece is the client's to send: a silence is not the service's.
    owed: AtomicBool,
    /// It broke off, or sent chunks without a clear end.
    broken: AtomicBool,
    /// All of it was passed on.
    ended: AtomicBool,
}

impl Upload {
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A request's body on its way to the service; `None` where there is none.
#[derive(Debug)]
pub(super) struct ToService {
    body: Option<RequestBody>,
    upload: Arc<Upload>,
}

impl ToService {
    pub(super) fn new(body: RequestBody) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::default());
        let body = Some(body).filter(|body| !body.is_end_stream());
        upload.ended.store(body.is_none(), Ordering::Relaxed);
        let to_service = Self {
            body,
            upload: Arc::clone(&upload),
        };
        (to_service, upload)
    }

    /// Another one like this, where there is nothing to send.
    pub(super) fn again(&self) -> Option<Self> {
        let upload = Arc::clone(&self.upload);
        self.body.is_none().then_some(Self { body: None, upload })
    }
}

impl Body for ToService {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, upload } = &mut *self;
        let Some(body) = body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        upload.owed.store(frame.is_pending(), Ordering::Relaxed);
        let frame = ready!(frame);
        if frame.is_none() || body.is_end_stream() {
            upload.ended.store(true, Ordering::Relaxed);
        }
        if matches!(frame, Some(Err(_))) {
            upload.broken.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map(without_bad_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

/// An answer's body on its way to the client. Once it has ended, its connection is kept; dropped
/// before, that ends too, and the service sees that nobody listens.
pub(super) struct ToClient {
    incoming: Incoming,
    ended: bool,
    lease: Option<Lease>,
    upload: Arc<Upload>,
    silence: Duration,
    /// Since when nothing is there to pass on.
    waits_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl ToClient {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        upload: Arc<Upload>,
        silence: Duration,
    ) -> Self {
        Self {
            ended: incoming.is_end_stream(),
            incoming,
            lease: Some(lease),
            upload,
            silence,
            waits_since: None,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Ready once the service has been silent for too long while it was its turn.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let heard = self.lease.as_ref().map(Lease::last_heard);
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
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waits_since = None;
                self.ended = frame.is_none() || self.incoming.is_end_stream();
                let frame = frame.map(|frame| frame.map(without_bad_trailers).map_err(Into::into));
                Poll::Ready(frame)
            }
            Poll::Pending => {
                ready!(self.poll_silent(cx));
                let silent = io::Error::new(io::ErrorKind::TimedOut, "the service is silent");
                Poll::Ready(Some(Err(silent.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ToClient {
    fn drop(&mut self) {
        // A connection that still takes a body is of no use to others.
        if let Some(lease) = self.lease.take()
            && self.ended
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
