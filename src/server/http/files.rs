//! Files inside the binary. Each is also compressed with gzip once at the start, and each of the two forms has an
//! entity tag: browsers ask each time, and usually get a 304. Browser clients are among the files: a client is a
//! script, which `scripts/serve_clients.mjs` makes of the modules of `clients/js`, and a file with their types.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};

use super::site::{Answer, RequestParts, Route};
use weirgate_wire::space;

/// Allows scripts, styles and connections of this origin only, and no framing of a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub path: &'static str,
    pub text: Cow<'static, str>,
}

impl File {
    pub(crate) const fn new(path: &'static str, text: &'static str) -> Self {
        let text = Cow::Borrowed(text);
        Self { path, text }
    }

    fn content_type(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("js") => SCRIPT,
            Some("css") => "text/css; charset=utf-8",
            // Declarations: people and compilers read them, and no browser runs them.
            Some("ts") => "text/plain; charset=utf-8",
            _ => "text/html; charset=utf-8",
        }
    }
}

/// Returns a route for each of these files.
pub(crate) fn routes(files: impl IntoIterator<Item = File>) -> Vec<Route> {
    files.into_iter().map(route).collect()
}

fn route(file: File) -> Route {
    let path = file.path;
    let forms = Forms::of(file);
    Route::get(path, move |request| forms.answer(request))
}

/// The forms of a file that a response may have.
struct Forms {
    content_type: &'static str,
    plain: TaggedBody,
    /// `None` if gzip makes the file no smaller.
    gzip: Option<TaggedBody>,
}

/// A body with its strong entity tag, a hash of the bytes: the forms of a file must have different tags (RFC 9110
/// §8.8.3.3).
struct TaggedBody {
    body: Bytes,
    etag: HeaderValue,
}

impl Forms {
    fn of(file: File) -> Self {
        let packed = gzip(file.text.as_bytes()).filter(|packed| packed.len() < file.text.len());
        Self {
            content_type: file.content_type(),
            plain: TaggedBody::of(Bytes::from(file.text.into_owned())),
            gzip: packed.map(|packed| TaggedBody::of(packed.into())),
        }
    }

    /// A new build may have a new file under the same name, so browsers ask each time; most get a 304.
    fn answer(&self, request: &RequestParts) -> Answer {
        let packed = self.gzip.as_ref().filter(|_| takes_gzip(request));
        let form = packed.unwrap_or(&self.plain);
        let answer = if has_form(request, &form.etag) {
            Answer::empty(StatusCode::NOT_MODIFIED)
        } else {
            let answer = Answer::new(StatusCode::OK, self.content_type, form.body.clone());
            answer.with_all(packed.map(|_| (header::CONTENT_ENCODING, "gzip")))
        };
        answer.with(header::ETAG, form.etag.clone()).with_all([
            (header::VARY, "Accept-Encoding"),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
        ])
    }
}

impl TaggedBody {
    fn of(body: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let etag = HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { body, etag }
    }
}

/// Compresses at the highest level. The result depends only on the file, so all instances of a build have the same
/// tags.
fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // A vector takes every byte.
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Returns true if `If-None-Match` contains the tag (RFC 9110 §13.1.2; the weak comparison), also with the suffix of a proxy
/// that compresses: `"…-gzip"`, or `"…"-gzip` of an old Apache.
fn has_form(request: &RequestParts, etag: &HeaderValue) -> bool {
    let known = request.header(&header::IF_NONE_MATCH).unwrap_or_default();
    let mut tags = known.split(',').map(space::trim);
    let ours = etag.to_str().unwrap_or_default().trim_matches('"');
    tags.any(|tag| {
        let opaque = tag.trim_start_matches("W/").replace('"', "");
        let suffix = opaque.strip_prefix(ours);
        tag == "*" || suffix.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    })
}

/// Returns true if `Accept-Encoding` permits gzip and does not prefer plain bytes (RFC 9110 §12.5.3). Without the
/// header the answer is plain: many programs without the header cannot decompress.
fn takes_gzip(request: &RequestParts) -> bool {
    let values = request.header_values(&header::ACCEPT_ENCODING);
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for coding in values.flat_map(|value| value.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let quality = match space::trim(name).to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut any,
            _ => continue,
        };
        *quality = Some(quality_of(weight));
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// Returns the quality in a weight such as `q=0.5`; 0 if the weight is unreadable.
fn quality_of(weight: &str) -> f32 {
    let (name, value) = space::trim(weight).split_once('=').unwrap_or_default();
    let quality = value
        .parse()
        .ok()
        .filter(|_| name.eq_ignore_ascii_case("q"));
    quality.unwrap_or(0.0)
}

/// The browser client of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientModule {
    /// `/weirgate.js`.
    Levels,
    /// `/trades.js`.
    Trades,
    /// `/channels.js`.
    Channels,
    /// `/events.js`.
    Events,
}

/// Script and types of a client: the script as `make served` has made it, and the declarations of its modules. A module comes
/// after those that it imports.
macro_rules! client {
    ($name:literal $(, $before:literal)*) => {
        [
            File::new(
                concat!("/", $name, ".js"),
                include_str!(concat!("../../../clients/js/served/", $name, ".js")),
            ),
            File {
                path: concat!("/", $name, ".d.ts"),
                text: joined(concat!(
                    $(include_str!(concat!("../../../clients/js/", $before, ".d.ts")),)*
                    include_str!(concat!("../../../clients/js/", $name, ".d.ts")),
                )),
            },
        ]
    };
}

/// The files of a gateway's client, and of the event stream, which any client can use in place of a WebSocket.
fn files_of(client: ClientModule) -> Vec<File> {
    let own = match client {
        ClientModule::Levels => client!("weirgate"),
        ClientModule::Trades => client!("trades", "weirgate", "session", "subscriber"),
        ClientModule::Channels => client!("channels", "weirgate", "session", "subscriber"),
        ClientModule::Events => client!("events", "weirgate", "session"),
    };
    own.into_iter().chain(client!("event-stream")).collect()
}

/// Declarations of several modules as those of one: without imports and re-exports, because the modules before have these
/// names. An import is a single line, and no two modules have the same name at the top level.
fn joined(declarations: &str) -> Cow<'static, str> {
    let lines = declarations.split_inclusive('\n');
    let is_gone = |line: &&str| line.starts_with("import ") || line.starts_with("export { ");
    Cow::Owned(lines.filter(|line| !is_gone(line)).collect())
}

/// Returns a route for each file of a client.
pub fn client_routes(client: ClientModule) -> Vec<Route> {
    routes(files_of(client))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use hyper::Request;
    use hyper::header::HeaderName;
    use std::io::Read;

    const NAMES: &str = "names names names names names names names names names names";

    pub(crate) fn ask(file: &File, headers: &[(HeaderName, &str)]) -> Answer {
        let mut request = Request::get(file.path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts::of_this_machine(head);
        Forms::of(file.clone()).answer(&request)
    }

    fn is_packed(accept: &[&str]) -> bool {
        let accept: Vec<_> = accept
            .iter()
            .map(|&value| (header::ACCEPT_ENCODING, value))
            .collect();
        let answer = ask(&File::new("/a.js", NAMES), &accept);
        assert_eq!(answer.headers[header::VARY], "Accept-Encoding");
        let is_packed = answer.headers.contains_key(header::CONTENT_ENCODING);
        let mut text = String::new();
        match is_packed {
            true => GzDecoder::new(&*answer.body).read_to_string(&mut text),
            false => (&*answer.body).read_to_string(&mut text),
        }
        .unwrap();
        assert_eq!(text, NAMES);
        is_packed
    }

    #[test]
    fn whoever_has_a_file_gets_only_its_tag() {
        for text in ["a", NAMES] {
            let file = File::new("/a.js", text);
            for accept in [
                &[][..],
                &[(header::ACCEPT_ENCODING, "gzip, deflate, br, zstd")],
            ] {
                let whole = ask(&file, accept);
                assert_eq!(whole.status, StatusCode::OK);
                assert_eq!(whole.headers[header::CONTENT_TYPE], SCRIPT);
                assert_eq!(whole.headers[header::CACHE_CONTROL], "no-cache");
                let tag = whole.headers[header::ETAG].to_str().unwrap();
                let asked = |file: &File, known: &str| {
                    ask(file, &[accept, &[(header::IF_NONE_MATCH, known)]].concat())
                };
                let bare = tag.trim_matches('"');
                for known in [
                    tag,
                    "*",
                    &format!("\"a\", W/{tag}"),
                    &format!("\"{bare}-gzip\""),
                    &format!("W/\"{bare};br\""),
                    &format!("{tag}-gzip"),
                ] {
                    let answer = asked(&file, known);
                    assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{known}");
                    assert!(answer.body.is_empty());
                    assert_eq!(answer.headers[header::ETAG], tag);
                    assert_eq!(answer.headers[header::VARY], "Accept-Encoding");
                    assert!(!answer.headers.contains_key(header::CONTENT_ENCODING));
                }
                let other = asked(&File::new("/a.js", "b"), tag);
                assert_eq!(other.status, StatusCode::OK);
                let longer = asked(&file, &format!("\"{bare}0\""));
                assert_eq!(longer.status, StatusCode::OK);
            }
        }
    }

    #[test]
    fn gzip_only_where_the_request_permits() {
        for accept in [
            &["gzip"][..],
            &["GZip;Q=0.1"],
            &["x-gzip"],
            &["*"],
            &["br, gzip ; q=0.5"],
            &["gzip, identity"],
            &["br;q=1.0, *;q=0.5"],
            &["br", "deflate, gzip"],
            &["identity;q=0, *"],
        ] {
            assert!(is_packed(accept), "{accept:?}");
        }
        for accept in [
            &[][..],
            &[""],
            &["br, deflate"],
            &["gzip;q=0"],
            &["gzip;q=0.000, *"],
            &["*;q=0"],
            &["identity, gzip;q=0.5"],
            &["gzip;q=x"],
            &["gzip;q=NaN"],
            &["gzip;level=1"],
            &["gzipped"],
            &["identity"],
        ] {
            assert!(!is_packed(accept), "{accept:?}");
        }
    }

    #[test]
    fn each_form_has_its_own_tag_and_a_file_that_gzip_makes_longer_has_one_form() {
        let gzip = [(header::ACCEPT_ENCODING, "gzip")];
        let file = File::new("/a.js", NAMES);
        let (plain, packed) = (ask(&file, &[]), ask(&file, &gzip));
        let tags = [&plain, &packed].map(|answer| answer.headers[header::ETAG].clone());
        assert_ne!(tags[0], tags[1]);
        // The bytes of the other form are not bytes of this form.
        let known = (header::IF_NONE_MATCH, tags[0].to_str().unwrap());
        let again = ask(&file, &[gzip[0].clone(), known]);
        assert_eq!(again.status, StatusCode::OK);
        let short = ask(&File::new("/a.js", "a"), &gzip);
        assert!(!short.headers.contains_key(header::CONTENT_ENCODING));
        assert_eq!(short.headers[header::VARY], "Accept-Encoding");
    }

    #[test]
    fn a_client_is_one_file_with_its_types() {
        for (client, name) in [
            (ClientModule::Levels, "Levels"),
            (ClientModule::Trades, "Trades"),
            (ClientModule::Channels, "Channels"),
            (ClientModule::Events, "Devices"),
        ] {
            let files = files_of(client);
            assert_eq!(files.len(), 4);
            for file in &files[..2] {
                let class = format!("export class {name}");
                assert_eq!(file.text.matches(&class).count(), 1, "{}", file.path);
            }
            for file in files {
                assert!(!file.text.contains(" from \"./"), "{}", file.path);
                assert_eq!(file.text.contains("/**"), file.path.ends_with(".d.ts"));
            }
        }
    }
}
