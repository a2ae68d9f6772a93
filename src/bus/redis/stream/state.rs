//! The state of a stream: whether an entry is still there, and the counters of the stream. [`STATE`] asks for both; a server
//! that does not accept this script is asked for the entry with `XRANGE`, and says nothing of the counters. Pure.

use super::entry::{StreamEntry, parse_id};
use crate::redis::resp::Value;
use weirgate_core::StoredId;

/// A script that returns whether an entry is there, a sample of its fields, and the counters of the stream. Not every user may
/// run it, and a server before Redis 7.0 cannot. The sample has the lengths of the name and of the value, and the
/// [sampled](super::prints::sampled) value, of each field that counts; it is empty unless `ARGV` has the
/// longest values, each with one byte over the limit.
pub(in crate::redis) const STATE: &str = "\
    local i,s=redis.pcall('XINFO','STREAM',KEYS[1]),{} for n=1,#i,2 do s[i[n]]=i[n+1] end \
    local e,p,at,m=redis.call('XRANGE',KEYS[1],ARGV[1],ARGV[1]),{},{},{channel=tonumber(ARGV[2]),data=tonumber(ARGV[3])} \
    local f=ARGV[3] and e[1] and e[1][2] or {} \
    for n=1,#f,2 do local k,v=f[n],f[n+1] if m[k] then \
    at[k]=at[k] or #p if #v>m[k] then v=v:sub(1,m[k]) end \
    local b=v if #v>4096 then b='' for c=0,15 do local o=math.floor(c*(#v-256)/15) b=b..v:sub(o+1,o+256) end end \
    p[at[k]+1]=#k p[at[k]+2]=#v p[at[k]+3]=b end end \
    return {#e,p,s['entries-added'],s['length'],s['recorded-first-entry-id'],s['last-generated-id'],s['max-deleted-entry-id']}";

/// Whether the last read entry is still there, and the counters: the answer to [`STATE`], or to `XRANGE`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::redis) struct StateAnswer {
    /// Whether the last read entry is there; `None` if that was not asked, or was refused.
    pub(super) is_there: Option<bool>,
    pub(in crate::redis) counters: Option<Counters>,
}

/// What an answer has of the entry that it was asked for.
pub(super) enum LastEntry<'a> {
    /// The names and values of its fields, of `XRANGE`.
    Whole(&'a [Value]),
    /// The lengths of name and value, and the sampled value, of each field, of [`STATE`].
    Sample(&'a [Value]),
}

/// The counters of a stream: `XINFO STREAM` of Redis 7.0.
#[derive(Clone, Copy, Debug)]
pub(in crate::redis) struct Counters {
    /// The entries that were ever added.
    pub(super) added: u64,
    /// The entries that are there.
    pub(super) length: u64,
    /// The id of the oldest entry that is there.
    pub(super) first: StoredId,
    /// The id of the entry that was added last, even if it is gone.
    pub(super) last: StoredId,
    /// The highest id that `XDEL` has deleted; trims do not count.
    pub(super) last_deleted: StoredId,
}

impl StateAnswer {
    /// Reads the answer to the script, or to `XRANGE`, which has the last read entry if it is still there.
    pub(in crate::redis) fn read(items: &[Value]) -> Self {
        let (is_there, counters) = match items {
            [Value::Integer(found), _, counters @ ..] => (*found > 0, Counters::read(counters)),
            range => (!range.is_empty(), None),
        };
        Self {
            is_there: Some(is_there),
            counters,
        }
    }
}

impl<'a> LastEntry<'a> {
    /// Reads the answer to the script, or to `XRANGE`.
    pub(super) fn read(items: &'a [Value]) -> Option<Self> {
        match items {
            [Value::Integer(_), Value::Array(sample), ..] => Some(Self::Sample(sample)),
            [Value::Array(entry)] => match &entry[..] {
                [_, Value::Array(fields)] => Some(Self::Whole(fields)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Counters {
    /// Reads the counters in the order of [`STATE`]; `None` from a server that does not have all of them.
    fn read(items: &[Value]) -> Option<Self> {
        let [
            Value::Integer(added),
            Value::Integer(length),
            Value::Bulk(first),
            Value::Bulk(last),
            Value::Bulk(last_deleted),
        ] = items
        else {
            return None;
        };
        Some(Self {
            added: u64::try_from(*added).ok()?,
            length: u64::try_from(*length).ok()?,
            first: parse_id(first)?,
            last: parse_id(last)?,
            last_deleted: parse_id(last_deleted)?,
        })
    }

    /// How many entries were trimmed or deleted.
    pub(super) fn removed(self) -> u64 {
        self.added.saturating_sub(self.length)
    }

    /// Whether the entry with this id is before the oldest one.
    pub(super) fn is_gone(self, id: StoredId) -> bool {
        self.length == 0 || id < self.first
    }

    /// How many of these entries are before the oldest one.
    pub(super) fn gone(self, entries: &[StreamEntry]) -> u64 {
        let gone = entries.iter().filter(|entry| self.is_gone(entry.id));
        gone.count() as u64
    }
}
