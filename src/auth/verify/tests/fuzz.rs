//! Tokens that nobody signed: none is taken, and none ends the process.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use super::*;

const CLAIMS: &str = r#"{"role":"admin","sub":"ann","exp":1700000100}"#;

fn good() -> Token {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, CLAIMS)
}

/// The same cases in every run.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

fn judge(token: String) -> Result<Identity, Refusal> {
    authenticator().identify(Token::new(token).as_ref(), NOW_MS)
}

/// What JSON headers and claims are made of.
fn json_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(r#""alg""#.to_owned()),
        Just(r#""HS256""#.to_owned()),
        Just(r#""none""#.to_owned()),
        Just(r#""exp""#.to_owned()),
        Just(r#""aud""#.to_owned()),
        Just(r#""role""#.to_owned()),
        "[{}\\[\\]:,\" ]",
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?([eE][0-9]{1,3})?",
        "\\PC{0,3}",
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| format!("{{{}}}", pieces.concat()))
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// A good token with a few characters changed, taken out or put in.
    #[test]
    fn a_changed_token_is_refused(
        changes in prop::collection::vec((any::<Index>(), 0..3, "[A-Za-z0-9_.=+/ -]"), 1..4),
    ) {
        let good = good();
        prop_assert!(judge(good.expose().to_owned()).is_ok());
        let mut text = good.expose().to_owned();
        for (at, kind, with) in changes {
            let at = at.index(text.len());
            match kind {
                0 => text.replace_range(at..=at, &with),
                1 => text.replace_range(at..=at, ""),
                _ => text.insert_str(at, &with),
            }
        }
        prop_assert_eq!(judge(text.clone()).is_ok(), text == good.expose(), "{}", text);
    }

    /// Any text in three parts, and any text at all.
    #[test]
    fn no_text_is_a_token(
        header in json_like(),
        claims in json_like(),
        signature in "[A-Za-z0-9_-]{0,50}",
        anything in "\\PC{1,80}",
    ) {
        let encoded = [&header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        for text in [format!("{encoded}.{signature}"), format!("{header}.{claims}.{signature}"), anything] {
            prop_assert!(judge(text.clone()).is_err(), "{}", text);
        }
    }

    /// Odd claims under a good signature: taken only as the object that another parser reads.
    #[test]
    fn odd_claims_are_read_as_another_parser_reads_them(claims in json_like()) {
        let token = signed(r#"{"alg":"HS256"}"#, &claims);
        if let Ok(identity) = judge(token.expose().to_owned()) {
            let read: serde_json::Value = serde_json::from_str(&claims).expect("good JSON");
            prop_assert_eq!(identity.role.as_deref(), read["role"].as_str());
            let expires = identity.expires_unix_ms.is_some_and(|at| at <= NOW_MS);
            prop_assert!(read.get("aud").is_none() && !expires, "{}", claims);
        }
    }
}
