//! Command lines and environments: an accepted value is shown as a value that is accepted again with the same
//! meaning, and no password is shown. Numbers with a fraction are rounded as in Python.

use weirgate::gateways::WEIRGATE;
use weirgate_server::settings::{Checked, Env, Kind, Setting, Value};

use super::{choices, oracle, outcome};

/// Never in a displayed text.
const PASSWORD: &str = "s3cret";

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([gateway], rest) = choices(data);
    let text = String::from_utf8_lossy(rest);
    let gateway = WEIRGATE.gateways[usize::from(gateway) % WEIRGATE.gateways.len()];
    let rows = gateway.rows.settings();
    // `--flag=value` for the command line, `NAME=value` for the environment.
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let flag = |flag: &str| {
        let typed = lines
            .iter()
            .filter(|(name, _)| name.strip_prefix("--") == Some(flag));
        typed.map(|(_, value)| (*value).to_owned()).collect()
    };
    let env = Env::new(
        lines
            .iter()
            .filter(|(name, _)| !name.starts_with("--") && !name.is_empty())
            .copied(),
    );
    let warnings = env.unknown_names(&rows);
    for line in &lines {
        // Any value for any row, whatever the flag of the line.
        rows.iter().for_each(|row| check_value(row, line.1));
    }
    let unknown = warnings.len();
    match Checked::read(rows, flag, &env, warnings, gateway.check) {
        Ok(checked) => {
            let sources: Vec<String> = checked
                .values()
                .iter()
                .map(|value| value.source.to_string())
                .collect();
            for value in checked.values() {
                hides_password(&value.value.to_string(), &lines);
            }
            outcome((sources, unknown))
        }
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            for error in &errors {
                assert!(!error.is_empty());
                hides_password(error, &lines);
            }
            let kinds: Vec<&str> = errors
                .iter()
                .filter_map(|error| error.split(' ').next())
                .collect();
            outcome((kinds, unknown))
        }
    }
}

/// Checks that a value stays the same when read, shown and read again.
fn check_value(row: &Setting, text: &str) {
    let Some(value) = row.kind.parse(text) else {
        assert!(!row.kind.allowed().is_empty());
        let shown = row.kind.shown_when_wrong(text);
        assert!(
            !(shown.contains(PASSWORD) && text.contains('@')),
            "{}: {shown}",
            row.flag
        );
        return;
    };
    if let (Kind::Decimal { .. }, Value::Milli(milli)) = (row.kind, &value) {
        oracle::python_agrees(&[
            b"thousandths",
            text.trim().as_bytes(),
            milli.to_string().as_bytes(),
        ]);
    }
    // A value shown as words or without its secret cannot be read again.
    let reads_again = match &value {
        Value::Secret(_) | Value::Urls(_) => false,
        Value::Origins(origins) => !origins.is_empty(),
        Value::List(entries) => !entries.is_empty(),
        Value::Networks(_) => value.to_string().contains(['.', ':']),
        _ => true,
    };
    let shown = value.to_string();
    if reads_again {
        let again = row.kind.parse(&shown);
        let again = again.map(|value| value.to_string());
        assert_eq!(
            again.as_deref(),
            Some(shown.as_str()),
            "{} {text:?}",
            row.flag
        );
    }
}

/// Checks that a password in a URL is hidden; elsewhere the text is not a password.
fn hides_password(shown: &str, lines: &[(&str, &str)]) {
    let is_typed_plainly = lines.iter().any(|(name, value)| {
        let hidden = value.matches(&format!("://u:{PASSWORD}@")).count();
        name.contains(PASSWORD) || value.matches(PASSWORD).count() > hidden
    });
    assert!(is_typed_plainly || !shown.contains(PASSWORD), "{shown}");
}
