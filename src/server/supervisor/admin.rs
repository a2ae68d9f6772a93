//! The admin address of all processes: each page asks the processes, and joins their answers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind::NotConnected};
use std::iter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue,
    TRANSFER_ENCODING,
};
use hyper::{Method, StatusCode};
use sonic_rs::{JsonValueMutTrait, JsonValueTrait, Value};
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded;

use super::ask::{AdminAnswer, AdminRequest};
use super::channel::{Channel, Turn};
use super::core::Number;
use super::exposition;
use super::joins::Joins;
use super::level;
use super::merge::{
    MISSING, merged, names_of_clients, order_names, session_of, set_members, set_missing,
};
use super::ready::Roster;
use super::refusals::Refusals;
use crate::http::metrics_format::MetricsFormat;
use crate::http::operator::{self, Cutter, MEMBERS_PATH, OperatorSettings};
use crate::http::{Answer, Handler, LateAnswer, RequestBody, RequestParts, Route};
use crate::telemetry::{GatewayMetric, MetricName, OwnMetrics};
use weirgate_core::{CloseReason, Cut, RevokedFull};
use weirgate_runtime::Clock;
use weirgate_wire::json::{Json, ObjectWriter};

/// How long a process may take for an answer. A search waits for a survey of its clients.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How long a process may take for the answer to a probe, whose asker does not wait for long.
const READY_MAX: Duration = Duration::from_millis(900);
/// How long a process may take for the members of names: its next survey begins up to a second after the last one.
const MEMBERS_MAX: Duration = Duration::from_secs(2);
/// How long a process may take for a push.
const PUSH_MAX: Duration = Duration::from_secs(60);

static POST: [Method; 1] = [Method::POST];

/// The page of found clients.
const CLIENTS_PATH: &str = "/operator/clients";

/// The member with the requests of plain HTTP that a cut has ended.
const ENDED: &str = "requests_ended";

/// The pages with the readiness of all processes.
const OF_ALL: [&str; 2] = ["/operator/state", "/stats"];

/// A process that is there.
#[derive(Clone, Debug)]
pub(super) struct Living {
    pub(super) number: Number,
    pub(super) channel: Channel,
    pub(super) state: LivingState,
}

/// The state of a process that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LivingState {
    /// It has not answered yet.
    Starting,
    /// It answers, and is not ready.
    Serving,
    Ready,
    Stopping,
}

impl LivingState {
    const ALL: [Self; 4] = [Self::Starting, Self::Serving, Self::Ready, Self::Stopping];

    /// The label in the metric of states.
    const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

impl Living {
    /// Whether it has answered. Pages are made of the answers of these processes, also of those that stop.
    fn has_started(&self) -> bool {
        self.state != LivingState::Starting
    }

    /// Whether this is the process of a query.
    fn is_called(&self, number: &str) -> bool {
        self.number.to_string() == number
    }
}

/// What the pages know of the processes.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// How many processes share the clients.
    pub(super) count: u32,
    pub(super) living: Vec<Living>,
    pub(super) restarts: u64,
    pub(super) rolls: u64,
    pub(super) is_stopping: bool,
    /// Ends of connections to the admin address, by reason.
    pub(super) closes: BTreeMap<&'static str, u64>,
}

/// What the pages share with the supervisor.
#[derive(Clone)]
pub(super) struct Shared {
    board: Arc<Mutex<Board>>,
    /// For processes that start later; the supervisor outlives them.
    refusals: Arc<Mutex<Refusals>>,
    /// Ends requests to the admin address.
    cutter: Cutter,
    joins: Joins,
    clock: Clock,
}

/// Questions to processes. They end with the request for which they are asked.
struct Questions(Vec<AbortHandle>);

impl Drop for Questions {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Shared {
    pub(super) fn new(count: u32, clock: Clock, cutter: Cutter) -> Self {
        Self {
            board: Arc::new(Mutex::new(Board {
                count,
                // There from the start, so that the metric has this series before the first eviction.
                closes: BTreeMap::from([(CloseReason::Evicted.label(), 0)]),
                ..Board::default()
            })),
            refusals: Arc::new(Mutex::new(Refusals::new(cutter.revoked.clone()))),
            cutter,
            joins: Joins::new(clock),
            clock,
        }
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Board) -> T) -> T {
        work(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn living(&self) -> Vec<Living> {
        self.with(|board| board.living.clone())
    }

    fn started(&self) -> Vec<Living> {
        let has_started = |one: &&Living| one.has_started();
        self.with(|board| board.living.iter().filter(has_started).cloned().collect())
    }

    /// Those that have started, or the one of these that a query names.
    fn called(&self, only: Option<&str>) -> Vec<Living> {
        let mut whom = self.started();
        whom.retain(|one| only.is_none_or(|only| one.is_called(only)));
        whom
    }

    /// Asks all of these the same at once. `None`: the process has not answered.
    async fn ask_all(
        &self,
        whom: Vec<Living>,
        admin_request: &AdminRequest,
        limit: Duration,
    ) -> Vec<(Number, Option<AdminAnswer>)> {
        let asked = whom.into_iter().map(|one| (one, admin_request.clone()));
        self.ask_each(asked.collect(), limit).await
    }

    /// Asks each of these its own question at once. A process that starts and takes no connections yet is left out: it gets
    /// the list of refusals once it does. If the request for which they are asked ends early, a question ends too, but
    /// a change goes on. `None`: the process has not answered.
    async fn ask_each(
        &self,
        requests: Vec<(Living, AdminRequest)>,
        limit: Duration,
    ) -> Vec<(Number, Option<AdminAnswer>)> {
        let is_question = requests
            .iter()
            .all(|(_, admin_request)| admin_request.method.is_safe());
        let asked: Vec<_> = requests
            .into_iter()
            .map(|(one, admin_request)| {
                let (number, has_started) = (one.number, one.has_started());
                let asked =
                    spawn_local(async move { admin_request.ask(&one.channel, limit).await });
                (number, has_started, asked)
            })
            .collect();
        let handles = asked.iter().map(|(.., asked)| asked.abort_handle());
        let _questions = is_question.then(|| Questions(handles.collect()));
        // Each question ends by its own limit.
        answers(asked, Instant::now() + 2 * limit).await
    }

    /// Takes a turn at each process that is there. Called together with the change of the supervisor's own list, so that the
    /// changes have one order everywhere.
    fn turns(&self) -> Vec<(Living, Turn)> {
        let living = self.living().into_iter();
        let with_turn = living.map(|one| {
            let turn = one.channel.next_turn();
            (one, turn)
        });
        with_turn.collect()
    }

    /// Has each of these make a change in its turn. A process that hangs keeps no other from its turn, and gets its changes in
    /// their order if it goes on.
    async fn change(
        &self,
        whom: Vec<(Living, Turn)>,
        change: &AdminRequest,
    ) -> Vec<(Number, Option<AdminAnswer>)> {
        let asked = whom.into_iter().map(|(one, mut turn)| {
            let change = change.clone();
            let (number, has_started) = (one.number, one.has_started());
            let asked = spawn_local(async move {
                turn.come().await;
                change.ask(&one.channel, ANSWER_MAX).await
            });
            (number, has_started, asked)
        });
        answers(asked.collect(), Instant::now() + ANSWER_MAX).await
    }
}

/// A question to a process with this number, and whether the process has started.
type Asked = (Number, bool, JoinHandle<io::Result<AdminAnswer>>);

/// The answers that are there by the deadline. Without those of processes that start and take no connections yet.
async fn answers(asked: Vec<Asked>, deadline: Instant) -> Vec<(Number, Option<AdminAnswer>)> {
    let mut all = Vec::new();
    for (number, has_started, asked) in asked {
        // Three results in each other: of the deadline, of the task, and of the question.
        match timeout_at(deadline, asked).await {
            Ok(Ok(Err(error))) if !has_started && error.kind() == NotConnected => {}
            Ok(Ok(said)) => all.push((number, said.ok())),
            _ => all.push((number, None)),
        }
    }
    all
}

/// The routes of the admin address.
pub(super) fn routes(shared: &Shared, settings: &OperatorSettings) -> Vec<Route> {
    let reach = settings.reach;
    let mut of_operator = operator::page_routes();
    for (path, methods) in [
        ("/operator/state", Route::GET),
        ("/operator/clients", Route::GET),
        ("/operator/names", Route::GET),
        ("/operator/disconnect", &POST),
        ("/operator/allow", &POST),
        ("/operator/move", &POST),
    ] {
        of_operator.push(route(
            shared,
            path,
            methods,
            move |shared, request, body| async move {
                match operator::refuse_other_page(&request, reach) {
                    Some(refusal) => refusal,
                    None => shared.joined(request, body).await,
                }
            },
        ));
    }
    let mut routes = vec![
        route(
            shared,
            "/ready",
            Route::GET,
            |shared, request, _| async move { shared.ready(&request).await },
        ),
        route(
            shared,
            "/metrics",
            Route::GET,
            |shared, request, _| async move { shared.metrics(&request).await },
        ),
        route(
            shared,
            "/stats",
            Route::GET,
            |shared, request, body| async move { shared.joined(request, body).await },
        ),
        route(
            shared,
            "/health",
            Route::GET,
            |shared, request, _| async move { shared.health(&request).await },
        ),
        route(
            shared,
            "/internal/{path}",
            Route::ANY_METHOD,
            |shared, request, body| async move { shared.passed_on(request, body).await },
        ),
    ];
    routes.extend(operator::with_login(
        settings.token.clone(),
        shared.clock,
        of_operator,
    ));
    routes
}

/// A route whose answer is computed on the thread of the supervisor, which may wait for processes.
fn route<F: Future<Output = Answer> + 'static>(
    shared: &Shared,
    path: &'static str,
    methods: &'static [Method],
    answer: impl Fn(Shared, RequestParts, RequestBody) -> F + Clone + Send + Sync + 'static,
) -> Route {
    let shared = shared.clone();
    Route {
        path,
        methods,
        answer: Handler::later(move |request, body| {
            let answer = answer(shared.clone(), request, body);
            async move { LateAnswer::from(answer.await) }
        }),
    }
}

/// Takes a parameter out of the query. Returns its value, and the target without it.
fn take_parameter(request: &RequestParts, name: &str) -> (Option<String>, String) {
    let query = request.head.uri.query().unwrap_or_default();
    let mut found = None;
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match key == name {
            true => found = Some(value.into_owned()),
            false => drop(rest.append_pair(&key, &value)),
        }
    }
    let target = match rest.finish() {
        none if none.is_empty() => request.path().to_owned(),
        rest => format!("{}?{rest}", request.path()),
    };
    (found, target)
}

/// The answer while no process answers.
fn no_process_answers() -> Answer {
    let detail = "No process answers; the log says why";
    Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail).no_store()
}

impl Shared {
    /// `/ready`: 200 if each of the processes that share the clients is ready, or the one that replaces it.
    async fn ready(&self, request: &RequestParts) -> Answer {
        let (asked, target) = take_parameter(request, "process");
        let admin_request = AdminRequest::get(&target);
        let all = self
            .ask_all(self.started(), &admin_request, READY_MAX)
            .await;
        if let Some(answer) = only_answer(&all, asked.as_deref()) {
            return answer;
        }
        let answers = answers_of(&all);
        let roster = self.roster();
        let found = roster.judge(&answers);
        let status = match found.is_all {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut object = ObjectWriter::new();
        object.boolean("ready", found.is_all);
        object.strings("reasons", found.reasons.iter().map(String::as_str));
        if let Some(behind) = found.joined_member("stream_behind", answers) {
            object.raw("stream_behind", &behind.to_string());
        }
        object.number("processes", u64::from(roster.count));
        object.number("processes_ready", u64::from(found.ready));
        Answer::json(status, object.finish()).no_store()
    }

    /// The processes as the supervisor knows them now.
    fn roster(&self) -> Roster {
        self.with(|board| Roster {
            count: board.count,
            is_stopping: board.is_stopping,
            stopping: {
                let living = board.living.iter();
                let stopping = living.filter(|one| one.state == LivingState::Stopping);
                stopping.map(|one| one.number).collect()
            },
        })
    }

    /// `/health`: 200 if any process answers with 200 in time. Another status may make the asker end all processes, so
    /// one process that does not answer is left to the supervisor.
    async fn health(&self, request: &RequestParts) -> Answer {
        let (only, target) = take_parameter(request, "process");
        let admin_request = AdminRequest::get(&target);
        let whom = self.called(only.as_deref());
        let mut all = self.ask_all(whom, &admin_request, READY_MAX).await;
        if let Some(answer) = only_answer(&all, only.as_deref()) {
            return answer;
        }
        let is_well = |said: &AdminAnswer| said.status == StatusCode::OK;
        if all
            .iter()
            .any(|(_, said)| said.as_ref().is_some_and(is_well))
        {
            all.iter_mut()
                .for_each(|(_, said)| *said = said.take().filter(is_well));
        }
        join_answers(&all)
    }

    /// `/metrics`: the series of all processes, and those of the supervisor.
    async fn metrics(&self, request: &RequestParts) -> Answer {
        // The protobuf format is not joined here; Prometheus takes the next format in its list.
        let format = MetricsFormat::accepted_text(request.header_values(&ACCEPT));
        let content_type = HeaderValue::from_static(format.content_type());
        let (only, target) = take_parameter(request, "process");
        let mut admin_request = AdminRequest::get(&target);
        admin_request.headers.insert(ACCEPT, content_type);
        let joiner = || {
            let own = OwnMetrics(self.own_metrics());
            move |all: &[_]| join_metrics(all, own, format)
        };
        let make = || self.answer_of(only.as_deref(), &admin_request, joiner);
        self.joins.join(request.peer.client(), make).await
    }

    /// The answer of the one process that is asked, or one made from those of all. `joiner` is called when the answers are
    /// there, so it can read what the supervisor itself knows then; the function that it returns joins them on another
    /// thread.
    async fn answer_of<J>(
        &self,
        only: Option<&str>,
        admin_request: &AdminRequest,
        joiner: impl FnOnce() -> J,
    ) -> Answer
    where
        J: FnOnce(&[(Number, Option<AdminAnswer>)]) -> Answer + Send + 'static,
    {
        let all = self
            .ask_all(self.called(only), admin_request, ANSWER_MAX)
            .await;
        match only_answer(&all, only) {
            Some(answer) => answer,
            None => {
                let join = joiner();
                let joined = beside(move || join(&all)).await;
                joined.unwrap_or_else(no_process_answers)
            }
        }
    }

    /// The metrics of the supervisor itself, which no process has.
    fn own_metrics(&self) -> Vec<GatewayMetric> {
        self.with(|board| {
            let count = |state| {
                let of_state = board.living.iter().filter(|one| one.state == state);
                of_state.count() as u64
            };
            let states = LivingState::ALL.map(|state| (state.label(), count(state)));
            let closes: Vec<_> = board.closes.clone().into_iter().collect();
            vec![
                GatewayMetric::ByLabel(
                    &MetricName::CLIENT_CLOSES,
                    Box::new(move || closes.clone()),
                ),
                GatewayMetric::ByLabel(&MetricName::PROCESSES, Box::new(move || states.into())),
                GatewayMetric::fixed(&MetricName::PROCESS_RESTARTS, board.restarts as usize),
                GatewayMetric::fixed(&MetricName::PROCESS_ROLLS, board.rolls as usize),
            ]
        })
    }

    /// Asks all processes, or the one that the request names, and joins the answers.
    async fn joined(&self, request: RequestParts, body: RequestBody) -> Answer {
        let (mut only, target) = take_parameter(&request, "process");
        let path = request.path().to_owned();
        // A page has no use for a body; it stays unread.
        let body = match request.head.method == Method::POST {
            true => body.read(operator::CUT_BYTES_MAX).await,
            false => Ok(Bytes::new()),
        };
        let Ok(body) = body else {
            return Answer::detail(
                StatusCode::BAD_REQUEST,
                "The body is too large, or broke off",
            );
        };
        let mut admin_request = AdminRequest {
            method: request.head.method.clone(),
            target,
            headers: forwarded(&request.head.headers),
            body,
        };
        let mut of_process = admin_request.clone();
        let number = name_own_session(&mut of_process).map(|number| number.to_string());
        let is_there = |number: &String| self.living().iter().any(|one| one.is_called(number));
        // The sessions of a process that has ended are closed: then all are asked, and say that they have none like
        // this.
        if let Some(number) = number.filter(is_there) {
            (only, admin_request) = (Some(number), of_process);
        }
        match path.as_str() {
            "/operator/disconnect" => {
                let shared = self.clone();
                to_its_end(async move { shared.cut(&admin_request, only.as_deref()).await }).await
            }
            "/operator/allow" => self.allow(&admin_request).await,
            "/operator/move" if only.is_none() => self.move_clients(&admin_request).await,
            _ => {
                let joiner = || {
                    let wanted = wanted_name(&request);
                    let roster = OF_ALL.contains(&&*path).then(|| self.roster());
                    move |all: &[_]| join_found(all, wanted.as_deref(), roster.as_ref())
                };
                let make = || async {
                    let answer = self
                        .answer_of(only.as_deref(), &admin_request, joiner)
                        .await;
                    match path == CLIENTS_PATH && only.is_none() {
                        true => self.with_members(answer).await,
                        false => answer,
                    }
                };
                // A change must not be made twice.
                match admin_request.method.is_safe() {
                    true => self.joins.join(request.peer.client(), make).await,
                    false => make().await,
                }
            }
        }
    }

    /// Sets the members of the names of found clients to those of all processes. If one of these does not say them soon, they stay
    /// those of the client's process.
    async fn with_members(&self, answer: Answer) -> Answer {
        let body = answer.body.clone();
        let names = beside(move || {
            // A process that is late once would be late again, and operators do not wait for long.
            let answer = value_of(&body).filter(|answer| answer.get(MISSING).is_none())?;
            Some(names_of_clients(&answer)).filter(|names| !names.is_empty())
        });
        let names = names.await.flatten();
        let Some(names) = names else {
            return answer;
        };
        let mut question = AdminRequest::get(MEMBERS_PATH);
        question.body = sonic_rs::to_string(&names).unwrap_or_default().into();
        let all = self.ask_all(self.started(), &question, MEMBERS_MAX).await;
        let is_whole = |(_, said): &(_, Option<AdminAnswer>)| {
            said.as_ref()
                .is_some_and(|said| said.status == StatusCode::OK)
        };
        if !all.iter().all(is_whole) {
            return answer;
        }
        let body = answer.body.clone();
        let joined = beside(move || {
            let mut answer = value_of(&body)?;
            set_members(&mut answer, &merged(answers_of(&all)));
            Some(answer.to_string())
        });
        match joined.await.flatten() {
            Some(body) => Answer {
                body: body.into(),
                ..answer
            },
            None => answer,
        }
    }

    /// Cuts clients off. What is refused is noted before the processes are asked: a process that starts meanwhile either
    /// gets the note, or is asked. The refusal of a session is known only once its process has answered; it is noted
    /// then. The others that are there after the note get what is refused, if they were not asked or could not know it: the
    /// client could come back to any. Their turns are taken with the first ones, so that no later change comes between.
    async fn cut(&self, admin_request: &AdminRequest, only: Option<&str>) -> Answer {
        let now = self.clock.now().unix_ms();
        let cut = match read_cut(&admin_request.body, |cut| cut.check_request(now)) {
            Ok(cut) => cut,
            Err(text) => return Answer::detail(StatusCode::BAD_REQUEST, &text),
        };
        let mut refused = cut.refused();
        // `Ok(0)`: nothing is refused, so no request to the admin address ends.
        let mut own_ends = refused
            .as_ref()
            .map_or(Ok(0), |refused| self.note_refusal(refused));
        let is_named = |one: &Living| only.is_none_or(|only| one.is_called(only));
        let turns = self.turns().into_iter();
        // `held`: the turns of the others, taken now so that no later change comes before what they get.
        let (named, mut held): (Vec<_>, Vec<_>) = turns.partition(|(one, _)| is_named(one));
        let asked: Vec<Living> = named.iter().map(|(one, _)| one.clone()).collect();
        if cut.session.is_some() {
            // A second turn for those that are asked: all but the one with the session get what is refused afterwards.
            held.extend(self.turns().into_iter().filter(|(one, _)| is_named(one)));
        }
        let all = self.change(named, admin_request).await;
        let knew = refused.is_some();
        if !knew {
            refused = all.iter().find_map(|(_, said)| refused_in(said.as_ref()?));
            let noted = refused.as_ref().map(|refused| self.note_refusal(refused));
            own_ends = noted.unwrap_or(Ok(0));
        }
        let mut answer = only_answer(&all, only).unwrap_or_else(|| join_answers(&all));
        if let Some(refused) = refused.filter(|_| only.is_some() || !knew) {
            let has_said = |number| {
                let mut said = all.iter().filter(|(of, _)| *of == number);
                said.any(|(_, said)| said.as_ref().and_then(refused_in).is_some())
            };
            // A process that has ended meanwhile has another one of its number.
            let has_it = |one: &Living| {
                let mut asked = asked.iter();
                asked.any(|asked| asked.channel.is(&one.channel)) && (knew || has_said(one.number))
            };
            let request = AdminRequest {
                body: sonic_rs::to_string(&refused).unwrap_or_default().into(),
                ..admin_request.clone()
            };
            let mut others = self.living();
            others.retain(|one| !has_it(one));
            let answers = self.change_others(others, held, &request).await;
            if let Some(mut value) = value_of(&answer.body) {
                set_missing(&mut value, &missing_numbers(&answers));
                answer.body = value.to_string().into();
            }
        }
        with_own(answer, own_ends)
    }

    /// Has each of these make a change in the turn that is held for it, or in its next one.
    async fn change_others(
        &self,
        others: Vec<Living>,
        mut held: Vec<(Living, Turn)>,
        change: &AdminRequest,
    ) -> Vec<(Number, Option<AdminAnswer>)> {
        let others = others.into_iter().map(|one| {
            let mut known = held.iter();
            let of_this = known.position(|(known, _)| known.channel.is(&one.channel));
            let turn = of_this.map(|at| held.swap_remove(at).1);
            let turn = turn.unwrap_or_else(|| one.channel.next_turn());
            (one, turn)
        });
        let others = others.collect();
        drop(held);
        self.change(others, change).await
    }

    /// Takes a refusal back.
    async fn allow(&self, admin_request: &AdminRequest) -> Answer {
        let cut = match read_cut(&admin_request.body, Cut::check_lift) {
            Ok(cut) => cut,
            Err(text) => return Answer::detail(StatusCode::BAD_REQUEST, &text),
        };
        let now = self.clock.now().unix_ms();
        self.with_refusals(|refusals| refusals.lift(&cut, now));
        let all = self.change(self.turns(), admin_request).await;
        join_answers(&all)
    }

    /// Closes so many clients of all processes together, of each as many as its part of the clients is.
    async fn move_clients(&self, admin_request: &AdminRequest) -> Answer {
        let whom = self.started();
        let asked = value_of(&admin_request.body)
            .and_then(|body| Some((body.get("clients")?.as_u64()?, body)));
        let Some((clients, mut body)) = asked else {
            // The processes say what is wrong.
            return join_answers(&self.ask_all(whom, admin_request, ANSWER_MAX).await);
        };
        let stats = AdminRequest::get("/stats");
        let stats = self.ask_all(whom.clone(), &stats, ANSWER_MAX).await;
        let counts = stats
            .iter()
            .filter_map(|(number, said)| Some((*number, clients_in(said.as_ref()?)?)));
        let shares = level::shares(clients, &counts.collect::<Vec<_>>());
        let requests = whom.into_iter().filter_map(|one| {
            let (_, share) = shares.iter().find(|(number, _)| *number == one.number)?;
            body["clients"] = Value::from(*share);
            let body = body.to_string().into();
            let admin_request = admin_request.clone();
            Some((
                one,
                AdminRequest {
                    body,
                    ..admin_request
                },
            ))
        });
        let mut all = self.ask_each(requests.collect(), ANSWER_MAX).await;
        all.extend(stats.into_iter().filter(|(_, said)| said.is_none()));
        join_answers(&all)
    }

    /// Notes a refusal, for the admin address and for processes that start later. Returns how many requests to the admin
    /// address end.
    fn note_refusal(&self, refused: &Cut) -> Result<u64, RevokedFull> {
        let now = self.clock.now().unix_ms();
        self.with_refusals(|refusals| refusals.add(refused, now))?;
        Ok(self.cutter.end_requests())
    }

    /// Gives the list of refusals to a process that begins. From now on, the process can be asked.
    pub(super) fn begin(&self, number: Number, channel: &Channel) {
        if let Err(error) = self.with_refusals(|refusals| refusals.give(channel)) {
            tracing::error!(process = number, %error, "a process that starts does not get the list of refused users and tokens");
        }
    }

    fn with_refusals<T>(&self, work: impl FnOnce(&mut Refusals) -> T) -> T {
        let refusals = self.refusals.lock();
        work(&mut refusals.unwrap_or_else(PoisonError::into_inner))
    }

    /// Passes the request on to one process, because each of them can do what is asked. Processes that are ready are
    /// tried first, and the first one that takes a connection gets it. The process judges the token before it reads the
    /// body.
    async fn passed_on(&self, request: RequestParts, body: RequestBody) -> Answer {
        let target = request.head.uri.path_and_query();
        let target = target.map_or_else(|| request.path().to_owned(), ToString::to_string);
        let admin_request = AdminRequest {
            method: request.head.method.clone(),
            target,
            headers: forwarded(&request.head.headers),
            body: Bytes::new(),
        };
        let is_not_ready = |one: &Living| one.state != LivingState::Ready;
        let mut whom = self.started();
        whom.sort_by_key(is_not_ready);
        for one in whom {
            // A process that took the request may have done a part of it: only one that did not is passed over.
            let Ok(stream) = one.channel.connect().and_then(UnixStream::from_std) else {
                continue;
            };
            let progress = body.progress();
            let said = admin_request.pass_on(stream, body, PUSH_MAX).await;
            return match said {
                Ok(said) => passed_on_answer(said),
                Err(_) if progress.is_too_slow() => {
                    Answer::detail(StatusCode::REQUEST_TIMEOUT, "Request body too slow")
                }
                Err(_) if progress.is_broken() => {
                    Answer::detail(StatusCode::BAD_REQUEST, "The body broke off")
                }
                Err(_) => {
                    let detail = "The process that took the request did not answer";
                    Answer::detail(StatusCode::BAD_GATEWAY, detail)
                }
            };
        }
        no_process_answers()
    }
}

/// Makes a change to its end, also if the operator leaves before the answer.
async fn to_its_end(change: impl Future<Output = Answer> + 'static) -> Answer {
    let made = spawn_local(change).await;
    made.unwrap_or_else(|_| no_process_answers())
}

/// The headers of a request that its process gets.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}

/// If the request names a session as `NUMBER/SESSION`, replaces it by the process's own name of the session, and returns the
/// number of the process.
fn name_own_session(admin_request: &mut AdminRequest) -> Option<Number> {
    match admin_request.method.is_safe() {
        true => name_own_session_in_query(admin_request),
        false => name_own_session_in_body(admin_request),
    }
}

/// [`name_own_session`] for a request with the session in its query.
fn name_own_session_in_query(admin_request: &mut AdminRequest) -> Option<Number> {
    let (path, query) = admin_request.target.split_once('?')?;
    let mut number = None;
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match session_of(&value).filter(|_| key == "session") {
            Some((process, id)) => {
                number = Some(process);
                rest.append_pair(&key, id);
            }
            None => drop(rest.append_pair(&key, &value)),
        }
    }
    admin_request.target = format!("{path}?{}", rest.finish());
    number
}

/// [`name_own_session`] for a request with the session in its body, JSON.
fn name_own_session_in_body(admin_request: &mut AdminRequest) -> Option<Number> {
    let mut cut = value_of(&admin_request.body)?;
    let session = cut.get("session")?.as_str()?.to_owned();
    let (number, id) = session_of(&session)?;
    cut.as_object_mut()?.insert("session", Value::from(id));
    admin_request.body = cut.to_string().into();
    Some(number)
}

/// The number of clients in a process's answer to `/stats`.
pub(super) fn clients_in(said: &AdminAnswer) -> Option<u64> {
    Json::read(&said.body).ok()?.number(&["clients"])
}

fn value_of(body: &[u8]) -> Option<Value> {
    Json::read(body).ok()?.parse().ok()
}

/// The answer of a process as that of the supervisor, without the headers that each server makes for its own connection.
fn passed_on_answer(said: AdminAnswer) -> Answer {
    let mut answer = Answer::empty(said.status);
    answer.headers = said.headers;
    for name in [CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING] {
        answer.headers.remove(name);
    }
    answer.body = said.body;
    answer
}

/// Reads the conditions of a cut as the processes do. `check` returns what is wrong with them.
fn read_cut(body: &[u8], check: impl FnOnce(&Cut) -> Result<(), String>) -> Result<Cut, String> {
    let cut = Cut::read(body)?;
    check(&cut).map(|()| cut)
}

/// What a process says that it refuses after a cut.
fn refused_in(said: &AdminAnswer) -> Option<Cut> {
    let refused = value_of(&said.body)?.get("refused")?.to_string();
    Cut::read(refused.as_bytes()).ok()
}

/// The answer of the processes with what the supervisor itself has done: ended `own_ends` requests to the admin
/// address, or failed to note the refusal, which processes that start later then do not know.
fn with_own(mut answer: Answer, own_ends: Result<u64, RevokedFull>) -> Answer {
    let error = match own_ends {
        Ok(0) => return answer,
        Ok(own) => {
            let ended = value_of(&answer.body).and_then(|body| body.get(ENDED)?.as_u64());
            set_member(
                &mut answer,
                ENDED,
                Some(Value::from(ended.unwrap_or(0) + own)),
            );
            return answer;
        }
        Err(error) => error,
    };
    tracing::error!(%error, "processes that start later do not get what an operator has refused");
    if answer.status.is_success() {
        answer.status = StatusCode::INSUFFICIENT_STORAGE;
        let detail = format!("{error}; processes that start later do not know of the request");
        set_member(&mut answer, "detail", Some(Value::from(&*detail)));
    }
    answer
}

/// Sets a member of a JSON answer.
fn set_member(answer: &mut Answer, name: &str, value: Option<Value>) {
    let object = value_of(&answer.body).filter(Value::is_object);
    if let (Some(mut object), Some(value)) = (object, value) {
        object[name] = value;
        answer.body = object.to_string().into();
    }
}

/// The numbers of the processes that did not answer.
fn missing_numbers(all: &[(Number, Option<AdminAnswer>)]) -> Vec<Number> {
    let missing = all.iter().filter(|(_, said)| said.is_none());
    missing.map(|(number, _)| *number).collect()
}

/// The answer of the process that was asked alone.
fn only_answer(all: &[(Number, Option<AdminAnswer>)], only: Option<&str>) -> Option<Answer> {
    let only = only?;
    let found = all.iter().find(|(number, _)| number.to_string() == only);
    let (status, detail) = match found {
        Some((_, Some(said))) => return Some(passed_on_answer(said.clone())),
        Some((_, None)) => {
            let detail = format!("Process {only} does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        None => (StatusCode::NOT_FOUND, format!("No process {only} answers")),
    };
    Some(Answer::detail(status, &detail).no_store())
}

/// The name that a request searches for.
fn wanted_name(request: &RequestParts) -> Option<String> {
    match request.path() {
        "/operator/names" => take_parameter(request, "name").0,
        _ => None,
    }
}

/// Joins answers on another thread: many or large ones must not delay those to probes.
async fn beside<T: Send + 'static>(join: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let joined = spawn_blocking(join).await;
    let joined = joined.inspect_err(|error| {
        tracing::error!(%error, "the answers of the processes could not be joined");
    });
    joined.ok()
}

/// One page of metrics from those of all processes and the supervisor's own.
fn join_metrics(
    all: &[(Number, Option<AdminAnswer>)],
    own: OwnMetrics,
    format: MetricsFormat,
) -> Answer {
    let own = match format {
        MetricsFormat::OpenMetrics => own.open_metrics(),
        _ => own.prometheus_text(),
    };
    let content_type = HeaderValue::from_static(format.content_type());
    let said = all
        .iter()
        .filter_map(|(number, said)| Some((*number, said.as_ref()?)));
    let pages = said
        .filter(|(_, said)| said.status == StatusCode::OK)
        .filter(|(_, said)| said.headers.get(CONTENT_TYPE) == Some(&content_type))
        .filter_map(|(number, said)| Some((Some(number), std::str::from_utf8(&said.body).ok()?)));
    // `None`: of the supervisor.
    let pages: Vec<_> = iter::once((None, &*own)).chain(pages).collect();
    let page = exposition::joined(&pages);
    Answer::new(StatusCode::OK, format.content_type(), page).no_store()
}

/// One answer from those of all processes.
fn join_answers(all: &[(Number, Option<AdminAnswer>)]) -> Answer {
    // Neither for a search for a name, nor with the readiness of all.
    join_found(all, None, None)
}

/// The answers as JSON.
fn answers_of(all: &[(Number, Option<AdminAnswer>)]) -> Vec<(Number, Value)> {
    let said = all
        .iter()
        .filter_map(|(number, said)| Some((*number, value_of(&said.as_ref()?.body)?)));
    said.collect()
}

/// One answer from those of all processes, perhaps to a search for a name, or with the readiness of all. It has the highest
/// status of any, so the refusal of one process is the answer, and the bodies with this status as one. `processes_missing` has
/// the processes without an answer.
fn join_found(
    all: &[(Number, Option<AdminAnswer>)],
    wanted: Option<&str>,
    roster: Option<&Roster>,
) -> Answer {
    let statuses = all
        .iter()
        .filter_map(|(_, said)| Some(said.as_ref()?.status));
    let Some(worst) = statuses.max() else {
        return no_process_answers();
    };
    let of_worst = |said: &AdminAnswer| said.status == worst;
    let of_worst = all.iter().map(|(number, said)| {
        let said = said.clone().filter(of_worst);
        (*number, said)
    });
    let mut values = answers_of(&of_worst.collect::<Vec<_>>());
    let roster = roster.filter(|_| worst == StatusCode::OK);
    let found = roster.map(|roster| (roster.count, roster.judge(&values)));
    if let Some((_, found)) = &found {
        let left = values.iter_mut();
        left.for_each(|(number, value)| found.leave_out(*number, value));
    }
    let mut value = merged(values);
    if let Some((count, found)) = found {
        found.complete(count, &mut value);
    }
    if let Some(wanted) = wanted {
        order_names(&mut value, wanted);
    }
    set_missing(&mut value, &missing_numbers(all));
    Answer::json(worst, value.to_string()).no_store()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, target: &str, body: &'static str) -> AdminRequest {
        AdminRequest {
            method,
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_session_is_named_as_its_process_names_it() {
        for method in [Method::GET, Method::HEAD] {
            let mut of_page = request(method, "/operator/clients?user=ann&session=2/abc", "");
            assert_eq!(name_own_session(&mut of_page), Some(2));
            assert_eq!(of_page.target, "/operator/clients?user=ann&session=abc");
        }
        let cut = r#"{"session":"2/abc"}"#;
        let mut cut = request(Method::POST, "/operator/disconnect", cut);
        assert_eq!(name_own_session(&mut cut), Some(2));
        assert_eq!(&cut.body[..], br#"{"session":"abc"}"#);
    }
}
