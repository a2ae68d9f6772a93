//! Where a server gets its writes from, and how far it has them: `INFO replication`. Pure.

use super::info::info_line;
use crate::redis::resp::Value;

/// A place in the history of all writes, which a master and its replicas have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenTo {
    /// `master_replid`. A master that begins a history of its own has another one.
    history: String,
    /// Bytes of writes since the history began.
    offset: u64,
}

/// How a server gets its writes: the answer to `INFO replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) is_replica: bool,
    /// It is a replica without a link to its master.
    pub(super) is_cut_off: bool,
    /// The writes that it has carried out; `None` if it does not say.
    pub(super) written_to: Option<WrittenTo>,
    /// The history of these writes, as in [`WrittenTo`].
    pub(super) history: Option<String>,
    /// The history that it has continued (`master_replid2`), as a replica that became a master does.
    earlier_history: Option<String>,
}

impl Replication {
    /// Reads the answer; of a refusal, nothing is known.
    pub(super) fn read(info: &Value) -> Self {
        let is_replica = info_line(info, "role:").as_deref() == Some("slave");
        let offset = match is_replica {
            true => "slave_repl_offset:",
            false => "master_repl_offset:",
        };
        let offset = info_line(info, offset).and_then(|offset| offset.parse().ok());
        let history = info_line(info, "master_replid:");
        let written_to = history.clone().zip(offset);
        Self {
            history,
            earlier_history: info_line(info, "master_replid2:"),
            is_replica,
            is_cut_off: info_line(info, "master_link_status:").as_deref() == Some("down"),
            written_to: written_to.map(|(history, offset)| WrittenTo { history, offset }),
        }
    }

    /// Whether the server still has the data set of this history, as far as is known.
    pub(super) fn continues(&self, history: &Option<String>) -> bool {
        let is_known = history.is_some() && self.history.is_some();
        !is_known || [&self.history, &self.earlier_history].contains(&history)
    }

    /// Whether this is a replica that will get all writes up to this place: it is in the same history, and before the place.
    pub(super) fn will_reach(&self, place: &WrittenTo) -> bool {
        let written_to = self.written_to.as_ref();
        let is_before =
            written_to.is_some_and(|to| to.history == place.history && to.offset < place.offset);
        self.is_replica && !self.is_cut_off && is_before
    }
}
