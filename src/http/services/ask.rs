//! Whether a service answers, asked once before a start.

use std::io;
use std::time::Instant;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};

use super::Service;
use super::link::{Activity, connect};

impl Service {
    /// Sends `GET` for the base path, and returns the status of the response and the milliseconds
    /// until it came: any status is an answer. Blocks for as long as the service lets the caller
    /// wait.
    ///
    /// # Errors
    /// The name is unknown, nobody listens, TLS fails, or what answers does not speak HTTP.
    pub fn ask(&self) -> io::Result<(StatusCode, u128)> {
        let begin = Instant::now();
        let mut builder = runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().enable_time().build()?;
        let status = LocalSet::new().block_on(&runtime, self.status())?;
        Ok((status, begin.elapsed().as_millis()))
    }

    async fn status(&self) -> io::Result<StatusCode> {
        let stream = connect(self, &Activity::start()).await?;
        let handshake = hyper::client::conn::http1::handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        // How the connection ends shows in the response.
        spawn_local(async { drop(connection.await) });
        let request = Request::get(format!("{}/", self.upstream.base_path()))
            .header(header::HOST, self.upstream.authority())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await;
        Ok(response.map_err(io::Error::other)?.status())
    }
}
