use super::*;

/// A client of busy, rare and silent symbols: client 0 of the topics.
const NAMES: &str = r#"["B0","B1","B2","Q0","N0"]"#;

struct Scene(Visitors);

impl Scene {
    /// One client, which has subscribed and got the position `p0`.
    fn new() -> Self {
        let topics = Arc::new(Topics::new(Gateway::Trades));
        let mut scene = Self(Visitors::new(Gateway::Trades, topics, 1));
        assert!(!scene.open().contains("since"));
        scene.say(&answer("", r#","pos":"p0""#), 0);
        scene
    }

    fn open(&mut self) -> String {
        self.0.opened(0).unwrap()
    }

    fn say(&mut self, text: &str, now_us: u64) {
        assert_eq!(self.0.heard(0, text.as_bytes(), now_us), None);
    }

    fn trade(&mut self, symbol: &str, n: u64, all: u64) {
        let text = format!(
            r#"{{"type":"trade","data":{{"symbol":"{symbol}","conditions":{{"n":{n},"all":{all}}}}},"timestamp":1,"pos":"p{all}"}}"#
        );
        self.say(&text, 1_000 * all);
    }

    /// The position in the next request.
    fn since(&mut self) -> Option<String> {
        let request: serde_json::Value = serde_json::from_str(&self.open()).unwrap();
        request["since"].as_str().map(str::to_owned)
    }
}

fn answer(of_data: &str, of_message: &str) -> String {
    format!(
        r#"{{"type":"success","message":"","data":{{"subscribed":{NAMES}{of_data}}},"timestamp":1{of_message}}}"#
    )
}

fn recovered() -> String {
    answer(r#","recovered":true"#, "")
}

fn refused(why: &str, pos: &str) -> String {
    answer(&format!(r#","recovered":false,"why":"{why}""#), pos)
}

#[test]
fn a_resume_without_loss_and_doubles() {
    let mut scene = Scene::new();
    scene.trade("B0", 1, 1);
    scene.trade("B1", 1, 2);
    scene.0.cut(0, 5_000);
    assert_eq!(scene.0.settled(), 0);
    assert_eq!(scene.since().as_deref(), Some("p2"));
    scene.say(&recovered(), 6_000);
    assert_eq!(scene.0.settled(), 0, "the first message is not here yet");
    scene.trade("B0", 2, 9);
    assert_eq!(scene.0.settled(), 1);
    let expected = Figures {
        cuts: 1,
        resumes: 1,
        recovered: 1,
        gaps_us: vec![4_000],
        ..Figures::default()
    };
    assert_eq!(scene.0.take(), expected);
}

#[test]
fn loss_and_doubles_behind_a_recovered_resume_are_counted() {
    let mut scene = Scene::new();
    scene.trade("B0", 1, 1);
    scene.0.cut(0, 5_000);
    assert_eq!(scene.since().as_deref(), Some("p1"));
    scene.say(&recovered(), 6_000);
    scene.trade("B0", 1, 1);
    scene.trade("B0", 4, 7);
    scene.trade("B1", 1, 6);
    let figures = scene.0.take();
    assert_eq!((figures.lost, figures.double, figures.told), (2, 1, 0));
    assert_eq!((figures.disordered, figures.strange), (1, 0));
    assert_eq!(figures.evidence.len(), 3, "{:?}", figures.evidence);
    assert!(figures.evidence[1].contains("2 to 3 missing"));
    assert!(figures.evidence[1].contains(r#"since Some("p1")"#));
}

#[test]
fn the_position_does_not_move_until_the_resume_is_answered() {
    let mut scene = Scene::new();
    scene.trade("B0", 1, 1);
    for _ in 0..2 {
        scene.0.cut(0, 5_000);
        assert_eq!(scene.since().as_deref(), Some("p1"));
        scene.say(r#"{"type":"status","bus":"up","pos":"p8"}"#, 5_500);
    }
    scene.say(&recovered(), 6_000);
    scene.0.cut(0, 7_000);
    assert_eq!(scene.since().as_deref(), Some("p1"), "no message since");
    scene.say(&recovered(), 8_000);
    scene.say(r#"{"type":"status","bus":"up","pos":"p9"}"#, 9_000);
    scene.0.cut(0, 10_000);
    assert_eq!(scene.since().as_deref(), Some("p9"));
}

#[test]
fn a_resume_that_is_not_recovered_has_a_reason_and_a_new_position() {
    let mut scene = Scene::new();
    scene.trade("B0", 1, 1);
    scene.0.cut(0, 5_000);
    scene.open();
    // While the client is away, each busy name gets two messages, and one name a third.
    for message in 0..17 {
        scene.0.topics.next(message, 20.0);
    }
    scene.say(&refused("epoch", r#","pos":"p7""#), 6_000);
    scene.trade("B0", 4, 18);
    scene.trade("B1", 4, 19);
    scene.0.cut(0, 7_000);
    assert_eq!(scene.since().as_deref(), Some("p19"));
    scene.say(&refused("off", ""), 8_000);
    scene.0.cut(0, 9_000);
    assert_eq!(scene.since(), None, "the server has no position");
    scene.say(&answer("", ""), 9_500);
    let figures = scene.0.take();
    let whys: Vec<_> = figures.whys.keys().map(String::as_str).collect();
    assert_eq!(whys, ["epoch", "no position", "off"]);
    assert_eq!((figures.resumes, figures.recovered), (3, 0));
    let expected = (2 + 2, 1);
    assert_eq!(
        (figures.told, figures.lost),
        expected,
        "the third of B1 came after the response"
    );
}

#[test]
fn a_server_without_history_does_not_answer_the_position() {
    let mut scene = Scene::new();
    scene.0.cut(0, 1);
    assert_eq!(scene.since().as_deref(), Some("p0"));
    scene.say(&answer("", ""), 2);
    let figures = scene.0.take();
    assert_eq!(figures.whys["no response to since"], 1);
    scene.0.cut(0, 3);
    assert_eq!(scene.since(), None);
}

#[test]
fn clients_of_quiet_names_are_back_with_the_response() {
    let topics = Arc::new(Topics::new(Gateway::Trades));
    let mut visitors = Visitors::new(Gateway::Trades, topics, 5);
    let of_four = |more: &str| {
        format!(
            r#"{{"type":"success","data":{{"subscribed":["N0"]{more}}},"timestamp":1,"pos":"p"}}"#
        )
    };
    visitors.opened(4);
    visitors.heard(4, of_four("").as_bytes(), 1);
    visitors.cut(4, 10);
    assert!(visitors.opened(4).unwrap().contains(r#""since":"p""#));
    visitors.heard(4, of_four(r#","recovered":true"#).as_bytes(), 30);
    assert_eq!(visitors.settled(), 1);
    assert_eq!(visitors.take().gaps_us, [20]);
}

#[test]
fn what_nobody_asked_for_is_strange() {
    let mut scene = Scene::new();
    scene.trade("B7", 1, 1);
    scene.say(r#"{"type":"error","message":"no"}"#, 1);
    scene.say(r#"{"type":"status","bus":"up","pos":"Not one"}"#, 1);
    scene.say(&recovered(), 1);
    assert_eq!(scene.0.take().strange, 4);
    scene.say(r#"{"type":"status","bus":"away"}"#, 1);
    assert_eq!(scene.0.take().bus_away, 1);
}
