use proptest::prelude::*;

use super::*;

fn header_value(agreed: Agreed) -> String {
    let mut out = Vec::new();
    agreed.write_header_value(&mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn offers_and_answers() {
    let plain = "permessage-deflate";
    for (offer, answer, client_bits) in [
        ("permessage-deflate", plain, Some(15)),
        ("Permessage-Deflate", plain, Some(15)),
        (
            "permessage-deflate; client_max_window_bits",
            plain,
            Some(15),
        ),
        (
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=8",
            Some(9),
        ),
        (
            "permessage-deflate;client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=10",
            Some(10),
        ),
        (
            "permessage-deflate; client_max_window_bits=\"15\"",
            plain,
            Some(15),
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
            Some(15),
        ),
        (
            "permessage-deflate; client_no_context_takeover; client_max_window_bits=10",
            "permessage-deflate; client_no_context_takeover",
            None,
        ),
        (
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            None,
        ),
        (
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9",
            Some(15),
        ),
        (
            "permessage-deflate ;\tserver_max_window_bits=\"10\"",
            "permessage-deflate; server_max_window_bits=10",
            Some(15),
        ),
        (
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=11",
            Some(11),
        ),
        ("x-a, permessage-deflate", plain, Some(15)),
        (
            "x-a; p=\"a, permessage-deflate; \\\" q\", permessage-deflate; server_max_window_bits=12",
            "permessage-deflate; server_max_window_bits=12",
            Some(15),
        ),
        (
            "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=11",
            Some(15),
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            plain,
            Some(15),
        ),
        (",, permessage-deflate ,", plain, Some(15)),
    ] {
        let agreed = negotiate([offer]).unwrap_or_else(|| panic!("declined: {offer}"));
        assert_eq!(header_value(agreed), answer, "{offer}");
        assert_eq!(agreed.client_window_bits(), client_bits, "{offer}");
        let bits = answer
            .split("server_max_window_bits=")
            .nth(1)
            .and_then(|value| value.split(';').next())
            .map_or(15, |bits| bits.parse().expect("bits"));
        let to_client = agreed.to_client;
        assert_eq!(to_client.server_window_bits(), bits, "{offer}");
        assert!(
            !to_client.takes_over(),
            "{offer}: only where it is asked for"
        );
        let mut kept = agreed;
        kept.to_client = to_client.with_takeover();
        let refused = offer.contains("server_no_context_takeover");
        assert_eq!(kept.to_client.takes_over(), !refused && bits == 15);
        assert_eq!(
            header_value(kept),
            answer,
            "{offer}: nobody has to be told of it"
        );
        let no_room = agreed.without_client_takeover();
        assert_eq!(no_room.client_window_bits(), None);
        let no_room = header_value(no_room);
        assert!(no_room.contains("; client_no_context_takeover"), "{offer}");
        assert!(!no_room.contains("client_max_window_bits"), "{offer}");
    }
}

#[test]
fn offers_that_are_declined() {
    for offer in [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate2",
        "permessage-deflate; unknown_parameter",
        "permessage-deflate; permessage-deflate",
        "permessage-deflate;",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=265",
        "permessage-deflate; server_max_window_bits=abc",
        "permessage-deflate; server_max_window_bits=\"",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=\"\"",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ",,;;,=;",
        "__proto__, constructor; toString=1",
        "\"permessage-deflate\"",
    ] {
        assert_eq!(negotiate([offer]), None, "{offer}");
    }
    for nonsense in [
        "permessage-deflate;".repeat(300),
        "\"".repeat(2001),
        "\"\\".repeat(1000),
    ] {
        assert_eq!(negotiate([nonsense.as_str()]), None);
    }
}

#[test]
fn offers_stand_in_several_lines_and_in_great_number() {
    let lines = [
        "x-a, permessage-deflate; nope",
        "permessage-deflate; server_max_window_bits=10",
    ];
    assert_eq!(
        negotiate(lines).map(|agreed| agreed.to_client.server_window_bits()),
        Some(10)
    );
    let many = "x-a, ".repeat(499) + "permessage-deflate";
    assert!(negotiate([many.as_str()]).is_some());
}

#[test]
fn a_small_window_takes_what_reaches_back_no_further() {
    let bits = |n| negotiate([format!("permessage-deflate; server_max_window_bits={n}").as_str()]);
    let deflates = |n, bytes| bits(n).expect("accepted").to_client.deflates_with(bytes);
    assert_eq!([512, 513].map(|n| deflates(9, n)), [Some(15), None]);
    assert_eq!([2048, 2049].map(|n| deflates(11, n)), [Some(15), None]);
    assert_eq!([4096, 4097].map(|n| deflates(12, n)), [Some(15), Some(12)]);
    assert_eq!(deflates(14, 1 << 20), Some(12));
    assert_eq!(deflates(15, 1 << 20), Some(15));
    assert_eq!(DeflateParams::default().deflates_with(1 << 20), Some(15));
}

proptest! {
    #[test]
    fn random_offers_never_panic(line in "([a-z=;, \"\\\\é]|permessage-deflate|server_max_window_bits=1){0,30}") {
        let _ = negotiate([line.as_str()]);
    }
}
