//! The vectors of Project Wycheproof for JSON Web Signatures and Keys, for the accepted kinds of keys and
//! algorithms (`tests/vectors/jws/README.md`).

use super::*;
use crate::auth::KeyError;

const VECTORS: &str = include_str!("../../../../tests/vectors/jws/wycheproof.json");

/// Vectors that Wycheproof calls invalid and weirgate accepts: file and number. Both have a good
/// signature of an RSA key of the ROCA kind (CVE-2017-15361), a weakness for makers of keys to avoid.
const TAKEN: [(&str, u64); 2] = [("json_web_key_test", 7), ("json_web_crypto_test", 46)];

fn judge(keys: &Result<KeySet, KeyError>, token: &str) -> Result<(), String> {
    let keys = keys.as_ref().map_err(ToString::to_string)?;
    let authenticator = Authenticator {
        required: true,
        api_key: None,
        keys: KeyRing::new(keys.clone()),
        rules: ClaimRules::default(),
        cookie: None,
    };
    let token = Token::new(token).ok_or("empty")?;
    let signed = authenticator.signed_claims(&token, now());
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
            let judged = judge(&keys, test[2].as_str().expect("a token"));
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
