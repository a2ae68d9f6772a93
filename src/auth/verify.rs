//! Checks tokens (RFC 7519, RFC 8725), and reads the identity in them.
//!
//! The time is an argument. A refusal has a label for the metric, and nothing of the token.

use super::claims::{Members, TokenClaims, find_claim, members, read, roles};
use super::key_ring::{KeyRing, Unsigned};
use super::keys::Algorithm;
use super::token::{self, ApiKey, Token};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::{ClaimRules, Refusal, TokenMarks};
use weirgate_wire::base::Now;
use weirgate_wire::json::Json;

/// A client whose token becomes valid within this time may try again; a token that is valid only later is refused for
/// good.
const BEGINS_SOON_MS: i64 = 5 * 60 * 1000;

/// The role of a client with the API key (tokens.md).
const API_KEY_ROLE: &str = "admin";

/// The identity of a client, from its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The roles that the token names. If there are none, the gateway's default role counts.
    pub roles: Vec<String>,
    /// Whether the settings name the claim with the role, but the token does not have this claim.
    pub lacks_role_claim: bool,
    /// The user, over all of the user's connections.
    pub user: Option<String>,
    /// The number of symbols that this user may subscribe to.
    pub symbols_max: Option<u32>,
    /// Names and patterns that the token grants in addition to the role; `Err` if the claim has another type.
    pub names: Result<Vec<String>, Refusal>,
    /// All claims, for placeholders.
    pub claims: TokenClaims,
    /// When the token expires, and with it the connection, in Unix milliseconds, leeway included.
    pub expires_unix_ms: Option<i64>,
    /// When the token was issued (`iat`), in Unix milliseconds.
    pub issued_unix_ms: Option<i64>,
    /// The digest by which an operator names the token; `None` if the token is not a JWT.
    pub digest: Option<Box<str>>,
}

impl Identity {
    /// Returns the properties by which an operator finds connections with this token. `roles`: the role of the
    /// connection, if it counts instead of the roles in the token.
    pub fn marks(&self, roles: Option<&str>) -> TokenMarks {
        let own = || self.roles.iter().map(|role| role.as_str().into()).collect();
        TokenMarks {
            jti: self.claims.text("jti").map(Into::into),
            roles: roles.map_or_else(own, |role| [role.into()].into()),
            digest: self.digest.clone(),
            issued_unix_ms: self.issued_unix_ms,
            expires_unix_ms: self.expires_unix_ms,
        }
    }

    /// Whether the token is a JWT: neither the API key nor no token.
    pub fn is_of_jwt(&self) -> bool {
        self.digest.is_some()
    }
}

/// How many bytes of its hash identify a token.
const DIGEST_BYTES: usize = 16;

/// The digest by which an operator names a token: the first bytes of the SHA-256 of its signed part, in hexadecimal
/// digits.
fn digest_of(signed: &str) -> Box<str> {
    let hash = digest(&SHA256, signed.as_bytes());
    let bytes = hash.as_ref().iter().take(DIGEST_BYTES);
    let digits: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    digits.into()
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            roles: Vec::new(),
            lacks_role_claim: false,
            user: None,
            symbols_max: None,
            names: Ok(Vec::new()),
            claims: TokenClaims::default(),
            expires_unix_ms: None,
            issued_unix_ms: None,
            digest: None,
        }
    }
}

/// Whether this refusal is only possible once the signature is known to be good. Not for [`Refusal::Claims`]: a bad header,
/// which is read before the signature, is refused with the same reason.
fn implies_good_signature(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Expired
        | Refusal::NotYetValid
        | Refusal::BeginsSoon { .. }
        | Refusal::Audience
        | Refusal::Issuer
        | Refusal::Role
        | Refusal::Names
        | Refusal::Device
        | Refusal::Revoked => true,
        Refusal::Missing
        | Refusal::TwoCookies
        | Refusal::TwoTokens
        | Refusal::TooLong
        | Refusal::NotAToken
        | Refusal::Padding
        | Refusal::Algorithm
        | Refusal::UnknownKey
        | Refusal::KeysDue { .. }
        | Refusal::Signature
        | Refusal::Claims => false,
    }
}

/// A refused token, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedToken {
    /// Why it is refused.
    pub refusal: Refusal,
    /// The user, for operators, if the signature of the token is good.
    pub user: Option<String>,
}

/// Judges tokens.
#[derive(Clone, Debug, Default)]
pub struct Authenticator {
    /// `REQUIRE_AUTH`: clients without a good token are refused.
    pub required: bool,
    /// `GATEWAY_API_KEY`, where the gateway has one.
    pub api_key: Option<ApiKey>,
    /// The keys of JWTs.
    pub keys: KeyRing,
    /// The rules for the claims.
    pub rules: ClaimRules,
    /// The name of the cookie with the token; `None`: cookies are not read.
    pub cookie: Option<String>,
}

impl Authenticator {
    /// Finds the token of a request: as [`Token::find`], else in the cookie. The cookie comes last, because a browser
    /// adds it to every request, while a program adds any other token on purpose.
    ///
    /// # Errors
    /// Two cookies have the name.
    pub fn token(&self, head: &RequestHead<'_>) -> Result<Option<Token>, Refusal> {
        match (Token::find(head), &self.cookie) {
            (None, Some(name)) => token::in_cookie(head, name),
            (token, _) => Ok(token),
        }
    }

    /// Judges the token of a request, for a gateway without a table of roles. `None`: the client has no good token, and
    /// needs none. `admit`: what the gateway asks of a good one.
    ///
    /// # Errors
    /// The client needs a good token and has none, or an operator has cut it off.
    pub(crate) fn judge(
        &self,
        head: &RequestHead<'_>,
        now: Now,
        admit: impl FnOnce(&Identity) -> Result<(), Refusal>,
    ) -> Result<Option<Identity>, RefusedToken> {
        let token = match self.token(head) {
            Ok(token) => token,
            // Of two tokens it is not known which one counts.
            Err(refusal) => return self.refuse(None, refusal),
        };
        let identity = match self.identify(token.as_ref(), now) {
            Ok(identity) => identity,
            Err(refusal) => return self.refuse(token.as_ref(), refusal),
        };
        match admit(&identity) {
            Ok(()) => Ok(Some(identity)),
            Err(refusal) => self.refuse(token.as_ref(), refusal),
        }
    }

    /// The judgement on a client without a good token: a refusal if the client needs one, or if an operator has cut it off.
    fn refuse(
        &self,
        token: Option<&Token>,
        refusal: Refusal,
    ) -> Result<Option<Identity>, RefusedToken> {
        if !self.required && refusal != Refusal::Revoked {
            return Ok(None);
        }
        let user = self.refused_user(token, refusal);
        Err(RefusedToken { refusal, user })
    }

    /// Whether tokens count: they are required, or there are keys for them.
    pub fn counts(&self) -> bool {
        self.required || self.has_keys()
    }

    /// Whether nobody can connect, because tokens are required but there is no key to check them.
    pub fn admits_nobody(&self) -> bool {
        self.required && !self.has_keys()
    }

    /// Whether a token can be accepted, now or with keys that come later.
    pub fn has_keys(&self) -> bool {
        self.api_key.is_some() || !self.keys.current().is_empty() || self.keys.expects_newer()
    }

    /// The identity of the holder of this token: a JWT, or the API key, which has the role `admin`.
    ///
    /// # Errors
    /// The token is refused.
    pub fn identify(&self, token: Option<&Token>, now: Now) -> Result<Identity, Refusal> {
        let token = token.ok_or(Refusal::Missing)?;
        if token.expose().len() > Refusal::TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        if self.api_key.as_ref().is_some_and(|key| key.is(token)) {
            return Ok(Identity {
                roles: vec![API_KEY_ROLE.to_owned()],
                ..Identity::default()
            });
        }
        let (message, claims) = self.signed_claims(token, now)?;
        let claims = decode(claims)?;
        let identity = judge(&self.rules, &members(&claims)?, now.unix_ms())?;
        Ok(Identity {
            digest: Some(digest_of(message)),
            claims: TokenClaims::new(claims),
            ..identity
        })
    }

    /// Returns the user in a refused token, for operators, if the signature is good; `None` for any other token.
    pub fn refused_user(&self, token: Option<&Token>, refusal: Refusal) -> Option<String> {
        let (message, _) = split(token?.expose())?;
        let (header, claims) = message.split_once('.')?;
        match refusal {
            // The same refusal exists for a bad header, which is checked before the signature.
            Refusal::Claims => drop(judge_header(&members(&decode(header).ok()?).ok()?).ok()?),
            refusal if implies_good_signature(refusal) => {}
            _ => return None,
        }
        let claims = decode(claims).ok()?;
        find_claim(&members(&claims).ok()?, &self.rules.user, |value| {
            read(value)
        })
        .ok()?
    }

    /// Checks the signature of a JWT. Returns the signed part, and the encoded claims.
    pub(super) fn signed_claims<'a>(
        &self,
        token: &'a Token,
        now: Now,
    ) -> Result<(&'a str, &'a str), Refusal> {
        let (message, signature) = split(token.expose()).ok_or(Refusal::NotAToken)?;
        if token.expose().contains('=') {
            return Err(Refusal::Padding);
        }
        let (header, claims) = message.split_once('.').ok_or(Refusal::NotAToken)?;
        let header = decode(header)?;
        let TokenHeader { algorithm, key_id } = judge_header(&members(&header)?)?;
        let keys = self.keys.current();
        let id = key_id.as_deref();
        let checked = keys.check(algorithm, id, message, signature);
        let unsigned = |refusal| Unsigned {
            refusal,
            algorithm,
            id,
            token: token.expose(),
        };
        // If newer keys may have signed it, the ring makes this `Refusal::KeysDue`, and has them fetched.
        checked.map_err(|refusal| self.keys.refuse(unsigned(refusal), now.mono_us))?;
        Ok((message, claims))
    }
}

/// Splits a token of three parts into the signed part and the signature (RFC 7515 §7.1).
fn split(token: &str) -> Option<(&str, &str)> {
    let parts = token.bytes().filter(|byte| *byte == b'.').count() + 1;
    (parts == 3).then(|| token.rsplit_once('.'))?
}

fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|_| Refusal::NotAToken)
}

/// What the header of a token says of its key.
struct TokenHeader {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// Reads a header. Refuses unknown types and any `crit` (RFC 7515 §4.1.9, §4.1.11).
fn judge_header(header: &Members<'_>) -> Result<TokenHeader, Refusal> {
    if header.contains_key("crit") {
        return Err(Refusal::NotAToken);
    }
    if let Some(media_type) = text(header, "typ")? {
        let media_type = media_type.to_ascii_lowercase();
        let short = media_type.strip_prefix("application/");
        if !["jwt", "at+jwt"].contains(&short.unwrap_or(&media_type)) {
            return Err(Refusal::NotAToken);
        }
    }
    let alg = text(header, "alg")?.ok_or(Refusal::NotAToken)?;
    let algorithm = Algorithm::named(&alg).ok_or(Refusal::Algorithm)?;
    Ok(TokenHeader {
        algorithm,
        key_id: text(header, "kid")?,
    })
}

/// The identity in the claims of a token whose signature is right.
///
/// # Errors
/// The rules for claims refuse the token.
fn judge(rules: &ClaimRules, claims: &Members<'_>, unix_ms: i64) -> Result<Identity, Refusal> {
    let leeway_ms = rules.leeway_ms;
    let expires = numeric_date(claims, "exp")?.map(|at| at.saturating_add(leeway_ms));
    if expires.is_some_and(|at| unix_ms >= at) {
        return Err(Refusal::Expired);
    }
    let leeway_ms = leeway_ms.max(rules.nbf_leeway_ms);
    let begins = numeric_date(claims, "nbf")?.map(|at| at.saturating_sub(leeway_ms));
    let wait_ms = begins.map_or(0, |at| at.saturating_sub(unix_ms).max(0));
    if wait_ms > BEGINS_SOON_MS {
        return Err(Refusal::NotYetValid);
    }
    let issuer = text(claims, "iss")?;
    if !rules.issuers.is_empty() && !issuer.is_some_and(|iss| rules.issuers.contains(&iss)) {
        return Err(Refusal::Issuer);
    }
    judge_audience(&rules.audiences, claims)?;
    let roles = find_claim(claims, &rules.role, roles)?;
    let identity = Identity {
        lacks_role_claim: rules.role_is_named && roles.is_none(),
        roles: roles.unwrap_or_default(),
        user: find_claim(claims, &rules.user, |value| read(value))?,
        symbols_max: find_claim(claims, &rules.symbols_max, |value| read(value))?,
        names: find_claim(claims, &rules.names, |names| {
            read(names).map_err(|_| Refusal::Names)
        })
        .map(Option::unwrap_or_default),
        claims: TokenClaims::default(),
        expires_unix_ms: expires,
        issued_unix_ms: numeric_date(claims, "iat").ok().flatten(),
        digest: None,
    };
    // This check is last, so that a client that tries again is then accepted.
    match u32::try_from(wait_ms) {
        Ok(0) => Ok(identity),
        Ok(wait_ms) => Err(Refusal::BeginsSoon { wait_ms }),
        Err(_) => Err(Refusal::NotYetValid),
    }
}

/// Checks `aud`, a text or a list of texts.
fn judge_audience(audiences: &[String], claims: &Members<'_>) -> Result<(), Refusal> {
    let Some(value) = claims.get("aud") else {
        let asked = !audiences.is_empty();
        return (!asked).then_some(()).ok_or(Refusal::Audience);
    };
    let value: Value = read(value)?;
    let entries = match value.as_array() {
        Some(list) => list.iter().map(|entry| entry.as_str()).collect(),
        None => vec![value.as_str()],
    };
    let mut named = false;
    for entry in entries {
        let entry = entry.ok_or(Refusal::Claims)?;
        named |= audiences.iter().any(|audience| audience == entry);
    }
    named.then_some(()).ok_or(Refusal::Audience)
}

fn text(members: &Members<'_>, name: &str) -> Result<Option<String>, Refusal> {
    members.get(name).map(read).transpose()
}

/// Reads a NumericDate (RFC 7519 §2): seconds since 1970, with or without a fraction. Returns milliseconds; dates out
/// of range are clamped.
fn numeric_date(members: &Members<'_>, name: &str) -> Result<Option<i64>, Refusal> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let seconds = Json::of(value).raw().parse::<f64>();
    let seconds = seconds.map_err(|_| Refusal::Claims)?;
    // The cast saturates.
    Ok(Some((seconds * 1000.0).floor() as i64))
}

#[cfg(test)]
mod tests;
