use jsonwebtoken::{Algorithm as Signing, EncodingKey, crypto};

use super::*;
use crate::auth::KeySet;
use weirgate_wire::base::Secret;

const NOW_MS: i64 = 1_700_000_000_500;

fn now() -> Now {
    Now {
        unix_us: NOW_MS * 1_000,
        ..Now::default()
    }
}

fn authenticator() -> Authenticator {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new("secret")).expect("room");
    Authenticator {
        required: true,
        api_key: ApiKey::new(&Secret::new("the-key")),
        keys: KeyRing::new(keys),
        rules: ClaimRules::default(),
        cookie: None,
    }
}

fn signed(header: &str, claims: &str) -> Token {
    let message = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let key = EncodingKey::from_secret(b"secret");
    let signature = crypto::sign(message.as_bytes(), &key, Signing::HS256).expect("signed");
    Token::new(format!("{message}.{signature}")).expect("a token")
}

fn of_claims(rules: &ClaimRules, claims: &str) -> Result<Identity, Refusal> {
    let authenticator = Authenticator {
        rules: rules.clone(),
        ..authenticator()
    };
    authenticator.identify(Some(&signed(r#"{"alg":"HS256"}"#, claims)), now())
}

#[test]
fn the_names_may_be_in_a_claim_within_an_object() {
    let rules = ClaimRules {
        names: "x.ch".to_owned(),
        ..ClaimRules::default()
    };
    for (claims, names) in [
        (r#"{"x":{"ch":["aa"]}}"#, Ok(vec!["aa".to_owned()])),
        (
            r#"{"x.ch":["aa"],"x":{"ch":["b"]}}"#,
            Ok(vec!["aa".to_owned()]),
        ),
        (r#"{"x":{"ch":"aa"}}"#, Err(Refusal::Names)),
        (
            r#"{"x":{"ch":["aa"],"ch":["bb"]}}"#,
            Err(Refusal::NotAToken),
        ),
        (r#"{"x":{}}"#, Ok(Vec::new())),
        (r#"{"other":{"a":1,"a":2}}"#, Ok(Vec::new())),
    ] {
        let identity = of_claims(&rules, claims).expect("a good token");
        assert_eq!(identity.names, names, "{claims}");
    }
}

#[test]
fn claims_become_an_identity() {
    let claims = r#"{"role":"admin","sub":"ann","maxSymbols":7,"exp":1700000001,"x":[{}]}"#;
    let identity = of_claims(&ClaimRules::default(), claims).expect("a good token");
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(identity.roles, ["admin"]);
    assert_eq!(identity.user, text("ann"));
    let numbers = (identity.symbols_max, identity.expires_unix_ms);
    assert_eq!(numbers, (Some(7), Some(1_700_000_001_000)));
    assert_eq!(identity.claims.text("sub"), text("ann"));
    assert_eq!(
        (identity.claims.text("x"), identity.names),
        (None, Ok(Vec::new()))
    );
    let rules = ClaimRules {
        role: "https://example.com/role".to_owned(),
        user: "userId".to_owned(),
        symbols_max: "n".to_owned(),
        ..ClaimRules::default()
    };
    let claims = r#"{"https:\/\/example.com\/role":"r","userId":"u\u00e9","n":0,"sub":5}"#;
    let identity = of_claims(&rules, claims).expect("a good token");
    assert_eq!(identity.roles, ["r"]);
    assert_eq!(identity.user.as_deref(), Some("ué"));
    assert_eq!(
        (identity.symbols_max, identity.expires_unix_ms),
        (Some(0), None)
    );
    let empty = of_claims(&rules, "{}").expect("a good token");
    let digest = empty.digest.clone();
    assert!(digest.is_some(), "of a JWT");
    let nobody = Identity {
        digest,
        claims: empty.claims.clone(),
        ..Identity::default()
    };
    assert_eq!(empty, nobody);
}

#[test]
fn a_token_has_its_time() {
    let rules = ClaimRules::default();
    let generous = ClaimRules {
        leeway_ms: 60_000,
        ..ClaimRules::default()
    };
    use Refusal::{BeginsSoon, Claims, Expired, NotYetValid};
    for (claims, strict, with_leeway) in [
        (r#"{"exp":1700000001}"#, None, None),
        (r#"{"exp":1700000000.501}"#, None, None),
        (r#"{"exp":1700000000.5}"#, Some(Expired), None),
        (r#"{"exp":1.6999999405e9}"#, Some(Expired), Some(Expired)),
        (r#"{"exp":1699999941}"#, Some(Expired), None),
        (r#"{"exp":0}"#, Some(Expired), Some(Expired)),
        (r#"{"exp":-5}"#, Some(Expired), Some(Expired)),
        (r#"{"exp":1e400}"#, None, None),
        (r#"{"exp":99999999999999999999999}"#, None, None),
        (r#"{"exp":"1700000001"}"#, Some(Claims), Some(Claims)),
        (r#"{"exp":null}"#, Some(Claims), Some(Claims)),
        (r#"{"exp":[1700000001]}"#, Some(Claims), Some(Claims)),
        (r#"{"nbf":1700000000}"#, None, None),
        (
            r#"{"nbf":1700000001}"#,
            Some(BeginsSoon { wait_ms: 500 }),
            None,
        ),
        (
            r#"{"nbf":1700000061}"#,
            Some(BeginsSoon { wait_ms: 60_500 }),
            Some(BeginsSoon { wait_ms: 500 }),
        ),
        (
            r#"{"nbf":1700000301}"#,
            Some(NotYetValid),
            Some(BeginsSoon { wait_ms: 240_500 }),
        ),
        // RFC 7519 §4.1.6 has no rule that refuses a token because of `iat`.
        (r#"{"iat":1700009999}"#, None, None),
        // Refused for good, whatever the time.
        (
            r#"{"nbf":1700000001,"aud":"x"}"#,
            Some(Refusal::Audience),
            Some(Refusal::Audience),
        ),
        (r#"{"nbf":1e400}"#, Some(NotYetValid), Some(NotYetValid)),
        (r#"{"nbf":-1e400}"#, None, None),
        (r#"{"nbf":true}"#, Some(Claims), Some(Claims)),
    ] {
        assert_eq!(of_claims(&rules, claims).err(), strict, "{claims}");
        assert_eq!(of_claims(&generous, claims).err(), with_leeway, "{claims}");
    }
    let late = of_claims(&rules, r#"{"exp":1e400}"#).expect("a good token");
    assert_eq!(late.expires_unix_ms, Some(i64::MAX));
    let later = of_claims(&generous, r#"{"exp":1700000000}"#).expect("a good token");
    assert_eq!(later.expires_unix_ms, Some(1_700_000_060_000));
}

#[test]
fn a_token_may_be_used_in_the_second_of_its_making() {
    let rules = ClaimRules {
        nbf_leeway_ms: 5_000,
        ..ClaimRules::default()
    };
    let of = |claims| of_claims(&rules, claims).err();
    assert_eq!(of(r#"{"nbf":1700000005}"#), None);
    let soon = Refusal::BeginsSoon { wait_ms: 500 };
    assert_eq!(of(r#"{"nbf":1700000006}"#), Some(soon));
    assert_eq!(of(r#"{"exp":1700000000}"#), Some(Refusal::Expired));
}

/// Identity providers put roles into a list, an object with a list, or a claim whose name has dots.
#[test]
fn roles_are_read_as_identity_providers_write_them() {
    let named = |claim: &str| ClaimRules {
        role: claim.to_owned(),
        role_is_named: true,
        ..ClaimRules::default()
    };
    let roles = |rules: &ClaimRules, claims: &str| of_claims(rules, claims).map(|i| i.roles);
    let both = Ok(vec!["a".to_owned(), "b".to_owned()]);
    for (claim, claims) in [
        ("role", r#"{"role":["a","b"]}"#),
        (
            "realm_access.roles",
            r#"{"realm_access":{"roles":["a","b"]}}"#,
        ),
        (
            "https://example.com/role",
            r#"{"https://example.com/role":["a","b"]}"#,
        ),
        ("cognito:groups", r#"{"cognito:groups":["a","b"]}"#),
    ] {
        assert_eq!(roles(&named(claim), claims), both, "{claims}");
    }
    let default = ClaimRules::default();
    assert_eq!(roles(&default, r#"{"role":[]}"#), Ok(Vec::new()));
    for claims in [
        r#"{"role":[1]}"#,
        r#"{"role":{"a":"b"}}"#,
        r#"{"role":null}"#,
    ] {
        assert_eq!(roles(&default, claims), Err(Refusal::Claims), "{claims}");
    }
    let lacks = |rules: &ClaimRules, claims: &str| {
        let identity = of_claims(rules, claims).expect("a good token");
        identity.lacks_role_claim
    };
    assert!(!lacks(&default, "{}"), "nobody named a claim");
    assert!(lacks(&named("role"), "{}"));
    assert!(lacks(
        &named("realm_access.roles"),
        r#"{"realm_access":{}}"#
    ));
    assert!(!lacks(&named("role"), r#"{"role":[]}"#));
}

#[test]
fn a_user_may_be_at_a_path() {
    let rules = ClaimRules {
        user: "account.name".to_owned(),
        symbols_max: "account.symbols".to_owned(),
        ..ClaimRules::default()
    };
    let identity = of_claims(&rules, r#"{"account":{"name":"ann","symbols":3}}"#);
    let identity = identity.expect("a good token");
    assert_eq!(identity.user.as_deref(), Some("ann"));
    assert_eq!(identity.symbols_max, Some(3));
}

#[test]
fn audience_and_issuer() {
    let open = ClaimRules::default();
    let strict = ClaimRules {
        audiences: vec!["here".to_owned(), "there".to_owned()],
        issuers: vec!["https://id".to_owned()],
        ..ClaimRules::default()
    };
    use Refusal::{Audience, Claims, Issuer};
    for (claims, when_open, when_strict) in [
        (r#"{"aud":"here","iss":"https://id"}"#, Some(Audience), None),
        (
            r#"{"aud":["x","there"],"iss":"https://id"}"#,
            Some(Audience),
            None,
        ),
        (
            r#"{"aud":[],"iss":"https://id"}"#,
            Some(Audience),
            Some(Audience),
        ),
        (
            r#"{"aud":"HERE","iss":"https://id"}"#,
            Some(Audience),
            Some(Audience),
        ),
        (
            r#"{"aud":["here",1],"iss":"https://id"}"#,
            Some(Claims),
            Some(Claims),
        ),
        (
            r#"{"aud":{"here":1},"iss":"https://id"}"#,
            Some(Claims),
            Some(Claims),
        ),
        (r#"{"iss":"https://id"}"#, None, Some(Audience)),
        (
            r#"{"aud":"here","iss":"https://id/"}"#,
            Some(Audience),
            Some(Issuer),
        ),
        (r#"{"iss":["https://id"]}"#, Some(Claims), Some(Claims)),
        ("{}", None, Some(Issuer)),
    ] {
        assert_eq!(of_claims(&open, claims).err(), when_open, "{claims}");
        assert_eq!(of_claims(&strict, claims).err(), when_strict, "{claims}");
    }
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    for claims in [
        r#"{"role":5}"#,
        r#"{"role":[["admin"]]}"#,
        r#"{"role":null}"#,
        r#"{"sub":{}}"#,
        r#"{"maxSymbols":-1}"#,
        r#"{"maxSymbols":1.5}"#,
        r#"{"maxSymbols":4294967296}"#,
        r#"{"maxSymbols":"5"}"#,
    ] {
        let refused = of_claims(&ClaimRules::default(), claims);
        assert_eq!(refused, Err(Refusal::Claims), "{claims}");
    }
    for claims in [
        "",
        "[]",
        "5",
        "{\"role\":\"user\"",
        "{} {}",
        "{\"role\":NaN}",
        r#"{"role":"user","role":"admin"}"#,
        r#"{"role":"user","rol\u0065":"admin"}"#,
        r#"{"exp":1,"exp":9e9}"#,
        "{\"role\":\"\\ud800\"}",
        &format!("{{\"x\":{}{}}}", "[".repeat(512), "]".repeat(512)),
    ] {
        let refused = of_claims(&ClaimRules::default(), claims);
        assert_eq!(refused, Err(Refusal::NotAToken), "{claims}");
    }
}

#[test]
fn the_header_names_an_algorithm_that_a_key_has() {
    use Refusal::{Algorithm, NotAToken, UnknownKey};
    for (header, refusal) in [
        (r#"{"alg":"HS256","typ":"JWT"}"#, None),
        (r#"{"typ":"at+jwt","alg":"HS256","kid":"any"}"#, None),
        (r#"{"alg":"HS256","typ":"application/JWT"}"#, None),
        (r#"{"alg":"none"}"#, Some(Algorithm)),
        (r#"{"alg":"None"}"#, Some(Algorithm)),
        (r#"{"alg":"hs256"}"#, Some(Algorithm)),
        (r#"{"alg":"HS512"}"#, Some(Algorithm)),
        (r#"{"alg":"RS256"}"#, Some(UnknownKey)),
        (r#"{"alg":"EdDSA"}"#, Some(UnknownKey)),
        (r#"{"alg":"HS256","typ":"JWE"}"#, Some(NotAToken)),
        (
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            Some(NotAToken),
        ),
        (r#"{"alg":"none","alg":"HS256"}"#, Some(NotAToken)),
        (r#"{"typ":"JWT"}"#, Some(NotAToken)),
        (r#"{"alg":["HS256"]}"#, Some(Refusal::Claims)),
        ("{", Some(NotAToken)),
    ] {
        let judged = authenticator().identify(Some(&signed(header, "{}")), now());
        assert_eq!(judged.err(), refusal, "{header}");
    }
}

#[test]
fn what_is_no_token_is_refused_before_anything_is_read() {
    let good = signed(r#"{"alg":"HS256"}"#, r#"{"role":"user"}"#);
    let good = good.expose();
    assert!(
        authenticator()
            .identify(Token::new(good).as_ref(), now())
            .is_ok()
    );
    let (message, _) = good.rsplit_once('.').expect("a token");
    use Refusal::{NotAToken, Padding, Signature, TooLong};
    for (bad, refusal) in [
        ("the-kez".to_owned(), NotAToken),
        (message.to_owned(), NotAToken),
        (format!("{good}.x"), NotAToken),
        ("..".to_owned(), NotAToken),
        (format!("{message}."), Signature),
        (format!("{good}="), Padding),
        (format!("{good}\n"), Signature),
        (format!(" {good}"), NotAToken),
        (good.replacen('.', "=.", 1), Padding),
        (good.replacen('.', "+.", 1), NotAToken),
        (format!("{message}.{}", "é".repeat(22)), Signature),
        (
            format!("{good}{}", "A".repeat(Refusal::TOKEN_BYTES_MAX)),
            TooLong,
        ),
    ] {
        let judged = authenticator().identify(Token::new(bad.as_str()).as_ref(), now());
        assert_eq!(judged, Err(refusal), "{bad}");
    }
    assert_eq!(authenticator().identify(None, now()), Err(Refusal::Missing));
}

#[test]
fn the_api_key_makes_an_admin_and_an_absent_one_nobody() {
    let key = Token::new("the-key");
    let identity = authenticator()
        .identify(key.as_ref(), now())
        .expect("the key");
    assert_eq!(identity.roles, ["admin"]);
    assert_eq!(identity.expires_unix_ms, None);
    let nobody = Authenticator {
        required: true,
        ..Authenticator::default()
    };
    assert!(nobody.admits_nobody() && !authenticator().admits_nobody());
    let by_tokens_alone = Authenticator {
        api_key: None,
        ..authenticator()
    };
    assert!(!by_tokens_alone.admits_nobody());
    assert_eq!(
        nobody.identify(key.as_ref(), now()),
        Err(Refusal::NotAToken)
    );
}

#[test]
fn nothing_of_a_secret_shows() {
    let shown = format!("{:?}", authenticator());
    assert!(
        !shown.contains("the-key") && !shown.contains("secret"),
        "{shown}"
    );
    let labels: std::collections::BTreeSet<_> = Refusal::ALL.map(Refusal::label).into();
    assert_eq!(labels.len(), Refusal::ALL.len());
}

mod fuzz {
    //! Tokens without a good signature: none is accepted, and none ends the process.

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
        authenticator().identify(Token::new(token).as_ref(), now())
    }

    /// Texts from the pieces of JSON headers and claims.
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

        /// A good token with a few characters changed, removed or inserted.
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

        /// Texts of three parts with any content, and any text at all.
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

        /// Odd claims with a good signature: if they are accepted, another parser reads the same in them.
        #[test]
        fn odd_claims_are_read_as_another_parser_reads_them(claims in json_like()) {
            let token = signed(r#"{"alg":"HS256"}"#, &claims);
            if let Ok(identity) = judge(token.expose().to_owned()) {
                let read: serde_json::Value = serde_json::from_str(&claims).expect("good JSON");
                prop_assert_eq!(identity.roles.first().map(String::as_str), read["role"].as_str());
                let expires = identity.expires_unix_ms.is_some_and(|at| at <= NOW_MS);
                prop_assert!(read.get("aud").is_none() && !expires, "{}", claims);
            }
        }
    }
}
