//! Whether the server of a connection is the one of before, with the same data set. Pure.

use super::replication::Replication;

/// The server that was inspected last.
#[derive(Debug, Default)]
pub(super) struct KnownServer {
    /// Its `run_id`, which each process chooses anew.
    run_id: Option<String>,
    /// The history of writes of its data set.
    history: Option<String>,
    /// Whether it was inspected on this connection: then the process is the same, whether it says its `run_id` or not.
    is_inspected: bool,
}

impl KnownServer {
    /// Handles a new connection, which may be to another server.
    pub(super) fn connected(&mut self) {
        self.is_inspected = false;
    }

    /// Whether this connection is the first one to the server, which is not, or perhaps not, the one of before; or the server
    /// has another data set than before, because it has become a replica of another one.
    pub(super) fn is_other(&self, run_id: Option<&String>, replication: &Replication) -> bool {
        let is_other_process = !self.is_inspected && !self.is_process(run_id);
        is_other_process || !self.has_same_data(replication)
    }

    /// Whether the server says that it is the process of before.
    pub(super) fn is_process(&self, run_id: Option<&String>) -> bool {
        run_id.is_some() && run_id == self.run_id.as_ref()
    }

    /// Whether the server still has the data set of before, as far as is known.
    pub(super) fn has_same_data(&self, replication: &Replication) -> bool {
        replication.continues(&self.history)
    }

    /// Handles that this is the server that is read from now on.
    pub(super) fn inspected(&mut self, run_id: Option<String>) {
        (self.run_id, self.is_inspected) = (run_id, true);
    }

    /// Handles that the data set of the server has this history.
    pub(super) fn note_history(&mut self, history: Option<String>) {
        self.history = history;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::resp::Value;

    fn replication(history: &str) -> Replication {
        Replication::read(&Value::Bulk(format!("master_replid:{history}\r\n").into()))
    }

    #[test]
    fn a_server_is_another_one_by_its_process_or_by_its_data() {
        let [a, b] = ["a", "b"].map(str::to_owned);
        let mut server = KnownServer::default();
        assert!(
            server.is_other(Some(&a), &replication("h")),
            "the first one"
        );
        server.inspected(Some(a.clone()));
        server.note_history(Some("h".to_owned()));
        server.connected();
        assert!(!server.is_other(Some(&a), &replication("h")));
        assert!(server.is_other(Some(&a), &replication("i")));
        assert!(server.is_other(Some(&b), &replication("h")));
        assert!(server.is_other(None, &replication("h")), "nobody knows");
        server.inspected(None);
        assert!(
            !server.is_other(None, &replication("h")),
            "the connection is the same"
        );
    }
}
