//! The keys for checking the signatures of tokens, and the choice of the key for a token.
//!
//! The kind of a key decides its only algorithm. A token's header can choose only among the keys of the algorithm it
//! names, so a public key is never used as an HMAC secret, and `none` names no key at all (RFC 8725 §3.1).

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm as Signing, DecodingKey, crypto};
use pkcs1::RsaPublicKey;
use pkcs1::der::asn1::UintRef;
use pkcs1::der::{Decode, Encode};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Secret;
use weirgate_wire::json::{Json, JsonError};

/// The most keys in a set.
pub(crate) const KEYS_MAX: usize = 64;

/// The most keys of an algorithm that have the same key id, or none. The event loop tries all of them, so this also
/// limits the keys tried for a token without a key id.
const KEYS_ALIKE_MAX: usize = 4;

/// The smallest RSA key: smaller keys are breakable, and RFC 7518 §3.3 forbids them.
const RSA_BITS_MIN: usize = 2048;

/// The largest RSA key: the library checks no signature of a larger one.
const RSA_BITS_MAX: usize = 8192;

/// The accepted algorithms, each with its own kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// HMAC with SHA-256, a shared secret.
    Hs256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The algorithm that a header's `alg` names (RFC 7518 §3.1, RFC 8037 §3.1), if accepted.
    pub(crate) fn named(alg: &str) -> Option<Self> {
        [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa]
            .into_iter()
            .find(|a| a.name() == alg)
    }

    /// The name in a header's `alg`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn signing(self) -> Signing {
        match self {
            Self::Hs256 => Signing::HS256,
            Self::Rs256 => Signing::RS256,
            Self::Es256 => Signing::ES256,
            Self::EdDsa => Signing::EdDSA,
        }
    }
}

/// Why a file gives no keys: always the operator's fault. Contains nothing of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file has a private key, which is for signing and not needed here.
    #[error("it has a private key; only the public key belongs here")]
    Private,
    /// No PEM block.
    #[error("no PEM public key in it (-----BEGIN PUBLIC KEY-----)")]
    NoPem,
    /// A PEM block that is not a public key of an accepted kind.
    #[error("PEM block {number}: no RSA, P-256 or Ed25519 public key")]
    Pem {
        /// From 1.
        number: usize,
    },
    /// An RSA key that is too short.
    #[error("key {number}: RSA keys below {RSA_BITS_MIN} bits are not taken")]
    Weak {
        /// From 1.
        number: usize,
    },
    /// No JSON.
    #[error("no JSON Web Key Set: {0}")]
    Json(#[from] JsonError),
    /// JSON, but no key set (RFC 7517 §5).
    #[error("no JSON Web Key Set: no list \"keys\"")]
    NoSet,
    /// A key of an accepted kind, but broken.
    #[error("key {number} of the set: a {kind} key without good values")]
    Jwk {
        /// From 1.
        number: usize,
        /// The `kty` of the key.
        kind: &'static str,
    },
    /// The set has no key that could check a token here.
    #[error("no RS256, ES256 or EdDSA key for signatures in the set")]
    NoUsableKey,
    /// More than four keys of the same algorithm without a key id, or with the same key id.
    #[error(
        "more than {KEYS_ALIKE_MAX} keys of one algorithm without a key id (kid), or with the same"
    )]
    TooManyAlike,
    /// More keys than `KEYS_MAX`.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: Material,
}

#[derive(Clone)]
enum Material {
    Public(DecodingKey),
    /// For HS256; its text may change.
    Shared(Secret),
}

impl Material {
    /// Whether this key has made the signature (base64url) over `message`.
    fn has_signed(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let check = |key: &DecodingKey| {
            let good = crypto::verify(signature, message.as_bytes(), key, algorithm.signing());
            good.unwrap_or(false)
        };
        match self {
            Self::Public(key) => check(key),
            Self::Shared(secret) => check(&DecodingKey::from_secret(secret.expose().as_bytes())),
        }
    }
}

/// The keys for checking tokens. [`fmt::Debug`] shows only their number.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl KeySet {
    /// Whether there is no key: then no token passes.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds an HMAC secret, for HS256. A replaced text of the secret counts from the next check on.
    ///
    /// # Errors
    /// The set is full.
    pub fn add_secret(&mut self, secret: &Secret) -> Result<(), KeyError> {
        // A secret has no key id.
        self.add(None, Algorithm::Hs256, Material::Shared(secret.clone()))
    }

    /// Adds the public keys of a PEM text (RFC 7468) with any number of blocks.
    ///
    /// # Errors
    /// A private key, or nothing that could check a token; nothing is added then.
    pub fn add_pem(&mut self, text: &str) -> Result<(), KeyError> {
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        let mut added = self.clone();
        for (block, number) in pem_blocks(text).zip(1..) {
            let (algorithm, key) = from_pem(block).ok_or(KeyError::Pem { number })?;
            if algorithm == Algorithm::Rs256 && rsa_bits(&key) < RSA_BITS_MIN {
                return Err(KeyError::Weak { number });
            }
            // PEM has no key ids.
            added.add(None, algorithm, Material::Public(key))?;
        }
        if added.len() == self.len() {
            return Err(KeyError::NoPem);
        }
        *self = added;
        Ok(())
    }

    /// Adds the keys of a JSON Web Key Set (RFC 7517) that can check signatures here. Keys for
    /// encryption, keys of other algorithms and secrets (`oct`) are left out.
    ///
    /// # Errors
    /// No key set, a broken key, or no usable key; nothing is added then.
    pub fn add_jwks(&mut self, text: &[u8]) -> Result<(), KeyError> {
        self.add_set(text, Err)
    }

    /// As [`KeySet::add_jwks`], for a set from a provider: a broken key is left out, and the other keys are added (RFC
    /// 7517 §5).
    ///
    /// # Errors
    /// No key set, no usable key, or too many keys; nothing is added then.
    pub fn add_foreign_jwks(&mut self, text: &[u8]) -> Result<(), KeyError> {
        self.add_set(text, |_| Ok(None))
    }

    /// Adds the keys of a set. `on_broken` decides whether a broken key is an error or is left out.
    fn add_set(&mut self, text: &[u8], on_broken: fn(KeyError) -> ReadKey) -> Result<(), KeyError> {
        let set: Value = Json::read(&Json::utf8_of(text))?.parse()?;
        let keys = set.get("keys").and_then(Value::as_array);
        let mut added = self.clone();
        for (jwk, number) in keys.ok_or(KeyError::NoSet)?.iter().zip(1..) {
            if let Some((algorithm, key)) = from_jwk(jwk, number).or_else(on_broken)? {
                let id = jwk.get("kid").and_then(|kid| kid.as_str());
                added.add(id.map(str::to_owned), algorithm, Material::Public(key))?;
            }
        }
        if added.len() == self.len() {
            return Err(KeyError::NoUsableKey);
        }
        *self = added;
        Ok(())
    }

    /// Adds a key.
    ///
    /// # Errors
    /// There are too many keys, or too many that a token cannot tell apart.
    fn add(
        &mut self,
        id: Option<String>,
        algorithm: Algorithm,
        key: Material,
    ) -> Result<(), KeyError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let alike = |key: &&Key| key.algorithm == algorithm && key.id == id;
        if self.keys.iter().filter(alike).count() >= KEYS_ALIKE_MAX {
            return Err(KeyError::TooManyAlike);
        }
        self.keys.push(Key { id, algorithm, key });
        Ok(())
    }

    /// Checks a signature (base64url) over `message`. Tries the keys of this algorithm that have the key id `id` or no
    /// key id. If `id` is `None`, tries all keys of the algorithm; if these are more than [`KEYS_ALIKE_MAX`], only
    /// those without a key id.
    pub(super) fn check(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), Refusal> {
        let of_algorithm = |key: &&Key| key.algorithm == algorithm;
        let all = self.keys.iter().filter(of_algorithm);
        let few = all.clone().count() <= KEYS_ALIKE_MAX;
        let may_be = |key: &&Key| match (key.id.as_deref(), id) {
            (None, _) => true,
            (Some(_), None) => few,
            (own, named) => own == named,
        };
        let mut fitting = all.filter(may_be).peekable();
        fitting.peek().ok_or(Refusal::UnknownKey)?;
        let signed = |key: &Key| key.key.has_signed(algorithm, message, signature);
        fitting.any(signed).then_some(()).ok_or(Refusal::Signature)
    }
}

/// The blocks of a PEM text, each from its `BEGIN` on.
fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN ";
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([text.len()]).collect();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| &text[start..end])
}

/// Reads a public key of any accepted kind; the kind decides the algorithm. Returns `None` if the block is no such key,
/// or the library cannot check signatures with it.
fn from_pem(block: &str) -> Option<(Algorithm, DecodingKey)> {
    let block = block.as_bytes();
    let rsa = DecodingKey::from_rsa_pem(block).map(|key| (Algorithm::Rs256, key));
    let ec = || DecodingKey::from_ec_pem(block).map(|key| (Algorithm::Es256, key));
    let ed = || DecodingKey::from_ed_pem(block).map(|key| (Algorithm::EdDsa, key));
    let (algorithm, key) = rsa.or_else(|_| ec()).or_else(|_| ed()).ok()?;
    works(algorithm, &key).then_some((algorithm, key))
}

/// Whether the key can check signatures. The crate accepts any bytes as a key; with a broken key, every signature would
/// be wrong.
fn works(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let Ok(bytes) = key.try_get_as_bytes() else {
        return false;
    };
    let (checks, size_is_right): (&'static dyn VerificationAlgorithm, bool) = match algorithm {
        Algorithm::Rs256 => (&RSA_PKCS1_2048_8192_SHA256, rsa_bits(key) <= RSA_BITS_MAX),
        Algorithm::Es256 => (&ECDSA_P256_SHA256_FIXED, true),
        // More bytes could be a key in an envelope.
        Algorithm::EdDsa => (&ED25519, bytes.len() == 32),
        Algorithm::Hs256 => return false,
    };
    size_is_right && ParsedPublicKey::new(checks, bytes).is_ok()
}

/// Makes an RSA key from big-endian numbers (RFC 7518 §6.3.1), in the same form as from PEM.
fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Option<DecodingKey> {
    let key = RsaPublicKey {
        modulus: UintRef::new(modulus).ok()?,
        public_exponent: UintRef::new(exponent).ok()?,
    };
    Some(DecodingKey::from_rsa_der(&key.to_der().ok()?))
}

/// Returns the bits of an RSA key's modulus without leading zeros; 0 if the key is not RSA. The crate keeps the DER of
/// the key (RFC 8017 §A.1.1).
fn rsa_bits(key: &DecodingKey) -> usize {
    let der = key.try_get_as_bytes().unwrap_or_default();
    let modulus = RsaPublicKey::from_der(der).map(|key| key.modulus);
    // Without leading zeros.
    match modulus.as_ref().map(UintRef::as_bytes) {
        Ok([highest, rest @ ..]) => rest.len() * 8 + (u8::BITS - highest.leading_zeros()) as usize,
        _ => 0,
    }
}

/// A key of a set; `None` for a key that is of no use here.
type ReadKey = Result<Option<(Algorithm, DecodingKey)>, KeyError>;

/// Reads a key of the set. Returns `None` if it is not for checking signatures with an accepted algorithm.
fn from_jwk(jwk: &Value, number: usize) -> ReadKey {
    let (algorithm, kind) = match (text_of(jwk, "kty"), text_of(jwk, "crv")) {
        (Some("RSA"), _) => (Algorithm::Rs256, "RSA"),
        (Some("EC"), Some("P-256")) => (Algorithm::Es256, "EC"),
        (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDsa, "OKP"),
        _ => return Ok(None),
    };
    let algorithms: &[&str] = match algorithm {
        // RFC 9864 adds a separate name for EdDSA with this curve.
        Algorithm::EdDsa => &["EdDSA", "Ed25519"],
        other => &[other.name()],
    };
    let says_one_of = |name: &str, values: &[&str]| {
        // A value that is no text is none of `values`.
        let value = jwk
            .get(name)
            .map(|value| value.as_str().unwrap_or("no text"));
        value.is_none_or(|value| values.contains(&value))
    };
    if !says_one_of("alg", algorithms) || !says_one_of("use", &["sig"]) || !may_verify(jwk) {
        return Ok(None);
    }
    // A `kid` must be a string (RFC 7517 §4.5). Otherwise the key would count as one without `kid`, and would be tried
    // for every token.
    let has_good_id = jwk.get("kid").is_none_or(|id| id.is_str());
    let key = decoding_key(jwk, algorithm).filter(|_| has_good_id);
    let key = key.ok_or(KeyError::Jwk { number, kind })?;
    if algorithm == Algorithm::Rs256 && rsa_bits(&key) < RSA_BITS_MIN {
        return Err(KeyError::Weak { number });
    }
    match works(algorithm, &key) {
        true => Ok(Some((algorithm, key))),
        false => Err(KeyError::Jwk { number, kind }),
    }
}

/// The key from the members with its numbers (RFC 7518 §6.2, §6.3, RFC 8037 §2); `None` if they are missing or broken.
fn decoding_key(jwk: &Value, algorithm: Algorithm) -> Option<DecodingKey> {
    let bytes = |name| {
        // Some providers write padding, which RFC 7515 §2 leaves out.
        let text = text_of(jwk, name)?.trim_end_matches('=');
        URL_SAFE_NO_PAD.decode(text).ok()
    };
    Some(match algorithm {
        Algorithm::Rs256 => from_rsa(&bytes("n")?, &bytes("e")?)?,
        // An uncompressed point (SEC 1 §2.3.3).
        Algorithm::Es256 => DecodingKey::from_ec_der(&[vec![4], bytes("x")?, bytes("y")?].concat()),
        Algorithm::EdDsa => DecodingKey::from_ed_der(&bytes("x")?),
        Algorithm::Hs256 => return None,
    })
}

fn text_of<'a>(jwk: &'a Value, name: &str) -> Option<&'a str> {
    jwk.get(name).and_then(|value| value.as_str())
}

/// Whether the key names no operations, or `verify` among them (RFC 7517 §4.3).
fn may_verify(jwk: &Value) -> bool {
    jwk.get("key_ops").is_none_or(|operations| {
        let mut operations = operations.as_array().into_iter().flatten();
        operations.any(|operation| operation.as_str() == Some("verify"))
    })
}

#[cfg(test)]
mod tests;
