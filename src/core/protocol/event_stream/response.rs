//! The response of an event stream (WHATWG HTML §9.2): its head, and the lines of an event.

use memchr::{memchr2, memchr2_iter};

/// A comment without text. Clients ignore it, but it keeps proxies from closing a quiet connection.
pub(super) const COMMENT: &[u8] = ":\n\n".as_bytes();

/// The page that makes the request, and is allowed to connect.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestingPage<'a> {
    /// The origin of the page; `None` for a program.
    pub(super) origin: Option<&'a str>,
    /// Whether the origin is in the list of allowed origins, so that the browser may send cookies.
    pub(super) is_listed: bool,
}

/// Appends the response head of an event stream, which ends with the connection. `retry_ms`: how long an `EventSource`
/// waits before it connects again after the stream is lost.
pub(super) fn answer(out: &mut Vec<u8>, page: RequestingPage<'_>, retry_ms: u64) {
    head(out, page, "");
    out.extend_from_slice(&retry(retry_ms));
    out.push(b'\n');
}

/// Appends a whole response without an event, after which an `EventSource` connects again. The length
/// tells other clients that the stream has already ended.
pub(super) fn refusal(out: &mut Vec<u8>, page: RequestingPage<'_>, retry_ms: u64) {
    let mut body = retry(retry_ms);
    body.push(b'\n');
    head(out, page, &format!("Content-Length: {}\r\n", body.len()));
    out.extend_from_slice(&body);
}

/// Returns the line that says how long an `EventSource` waits before it connects again.
pub(super) fn retry(retry_ms: u64) -> Vec<u8> {
    format!("retry: {retry_ms}\n").into_bytes()
}

/// Appends the response head alone. `length` is the line of `Content-Length`, or empty.
pub(super) fn head(out: &mut Vec<u8>, page: RequestingPage<'_>, length: &str) {
    // `no-transform` keeps proxies from compressing, which would delay events. `X-Accel-Buffering` makes nginx pass
    // each event on at once.
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n\
          X-Accel-Buffering: no\r\nConnection: close\r\n",
    );
    out.extend_from_slice(length.as_bytes());
    if let Some(origin) = page.origin {
        let cors = format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n");
        out.extend_from_slice(cors.as_bytes());
        if page.is_listed {
            out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The field name before the first line of an event's data.
pub(super) const DATA: &[u8] = b"data: ";

/// The number of line ends in a text. Each needs a [`DATA`]; of a CR LF both bytes count.
pub(super) fn line_ends(text: &[u8]) -> usize {
    memchr2_iter(b'\r', b'\n', text).count()
}

/// Writes the data of an event that begins with [`DATA`], part by part. Each line of the text gets a `data` field; the client
/// reads every line end as LF.
#[derive(Debug, Default)]
pub(super) struct DataLines {
    /// Whether the part before ended with a CR. A LF at the beginning of the next part belongs to that CR.
    after_cr: bool,
}

impl DataLines {
    /// Appends the next part of the text.
    pub(super) fn append(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        if !rest.is_empty() && std::mem::take(&mut self.after_cr) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(at) = memchr2(b'\r', b'\n', rest) {
            out.extend_from_slice(&rest[..at]);
            out.push(b'\n');
            out.extend_from_slice(DATA);
            let is_cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
            self.after_cr = is_cr && rest.is_empty();
            if is_cr {
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        out.extend_from_slice(rest);
    }
}

/// Ends an event. A client that reconnects sends the last `id` that it received. If `id` is empty, the event has none, and
/// the client keeps the one before.
pub(super) fn end_event(out: &mut Vec<u8>, id: &[u8]) {
    if !id.is_empty() {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(id);
    }
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_headers_of_a_stream() {
        let text = |origin, is_listed| {
            let mut out = Vec::new();
            answer(&mut out, RequestingPage { origin, is_listed }, 1_500);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            text(None, true),
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n\
             X-Accel-Buffering: no\r\nConnection: close\r\n\r\nretry: 1500\n\n"
        );
        let cors = "\r\nAccess-Control-Allow-Origin: https://a.example\r\nVary: Origin\r\n\r\n";
        assert!(text(Some("https://a.example"), false).contains(cors));
        let credentials = "\r\nVary: Origin\r\nAccess-Control-Allow-Credentials: true\r\n\r\n";
        assert!(text(Some("https://a.example"), true).contains(credentials));
    }

    #[test]
    fn a_refusal_is_a_stream_that_ends_with_the_time_to_come_back() {
        let mut out = Vec::new();
        let page = RequestingPage {
            origin: Some("https://a.example"),
            is_listed: false,
        };
        refusal(&mut out, page, 1_500);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n\
             X-Accel-Buffering: no\r\nConnection: close\r\nContent-Length: 13\r\n\
             Access-Control-Allow-Origin: https://a.example\r\nVary: Origin\r\n\r\nretry: 1500\n\n"
        );
    }

    #[test]
    fn each_line_of_a_text_has_its_field() {
        for (text, event) in [
            ("{\"a\":1}", "{\"a\":1}\n\n"),
            ("", "\n\n"),
            ("a\nb", "a\ndata: b\n\n"),
            ("a\r\nb\rc\n", "a\ndata: b\ndata: c\ndata: \n\n"),
            ("\n\r", "\ndata: \ndata: \n\n"),
        ] {
            // In one part, and byte by byte.
            for bytes_max in [usize::MAX, 1] {
                let (mut out, mut lines) = (Vec::new(), DataLines::default());
                let parts = text.as_bytes().chunks(bytes_max);
                parts.for_each(|part| lines.append(part, &mut out));
                end_event(&mut out, b"");
                assert_eq!(String::from_utf8(out).expect("text"), event, "{text:?}");
            }
        }
    }
}
