//! Limits by address: who counts for whom, and from when to when.

use weirgate_core::{AddressLimits, CloseReason, Limits, SessionKey};
use weirgate_wire::admission::TrustedProxies;

use super::{SECOND, symbols};
use crate::world::World;
use crate::world::client::request;
use crate::world::toys::Symbols;

const PROXY: &str = "10.0.0.1";

fn world(per_ip: AddressLimits) -> World<Symbols> {
    symbols(Limits {
        per_ip,
        trusted_proxies: TrustedProxies::Networks(vec!["10.0.0.0/8".parse().expect("a network")]),
        ..Limits::default()
    })
}

fn at_most(connections: usize) -> World<Symbols> {
    world(AddressLimits {
        connections_max: Some(connections),
        ..AddressLimits::default()
    })
}

impl World<Symbols> {
    /// A client that comes from `ip` and asks for an upgrade, with this `X-Forwarded-For`.
    fn come(&mut self, ip: &str, forwarded_for: Option<&str>) -> SessionKey {
        let key = self.accept_from(ip.parse().expect("an address"), usize::MAX);
        let mut request = String::from_utf8(request("/ws", None)).expect("text");
        if let Some(forwarded_for) = forwarded_for {
            let line = format!("\r\nX-Forwarded-For: {forwarded_for}\r\n\r\n");
            request = request.replace("\r\n\r\n", &line);
        }
        self.send(key, request.as_bytes());
        key
    }

    fn status_of(&mut self, ip: &str, forwarded_for: Option<&str>) -> Option<u16> {
        let key = self.come(ip, forwarded_for);
        self.client(key).status()
    }

    fn closes_for(&self, reason: CloseReason) -> u64 {
        self.hub.stats().closes_for(reason)
    }
}

#[test]
fn an_address_has_its_places_until_its_sockets_are_gone() {
    let mut world = at_most(2);
    let first = world.come("192.0.2.1", None);
    assert_eq!(world.status_of("192.0.2.1", None), Some(101));
    assert_eq!(world.status_of("192.0.2.1", None), Some(503));
    assert_eq!(world.status_of("192.0.2.2", None), Some(101));
    assert_eq!(world.closes_for(CloseReason::ConnectionsPerIp), 1);
    world.end(first, false);
    assert_eq!(world.status_of("192.0.2.1", None), Some(101));
}

#[test]
fn a_connection_without_a_request_has_a_place_too() {
    let mut world = at_most(1);
    let silent = world.accept_from([192, 0, 2, 1].into(), usize::MAX);
    assert_eq!(world.status_of("192.0.2.1", None), Some(503));
    world.advance(10 * SECOND);
    assert_eq!(world.client(silent).status(), Some(408));
    world.end(silent, false);
    assert_eq!(world.status_of("192.0.2.1", None), Some(101));
}

#[test]
fn behind_a_trusted_proxy_each_client_has_places_of_its_own() {
    let mut world = at_most(1);
    let first = world.come(PROXY, Some("198.51.100.7"));
    let peer = world
        .hub
        .core()
        .peer(first)
        .map(|peer| peer.client().to_string());
    assert_eq!(peer.as_deref(), Some(PROXY));
    let client = world.hub.core().client_addr(first).map(|ip| ip.to_string());
    assert_eq!(client.as_deref(), Some("198.51.100.7"));
    assert_eq!(world.status_of(PROXY, Some("198.51.100.8")), Some(101));
    // What the client itself wrote stands further left, and counts for nothing.
    let forged = Some("203.0.113.5, 198.51.100.7");
    assert_eq!(world.status_of(PROXY, forged), Some(503));
    world.end(first, false);
    assert_eq!(world.status_of(PROXY, forged), Some(101));
}

#[test]
fn a_stranger_cannot_say_that_it_is_somebody_else() {
    let mut world = at_most(1);
    let key = world.come("192.0.2.1", Some("198.51.100.7"));
    let client = world.hub.core().client_addr(key).map(|ip| ip.to_string());
    assert_eq!(client.as_deref(), Some("192.0.2.1"));
    assert_eq!(
        world.status_of("192.0.2.1", Some("198.51.100.8")),
        Some(503)
    );
}

#[test]
fn connections_that_come_too_fast_are_told_to_come_later() {
    let mut world = world(AddressLimits {
        connections_per_second: Some(2),
        burst: 3,
        ..AddressLimits::default()
    });
    for status in [101, 101, 101, 429, 429] {
        assert_eq!(world.status_of("192.0.2.1", None), Some(status));
    }
    assert_eq!(world.status_of("192.0.2.2", None), Some(101));
    assert_eq!(world.closes_for(CloseReason::ConnectionRatePerIp), 2);
    world.advance(SECOND / 2);
    for status in [101, 429] {
        assert_eq!(world.status_of("192.0.2.1", None), Some(status));
    }
}
