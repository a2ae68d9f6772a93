//! `docs/reference/settings.schema.json`: a JSON schema of the environment of each gateway, made from the same rows.

use serde_json::{Map, Value, json};
use weirgate::gateways::GATEWAYS;
use weirgate_server::settings::{Given, Kind, Setting, Unit};

/// A pattern for a word in any case. An empty value is unset.
fn any_case(words: &[&str]) -> String {
    let letter = |c: char| match c.is_ascii_alphabetic() {
        true => format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase()),
        false => format!("\\{c}"),
    };
    let letter = |c: char| {
        if c.is_ascii_digit() {
            c.to_string()
        } else {
            letter(c)
        }
    };
    let words = words.iter().map(|word| word.chars().map(letter).collect());
    let words: Vec<String> = words.collect();
    format!("^\\s*({})?\\s*$", words.join("|"))
}

/// Numbers and switches may be typed without quotes in YAML.
fn of_kind(kind: Kind) -> Value {
    match kind {
        Kind::Number { min, max, .. } => json!({
            "type": ["integer", "string"], "minimum": min, "maximum": max, "pattern": "^\\s*[0-9]*\\s*$",
        }),
        Kind::Decimal {
            min_milli,
            max_milli,
            ..
        } => json!({
            "type": ["number", "string"],
            "minimum": min_milli as f64 / 1_000.0,
            "maximum": max_milli as f64 / 1_000.0,
        }),
        // Kubernetes sets the address of a service, which counts as unset.
        Kind::Port | Kind::PortOrOff => {
            let (least, off) = match kind {
                Kind::PortOrOff => (0, "|off"),
                _ => (1, ""),
            };
            let pattern = format!("^\\s*([0-9]{{1,5}}{off}|(tcp|udp|sctp)://.*)?\\s*$");
            json!({
                "type": ["integer", "string"], "minimum": least, "maximum": 65_535, "pattern": pattern,
            })
        }
        Kind::Switch => json!({
            "type": ["boolean", "integer", "string"], "minimum": 0, "maximum": 1,
            "pattern": any_case(&["true", "1", "yes", "on", "false", "0", "no", "off"]),
        }),
        Kind::Choice(words) => json!({"type": ["number", "string"], "pattern": any_case(words)}),
        Kind::Secret => json!({"type": "string", "writeOnly": true}),
        _ => json!({"type": "string"}),
    }
}

fn default_of(row: &Setting) -> Option<Value> {
    let text = row.default();
    Some(match row.kind {
        _ if text.is_empty() => return None,
        Kind::Number { .. } => json!(text.parse::<u64>().ok()?),
        Kind::Switch => json!(text == "true"),
        _ => json!(text),
    })
}

fn property(row: &Setting) -> Value {
    let mut property = of_kind(row.kind);
    let object = property.as_object_mut().expect("an object");
    let more = if row.more.is_empty() { "" } else { " " };
    let text = format!("{}.{more}{}", row.help, row.more);
    object.insert("description".to_owned(), text.into());
    if let Some(default) = default_of(row) {
        object.insert("default".to_owned(), default);
    }
    property
}

/// The schema: the properties of the gateway that `WEIRGATE_GATEWAY` names, or of one definition.
pub(crate) fn schema() -> String {
    let (mut definitions, mut cases) = (Map::new(), Vec::new());
    let mut known = vec!["WEIRGATE_GATEWAY".to_owned()];
    for gateway in GATEWAYS {
        let mut properties = Map::new();
        for row in gateway.rows.settings() {
            if row.given == Given::Nowhere {
                continue;
            }
            for name in row.env_names() {
                properties.insert(name.clone(), property(&row));
                known.push(name);
            }
        }
        let definition = json!({
            "description": gateway.about, "type": "object", "properties": properties,
        });
        definitions.insert(gateway.name.to_owned(), definition);
        cases.push(json!({
            "if": {"properties": {"WEIRGATE_GATEWAY": {"const": gateway.name}}, "required": ["WEIRGATE_GATEWAY"]},
            "then": {"$ref": format!("#/$defs/{}", gateway.name)},
        }));
    }
    known.retain(|name| name.starts_with("WEIRGATE_"));
    known.sort();
    known.dedup();
    let names: Vec<_> = GATEWAYS.iter().map(|gateway| gateway.name).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The environment of weirgate",
        "description": "Settings as environment names. $defs has the names of each gateway.",
        "type": "object",
        "properties": {"WEIRGATE_GATEWAY": {"enum": names}},
        "propertyNames": {"anyOf": [{"not": {"pattern": "^WEIRGATE_"}}, {"enum": known}]},
        "allOf": cases,
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&schema).expect("JSON") + "\n"
}

/// Whole numbers beyond 2^53 have no exact form in many readers of JSON.
#[test]
fn numbers_of_the_schema_are_exact() {
    for row in GATEWAYS.iter().flat_map(|gateway| gateway.rows.settings()) {
        if let Kind::Number { unit, max, .. } = row.kind {
            let is_seed = unit == Unit::Count && row.flag == "seed";
            assert!(max <= 1 << 53 || is_seed, "--{}", row.flag);
        }
    }
}
