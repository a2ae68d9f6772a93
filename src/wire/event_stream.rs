//! Server-Sent Events (WHATWG HTML §9.2, "Server-sent events"): the request for an event stream, the client's messages
//! in its query, the response, and the lines of an event.

use percent_encoding::percent_decode_str;

use super::head::{RequestHead, list_items};
use super::space;

/// The media type of an event stream.
const MEDIA_TYPE: &str = "text/event-stream";

/// A comment without text. Clients ignore it, but it keeps proxies from closing a quiet connection.
pub const COMMENT: &[u8] = b":\n\n";

/// The error for a message in the query that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

impl<'a> RequestHead<'a> {
    /// Whether the client requests an event stream, or only its head: a `GET` or a `HEAD` that accepts the media type,
    /// and is not an upgrade.
    pub fn asks_event_stream(&self) -> bool {
        let is_it = |item: &str| {
            let range = item.split(';').next().unwrap_or_default();
            space::trim(range).eq_ignore_ascii_case(MEDIA_TYPE)
        };
        matches!(self.method(), "GET" | "HEAD")
            && self
                .header_values("accept")
                .any(|value| list_items(value).any(is_it))
            && !self.asks_upgrade()
    }

    /// Returns the values of the query's parameters `send`, in their order, decoded as in a form: `+` is a space.
    pub fn sent_in_query(&self) -> impl Iterator<Item = Result<String, NotUtf8>> + 'a {
        let parameters = self.query().unwrap_or_default().split('&');
        parameters
            .filter_map(|parameter| parameter.strip_prefix("send="))
            .map(|value| {
                let value = value.replace('+', " ");
                let decoded = percent_decode_str(&value).decode_utf8();
                decoded.map(Into::into).map_err(|_| NotUtf8)
            })
    }
}

/// The page that makes the request, and is allowed to connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// The origin of the page; `None` for a program.
    pub origin: Option<&'a str>,
    /// Whether the origin is in the list of allowed origins, so that the browser may send cookies.
    pub is_listed: bool,
}

/// Appends the response head of an event stream, which ends with the connection. `retry_ms`: how long an `EventSource`
/// waits before it connects again after the stream is lost.
pub fn answer(out: &mut Vec<u8>, page: Page<'_>, retry_ms: u64) {
    head(out, page, "");
    out.extend_from_slice(&retry(retry_ms));
    out.push(b'\n');
}

/// Appends a whole response without an event, after which an `EventSource` connects again. The length
/// tells other clients that the stream has already ended.
pub fn refusal(out: &mut Vec<u8>, page: Page<'_>, retry_ms: u64) {
    let mut body = retry(retry_ms);
    body.push(b'\n');
    head(out, page, &format!("Content-Length: {}\r\n", body.len()));
    out.extend_from_slice(&body);
}

/// Returns the line that says how long an `EventSource` waits before it connects again.
pub fn retry(retry_ms: u64) -> Vec<u8> {
    format!("retry: {retry_ms}\n").into_bytes()
}

/// Appends the response head alone. `length` is the line of `Content-Length`, or empty.
pub fn head(out: &mut Vec<u8>, page: Page<'_>, length: &str) {
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
pub const DATA: &[u8] = b"data: ";

/// Appends `text` as the rest of an event whose data begins with [`DATA`], and ends the event. Each line of the text
/// gets a `data` field; the client reads every line end as LF. A client that reconnects sends the last `id` that it
/// received. If `id` is empty, the event has none, and the client keeps the one before.
pub fn end_data(out: &mut Vec<u8>, text: &[u8], id: &[u8]) {
    out.reserve(text.len() + id.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let (line, ending) = rest.split_at(at);
        out.extend_from_slice(line);
        out.push(b'\n');
        out.extend_from_slice(DATA);
        let is_pair = ending.starts_with(b"\r\n");
        rest = &ending[1 + usize::from(is_pair)..];
    }
    out.extend_from_slice(rest);
    if !id.is_empty() {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(id);
    }
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::parse;

    fn asks(method: &str, lines: &str) -> bool {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = parse(request.as_bytes(), 100).expect("a good head");
        head.asks_event_stream()
    }

    #[test]
    fn a_get_that_accepts_event_streams_asks_for_one() {
        for accept in [
            "text/event-stream",
            "Text/Event-Stream; q=0.5",
            "application/json, text/event-stream",
            "text/html\r\nAccept: text/event-stream",
        ] {
            for method in ["GET", "HEAD"] {
                assert!(asks(method, &format!("Accept: {accept}\r\n")), "{accept}");
            }
        }
        for accept in ["*/*", "text/*", "text/event-streams", "x-text/event-stream"] {
            assert!(!asks("GET", &format!("Accept: {accept}\r\n")), "{accept}");
        }
        let accept = "Accept: text/event-stream\r\n";
        assert!(!asks("GET", ""));
        assert!(!asks("POST", accept));
        let upgrade = format!("{accept}Upgrade: websocket\r\nConnection: Upgrade\r\n");
        assert!(!asks("GET", &upgrade));
    }

    fn sent(target: &str) -> Vec<Result<String, NotUtf8>> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = parse(request.as_bytes(), 100).expect("a good head");
        head.sent_in_query().collect()
    }

    #[test]
    fn messages_are_decoded_as_a_form_in_their_order() {
        let good = |texts: &[&str]| texts.iter().map(|text| Ok((*text).to_owned())).collect();
        let sent_is = |target: &str, texts: &[&str]| {
            assert_eq!(
                sent(target),
                Vec::<Result<_, _>>::from_iter::<Vec<_>>(good(texts))
            );
        };
        sent_is("/ws", &[]);
        sent_is("/ws?sent=1&token=send=2", &[]);
        sent_is(
            "/ws?send=a&token=t&send=b+c%2Bd%26&send=",
            &["a", "b c+d&", ""],
        );
        sent_is("/ws?send={\"a\":[1]}&send=%C3%A9", &["{\"a\":[1]}", "é"]);
        assert_eq!(sent("/ws?send=%C3"), [Err(NotUtf8)]);
    }

    #[test]
    fn the_answer_has_the_headers_of_a_stream() {
        let text = |origin, is_listed| {
            let mut out = Vec::new();
            answer(&mut out, Page { origin, is_listed }, 1_500);
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
        let page = Page {
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
            let mut out = Vec::new();
            end_data(&mut out, text.as_bytes(), b"");
            assert_eq!(String::from_utf8(out).expect("text"), event, "{text:?}");
        }
    }
}
