//! The tokens of proxied requests: the same keys, rules and refusals as at the handshake of a device.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::auth::{Authenticator, Token};
use crate::gateways::events::identify::device_of;
use crate::gateways::shared::access::{AccessStats, close_of};
use weirgate_server::http::{Answer, RequestParts};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Now;

/// Judges the tokens of proxied requests. By default no token counts.
#[derive(Clone, Debug, Default)]
pub struct ProxyTokens {
    /// Checks tokens.
    pub authenticator: Authenticator,
    /// Counts refusals.
    pub stats: Arc<AccessStats>,
}

impl ProxyTokens {
    /// Judges the token of a request, if tokens count. The user of a good token is the user of the request, which ends
    /// when an operator cuts that user off.
    ///
    /// # Errors
    /// The request needs a good token and has none, or an operator has cut its sender off.
    pub(super) fn admit(&self, parts: &RequestParts, now: Now) -> Result<(), Refusal> {
        if !self.authenticator.counts() {
            return Ok(());
        }
        let uri = &parts.head.uri;
        let target = uri
            .path_and_query()
            .map_or_else(|| uri.path(), |target| target.as_str());
        let headers = parts.head.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let head = RequestHead::of_parts(parts.head.method.as_str(), target, headers);
        // hyper has read the target, so it makes a URL.
        let head = head.ok_or(Refusal::Missing)?;
        if let Err(refusal) = Token::check_only_one(&head) {
            self.stats.count_refusal(refusal);
            return Err(refusal);
        }
        let judged = self.authenticator.judge(&head, now, |identity| {
            // A proxied request names no device, and its sender has no role of this gateway.
            device_of(identity, None)?;
            let marks = identity.marks(None);
            parts.caller.admit_token(identity.user.as_deref(), marks)
        });
        judged.map(drop).map_err(|refused| {
            self.stats.count_refusal(refused.refusal);
            refused.refusal
        })
    }
}

/// The answer to a request whose token is refused.
pub(super) fn answer(refusal: Refusal) -> Answer {
    let close = close_of(refusal);
    let status = match refusal {
        Refusal::Revoked => StatusCode::FORBIDDEN,
        _ if close.retry_after_ms > 0 || close.code == Refusal::LATER_CODE => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::UNAUTHORIZED,
    };
    let answer = Answer::detail(status, close.text);
    match status {
        StatusCode::UNAUTHORIZED => {
            answer.with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = close.retry_after_ms.div_ceil(1000).max(1);
            answer.with(RETRY_AFTER, HeaderValue::from(seconds))
        }
        // As for an address that is cut off.
        _ => answer.with(CONNECTION, HeaderValue::from_static("close")),
    }
}
