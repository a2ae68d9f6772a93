//! The token of a client in its request, the API key, and the subprotocol to echo: never the token.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::wire::head::RequestHead;

/// The subprotocol before a token: `Sec-WebSocket-Protocol: bearer, TOKEN`, the only header that a
/// browser's script can set.
const BEARER: &str = "bearer";

/// The marks of a connection's token that a cut can name, beside the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMarks {
    /// The id of the token (`jti`).
    pub jti: Option<Box<str>>,
    /// The roles: that of the connection, or those of the token where roles decide nothing.
    pub roles: Box<[Box<str>]>,
    /// The beginning of the SHA-256 of the token's signed part, in hexadecimal digits; `None` without a JWT.
    pub digest: Option<Box<str>>,
    /// When the token was made (`iat`), Unix milliseconds.
    pub issued_unix_ms: Option<i64>,
    /// The end of the token, Unix milliseconds, leeway included.
    pub expires_unix_ms: Option<i64>,
}

/// A key or a JWT from a client. Shown as `***`, so that no log, error or metric can contain the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Keeps the text; an empty text is not a token.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty()).then_some(Self(text))
    }

    /// The token of a request: `?token=`, else the subprotocol after `bearer`, else `Authorization: Bearer` (RFC 6750
    /// §2.1). The first token found counts, right or wrong. What the client's own program has chosen comes first:
    /// a proxy that checks access may add an `Authorization` of its own.
    pub fn find(head: &RequestHead<'_>) -> Option<Self> {
        in_query(head)
            .or_else(|| in_protocols(head))
            .or_else(|| in_authorization(head))
    }

    /// The text itself; never for a log, an error or a response.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// A key from the configuration that clients send unchanged (`GATEWAY_API_KEY`).
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Keeps the key; returns `None` for an empty key, which would admit nobody.
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    /// Whether the token is the key, in a time that does not depend on the first difference.
    pub(super) fn is(&self, token: &Token) -> bool {
        self.0.as_bytes().ct_eq(token.expose().as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// The first `Bearer`; a proxy may have added a line of another scheme.
fn in_authorization(head: &RequestHead<'_>) -> Option<Token> {
    head.header_values("authorization").find_map(|line| {
        let (scheme, token) = line.split_once(' ')?;
        let bearer = scheme.eq_ignore_ascii_case(BEARER);
        bearer.then(|| Token::new(token.trim()))?
    })
}

/// The token in the query. The last `token` counts, as in the replaced gateway.
fn in_query(head: &RequestHead<'_>) -> Option<Token> {
    head.parameters("token").last().and_then(Token::new)
}

fn in_protocols(head: &RequestHead<'_>) -> Option<Token> {
    let upgrade = head.upgrade().ok()?;
    let mut after_bearer = upgrade.protocols().skip_while(|name| !is_bearer(name));
    after_bearer.nth(1).and_then(Token::new)
}

fn is_bearer(name: &str) -> bool {
    name.eq_ignore_ascii_case(BEARER)
}

/// The token in the first cookie of this name (RFC 6265 §5.4), with or without quotes.
pub(super) fn in_cookie(head: &RequestHead<'_>, name: &str) -> Option<Token> {
    let mut pairs = head
        .header_values("cookie")
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Token::new(value.trim_matches('"'))
}

/// The subprotocol to echo for gateways without a subprotocol of their own: `bearer`, if offered
/// (a browser ends a connection whose offer is not answered).
pub fn bearer_protocol(head: &RequestHead<'_>) -> Option<String> {
    let upgrade = head.upgrade().ok()?;
    let bearer = upgrade.protocols().find(|name| is_bearer(name));
    bearer.map(str::to_owned)
}

/// The subprotocol to echo for gateways that accept any subprotocol: the first offered. The token comes behind
/// `bearer`, so the token is never echoed.
pub fn first_protocol(head: &RequestHead<'_>) -> Option<String> {
    let upgrade = head.upgrade().ok()?;
    upgrade.protocols().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::parse;

    fn request(target: &str, lines: &str) -> Vec<u8> {
        format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             {lines}\r\n"
        )
        .into_bytes()
    }

    fn found(target: &str, lines: &str) -> Option<String> {
        let request = request(target, lines);
        let head = parse(&request, 100).expect("a good head");
        Token::find(&head).map(|token| token.expose().to_owned())
    }

    #[test]
    fn three_places_in_their_order() {
        let all = "Authorization: Bearer one\r\nSec-WebSocket-Protocol: bearer, three\r\n";
        assert_eq!(found("/ws?token=two", all).as_deref(), Some("two"));
        assert_eq!(found("/ws?token=", all).as_deref(), Some("three"));
        let other = "Authorization: Bearer one\r\nSec-WebSocket-Protocol: v1\r\n";
        assert_eq!(found("/ws", other).as_deref(), Some("one"));
        assert_eq!(found("/ws", ""), None);
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (lines, want) in [
            ("Cookie: sid=a.b.c\r\n", Some("a.b.c")),
            ("cookie: x=1; sid=\"a.b.c\"; y=2\r\n", Some("a.b.c")),
            (
                "Cookie: x=sid=no; sid=a=b\r\nCookie: sid=later\r\n",
                Some("a=b"),
            ),
            ("Cookie: x=1\r\nCookie: sid=a\r\n", Some("a")),
            ("Cookie: SID=a; xsid=b; sid\r\n", None),
            ("Cookie: sid=\r\n", None),
            ("Set-Cookie: sid=a\r\n", None),
            ("", None),
        ] {
            let request = request("/ws", lines);
            let head = parse(&request, 100).expect("a good head");
            let found = in_cookie(&head, "sid").map(|token| token.expose().to_owned());
            assert_eq!(found.as_deref(), want, "{lines}");
        }
    }

    #[test]
    fn each_place_is_read_as_its_source_says() {
        for (target, lines, want) in [
            (
                "/ws",
                "authorization: bEARER  a.b-c_d \r\n",
                Some("a.b-c_d"),
            ),
            ("/ws?token=q", "Authorization: Basic QTpC\r\n", Some("q")),
            ("/ws", "Authorization: Bearer\r\n", None),
            (
                "/ws",
                "Authorization: Basic QTpC\r\nAuthorization: Bearer b\r\n",
                Some("b"),
            ),
            ("/ws?a=1&token=x%2By%3D&b", "", Some("x+y=")),
            ("/ws?token=first&token=last", "", Some("last")),
            ("/ws?Token=x&tokens=y", "", None),
            (
                "/ws",
                "Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: Bearer,t\r\n",
                Some("t"),
            ),
            ("/ws", "Sec-WebSocket-Protocol: bearer\r\n", None),
            ("/ws", "Sec-WebSocket-Protocol: other, t\r\n", None),
        ] {
            assert_eq!(found(target, lines).as_deref(), want, "{target} {lines}");
        }
    }

    #[test]
    fn only_bearer_is_echoed_and_no_token_shows_itself() {
        for (offer, bearer, first) in [
            ("bearer, secret", Some("bearer"), Some("bearer")),
            ("v1, Bearer, secret", Some("Bearer"), Some("v1")),
            ("v1, v2", None, Some("v1")),
        ] {
            let request = request("/ws", &format!("Sec-WebSocket-Protocol: {offer}\r\n"));
            let head = parse(&request, 100).expect("a good head");
            assert_eq!(bearer_protocol(&head).as_deref(), bearer, "{offer}");
            assert_eq!(first_protocol(&head).as_deref(), first, "{offer}");
        }
        let token = Token::new("secret").expect("a token");
        assert_eq!(format!("{token:?}"), "Token(***)");
    }
}
