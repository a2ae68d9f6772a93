//! What the proxy changes in headers (RFC 9110 §7.6, http.md, "The proxy of the events gateway"): in requests, and in answers,
//! where addresses of the service become addresses of the gateway. Pure.

use crate::services::Upstream;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFRESH, TE, TRANSFER_ENCODING, UPGRADE,
};
use weirgate_wire::Trace;
use weirgate_wire::admission::{ClientAddr, Peer};

/// The headers that are for a single connection, besides those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers that some frameworks take for the path of the request: rewriting servers, such as IIS, set them. The service
/// would answer for a path that nobody has judged. They do not pass from a trusted proxy either: a proxy that does not
/// know them passes on those of its client.
static OTHER_PATHS: [HeaderName; 2] = [
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// Facts about a request outside its headers.
#[derive(Clone, Debug)]
pub(super) struct Forwarded<'a> {
    /// The other end of the client's connection.
    pub(super) peer: Peer,
    /// Whether the other end is a trusted proxy. Then its headers about the client are kept.
    pub(super) peer_is_trusted: bool,
    /// Whether the client's connection has TLS.
    pub(super) is_tls: bool,
    /// The host in the request target, if there is one; `Host` is then ignored (RFC 9112 §3.2.2).
    pub(super) host_of_target: Option<HeaderValue>,
    /// The service's host and port.
    pub(super) host: &'a HeaderValue,
}

/// Converts the headers of a client's request for the service. If the request has no trace, begins one with numbers
/// from `random`.
pub(super) fn to_service(
    headers: &mut HeaderMap,
    forwarded: Forwarded<'_>,
    random: impl FnMut() -> u64,
) {
    let is_trailers = |item: &[u8]| item.eq_ignore_ascii_case(b"trailers");
    let takes_trailers = items(headers, &TE).any(is_trailers);
    one_length(headers);
    // A proxy may pass a client's `Connection` on unchanged, and with it the client could remove what the proxy says of
    // the client (as CVE-2022-31813 of Apache).
    remove_hop_by_hop(headers, |name| {
        forwarded.peer_is_trusted && is_word_of_proxies(name)
    });
    remove_disguised(headers);
    // The gateway asks for the body.
    headers.remove(EXPECT);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if !forwarded.peer_is_trusted {
        remove_words_of_proxies(headers);
    }
    let asked_host = headers.insert(HOST, forwarded.host.clone());
    add_peer(headers, &forwarded);
    let add = |headers: &mut HeaderMap, name: HeaderName, value| {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    let proto = HeaderName::from_static("x-forwarded-proto");
    let scheme = if forwarded.is_tls { "https" } else { "http" };
    add(headers, proto, HeaderValue::from_static(scheme));
    if let Some(host) = forwarded.host_of_target.or(asked_host) {
        add(headers, HeaderName::from_static("x-forwarded-host"), host);
    }
    trace(headers, random);
}

/// Adds the address of the peer to `X-Forwarded-For`, unless the list ends with it already.
fn add_peer(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    let list = HeaderName::from_static("x-forwarded-for");
    let lines = headers.get_all(&list).iter().map(HeaderValue::as_bytes);
    match forwarded.peer {
        // The trusted proxy has no address to add, and the list already ends with the address of the proxy's client.
        Peer::Unix(_) if forwarded.peer_is_trusted => {}
        peer if peer.is_last_of(lines) => {}
        peer => {
            // The load balancer did not name its client, who may have written the list; a service that trusts the load
            // balancer would believe it.
            if matches!(peer, Peer::Unnamed(_)) {
                headers.remove(&list);
            }
            append_forwarded_for(headers, list, peer.client());
        }
    }
}

/// Converts the headers of a service's answer for the client.
pub(super) fn to_client(headers: &mut HeaderMap) {
    one_length(headers);
    remove_hop_by_hop(headers, |_| false);
}

/// Changes addresses of the service in its answer to addresses of the gateway: requests reach the service under its own
/// name, so it knows no other. The new address is relative, so the client keeps its scheme and host. `cut` is the
/// prefix that the gateway removes from paths.
pub(super) fn own_addresses(headers: &mut HeaderMap, service: &Upstream, cut: &str) {
    for name in [LOCATION, CONTENT_LOCATION, REFRESH] {
        let Some(text) = headers.get(&name).and_then(|value| value.to_str().ok()) else {
            continue;
        };
        // `Refresh: 5; url=http://…`
        let at = match name == REFRESH {
            true => text
                .to_ascii_lowercase()
                .find("url=")
                .map(|at| at + "url=".len()),
            false => Some(0),
        };
        let relative = at.and_then(|at| {
            let path = service.path_of(text[at..].trim_matches(['"', '\'', ' ']))?;
            let path = format!("{cut}{path}");
            // A path that begins with two slashes would name a host.
            (!path.starts_with("//")).then(|| format!("{}{path}", &text[..at]))
        });
        if let Some(value) = relative.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
}

/// Returns true if the body has a transfer coding other than `chunked`. The header that names it is for a single
/// connection and is not passed on, so neither can the body be.
pub(super) fn has_other_coding(headers: &HeaderMap) -> bool {
    items(headers, &TRANSFER_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
}

/// Leaves a single `Content-Length`, or none if the body is in chunks. With several, the next reader of the head may
/// choose a different one (RFC 9112 §6.3).
fn one_length(headers: &mut HeaderMap) {
    if let Some(length) = headers.remove(CONTENT_LENGTH)
        && !headers.contains_key(TRANSFER_ENCODING)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// Removes trailers that must not be passed on: fields that say how to read the message, and fields that the proxy
/// removes from a head.
pub(super) fn trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers, |_| false);
    remove_disguised(trailers);
    // A service that takes them for a part of the head would believe them, and no proxy sends them here.
    remove_words_of_proxies(trailers);
    trailers.remove("x-forwarded-for");
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        trailers.remove(name);
    }
}

/// Removes what is for a single connection, except for the names that `is_kept` chooses.
fn remove_hop_by_hop(headers: &mut HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = items(headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        // A client's `Connection` must not remove the length of the body or the host of the request.
        if *name != CONTENT_LENGTH && *name != HOST && !is_kept(name) {
            headers.remove(name);
        }
    }
}

/// Removes headers with which a client could pose as another sender, or its request as another one: `X-Internal-Token`, by
/// which services recognize each other, [`OTHER_PATHS`], and every name with `_`. CGI and WSGI services read
/// `X_Forwarded_For` as `X-Forwarded-For`; nginx drops such names too.
fn remove_disguised(headers: &mut HeaderMap) {
    let is_disguised = |name: &&HeaderName| name.as_str().contains('_');
    let found: Vec<HeaderName> = headers.keys().filter(is_disguised).cloned().collect();
    for name in found {
        headers.remove(name);
    }
    headers.remove("x-internal-token");
    for name in &OTHER_PATHS {
        headers.remove(name);
    }
}

/// Whether only a proxy describes its client in this header: `Forwarded` (RFC 7239), `X-Real-IP`, and all of
/// `X-Forwarded-…`, such as `-For`, `-Host`, `-Port` and `-Prefix`.
fn is_word_of_proxies(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// Removes the headers in which only a proxy describes its client, except for the list of addresses. A service that
/// makes links of them would take a stranger's host for its own.
fn remove_words_of_proxies(headers: &mut HeaderMap) {
    let is_removed =
        |name: &&HeaderName| is_word_of_proxies(name) && name.as_str() != "x-forwarded-for";
    let found: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Returns the items of a comma-separated header, over all its lines. A [`HeaderValue`] has no white space but spaces and
/// tabs.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Joins the lines of the header to one list, with the address of the peer at its end: the addresses that the client
/// has sent stay in front.
fn append_forwarded_for(headers: &mut HeaderMap, name: HeaderName, peer: ClientAddr) {
    let mut list: Vec<u8> = Vec::new();
    for line in headers.get_all(&name) {
        if !line.is_empty() {
            list.extend_from_slice(line.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    list.extend_from_slice(peer.to_string().as_bytes());
    // Cannot fail: the parts are valid values and an address.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

/// Passes the trace on. Begins a new one if there is none, or if it is unreadable.
fn trace(headers: &mut HeaderMap, random: impl FnMut() -> u64) {
    let name = HeaderName::from_static("traceparent");
    let given = headers.get(&name).and_then(|value| value.to_str().ok());
    if given.is_some_and(|parent| Trace::given(parent, std::iter::empty()).is_some()) {
        return;
    }
    if let Ok(made) = HeaderValue::try_from(Trace::made(random).parent) {
        headers.insert(name, made);
        headers.remove("tracestate");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

    use super::*;
    use proptest::prelude::*;

    const PROXY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 4711));

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            let name = HeaderName::try_from(*name).unwrap();
            (name, HeaderValue::try_from(*value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let line =
            |(name, value): (_, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn asked(headers: HeaderMap, peer_is_trusted: bool) -> HeaderMap {
        asked_by(PROXY.into(), headers, peer_is_trusted)
    }

    fn asked_by(peer: Peer, mut headers: HeaderMap, peer_is_trusted: bool) -> HeaderMap {
        let host = HeaderValue::from_static("service:8001");
        let forwarded = Forwarded {
            peer,
            peer_is_trusted,
            is_tls: false,
            host_of_target: None,
            host: &host,
        };
        to_service(&mut headers, forwarded, || 7);
        headers
    }

    #[test]
    fn a_proxy_behind_a_unix_socket_adds_no_address_if_it_is_trusted() {
        let forwarded_for = |peer_is_trusted| {
            let headers = map(&[("x-forwarded-for", "198.51.100.7")]);
            let headers = asked_by(Peer::Unix(None), headers, peer_is_trusted);
            headers["x-forwarded-for"].clone()
        };
        assert_eq!(forwarded_for(true), "198.51.100.7");
        // Anybody may have written the list.
        assert_eq!(forwarded_for(false), "198.51.100.7, unix");
    }

    #[test]
    fn the_list_of_addresses_is_the_way_that_the_request_took() {
        let balancer = || Peer::from(PROXY);
        let forwarded_for = |peer, list| {
            let headers = asked_by(peer, map(&[("x-forwarded-for", list)]), false);
            headers["x-forwarded-for"].clone()
        };
        let client = |ip| Some(SocketAddr::new(IpAddr::from(ip), 4711));
        let named = balancer().behind_header(client([192, 0, 2, 1]));
        assert_eq!(forwarded_for(named, "1.1.1.1"), "1.1.1.1, 192.0.2.1");
        // An HTTP proxy that also sends PROXY protocol headers names the client in both.
        let twice = "1.1.1.1, 192.0.2.1";
        assert_eq!(forwarded_for(named, twice), twice);
        // Nobody vouches for the rest of the list.
        let unnamed = balancer().behind_header(None);
        assert_eq!(forwarded_for(unnamed, "1.1.1.1"), "10.0.0.9");
    }

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_plain_request_gets_what_the_service_should_know() {
        let plain = map(&[
            ("host", "public"),
            ("x-custom", "c"),
            ("cookie", "a=b"),
            ("content-length", "5"),
        ]);
        let headers = asked(plain, false);
        let made = Trace::made(|| 7).parent;
        let expected = [
            "content-length: 5",
            "cookie: a=b",
            "host: service:8001",
            &format!("traceparent: {made}"),
            "x-custom: c",
            "x-forwarded-for: 10.0.0.9",
            "x-forwarded-host: public",
            "x-forwarded-proto: http",
        ];
        assert_eq!(lines(&headers), expected);
    }

    #[test]
    fn what_concerns_one_connection_stays_there_both_ways() {
        let hop = map(&[
            ("connection", "close, X-One"),
            ("connection", " x-two ,, ,content-length"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("trailer", "x-sum"),
            ("x-kept", "yes"),
        ]);
        let mut answered = hop.clone();
        to_client(&mut answered);
        let kept = ["content-length: 5", "trailer: x-sum", "x-kept: yes"];
        assert_eq!(lines(&answered), kept);
        let requested = asked(hop, true);
        for name in "x-one x-two connection te transfer-encoding upgrade keep-alive".split(' ') {
            assert!(!requested.contains_key(name), "{name}");
        }
        assert_eq!(requested["content-length"], "5");
    }

    #[test]
    fn a_length_is_said_once_and_never_beside_chunks() {
        let mut twice = map(&[("content-length", "5"), ("content-length", "5")]);
        let once = asked(twice.clone(), false);
        assert_eq!(once.get_all("content-length").iter().count(), 1);
        to_client(&mut twice);
        assert_eq!(twice, map(&[("content-length", "5")]));
        let mut both = map(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        to_client(&mut both);
        assert!(both.is_empty());
    }

    #[test]
    fn codings_besides_chunked_are_told() {
        let coding = |value| has_other_coding(&map(&[("transfer-encoding", value)]));
        assert!(!has_other_coding(&HeaderMap::new()));
        assert!(!coding("chunked") && !coding(" Chunked "));
        assert!(coding("gzip, chunked") && coding("gzip") && coding(""));
    }

    #[test]
    fn connection_cannot_take_away_what_the_gateway_says() {
        let named = map(&[
            ("host", "public"),
            ("connection", "host, x-forwarded-for, x-forwarded-host"),
            ("connection", "traceparent"),
            ("x-forwarded-for", "1.1.1.1"),
        ]);
        for (peer_is_trusted, list) in [(false, "10.0.0.9"), (true, "1.1.1.1, 10.0.0.9")] {
            let headers = asked(named.clone(), peer_is_trusted);
            assert_eq!(headers["host"], "service:8001");
            assert_eq!(headers["x-forwarded-for"], list);
            assert_eq!(headers["x-forwarded-host"], "public");
            assert!(headers.contains_key("traceparent"));
        }
    }

    #[test]
    fn the_inner_token_never_passes() {
        let token = map(&[
            ("X-Internal-Token", "s"),
            ("x_internal_token", "s"),
            ("x-internal-Token", "t"),
        ]);
        let headers = asked(token, true);
        assert!(
            !headers
                .keys()
                .any(|name| name.as_str().contains("internal"))
        );
        let mut late = map(&[
            ("x-internal-token", "s"),
            ("content-length", "1"),
            ("x_forwarded_for", "9.9.9.9"),
            ("x-forwarded-for", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
            ("x-sum", "9"),
        ]);
        trailers(&mut late);
        assert_eq!(lines(&late), ["x-sum: 9"]);
    }

    #[test]
    fn the_path_is_said_by_the_request_line_alone() {
        let others = || {
            map(&[
                ("X-Original-URL", "/internal/broadcast"),
                ("x-rewrite-url", "/gateway/handle"),
                ("X-Rewrite-Url", "/gateway/handle"),
                ("x_original_url", "/gateway/handle"),
            ])
        };
        for peer_is_trusted in [false, true] {
            let headers = asked(others(), peer_is_trusted);
            assert!(!headers.keys().any(|name| name.as_str().contains("url")));
        }
        let mut late = others();
        trailers(&mut late);
        assert!(late.is_empty());
    }

    #[test]
    fn the_way_of_a_request_is_told() {
        let via = map(&[
            ("host", "public"),
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
            ("x-forwarded-for", "3.3.3.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "www.example"),
        ]);
        let trusted = asked(via.clone(), true);
        let list = "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9";
        assert_eq!(trusted["x-forwarded-for"], list);
        assert_eq!(trusted["x-forwarded-proto"], "https");
        assert_eq!(trusted["x-forwarded-host"], "www.example");
        let other = asked(via, false);
        assert_eq!(other["x-forwarded-for"], list);
        assert_eq!(other["x-forwarded-proto"], "http");
        assert_eq!(other["x-forwarded-host"], "public");
    }

    #[test]
    fn a_client_takes_nothing_of_what_a_proxy_says_of_it() {
        let words = [
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "www.example"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
        ];
        let named = words.map(|(name, _)| name).join(", ");
        let headers = map(&[&words[..], &[("connection", &named)]].concat());
        let headers = asked(headers, true);
        for (name, value) in words {
            let end = if name == "x-forwarded-for" {
                ", 10.0.0.9"
            } else {
                ""
            };
            assert_eq!(headers[name], format!("{value}{end}"), "{name}");
        }
    }

    #[test]
    fn a_stranger_speaks_for_no_proxy() {
        let words = [
            ("forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "444"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "6.6.6.6"),
        ];
        let found = |headers: &HeaderMap| {
            let names = words.iter().map(|(name, _)| headers.get(*name).cloned());
            names
                .map(|value| value.map_or(String::new(), |v| v.to_str().unwrap().to_owned()))
                .collect::<Vec<_>>()
        };
        let sent: Vec<&str> = words.iter().map(|(_, value)| *value).collect();
        assert_eq!(
            found(&asked(map(&words), true)),
            sent,
            "a proxy that is trusted"
        );
        // Without a host of its own, the request has none.
        assert_eq!(
            found(&asked(map(&words), false)),
            ["", "", "", "", "http", ""]
        );
        let with_host = [&words[..], &[("host", "public")]].concat();
        assert_eq!(
            found(&asked(map(&with_host), false)),
            ["", "public", "", "", "http", ""]
        );
    }

    #[test]
    fn a_trace_is_passed_on_or_begun() {
        let given = asked(map(&[("traceparent", TRACE), ("tracestate", "a=b")]), false);
        assert_eq!(given["traceparent"], TRACE);
        assert_eq!(given["tracestate"], "a=b");
        let begun = asked(map(&[("traceparent", "bad"), ("tracestate", "a=b")]), false);
        assert_eq!(begun["traceparent"], Trace::made(|| 7).parent);
        assert!(!begun.contains_key("tracestate"));
    }

    #[test]
    fn who_takes_trailers_says_so_on_each_connection() {
        let takes = map(&[("te", "deflate, Trailers"), ("connection", "TE")]);
        let headers = asked(takes, false);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["connection"], "te");
        let asks = asked(map(&[("expect", "100-continue")]), false);
        assert!(!asks.contains_key(EXPECT));
    }

    #[test]
    fn addresses_of_the_service_itself_lead_to_the_gateway() {
        const OWN: &str = "http://service:8001";
        const BASE: &str = "http://service/base";
        let changed = |url: &str, cut: &str, name: &str, text: &str| {
            let mut headers = map(&[(name, text)]);
            own_addresses(&mut headers, &Upstream::parse(url).unwrap(), cut);
            headers[name].to_str().unwrap().to_owned()
        };
        let same = |text| (OWN, "", text, text);
        for (url, cut, text, expected) in [
            (OWN, "", "http://service:8001/v1/7/?a=b#c", "/v1/7/?a=b#c"),
            (OWN, "", "HTTP://SERVICE:8001/v1/x", "/v1/x"),
            (OWN, "", "//service:8001/v1/x", "/v1/x"),
            (OWN, "/v1/sim", "http://service:8001/x/", "/v1/sim/x/"),
            (OWN, "", "http://service:8001", "/"),
            (BASE, "/cut", "http://service:80/base/x", "/cut/x"),
            (BASE, "/cut", "http://service/base", "/cut/"),
            (BASE, "/cut", "http://service/based", "http://service/based"),
            ("http://[::1]:9", "", "http://[::1]:9/x", "/x"),
            ("https://service", "", "http://service/x", "/x"),
            (OWN, "/cut", "/v1/x", "/v1/x"),
            same("http://service:8002/x"),
            same("http://service:8001//evil.example/"),
            same("https://login.example/?next=x"),
            same("../other"),
            same("ftp://service:8001/x"),
        ] {
            for name in ["location", "content-location"] {
                assert_eq!(changed(url, cut, name, text), expected, "{text}");
            }
        }
        let refresh = |text| changed(OWN, "", "refresh", text);
        assert_eq!(refresh("5; URL=http://service:8001/x"), "5; URL=/x");
        assert_eq!(refresh("0;url='http://service:8001/x'"), "0;url=/x");
        assert_eq!(refresh("5"), "5");
    }

    proptest! {
        #[test]
        fn other_headers_pass_in_their_order(values in prop::collection::vec("[!-~]{1,10}", 1..5)) {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append("set-cookie", HeaderValue::try_from(value).unwrap());
            }
            let before = headers.clone();
            to_client(&mut headers);
            prop_assert_eq!(&headers, &before);
            let requested = asked(headers, false);
            prop_assert!(requested.get_all("set-cookie").iter().eq(before.get_all("set-cookie")));
        }

        #[test]
        fn no_named_header_is_left(names in prop::collection::vec("x-[a-z]{1,5}", 1..5), bytes in "[ -~]{0,20}") {
            let mut headers = HeaderMap::new();
            for name in &names {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("1"));
            }
            let list = format!("{},{bytes}", names.join(" ,"));
            headers.insert(CONNECTION, HeaderValue::try_from(list).unwrap());
            to_client(&mut headers);
            prop_assert!(headers.keys().all(|name| !names.iter().any(|named| named == name.as_str())));
        }
    }
}
