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
                Err(refusal) => refusal,
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

impl InternalAccess {
    async fn body(&self, headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Answer> {
        self.admit(headers)?;
        let read = body.read(self.body_bytes_max).await;
        read.map_err(|error| match error {
            ReadBodyError::TooLarge => {
                Answer::detail(StatusCode::PAYLOAD_TOO_LARGE, "Content Too Large")
            }
            ReadBodyError::Broken(_) => Answer::detail(StatusCode::BAD_REQUEST, "Bad Request"),
        })
    }

    /// The token, in a time that tells nothing of where it differs.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Answer> {
        let Some(token) = &self.token else {
            let why = "INTERNAL_AUTH_TOKEN not configured";
            return Err(Answer::detail(StatusCode::INTERNAL_SERVER_ERROR, why));
        };
        let mut given = headers.get_all(TOKEN_HEADER).iter();
        let is_it = match (given.next(), given.next()) {
            (Some(one), None) => one.as_bytes().ct_eq(token.as_bytes()).into(),
            _ => false,
        };
        let refused = || Answer::detail(StatusCode::FORBIDDEN, "Forbidden");
        is_it.then_some(()).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn asked(token: Option<&str>, given: &[&str]) -> u16 {
        let access = InternalAccess {
            token: token.map(str::to_owned),
            body_bytes_max: 1,
        };
        let mut headers = HeaderMap::new();
        for one in given {
            headers.append(TOKEN_HEADER, HeaderValue::from_str(one).unwrap());
        }
        let refused = access.admit(&headers).err();
        refused.map_or(200, |answer| answer.status.as_u16())
    }

    #[test]
    fn the_token_stands_once_and_whole() {
        assert_eq!(asked(Some("abc"), &["abc"]), 200);
        for wrong in [&[][..], &["ab"], &["abcd"], &[""], &["abc", "abc"]] {
            assert_eq!(asked(Some("abc"), wrong), 403, "{wrong:?}");
        }
        assert_eq!(asked(None, &["abc"]), 500);
        assert_eq!(asked(None, &[]), 500);
    }
}
