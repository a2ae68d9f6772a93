//! What the core and the settings know of tokens: the rules for claims, why a token is refused, and the marks by which an
//! operator finds its connection.

use crate::base::allocated_bytes;

/// The rules for the claims of a token, and the names of the claims to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRules {
    /// `aud` must name an audience in this list. If the list is empty, a token with any `aud` is refused, because it is
    /// for another service (RFC 7519 §4.1.3).
    pub audiences: Vec<String>,
    /// `iss` must be in this list. If the list is empty, any issuer is accepted, and a token without one.
    pub issuers: Vec<String>,
    /// How far clocks may differ, in milliseconds.
    pub leeway_ms: i64,
    /// How long before the `nbf` of a token the token is valid, in milliseconds, if that is more than `leeway_ms`: a client
    /// may use a token in the second in which it was issued.
    pub nbf_leeway_ms: i64,
    /// The claim with the role or the roles: its name, or its path with dots.
    pub role: String,
    /// Whether the settings name the claim with the role, so that a token should have the claim.
    pub role_is_named: bool,
    /// The claim with the user: a name or a path.
    pub user: String,
    /// The claim with the symbol limit: a name or a path.
    pub symbols_max: String,
    /// The claim with names and patterns, for the channels gateway: a name or a path.
    pub names: String,
}

impl Default for ClaimRules {
    fn default() -> Self {
        Self {
            audiences: Vec::new(),
            issuers: Vec::new(),
            leeway_ms: 0,
            nbf_leeway_ms: 0,
            role: "role".to_owned(),
            role_is_named: false,
            user: "sub".to_owned(),
            symbols_max: "maxSymbols".to_owned(),
            names: "channels".to_owned(),
        }
    }
}

/// The properties of a connection's token, besides the user, by which an operator can disconnect it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMarks {
    /// The id of the token (`jti`).
    pub jti: Option<Box<str>>,
    /// The role of the connection; for gateways without roles, the roles in the token.
    pub roles: Box<[Box<str>]>,
    /// The first bytes of the SHA-256 of the token's signed part, in hexadecimal digits; `None` if the token is not a
    /// JWT.
    pub digest: Option<Box<str>>,
    /// When the token was issued (`iat`), Unix milliseconds.
    pub issued_unix_ms: Option<i64>,
    /// When the token expires, Unix milliseconds, leeway included.
    pub expires_unix_ms: Option<i64>,
}

impl TokenMarks {
    /// Memory of the marks of a token. Marks without a token are shared by all clients.
    pub fn memory_bytes(&self) -> usize {
        if self.jti.is_none() && self.digest.is_none() {
            return 0;
        }
        let texts = self.jti.iter().chain(&self.digest).chain(&self.roles);
        let texts: usize = texts.map(|text| allocated_bytes(text.len())).sum();
        let roles = allocated_bytes(size_of_val(&*self.roles));
        allocated_bytes(size_of::<Self>() + 2 * size_of::<usize>()) + roles + texts
    }
}

/// Why a token is refused, for the metric and the log. The client does not get the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The request has no token.
    #[error("no token")]
    Missing,
    /// The request has two cookies of the name, and either may be the one that the application has set.
    #[error("two cookies with the name of --token-cookie")]
    TwoCookies,
    /// A request that is passed on has two tokens, and the service may read the other one.
    #[error("two tokens, or two lines of Authorization")]
    TwoTokens,
    /// Over [`Self::TOKEN_BYTES_MAX`].
    #[error("over {} bytes", Self::TOKEN_BYTES_MAX)]
    TooLong,
    /// Neither the API key nor a JWT.
    #[error("neither the API key nor a JWT")]
    NotAToken,
    /// A JWT with `=` in it, as AWS load balancers make them (RFC 7515 §2 has no padding).
    #[error("a JWT with padding (=)")]
    Padding,
    /// An algorithm that is not accepted, `none` for instance.
    #[error("an algorithm that is not taken")]
    Algorithm,
    /// No key has the token's algorithm and key id.
    #[error("no key here fits its algorithm and key id")]
    UnknownKey,
    /// As [`Refusal::UnknownKey`] or [`Refusal::Signature`], but newer keys will be fetched: the client may try again.
    #[error("no key here has signed it yet; newer keys are due")]
    KeysDue {
        /// The time until the next fetch, in milliseconds; 0 if the fetch is due now.
        wait_ms: u32,
    },
    /// Signed with another key, or changed since.
    #[error("signed with another key, or changed since")]
    Signature,
    /// A claim is of the wrong type.
    #[error("a claim of the wrong type")]
    Claims,
    /// The time is past `exp`.
    #[error("its time (exp) is over")]
    Expired,
    /// The time is long before `nbf`.
    #[error("its time (nbf) has not come")]
    NotYetValid,
    /// The time is at most a few minutes before `nbf`: the client may try again.
    #[error("its time (nbf) comes soon")]
    BeginsSoon {
        /// The time until the token is valid, milliseconds.
        wait_ms: u32,
    },
    /// The `aud` claim does not name this gateway.
    #[error("its audience (aud) is not this one")]
    Audience,
    /// The `iss` claim names no accepted issuer.
    #[error("its issuer (iss) is not in JWT_ISSUER")]
    Issuer,
    /// The role is not in the table.
    #[error("its role is not in the table")]
    Role,
    /// The names in the token are not a list of valid names, or they are too many or too long.
    #[error("its names are not a list of names of the bus, or are too many or too long")]
    Names,
    /// The user is no id of a device, or the request names another device.
    #[error("its user is no id of a device, or not the device of the request")]
    Device,
    /// An operator refuses the token, the user or the address.
    #[error("an operator has cut it off")]
    Revoked,
}

impl Refusal {
    /// The longest token, in bytes: half of the default limit of a request head.
    pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

    /// The close code for a refused client. It is sent after the upgrade, because a script in a browser cannot see an
    /// HTTP status.
    pub const CLOSE_CODE: u16 = 1008;

    /// The close code for a token that may be admitted later.
    pub const LATER_CODE: u16 = 1013;

    /// The close code for this refusal.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::KeysDue { .. } | Self::BeginsSoon { .. } => Self::LATER_CODE,
            _ => Self::CLOSE_CODE,
        }
    }

    /// All refusals, without their times.
    pub const ALL: [Self; 20] = [
        Self::Missing,
        Self::TwoCookies,
        Self::TwoTokens,
        Self::TooLong,
        Self::NotAToken,
        Self::Padding,
        Self::Algorithm,
        Self::UnknownKey,
        Self::KeysDue { wait_ms: 0 },
        Self::Signature,
        Self::Claims,
        Self::Expired,
        Self::NotYetValid,
        Self::BeginsSoon { wait_ms: 0 },
        Self::Audience,
        Self::Issuer,
        Self::Role,
        Self::Names,
        Self::Device,
        Self::Revoked,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TwoCookies => "two_cookies",
            Self::TwoTokens => "two_tokens",
            Self::TooLong => "too_long",
            Self::NotAToken => "not_a_token",
            Self::Padding => "padding",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::KeysDue { .. } => "keys_due",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BeginsSoon { .. } => "begins_soon",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Role => "role",
            Self::Names => "names",
            Self::Device => "device",
            Self::Revoked => "revoked",
        }
    }
}
