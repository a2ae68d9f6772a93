//! A request to an admin address and its response, over HTTP, with a time limit and a size limit.

use super::link::{Stream, Target, is_timeout};

/// The most bytes of a response. The response of a gateway with full lists and the longest user names has a third of
/// this.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most headers of a response: proxies add some.
const HEADERS_MAX: usize = 64;

/// A request to an admin address.
pub(super) struct AdminRequest<'a> {
    pub(super) method: &'a str,
    /// The value of `Authorization`.
    pub(super) authorization: Option<&'a str>,
    /// JSON; left out if empty.
    pub(super) body: &'a str,
}

/// Why there is no response.
pub(super) enum NoResponse {
    /// None came in time.
    TimedOut,
    /// The answer is not HTTP, or broke off.
    Broken,
    /// The answer is too large.
    TooLarge { bytes_max: usize },
}

impl AdminRequest<'_> {
    /// Sends the request on a connection to the target. Returns the status and the body of the response.
    ///
    /// # Errors
    /// No whole response has arrived by the deadline of the stream.
    pub(super) fn exchange(
        &self,
        stream: Stream,
        target: &Target,
    ) -> Result<(u16, Vec<u8>), NoResponse> {
        let is_whole =
            |answer: &[u8]| ResponseSoFar::of(answer).is_some_and(|answer| answer.is_whole());
        let answer = stream.ask(&self.text(target), ANSWER_BYTES_MAX, is_whole);
        let answer = answer.map_err(|error| match is_timeout(&error) {
            true => NoResponse::TimedOut,
            false => NoResponse::Broken,
        })?;
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(NoResponse::TooLarge {
                bytes_max: ANSWER_BYTES_MAX,
            });
        }
        let answer = ResponseSoFar::of(&answer).ok_or(NoResponse::Broken)?;
        // Without a length, the body ends with the connection.
        match answer.length.is_some() && !answer.is_whole() {
            true => Err(NoResponse::Broken),
            false => Ok((answer.status, answer.body.to_vec())),
        }
    }

    fn text(&self, target: &Target) -> String {
        let login = self
            .authorization
            .map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let length = match self.body.len() {
            0 => String::new(),
            n => format!("Content-Type: application/json\r\nContent-Length: {n}\r\n"),
        };
        let Target {
            path, authority, ..
        } = target;
        // HTTP/1.0: the body is not chunked.
        format!(
            "{} {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n{login}{length}\r\n{}",
            self.method, self.body
        )
    }
}

/// The response so far, after a whole head.
struct ResponseSoFar<'a> {
    status: u16,
    length: Option<usize>,
    body: &'a [u8],
}

impl<'a> ResponseSoFar<'a> {
    /// Returns `None` until the head is whole, and for bytes that are not HTTP.
    fn of(answer: &'a [u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(at) = head.parse(answer).ok()? else {
            return None;
        };
        let is_length = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-length");
        let length = head.headers.iter().find(is_length);
        let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok());
        Some(Self {
            status: head.code?,
            length,
            body: answer.get(at..)?,
        })
    }

    fn is_whole(&self) -> bool {
        self.length.is_some_and(|length| self.body.len() >= length)
    }
}
