//! Bodies in pieces: of a request, for its handler; of an answer, for the client.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::connection_clock::ConnectionClock;

/// Why an answer breaks off.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request. Nothing more is taken from the client than is asked for here; a client
/// that expects `100 Continue` gets it when the first piece is asked for.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    progress: Arc<Progress>,
}

/// How far the client is with a body, for others than its reader.
#[derive(Debug, Default)]
pub(super) struct Progress {
    owed: AtomicBool,
    broken: AtomicBool,
    ended: AtomicBool,
}

impl Progress {
    /// The next piece was asked for, and is the client's to send.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    /// It broke off, or sent chunks without a clear end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// All of it was read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Why a body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadBodyError {
    /// It is over the limit of who reads it.
    #[error("the body is too large")]
    TooLarge,
    /// Its sender broke off, or its chunks have no clear end.
    #[error("the body is broken: {0}")]
    Broken(BoxError),
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> Self {
        let progress = Progress {
            ended: incoming.is_end_stream().into(),
            ..Progress::default()
        };
        Self {
            incoming,
            progress: Arc::new(progress),
        }
    }

    /// What tells from elsewhere how far it is.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// All of it, at most `bytes_max`.
    ///
    /// # Errors
    /// It is longer, or it is broken.
    pub async fn read(self, bytes_max: usize) -> Result<Bytes, ReadBodyError> {
        read(self, bytes_max).await.map(Bytes::from)
    }
}

/// All of a body, at most `bytes_max`. The pieces are joined as they come: a list of small ones
/// would take many times the memory of the body.
///
/// # Errors
/// It is longer, or it is broken.
pub(super) async fn read<B>(mut body: B, bytes_max: usize) -> Result<Vec<u8>, ReadBodyError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    // What is announced need not be awaited.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ReadBodyError::TooLarge);
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadBodyError::Broken(error.into()))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if whole.len() + piece.len() > bytes_max {
            return Err(ReadBodyError::TooLarge);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        let progress = &self.progress;
        progress.owed.store(frame.is_pending(), Ordering::Relaxed);
        if matches!(frame, Poll::Ready(Some(Err(_)))) {
            progress.broken.store(true, Ordering::Relaxed);
        }
        if matches!(frame, Poll::Ready(None)) || self.incoming.is_end_stream() {
            progress.ended.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The body of an answer: whole, or in pieces. One that fails ends the connection without the end
/// of the body, so that nobody takes a part for the whole.
pub struct AnswerBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Pieces(Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>),
}

impl AnswerBody {
    /// All of it at once.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(bytes.into())))
    }

    /// Pieces, each asked for when there is room for it.
    pub fn pieces(body: impl Body<Data = Bytes, Error = BoxError> + 'static) -> Self {
        Self(Kind::Pieces(Box::pin(body)))
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnswerBody")
            .field(&self.size_hint())
            .finish()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Kind::Pieces(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Pieces(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Pieces(body) => body.size_hint(),
        }
    }
}

/// A handler is at work while this lives.
#[derive(Debug)]
pub(super) struct Work(Rc<ConnectionClock>);

impl Work {
    pub(super) fn begin(clock: &Rc<ConnectionClock>) -> Self {
        clock.work_begun();
        Self(Rc::clone(clock))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.work_ended();
    }
}

/// What hyper sends: a body, and the work on it.
pub(super) struct Outgoing {
    body: AnswerBody,
    /// Only held: it ends with the body.
    _work: Option<Work>,
}

impl Outgoing {
    pub(super) fn new(body: AnswerBody, work: Option<Work>) -> Self {
        Self { body, _work: work }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
