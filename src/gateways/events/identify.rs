//! Which device a connection is of: its token, the query of its URL, or `identify` names it. The answer to a device has a
//! position, if there is a history: a device whose connection breaks before its first push can resume too. The pushes that
//! the device has missed follow the answer.

use super::connection::{Connection, ResumeWait};
use super::device_message::{DeviceMessage, is_device_id};
use super::envelope::{self, Code, RefusedMessage};
use crate::auth::Identity;
use crate::gateways::shared::history::{Follow, last_event_id, short, write_recovered};
use weirgate_core::{Core, NotRecovered, SessionKey, TopicName};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Refusal;
use weirgate_wire::json::ObjectWriter;

/// The event and the id of the answer to a device that the URL names.
const ASKED_BY_URL: (&str, &str) = ("\"identify\"", "null");

/// Reads the device and the position of a request.
pub(super) fn read_query(head: &RequestHead<'_>, connection: &mut Connection) {
    let device = head.parameters("device_id").last();
    let device = device.filter(|id| is_device_id(id));
    connection.device = device.map(|id| TopicName::from(id.into_owned()));
    // An event stream reconnects to its first URL, so the position in the header is newer.
    connection.since = last_event_id(head).or_else(|| {
        let since = head.parameters("since").last();
        let since = since.filter(|since| !since.is_empty())?;
        Some(short(&since).into())
    });
}

/// The device that a token names: its user. `asked`: the device that the request names beside. The API key names none:
/// its client says itself which device it is.
///
/// # Errors
/// A JWT without a user that may be the id of a device, or with another user than the request says.
pub(super) fn device_of(
    identity: &Identity,
    asked: Option<&str>,
) -> Result<Option<TopicName>, Refusal> {
    match &identity.user {
        None if !identity.is_of_jwt() => Ok(None),
        Some(user) if is_device_id(user) && asked.is_none_or(|asked| asked == user) => {
            Ok(Some(TopicName::from(user.clone())))
        }
        _ => Err(Refusal::Device),
    }
}

/// Whether `identify` was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identified {
    Done,
    /// It has to be handled once more, later: the client waits for its missed pushes.
    Waits,
}

/// Handles a new connection. A device whose id is in the URL gets an answer only if it asks for missed pushes, or
/// needs a position.
pub(super) fn open(core: &mut Core, key: SessionKey, connection: &mut Connection) {
    let Some(device) = connection.device.take() else {
        let frame = envelope::identify_required(core);
        return core.send(key, &frame);
    };
    if !connection.admit_device(core, key, &device) {
        return;
    }
    if connection.since.is_some() && waits(core, key, connection, ResumeWait::Opening) {
        connection.device = Some(device);
        return;
    }
    let since = connection.since.take();
    if since.is_some() || core.has_history() {
        answer(core, key, &device, since.as_deref(), ASKED_BY_URL);
    }
    bind(core, key, connection, device);
}

/// Handles `identify`, which must come before every other message.
pub(super) fn identify(
    core: &mut Core,
    key: SessionKey,
    connection: &mut Connection,
    message: &DeviceMessage,
) -> Result<Identified, RefusedMessage> {
    if message.name != "identify" {
        return Err(RefusedMessage::new(Code::Unauthenticated, "Identify first"));
    }
    let device = message.device_id();
    let why = "identify requires data.device_id";
    let device = device.ok_or_else(|| RefusedMessage::new(Code::BadRequest, why))?;
    let device = TopicName::from(device);
    if !connection.admit_device(core, key, &device) {
        return Ok(Identified::Done);
    }
    let since = message.since().or(connection.since.as_deref());
    // A client that has gone gets no missed pushes: only its messages are still forwarded.
    let since = since.filter(|_| !connection.is_gone());
    if since.is_some() && waits(core, key, connection, ResumeWait::Identify) {
        return Ok(Identified::Waits);
    }
    answer(core, key, &device, since.as_deref(), message.request());
    bind(core, key, connection, device);
    Ok(Identified::Done)
}

/// Whether a client has to wait for its missed pushes: then `wait` follows in a later turn.
fn waits(core: &mut Core, key: SessionKey, connection: &mut Connection, wait: ResumeWait) -> bool {
    let waits = !core.may_begin_resume(key);
    connection.resume_wait = waits.then_some(wait);
    if waits {
        // The memory of its messages is charged already.
        core.go_on_with_resume(key, 0);
    }
    waits
}

/// Answers, and sends the missed pushes after the answer. The caller makes the client a member in the same turn, so no
/// push can come between.
fn answer(
    core: &mut Core,
    key: SessionKey,
    device: &TopicName,
    since: Option<&str>,
    request: (&str, &str),
) {
    let devices = std::slice::from_ref(device);
    let mut follow = Follow::default();
    let missed = since.map(|since| follow.all_missed(core, key, since, devices));
    let is_recovered = missed.map(|missed| missed.is_ok());
    let mut data = ObjectWriter::new();
    data.string("device_id", device.as_str());
    write_recovered(
        &mut data,
        is_recovered,
        missed.and_then(Result::err).map(NotRecovered::label),
    );
    // Each missed push has its own position.
    let position = core.position().filter(|_| is_recovered != Some(true));
    let frame = envelope::response(&(&*core).into(), request, &data.finish(), position);
    core.send(key, &frame);
    // No status follows: devices get none.
    follow.send(core, key);
}

/// The client gets the pushes to the device from here on.
fn bind(core: &mut Core, key: SessionKey, connection: &mut Connection, device: TopicName) {
    core.join(key, &device);
    connection.device = Some(device);
    core.set_client_bytes(key, connection.memory_bytes());
}
