//! The kinds of values: how a value is parsed, which values are allowed, and how a value is shown.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::path::Path;

use percent_encoding::percent_decode_str;
use url::Url;

use super::field::Milli;
use super::secret::{SecretText, SecretUrl, has_login, is_content};
use crate::telemetry::logging;
use weirgate_wire::admission::TrustedProxies;
use weirgate_wire::base::{Secret, is_host, unix_socket_url};

/// The unit of a number. The flag's name ends with the unit, so a value is shown without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bare number.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Times per second.
    Hertz,
}

/// The word for no port.
const OFF: &str = "off";

/// A form of text that only the settings of this form have: how it is parsed, and what an error says.
#[derive(Debug)]
pub struct Form {
    /// The placeholder of the value in `--help`.
    pub placeholder: &'static str,
    /// What is allowed, for an error about the whole value.
    pub allowed: &'static str,
    /// Whether the text has several values, separated by spaces. The flag may then be repeated.
    pub repeats: bool,
    /// Whether the text is a URL. Its query may contain a secret, and is not shown.
    pub is_url: bool,
    /// Parses the text, and returns the text to show. The shown text must parse to the same value.
    pub read: fn(&str) -> Result<String, RefusedValue>,
}

impl Form {
    /// A form of a single value that is not a URL.
    pub const fn new(
        placeholder: &'static str,
        allowed: &'static str,
        read: fn(&str) -> Result<String, RefusedValue>,
    ) -> Self {
        Self {
            placeholder,
            allowed,
            repeats: false,
            is_url: false,
            read,
        }
    }

    /// Makes the form one of several values.
    pub const fn repeated(mut self) -> Self {
        self.repeats = true;
        self
    }

    /// Makes the form one of a URL.
    pub const fn url(mut self) -> Self {
        self.is_url = true;
        self
    }
}

/// The kind of a setting's values.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number, both ends of the range included.
    Number {
        /// The unit.
        unit: Unit,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A number with a fraction, both ends of the range included.
    Decimal {
        /// The unit.
        unit: Unit,
        /// The smallest value, in thousandths.
        min_milli: i64,
        /// The largest value, in thousandths.
        max_milli: i64,
    },
    /// The TCP port of a server to connect to. In the environment, `tcp://HOST:PORT` counts as unset.
    Port,
    /// A TCP port to listen on, or the word `off` for none; 0 picks a free port. In the environment, `tcp://HOST:PORT`
    /// counts as unset.
    PortOrOff,
    /// URLs separated by commas. A URL without a scheme gets the first of these.
    Urls(&'static [&'static str]),
    /// One URL with one of these schemes and an optional database after the slash; or empty.
    OptionalUrl(&'static [&'static str]),
    /// As [`Kind::Urls`], or empty.
    OptionalUrls(&'static [&'static str]),
    /// On or off.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Web origins separated by commas; empty or `*` for any.
    Origins,
    /// Text in a form of its own.
    Form(&'static Form),
    /// IP addresses, networks and `unix`, separated by commas; empty for none, `*` for any.
    Networks,
    /// A filter of log lines in the language of `RUST_LOG`.
    LogFilter,
    /// Any text.
    Text,
    /// As [`Kind::Text`], several separated by commas; or empty.
    Texts,
    /// The path of a file. The file is not read here.
    Path,
    /// As [`Kind::Path`], several separated by commas; or empty.
    Paths,
    /// Any text, never shown.
    Secret,
}

/// An allowed value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Number`] and [`Kind::Port`].
    Number(u64),
    /// Of [`Kind::Decimal`]: thousandths, rounded. A positive number is never rounded to 0.
    Milli(i64),
    /// Of [`Kind::Urls`], [`Kind::OptionalUrl`] and [`Kind::OptionalUrls`]; of a [`Kind::Form`] that is a URL; of a
    /// [`Kind::Text`] that is a URL with a login.
    Urls(SecretUrl),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Choice`]: the word in the spelling of the table. Of [`Kind::PortOrOff`]: `off`.
    Choice(&'static str),
    /// Of [`Kind::Origins`], as browsers write them. Empty: any origin.
    Origins(Vec<String>),
    /// Of a [`Kind::Form`] that repeats; the entries are separated by space.
    List(String),
    /// Of [`Kind::Networks`].
    Networks(TrustedProxies),
    /// Of [`Kind::Text`], [`Kind::Texts`], [`Kind::Path`], [`Kind::Paths`], [`Kind::LogFilter`] and a [`Kind::Form`].
    Text(String),
    /// Of [`Kind::Secret`].
    Secret(SecretText),
}

/// A refused value, which may be one of several in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedValue {
    /// The value as typed, possibly with a secret.
    pub item: String,
    /// The allowed values.
    pub allowed: String,
}

impl RefusedValue {
    /// Makes the refusal of `item`.
    pub fn new(item: &str, allowed: impl Into<String>) -> Self {
        Self {
            item: item.to_owned(),
            allowed: allowed.into(),
        }
    }
}

impl Kind {
    /// A number of `unit` in `range`, both ends included.
    pub const fn number(unit: Unit, range: (u64, u64)) -> Self {
        Self::Number {
            unit,
            min: range.0,
            max: range.1,
        }
    }

    /// A number of `unit` with a fraction. The range is in thousandths, both ends included.
    pub const fn decimal(unit: Unit, range_milli: (i64, i64)) -> Self {
        Self::Decimal {
            unit,
            min_milli: range_milli.0,
            max_milli: range_milli.1,
        }
    }

    /// Parses a text; spaces around it are ignored. Returns `None` if the value is not allowed.
    pub fn parse(self, text: &str) -> Option<Value> {
        let text = text.trim();
        match self {
            Self::Number { min, max, .. } => {
                let n = text.parse().ok()?;
                (min..=max).contains(&n).then_some(Value::Number(n))
            }
            Self::Decimal {
                min_milli,
                max_milli,
                ..
            } => {
                let milli = parse_milli(text)?;
                (min_milli..=max_milli)
                    .contains(&milli)
                    .then_some(Value::Milli(milli))
            }
            Self::PortOrOff if text == OFF => Some(Value::Choice(OFF)),
            Self::Port => Some(Value::Number(text.parse::<NonZeroU16>().ok()?.get().into())),
            Self::PortOrOff => Some(Value::Number(text.parse::<u16>().ok()?.into())),
            Self::Urls(schemes) => parse_urls(text, schemes),
            Self::OptionalUrl(schemes) => {
                let is_good = text.is_empty() || is_server(text, schemes);
                is_good.then(|| Value::Urls(SecretUrl::new(text)))
            }
            Self::OptionalUrls(_) if text.is_empty() => Some(Value::Urls(SecretUrl::new(text))),
            Self::OptionalUrls(schemes) => parse_urls(text, schemes),
            Self::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(Value::Switch(true)),
                "false" | "0" | "no" | "off" => Some(Value::Switch(false)),
                _ => None,
            },
            Self::Choice(words) => {
                let word = words.iter().find(|w| w.eq_ignore_ascii_case(text))?;
                Some(Value::Choice(word))
            }
            Self::Origins => parse_origins(text),
            Self::Form(form) => {
                let shown = (form.read)(text).ok()?;
                Some(match form {
                    Form { is_url: true, .. } => Value::Urls(SecretUrl::new(&shown)),
                    Form { repeats: true, .. } => Value::List(shown),
                    _ => Value::Text(shown),
                })
            }
            Self::Networks => parse_networks(text).map(Value::Networks),
            // It is shown as it is, so a URL in the wrong place is refused.
            Self::LogFilter => {
                (!has_login(text) && logging::is_filter(text)).then(|| Value::Text(text.to_owned()))
            }
            Self::Path | Self::Paths if is_content(text) => None,
            Self::Text | Self::Texts if has_login(text) => Some(Value::Urls(SecretUrl::new(text))),
            Self::Text | Self::Texts | Self::Path | Self::Paths => {
                Some(Value::Text(text.to_owned()))
            }
            Self::Secret => Some(Value::Secret(SecretText::new(text))),
        }
    }

    /// Returns what is allowed, for an error: "a whole number from 0 to 9".
    pub fn allowed(self) -> String {
        match self {
            Self::Number { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Decimal {
                min_milli,
                max_milli,
                ..
            } => {
                let (min, max) = (Milli(min_milli), Milli(max_milli));
                format!("a number from {min} to {max}")
            }
            Self::Port => "a port from 1 to 65535".into(),
            Self::PortOrOff => "a port from 1 to 65535, 0 for a free one, or off".into(),
            Self::Urls(schemes) | Self::OptionalUrls(schemes) => {
                let forms = url_forms(schemes, "HOST:PORT");
                format!("{forms}, several with commas between them")
            }
            Self::OptionalUrl(schemes) => url_forms(schemes, "HOST:PORT/DATABASE"),
            Self::Switch => "true or false; also yes, on, 1, or no, off, 0".into(),
            Self::Choice(words) => words.join(" or "),
            Self::Origins => {
                "origins such as https://example.com with commas between them, or * for any".into()
            }
            Self::Form(form) => form.allowed.into(),
            Self::Networks => {
                "IP addresses and networks such as 10.0.0.7 or 10.0.0.0/8, and unix, with commas \
                 between them, or * for any"
                    .into()
            }
            Self::LogFilter => "error, warn, info, debug, trace or off, or directives such as \
                 info,weirgate_server::http=debug"
                .into(),
            Self::Text | Self::Secret => "text".into(),
            Self::Texts => "texts with commas between them".into(),
            Self::Path => "the path of a file".into(),
            Self::Paths => "the paths of files, with commas between them".into(),
        }
    }

    /// Returns the wrong part of a refused text, and what is allowed in its place.
    pub(super) fn refused(self, text: &str) -> RefusedValue {
        let of_form = match self {
            Self::Form(form) => (form.read)(text).err(),
            _ => None,
        };
        of_form.unwrap_or_else(|| RefusedValue::new(text, self.allowed()))
    }

    /// What is between the entries of a list; `None` if the value is no list. The flag of a list may be repeated.
    pub const fn separator(self) -> Option<&'static str> {
        match self {
            Self::Form(Form { repeats: true, .. }) => Some(" "),
            Self::Urls(_)
            | Self::OptionalUrls(_)
            | Self::Origins
            | Self::Networks
            | Self::Texts
            | Self::Paths => Some(","),
            _ => None,
        }
    }

    /// Puts the values of a repeated flag together: a list has the entries of all, and of any other flag the last counts.
    /// Returns `None` if there is no text.
    pub(super) fn joined(self, mut values: Vec<String>) -> Option<String> {
        let has_text = |value: &String| !value.trim().is_empty();
        let Some(separator) = self.separator() else {
            return values.pop().filter(has_text);
        };
        values.retain(has_text);
        (!values.is_empty()).then(|| values.join(separator))
    }

    /// Returns the placeholder of the value in `--help`.
    pub fn placeholder(self) -> String {
        match self {
            Self::Number { unit, .. } | Self::Decimal { unit, .. } => match unit {
                Unit::Count => "N".into(),
                Unit::Bytes => "BYTES".into(),
                Unit::Microseconds => "US".into(),
                Unit::Milliseconds => "MS".into(),
                Unit::Seconds => "S".into(),
                Unit::Minutes => "MIN".into(),
                Unit::Hertz => "HZ".into(),
            },
            Self::Port | Self::PortOrOff => "PORT".into(),
            Self::Urls(_) | Self::OptionalUrl(_) | Self::OptionalUrls(_) => "URL".into(),
            Self::Switch => "true|false".into(),
            Self::Choice(words) => words.join("|"),
            Self::Origins => "ORIGINS".into(),
            Self::Form(form) => form.placeholder.into(),
            Self::Networks => "NETWORKS".into(),
            Self::LogFilter => "FILTER".into(),
            Self::Text | Self::Texts | Self::Secret => "TEXT".into(),
            Self::Path | Self::Paths => "FILE".into(),
        }
    }

    /// Whether an error may show this path: it is no key or URL that was put where the path of its file belongs.
    pub(super) fn may_be_a_path(self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        path.is_absolute() && !is_content(&text) && !text.contains("://") && !text.contains('@')
    }

    /// Whether a value may be a secret, or a URL with one.
    pub(crate) fn may_be_secret(self) -> bool {
        matches!(
            self,
            Self::Secret | Self::Urls(_) | Self::OptionalUrl(_) | Self::OptionalUrls(_)
        )
    }

    /// Returns what an error shows of a refused value: of a URL, and of another text that may be one, what
    /// [`without_secrets`] leaves.
    pub fn shown_when_wrong(self, text: &str) -> String {
        let is_url = matches!(
            self,
            Self::Urls(_)
                | Self::OptionalUrl(_)
                | Self::OptionalUrls(_)
                | Self::Form(Form { is_url: true, .. })
        );
        let is_content = matches!(self, Self::Path | Self::Paths) && is_content(text);
        if matches!(self, Self::Secret) || is_content {
            return HIDDEN.into();
        }
        if matches!(self, Self::Origins) && !text.contains(['@', '?']) {
            return quoted(text);
        }
        if !is_url && !text.contains('@') && !text.contains("://") {
            return quoted(text);
        }
        match without_secrets(text) {
            hidden if hidden == HIDDEN => hidden,
            shown => quoted(&shown),
        }
    }
}

const HIDDEN: &str = "***";

/// Returns a URL for an error. What follows the scheme is shown only if it is hosts with ports; anything else may have
/// a secret, and is shown as `***`. An unknown scheme may be a part of a password, so such a text is hidden whole.
pub fn without_secrets(text: &str) -> String {
    let text = text.trim();
    let (scheme, place) = match text.split_once("://") {
        Some((scheme, place)) if SCHEMES.contains(&scheme) => (scheme, place),
        // `eyJ` begins a token (JWT).
        None if !text.starts_with("eyJ") => ("", text),
        _ => return HIDDEN.into(),
    };
    let shown = if has_only_ports(place) { place } else { HIDDEN };
    match scheme {
        "" => shown.to_owned(),
        scheme => format!("{scheme}://{shown}"),
    }
}

/// Whether the text is hosts with ports: without a port it may be a password in the wrong place.
fn has_only_ports(text: &str) -> bool {
    let mut parts = text.split(':');
    let has_host = parts.next().is_some_and(|host| !host.is_empty());
    let is_port = |part: &str| {
        let end = part.find(['/', ',']).unwrap_or(part.len());
        part[..end].bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/,".contains(&byte);
    has_host && text.contains(':') && text.bytes().all(is_of_host) && parts.all(is_port)
}

/// The schemes that an error shows of a refused URL. Any other text before `://` may be part of a password.
const SCHEMES: [&str; 11] = [
    "ftp", "http", "https", "nats", "redis", "rediss", "tcp", "tls", "unix", "ws", "wss",
];

/// The forms of URLs, for an error. `unix` has a path in place of `rest`.
fn url_forms(schemes: &[&str], rest: &str) -> String {
    let form = |scheme: &&str| match *scheme {
        "unix" => "unix:///PATH".to_owned(),
        scheme => format!("{scheme}://{rest}"),
    };
    schemes.iter().map(form).collect::<Vec<_>>().join(" or ")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.trim().escape_debug())
}

impl Value {
    /// The secret; `None` for a value that is none.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Secret(text) => Some(text.secret()),
            Self::Urls(urls) => Some(urls.secret()),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Milli(milli) => Milli(*milli).fmt(f),
            Self::Urls(urls) => urls.fmt(f),
            Self::Switch(on) => on.fmt(f),
            Self::Choice(word) => f.write_str(word),
            Self::Origins(origins) if origins.is_empty() => f.write_str("any"),
            Self::Origins(origins) => f.write_str(&origins.join(",")),
            Self::List(entries) if entries.is_empty() => f.write_str("none"),
            Self::Networks(TrustedProxies::None) => f.write_str("none"),
            Self::Networks(TrustedProxies::Any) => f.write_str("any"),
            Self::Networks(TrustedProxies::Networks(networks)) => {
                let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
                f.write_str(&shown.join(","))
            }
            Self::Text(text) | Self::List(text) => f.write_str(text),
            Self::Secret(text) => text.fmt(f),
        }
    }
}

/// As a number with the shortest fraction.
impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1000.0)
    }
}

/// Parses a decimal number as thousandths. Returns `None` for a text that is no finite number.
fn parse_milli(text: &str) -> Option<i64> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
    // Formatted, not multiplied: a product with 1,000 is rounded to a double, which can make or hide a tie. Formatting
    // is exact for every finite double, and rounds half to even, as Python's `round` does.
    let digits = format!("{value:.3}").replace('.', "");
    // Saturates; every range is smaller.
    let end = if value < 0.0 { i64::MIN } else { i64::MAX };
    let milli = digits.parse().unwrap_or(end);
    // A value above 0 must not become 0, which turns many settings off.
    Some(if milli == 0 && value > 0.0 { 1 } else { milli })
}

/// An IP address, in brackets or bare, or `localhost`.
pub(super) fn parse_addr(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    match inner {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None => text.parse().ok(),
    }
}

/// Parses a list of URLs with commas between them; one without a scheme has the first of `schemes`. The value is the
/// text as given. `None`: one of them is no URL of a server.
fn parse_urls(text: &str, schemes: &[&str]) -> Option<Value> {
    let default = schemes.first().copied().unwrap_or("");
    let good = |part: &str| match part.contains("://") {
        true => is_server(part.trim(), schemes),
        false => is_server(&format!("{default}://{}", part.trim()), schemes),
    };
    // A list that somebody's script has put together may end with a comma.
    let list = text.trim_end().trim_end_matches(',');
    let is_good = list.split(',').all(good);
    is_good.then(|| Value::Urls(SecretUrl::new(list)))
}

/// Whether a URL names a server with one of these schemes. A URL of Redis may also have a database and a query.
fn is_server(text: &str, schemes: &[&str]) -> bool {
    if unix_socket_url(text).is_some() {
        return schemes.contains(&"unix");
    }
    Url::parse(text).is_ok_and(|url| {
        // Characters beyond ASCII are encoded in the host of a URL.
        let decoded = |host| is_host(&percent_decode_str(host).decode_utf8_lossy());
        let host = url.host_str().is_some_and(decoded);
        let path = url.path().trim_matches('/');
        let rest = match url.scheme() {
            "redis" | "rediss" => path.is_empty() || path.parse::<u32>().is_ok(),
            _ => path.is_empty() && url.query().is_none(),
        };
        host && rest && schemes.contains(&url.scheme()) && url.port() != Some(0)
    })
}

/// Parses origins to the form that browsers send: lower case, without the default port of the scheme.
fn parse_origins(text: &str) -> Option<Value> {
    if text.is_empty() || text == "*" {
        return Some(Value::Origins(Vec::new()));
    }
    let origin = |part: &str| {
        let part = part.trim();
        if part == "null" {
            return Some("null".to_owned());
        }
        let url = Url::parse(part).ok()?;
        let host = url.host_str().filter(|h| !h.is_empty())?;
        // A `*` in a host looks like a pattern, but would match nothing.
        let bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && !host.contains('*');
        let origin = url.origin();
        match (bare, origin.is_tuple()) {
            (false, _) => None,
            (true, true) => Some(origin.ascii_serialization()),
            // Schemes of apps and browser extensions. The URL standard calls their origins opaque.
            (true, false) => Some(part.trim_end_matches('/').to_ascii_lowercase()),
        }
    };
    let origins: Option<Vec<_>> = text.split(',').map(origin).collect();
    origins.map(Value::Origins)
}

/// Parses networks with commas between them. No text trusts nobody, and `*` trusts everybody. `None`: one of them is no
/// network.
fn parse_networks(text: &str) -> Option<TrustedProxies> {
    match text {
        "" => Some(TrustedProxies::None),
        "*" => Some(TrustedProxies::Any),
        list => {
            let networks = list.split(',').map(|one| one.trim().parse().ok());
            let all: Option<_> = networks.collect();
            all.map(TrustedProxies::Networks)
        }
    }
}

#[cfg(test)]
mod tests;
