//! JSON answers of several processes as one answer: numbers are sums or the largest, lists are joined, and rows about
//! connections say which process they are of.

use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait, Value, json};

use super::core::Number;

/// Members of which the largest counts: times, ages, peaks, and what each process gets whole.
const LARGEST: [&str; 19] = [
    "age_ms",
    "at_unix_ms",
    "away_ms",
    "bus_messages",
    "bus_queue_messages",
    "interval_ms",
    "last_message_ts",
    "last_turn_age_ms",
    "late_all_ms",
    "late_ms",
    "now_unix_ms",
    "revoked",
    "since",
    "slices",
    "tokens_end",
    "took_us",
    "until",
    "uptime_seconds",
    "waiting_bytes_peak",
];
/// The ends of the names of further such members. The last two are of quantiles, such as `p50_ms` and `p99_ms`.
const LARGEST_ENDS: [&str; 6] = [
    "_unix_ms",
    "_unix_s",
    "_peak_bytes",
    "_behind_ms",
    "0_ms",
    "9_ms",
];

/// Switches that are on if any process has them on; of all others all processes must.
const ANY: [&str; 4] = ["behind", "away", "stalled", "was_refused"];

/// What the rows of a list are ordered by, the largest first.
const ORDERS: [&str; 4] = ["at_unix_ms", "oldest_ms", "recent_messages", "count"];

/// Lists of which a process shows only the first.
const CUT_OFF: [&str; 6] = [
    "busiest",
    "busiest_topics",
    "ended",
    "ends",
    "refused_names",
    "slowest",
];

/// Between the number of a process and the id of a session there.
const BETWEEN: char = '/';

/// Joins the values of the processes. `name`: the member that has the values; `None`: they are whole answers, or rows of a
/// list.
pub(super) fn merged(name: Option<&str>, values: Vec<(Number, Value)>) -> Value {
    let mut values = values;
    values.retain(|(_, value)| !value.is_null());
    let Some((_, first)) = values.first() else {
        return Value::new_null();
    };
    if first.is_object() {
        objects(values)
    } else if first.is_array() {
        lists(name.unwrap_or_default(), values)
    } else if first.is_boolean() {
        let mut all = values
            .iter()
            .map(|(_, value)| value.as_bool() == Some(true));
        let is_on = match name.is_some_and(|name| ANY.contains(&name)) {
            true => all.any(|one| one),
            false => all.all(|one| one),
        };
        Value::from(is_on)
    } else if first.is_number() {
        numbers(name.unwrap_or_default(), &values)
    } else {
        // Of several states, the one that is not as it should be.
        let bad = values.iter().find(|(_, value)| {
            name == Some("status") && value.as_str().is_some_and(|text| text != "Ready")
        });
        bad.map_or_else(|| first.clone(), |(_, value)| value.clone())
    }
}

fn is_largest(name: &str) -> bool {
    LARGEST.contains(&name) || LARGEST_ENDS.iter().any(|end| name.ends_with(end))
}

fn numbers(name: &str, values: &[(Number, Value)]) -> Value {
    let is_largest = is_largest(name);
    let whole: Option<Vec<i64>> = values.iter().map(|(_, value)| value.as_i64()).collect();
    if let Some(whole) = whole {
        let all = whole.into_iter();
        let number = match is_largest {
            true => all.max().unwrap_or_default(),
            false => all.fold(0_i64, i64::saturating_add),
        };
        return Value::from(number);
    }
    let all = values.iter().filter_map(|(_, value)| value.as_f64());
    let number = match is_largest {
        true => all.fold(f64::MIN, f64::max),
        false => all.sum(),
    };
    Value::new_f64(number).unwrap_or_default()
}

fn objects(values: Vec<(Number, Value)>) -> Value {
    let mut names: Vec<String> = Vec::new();
    for (_, value) in &values {
        let members = value
            .as_object()
            .into_iter()
            .flat_map(|object| object.iter());
        for (name, _) in members {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    let mut object = json!({});
    for name in names {
        let of_name = values
            .iter()
            .filter_map(|(number, value)| Some((*number, value.get(&name)?.clone())));
        let value = merged(Some(&name), of_name.collect());
        if let Some(object) = object.as_object_mut() {
            object.insert(&name, value);
        }
    }
    object
}

/// Rows of one name are one row, and all other rows are kept. Of the lists that a process cuts off, there are as many as
/// in the longest.
fn lists(name: &str, values: Vec<(Number, Value)>) -> Value {
    let mut longest = 0;
    let mut rows: Vec<Vec<(Number, Value)>> = Vec::new();
    for (number, value) in values {
        let items = value.as_array().map_or(0, |items| items.len());
        longest = longest.max(items);
        for item in value.as_array().into_iter().flat_map(|items| items.iter()) {
            let item = mark_process(number, item.clone());
            let name = row_name(&item).map(str::to_owned);
            let same = rows.iter_mut().find(|row| {
                row.first().is_some_and(|(_, first)| match &name {
                    Some(name) => row_name(first) == Some(name),
                    None => *first == item,
                })
            });
            match same {
                Some(row) if name.is_some() => row.push((number, item)),
                Some(_) => {}
                None => rows.push(vec![(number, item)]),
            }
        }
    }
    let mut rows: Vec<Value> = rows.into_iter().map(|row| merged(None, row)).collect();
    let order = |row: &Value| {
        let ordered_by = ORDERS.iter().find(|name| row.get(name).is_some());
        ordered_by
            .and_then(|name| row.get(name)?.as_f64())
            .unwrap_or(f64::MIN)
    };
    rows.sort_by(|one, other| order(other).total_cmp(&order(one)));
    if CUT_OFF.contains(&name) {
        rows.truncate(longest);
    }
    Value::from(&rows[..])
}

/// The name of a row that several processes have: a topic, a limit, a service.
fn row_name(row: &Value) -> Option<&str> {
    let is_of_connection = row.get("client").is_some();
    row.get("name")
        .filter(|_| !is_of_connection)
        .and_then(|name| name.as_str())
}

/// Marks a row about a connection with its process: sessions of several processes may have the same id.
fn mark_process(number: Number, mut row: Value) -> Value {
    let is_of_connection = row.get("client").is_some();
    if let Some(row) = row.as_object_mut().filter(|_| is_of_connection) {
        let session = row.get(&"session").and_then(|id| id.as_str());
        let session = session.map(|id| format!("{number}{BETWEEN}{id}"));
        if let Some(session) = session {
            row.insert("session", Value::from(session.as_str()));
        }
        row.insert("process", Value::from(number));
    }
    row
}

/// The process of a session as [`merged`] shows it, and the id of the session there.
pub(super) fn session_of(text: &str) -> Option<(Number, &str)> {
    let (number, session) = text.split_once(BETWEEN)?;
    Some((number.parse().ok()?, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sums_and_times_the_largest() {
        let one = json!({"clients": 3, "uptime_seconds": 9, "ready": true, "behind": false, "bus": null, "p99_ms": 1.5});
        let two = json!({"clients": 4, "uptime_seconds": 2, "ready": false, "behind": true, "bus": {"away_ms": 7}, "p99_ms": 2.5});
        let all = merged(None, vec![(1, one), (2, two)]);
        let want = json!({"clients": 7, "uptime_seconds": 9, "ready": false, "behind": true, "bus": {"away_ms": 7}, "p99_ms": 2.5});
        assert_eq!(all, want);
    }

    #[test]
    fn rows_of_connections_say_their_process_and_others_are_joined_by_name() {
        let row = |session: &str, at: u64| json!({"client": "10.0.0.1", "session": session, "at_unix_ms": at});
        let topic = |members: u64| json!({"name": "a", "members": members, "recent_messages": 5});
        let list = |rows: [Value; 1]| Value::from(&rows[..]);
        let ends = merged(
            Some("ends"),
            vec![(1, list([row("7-1", 5)])), (3, list([row("7-1", 6)]))],
        );
        let newest =
            json!([{"client": "10.0.0.1", "session": "3/7-1", "at_unix_ms": 6, "process": 3}]);
        assert_eq!(ends, newest, "no more than one process lists");
        let topics = merged(None, vec![(1, list([topic(2)])), (2, list([topic(3)]))]);
        let want = json!([{"name": "a", "members": 5, "recent_messages": 10}]);
        assert_eq!(topics, want);
        assert_eq!(session_of("3/7-1"), Some((3, "7-1")));
        assert_eq!(session_of("7-1"), None);
    }

    #[test]
    fn words_are_there_once() {
        let words = |words: &[&str]| Value::from(words);
        let all = merged(
            Some("reasons"),
            vec![
                (1, words(&["bus_away"])),
                (2, words(&["bus_away", "draining"])),
            ],
        );
        assert_eq!(all, json!(["bus_away", "draining"]));
    }
}
