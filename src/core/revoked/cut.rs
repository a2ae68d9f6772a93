//! A choice of connections: what an operator names, and what of a connection is compared with it.

use super::ends::{Ends, REFUSED_MS};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::{Refusal, TokenMarks};
use weirgate_wire::json::Json;

/// The latest end of a refusal: 100 years ahead. A time that is in milliseconds by mistake is later.
const AHEAD_S_MAX: i64 = 100 * 365 * 24 * 60 * 60;

/// The bits of [`Cut::kind`]: one for each condition.
pub(super) const USER: usize = 1;
const JTI: usize = 1 << 1;
const ADDRESS: usize = 1 << 2;
pub(super) const ROLE: usize = 1 << 3;
const TOKEN: usize = 1 << 4;
/// The number of kinds.
pub(super) const KINDS: usize = 1 << 5;

/// The data of a connection that a cut is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Connected<'a> {
    /// The user; of a device, the hash that the operator's page shows.
    pub user: Option<&'a str>,
    /// The name in the client's certificate.
    pub certificate: Option<&'a str>,
    /// The client's address; `None` for a program on a unix socket.
    pub address: Option<IpAddr>,
    /// The connection, as the operator's page shows it.
    pub session: &'a str,
    /// The marks of the token.
    pub marks: Option<&'a TokenMarks>,
}

/// Who a client was, kept for the work that goes on after its connection.
#[derive(Clone, Debug)]
pub struct WasConnected {
    pub(crate) user: Option<Box<str>>,
    pub(crate) certificate: Option<Box<str>>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) marks: Option<Arc<TokenMarks>>,
}

impl WasConnected {
    /// Sets the user, as the client has said it only now.
    pub fn set_user(&mut self, user: Box<str>) {
        self.user = Some(user);
    }

    /// The data that a cut is compared with, as of a connection, though there is none.
    pub fn connected(&self) -> Connected<'_> {
        Connected {
            user: self.user.as_deref(),
            certificate: self.certificate.as_deref(),
            address: self.address,
            session: "",
            marks: self.marks.as_deref(),
        }
    }
}

impl<'a> Connected<'a> {
    /// A client of which only the address is known, and the name in its certificate if it has shown one.
    pub fn at(client: ClientAddr, certificate: Option<&'a str>) -> Self {
        Self {
            user: None,
            certificate,
            address: client.ip(),
            session: "",
            marks: None,
        }
    }

    /// The user and the name in the certificate: that counts even if a token names another user.
    pub(super) fn users(&self) -> impl Iterator<Item = &str> {
        self.user.into_iter().chain(self.certificate)
    }
}

/// Which connections an operator cuts off: those for which all given conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cut {
    /// The user, or the name in the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The id of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The client's address; of IPv6 the network of 64 bits, as in the limits for an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// A role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// One connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The digest of a token: [`TokenMarks::digest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the refusal ends, Unix seconds; by default a day after it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// When the clients were cut off, Unix seconds: tokens made until then stay refused for a day from then, also if
    /// `until` is earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
}

impl Cut {
    /// Reads a JSON object, of a request or of a line of the file.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        const WANTED: &str =
            "wanted: a JSON object with user, jti, address, role, session or token";
        let read = Json::read(text).map_err(|_| WANTED.to_owned())?;
        let mut cut: Self = read.parse().map_err(|error| {
            let error = error.to_string();
            // After the first line, the error of the parser shows the text.
            format!("{}; {WANTED}", error.lines().next().unwrap_or_default())
        })?;
        let texts = [
            ("user", &cut.user),
            ("jti", &cut.jti),
            ("role", &cut.role),
            ("session", &cut.session),
            ("token", &cut.token),
        ];
        for (name, text) in texts {
            // A condition that is not given is right: as one of a byte.
            let bytes = text.as_ref().map_or(1, String::len);
            if !(1..=Refusal::TOKEN_BYTES_MAX).contains(&bytes) {
                return Err(format!("{name}: 1 to {} bytes", Refusal::TOKEN_BYTES_MAX));
            }
        }
        if let Some(ip) = cut.address {
            cut.set_address(ip);
        }
        match cut.key() == Self::default() {
            true => Err(WANTED.to_owned()),
            false => Ok(cut),
        }
    }

    /// Chooses the connections of an address; of IPv6, of its network of 64 bits.
    pub fn set_address(&mut self, ip: IpAddr) {
        self.address = Some(group(ip.to_canonical()));
    }

    /// Whether the address of a connection is the chosen one, if one is chosen.
    pub fn has_address(&self, address: Option<IpAddr>) -> bool {
        self.address.is_none() || self.address == address.map(group)
    }

    /// Checks the times of a line of the file, whose end may have passed meanwhile.
    ///
    /// # Errors
    /// A time is in another unit than seconds, with words for the operator.
    pub fn check_times(&self, now_unix_ms: i64) -> Result<(), String> {
        let last = now_unix_ms / 1000 + AHEAD_S_MAX;
        for (name, seconds) in [("until", self.until), ("since", self.since)] {
            if seconds.is_some_and(|at| at > last) {
                return Err(format!(
                    "{name}: more than 100 years ahead; wanted: Unix time in seconds"
                ));
            }
        }
        Ok(())
    }

    /// Checks the times of a request, which has to refuse something until then.
    ///
    /// # Errors
    /// A time would have no effect or is in another unit than seconds, with words for the operator.
    pub fn check_request(&self, now_unix_ms: i64) -> Result<(), String> {
        let now = now_unix_ms / 1000;
        if self.until.is_some_and(|at| at <= now) {
            return Err(format!("until: has passed; it is {now} now"));
        }
        if self.until.is_none() && self.since.is_some_and(|at| at <= now - REFUSED_MS / 1000) {
            return Err("since: more than a day ago, so until is wanted too".to_owned());
        }
        let has_time = self.until.is_some() || self.since.is_some();
        if has_time && self.session.is_none() && self.refused().is_none() {
            let words = "until, since: a role alone is not refused, so it has no end";
            return Err(words.to_owned());
        }
        self.check_times(now_unix_ms)
    }

    /// Checks a request that takes a refusal back.
    ///
    /// # Errors
    /// Nothing like this is ever refused, with words for the operator.
    pub fn check_lift(&self) -> Result<(), String> {
        if self.until.is_some() || self.since.is_some() {
            return Err("until, since: a refusal is taken back whole".to_owned());
        }
        let never = "a role or a session alone is not refused; wanted: user, jti, address or token";
        self.refused().map(drop).ok_or_else(|| never.to_owned())
    }

    /// Whether all conditions hold for this connection.
    pub fn matches(&self, connected: &Connected<'_>) -> bool {
        fn holds<T: PartialEq>(wanted: Option<T>, given: Option<T>) -> bool {
            wanted.is_none() || wanted == given
        }
        let marks = connected.marks;
        let has_role = |role: &String| marks.is_some_and(|m| m.roles.iter().any(|r| **r == **role));
        let has_user = |user: &String| connected.users().any(|own| own == user);
        self.user.as_ref().is_none_or(has_user)
            && holds(self.jti.as_deref(), marks.and_then(|m| m.jti.as_deref()))
            && holds(
                self.token.as_deref(),
                marks.and_then(|m| m.digest.as_deref()),
            )
            && self.has_address(connected.address)
            && holds(self.session.as_deref(), Some(connected.session))
            && self.role.as_ref().is_none_or(has_role)
    }

    /// The refusal that follows the cut. `None` for a role alone, whose clients may come back, and for a single
    /// connection, whose token is refused once it is known ([`Cut::of_token`]).
    pub fn refused(&self) -> Option<Self> {
        let role_alone = Self {
            role: self.role.clone(),
            ..Self::default()
        };
        (self.session.is_none() && self.key() != role_alone).then(|| self.clone())
    }

    /// A refusal of the token of a connection that is cut, until the token's own end; `None` without a token.
    pub fn of_token(&self, marks: &TokenMarks) -> Option<Self> {
        let ends = marks.expires_unix_ms.map(seconds);
        Some(Self {
            token: Some(marks.digest.as_deref()?.to_owned()),
            until: self.until.or(ends),
            ..Self::default()
        })
    }

    /// These conditions with these ends, in whole seconds and not earlier, as another process reads them.
    pub(super) fn ending(&self, ends: &Ends) -> Self {
        Self {
            until: (ends.all < i64::MAX).then(|| seconds(ends.all)),
            // Only if old tokens stay refused for longer than others.
            since: (ends.all < ends.old).then(|| seconds(ends.since)),
            ..self.clone()
        }
    }

    /// The conditions alone, without the ends.
    pub(super) fn key(&self) -> Self {
        Self {
            until: None,
            since: None,
            ..self.clone()
        }
    }

    /// Which conditions are given, a bit for each.
    pub(super) fn kind(&self) -> usize {
        let given = [
            (USER, self.user.is_some()),
            (JTI, self.jti.is_some()),
            (ADDRESS, self.address.is_some()),
            (ROLE, self.role.is_some()),
            (TOKEN, self.token.is_some()),
        ];
        let bits = given.into_iter().filter(|(_, is_given)| *is_given);
        bits.map(|(bit, _)| bit).sum()
    }

    /// The only conditions of this kind that a connection can meet, apart from user and role, of which it may have
    /// several; `None` if the connection lacks what one of them is about, so it cannot meet all of them.
    pub(super) fn of(kind: usize, connected: &Connected<'_>) -> Option<Self> {
        let has = |bit: usize| kind & bit != 0;
        let marks = connected.marks;
        let text = |bit: usize, text: Option<&str>| match has(bit) {
            true => text.map(|text| Some(text.to_owned())),
            false => Some(None),
        };
        Some(Self {
            jti: text(JTI, marks.and_then(|m| m.jti.as_deref()))?,
            address: match has(ADDRESS) {
                true => Some(group(connected.address?)),
                false => None,
            },
            token: text(TOKEN, marks.and_then(|m| m.digest.as_deref()))?,
            ..Self::default()
        })
    }
}

/// Unix milliseconds in whole seconds, not earlier.
const fn seconds(unix_ms: i64) -> i64 {
    unix_ms / 1000 + (unix_ms % 1000 > 0) as i64
}

/// The address under which the limits count a client.
fn group(ip: IpAddr) -> IpAddr {
    match ClientAddr::Ip(ip).group() {
        ClientAddr::Ip(group) => group,
        ClientAddr::Unix => ip,
    }
}
