//! What a JetStream server says of a stream: whether it takes messages, and if not, why.

use std::fmt::{Display, Formatter, Result};

use weirgate_runtime::StreamReport;

/// What the server says of a stream that is read. The server knows no publisher: a message that it refuses leaves no
/// trace in its answers, so this is what could be the cause of a silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamState {
    /// New messages come.
    Moving {
        /// The stream refuses more messages than that of each name; `None`: any number.
        per_name_max: Option<u64>,
    },
    /// No new messages for 5 s, and nothing that stops them.
    Quiet(AccountAnswer),
    /// The stream has all messages that its limit permits, and refuses new ones (`discard: new`).
    Full {
        /// The setting of the stream: `max_bytes`, `max_msgs` or `max_msgs_per_subject`.
        limit: &'static str,
        /// Bytes or messages in the stream.
        now: u64,
        /// The limit on them.
        max: u64,
    },
    /// The storage of the account has reached its limit.
    AccountFull {
        /// `file` or `memory`.
        storage: &'static str,
        /// Bytes that the streams of the account use.
        bytes: u64,
        /// The limit on them.
        bytes_max: u64,
    },
    /// The stream is closed for new messages for ever.
    Sealed,
    /// No server leads the stream.
    NoLeader,
    /// The stream copies another stream, of which the server hears nothing.
    CopyAway {
        /// The name of the other stream.
        origin: String,
        /// For how long, milliseconds; `None`: it has heard nothing of it so far.
        silent_ms: Option<u64>,
    },
}

/// What is known of the limits of the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AccountAnswer {
    /// The server was not asked, or has not answered.
    #[default]
    Unknown,
    /// This user may not ask.
    NotPermitted,
    /// The storage is within its limit.
    Room,
}

impl StreamState {
    /// The state as other threads show it.
    pub(super) fn report(&self) -> StreamReport {
        StreamReport {
            label: self.label(),
            is_stopped: self.is_stopped(),
            explains_outage: *self == Self::NoLeader,
            text: self.to_string(),
        }
    }

    /// The state in one word, for programs.
    const fn label(&self) -> &'static str {
        match self {
            Self::Moving { .. } => "moving",
            Self::Quiet(_) => "quiet",
            Self::Full { .. } => "full",
            Self::AccountFull { .. } => "account_full",
            Self::Sealed => "sealed",
            Self::NoLeader => "no_leader",
            Self::CopyAway { .. } => "copy_away",
        }
    }

    /// Whether the stream can take no messages.
    pub(super) const fn is_stopped(&self) -> bool {
        !matches!(self, Self::Moving { .. } | Self::Quiet(_))
    }
}

/// The state as the end of a sentence that begins with the stream.
impl Display for StreamState {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Moving { per_name_max: None } => {
                write!(f, "gets messages: the publishers of a quiet name are quiet")
            }
            Self::Moving {
                per_name_max: Some(max),
            } => write!(
                f,
                "gets messages, and refuses more than {max} of a name (discard_new_per_subject): a quiet name may have \
                 as many"
            ),
            Self::Quiet(account) => {
                write!(f, "takes messages: its publishers are quiet")?;
                match account {
                    AccountAnswer::Room => Ok(()),
                    AccountAnswer::Unknown => {
                        write!(
                            f,
                            ", unless the storage of the account is full, which is unknown"
                        )
                    }
                    AccountAnswer::NotPermitted => write!(
                        f,
                        ", unless the storage of the account is full: this user may not ask ($JS.API.INFO)"
                    ),
                }
            }
            Self::Full { limit, now, max } => {
                let unit = match *limit {
                    "max_bytes" => "bytes",
                    "max_msgs" => "messages",
                    _ => "messages of its names",
                };
                write!(
                    f,
                    "is full and refuses new messages (discard: new): {now} of {max} {unit} ({limit})"
                )
            }
            Self::AccountFull {
                storage,
                bytes,
                bytes_max,
            } => write!(
                f,
                "can take no message: the {storage} storage of the account is full, {bytes} of {bytes_max} bytes"
            ),
            Self::Sealed => write!(f, "is sealed: it takes no message any more"),
            Self::NoLeader => write!(f, "has no leader: no server takes messages for it"),
            Self::CopyAway { origin, silent_ms } => match silent_ms {
                Some(ms) => write!(
                    f,
                    "copies {origin}, of which its server has heard nothing for {} s",
                    ms / 1_000
                ),
                None => write!(
                    f,
                    "copies {origin}, of which its server has heard nothing so far"
                ),
            },
        }
    }
}
