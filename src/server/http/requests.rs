//! The requests of a plain HTTP connection, as hyper calls for their answers, and the bodies of the answers.

use super::body::{AnswerBody, BoxError, Progress, RequestBody};
use super::caller::Caller;
use super::connection::{Connection, Server};
use super::connection_clock::Work;
use super::gate::Gate;
use super::in_progress::RequestInProgress;
use super::service::Responder;
use super::site::{Answer, Handler, LateAnswer, RequestParts};
use super::turns::SenderTurns;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Request, Response, StatusCode, Version, service};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use weirgate_core::CloseReason;

/// Answers the requests of a connection.
pub(super) struct Requests(pub(super) Rc<Connection>);

impl service::Service<Request<Incoming>> for Requests {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Outgoing>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = Rc::clone(&self.0);
        let work = Work::begin(&connection.clock);
        let (head, body) = request.into_parts();
        let parts = connection.parts(head);
        let ends_with_cut = connection.server.site.ends_with_cut(&parts);
        let caller = ends_with_cut.then(|| parts.caller.clone());
        connection.caller.replace(caller);
        let body = RequestBody::new(body);
        Box::pin(connection.answer(parts, body, work))
    }
}

impl Connection {
    fn parts(&self, head: hyper::http::request::Parts) -> RequestParts {
        let access = &self.server.settings.access;
        let certificate = self.certificate.clone();
        RequestParts {
            caller: Caller::of(access, &self.peer, certificate, &head.headers),
            head,
            peer: self.peer,
            is_tls: self.is_tls,
        }
    }

    /// Calls the handler of a request, and converts its answer for hyper.
    async fn answer(
        self: Rc<Self>,
        parts: RequestParts,
        body: RequestBody,
        mut work: Work,
    ) -> Result<Response<Outgoing>, Infallible> {
        let turns = self.seat.turn_to_answer(parts.caller.address).await;
        // An answer may take long, so nothing else of the head is kept meanwhile.
        let origin = parts.head.headers.get(ORIGIN).cloned();
        let asked: HeaderMap = origin.map(|origin| (ORIGIN, origin)).into_iter().collect();
        let (version, body_read) = (parts.head.version, body.progress());
        let mut in_progress = None;
        let mut answer = match self.server.find(&parts) {
            Responder::Answer(answer) => answer.into(),
            Responder::Handler(Handler::Ready(answer)) => answer(&parts).into(),
            Responder::Handler(Handler::Later(answer)) => {
                work.begin_handler(!parts.head.method.is_safe());
                let sender = self.caller.borrow().clone();
                let all = &self.server.settings.access.in_progress;
                in_progress = sender.map(|sender| all.begin(sender));
                answer(parts, body).await
            }
        };
        *self.eviction_check.borrow_mut() = answer.eviction_check.take();
        // The bytes of a service's answer are already charged with the connection to the service.
        self.gate.set_charged(answer.is_passed_on);
        let mut response = self.response(&asked, &body_read, answer, (work, turns, in_progress));
        // In HTTP/1.0, a body of unknown length ends with the connection (RFC 9112 §6.3).
        let has_length = response.headers().contains_key(header::CONTENT_LENGTH)
            || response.body().size_hint().exact().is_some();
        let is_old = version < Version::HTTP_11;
        let ends_answer = is_old && !has_length;
        self.gate.set_ends_answer(ends_answer);
        if ends_answer {
            set_close(response.headers_mut());
        }
        if is_old && response.headers().contains_key(header::CONNECTION) {
            // To an answer of HTTP/1.1, hyper would add that the connection is kept if the client asks for that, also
            // beside `close` (RFC 9112 §9.6).
            *response.version_mut() = version;
        }
        Ok(response)
    }

    /// Converts an answer for hyper. `asked` has the request's `Origin`.
    fn response(
        &self,
        asked: &HeaderMap,
        body_read: &Progress,
        answer: LateAnswer,
        guards: RequestGuards,
    ) -> Response<Outgoing> {
        let mut response = Response::new(Outgoing {
            body: answer.body,
            gate: self.gate.clone(),
            // hyper copies what is to be sealed.
            is_copied: answer.is_passed_on || self.is_tls,
            fault: None,
            _guards: guards,
        });
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        let headers = response.headers_mut();
        let site = &self.server.site;
        match answer.is_passed_on {
            true => site.mark_passed_on(asked, headers),
            false => site.mark(asked, headers),
        }
        if !body_read.has_ended() {
            // The rest of the request's body stays unread, so the next request cannot be found behind it.
            set_close(headers);
        }
        response
    }
}

/// Says in the head of an answer that the connection ends after it.
fn set_close(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

impl Server {
    /// Finds the answer or the handler of a request. A sender that an operator has cut off is refused, and its
    /// connection ends.
    fn find(&self, parts: &RequestParts) -> Responder<'_> {
        let Err(refusal) = self.site.admit(parts) else {
            return self.site.find(parts);
        };
        let client = parts.caller.address;
        self.ends.count(parts.peer, client, CloseReason::Revoked);
        let answer = Answer::detail(StatusCode::FORBIDDEN, refusal.label());
        let close = HeaderValue::from_static("close");
        Responder::Answer(answer.with(header::CONNECTION, close))
    }
}

/// Values that are held from a request to the end of its answer: the work, the turns of the sender, and the entry in
/// the list of the requests that a cut ends.
type RequestGuards = (Work, SenderTurns, Option<RequestInProgress>);

/// The body for hyper, and what ends with it.
pub(super) struct Outgoing {
    body: AnswerBody,
    gate: Gate,
    /// Whether the bytes are this connection's alone: they come from a service, or are copied for TLS. Other bytes may
    /// be a page that all clients share, and are charged only if nothing shares them.
    is_copied: bool,
    /// Why the body breaks off, and the flushes until then.
    fault: Option<(BoxError, u64)>,
    /// Held so that all of it ends with the body.
    _guards: RequestGuards,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.fault.is_none() {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => self.fault = Some((error, self.gate.flushes())),
                frame => return self.charged(frame),
            }
        }
        // At an error hyper drops what it has not written yet. A client that gets not one byte of an answer takes its
        // request for unread, and may send it again: a browser does, also a POST. So the error waits until hyper has
        // written what it has.
        let flushes = self.gate.flushes();
        match self.fault.take_if(|(_, at_fault)| flushes > *at_fault) {
            Some((error, _)) => Poll::Ready(Some(Err(error))),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Outgoing {
    /// Charges the bytes of a frame that hyper gets, and returns the frame.
    fn charged<E>(
        &self,
        frame: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
            && (self.is_copied || data.is_unique())
        {
            self.gate.note_piece(data.len());
        }
        frame
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.gate.set_charged(false);
    }
}
