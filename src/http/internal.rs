//! What only the services behind a gateway may ask for: a token first, then a body.

use std::future::Future;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, StatusCode};
use subtle::ConstantTimeEq;

use super::body::{ReadBodyError, RequestBody};
use super::site::{Answer, Handler, LateAnswer, RequestParts, Route};

/// Who may ask, and how much it may say.
#[derive(Clone)]
pub struct InternalAccess {
    /// What `X-Internal-Token` has to say; `None` refuses everyone.
    pub token: Option<String>,
    /// Bytes of a body.
    pub body_bytes_max: usize,
}

static POST: [Method; 1] = [Method::POST];
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-internal-token");

/// `POST path`: `answer` is asked once the token is found good and the body is there.
pub fn route<F, A>(path: &'static str, access: InternalAccess, answer: F) -> Route
where
    F: Fn(Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + 'static,
{
    let shared = Arc::new((access, answer));
    let handler = move |request: RequestParts, body: RequestBody| {
        let shared = Arc::clone(&shared);
        async move {
            let (access, answer) = &*shared;
            let answer = match access.body(&request.head.headers, body).await {
                Ok(body) => answer(body).await,
                Err(refusal) => refusal.answer(),
            };
            LateAnswer::from(answer)
        }
    };
    Route {
        path,
        methods: &POST,
        answer: Handler::later(handler),
    }
}

/// Why a request was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotConfigured,
    Forbidden,
    TooLarge,
    Broken,
}

impl Refusal {
    fn answer(self) -> Answer {
        let (status, detail) = match self {
            Self::NotConfigured => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL_AUTH_TOKEN not configured",
            ),
            Self::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Content Too Large"),
            Self::Broken => (StatusCode::BAD_REQUEST, "Bad Request"),
        };
        Answer::detail(status, detail)
    }
}

impl InternalAccess {
    async fn body(&self, headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Refusal> {
        self.admit(headers)?;
        let read = body.read(self.body_bytes_max).await;
        read.map_err(|error| match error {
            ReadBodyError::TooLarge => Refusal::TooLarge,
            ReadBodyError::Broken(_) => Refusal::Broken,
        })
    }

    /// The token, in a time that tells nothing of where it differs.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = self.token.as_ref().ok_or(Refusal::NotConfigured)?;
        let mut given = headers.get_all(TOKEN_HEADER).iter();
        let is_it = match (given.next(), given.next()) {
            (Some(one), None) => one.as_bytes().ct_eq(token.as_bytes()).into(),
            _ => false,
        };
        if is_it {
            Ok(())
        } else {
            Err(Refusal::Forbidden)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn asked(token: Option<&str>, given: &[&str]) -> Result<(), Refusal> {
        let access = InternalAccess {
            token: token.map(str::to_owned),
            body_bytes_max: 1,
        };
        let mut headers = HeaderMap::new();
        for one in given {
            headers.append(TOKEN_HEADER, HeaderValue::from_str(one).unwrap());
        }
        access.admit(&headers)
    }

    #[test]
    fn the_token_stands_once_and_whole() {
        assert_eq!(asked(Some("abc"), &["abc"]), Ok(()));
        for wrong in [&[][..], &["ab"], &["abcd"], &[""], &["abc", "abc"]] {
            let answer = asked(Some("abc"), wrong);
            assert_eq!(answer, Err(Refusal::Forbidden), "{wrong:?}");
        }
        assert_eq!(asked(None, &["abc"]), Err(Refusal::NotConfigured));
        assert_eq!(asked(None, &[]), Err(Refusal::NotConfigured));
    }
}
