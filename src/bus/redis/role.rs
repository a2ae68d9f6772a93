//! What a server says of itself: whether it is a lone master, and its links to other servers.
//! A lone master is a master without a cluster.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::resp::Value;

/// The commands for the links of a server to others. A replica that resynchronises has a new link to its master.
pub(super) const LINKS: [&[&str]; 2] =
    [&["CLIENT", "LIST", "TYPE", "master"], &["CLUSTER", "LINKS"]];

/// Whether the server is a master without a cluster, by its answer to `HELLO`, so that positions are valid. A server
/// before Redis 6 cannot say so.
pub(super) fn says_lone_master(hello: &Value) -> bool {
    let value_of = |key| bulk_field(hello, key).unwrap_or_default();
    value_of(b"mode") == b"standalone" && value_of(b"role") == b"master"
}

/// A hash of the links in the answers to [`LINKS`], never 0. Refusals are ignored.
pub(super) fn links_in(answers: &[Value]) -> u64 {
    let mut links = Vec::new();
    for answer in answers {
        match answer {
            Value::Bulk(clients) => {
                // Each connection of a client has an id of its own, so a new link has a new id.
                let words = clients.split(u8::is_ascii_whitespace);
                links.extend(
                    words
                        .filter(|word| word.starts_with(b"id="))
                        .map(<[u8]>::to_vec),
                );
            }
            Value::Array(items) => links.extend(items.iter().filter_map(link)),
            _ => {}
        }
    }
    links.sort_unstable();
    let mut hasher = DefaultHasher::new();
    links.hash(&mut hasher);
    hasher.finish().max(1)
}

/// The direction, the node and the creation time of a link in the answer to `CLUSTER LINKS`.
fn link(link: &Value) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for key in [&b"direction"[..], b"node", b"create-time"] {
        match field(link, key)? {
            Value::Bulk(value) => text.extend_from_slice(value),
            Value::Integer(number) => text.extend(number.to_string().into_bytes()),
            _ => {}
        }
    }
    Some(text)
}

/// A text in an answer that is a map, such as that to `HELLO`.
pub(super) fn bulk_field<'a>(hello: &'a Value, key: &[u8]) -> Option<&'a [u8]> {
    match field(hello, key) {
        Some(Value::Bulk(value)) => Some(value),
        _ => None,
    }
}

/// A field of a map.
fn field<'a>(map: &'a Value, key: &[u8]) -> Option<&'a Value> {
    let Value::Array(items) = map else {
        return None;
    };
    let mut pairs = items.chunks_exact(2);
    pairs.find_map(|pair| matches!(&pair[0], Value::Bulk(found) if found == key).then(|| &pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_master_says_so() {
        let says = |mode, role| {
            let pairs = ["server", "redis", "mode", mode, "role", role];
            Value::Array(pairs.map(|text| Value::Bulk(text.into())).to_vec())
        };
        assert!(says_lone_master(&says("standalone", "master")));
        for other in [
            says("standalone", "replica"),
            says("cluster", "master"),
            Value::Error("ERR unknown command 'HELLO'".into()),
        ] {
            assert!(!says_lone_master(&other), "{other:?}");
        }
    }

    #[test]
    fn links_are_told_apart_by_their_making() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let link = |node: &str, made| {
            let pairs = ["direction", "to", "node", node, "create-time"].map(bulk);
            Value::Array(pairs.into_iter().chain([Value::Integer(made)]).collect())
        };
        let links = |made| Value::Array(vec![link("a", 1), link("b", made)]);
        let master = |id: &str| bulk(&format!("id={id} addr=h:1 age=7\nid=9 addr=h:2 age=7\n"));
        let refused = Value::Error("NOPERM".into());
        let links_hash =
            |answers: &[&Value]| links_in(&answers.iter().copied().cloned().collect::<Vec<_>>());
        assert_eq!(
            links_hash(&[&master("1"), &links(2)]),
            links_hash(&[&master("1"), &links(2)])
        );
        assert_ne!(
            links_hash(&[&master("1"), &links(2)]),
            links_hash(&[&master("1"), &links(3)])
        );
        assert_ne!(
            links_hash(&[&master("1"), &refused]),
            links_hash(&[&master("2"), &refused])
        );
        assert_ne!(links_hash(&[&master("1")]), links_hash(&[&bulk("")]));
        let turned = Value::Array(vec![link("b", 2), link("a", 1)]);
        assert_eq!(links_hash(&[&links(2)]), links_hash(&[&turned]));
        assert_ne!(links_hash(&[&refused]), 0);
    }
}
