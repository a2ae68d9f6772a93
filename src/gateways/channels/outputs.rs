//! The outputs of the channels gateway: its requests to the thread of the bus, and tables of roles to free.

use crossbeam_channel::Sender;

use super::{ChannelsOutput, RetainedRequest};
use crate::auth::Acl;
use weirgate_bus::BusInterest;
use weirgate_core::{Subscription, TopicName};
use weirgate_wire::auth::NameSyntax;

/// Carries out an output of the gateway: tells the bus which names clients want. If a whole stream is read, the bus
/// needs no names. Tables of roles that are no longer in force go to the thread that frees them.
pub(super) fn carry_out(
    interest: Option<&BusInterest>,
    old_tables: Option<&Sender<Acl>>,
    syntax: NameSyntax,
    output: ChannelsOutput,
) {
    let ask = |name: &TopicName| subscription_of(syntax, name);
    match (output, interest) {
        (ChannelsOutput::GapNotified { clients }, _) => {
            tracing::warn!(
                clients,
                "bus messages were lost: each affected client sees one gap in seq"
            );
        }
        (ChannelsOutput::OldTable(acl), _) => {
            // Without the thread nobody reads the file again, so there is no other table.
            let _ = old_tables.map(|tables| tables.send(acl));
        }
        (_, None) => {}
        (ChannelsOutput::Retained(request), Some(interest)) => match request {
            RetainedRequest::Ask {
                name,
                cover,
                number,
                after,
                client,
            } => interest.ask_retained(ask(&name), cover, (number, client), after),
            RetainedRequest::All {
                name,
                number,
                after,
                client,
                names,
            } => {
                let name = match name.as_str() {
                    // The scope of a question about the whole stream.
                    "" => TopicName::fixed(syntax.everything()),
                    _ => name,
                };
                interest.ask_all(ask(&name), (number, client), (after, names));
            }
            RetainedRequest::Newest {
                name,
                number,
                client,
            } => interest.ask_newest(ask(&name), number, client),
            RetainedRequest::Move { number, client, .. } => interest.move_retained(number, client),
            RetainedRequest::More { number, .. } => interest.ask_more_retained(number),
            RetainedRequest::Forget { number, .. } => interest.forget_retained(number),
        },
        (ChannelsOutput::Interest(change), Some(interest)) => match change.wanted {
            true => interest.subscribe_numbered(ask(&change.name), change.number),
            false => interest.unsubscribe(ask(&change.name)),
        },
    }
}

/// What the bus is asked for: a name or a pattern.
pub(super) fn subscription_of(syntax: NameSyntax, name: &TopicName) -> Subscription {
    Subscription {
        name: name.shared(),
        is_pattern: syntax.is_pattern(name.as_str()),
    }
}
