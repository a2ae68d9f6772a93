//! Server-Sent Events (WHATWG HTML §9.2, "Server-sent events"): the request for an event stream, and the client's
//! messages in its query. The response is in the core, with the protocol.

use std::str::Utf8Error;

use percent_encoding::percent_decode_str;

use super::head::{RequestHead, list_items};
use super::space;

/// The media type of an event stream.
const MEDIA_TYPE: &str = "text/event-stream";

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
    pub fn sent_in_query(&self) -> impl Iterator<Item = Result<String, Utf8Error>> + 'a {
        let parameters = self.query().unwrap_or_default().split('&');
        parameters
            .filter_map(|parameter| parameter.strip_prefix("send="))
            .map(|value| {
                let value = value.replace('+', " ");
                let decoded = percent_decode_str(&value).decode_utf8();
                decoded.map(Into::into)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::RequestHead;

    fn asks(method: &str, lines: &str) -> bool {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = RequestHead::parse(request.as_bytes(), 100).expect("a good head");
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

    fn sent(target: &str) -> Vec<Result<String, Utf8Error>> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = RequestHead::parse(request.as_bytes(), 100).expect("a good head");
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
        assert!(matches!(sent("/ws?send=%C3")[..], [Err(_)]));
    }
}
