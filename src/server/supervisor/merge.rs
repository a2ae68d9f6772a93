//! JSON answers of several processes as one answer: numbers are sums or the largest, lists are joined, and rows about
//! connections say which process they are of.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};

use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait, Value};

use super::core::Number;
use crate::http::operator::OF_THIS_INSTANCE;
use weirgate_core::Search;

/// The ends of the names of times, ages and spans, also in the contract of trades: of these the largest counts, never a sum.
const TIME_ENDS: [&str; 6] = ["_ms", "_us", "_s", "_seconds", "Seconds", "Ms"];

/// Times that each process spends for itself, so that the sum is what all of them spent.
const SPENT: [&str; 2] = ["cpu_seconds", "loop_busy_seconds"];

/// Spans of which the least counts. The newest message of a name is the newest in any process; and a client that
/// reconnects may meet the process whose history reaches back least.
const LEAST: [&str; 3] = ["last_ms", "newest_age_ms", "reach_ms"];

/// Further members of which the largest counts: peaks, and what each process gets or is told whole. `messages` are those
/// of a name, a subject or the history.
const LARGEST: [&str; 15] = [
    "bad",
    "instances",
    "lag",
    "last_message_ts",
    "messages",
    "old",
    "recent_messages",
    "revoked",
    "seconds",
    "since",
    "slices",
    "stream_behind",
    "tokens_end",
    "until",
    "waiting_bytes_peak",
];

/// Objects whose members are times, though the members' names have no such end.
const OBJECTS_OF_TIMES: [&str; 1] = ["services_away"];

/// The switch of the row of a limit for a client, an address or a service. Its numbers are the largest: those of whoever is
/// nearest to the limit.
const IS_OF_ONE: &str = "is_of_one";

/// Switches that are on if any process has them on; of all others all processes must.
const ANY: [&str; 5] = ["behind", "away", "stalled", "stopped", "was_refused"];

/// By what the rows of a list are ordered, as each process orders them, the largest first.
const ORDERS: [(&str, &[&str]); 5] = [
    ("busiest", &["recent_messages"]),
    ("busiest_topics", &["recent_messages", "members"]),
    ("clients", &["oldest_ms"]),
    ("quiet_topics", &["members"]),
    ("slowest", &["slow_ms", "queue_bytes", "oldest_ms"]),
];

/// By what the rows of all other lists are ordered.
const OTHER_ORDER: &[&str] = &["at_unix_ms", "count"];

/// Of a member by which rows are ordered, only whether it is more than 0 counts: slow clients come first.
const SWITCH: &str = "slow_ms";

/// The list of names that a search has found, in the order of their bytes.
const NAMES: &str = "names";

/// The list of processes without an answer.
pub(super) const MISSING: &str = "processes_missing";

/// The list of clients that a search has found.
const CLIENTS: &str = "clients";

/// Further lists of which a process shows only the first.
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
    // They are a member of no object.
    member("", "", values)
}

/// Joins the values of the member `name` of the object `within`.
fn member(within: &str, name: &str, mut values: Vec<(Number, Value)>) -> Value {
    values.retain(|(_, value)| !value.is_null());
    let Some((_, first)) = values.first() else {
        return Value::new_null();
    };
    if first.is_object() {
        objects(name, &values)
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
            || within == IS_OF_ONE
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

/// Joins a number of several processes. If all of them are whole, so is the result, which saturates.
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

/// Joins objects member by member.
fn objects(within: &str, values: &[(Number, Value)]) -> Value {
    let mut members: Vec<(&str, Vec<(Number, Value)>)> = Vec::new();
    let mut known = HashMap::new();
    for (number, value) in values {
        for (name, value) in value.as_object().into_iter().flatten() {
            let at = *known.entry(name).or_insert_with(|| {
                members.push((name, Vec::new()));
                members.len() - 1
            });
            members[at].1.push((*number, value.clone()));
        }
    }
    let mut object = Value::new_object_with(members.len());
    let speaker = speaker(values);
    let is_of_one = values
        .iter()
        .any(|(_, value)| value.get(IS_OF_ONE).is_true());
    // In place of the object's name, for [`Joined::of`].
    let within = if is_of_one { IS_OF_ONE } else { within };
    for (name, values) in members {
        let said = speaker.and_then(|speaker| speaker.get(name));
        let is_text = values.iter().any(|(_, value)| value.is_str());
        let value = match said.filter(|_| is_text) {
            Some(said) => said.clone(),
            None => member(within, name, values),
        };
        set(&mut object, name, value);
    }
    count_joined_names(&mut object, values);
    object
}

/// The object whose texts are about the joined numbers: of a reach the one that reaches least far, of ended connections the one
/// with the newest, of streams one that is stopped. `None`: the texts are the same in all.
fn speaker(values: &[(Number, Value)]) -> Option<&Value> {
    let all = || values.iter().map(|(_, value)| value);
    let reach_ms = |value: &&Value| value.get("reach_ms").as_u64();
    let newest_ms = |value: &&Value| value.get("ended")?.get(0)?.get("at_unix_ms")?.as_u64();
    let least = all().filter(|value| reach_ms(value).is_some());
    let newest = all().filter(|value| newest_ms(value).is_some());
    least
        .min_by_key(reach_ms)
        .or_else(|| newest.max_by_key(newest_ms))
        .or_else(|| all().find(|value| value.get("stopped").is_true()))
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name, value);
    }
}

/// In an answer to a search for names, counts a name once, whichever processes have it. The count is that of the
/// different names in the rows, or, if it is larger, the largest count of a process, which may leave rows out. If one
/// does and several have names, the count is only the least possible, and `count_is_exact` is false.
fn count_joined_names(answer: &mut Value, values: &[(Number, Value)]) {
    if answer.get("count").is_none() {
        return;
    }
    let rows = values
        .iter()
        .filter_map(|(_, value)| value.get("names")?.as_array());
    let names: HashSet<&str> = rows.flatten().filter_map(row_name).collect();
    if names.is_empty() {
        return;
    }
    let counts = values
        .iter()
        .filter_map(|(_, value)| value.get("count")?.as_u64());
    let counts: Vec<u64> = counts.filter(|count| *count > 0).collect();
    let largest = counts.iter().copied().max().unwrap_or_default();
    set(
        answer,
        "count",
        Value::from(largest.max(names.len() as u64)),
    );
    let leaves_out = counts.iter().any(|count| *count > Search::FOUND_MAX as u64);
    if leaves_out && counts.len() > 1 {
        set(answer, "count_is_exact", Value::from(false));
    }
}

/// A row of the joined list.
enum Row<'v> {
    /// Of one process alone: about a connection.
    Own(Number, &'v Value),
    /// The rows of one name.
    Named(Vec<(Number, &'v Value)>),
    /// The same in each process that has it.
    Same(&'v Value),
}

impl Row<'_> {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Named(rows) => rows.first().and_then(|(_, row)| row_name(row)),
            Self::Own(..) | Self::Same(_) => None,
        }
    }

    /// Returns the row of the joined list. A row of one process gets its number; rows of one name are merged.
    fn joined(self) -> Value {
        match self {
            Self::Own(number, row) => mark_process(number, row.clone()),
            Self::Named(rows) => {
                let rows = rows.into_iter().map(|(number, row)| (number, row.clone()));
                merged(rows.collect())
            }
            Self::Same(row) => row.clone(),
        }
    }
}

/// Rows of one name are one row, and all other rows are kept, up to [`rows_max`].
fn lists(name: &str, values: Vec<(Number, Value)>) -> Value {
    let most = rows_max(name, &values);
    let mut rows = rows_of(&values);
    if name == NAMES {
        cut_names(&mut rows, &values);
    }
    cut_own(name, &mut rows, most);
    let mut rows: Vec<Value> = rows.into_iter().map(Row::joined).collect();
    sort_by_order(&mut rows, |row| order(name, row));
    rows.truncate(most);
    Value::from(rows)
}

/// The most rows of a joined list. Of the lists that a process cuts off, there are as many as in the longest.
fn rows_max(name: &str, values: &[(Number, Value)]) -> usize {
    if name == CLIENTS {
        return Search::FOUND_MAX;
    }
    let lengths = values
        .iter()
        .map(|(_, value)| value.as_array().map_or(0, |rows| rows.len()));
    match CUT_OFF.contains(&name) {
        true => lengths.max().unwrap_or_default(),
        false => usize::MAX,
    }
}

/// The rows of all processes, each name and each word once.
fn rows_of(values: &[(Number, Value)]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut named = HashMap::new();
    let mut known = HashSet::new();
    for (number, value) in values {
        for row in value.as_array().into_iter().flatten() {
            if is_of_connection(row) {
                rows.push(Row::Own(*number, row));
            } else if let Some(name) = row_name(row) {
                let at = *named.entry(name).or_insert_with(|| {
                    rows.push(Row::Named(Vec::new()));
                    rows.len() - 1
                });
                if let Row::Named(rows) = &mut rows[at] {
                    rows.push((*number, row));
                }
            } else if known.insert(row.to_string()) {
                rows.push(Row::Same(row));
            }
        }
    }
    rows
}

/// What a row is ordered by: the first value, among equal ones the next.
type Order = [f64; 3];

/// What a row of the list `list` is ordered by. A row without the member, or with `null`, comes after all others.
fn order(list: &str, row: &Value) -> Order {
    let names = ORDERS.iter().find(|(name, _)| *name == list);
    let names = names.map_or(OTHER_ORDER, |(_, names)| names);
    let mut order = [f64::MIN; 3];
    for (value, name) in order.iter_mut().zip(names) {
        let number = row.get(name).as_f64().unwrap_or(f64::MIN);
        *value = match *name == SWITCH {
            true => f64::from(number > 0.0),
            false => number,
        };
    }
    order
}

/// Sorts rows, those with the largest order first. Looks at each row once.
fn sort_by_order<R>(rows: &mut Vec<R>, order: impl Fn(&R) -> Order) {
    let mut ordered: Vec<(Order, R)> = rows.drain(..).map(|row| (order(&row), row)).collect();
    ordered.sort_by(|(one, _), (other, _)| {
        let mut pairs = other.iter().zip(one);
        let differs =
            pairs.find_map(|(other, one)| Some(other.total_cmp(one)).filter(|o| o.is_ne()));
        differs.unwrap_or(Ordering::Equal)
    });
    rows.extend(ordered.into_iter().map(|(_, row)| row));
}

/// Keeps only the first `most` of the rows about connections, in the order of the list `list`.
fn cut_own(list: &str, rows: &mut Vec<Row>, most: usize) {
    let own_order = |row: &Row| match row {
        Row::Own(_, row) => order(list, row),
        // In front, so that the cut below takes rows about connections only.
        _ => [f64::MAX; 3],
    };
    sort_by_order(rows, own_order);
    let others = rows.iter().filter(|row| !matches!(row, Row::Own(..)));
    let others = others.count();
    rows.truncate(others.saturating_add(most));
}

/// Keeps only the rows of the first names, and those that a process may have put in front because they are what was
/// searched for.
fn cut_names(rows: &mut Vec<Row>, values: &[(Number, Value)]) {
    let in_front = |(_, value): &(Number, Value)| {
        let first = value.as_array()?.first()?;
        row_name(first).map(str::to_owned)
    };
    let in_front: HashSet<String> = values.iter().filter_map(in_front).collect();
    rows.sort_by_cached_key(|row| row.name().map(str::to_owned));
    let mut place = 0;
    rows.retain(|row| {
        place += 1;
        place <= Search::FOUND_MAX || row.name().is_some_and(|name| in_front.contains(name))
    });
}

/// Says in a joined answer which processes did not answer. A search that found nobody says so of the others only.
pub(super) fn set_missing(answer: &mut Value, missing: &[Number]) {
    let is_found = answer.get("count").as_u64().is_some_and(|count| count > 0);
    if is_found {
        // A process without a match brings the sentence that nobody was found. Another process has a match.
        set(answer, "sentence", Value::new_null());
    }
    if missing.is_empty() || !answer.is_object() {
        return;
    }
    set(answer, MISSING, Value::from(missing));
    if let Some(sentence) = answer.get("sentence").as_str() {
        let of_others = sentence.replacen(OF_THIS_INSTANCE, "of the processes that answered", 1);
        let numbers: Vec<String> = missing.iter().map(Number::to_string).collect();
        let processes = match numbers.len() {
            1 => "process",
            _ => "processes",
        };
        let sentence = format!(
            "{of_others}; {processes} {} did not answer",
            numbers.join(", ")
        );
        set(answer, "sentence", Value::from(sentence.as_str()));
    }
}

/// The names of the clients of a joined answer.
pub(super) fn names_of_clients(answer: &Value) -> BTreeSet<String> {
    let clients = answer.get(CLIENTS).and_then(|clients| clients.as_array());
    let names = clients
        .into_iter()
        .flatten()
        .filter_map(|client| client.get(NAMES)?.as_array());
    let names = names.flatten().filter_map(row_name);
    names.map(str::to_owned).collect()
}

/// Sets the members of the names of clients: each process knows only its own. `members` is the joined answer about these names.
pub(super) fn set_members(answer: &mut Value, members: &Value) {
    let rows = members.as_array().into_iter().flatten();
    let members = rows.filter_map(|row| Some((row_name(row)?, row.get("members")?)));
    let members: HashMap<&str, &Value> = members.collect();
    let clients = answer
        .get_mut(CLIENTS)
        .and_then(|clients| clients.as_array_mut());
    for client in clients.into_iter().flat_map(|clients| clients.iter_mut()) {
        let names = client.get_mut(NAMES).and_then(|names| names.as_array_mut());
        for row in names.into_iter().flat_map(|names| names.iter_mut()) {
            let known = row_name(row).and_then(|name| members.get(name));
            if let Some(known) = known.copied() {
                set(row, "members", known.clone());
            }
        }
    }
}

/// Orders the names of a joined answer as each process does, what was searched for in front, and keeps the first.
pub(super) fn order_names(answer: &mut Value, wanted: &str) {
    let Some(names) = answer.get_mut(NAMES).and_then(|names| names.as_array_mut()) else {
        return;
    };
    let mut rows: Vec<Value> = names.iter().cloned().collect();
    rows.sort_by_cached_key(|row| {
        let name = row_name(row).unwrap_or_default();
        // `false`, the wanted name, comes first.
        (name != wanted, name.to_owned())
    });
    rows.truncate(Search::FOUND_MAX);
    *names = rows.into();
}

/// The name of a row that several processes have: a topic, a limit, a service, a subject.
fn row_name(row: &Value) -> Option<&str> {
    row.get("name")
        .or_else(|| row.get("subject"))
        .filter(|_| !is_of_connection(row))
        .and_then(|name| name.as_str())
}

fn is_of_connection(row: &Value) -> bool {
    row.get("client").is_some()
}

/// Marks a row about a connection with its process: sessions of several processes may have the same id.
fn mark_process(number: Number, mut row: Value) -> Value {
    if let Some(row) = row.as_object_mut() {
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
    use std::time::Instant;

    use sonic_rs::json;

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

    /// A client's send queue is in one process, beside a limit that each process has whole.
    #[test]
    fn a_limit_of_one_client_is_that_of_the_nearest() {
        let limit = |name: &str, is_of_one: bool, now: u64| json!({"name": name, "is_of_one": is_of_one, "now": now, "max": 100});
        let page =
            |now: u64| json!({"limits": [limit("queue", true, now), limit("clients", false, now)]});
        let all = merged(vec![(1, page(20)), (2, page(52))]);
        assert_eq!(all["limits"][0], limit("queue", true, 52));
        let want = json!({"name": "clients", "is_of_one": false, "now": 72, "max": 200});
        assert_eq!(all["limits"][1], want);
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
        assert_eq!(cut_off["count_is_exact"], json!(false));
        let none = |count: u64| json!({"count": count, "clients": [], "names": []});
        let of_one = merged(vec![(1, found("a", 700, 30)), (2, none(0))]);
        for exact in [same, others, of_one] {
            assert!(exact.get("count_is_exact").is_none(), "{exact}");
        }
    }

    /// Each process lists the first names by their bytes, so what is cut off is not among the first of all.
    #[test]
    fn the_first_names_of_all_have_the_members_of_all() {
        let names = |names: &[String]| {
            let mut sorted: Vec<&String> = names.iter().collect();
            sorted.sort_by_key(|name| (*name != "zz", *name));
            let rows = sorted.iter().take(Search::FOUND_MAX);
            let rows: Vec<Value> = rows
                .map(|name| json!({"name": name.as_str(), "members": 1}))
                .collect();
            json!({"count": names.len() as u64, "names": rows})
        };
        let all: Vec<String> = (0..300).map(|n| format!("zz{n:03}")).collect();
        let mut with_itself = all.clone();
        with_itself.push("zz".to_owned());
        let even: Vec<String> = all.iter().step_by(2).cloned().collect();
        let mut answer = merged(vec![
            (1, names(&all)),
            (2, names(&even)),
            (3, names(&with_itself)),
        ]);
        order_names(&mut answer, "zz");
        let rows = answer["names"].as_array().expect("rows");
        assert_eq!(
            (rows.len(), answer["count"].as_u64()),
            (Search::FOUND_MAX, Some(301))
        );
        assert_eq!(rows[0], json!({"name": "zz", "members": 1}));
        for (row, name) in rows.iter().skip(1).zip(&all) {
            let members = 2 + u64::from(even.contains(name));
            assert_eq!(*row, json!({"name": name.as_str(), "members": members}));
        }
    }

    /// As an operator finds them who looks for the address of a proxy.
    #[test]
    fn many_rows_of_many_processes_are_soon_joined() {
        let page = |process: u64, rows: u64| {
            let clients: Vec<Value> = (0..rows)
                .map(|n| json!({"client": "10.0.0.1", "session": format!("{n}-{process}"), "oldest_ms": n, "name": "a", "names": [{"name": "a", "members": 1}]}))
                .collect();
            let words: Vec<Value> = (0..rows)
                .map(|n| Value::from(&*format!("{process}-{n}")))
                .collect();
            json!({"count": rows, "clients": clients, "reasons": words})
        };
        let seconds = |processes: u32| {
            let pages = (1..=processes).map(|process| (process, page(process.into(), 110)));
            let pages: Vec<_> = pages.collect();
            let began = Instant::now();
            let answer = merged(pages);
            let clients = answer["clients"].as_array().expect("rows");
            assert_eq!(answer["count"].as_u64(), Some(110 * u64::from(processes)));
            assert_eq!(
                (clients.len(), clients[0]["oldest_ms"].as_u64()),
                (Search::FOUND_MAX, Some(109))
            );
            began.elapsed().as_secs_f64()
        };
        // Without optimisation it takes 0.04 s. A comparison of each row with all others took many seconds, with optimisation.
        let least = (0..5).map(|_| seconds(64)).fold(f64::MAX, f64::min);
        assert!(least < 2.0, "{least}");
    }

    #[test]
    fn the_clients_that_several_processes_find_are_all_there_up_to_a_hundred() {
        for (each, all) in [(0, 0), (4, 12), (40, 100), (100, 100)] {
            let page = |process: u32| {
                let rows =
                    (0..each).map(|n| json!({"client": "10.0.0.1", "session": format!("{n}")}));
                (
                    process,
                    json!({"count": each, "clients": rows.collect::<Vec<_>>()}),
                )
            };
            let answer = merged((1..=3).map(page).collect());
            let rows = answer["clients"].as_array().map(|rows| rows.len());
            assert_eq!(
                (answer["count"].as_u64(), rows),
                (Some(3 * each), Some(all))
            );
        }
    }

    /// As each process orders its own. Most clients have nothing that waits.
    #[test]
    fn rows_come_in_the_order_of_their_list_also_with_nulls() {
        let client = |session: &str, messages: u64, queue: u64, oldest: Option<u64>, slow: u64| {
            json!({"client": "10.0.0.1", "session": session, "recent_messages": messages, "queue_bytes": queue,
                "oldest_ms": oldest, "slow_ms": slow})
        };
        let list = |rows: &[Value]| Value::from(rows);
        let sessions = |name: &str, one: &[Value], other: &[Value]| {
            let all = member("survey", name, vec![(1, list(one)), (2, list(other))]);
            let rows = all.as_array().expect("rows").iter();
            let sessions = rows.filter_map(|row| row.get("session")?.as_str().map(str::to_owned));
            sessions.collect::<Vec<_>>()
        };
        let one = [client("a", 3, 0, None, 0), client("b", 2, 9, Some(1), 0)];
        let other = [client("c", 90, 0, None, 0), client("d", 80, 0, None, 0)];
        assert_eq!(sessions("busiest", &one, &other), ["2/c", "2/d"]);
        let slow = [
            client("e", 0, 5, Some(7), 4_000),
            client("f", 0, 1, Some(900), 0),
        ];
        assert_eq!(sessions("slowest", &one, &slow), ["2/e", "1/b"]);
        let topic = |name: &str, members: u64, oldest: u64| json!({"name": name, "members": members, "oldest_ms": oldest});
        let quiet = vec![
            (1, list(&[topic("a", 1, 9)])),
            (2, list(&[topic("b", 2, 1)])),
        ];
        assert_eq!(member("survey", "quiet_topics", quiet)[0]["name"], "b");
    }

    #[test]
    fn times_in_any_spelling_and_what_is_behind_are_the_largest() {
        let page = |s: f64, n: u64| {
            json!({"uptimeSeconds": n, "stream_behind": {"messages": n, "seconds": s}, "bus": {"stream_behind": n},
                "subjects": {"a": {"messages": n, "bad": n, "old": n}}})
        };
        let all = merged(vec![
            (1, page(0.25, 6)),
            (2, page(1.5, 7)),
            (3, json!({"stream_behind": {"messages": null}})),
        ]);
        assert_eq!(all, page(1.5, 7));
    }

    /// A sentence must not contradict the numbers beside it.
    #[test]
    fn texts_are_those_of_the_process_whose_number_counts() {
        let history = |reach: Option<u64>, why: Option<&str>| json!({"history": {"reach_ms": reach, "why": why}});
        let pages = [
            history(None, None),
            history(Some(900), Some("start")),
            history(Some(500), Some("bytes")),
        ];
        let all = merged((1..).zip(pages).collect());
        assert_eq!(all, history(Some(500), Some("bytes")));
        let nobody = |sentence: &str, ends: &[u64]| {
            let ends = ends
                .iter()
                .map(|at| json!({"client": "10.0.0.1", "at_unix_ms": at}));
            json!({"count": 0, "sentence": sentence, "ended": ends.collect::<Vec<_>>()})
        };
        let pages = [
            nobody("never", &[]),
            nobody("old", &[5, 3]),
            nobody("newest", &[9]),
        ];
        let all = merged((1..).zip(pages).collect());
        assert_eq!(all["sentence"], "newest");
        let stream = |stopped: bool, sentence: &str| json!([{"name": "A", "stopped": stopped, "sentence": sentence}]);
        let all = merged(vec![
            (1, stream(false, "waits")),
            (2, stream(true, "is full")),
        ]);
        assert_eq!(all, stream(true, "is full"));
    }

    #[test]
    fn a_subject_has_one_row() {
        let quiet = |ms: u64| json!([{"subject": "a", "quiet_ms": ms, "usual_gap_ms": 50}]);
        assert_eq!(merged(vec![(1, quiet(900)), (2, quiet(901))]), quiet(901));
    }

    #[test]
    fn nobody_is_missing_only_where_all_have_answered() {
        let said = |count: u64, missing: &[Number]| {
            let sentence = format!("no client {OF_THIS_INSTANCE} is like this: user ann");
            let mut answer = json!({"count": count, "sentence": sentence.as_str()});
            set_missing(&mut answer, missing);
            let missing = answer.get("processes_missing").is_array();
            (answer["sentence"].as_str().map(str::to_owned), missing)
        };
        let of_all = "no client of this instance is like this: user ann".to_owned();
        assert_eq!(said(0, &[]), (Some(of_all), false));
        assert_eq!(said(1, &[2]), (None, true));
        for (missing, end) in [
            (&[2][..], "; process 2 did not answer"),
            (&[2, 3], "; processes 2, 3 did not answer"),
        ] {
            let of_others =
                format!("no client of the processes that answered is like this: user ann{end}");
            assert_eq!(said(0, missing), (Some(of_others), true));
        }
    }

    #[test]
    fn a_name_of_a_client_has_the_members_of_all_processes() {
        let page = |members: u64| json!({"clients": [{"client": "10.0.0.1", "names": [{"name": "a", "members": members}, {"name": "b", "members": 1}]}]});
        let mut answer = page(2);
        assert_eq!(
            names_of_clients(&answer),
            BTreeSet::from(["a".to_owned(), "b".to_owned()])
        );
        let said = |members: u64| json!([{"name": "a", "members": members}]);
        set_members(&mut answer, &merged(vec![(1, said(2)), (2, said(5))]));
        assert_eq!(answer, page(7));
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
