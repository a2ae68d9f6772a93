//! Files inside the binary, plain and compressed with gzip once at the start, each form with an entity tag:
//! browsers ask each time, and usually get a 304.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};

use super::site::{Answer, RequestParts, Route};

/// Scripts, styles and connections of this origin only; no page may be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The type for declarations, which people and compilers read, but no browser runs.
const TYPES: &str = "text/plain; charset=utf-8";

/// A file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: Cow<'static, str>,
}

impl File {
    pub(super) const fn html(path: &'static str, text: &'static str) -> Self {
        Self::new(path, "text/html; charset=utf-8", Cow::Borrowed(text))
    }

    pub(super) const fn css(path: &'static str, text: &'static str) -> Self {
        Self::new(path, "text/css; charset=utf-8", Cow::Borrowed(text))
    }

    pub(super) const fn script(path: &'static str, text: &'static str) -> Self {
        Self::joined_script(path, Cow::Borrowed(text))
    }

    pub(super) const fn joined_script(path: &'static str, text: Cow<'static, str>) -> Self {
        Self::new(path, SCRIPT, text)
    }

    pub(super) const fn types(path: &'static str, text: Cow<'static, str>) -> Self {
        Self::new(path, TYPES, text)
    }

    const fn new(path: &'static str, content_type: &'static str, text: Cow<'static, str>) -> Self {
        Self {
            path,
            content_type,
            text,
        }
    }
}

/// Returns a route for each of these files.
pub(super) fn routes(files: impl IntoIterator<Item = File>) -> Vec<Route> {
    files.into_iter().map(route).collect()
}

fn route(file: File) -> Route {
    let path = file.path;
    let forms = Forms::of(file);
    Route::get(path, move |request| forms.answer(request))
}

/// The forms of a file that are sent.
struct Forms {
    content_type: &'static str,
    plain: Form,
    /// `None` if gzip makes the file no smaller.
    gzip: Option<Form>,
}

/// A body with its strong tag, derived from the bytes: forms of a file have different tags (RFC 9110 §8.8.3.3).
struct Form {
    body: Bytes,
    etag: HeaderValue,
}

impl Forms {
    fn of(file: File) -> Self {
        let packed = gzip(file.text.as_bytes()).filter(|packed| packed.len() < file.text.len());
        Self {
            content_type: file.content_type,
            plain: Form::of(Bytes::from(file.text.into_owned())),
            gzip: packed.map(|packed| Form::of(packed.into())),
        }
    }

    /// A new build may have a new file under the same name, so browsers ask each time; most get a 304.
    fn answer(&self, request: &RequestParts) -> Answer {
        let packed = self.gzip.as_ref().filter(|_| takes_gzip(request));
        let form = packed.unwrap_or(&self.plain);
        let fixed = |name: HeaderName, value| (name, HeaderValue::from_static(value));
        let answer = if has_form(request, &form.etag) {
            Answer::empty(StatusCode::NOT_MODIFIED)
        } else {
            let answer = Answer::new(StatusCode::OK, self.content_type, form.body.clone());
            let encoding = packed.map(|_| fixed(header::CONTENT_ENCODING, "gzip"));
            answer.with_all(encoding)
        };
        let headers = [
            (header::ETAG, form.etag.clone()),
            fixed(header::VARY, "Accept-Encoding"),
            fixed(header::CACHE_CONTROL, "no-cache"),
            fixed(header::CONTENT_SECURITY_POLICY, POLICY),
            fixed(header::REFERRER_POLICY, "no-referrer"),
        ];
        answer.with_all(headers)
    }
}

impl Form {
    fn of(body: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let etag = HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { body, etag }
    }
}

/// Compresses as small as gzip can; the bytes depend on nothing else, so instances of a build have the same tags.
fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // A vector takes every byte.
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Returns true if `If-None-Match` contains the tag (RFC 9110 §13.1.2; the weak comparison).
fn has_form(request: &RequestParts, etag: &HeaderValue) -> bool {
    let known = request.header(&header::IF_NONE_MATCH).unwrap_or_default();
    let mut tags = known.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

/// Returns true if `Accept-Encoding` permits gzip and does not prefer plain bytes (RFC 9110 §12.5.3). Without
/// the header the answer is plain: many programs that send none cannot decompress.
fn takes_gzip(request: &RequestParts) -> bool {
    let values = request.header_values(&header::ACCEPT_ENCODING);
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for coding in values.flat_map(|value| value.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let quality = match name.trim().to_ascii_lowercase().as_str() {
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

/// Returns the quality of a weight `q=0.5`; an unreadable weight is 0.
fn quality_of(weight: &str) -> f32 {
    let (name, value) = weight.trim().split_once('=').unwrap_or_default();
    let quality = value
        .parse()
        .ok()
        .filter(|_| name.eq_ignore_ascii_case("q"));
    quality.unwrap_or(0.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use hyper::Request;
    use std::io::Read;

    const NAMES: &str = "names names names names names names names names names names";

    pub(in crate::http) fn ask(file: &File, headers: &[(HeaderName, &str)]) -> Answer {
        let mut request = Request::get(file.path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = RequestParts {
            head,
            peer: crate::admission::Peer::Unix(None),
            is_tls: false,
        };
        Forms::of(file.clone()).answer(&request)
    }

    fn is_packed(accept: &[&str]) -> bool {
        let accept: Vec<_> = accept
            .iter()
            .map(|&value| (header::ACCEPT_ENCODING, value))
            .collect();
        let answer = ask(&File::script("/a.js", NAMES), &accept);
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
            let file = File::script("/a.js", text);
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
                for known in [tag, "*", &format!("\"a\", W/{tag}")] {
                    let answer = asked(&file, known);
                    assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{known}");
                    assert!(answer.body.is_empty());
                    assert_eq!(answer.headers[header::ETAG], tag);
                    assert_eq!(answer.headers[header::VARY], "Accept-Encoding");
                    assert!(!answer.headers.contains_key(header::CONTENT_ENCODING));
                }
                let other = asked(&File::script("/a.js", "b"), tag);
                assert_eq!(other.status, StatusCode::OK);
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
        let file = File::script("/a.js", NAMES);
        let (plain, packed) = (ask(&file, &[]), ask(&file, &gzip));
        let tags = [&plain, &packed].map(|answer| answer.headers[header::ETAG].clone());
        assert_ne!(tags[0], tags[1]);
        // The bytes of the other form are no bytes of this form.
        let known = (header::IF_NONE_MATCH, tags[0].to_str().unwrap());
        let again = ask(&file, &[gzip[0].clone(), known]);
        assert_eq!(again.status, StatusCode::OK);
        let short = ask(&File::script("/a.js", "a"), &gzip);
        assert!(!short.headers.contains_key(header::CONTENT_ENCODING));
        assert_eq!(short.headers[header::VARY], "Accept-Encoding");
    }
}
