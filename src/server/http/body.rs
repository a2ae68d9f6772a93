//! Bodies in pieces: request bodies for handlers, answer bodies for clients.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::pace::Pace;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use weirgate_runtime::Clock;
use weirgate_wire::admission::Permit;

use super::pace::BodyTooSlow;

/// Why an answer body breaks off.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request. Bytes are read from the client only when the handler polls for them; a client that expects
/// `100 Continue` gets it at the first poll. A body that stays below the least speed for too long ends with an error.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    pace: Pace,
    progress: Arc<Progress>,
}

/// How far the client is with a body, for code other than the reader. A body that is `slow` is `broken` too.
#[derive(Debug, Default)]
pub struct Progress {
    awaits_client: AtomicBool,
    broken: AtomicBool,
    slow: AtomicBool,
    ended: AtomicBool,
}

impl Progress {
    /// Whether the reader waits for the client to send the next piece.
    pub fn awaits_client(&self) -> bool {
        self.awaits_client.load(Ordering::Relaxed)
    }

    /// Whether the body broke off, has chunks without a clear end, or arrived too slowly.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether the body was given up because it arrived too slowly.
    pub fn is_too_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Gives the body up because it comes too slowly.
    pub fn give_up(&self) {
        self.slow.store(true, Ordering::Relaxed);
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whether the body was read to its end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBodyError {
    /// The body exceeds the limit of the reader.
    #[error("the body is too large")]
    TooLarge,
    /// The bodies of all senders are too large together, and this body was chosen for eviction.
    #[error("the bodies of all are too large together")]
    NoRoom,
    /// The sender was too slow.
    #[error("{BodyTooSlow}")]
    TooSlow,
    /// The sender broke off, or the chunks have no clear end.
    #[error("the body is broken: {0}")]
    Broken(BoxError),
}

impl From<BoxError> for ReadBodyError {
    fn from(error: BoxError) -> Self {
        match error.is::<BodyTooSlow>() {
            true => Self::TooSlow,
            false => Self::Broken(error),
        }
    }
}

impl RequestBody {
    /// The body of an incoming message, from its beginning.
    pub fn new(incoming: Incoming) -> Self {
        let progress = Progress {
            ended: incoming.is_end_stream().into(),
            ..Progress::default()
        };
        Self {
            incoming,
            pace: Pace::default(),
            progress: Arc::new(progress),
        }
    }

    /// How far the body is behind its least speed.
    pub fn behind(&self) -> Duration {
        self.pace.behind()
    }

    /// The progress of the body, for observers.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Reads the whole body, at most `bytes_max`.
    ///
    /// # Errors
    /// The body is too long, too slow or broken.
    pub async fn read(self, bytes_max: usize) -> Result<Bytes, ReadBodyError> {
        // `None`: the bytes are not charged.
        read_body(self, bytes_max, None).await.map(Bytes::from)
    }

    /// Like [`read`](Self::read), and charges the bytes.
    ///
    /// # Errors
    /// The body is too long, too slow or broken, or has to be evicted.
    pub async fn read_held(
        self,
        bytes_max: usize,
        permit: &mut Permit,
        clock: Clock,
    ) -> Result<Bytes, ReadBodyError> {
        let held = Some(HeldBody { permit, clock });
        read_body(self, bytes_max, held).await.map(Bytes::from)
    }
}

/// The largest announced length for which [`read_body`] allocates the whole buffer before the body arrives.
const EXACT_BYTES_MAX: usize = 64 * 1024;

/// The permit for a body that is being read or decoded, in a sum of all such bodies. If the sum is over its limit, a body
/// is evicted.
pub struct HeldBody<'a> {
    /// The permit for the bytes that were read.
    pub permit: &'a mut Permit,
    /// The clock for the times of progress, by which a body is chosen for eviction.
    pub clock: Clock,
}

impl HeldBody<'_> {
    /// Charges the bytes that a body takes now.
    pub fn note(&mut self, bytes: usize) {
        let now_us = self.clock.mono_us();
        self.permit.set(bytes as u64, now_us);
        self.permit.progress(now_us);
        self.permit.quota().make_room(now_us);
    }

    /// Whether the body has to be evicted. If not, wakes the reader once it has to.
    fn is_evicted(&self, cx: &Context<'_>) -> bool {
        self.permit.wake_with(cx.waker());
        self.permit.is_evicted()
    }

    /// Records that the body is whole. It will be used soon, so it is no longer evicted.
    pub fn settle(self) {
        self.permit.work();
    }
}

/// Reads the whole body, at most `bytes_max`. The pieces are joined as they come: a list of small pieces would take
/// many times the memory of the body. With `held`, charges the bytes; after its last byte a body is no longer evicted.
///
/// # Errors
/// The body is too long, too slow or broken, or has to be evicted.
pub async fn read_body<B>(
    mut body: B,
    bytes_max: usize,
    mut held: Option<HeldBody<'_>>,
) -> Result<Vec<u8>, ReadBodyError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    // An announced length over the limit fails without waiting.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ReadBodyError::TooLarge);
    }
    // A small body gets its whole buffer at once, because a buffer that doubles takes up to twice the memory. The
    // buffer of a large body grows with the bytes that arrive: the client may have announced it and sent nothing.
    let announced = body.size_hint().lower() as usize;
    let mut whole = Vec::with_capacity(announced.min(EXACT_BYTES_MAX));
    loop {
        let next = poll_fn(|cx| match &held {
            Some(held) if held.is_evicted(cx) => Poll::Ready(Err(ReadBodyError::NoRoom)),
            _ => Pin::new(&mut body).poll_frame(cx).map(Ok),
        });
        let Some(frame) = next.await? else {
            break;
        };
        let frame = frame.map_err(|error| ReadBodyError::from(error.into()))?;
        let Ok(piece) = frame.into_data() else {
            // Trailers.
            continue;
        };
        if whole.len() + piece.len() > bytes_max {
            return Err(ReadBodyError::TooLarge);
        }
        let needed = whole.len() + piece.len();
        if needed > whole.capacity() {
            // Doubles up to the announced length. Without one, grows by each piece, so that no more is held than has come.
            let most = announced.max(needed);
            whole.reserve_exact((2 * needed).min(most) - whole.len());
        }
        whole.extend_from_slice(&piece);
        if let Some(held) = &mut held {
            held.note(whole.capacity());
        }
    }
    if let Some(held) = held {
        held.settle();
    }
    Ok(whole)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok());
                let data = data.and_then(Frame::data_ref);
                self.pace.note_received(data.map_or(0, Bytes::len));
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Poll::Pending if self.pace.poll_late(cx).is_ready() => {
                self.progress.give_up();
                Poll::Ready(Some(Err(BodyTooSlow.into())))
            }
            Poll::Pending => Poll::Pending,
        };
        let progress = &self.progress;
        progress
            .awaits_client
            .store(frame.is_pending(), Ordering::Relaxed);
        if matches!(frame, Poll::Ready(Some(Err(_)))) {
            progress.broken.store(true, Ordering::Relaxed);
        }
        // Nothing follows trailers, and hyper is not polled again.
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

/// The body of an answer: whole, or in pieces, each polled when there is room. If a piece fails, the connection ends
/// without the end of the body, so that no client takes a part for the whole: the last chunk is missing, or, where the
/// end of the connection would be the end of the body, the connection is reset.
pub(crate) type AnswerBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::thread;

    use http_body_util::{BodyExt, Full};
    use hyper::HeaderMap;
    use tokio::runtime;

    use super::*;
    use weirgate_wire::admission::Quota;

    /// Frames in order, of unknown total length.
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
        runtime.block_on(read_body(Frames(frames.into_iter()), bytes_max, None))
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
        let read = runtime.block_on(read_body(whole, 2, None));
        assert!(matches!(read, Err(ReadBodyError::TooLarge)));
    }

    #[test]
    fn a_body_that_does_not_come_gives_way_to_one_that_does() {
        let bodies = Quota::new("bodies", 1_000);
        let clock = Clock::start();
        let client = std::net::IpAddr::from([192, 0, 2, 1]).into();
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let part = || Full::new(Bytes::from_static(&[b'x'; 900]));
            let rests = part().with_trailers(pending::<Option<Result<HeaderMap, _>>>());
            let mut permits = [0, 1].map(|_| bodies.hold(client, 0, clock.mono_us()));
            let [first, second] = &mut permits;
            let held = |permit| Some(HeldBody { permit, clock });
            let mut resting = pin!(read_body(Box::pin(rests), 2_000, held(first)));
            let waits = poll_fn(|cx| Poll::Ready(resting.as_mut().poll(cx).is_pending()));
            assert!(waits.await);
            thread::sleep(Duration::from_millis(2));
            let whole = read_body(part(), 2_000, held(second)).await;
            assert_eq!(whole.unwrap().len(), 900);
            assert!(matches!(resting.await, Err(ReadBodyError::NoRoom)));
        });
    }
}
