//! The token in a client's request, the API key, and the subprotocol to echo, which is never the token.

use std::fmt;
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Secret;
use weirgate_wire::space;

/// The subprotocol that precedes a token: `Sec-WebSocket-Protocol: bearer, TOKEN`. This is the only header that a
/// script in a browser can set.
const BEARER: &str = "bearer";

/// A key or a JWT from a client. Shown as `***`, so that no log, error or metric can contain the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Keeps the text; an empty text is not a token.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty()).then_some(Self(text))
    }

    /// Finds the token of a request: in `?token=`, else the subprotocol after `bearer`, else `Authorization: Bearer`
    /// (RFC 6750 §2.1). The first token found counts, even if it is invalid. `Authorization` comes last, because a
    /// proxy that checks access may add one of its own.
    pub fn find(head: &RequestHead<'_>) -> Option<Self> {
        in_query(head)
            .or_else(|| in_protocols(head))
            .or_else(|| in_authorization(head))
    }

    /// Checks that a request that is passed on to another server has at most one token, which it may repeat, and at
    /// most one line of `Authorization`. The other server might read another of several tokens than the one that is
    /// judged here.
    ///
    /// # Errors
    /// There are two tokens or two lines.
    pub fn check_only_one(head: &RequestHead<'_>) -> Result<(), Refusal> {
        let in_header = in_authorization(head).or_else(|| in_protocols(head));
        let in_query = head.parameters("token").filter_map(Self::new);
        let mut tokens = in_header.into_iter().chain(in_query);
        let first = tokens.next();
        let has_another = tokens.any(|token| Some(token) != first);
        match has_another || head.header_values("authorization").count() > 1 {
            true => Err(Refusal::TwoTokens),
            false => Ok(()),
        }
    }

    /// The text itself. It must not get into a log, an error or a response.
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
pub struct ApiKey(Secret);

impl ApiKey {
    /// Keeps the key, which may be replaced; returns `None` for an empty key, which would admit nobody.
    pub fn new(key: &Secret) -> Option<Self> {
        (!key.expose().is_empty()).then(|| Self(key.clone()))
    }

    /// Whether the token is the key. Compares in a time that does not depend on where they differ.
    pub(super) fn is(&self, token: &Token) -> bool {
        self.0.is(token.expose().as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// The first `Bearer` among all lines: a proxy may have added a line of another scheme.
fn in_authorization(head: &RequestHead<'_>) -> Option<Token> {
    head.header_values("authorization").find_map(|line| {
        let (scheme, token) = line.split_once(' ')?;
        let bearer = scheme.eq_ignore_ascii_case(BEARER);
        bearer.then(|| Token::new(space::trim(token)))?
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

/// The token in the cookie of this name (RFC 6265 §5.4), with or without quotes. Other cookies are of any bytes: a browser
/// sends them as some application of the site has set them.
///
/// # Errors
/// Two cookies have the name. The order in which a browser sends them says nothing of who has set them: it may have been
/// a page of a sibling domain.
pub(super) fn in_cookie(head: &RequestHead<'_>, name: &str) -> Result<Option<Token>, Refusal> {
    let value_of = |pair| {
        let (found, value) = split_once(space::trim_bytes(pair), b'=')?;
        (found == name.as_bytes()).then_some(value)
    };
    let pairs = head
        .raw_values("cookie")
        .flat_map(|line| line.split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(value_of);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Refusal::TwoCookies),
        (value, None) => Ok(value.and_then(|value| {
            // A text that is no token, so that the refusal does not say that the token is missing.
            let text = std::str::from_utf8(value).unwrap_or("\u{fffd}");
            Token::new(text.trim_matches('"'))
        })),
    }
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The subprotocol that gateways without subprotocols of their own echo: `bearer`, if it is offered. A browser closes
/// the connection if none of its offers is echoed.
pub(crate) fn bearer_protocol(head: &RequestHead<'_>) -> Option<String> {
    let upgrade = head.upgrade().ok()?;
    let bearer = upgrade.protocols().find(|name| is_bearer(name));
    bearer.map(str::to_owned)
}

/// The subprotocol that gateways which accept any subprotocol echo: the first in the offer. The token comes after
/// `bearer`, so it is never echoed.
pub(crate) fn first_protocol(head: &RequestHead<'_>) -> Option<String> {
    let upgrade = head.upgrade().ok()?;
    upgrade.protocols().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_wire::RequestHead;

    fn request(target: &str, lines: &str) -> Vec<u8> {
        request_with(target, lines.as_bytes())
    }

    fn request_with(target: &str, lines: &[u8]) -> Vec<u8> {
        let first = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        );
        [first.as_bytes(), lines, b"\r\n"].concat()
    }

    fn found(target: &str, lines: &str) -> Option<String> {
        let request = request(target, lines);
        let head = RequestHead::parse(&request, 100).expect("a good head");
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
            (&b"Cookie: sid=a.b.c\r\n"[..], Some("a.b.c")),
            (b"cookie: x=1; sid=\"a.b.c\"; y=2\r\n", Some("a.b.c")),
            (b"Cookie: x=sid=no; sid=a=b\r\n", Some("a=b")),
            (b"Cookie:\tx=1;\t sid=a \r\n", Some("a")),
            (b"Cookie: x=1\r\nCookie: sid=a\r\n", Some("a")),
            (b"Cookie: SID=a; xsid=b; sid\r\n", None),
            (b"Cookie: sid=\r\n", None),
            (b"Set-Cookie: sid=a\r\n", None),
            (b"", None),
            // Cookies of other applications, in other encodings.
            (b"Cookie: x=\xfc; sid=a\r\n", Some("a")),
            (b"Cookie: sid=a; \xfc=1\r\n", Some("a")),
            (
                b"Cookie: sid\xfc=b; \xfcsid=c\r\nCookie: \xff; sid=a\r\n",
                Some("a"),
            ),
            (b"Cookie: sid=\xfc\r\n", Some("\u{fffd}")),
        ] {
            let request = request_with("/ws", lines);
            let head = RequestHead::parse(&request, 100).expect("a good head");
            let found = in_cookie(&head, "sid").expect("one cookie at most");
            assert_eq!(
                found.as_ref().map(Token::expose),
                want,
                "{}",
                lines.escape_ascii()
            );
        }
    }

    #[test]
    fn of_two_cookies_none_counts_whatever_their_bytes() {
        let request = request_with("/ws", b"Cookie: sid=a; sid=\xfc\r\n");
        let head = RequestHead::parse(&request, 100).expect("a good head");
        assert_eq!(in_cookie(&head, "sid"), Err(Refusal::TwoCookies));
    }

    #[test]
    fn of_two_cookies_none_counts() {
        for lines in [
            "Cookie: sid=a; sid=b\r\n",
            "Cookie: sid=a; x=1; sid=a\r\n",
            "Cookie: sid=a\r\nCookie: sid=b\r\n",
            "Cookie: sid=; sid=b\r\n",
        ] {
            let request = request("/ws", lines);
            let head = RequestHead::parse(&request, 100).expect("a good head");
            assert_eq!(in_cookie(&head, "sid"), Err(Refusal::TwoCookies), "{lines}");
        }
    }

    /// A page of a sibling domain can set such a cookie: no browser sees the prefix `__Host-` in its name.
    #[test]
    fn a_name_behind_another_space_is_another_name() {
        for space in [
            "\u{2000}", "\u{a0}", "\u{3000}", "\u{85}", "\u{feff}", "\u{b}", "\u{c}",
        ] {
            let lines = format!("Cookie: {space}__Host-feed=evil; __Host-feed=good\r\n");
            let request = request("/ws", &lines);
            // A head with control characters may be refused as a whole.
            let Ok(head) = RequestHead::parse(&request, 100) else {
                continue;
            };
            let found = in_cookie(&head, "__Host-feed").expect("one cookie");
            assert_eq!(found.as_ref().map(Token::expose), Some("good"), "{space:?}");
        }
    }

    #[test]
    fn what_is_passed_on_has_one_token() {
        for (target, lines, is_one) in [
            ("/v1", "", true),
            ("/v1?token=a", "", true),
            ("/v1?token=a&token=a", "Authorization: Bearer a\r\n", true),
            ("/v1?token=a", "Authorization: Basic b\r\n", true),
            ("/v1?token=", "Authorization: Bearer b\r\n", true),
            ("/v1?token=a", "Authorization: Bearer b\r\n", false),
            ("/v1?token=a&token=b", "", false),
            ("/v1?%74oken=a", "Authorization: bearer b\r\n", false),
            (
                "/v1",
                "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
                false,
            ),
            (
                "/v1",
                "Authorization: Basic a\r\nAuthorization: Bearer b\r\n",
                false,
            ),
        ] {
            let request = request(target, lines);
            let head = RequestHead::parse(&request, 100).expect("a good head");
            assert_eq!(
                Token::check_only_one(&head).is_ok(),
                is_one,
                "{target} {lines}"
            );
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
            let head = RequestHead::parse(&request, 100).expect("a good head");
            assert_eq!(bearer_protocol(&head).as_deref(), bearer, "{offer}");
            assert_eq!(first_protocol(&head).as_deref(), first, "{offer}");
        }
        let token = Token::new("secret").expect("a token");
        assert_eq!(format!("{token:?}"), "Token(***)");
    }
}
