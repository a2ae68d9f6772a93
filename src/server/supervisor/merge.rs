//! JSON answers of several processes as one answer: numbers are sums or the largest, lists are joined, and rows about
//! connections say which process they are of.

use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait, Value, json};

use super::core::Number;

/// The ends of the names of times, ages and spans: of these the largest counts, never a sum.
const TIME_ENDS: [&str; 4] = ["_ms", "_us", "_s", "_seconds"];

/// Times that each process spends for itself, so that the sum is what all of them spent.
const SPENT: [&str; 2] = ["cpu_seconds", "loop_busy_seconds"];

/// Spans of which the least counts: a message has come as lately as in the process that got it last, and a client that
/// comes again gets what the process has that it meets.
const LEAST: [&str; 3] = ["last_ms", "newest_age_ms", "reach_ms"];

/// Further members of which the largest counts: peaks, and what each process gets or is told whole. `messages` are those
/// of a name, a subject or the history.
const LARGEST: [&str; 12] = [
    "bad",
    "instances",
    "lag",
    "last_message_ts",
    "messages",
    "recent_messages",
    "revoked",
    "since",
    "slices",
    "tokens_end",
    "until",
    "waiting_bytes_peak",
];

/// Objects whose members are times, by names that say nothing of it.
const OBJECTS_OF_TIMES: [&str; 1] = ["services_away"];

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

/// Joins whole answers of the processes, or rows of a list.
pub(super) fn merged(values: Vec<(Number, Value)>) -> Value {
    member("", "", values)
}

/// Joins the values of the member `name` of the object `within`.
fn member(within: &str, name: &str, mut values: Vec<(Number, Value)>) -> Value {
    values.retain(|(_, value)| !value.is_null());
    let Some((_, first)) = values.first() else {
        return Value::new_null();
    };
    if first.is_object() {
        objects(name, values)
    } else if first.is_array() {
        lists(name, values)
    } else if first.is_boolean() {
        let mut all = values
            .iter()
            .map(|(_, value)| value.as_bool() == Some(true));
        let is_on = match ANY.contains(&name) {
            true => all.any(|one| one),
            false => all.all(|one| one),
        };
        Value::from(is_on)
    } else if first.is_number() {
        numbers(Joined::of(within, name), &values)
    } else {
        // Of several states, the one that is not as it should be.
        let bad = values.iter().find(|(_, value)| {
            name == "status" && value.as_str().is_some_and(|text| text != "Ready")
        });
        bad.map_or_else(|| first.clone(), |(_, value)| value.clone())
    }
}

/// How the numbers of the processes become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joined {
    Sum,
    Largest,
    Least,
}

impl Joined {
    /// The way for a member: `within` is the object that has it.
    fn of(within: &str, name: &str) -> Self {
        let is_time = || TIME_ENDS.iter().any(|end| name.ends_with(end));
        let is_peak = || name.ends_with("_peak_bytes");
        // Every process gets every message of the bus, and holds those that wait for it itself.
        let is_of_bus = || name.starts_with("bus_") && !name.ends_with("_bytes");
        if LEAST.contains(&name) {
            Self::Least
        } else if SPENT.contains(&name) {
            Self::Sum
        } else if LARGEST.contains(&name)
            || OBJECTS_OF_TIMES.contains(&within)
            || is_time()
            || is_peak()
            || is_of_bus()
        {
            Self::Largest
        } else {
            Self::Sum
        }
    }
}

fn numbers(joined: Joined, values: &[(Number, Value)]) -> Value {
    let whole: Option<Vec<i64>> = values.iter().map(|(_, value)| value.as_i64()).collect();
    if let Some(whole) = whole {
        let all = whole.into_iter();
        let number = match joined {
            Joined::Sum => all.fold(0_i64, i64::saturating_add),
            Joined::Largest => all.max().unwrap_or_default(),
            Joined::Least => all.min().unwrap_or_default(),
        };
        return Value::from(number);
    }
    let all = values.iter().filter_map(|(_, value)| value.as_f64());
    let number = match joined {
        Joined::Sum => all.sum(),
        Joined::Largest => all.fold(f64::MIN, f64::max),
        Joined::Least => all.fold(f64::MAX, f64::min),
    };
    Value::new_f64(number).unwrap_or_default()
}

fn objects(within: &str, values: Vec<(Number, Value)>) -> Value {
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
        let value = member(within, &name, of_name.collect());
        if let Some(object) = object.as_object_mut() {
            object.insert(&name, value);
        }
    }
    count_joined_names(&mut object, &values);
    object
}

/// An answer to a search for names counts a name once, whichever processes have it: as many as there are rows, or, if
/// rows are left out, as the process with the most has.
fn count_joined_names(answer: &mut Value, values: &[(Number, Value)]) {
    let rows = answer.get("names").and_then(|names| names.as_array());
    let Some(rows) = rows.map(|rows| rows.len() as u64).filter(|rows| *rows > 0) else {
        return;
    };
    let counts = values
        .iter()
        .filter_map(|(_, value)| value.get("count")?.as_u64());
    let largest = counts.max().unwrap_or_default();
    if let Some(answer) = answer
        .as_object_mut()
        .filter(|answer| answer.contains_key(&"count"))
    {
        answer.insert("count", Value::from(rows.max(largest)));
    }
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
    let mut rows: Vec<Value> = rows.into_iter().map(merged).collect();
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
        let all = merged(vec![(1, one), (2, two)]);
        let want = json!({"clients": 7, "uptime_seconds": 9, "ready": false, "behind": true, "bus": {"away_ms": 7}, "p99_ms": 2.5});
        assert_eq!(all, want);
    }

    #[test]
    fn rows_of_connections_say_their_process_and_others_are_joined_by_name() {
        let row = |session: &str, at: u64| json!({"client": "10.0.0.1", "session": session, "at_unix_ms": at});
        let topic = |members: u64| json!({"name": "a", "members": members, "recent_messages": 5});
        let list = |rows: [Value; 1]| Value::from(&rows[..]);
        let ends = member(
            "",
            "ends",
            vec![(1, list([row("7-1", 5)])), (3, list([row("7-1", 6)]))],
        );
        let newest =
            json!([{"client": "10.0.0.1", "session": "3/7-1", "at_unix_ms": 6, "process": 3}]);
        assert_eq!(ends, newest, "no more than one process lists");
        let topics = merged(vec![(1, list([topic(2)])), (2, list([topic(3)]))]);
        let want = json!([{"name": "a", "members": 5, "recent_messages": 5}]);
        assert_eq!(topics, want);
        assert_eq!(session_of("3/7-1"), Some((3, "7-1")));
        assert_eq!(session_of("7-1"), None);
    }

    /// What each process is told whole is no sum, and an operator who asks since when a service is away gets no multiple.
    #[test]
    fn ages_and_what_every_process_gets_are_not_added() {
        let page = |ms: u64, sent: u64| {
            json!({
                "services_away": {"lobby": ms}, "events_bus": {"instances": 3},
                "bus": {"subjects": {"channels": {"messages": 50, "bad": 2}}},
                "numbers": {"bus_messages_bad": 2, "bus_queue_bytes": 7, "messages_sent": sent, "cpu_seconds": 0.5},
                "history": {"messages": 50, "wanted_ms": 60_000, "reach_ms": ms},
            })
        };
        let all = merged(vec![(1, page(900, 10)), (2, page(700, 20))]);
        let mut want = page(900, 30);
        want["history"]["reach_ms"] = json!(700);
        want["numbers"]["cpu_seconds"] = json!(1.0);
        want["numbers"]["bus_queue_bytes"] = json!(14);
        assert_eq!(all, want);
    }

    #[test]
    fn a_name_of_several_processes_is_found_once() {
        let found = |name: &str, count: u64, last_ms: u64| json!({"count": count, "clients": [], "names": [{"name": name, "members": 4, "last_ms": last_ms}]});
        let same = merged(vec![(1, found("a", 1, 30)), (2, found("a", 1, 20))]);
        let want = json!({"count": 1, "clients": [], "names": [{"name": "a", "members": 8, "last_ms": 20}]});
        assert_eq!(same, want);
        let others = merged(vec![(1, found("a", 1, 30)), (2, found("b", 1, 20))]);
        assert_eq!(others["count"], json!(2));
        let cut_off = merged(vec![(1, found("a", 700, 30)), (2, found("a", 700, 30))]);
        assert_eq!(cut_off["count"], json!(700));
    }

    #[test]
    fn words_are_there_once() {
        let words = |words: &[&str]| Value::from(words);
        let all = member(
            "",
            "reasons",
            vec![
                (1, words(&["bus_away"])),
                (2, words(&["bus_away", "draining"])),
            ],
        );
        assert_eq!(all, json!(["bus_away", "draining"]));
    }
}
