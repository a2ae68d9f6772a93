use std::iter;

use super::*;

fn network(text: &str) -> Option<String> {
    text.parse::<Network>().ok().map(|n| n.to_string())
}

fn proxies(list: &str) -> TrustedProxies {
    TrustedProxies::Networks(list.split(' ').map(|n| n.parse().unwrap()).collect())
}

fn addr(ip: &str) -> ClientAddr {
    ip.parse::<IpAddr>().unwrap().into()
}

fn client(trusted: &TrustedProxies, peer: &str, lines: &[&str]) -> String {
    let peer = match peer {
        "unix" => Peer::Unix(None),
        ip => std::net::SocketAddr::new(ip.parse().unwrap(), 4711).into(),
    };
    let of = |name| {
        let lines = lines
            .iter()
            .map(|line| match line.strip_prefix("Forwarded: ") {
                Some(line) => ("forwarded", line.as_bytes()),
                None => ("x-forwarded-for", line.as_bytes()),
            });
        lines.filter_map(move |(of, line)| (of == name).then_some(line))
    };
    trusted.client(&peer, of).to_string()
}

#[test]
fn networks_are_read_and_shown_without_their_host_bits() {
    for (typed, shown) in [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3/0", "0.0.0.0/0"),
        ("10.1.2.3/08", "10.0.0.0/8"),
        ("fd00:1::2/16", "fd00::/16"),
        ("::1", "::1"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:a01:203", "10.1.2.3"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("unix", "unix"),
    ] {
        assert_eq!(network(typed).as_deref(), Some(shown), "{typed}");
    }
    for bad in [
        "",
        "10.0.0",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "/8",
        "a/8",
        "10.0.0.0/-1",
        "10.0.0.0/256",
        "10.0.0.0/8/8",
        " 10.0.0.0/8",
        "fe80::1%eth0",
        "::ffff:10.0.0.0/8",
        "::ffff:10.0.0.0/95",
    ] {
        assert_eq!(network(bad), None, "{bad}");
    }
}

#[test]
fn a_network_has_its_own_addresses_only() {
    let trusted = proxies("10.0.0.0/8 fd00::/8 192.0.2.1");
    for ip in ["10.255.0.1", "fdff::1", "192.0.2.1", "::ffff:10.0.0.1"] {
        assert!(trusted.trusts(addr(ip)), "{ip}");
    }
    for ip in ["11.0.0.1", "fe00::1", "192.0.2.2", "::a00:1"] {
        assert!(!trusted.trusts(addr(ip)), "{ip}");
    }
    assert!(!trusted.trusts(ClientAddr::Unix));
    let mapped = proxies("::ffff:10.0.0.0/104");
    assert!(mapped.trusts(addr("10.0.0.1")) && mapped.trusts(addr("::ffff:10.0.0.1")));
}

#[test]
fn the_client_is_the_right_most_that_is_no_proxy_of_ours() {
    let trusted = proxies("10.0.0.0/8");
    for (lines, expected) in [
        (&["198.51.100.7"][..], "198.51.100.7"),
        // The client may write anything left of the proxy's entry.
        (&["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (&["198.51.100.7, 10.0.0.2,10.0.0.3"], "198.51.100.7"),
        (&["203.0.113.1", "198.51.100.7"], "198.51.100.7"),
        (&["198.51.100.7:4711"], "198.51.100.7"),
        (&["[2001:db8::7]:4711"], "2001:db8::7"),
        (&["2001:db8::7"], "2001:db8::7"),
        (&["::ffff:198.51.100.7"], "198.51.100.7"),
        (&["10.0.0.9"], "10.0.0.9"),
        (&["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (&["_hidden"], "10.0.0.1"),
        (&["\"[2001:db8::7]:4711\""], "2001:db8::7"),
        (&["\"2001:db8::7\""], "2001:db8::7"),
        (&["\"198.51.100.7:4711\""], "198.51.100.7"),
        (&["2001:db8::7%eth0"], "2001:db8::7"),
        (&["[2001:db8::7%25eth0]:4711"], "2001:db8::7"),
        (&["198.51.100.7, "], "198.51.100.7"),
        (&["198.51.100.7,,10.0.0.2,"], "198.51.100.7"),
        (&["198.51.100.7", ""], "198.51.100.7"),
        (&["Forwarded: for=198.51.100.7"], "198.51.100.7"),
        (
            &["Forwarded: for=203.0.113.1, proto=https;For=\"[2001:db8::7]:4711\";by=_x"],
            "2001:db8::7",
        ),
        (
            &[
                "Forwarded: for=198.51.100.7",
                "Forwarded: for=10.0.0.2;host=\"a",
            ],
            "198.51.100.7",
        ),
        (&["Forwarded: for=\"x, for=198.51.100.7"], "198.51.100.7"),
        (
            &["Forwarded: for=203.0.113.1, for=198.51.100.7;host=\"a,b\""],
            "198.51.100.7",
        ),
        (
            &["Forwarded: host=\"a;for=203.0.113.1\";for=198.51.100.7"],
            "198.51.100.7",
        ),
        (
            &[r#"Forwarded: host="a\";for=203.0.113.1, for=203.0.113.2";for=198.51.100.7"#],
            "198.51.100.7",
        ),
        (&["\"203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (&["203.0.113.1\", 198.51.100.7"], "198.51.100.7"),
        (&["Forwarded: for=unknown"], "10.0.0.1"),
        (&["Forwarded: proto=https"], "10.0.0.1"),
        (
            &["Forwarded: for=203.0.113.1", "198.51.100.7"],
            "198.51.100.7",
        ),
        (&[], "10.0.0.1"),
    ] {
        assert_eq!(client(&trusted, "10.0.0.1", lines), expected, "{lines:?}");
    }
    // Bytes of the client that are not a text hide nothing of the proxy's entry.
    let peer = std::net::SocketAddr::new("10.0.0.1".parse().expect("an address"), 4711).into();
    let lines = [&b"203.0.113.1, \xff, 198.51.100.7"[..], b"\xff,10.0.0.2"];
    for (lines, expected) in [(&lines[..1], "198.51.100.7"), (&lines, "10.0.0.2")] {
        let of = |name| {
            lines
                .iter()
                .copied()
                .filter(move |_| name == "x-forwarded-for")
        };
        let client = trusted.client(&peer, of);
        assert_eq!(client.to_string(), expected, "{lines:?}");
    }
    let stranger = client(&trusted, "192.0.2.9", &["198.51.100.7"]);
    assert_eq!(stranger, "192.0.2.9", "nobody asked this one");
    assert_eq!(client(&TrustedProxies::None, "::1", &["192.0.2.1"]), "::1");
    let any = client(
        &TrustedProxies::Any,
        "192.0.2.9",
        &["203.0.113.1, 10.0.0.2"],
    );
    assert_eq!(
        any, "10.0.0.2",
        "the rest the client may have written itself"
    );
}

#[test]
fn behind_a_header_of_a_proxy_only_a_listed_proxy_is_believed() {
    let says = ["203.0.113.1"];
    let client = |trusted: &TrustedProxies, ip: &str| {
        let peer = Peer::Proxied(std::net::SocketAddr::new(ip.parse().unwrap(), 4711));
        let of = |_| says.iter().map(|line: &&str| line.as_bytes());
        let client = trusted.client(&peer, of);
        (client.to_string(), trusted.trusts_peer(&peer))
    };
    let listed = proxies("10.0.0.0/8");
    assert_eq!(client(&listed, "10.0.0.1"), ("203.0.113.1".into(), true));
    assert_eq!(client(&listed, "192.0.2.9"), ("192.0.2.9".into(), false));
    let any = client(&TrustedProxies::Any, "192.0.2.9");
    assert_eq!(any, ("192.0.2.9".into(), false));
    let balancer: Peer = SocketAddr::new("10.0.0.1".parse().unwrap(), 9).into();
    for (peer, shown) in [(balancer, "10.0.0.1"), (Peer::Unix(None), "unix")] {
        let unnamed = peer.behind_header(None);
        for trusted in [&listed, &proxies("unix"), &TrustedProxies::Any] {
            let of = |_| says.iter().map(|line| line.as_bytes());
            assert_eq!(trusted.client(&unnamed, of).to_string(), shown);
        }
    }
}

#[test]
fn a_client_that_a_list_ends_with_is_known_in_every_spelling() {
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4711);
    let is_last = |ip: &str, lines: &[&str]| {
        let peer = Peer::Unix(None).behind_header(Some(at(ip)));
        peer.is_last_of(lines.iter().map(|line| line.as_bytes()))
    };
    assert!(is_last("192.0.2.1", &["198.51.100.7, 192.0.2.1:80, "]));
    assert!(is_last("::ffff:192.0.2.1", &["198.51.100.7", "192.0.2.1"]));
    assert!(is_last("2001:db8::7", &["\"[2001:DB8:0::7]:1\""]));
    assert!(!is_last("192.0.2.1", &["192.0.2.1, 198.51.100.7"]));
    assert!(!is_last("192.0.2.1", &["192.0.2.1, unknown"]) && !is_last("192.0.2.1", &[]));
    assert!(!Peer::Tcp(at("192.0.2.1")).is_last_of(iter::once(&b"192.0.2.1"[..])));
}

#[test]
fn a_proxy_behind_a_unix_socket_is_believed_where_that_is_said() {
    let says = &["203.0.113.1, 198.51.100.7"];
    for (trusted, expected) in [
        (proxies("unix"), "198.51.100.7"),
        (proxies("unix 198.51.100.0/24"), "203.0.113.1"),
        (proxies("0.0.0.0/0 ::/0"), "unix"),
        (TrustedProxies::Any, "198.51.100.7"),
        (TrustedProxies::None, "unix"),
    ] {
        assert_eq!(client(&trusted, "unix", says), expected, "{trusted:?}");
    }
    assert_eq!(client(&proxies("unix"), "unix", &[]), "unix");
    assert_eq!(client(&proxies("unix"), "192.0.2.9", says), "192.0.2.9");
}

#[test]
fn a_peer_without_an_address_is_shown_as_the_program_that_it_is() {
    let credentials = Credentials { pid: 812, uid: 33 };
    let local = Peer::Unix(Some(credentials));
    assert_eq!(local.to_string(), "unix:pid=812,uid=33");
    assert_eq!(Peer::Unix(None).to_string(), "unix");
    assert_eq!(local.client().to_string(), "unix");
    let mapped = Peer::from(SocketAddr::new("::ffff:192.0.2.1".parse().unwrap(), 9));
    assert_eq!(mapped.client().to_string(), "192.0.2.1");
}
