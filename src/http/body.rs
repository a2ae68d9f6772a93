//! Bodies in pieces: of a request, for its handler; of an answer, for the client. And work on large ones, on a
//! thread of its own.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

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
        // Nothing follows trailers, and nobody asks for what follows.
        let is_last = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            _ => false,
        };
        if is_last || self.incoming.is_end_stream() {
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

/// Less than this is worked on at once: 1 ms or so.
const HERE_BYTES_MAX: usize = 256 * 1024;

/// Pieces of work aside at once; more wait. Together they may take a core from the loop, not all.
const PLACES: usize = 2;

static FREE: Semaphore = Semaphore::const_new(PLACES);

/// What `work` on so many bytes gives; `None` if it panicked. Little is worked on at once.
pub async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= HERE_BYTES_MAX {
        return Some(work());
    }
    // The semaphore is never closed.
    let place = FREE.acquire().await.ok()?;
    // The place stays taken when nobody waits for the work any more.
    let placed = move || {
        let _place = place;
        work()
    };
    spawn_blocking(placed).await.ok()
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use tokio::runtime;

    use super::*;

    /// Frames one by one, of a length that is not known before.
    struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, BoxError>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.next())
        }
    }

    fn read_in(
        bytes_max: usize,
        frames: Vec<Result<Frame<Bytes>, BoxError>>,
    ) -> Result<Vec<u8>, ReadBodyError> {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(Frames(frames.into_iter()), bytes_max))
    }

    fn piece(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn a_body_is_joined_up_to_its_limit_and_without_trailers() {
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        let pieces = || vec![piece("ab"), piece(""), piece("c"), trailers()];
        assert_eq!(read_in(3, pieces()).unwrap(), b"abc");
        assert!(matches!(read_in(2, pieces()), Err(ReadBodyError::TooLarge)));
        let broken = vec![piece("a"), Err("cut".into())];
        assert!(matches!(read_in(3, broken), Err(ReadBodyError::Broken(_))));
    }

    #[test]
    fn a_body_that_is_announced_as_too_long_is_not_awaited() {
        let whole = Full::new(Bytes::from_static(b"abc"));
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(whole, 2));
        assert!(matches!(read, Err(ReadBodyError::TooLarge)));
    }
}
