//! A connection to a service, and when it was last heard of.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::upstream::Upstream;

/// Bytes both ways.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// When bytes last went either way, and whether any came since the request.
#[derive(Clone, Debug)]
pub(super) struct Activity(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    last: Cell<Instant>,
    asked: Cell<Instant>,
    heard: Cell<bool>,
}

impl Activity {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self(Rc::new(Inner {
            last: Cell::new(now),
            asked: Cell::new(now),
            heard: Cell::new(false),
        }))
    }

    /// A request begins.
    pub(super) fn ask(&self) {
        let now = Instant::now();
        self.0.last.set(now);
        self.0.asked.set(now);
        self.0.heard.set(false);
    }

    /// Any byte came since the request began.
    pub(super) fn heard(&self) -> bool {
        self.0.heard.get()
    }

    /// Since the request began.
    pub(super) fn asked_for(&self) -> Duration {
        self.0.asked.get().elapsed()
    }

    /// Since bytes last went either way.
    pub(super) fn silent_for(&self) -> Duration {
        self.0.last.get().elapsed()
    }

    fn touch(&self) {
        self.0.last.set(Instant::now());
    }

    /// What `future` gives; `None` if no byte goes either way for `silence`.
    pub(super) async fn unless_silent<F: Future>(
        &self,
        silence: Duration,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let due = self.0.last.get() + silence;
            match timeout_at(due, future.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if self.0.last.get() + silence <= Instant::now() => return None,
                Err(_) => {}
            }
        }
    }
}

/// Bytes that are noted.
struct Noted<S> {
    stream: S,
    activity: Activity,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.touch();
            self.activity.0.heard.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.activity.touch();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// TLS that trusts what the system trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR` change that).
///
/// # Errors
/// The library refuses its own defaults.
pub(super) fn tls() -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects to a service, TLS included.
///
/// # Errors
/// Its name is unknown, it refuses, or it is not who it should be.
pub(super) async fn connect(
    upstream: &Upstream,
    tls: Option<&TlsConnector>,
    activity: &Activity,
) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let stream = TcpStream::connect((upstream.host.as_str(), upstream.port)).await?;
    stream.set_nodelay(true)?;
    let stream = Noted {
        stream,
        activity: activity.clone(),
    };
    let bytes: Box<dyn Bytes> = match tls {
        Some(tls) => {
            let name = ServerName::try_from(upstream.host.clone());
            let name = name.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
            Box::new(tls.connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    Ok(TokioIo::new(bytes))
}
