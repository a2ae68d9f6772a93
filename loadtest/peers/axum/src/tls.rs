//! TLS for axum, with tokio-rustls: TLS 1.3 with AES-128-GCM.

use std::env::var_os;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{CipherSuite, ServerConfig, version::TLS13};
use tokio_rustls::server::TlsStream;

/// The TLS of the PEM files in `TLS_CERT` and `TLS_KEY`; `None` without these variables.
pub(crate) fn acceptor() -> Result<Option<TlsAcceptor>> {
    let (Some(chain), Some(key)) = (var_os("TLS_CERT"), var_os("TLS_KEY")) else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
    let key = PrivateKeyDer::from_pem_file(key).map_err(Error::other)?;
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(Error::other)?, key)
        .map_err(Error::other)?;
    Ok(Some(Arc::new(config).into()))
}

/// The clients whose handshake is over.
pub(crate) struct Clients {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Clients {
    /// Accepts connections. Each handshake is a task, so a slow client holds up nobody.
    pub(crate) fn accepted(listener: TcpListener, acceptor: TlsAcceptor) -> Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let (handshake, sender) = (acceptor.accept(stream), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = handshake.await {
                        let _ = sender.send((stream, from)).await;
                    }
                });
            }
        });
        Ok(Self { ready, address })
    }
}

impl Listener for Clients {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(client) => client,
            None => std::process::exit(1),
        }
    }

    fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }
}
