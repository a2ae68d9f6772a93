//! What a value may be: reading it, saying what is allowed, showing it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use url::Url;

use super::secret::{SecretText, SecretUrl};
use crate::admission::TrustedProxies;
use crate::telemetry::logging;

/// The unit of a number. It ends the flag's name, so it is not repeated where values are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bare number of something.
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
    /// Times a second.
    Hertz,
}

/// Text in a form that only the gateway knows which has such a row.
#[derive(Debug)]
pub struct Form {
    /// What stands for the value in `--help`.
    pub placeholder: &'static str,
    /// What is allowed, for an error about the whole value.
    pub allowed: &'static str,
    /// Several values with space between them, so that the flag may be repeated.
    pub repeats: bool,
    /// It is a URL, whose query may hold a secret.
    pub is_url: bool,
    /// Reads the text, and returns it as it is shown, which has to mean the same again.
    pub read: fn(&str) -> Result<String, Refused>,
}

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number, both ends of the range included.
    Number {
        /// Its unit.
        unit: Unit,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A number with a fraction, both ends of the range included.
    Decimal {
        /// Its unit.
        unit: Unit,
        /// The smallest value, in thousandths.
        min_milli: i64,
        /// The largest value, in thousandths.
        max_milli: i64,
    },
    /// A TCP port; 0 takes a free one. In env, `tcp://HOST:PORT` counts as unset.
    Port,
    /// URLs with commas between them. The first scheme is meant where none is typed.
    Urls(&'static [&'static str]),
    /// One URL of these schemes, which may name a database behind its slash; or nothing.
    OptionalUrl(&'static [&'static str]),
    /// As [`Kind::Urls`], or nothing.
    OptionalUrls(&'static [&'static str]),
    /// On or off.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Web origins with commas between them; empty or `*` for any.
    Origins,
    /// Text in the form of one gateway.
    Form(&'static Form),
    /// IP addresses, networks and `unix` with commas between them; empty for none, `*` for any.
    Networks,
    /// Which log lines, in the language of `RUST_LOG`.
    LogFilter,
    /// Any text.
    Text,
    /// A file's path; read when it is used, not here.
    Path,
    /// Any text, never shown.
    Secret,
}

/// A value that was read and is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Number`] and [`Kind::Port`].
    Number(u64),
    /// Of [`Kind::Decimal`]: thousandths, rounded, but never from something to nothing.
    Milli(i64),
    /// Of [`Kind::Urls`], [`Kind::OptionalUrl`] and [`Kind::OptionalUrls`].
    Urls(SecretUrl),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Choice`]: the word as the table spells it.
    Choice(&'static str),
    /// Of [`Kind::Origins`], as browsers write them; empty for any.
    Origins(Vec<String>),
    /// Of a [`Kind::Form`] that repeats; with space between its entries.
    List(String),
    /// Of [`Kind::Networks`].
    Networks(TrustedProxies),
    /// Of [`Kind::Text`], [`Kind::Path`], [`Kind::LogFilter`] and a [`Kind::Form`].
    Text(String),
    /// Of [`Kind::Secret`].
    Secret(SecretText),
}

/// A value that is not allowed, or the one of several that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The value, as it was typed: it may hold a secret.
    pub item: String,
    /// What would be allowed in its place.
    pub allowed: String,
}

impl Refused {
    /// This value, and what would be allowed.
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

    /// A number with a fraction, of `unit`, in a range that is given in thousandths.
    pub const fn decimal(unit: Unit, range_milli: (i64, i64)) -> Self {
        Self::Decimal {
            unit,
            min_milli: range_milli.0,
            max_milli: range_milli.1,
        }
    }

    /// Reads a value; `None` when it is not allowed. Space around it does not count.
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
            Self::Port => Some(Value::Number(text.parse::<u16>().ok()?.into())),
            Self::Urls(schemes) => parse_urls(text, schemes),
            Self::OptionalUrl(schemes) => parse_url(text, schemes),
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
                Some(match form.repeats {
                    true => Value::List(shown),
                    false => Value::Text(shown),
                })
            }
            Self::Networks => parse_networks(text).map(Value::Networks),
            Self::LogFilter => logging::is_filter(text).then(|| Value::Text(text.to_owned())),
            Self::Text | Self::Path => Some(Value::Text(text.to_owned())),
            Self::Secret => Some(Value::Secret(SecretText::new(text))),
        }
    }

    /// What is allowed, for an error: "a whole number from 0 to 9".
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
            Self::Port => "a port from 1 to 65535, or 0 for a free one".into(),
            Self::Urls(schemes) | Self::OptionalUrls(schemes) => {
                let forms: Vec<_> = schemes.iter().map(|s| format!("{s}://HOST:PORT")).collect();
                format!("{}, several with commas between them", forms.join(" or "))
            }
            Self::OptionalUrl(schemes) => {
                let forms = schemes.iter().map(|s| format!("{s}://HOST:PORT/DATABASE"));
                forms.collect::<Vec<_>>().join(" or ")
            }
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
                 info,weirgate::http=debug"
                .into(),
            Self::Text | Self::Secret => "text".into(),
            Self::Path => "the path of a file".into(),
        }
    }

    /// What is wrong with a value that was not allowed: of several the one, and what it breaks.
    pub(super) fn refused(self, text: &str) -> Refused {
        let of_form = match self {
            Self::Form(form) => (form.read)(text).err(),
            _ => None,
        };
        of_form.unwrap_or_else(|| Refused::new(text, self.allowed()))
    }

    /// Whether its flag may be repeated. Other flags replace each other: the last counts.
    pub const fn repeats(self) -> bool {
        matches!(self, Self::Form(Form { repeats: true, .. }))
    }

    /// What stands for the value in `--help`.
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
            Self::Port => "PORT".into(),
            Self::Urls(_) | Self::OptionalUrl(_) | Self::OptionalUrls(_) => "URL".into(),
            Self::Switch => "true|false".into(),
            Self::Choice(words) => words.join("|"),
            Self::Origins => "ORIGINS".into(),
            Self::Form(form) => form.placeholder.into(),
            Self::Networks => "NETWORKS".into(),
            Self::LogFilter => "FILTER".into(),
            Self::Text | Self::Secret => "TEXT".into(),
            Self::Path => "PATH".into(),
        }
    }

    /// What an error may show of a value that was not allowed. One with an `@` may hold a password,
    /// also where somebody put a URL into the wrong setting, so nothing of it is shown.
    pub fn shown_when_wrong(self, text: &str) -> String {
        match self {
            Self::Urls(_)
            | Self::OptionalUrl(_)
            | Self::OptionalUrls(_)
            | Self::Form(Form { is_url: true, .. })
                if text.contains('?') =>
            {
                "***".into()
            }
            Self::Secret => "***".into(),
            _ if text.contains('@') => "***".into(),
            _ => format!("\"{}\"", text.trim().escape_debug()),
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

/// Thousandths, as a number with as much of a fraction as it has.
struct Milli(i64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1000.0)
    }
}

fn parse_milli(text: &str) -> Option<i64> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
    // In decimal: a product with 1,000 is rounded to a double, and a tie may come or go by that. Exact
    // for every finite double, half to even, as Python's `round`.
    let digits = format!("{value:.3}").replace('.', "");
    // Saturates; no range is that wide.
    let end = if value < 0.0 { i64::MIN } else { i64::MAX };
    let milli = digits.parse().unwrap_or(end);
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

fn parse_urls(text: &str, schemes: &[&str]) -> Option<Value> {
    let good = |part: &str| {
        let part = part.trim();
        let scheme = schemes.first().copied().unwrap_or("");
        let url = match part.contains("://") {
            true => Url::parse(part),
            false => Url::parse(&format!("{scheme}://{part}")),
        };
        url.is_ok_and(|url| {
            let host = url.host_str().is_some_and(|host| !host.is_empty());
            let bare = matches!(url.path(), "" | "/") && url.query().is_none();
            host && bare && schemes.contains(&url.scheme()) && url.port() != Some(0)
        })
    };
    text.split(',')
        .all(good)
        .then(|| Value::Urls(SecretUrl::new(text)))
}

fn parse_url(text: &str, schemes: &[&str]) -> Option<Value> {
    let is_good = |url: Url| {
        let host = url.host_str().is_some_and(|host| !host.is_empty());
        let database = url.path().trim_matches('/');
        let database = database.is_empty() || database.parse::<u32>().is_ok();
        host && database && schemes.contains(&url.scheme()) && url.port() != Some(0)
    };
    let good = text.is_empty() || Url::parse(text).is_ok_and(is_good);
    good.then(|| Value::Urls(SecretUrl::new(text)))
}

/// Origins as a browser writes them: lower case, without the scheme's own port.
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
        // A `*` inside would look like a pattern and match nothing.
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
            // Schemes of apps and extensions, which the URL standard calls opaque.
            (true, false) => Some(part.trim_end_matches('/').to_ascii_lowercase()),
        }
    };
    let origins: Option<Vec<_>> = text.split(',').map(origin).collect();
    origins.map(Value::Origins)
}

fn parse_networks(text: &str) -> Option<TrustedProxies> {
    match text {
        "" => Some(TrustedProxies::None),
        "*" => Some(TrustedProxies::Any),
        list => {
            let networks = list.split(',').map(|one| one.trim().parse().ok());
            networks
                .collect::<Option<_>>()
                .map(TrustedProxies::Networks)
        }
    }
}

#[cfg(test)]
mod tests;
