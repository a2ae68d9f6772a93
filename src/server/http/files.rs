//! Files inside the binary. Each is also compressed with gzip once at the start, and each of the two representations has an
//! entity tag: browsers ask each time, and usually get a 304.

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

    /// Returns the media type by the extension of the path. A path without a known one is that of a page.
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
    let representations = Representations::of(file);
    Route::get(path, move |request| representations.answer(request))
}

/// The representations of a file (RFC 9110 §8).
struct Representations {
    content_type: &'static str,
    plain: TaggedBody,
    /// `None` if gzip makes the file no smaller.
    gzip: Option<TaggedBody>,
}

/// A body with its strong entity tag, a hash of the bytes: the representations of a file must have different tags (RFC
/// 9110 §8.8.3.3).
struct TaggedBody {
    body: Bytes,
    etag: HeaderValue,
}

impl Representations {
    /// Makes the representations. A compressed one exists only if it is smaller.
    fn of(file: File) -> Self {
        let gzipped = gzip(file.text.as_bytes());
        let gzipped = gzipped.filter(|gzipped| gzipped.len() < file.text.len());
        Self {
            content_type: file.content_type(),
            plain: TaggedBody::of(Bytes::from(file.text.into_owned())),
            gzip: gzipped.map(|gzipped| TaggedBody::of(gzipped.into())),
        }
    }

    /// A new build may have a new file under the same name, so browsers ask each time; most get a 304.
    fn answer(&self, request: &RequestParts) -> Answer {
        let gzipped = self.gzip.as_ref().filter(|_| accepts_gzip(request));
        let chosen = gzipped.unwrap_or(&self.plain);
        let answer = if has_tag(request, &chosen.etag) {
            Answer::empty(StatusCode::NOT_MODIFIED)
        } else {
            let answer = Answer::new(StatusCode::OK, self.content_type, chosen.body.clone());
            answer.with_all(gzipped.map(|_| (header::CONTENT_ENCODING, "gzip")))
        };
        answer.with(header::ETAG, chosen.etag.clone()).with_all([
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
        // Cannot fail: the tag is quotes and hexadecimal digits.
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
fn has_tag(request: &RequestParts, etag: &HeaderValue) -> bool {
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
fn accepts_gzip(request: &RequestParts) -> bool {
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

/// Returns the quality in a weight such as `q=0.5`; 0 if the weight is unreadable: plain bytes are then right for every
/// program.
fn quality_of(weight: &str) -> f32 {
    let (name, value) = space::trim(weight).split_once('=').unwrap_or_default();
    let quality = value
        .parse()
        .ok()
        .filter(|_| name.eq_ignore_ascii_case("q"));
    quality.unwrap_or(0.0)
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
        Representations::of(file.clone()).answer(&request)
    }

    fn is_gzipped(accept: &[&str]) -> bool {
        let accept: Vec<_> = accept
            .iter()
            .map(|&value| (header::ACCEPT_ENCODING, value))
            .collect();
        let answer = ask(&File::new("/a.js", NAMES), &accept);
        assert_eq!(answer.headers[header::VARY], "Accept-Encoding");
        let is_gzipped = answer.headers.contains_key(header::CONTENT_ENCODING);
        let mut text = String::new();
        match is_gzipped {
            true => GzDecoder::new(&*answer.body).read_to_string(&mut text),
            false => (&*answer.body).read_to_string(&mut text),
        }
        .unwrap();
        assert_eq!(text, NAMES);
        is_gzipped
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
            assert!(is_gzipped(accept), "{accept:?}");
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
            assert!(!is_gzipped(accept), "{accept:?}");
        }
    }

    #[test]
    fn each_representation_has_its_own_tag_and_a_file_that_gzip_makes_longer_has_one() {
        let gzip = [(header::ACCEPT_ENCODING, "gzip")];
        let file = File::new("/a.js", NAMES);
        let (plain, gzipped) = (ask(&file, &[]), ask(&file, &gzip));
        let tags = [&plain, &gzipped].map(|answer| answer.headers[header::ETAG].clone());
        assert_ne!(tags[0], tags[1]);
        // The bytes of one representation are not bytes of the other.
        let known = (header::IF_NONE_MATCH, tags[0].to_str().unwrap());
        let again = ask(&file, &[gzip[0].clone(), known]);
        assert_eq!(again.status, StatusCode::OK);
        let short = ask(&File::new("/a.js", "a"), &gzip);
        assert!(!short.headers.contains_key(header::CONTENT_ENCODING));
        assert_eq!(short.headers[header::VARY], "Accept-Encoding");
    }
}
