//! How a process that was started beside others that serve gets clients: it binds the ports, and listens once the supervisor
//! asks for it. Of a socket that does not listen the kernel knows nothing when it chooses a process for a client.

use std::io;

use hyper::{Method, StatusCode};

use super::ask::AdminRequest;
use super::channel::Channel;
use crate::http::{Answer, Handler, Route};
use crate::listening::ListenGate;

/// The path of the request, which only the supervisor can send.
const PATH: &str = "/listen";

static POST: [Method; 1] = [Method::POST];

/// The route of a process for the request of its supervisor. The answer is 202 until the loop listens.
pub(crate) fn listen_route(gate: &ListenGate) -> Route {
    let gate = gate.clone();
    Route {
        path: PATH,
        methods: &POST,
        answer: Handler::ready(move |_| {
            Answer::empty(match gate.open() {
                true => StatusCode::NO_CONTENT,
                false => StatusCode::ACCEPTED,
            })
        }),
    }
}

/// Asks the process of this channel to listen. Returns whether it does.
///
/// # Errors
/// There is no answer in time.
pub(super) async fn ask_to_listen(channel: &Channel) -> io::Result<bool> {
    let mut request = AdminRequest::get(PATH);
    request.method = Method::POST;
    let said = request.ask(channel, super::ANSWER_MAX).await?;
    // A version that does not know the request listens from its start.
    Ok(said.status != StatusCode::ACCEPTED)
}
