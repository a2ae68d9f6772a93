//! The streams that hold messages under other subjects than those of publishers: by a transform, or as copies. JetStream
//! does not find them by such a subject, so they are looked for in the list of all streams.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weirgate_wire::auth::Subject;
use weirgate_wire::json::Json;

use super::ANSWER_TIMEOUT;
use super::question::ReplyNumber;
use super::streams::{HoldingStream, ListedStream, StreamPart, listed_streams};
use crate::nats::stream_info::check_made;

/// How long the list of all streams is used. Questions for names without a stream can come all the time, and a list of
/// many streams is long.
const LIST_AGE_MAX: Duration = Duration::from_secs(1);
/// The most streams of the list that are looked at.
const LISTED_MAX: usize = 1_024;

/// The list of all streams, for one connection.
#[derive(Debug, Default)]
pub(super) struct AllStreams {
    state: Listing,
}

#[derive(Debug, Default)]
enum Listing {
    #[default]
    Unknown,
    /// The request with this number is on its way, for the streams after those that were listed.
    Pending {
        number: ReplyNumber,
        since: Instant,
        listed: Vec<ListedStream>,
    },
    Known {
        since: Instant,
        found: StoredElsewhere,
    },
}

/// The streams that hold messages under other subjects than those of publishers.
#[derive(Debug, Default)]
struct StoredElsewhere {
    transformed: Vec<HoldingStream>,
    copied: Vec<HoldingStream>,
    /// The subjects that some stream stores itself, from publishers or by its transform: a copy of these does not count.
    /// Empty if nothing is copied.
    own: Vec<Subject>,
    /// There are more streams than were looked at.
    has_more_streams: bool,
}

impl StoredElsewhere {
    /// Those among all streams.
    fn in_streams(streams: &[ListedStream]) -> Self {
        let names: BTreeSet<_> = streams.iter().map(|one| &*one.config.name).collect();
        let mut all = Self::default();
        for stream in streams {
            let transformed = stream.config.transformed();
            let holding = |subject| HoldingStream::of(stream, vec![subject]);
            all.transformed.extend(transformed.map(holding));
            let copied = stream.config.copied(|origin| names.contains(origin));
            if !copied.is_empty() {
                all.copied.push(HoldingStream::of(stream, copied));
            }
        }
        if !all.copied.is_empty() {
            for ListedStream { config, .. } in streams {
                all.own
                    .extend(config.published().chain(config.transformed()));
            }
        }
        all
    }

    /// Whether no stream of the list is being made.
    fn is_finished(&self) -> bool {
        let mut all = self.transformed.iter().chain(&self.copied);
        all.all(|stream| check_made(&stream.made).is_ok())
    }

    /// The parts of the name in these streams. A copy counts only if no stream takes or makes such subjects itself.
    fn parts_of(&self, name: &Subject) -> Vec<StreamPart> {
        let transformed = self.transformed.iter();
        let transformed = transformed.flat_map(|stream| stream.parts_of(name));
        let is_own = |subject: &Subject| {
            let mut own = self.own.iter();
            own.any(|own| own.intersection(subject).is_some())
        };
        let copied = self.copied.iter().flat_map(|stream| {
            let subjects = stream.subjects_of(name);
            let copied = subjects.filter(|subject| !is_own(subject));
            copied.map(|subject| stream.part(&subject))
        });
        // The list may be older than what was read.
        let (last, has_holes) = (None, true);
        let all = transformed.chain(copied);
        let unknown = |part| StreamPart {
            last,
            has_holes,
            ..part
        };
        all.map(unknown).collect()
    }
}

/// What follows a page of the list of all streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterPage {
    /// Another page is to be asked for.
    NextPage,
    /// The list is known.
    Known,
}

impl AllStreams {
    /// Whether the list is known, young enough, and without a stream that is being made.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        match &self.state {
            Listing::Known { since, found } => now < *since + LIST_AGE_MAX && found.is_finished(),
            Listing::Unknown | Listing::Pending { .. } => false,
        }
    }

    /// Begins to ask with the request of this number. Returns false if a request is on its way.
    pub(super) fn ask(&mut self, number: ReplyNumber, now: Instant) -> bool {
        let is_asked =
            matches!(self.state, Listing::Pending { since, .. } if now < since + ANSWER_TIMEOUT);
        if !is_asked {
            self.state = Listing::Pending {
                number,
                since: now,
                listed: Vec::new(),
            };
        }
        !is_asked
    }

    /// The number of the request that is on its way.
    pub(super) fn asked(&self) -> Option<ReplyNumber> {
        match self.state {
            Listing::Pending { number, .. } => Some(number),
            Listing::Unknown | Listing::Known { .. } => None,
        }
    }

    /// The body of the request.
    pub(super) fn request(&self) -> String {
        let offset = match &self.state {
            Listing::Pending { listed, .. } => listed.len(),
            Listing::Unknown | Listing::Known { .. } => 0,
        };
        sonic_rs::json!({ "offset": offset }).to_string()
    }

    /// Forgets the request on its way, which is refused.
    pub(super) fn refused(&mut self) {
        self.state = Listing::Unknown;
    }

    /// Adds a page to the list. The list is whole with as many streams as the server counts, or after a page without
    /// streams; a list that would be longer than [`LISTED_MAX`] ends there.
    pub(super) fn add_page(&mut self, answer: Json<'_>) -> AfterPage {
        let Listing::Pending { since, listed, .. } = &mut self.state else {
            return AfterPage::Known;
        };
        let page = listed_streams(&answer);
        let is_last = page.is_empty();
        listed.extend(page);
        // Without a count, the list counts as whole.
        let total = answer.number(&["total"]).unwrap_or(0);
        let is_whole = is_last || listed.len() as u64 >= total;
        if !is_whole && listed.len() < LISTED_MAX {
            return AfterPage::NextPage;
        }
        let (since, mut found) = (*since, StoredElsewhere::in_streams(listed));
        found.has_more_streams = !is_whole;
        self.state = Listing::Known { since, found };
        AfterPage::Known
    }

    /// Whether there are more streams than were looked at.
    pub(super) fn has_more_streams(&self) -> bool {
        matches!(&self.state, Listing::Known { found, .. } if found.has_more_streams)
    }

    /// The streams that hold a part of the name under other subjects than those of publishers. A copy counts only if no
    /// stream takes or makes such subjects itself, because a copy may be behind.
    pub(super) fn parts_elsewhere(&self, name: &str) -> Vec<StreamPart> {
        match (Subject::parse(name), &self.state) {
            (Ok(name), Listing::Known { found, .. }) => found.parts_of(&name),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pages: &[String]) -> AllStreams {
        let (mut all, now) = (AllStreams::default(), Instant::now());
        let [first, second] = [1, 2].map(ReplyNumber);
        assert!(all.ask(first, now) && !all.ask(second, now) && all.asked() == Some(first));
        for (n, page) in pages.iter().enumerate() {
            let want = match n + 1 == pages.len() {
                true => AfterPage::Known,
                false => AfterPage::NextPage,
            };
            let page = Json::read(page.as_bytes()).expect("JSON");
            assert_eq!(all.add_page(page), want);
        }
        assert!(all.is_known(now) && !all.is_known(now + LIST_AGE_MAX));
        all
    }

    fn page(total: usize, configs: &[&str]) -> String {
        let stream =
            |config: &&str| format!(r#"{{"config":{{{config}}},"cluster":{{"leader":"s1"}}}}"#);
        let streams: Vec<String> = configs.iter().map(stream).collect();
        format!(r#"{{"total":{total},"streams":[{}]}}"#, streams.join(","))
    }

    fn found(all: &AllStreams, name: &str) -> Vec<(String, String)> {
        let parts = all.parts_elsewhere(name).into_iter();
        parts.map(|one| (one.stream, one.filter)).collect()
    }

    fn pair(stream: &str, filter: &str) -> (String, String) {
        (stream.to_owned(), filter.to_owned())
    }

    #[test]
    fn messages_are_found_under_the_subjects_that_transforms_make() {
        let all = known(&[page(
            4,
            &[
                r#""name":"T","subjects":["in.>"],"subject_transform":{"src":"in.>","dest":"out.>"}"#,
                r#""name":"O","subjects":["o.>"]"#,
                r#""name":"S","sources":[{"name":"O","subject_transforms":[{"src":"o.>","dest":"s.>"}]},{"name":"T"}]"#,
                r#""name":"M","mirror":{"name":"O","subject_transforms":[{"src":"o.>","dest":"m.{{wildcard(1)}}"}]}"#,
            ],
        )]);
        assert_eq!(found(&all, "out.a"), [pair("T", "out.a")]);
        assert_eq!(found(&all, "s.*"), [pair("S", "s.*")]);
        assert_eq!(found(&all, "m.>"), [pair("M", "m.*")]);
        assert_eq!(found(&all, "o.a"), []);
        assert_eq!(found(&all, ">").len(), 3);
    }

    #[test]
    fn a_copy_counts_if_no_stream_takes_the_subject() {
        let configs = [
            r#""name":"O","subjects":["o.>"]"#,
            r#""name":"SAME","sources":[{"name":"O"}]"#,
            r#""name":"BACK","sources":[{"name":"O","subject_transforms":[{"src":"o.a","dest":"o.b"}]}]"#,
            r#""name":"FAR","mirror":{"name":"O","external":{"api":"$JS.far.API"},"filter_subject":"far.*"}"#,
            r#""name":"LEFT","sources":[{"name":"GONE"}]"#,
            r#""name":"BAD","subjects":7"#,
        ];
        let pages: Vec<_> = configs
            .iter()
            .map(|one| page(configs.len(), &[one]))
            .collect();
        let all = known(&pages);
        assert_eq!(found(&all, "o.b"), []);
        assert_eq!(
            found(&all, "far.x"),
            [pair("FAR", "far.x"), pair("LEFT", "far.x")]
        );
        assert_eq!(found(&all, "else"), [pair("LEFT", "else")]);
    }

    #[test]
    fn the_streams_that_are_looked_through_are_bounded() {
        let mut all = AllStreams::default();
        let many = page(2_000, &vec![r#""name":"S","subjects":["a"]"#; 600]);
        let many = Json::read(many.as_bytes()).expect("JSON");
        assert!(all.ask(ReplyNumber(1), Instant::now()));
        assert_eq!(all.request(), r#"{"offset":0}"#);
        assert_eq!(all.add_page(many), AfterPage::NextPage);
        assert_eq!(all.request(), r#"{"offset":600}"#);
        assert_eq!(all.add_page(many), AfterPage::Known);
        assert_eq!(
            (all.add_page(many), all.parts_elsewhere("a")),
            (AfterPage::Known, vec![])
        );
        assert!(all.has_more_streams());
        all.refused();
        assert!(!all.is_known(Instant::now()));
    }
}
