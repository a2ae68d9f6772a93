//! `--relay`: relays another subject, whose last message clients get under a key of the payload.

use std::fmt;

use crate::gateways::levels::feed::{KEYS, Relay, SEQ_KEY, SUBJECTS};
use crate::gateways::shared::feed::STAMP_KEY;
use weirgate_server::settings::{Form, RefusedValue};

/// The durable consumers of the two permanent subjects, in the order of [`SUBJECTS`].
pub(super) const DURABLES: [&str; SUBJECTS.len()] = ["gateway_levels", "gateway_flow"];

/// The syntax of one relay.
const ONE: &str = "SUBJECT=KEY[,stream=NAME][,durable=NAME]";

/// The form of `--relay`.
pub(super) static FORM: Form = Form::new(ONE, ONE, |text| {
    parse(text).map(|relays| joined_by_space(&relays))
})
.repeated();

/// The longest name of a stream or consumer that nats-server accepts.
const NAME_BYTES_MAX: usize = 255;

/// A further subject, relayed unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelaySettings {
    /// The whole NATS subject, without wildcards.
    pub(super) subject: String,
    /// The key in the payload, not escaped.
    pub(super) key: String,
    /// The stream of the subject; `None` asks the server.
    pub(super) stream: Option<String>,
    /// The durable consumer of the subject.
    pub(super) durable: String,
}

impl RelaySettings {
    /// The relay for the feed, which needs no stream and no consumer.
    pub(super) fn of_feed(&self) -> Relay {
        Relay {
            subject: self.subject.clone(),
            key: self.key.clone(),
        }
    }
}

/// Parses relays separated by spaces, and checks them against each other.
///
/// # Errors
/// The first relay that is not allowed.
#[cfg_attr(
    not(test),
    allow(
        clippy::disallowed_methods,
        reason = "the text of a setting, not of a message"
    )
)]
pub(super) fn parse(text: &str) -> Result<Vec<RelaySettings>, RefusedValue> {
    let mut relays = Vec::new();
    for item in text.split_whitespace() {
        let relay = parse_one(item).and_then(|relay| relay.checked_against(&relays));
        relays.push(relay.map_err(|allowed| RefusedValue::new(item, allowed))?);
    }
    Ok(relays)
}

/// Parses a relay. Without `durable=`, the consumer has a name that follows from the key. The error says what is
/// allowed.
fn parse_one(item: &str) -> Result<RelaySettings, String> {
    let mut fields = item.split(',');
    let target = fields.next().and_then(|first| first.split_once('='));
    let Some((subject, key)) = target else {
        return Err(format!("{ONE}, several with space between them"));
    };
    let (mut stream, mut durable) = (None, None);
    for field in fields {
        match field.split_once('=') {
            Some(("stream", name)) if stream.is_none() => stream = Some(checked_name(name)?),
            Some(("durable", name)) if durable.is_none() => durable = Some(checked_name(name)?),
            _ => return Err("stream=NAME and durable=NAME after the key, each once".into()),
        }
    }
    Ok(RelaySettings {
        subject: checked_subject(subject)?,
        key: checked_key(key)?,
        stream,
        durable: durable.unwrap_or_else(|| default_durable(key)),
    })
}

impl RelaySettings {
    /// Returns this relay. If its subject, key or consumer is in use, by one of `others` or by a permanent subject,
    /// returns what is allowed.
    fn checked_against(self, others: &[Self]) -> Result<Self, String> {
        let taken = |own: fn(&Self) -> &str, always: &[&str]| {
            let mine = own(&self);
            always.contains(&mine) || others.iter().any(|other| own(other) == mine)
        };
        if taken(|relay| &relay.subject, &SUBJECTS) {
            let always = SUBJECTS.join(" and ");
            return Err(format!(
                "each subject once, and {always} always are relayed"
            ));
        }
        let keys = [KEYS[0], KEYS[1], KEYS[2], SEQ_KEY, STAMP_KEY];
        if taken(|relay| &relay.key, &keys) {
            let always = keys.join(", ");
            return Err(format!("each key once, and {always} are taken"));
        }
        if taken(|relay| &relay.durable, &DURABLES) {
            let durable = &self.durable;
            return Err(format!(
                "each durable once, and {durable} is taken: name another with durable=NAME"
            ));
        }
        Ok(self)
    }
}

/// Returns the subject, or as the error what is allowed: a single subject, no pattern.
fn checked_subject(subject: &str) -> Result<String, String> {
    if subject.contains(['*', '>']) {
        return Err("a whole subject, without the wildcards * and >".into());
    }
    if subject.split('.').any(str::is_empty) || subject.contains(char::is_control) {
        return Err("a NATS subject: words with dots between them".into());
    }
    Ok(subject.to_owned())
}

fn checked_key(key: &str) -> Result<String, String> {
    match key.is_empty() || key.contains(char::is_control) {
        true => Err("a key of the payload after the =".into()),
        false => Ok(key.to_owned()),
    }
}

/// Checks the name of a stream or consumer by the rules of nats-server.
fn checked_name(name: &str) -> Result<String, String> {
    let bad = |c: char| c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    match name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(bad) {
        true => Err("names of streams and consumers without . * > / and \\".into()),
        false => Ok(name.to_owned()),
    }
}

/// The name of a key's consumer, unless the relay names one. `_` replaces each character that is not safe in a name.
fn default_durable(key: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let name: String = key.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    format!("gateway_{name}")
        .chars()
        .take(NAME_BYTES_MAX)
        .collect()
}

impl fmt::Display for RelaySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.subject, self.key)?;
        if let Some(stream) = &self.stream {
            write!(f, ",stream={stream}")?;
        }
        write!(f, ",durable={}", self.durable)
    }
}

/// Values with a space between them, in the form in which a setting is written.
pub(super) fn joined_by_space(values: &[impl ToString]) -> String {
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    values.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_shown(text: &str) -> Vec<String> {
        let relays = parse(text).unwrap_or_else(|refused| panic!("{refused:?}"));
        relays.iter().map(RelaySettings::to_string).collect()
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        assert_eq!(each_shown(" "), Vec::<String>::new());
        assert_eq!(
            each_shown("news.flash=news"),
            ["news.flash=news,durable=gateway_news"]
        );
        assert_eq!(
            each_shown("a=k,durable=d,stream=S\n\tb.c.$d=é\"=/x"),
            [
                "a=k,stream=S,durable=d",
                "b.c.$d=é\"=/x,durable=gateway_____x"
            ]
        );
        // The shown text reads back unchanged.
        let text = "a=k,stream=S,durable=d b=é,durable=gateway__";
        assert_eq!((FORM.read)(text).as_deref(), Ok(text));
    }

    #[test]
    fn names_that_fit_no_server_are_cut_or_refused() {
        let [relay] = &parse(&format!("a={}", "k".repeat(300))).expect("good")[..] else {
            panic!("one relay");
        };
        assert_eq!(relay.durable.len(), NAME_BYTES_MAX);
        assert!(parse(&format!("a=k,durable={}", "d".repeat(256))).is_err());
    }

    #[test]
    fn the_first_wrong_one_is_told_with_what_would_be_allowed() {
        for (text, item, allowed) in [
            ("a=k b", "b", "SUBJECT=KEY["),
            ("news.*=k", "news.*=k", "without the wildcards"),
            (">=k", ">=k", "without the wildcards"),
            ("a..b=k", "a..b=k", "words with dots"),
            (".a=k", ".a=k", "words with dots"),
            ("=k", "=k", "words with dots"),
            ("a=", "a=", "a key of the payload"),
            ("a=k,", "a=k,", "each once"),
            ("a=k,strm=S", "a=k,strm=S", "each once"),
            (
                "a=k,stream=S,stream=T",
                "a=k,stream=S,stream=T",
                "each once",
            ),
            ("a=k,durable=x.y", "a=k,durable=x.y", "without . *"),
            ("a=k,stream=", "a=k,stream=", "without . *"),
            (
                "market.flow=k",
                "market.flow=k",
                "market.flow always are relayed",
            ),
            ("a=k a=l", "a=l", "each subject once"),
            (
                "a=viewport",
                "a=viewport",
                "viewport, seq, recv_us are taken",
            ),
            ("a=seq", "a=seq", "viewport, seq, recv_us are taken"),
            ("a=k b=k", "b=k", "each key once"),
            ("a=k.l b=k_l", "b=k_l", "gateway_k_l is taken"),
            (
                "a=k,durable=gateway_flow",
                "a=k,durable=gateway_flow",
                "gateway_flow is taken",
            ),
        ] {
            let refused = parse(text).expect_err(text);
            assert_eq!(refused.item, item);
            assert!(refused.allowed.contains(allowed), "{text}: {refused:?}");
        }
    }
}
