//! What never reaches a service.

use weirgate::gateways::events::EventsService;

use crate::rig::{Rig, get, post, proxied, request};

#[test]
fn paths_that_leave_the_table_are_refused() {
    let rig = Rig::new();
    for (path, status) in [
        ("/v1/measurement/../../gateway/handle", 400),
        ("/v1/measurement/%2e%2e/%2e%2e/gateway/handle", 400),
        ("/v1/simulation/%2e%2e%2fgateway/handle", 400),
        ("/v1/jobs/a%00b", 400),
        ("/v1/jobs/a%0d%0aX-Evil:%201", 400),
        ("/v1/simulation/.%2E/gateway/handle", 400),
        ("/v1/simulation/%252e%252e/gateway/handle", 400),
        ("/v1/simulation/a%255c%2e%2e%255cgateway/handle", 400),
        ("/v1/simulation/a\\..\\gateway/handle", 400),
        ("/v1/simulation/..;/gateway/handle", 400),
        ("/v1/simulation/..%3bx/gateway/handle", 400),
        ("/v1/simulation/a%250d%250ab", 400),
        ("/v1/simulation/./gateway/handle", 400),
        ("/v1/simulation/..", 400),
        ("/v1/simulation/gateway/handle", 404),
        ("/v1/simulation/GateWay/handle", 404),
        ("/v1/simulation/%2567ateway/handle", 404),
        ("/v1/simulation/gateway%2fhandle", 404),
        ("/v1/simulation/gateway%252fhandle", 404),
        ("/v1/simulation/gateway;a=b/handle", 404),
        ("/v1/simulation/;a=b/gateway/handle", 404),
        ("/v1/simulation/\\gateway/handle", 404),
        ("/v1/simulation/%5cgateway/handle", 404),
        ("/v1/simulation/gateway", 404),
        ("/v1/simulation/gateway?x=/a", 404),
        ("/v1/simulation/INTERNAL%2fbroadcast", 404),
        ("/v1/simulation//gateway/handle", 404),
        ("/v1/simulation/%67ateway/handle", 404),
        ("/v1/simulation//x/gateway/handle", 404),
        ("/v1/simulation/\\x/gateway/handle", 404),
        ("/v1/simulation//x\\gateway\\handle", 404),
        ("/v1/simulation//x/internal/broadcast", 404),
        ("/v1/simulation//x@y:80/gateway/handle", 404),
        ("/v1/simulation/%2fx/gateway/handle", 404),
        ("http://public/v1/simulation//x/gateway/handle", 404),
        ("/v1/simulation/internal/x", 404),
        ("http://public/v1/simulation/gateway/handle", 404),
        ("/gateway/handle", 404),
        ("/internal/x", 404),
        ("/v1/measurement", 404),
        ("/v1/other/x", 404),
        ("/v1//jobs/x", 404),
        ("/V1/jobs/x", 404),
    ] {
        for method in ["GET", "POST"] {
            let mut client = rig.connect(request(method, path));
            assert_eq!(client.reply().status, status, "{method} {path}");
        }
    }
    rig.assert_untouched();
}

#[test]
fn a_base_path_opens_no_way_in() {
    for base in ["/base", "/gateway-services/simulation", "/a/b"] {
        let rig = Rig::with(|settings| {
            let url = format!("http://127.0.0.1:9{base}/");
            settings.services[1] = proxied(EventsService::SIMULATION, &url, None);
        });
        for (path, status) in [
            ("/v1/simulation/gateway/handle", 404),
            ("/v1/simulation//internal/x", 404),
            ("/v1/simulation/../gateway/handle", 400),
            ("/v1/simulation/..%2f..%2fgateway/handle", 400),
        ] {
            let reply = rig.connect(get(path)).reply();
            assert_eq!(reply.status, status, "{base} {path}");
        }
    }
}

#[test]
fn requests_with_two_readings_are_refused() {
    let rig = Rig::new();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "X: y\nTransfer-Encoding: chunked",
    ] {
        let smuggled = "0\r\n\r\n".to_owned() + &get("/v1/jobs/smuggled");
        let mut client = rig.connect("");
        client.send(post("/v1/jobs/x", framing, &smuggled));
        assert_eq!(client.reply().status, 400, "{framing}");
        assert_eq!(client.end(), b"", "{framing}");
    }
    rig.assert_untouched();
}

#[test]
fn another_coding_than_chunked_is_refused() {
    let rig = Rig::new();
    let mut client = rig.connect(post(
        "/v1/jobs/x",
        "Transfer-Encoding: gzip, chunked",
        "0\r\n\r\n",
    ));
    assert_eq!(client.reply().status, 501);
    assert_eq!(client.end(), b"");
    rig.assert_untouched();
}

#[test]
fn a_tunnel_is_refused() {
    let rig = Rig::new();
    for target in ["/v1/jobs/x", "http://public/v1/jobs/x", "public:80"] {
        let mut client = rig.connect("");
        client.send(request("CONNECT", target));
        let status = client.head().status;
        assert!([400, 404, 501].contains(&status), "{target}: {status}");
    }
    rig.assert_untouched();
}

#[test]
fn heads_are_held_to_the_public_limits() {
    let rig = Rig::new();
    let mut client = rig.connect("");
    client.send(post(
        "/v1/jobs/x",
        &format!("X: {}", "x".repeat(17_000)),
        "",
    ));
    assert_eq!(client.reply().status, 431);
    let mut client = rig.connect("");
    client.send(get(&format!("/v1/jobs/{}", "x".repeat(17_000))));
    assert_eq!(client.reply().status, 414);
    rig.assert_untouched();
}
