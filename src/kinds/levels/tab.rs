//! `/page/tab` of the demo: what the gateway says of the connection of one tab.

use crossbeam_channel::Sender;
use tokio::sync::oneshot;
use url::form_urlencoded;

use crate::gateways::TabQuestion;
use crate::http::{Answer, GET, Handler, LateAnswer, RequestParts, Route, StatusCode, operator};
use crate::reactor::LateWake;

/// The way to the gateway.
#[derive(Clone)]
pub(super) struct TabAsker {
    pub(super) questions: Sender<TabQuestion>,
    pub(super) wake: LateWake,
}

impl TabAsker {
    /// `GET /page/tab?name=NAME`: only who has named a connection knows the name.
    pub(super) fn route(self) -> Route {
        let answer = move |request: RequestParts, _| {
            let asker = self.clone();
            async move { LateAnswer::from(asker.answer(name_of(&request)).await) }
        };
        Route {
            path: "/page/tab",
            methods: &GET,
            answer: Handler::later(answer),
        }
    }

    async fn answer(self, name: String) -> Answer {
        let (tell, told) = oneshot::channel();
        let question = TabQuestion {
            name,
            answer: Box::new(move |look| {
                // The browser may have gone.
                let _ = tell.send(look);
            }),
        };
        let _ = self.questions.send(question);
        self.wake.wake();
        // After the loop's end the question is dropped.
        match told.await {
            Ok(Some(look)) => Answer::json(StatusCode::OK, operator::client(&look).finish()),
            // As long as the tab has not said its name, which is no fault of who asks.
            Ok(None) => Answer::json(StatusCode::OK, "null".to_owned()),
            Err(_) => Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
        }
        .no_store()
    }
}

/// `name` in the query; empty without one.
fn name_of(request: &RequestParts) -> String {
    let query = request.head.uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let name = pairs.find(|(key, _)| key == "name");
    name.map(|(_, name)| name.into_owned()).unwrap_or_default()
}
