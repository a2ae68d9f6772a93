//! Events that services push to devices. A service sends an event as the body of `POST /internal/broadcast`: `{event,
//! data?, targets: {device_ids?}}`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;
use sonic_rs::LazyValue;

use super::{EventsStats, envelope};
use crate::gateways::shared::members::{members, text_of};
use weirgate_core::{Core, FrameBytes, Message as Data, Place, Publication, TopicName};
use weirgate_wire::base::Now;
use weirgate_wire::json::{Json, JsonError, ObjectWriter};

/// An event and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The event, as a JSON string.
    pub event: String,
    /// A JSON object without white space.
    pub data: String,
    /// The ids as the service named them: a device may be named twice.
    pub device_ids: Vec<String>,
}

/// An error in a body: the path to the wrong value, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    path: Vec<PathStep>,
    what: Cow<'static, str>,
}

/// A step from the body to a value inside.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PathStep {
    Member(&'static str),
    /// An index in a list. In the body itself: the byte at which the text stops being JSON.
    Index(usize),
}

const REQUIRED: &str = "Field required";
const NO_TEXT: &str = "Input should be a valid string";
const EMPTY: &str = "String should have at least 1 character";
const NO_OBJECT: &str = "Input should be a valid dictionary";
const NO_LIST: &str = "Input should be a valid list";
const NO_JSON: &str = "JSON decode error";

/// Device ids in any broadcast; more only if the body has [`DEVICE_ID_BYTES`] for each. An id takes some 100 bytes more than
/// its text, and as little as three bytes of the body.
const DEVICE_IDS_MAX: usize = 500_000;
const DEVICE_ID_BYTES: usize = 16;

/// Wrong device ids that a response names. An error is many times longer than the shortest wrong id.
const WRONG_MAX: usize = 100;

impl Broadcast {
    /// Reads a body. Other members are ignored; the last of repeated members counts.
    ///
    /// # Errors
    /// Returns the errors of the body. Of the device ids, at most the first 100 wrong ones are named.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Wrong>> {
        let body = &*Json::utf8_of(body);
        if let Err(error) = Json::check(body) {
            return Err(vec![Wrong::new([PathStep::Index(offset(&error))], NO_JSON)]);
        }
        // The text was checked, so members can only fail because the value is not an object.
        let Ok([event, data, targets]) = members(body, ["event", "data", "targets"]) else {
            return Err(vec![Wrong::new([], NO_OBJECT)]);
        };
        let mut wrong = Vec::new();
        let event = read_event(event.as_ref()).map_err(|one| wrong.push(one));
        let data = read_data(data.as_ref()).map_err(|one| wrong.push(one));
        let ids_max = DEVICE_IDS_MAX.max(body.len() / DEVICE_ID_BYTES);
        let device_ids = read_targets(targets.as_ref(), ids_max).map_err(|some| wrong.extend(some));
        match (event, data, device_ids) {
            (Ok(event), Ok(data), Ok(device_ids)) => Ok(Self {
                event,
                data,
                device_ids,
            }),
            _ => Err(wrong),
        }
    }
}

impl Broadcast {
    /// Whether the event is for several devices. A push to one device is its user's own, so no other compressed message
    /// may refer to it ([`weirgate_core::Frame::is_common`]).
    fn is_common(&self) -> bool {
        let mut ids = self.device_ids.iter();
        let first = ids.next();
        ids.any(|id| Some(id) != first)
    }
}

impl Wrong {
    fn new(path: impl IntoIterator<Item = PathStep>, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: path.into_iter().collect(),
            what: what.into(),
        }
    }

    /// Returns `{"loc":["body",…],"msg":…}`.
    fn json(&self) -> ObjectWriter {
        let mut path = vec![Cow::Borrowed("\"body\"")];
        path.extend(self.path.iter().map(|step| match step {
            PathStep::Member(name) => Cow::Owned(format!("\"{name}\"")),
            PathStep::Index(index) => Cow::Owned(index.to_string()),
        }));
        let mut object = ObjectWriter::new();
        object.raw("loc", &format!("[{}]", path.join(",")));
        object.string("msg", &self.what);
        object
    }

    /// Returns `{"detail":[…]}`, the body of the 422.
    pub fn response(errors: &[Self]) -> String {
        let all: Vec<_> = errors.iter().map(|one| one.json().finish()).collect();
        let mut object = ObjectWriter::new();
        object.raw("detail", &format!("[{}]", all.join(",")));
        object.finish()
    }
}

/// The byte at which a text stops being JSON.
fn offset(error: &JsonError) -> usize {
    match error {
        JsonError::TooDeep { offset }
        | JsonError::Syntax { offset, .. }
        | JsonError::NotUtf8 { offset }
        | JsonError::BrokenEscape { offset } => *offset,
        // Not errors of a check, which alone is asked here.
        JsonError::NotAnObject | JsonError::TooManyMembers | JsonError::TooDense => 0,
    }
}

/// Returns the event as JSON, with quotes. It has to be a text that is not empty.
fn read_event(event: Option<&LazyValue<'_>>) -> Result<String, Wrong> {
    let wrong = |what| Wrong::new([PathStep::Member("event")], what);
    let event = event.ok_or_else(|| wrong(REQUIRED))?;
    match text_of(event).as_deref() {
        None => Err(wrong(NO_TEXT)),
        Some("") => Err(wrong(EMPTY)),
        Some(_) => Ok(event.as_raw_str().to_owned()),
    }
}

fn read_data(data: Option<&LazyValue<'_>>) -> Result<String, Wrong> {
    match data.map(LazyValue::as_raw_str) {
        None => Ok("{}".to_owned()),
        Some(data) if data.starts_with('{') => Ok(Json::compact(data)),
        Some(_) => Err(Wrong::new([PathStep::Member("data")], NO_OBJECT)),
    }
}

/// Returns the ids of the devices, which are none without the member `device_ids`. The error has up to [`WRONG_MAX`]
/// wrong ids; a list of more than `ids_max` is wrong too.
fn read_targets(
    targets: Option<&LazyValue<'_>>,
    ids_max: usize,
) -> Result<Vec<String>, Vec<Wrong>> {
    const TARGETS: PathStep = PathStep::Member("targets");
    const DEVICE_IDS: PathStep = PathStep::Member("device_ids");
    let targets = targets.ok_or_else(|| vec![Wrong::new([TARGETS], REQUIRED)])?;
    let targets = targets.as_raw_str().as_bytes();
    let Ok([ids]) = members(targets, ["device_ids"]) else {
        return Err(vec![Wrong::new([TARGETS], NO_OBJECT)]);
    };
    let Some(ids) = ids else {
        return Ok(Vec::new());
    };
    let Some(ids) = Json::of(&ids).items() else {
        return Err(vec![Wrong::new([TARGETS, DEVICE_IDS], NO_LIST)]);
    };
    let mut wrong = Vec::new();
    let mut read = Vec::new();
    for (index, id) in ids.enumerate() {
        if index == ids_max {
            let what = format!("List should have at most {ids_max} items");
            wrong.push(Wrong::new([TARGETS, DEVICE_IDS], what));
            break;
        }
        match text_of(&id) {
            Some(id) => read.push(id),
            None => {
                let path = [TARGETS, DEVICE_IDS, PathStep::Index(index)];
                wrong.push(Wrong::new(path, NO_TEXT));
            }
        }
        if wrong.len() == WRONG_MAX {
            break;
        }
    }
    if wrong.is_empty() {
        Ok(read)
    } else {
        Err(wrong)
    }
}

/// The most devices of a [`Push`]: an event for more devices is delivered in parts. A device takes up to 10 µs while
/// the history is full.
const PUSH_DEVICES_MAX: usize = 200;

/// Bytes of the copies of an event in one [`Push`], beside the first copy.
const COPIED_BYTES_MAX: usize = 256 * 1024;

/// An event of a service for devices; or a part of it, for some of the devices.
pub struct Push {
    /// The event as data, of which [`envelope::placed`] makes a frame for each copy.
    data: Arc<Data>,
    part: PushPart,
    /// Deliveries of all parts so far.
    total: Arc<AtomicU64>,
    /// The callback for the total; only the last part has it.
    sent: Option<Box<dyn FnOnce(u64) + Send>>,
}

impl Push {
    /// Encodes an event, so that the loop need not; `alive` counts the frame, and `sent` receives the number of
    /// deliveries. The parts must be delivered in order.
    pub fn parts(
        broadcast: Broadcast,
        alive: &FrameBytes,
        now: Now,
        sent: Box<dyn FnOnce(u64) + Send>,
    ) -> Vec<Self> {
        let (event, data) = (broadcast.event.as_str(), broadcast.data.as_str());
        let is_common = broadcast.is_common();
        let data = Arc::new(envelope::push(alive, now, event, data, is_common));
        let total = Arc::<AtomicU64>::default();
        let part = |part: PushPart| Self {
            data: Arc::clone(&data),
            part,
            total: Arc::clone(&total),
            sent: None,
        };
        let devices = broadcast.device_ids.into_iter().map(TopicName::from);
        let copies_max = COPIED_BYTES_MAX / data.payload().len().max(1);
        let mut parts: Vec<Self> = split(devices, copies_max).into_iter().map(part).collect();
        if let Some(last) = parts.last_mut() {
            last.sent = Some(sent);
        }
        parts
    }

    /// How many devices this part is for.
    #[cfg(test)]
    pub(super) fn devices(&self) -> usize {
        self.part.devices.len()
    }

    /// Queues the event for the devices, and reports the total if this is the last part.
    pub(super) fn deliver(self, core: &mut Core, stats: &EventsStats) {
        let mut devices = self.part.devices.into_iter();
        let mut sent = 0;
        for count in self.part.copies {
            sent += deliver_copy(core, &self.data, devices.by_ref().take(count), count);
        }
        let total = self.total.fetch_add(sent, Ordering::Relaxed) + sent;
        if let Some(tell) = self.sent {
            stats.pushes.add(1);
            tell(total);
        }
    }
}

/// Queues one copy of an event for `count` devices, all different. Returns the number of deliveries.
fn deliver_copy(
    core: &mut Core,
    push: &Data,
    devices: impl Iterator<Item = TopicName>,
    count: usize,
) -> u64 {
    // A larger one could not be sent to a device that resumes, so the history does not keep it.
    let is_kept = push.payload().len() <= Core::RESUME_BYTES_MAX;
    // The position of the last device is good for all: nothing comes between the devices of a copy.
    let position = core.position_ahead(count).filter(|_| is_kept);
    let frame = envelope::placed(push, position, core.frame_bytes());
    let mut sent = 0;
    for topic in devices {
        sent += core.member_count(&topic) as u64;
        // The position of this device's own message.
        let place = match core.position_ahead(1) {
            Some(position) if is_kept => Place::Kept(Some(position)),
            Some(position) => Place::LeftOut(position),
            None => Place::Outside,
        };
        core.publish(&Publication {
            place,
            ..Publication::new(topic, Arc::clone(&frame))
        });
    }
    sent
}

/// The devices of one [`Push`].
struct PushPart {
    devices: Vec<TopicName>,
    /// How many of the devices, one after the other, each copy of the event is for.
    copies: Vec<usize>,
}

/// Splits the devices of a broadcast into parts; without devices there is an empty part. A device named again begins
/// another copy, because the two copies need two positions. After `copies_max` copies another part begins, so that a
/// turn ends before the loop has copied too much.
fn split(devices: impl Iterator<Item = TopicName>, copies_max: usize) -> Vec<PushPart> {
    let mut parts = vec![PushPart {
        devices: Vec::new(),
        copies: vec![0],
    }];
    let mut named: HashSet<TopicName, RandomState> = HashSet::default();
    for device in devices {
        let Some(part) = parts.last_mut() else {
            break;
        };
        let is_again = named.contains(&device);
        if part.devices.len() == PUSH_DEVICES_MAX || (is_again && part.copies.len() >= copies_max) {
            named.clear();
            named.insert(device.clone());
            parts.push(PushPart {
                devices: vec![device],
                copies: vec![1],
            });
            continue;
        }
        if is_again {
            named.clear();
            part.copies.push(0);
        }
        named.insert(device.clone());
        part.devices.push(device);
        if let Some(count) = part.copies.last_mut() {
            *count += 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_text_and_devices_their_number() {
        let body = br#" {"x":1,"event":"\u0061","data": {"n": 1.50},
            "targets":{"device_ids":["a","\u00e9","a"],"y":2}} "#;
        let want = Broadcast {
            event: r#""\u0061""#.to_owned(),
            data: r#"{"n":1.50}"#.to_owned(),
            device_ids: ["a", "é", "a"].map(str::to_owned).to_vec(),
        };
        assert_eq!(Broadcast::parse(body), Ok(want));
        let nobody = Broadcast::parse(br#"{"event":"e","targets":{}}"#).expect("good");
        assert_eq!((nobody.data.as_str(), nobody.device_ids.len()), ("{}", 0));
    }

    fn body(ids: &str) -> String {
        format!(r#"{{"event":"e","targets":{{"device_ids":[{ids}]}}}}"#)
    }

    #[test]
    fn a_broadcast_has_so_many_devices_and_names_so_many_errors() {
        let full = body(&vec!["\"\""; DEVICE_IDS_MAX].join(","));
        let full = Broadcast::parse(full.as_bytes()).expect("room");
        assert_eq!(full.device_ids.len(), DEVICE_IDS_MAX);
        let over = body(&vec!["\"\""; DEVICE_IDS_MAX + 1].join(","));
        let wrong = Broadcast::parse(over.as_bytes()).expect_err("too many");
        let place = r#""loc":["body","targets","device_ids"]"#;
        let want = format!(
            r#"{{"detail":[{{{place},"msg":"List should have at most {DEVICE_IDS_MAX} items"}}]}}"#
        );
        assert_eq!(Wrong::response(&wrong), want);
        let long = vec![format!("\"{:13}\"", ""); 2 * DEVICE_IDS_MAX].join(",");
        let long = Broadcast::parse(body(&long).as_bytes()).expect("ids of 16 bytes");
        assert_eq!(long.device_ids.len(), 2 * DEVICE_IDS_MAX);
        let numbers = body(&vec!["1"; 3_000_000].join(","));
        let wrong = Broadcast::parse(numbers.as_bytes()).expect_err("no texts");
        assert_eq!(wrong.len(), WRONG_MAX);
    }

    #[test]
    fn a_device_that_is_named_again_takes_no_part_of_its_own() {
        let parts = |ids: &[&'static str], copies_max| {
            let ids = ids.iter().map(|&id| TopicName::from(id));
            let parts = split(ids, copies_max).into_iter();
            parts.map(|part| part.copies).collect::<Vec<_>>()
        };
        assert_eq!(parts(&["a", "b", "a", "a"], 9), [[2, 1, 1]]);
        assert_eq!(parts(&["a", "a", "a"], 2), [vec![1, 1], vec![1]]);
        assert_eq!(parts(&["a", "a", "b"], 0), [vec![1], vec![2]]);
        let many = parts(&["a"; 2 * PUSH_DEVICES_MAX + 1], 1_000);
        assert_eq!(
            many.iter().map(Vec::len).collect::<Vec<_>>(),
            [PUSH_DEVICES_MAX, PUSH_DEVICES_MAX, 1]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let required = |name| format!(r#"{{"loc":["body","{name}"],"msg":"{REQUIRED}"}}"#);
        let one = |place: &str, what| format!(r#"{{"loc":["body"{place}],"msg":"{what}"}}"#);
        let targets = r#""targets":{}"#;
        for (body, wrong) in [
            ("{".to_owned(), one(",0", NO_JSON)),
            ("\u{feff}\u{feff}{}".to_owned(), one(",0", NO_JSON)),
            ("[".repeat(17), one(",16", NO_JSON)),
            (r#"{"a":"\ud800"}"#.to_owned(), one(",6", NO_JSON)),
            (
                format!(r#"{{"event":"e",{targets},"x":NaN}}"#),
                one(",30", NO_JSON),
            ),
            ("[]".to_owned(), one("", NO_OBJECT)),
            ("null".to_owned(), one("", NO_OBJECT)),
            (
                "{}".to_owned(),
                [required("event"), required("targets")].join(","),
            ),
            (
                format!(r#"{{"event":"",{targets}}}"#),
                one(r#","event""#, EMPTY),
            ),
            (
                format!(r#"{{"event":null,{targets}}}"#),
                one(r#","event""#, NO_TEXT),
            ),
            (
                format!(r#"{{"event":"e","data":null,{targets}}}"#),
                one(r#","data""#, NO_OBJECT),
            ),
            (
                r#"{"event":"e","targets":null}"#.to_owned(),
                one(r#","targets""#, NO_OBJECT),
            ),
            (
                r#"{"event":"e","targets":{"device_ids":null}}"#.to_owned(),
                one(r#","targets","device_ids""#, NO_LIST),
            ),
            (
                r#"{"event":"e","targets":{"device_ids":["a",1]}}"#.to_owned(),
                one(r#","targets","device_ids",1"#, NO_TEXT),
            ),
        ] {
            let all = Broadcast::parse(body.as_bytes()).expect_err(&body);
            assert_eq!(
                Wrong::response(&all),
                format!(r#"{{"detail":[{wrong}]}}"#),
                "{body}"
            );
        }
    }
}
