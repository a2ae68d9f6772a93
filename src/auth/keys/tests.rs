use super::*;
use crate::auth::{ApiKey, Authenticator, KeyRing, Token};
use weirgate_wire::base::Now;

const JWKS: &str = include_str!("../../../tests/vectors/tokens/jwks.json");
const RSA: &str = include_str!("../../../tests/vectors/tokens/rsa.pem");
const P256: &str = include_str!("../../../tests/vectors/tokens/p256.pem");
const ED25519: &str = include_str!("../../../tests/vectors/tokens/ed25519.pem");

/// A token for each algorithm, by its name.
fn signed(algorithm: &str) -> Token {
    let tokens = include_str!("../../../tests/vectors/tokens/signed.json");
    let tokens: Value = sonic_rs::from_str(tokens).expect("JSON");
    let token = tokens.get(algorithm).and_then(|token| token.as_str());
    Token::new(token.expect("one for it")).expect("a token")
}

fn with_keys(keys: &KeySet) -> Authenticator {
    Authenticator {
        keys: KeyRing::new(keys.clone()),
        ..Authenticator::default()
    }
}

fn judge(keys: &KeySet, token: &Token) -> Result<(), Refusal> {
    with_keys(keys)
        .identify(Some(token), Now::default())
        .map(drop)
}

fn jwks(text: &str) -> Result<KeySet, KeyError> {
    let mut keys = KeySet::default();
    keys.add_jwks(text.as_bytes()).map(|()| keys)
}

fn pem(text: &str) -> Result<KeySet, KeyError> {
    let mut keys = KeySet::default();
    keys.add_pem(text).map(|()| keys)
}

#[test]
fn each_algorithm_from_pem_and_from_a_set() {
    let set = jwks(JWKS).expect("a set");
    let all = pem(&[RSA, P256, ED25519].concat()).expect("three blocks");
    assert_eq!((set.len(), all.len()), (3, 3));
    for (name, text) in [("RS256", RSA), ("ES256", P256), ("EdDSA", ED25519)] {
        let token = signed(name);
        let own = pem(text).expect("one block");
        for keys in [&set, &all, &own] {
            assert_eq!(judge(keys, &token), Ok(()), "{name}");
        }
        let changed = token.expose().replacen(".eyJyb2xlIjoi", ".eyJyb2xlIjoj", 1);
        let changed = Token::new(changed).expect("a token");
        assert_eq!(judge(&set, &changed), Err(Refusal::Signature), "{name}");
    }
    assert_eq!(
        judge(&pem(RSA).expect("a key"), &signed("ES256")),
        Err(Refusal::UnknownKey)
    );
}

#[test]
fn a_key_id_chooses_among_named_keys() {
    let renamed = JWKS.replace("rsa-1", "rsa-2");
    let set = jwks(&renamed).expect("a set");
    assert_eq!(judge(&set, &signed("RS256")), Err(Refusal::UnknownKey));
    let unnamed = JWKS.replace("\"kid\": \"rsa-1\",", "");
    let set = jwks(&unnamed).expect("a set");
    assert_eq!(judge(&set, &signed("RS256")), Ok(()));
}

#[test]
fn a_public_key_is_no_secret() {
    // A token that is signed with the text of the public key, as if it were an HMAC secret.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let claims = URL_SAFE_NO_PAD.encode(r#"{"role":"admin"}"#);
    let message = format!("{header}.{claims}");
    let forger = jsonwebtoken::EncodingKey::from_secret(RSA.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &forger, Signing::HS256).expect("signed");
    let token = Token::new(format!("{message}.{signature}")).expect("a token");
    let mut keys = pem(RSA).expect("a key");
    assert_eq!(judge(&keys, &token), Err(Refusal::UnknownKey));
    keys.add_secret(&Secret::new("another")).expect("room");
    assert_eq!(judge(&keys, &token), Err(Refusal::Signature));
    keys.add_secret(&Secret::new(RSA)).expect("room");
    assert_eq!(
        judge(&keys, &token),
        Ok(()),
        "only because somebody made it the secret"
    );
}

#[test]
fn what_is_no_good_public_key_is_told() {
    let p384 = include_str!("../../../tests/vectors/tokens/p384.pem");
    let weak = include_str!("../../../tests/vectors/tokens/rsa-1024.pem");
    let cut = RSA.replace("LvD3S5fe2aVO5FNQT8yMILBblvmbmycKdPI3VAsx", "");
    let private = "-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n";
    for (text, error) in [
        ("", KeyError::NoPem),
        ("ssh-rsa AAAA", KeyError::NoPem),
        (private, KeyError::Private),
        (weak, KeyError::Weak { number: 1 }),
        (p384, KeyError::Pem { number: 1 }),
        (&cut, KeyError::Pem { number: 1 }),
        (&[P256, p384].concat(), KeyError::Pem { number: 2 }),
    ] {
        assert_eq!(pem(text).map(|keys| keys.len()), Err(error), "{text}");
    }
}

#[test]
fn a_set_is_read_for_what_it_is_good_for() {
    let huge = format!("\"thod7jo3{}", "A".repeat(1_100));
    for (from, to, error) in [
        (
            "\"AQAB\"",
            "5",
            KeyError::Jwk {
                number: 1,
                kind: "RSA",
            },
        ),
        (
            "\"thod7jo3",
            "\"th d7jo3",
            KeyError::Jwk {
                number: 1,
                kind: "RSA",
            },
        ),
        (
            "\"XyEQjLtR",
            "\"XyEQjLtS",
            KeyError::Jwk {
                number: 2,
                kind: "EC",
            },
        ),
        (
            "\"eYJbfqJx",
            "\"",
            KeyError::Jwk {
                number: 3,
                kind: "OKP",
            },
        ),
        (
            "\"AQAB\"",
            "\"AQAC\"",
            KeyError::Jwk {
                number: 1,
                kind: "RSA",
            },
        ),
        (
            "\"thod7jo3",
            &huge,
            KeyError::Jwk {
                number: 1,
                kind: "RSA",
            },
        ),
        ("\"keys\"", "\"kezs\"", KeyError::NoSet),
    ] {
        assert!(JWKS.contains(from), "{from}");
        let read = jwks(&JWKS.replacen(from, to, 1)).map(|keys| keys.len());
        assert_eq!(read, Err(error), "{from}");
    }
    for (from, to) in [
        ("\"sig\"", "\"enc\""),
        ("\"RS256\"", "\"PS256\""),
        ("\"RSA\"", "\"oct\""),
        ("\"P-256\"", "\"P-521\""),
        ("\"Ed25519\"", "\"X25519\""),
    ] {
        let read = jwks(&JWKS.replacen(from, to, 1)).map(|keys| keys.len());
        assert_eq!(read, Ok(2), "{from}: left out");
    }
    let secret = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}"#;
    assert_eq!(
        jwks(secret).map(|keys| keys.len()),
        Err(KeyError::NoUsableKey)
    );
    let named = |n| ED_JWK.replacen('{', &format!("{{\"kid\":\"{n}\","), 1);
    let many: Vec<_> = (0..=KEYS_MAX).map(named).collect();
    let many = format!("{{\"keys\":[{}]}}", many.join(","));
    assert_eq!(jwks(&many).map(|keys| keys.len()), Err(KeyError::TooMany));
    assert!(matches!(
        jwks("{").map(|keys| keys.len()),
        Err(KeyError::Json(_))
    ));
    assert!(matches!(
        jwks(&"[".repeat(99_999)).map(|keys| keys.len()),
        Err(KeyError::Json(_))
    ));
}

/// The size of the modulus decides, not that of the longer DER around it.
#[test]
fn rsa_keys_are_measured_by_their_modulus() {
    for text in [
        include_str!("../../../tests/vectors/tokens/rsa-1984.pem"),
        include_str!("../../../tests/vectors/tokens/rsa-2047.pem"),
    ] {
        let read = pem(text).map(|keys| keys.len());
        assert_eq!(read, Err(KeyError::Weak { number: 1 }), "{text}");
        let second = pem(&[RSA, text].concat()).map(|keys| keys.len());
        assert_eq!(second, Err(KeyError::Weak { number: 2 }), "{text}");
    }
    let set = format!(r#"{{"keys":[{{"kty":"RSA","n":"{RSA_2047_MODULUS}","e":"AQAB"}}]}}"#);
    let read = jwks(&set).map(|keys| keys.len());
    assert_eq!(read, Err(KeyError::Weak { number: 1 }));
}

#[test]
fn numbers_of_keys_may_have_padding() {
    let padded = JWKS.replace("\",\n   \"e\":", "==\",\n   \"e\":");
    assert_ne!(padded, JWKS);
    assert_eq!(jwks(&padded).map(|keys| keys.len()), Ok(3));
}

/// The modulus of `rsa-2047.pem`.
const RSA_2047_MODULUS: &str = "cehTT0NuoUo0m2xjgZVZI8-_5tFeXk7I9a2LURoK1x4xOsXg7QZYeZpWzQPN6hyAQ01O3AXA2suqMuHJiu22ENRvEWVrv33-x61Bf261g0cq-FP6FHSHSWyQKIN6EamK-D9wWy4_MxB9Nl3ZFRK3lAJC2kHPphult7DiZltwdxUXJK5kfwUForYFO51SvAAO-bc8t0qFb4aga1hvFfnZdOBBoeRefgQC32ZwcgulXGXZTFCsJit42yXPdUXQaRtS-AF0Zk54QCw70jAlmJbtqgkQYPLDEgZWcR4fTURuWWpsCL0R7uRcRiUa-XsluBf0zCQ4vE18vbTXboSMyUX2sw";

/// RFC 7517 §4.2, §4.3: a key names its purpose.
#[test]
fn a_key_that_is_not_meant_to_verify_is_left_out() {
    for (member, used) in [
        (r#""key_ops":["verify"],"#, true),
        (r#""key_ops":["sign","verify"],"#, true),
        (r#""key_ops":["encrypt"],"#, false),
        (r#""key_ops":["sign"],"#, false),
        (r#""key_ops":[],"#, false),
        (r#""key_ops":"verify","#, false),
        (r#""key_ops":null,"#, false),
        (r#""use":"sig","key_ops":["encrypt"],"#, false),
        (r#""use":"sig","#, true),
        (r#""use":"enc","#, false),
        (r#""use":["sig"],"#, false),
        (r#""alg":"Ed25519","#, true),
        (r#""alg":5,"#, false),
    ] {
        let set = format!(
            "{{\"keys\":[{}]}}",
            ED_JWK.replacen('{', &format!("{{{member}"), 1)
        );
        let want = if used {
            Ok(1)
        } else {
            Err(KeyError::NoUsableKey)
        };
        assert_eq!(jwks(&set).map(|keys| keys.len()), want, "{member}");
    }
}

#[test]
fn a_token_without_a_key_id_is_tried_with_few_keys() {
    let secrets = |names: &[Option<&str>]| {
        let mut keys = KeySet::default();
        for (n, name) in names.iter().enumerate() {
            let key = DecodingKey::from_secret(&[n as u8]);
            keys.add(
                name.map(str::to_owned),
                Algorithm::Hs256,
                Material::Public(key),
            )?;
        }
        Ok::<_, KeyError>(keys)
    };
    let forger = jsonwebtoken::EncodingKey::from_secret(&[3]);
    let signature = crypto::sign(b"message", &forger, Signing::HS256).expect("signed");
    let check = |keys: &KeySet, id| keys.check(Algorithm::Hs256, id, "message", &signature);
    let few = secrets(&[Some("a"), Some("b"), Some("c"), Some("d")]).expect("few keys");
    assert_eq!(check(&few, None), Ok(()));
    let many = [Some("a"), Some("b"), Some("c"), Some("d"), Some("e")];
    let many = secrets(&many).expect("many keys");
    assert_eq!(
        check(&many, None),
        Err(Refusal::UnknownKey),
        "which of them?"
    );
    assert_eq!(check(&many, Some("d")), Ok(()));
    let mixed = [Some("a"), Some("b"), Some("c"), None, Some("d"), Some("e")];
    let mixed = secrets(&mixed).expect("many keys");
    assert_eq!(
        check(&mixed, None),
        Ok(()),
        "the key without a name is tried"
    );
    assert_eq!(check(&mixed, Some("a")), Ok(()));
    for alike in [None, Some("a")] {
        assert!(secrets(&[alike; KEYS_ALIKE_MAX]).is_ok());
        let error = secrets(&[alike; KEYS_ALIKE_MAX + 1]).map(|keys| keys.len());
        assert_eq!(error, Err(KeyError::TooManyAlike));
    }
}

const ED_JWK: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"eYJbfqJxJwXVV9AJ5jBbXo9McF91ab7jGoakNFlfyI8"}"#;

/// Of a provider's set only the broken keys are left out; the operator's own file is refused as a whole.
#[test]
fn a_broken_key_of_a_foreign_set_does_not_withhold_the_others() {
    let weak = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"weak"}"#;
    let no_curve_point = r#"{"kty":"EC","crv":"P-256","kid":"no","x":1}"#;
    let no_text = ED_JWK.replace('{', r#"{"kid":7,"#);
    let set = format!(r#"{{"keys":[{weak},{ED_JWK},{no_curve_point},{no_text}]}}"#);
    assert!(matches!(jwks(&set), Err(KeyError::Weak { number: 1 })));
    let foreign = |text: &str| {
        let mut keys = KeySet::default();
        keys.add_foreign_jwks(text.as_bytes()).map(|()| keys.len())
    };
    assert_eq!(foreign(&set), Ok(1));
    assert_eq!(
        foreign(&format!(r#"{{"keys":[{weak}]}}"#)),
        Err(KeyError::NoUsableKey)
    );
    let alone = format!(r#"{{"keys":[{no_text}]}}"#);
    assert_eq!(foreign(&alone), Err(KeyError::NoUsableKey));
    assert!(matches!(jwks(&alone), Err(KeyError::Jwk { number: 1, .. })));
    assert_eq!(foreign(r#"{"keys":[]}"#), Err(KeyError::NoUsableKey));
    assert_eq!(foreign("{}"), Err(KeyError::NoSet));
    assert!(matches!(foreign("<html>"), Err(KeyError::Json(_))));
    let named = |n| ED_JWK.replace('{', &format!(r#"{{"kid":"{n}","#));
    let many = |n: usize| {
        format!(
            r#"{{"keys":[{}]}}"#,
            (0..n).map(named).collect::<Vec<_>>().join(",")
        )
    };
    assert_eq!(foreign(&many(KEYS_MAX)), Ok(KEYS_MAX));
    assert_eq!(foreign(&many(KEYS_MAX + 1)), Err(KeyError::TooMany));
}

#[test]
fn keys_are_replaced_for_everyone_who_shares_them() {
    let ring = KeyRing::default();
    let copy = ring.clone();
    ring.replace(jwks(JWKS).expect("a set"));
    assert_eq!(copy.current().len(), 3);
    assert_eq!(format!("{copy:?}").matches("eYJb").count(), 0);
}

#[test]
fn an_api_key_is_compared_whole() {
    assert!(ApiKey::new(&Secret::new("")).is_none());
    let key = ApiKey::new(&Secret::new("s3cret")).expect("a key");
    for (token, good) in [
        ("s3cret", true),
        ("s3cre", false),
        ("s3cret ", false),
        ("S3CRET", false),
    ] {
        assert_eq!(
            key.is(&Token::new(token).expect("a token")),
            good,
            "{token}"
        );
    }
    assert_eq!(format!("{key:?}"), "ApiKey(***)");
}

/// A client may try again only if newer keys can be fetched.
#[test]
fn a_token_with_an_unknown_key_waits_for_newer_keys() {
    let authenticator = Authenticator::default();
    // {"alg":"RS256","kid":"new"} and {}.
    let token = Token::new("eyJhbGciOiJSUzI1NiIsImtpZCI6Im5ldyJ9.e30.AA");
    let judged = |token: &Option<Token>| {
        let judged = authenticator.identify(token.as_ref(), Now::default());
        judged.map(drop)
    };
    assert_eq!(judged(&token), Err(Refusal::UnknownKey));
    authenticator.keys.expect_newer();
    // {"alg":"HS256"}: no key set has a secret.
    let secret = Token::new("eyJhbGciOiJIUzI1NiJ9.e30.AA");
    assert_eq!(judged(&secret), Err(Refusal::UnknownKey));
    assert!(!authenticator.keys.wants_fetch());
    assert_eq!(judged(&token), Err(Refusal::KeysDue { wait_ms: 0 }));
    assert!(authenticator.keys.wants_fetch());
    for refusal in Refusal::ALL {
        let later = ["keys_due", "begins_soon"].contains(&refusal.label());
        assert_eq!(refusal.close_code(), if later { 1013 } else { 1008 });
    }
}

/// The vectors of Project Wycheproof for JSON Web Signatures and Keys, for the accepted kinds of keys and
/// algorithms (`tests/vectors/jws/README.md`).
const VECTORS: &str = include_str!("../../../tests/vectors/jws/wycheproof.json");

/// Vectors that Wycheproof calls invalid and weirgate accepts: file and number. Both have a good signature by an RSA
/// key with the ROCA weakness (CVE-2017-15361), which the generator of a key has to avoid.
const TAKEN: [(&str, u64); 2] = [("json_web_key_test", 7), ("json_web_crypto_test", 46)];

fn judge_signature(keys: &Result<KeySet, KeyError>, token: &str) -> Result<(), String> {
    let keys = keys.as_ref().map_err(ToString::to_string)?;
    let token = Token::new(token).ok_or("empty")?;
    let authenticator = with_keys(keys);
    let signed = authenticator.signed_claims(&token, Now::default());
    signed.map(drop).map_err(|refusal| refusal.to_string())
}

#[test]
fn signatures_and_keys_are_judged_as_wycheproof_judges_them() {
    let vectors: Value = sonic_rs::from_str(VECTORS).expect("JSON");
    let list = |value: &Value, name: &str| value[name].as_array().expect(name).clone();
    let (mut valid, mut invalid) = (0, 0);
    for group in &list(&vectors, "groups") {
        let mut keys = KeySet::default();
        let set = sonic_rs::to_string(&sonic_rs::json!({"keys": group["keys"]})).expect("JSON");
        let keys = keys.add_jwks(set.as_bytes()).map(|()| keys);
        let file = group["file"].as_str().expect("a file");
        for test in &list(group, "tests") {
            let number = test[0].as_u64().expect("a number");
            let good = test[1].as_str() == Some("valid") || TAKEN.contains(&(file, number));
            let judged = judge_signature(&keys, test[2].as_str().expect("a token"));
            assert_eq!(
                judged.is_ok(),
                good,
                "{file} {number} {}: {judged:?}",
                test[3]
            );
            *if good { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert_eq!((valid, invalid), (15, 153));
}
