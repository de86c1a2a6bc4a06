use super::board::{MOST, Telling};
use super::*;

const NOW: Duration = Duration::from_secs(1_795_305_600);

fn alert(key: &str, severity: Severity) -> Alert {
    Alert {
        key: key.to_owned(),
        name: "CountersignRotationFailing".to_owned(),
        severity,
        token: Some("api".parse().expect("well-formed")),
        route: None,
        client: None,
        summary: format!("{key} is in trouble"),
        description: "Look at it.".to_owned(),
        started: NOW,
    }
}

fn name(text: &str) -> SinkName {
    text.parse().expect("well-formed")
}

fn told_to(sinks: &[(&str, Severity)]) -> BTreeMap<SinkName, (Severity, bool)> {
    sinks.iter().map(|(sink, least)| (name(sink), (*least, false))).collect()
}

fn board(sinks: &[(&str, Severity)]) -> Board {
    let mut board = Board::default();
    board.settle(&told_to(sinks), NOW);
    board
}

/// Takes what a sink is to be told, in order: `+a` where an alert begins, `-a` where it is over.
fn taken(board: &mut Board, sink: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let next: Option<Telling> = board.next(&name(sink)).first().map(|telling| (*telling).clone());
        let Some(next) = next else { return all };
        let sign = if next.ended.is_some() { '-' } else { '+' };
        all.push(format!("{sign}{}", next.alert.key));
        board.told(&name(sink), &next);
    }
}

#[test]
fn an_open_alert_is_told_once_and_once_more_when_it_is_over() {
    let mut board = board(&[("a", Severity::Low), ("b", Severity::High)]);
    assert_eq!(board.raise(alert("x", Severity::Medium), NOW), Raised::Begun);
    assert_eq!(board.raise(alert("x", Severity::Medium), NOW), Raised::Known);
    assert_eq!(board.raise(alert("y", Severity::High), NOW), Raised::Begun);
    assert_eq!(taken(&mut board, "a"), ["+x", "+y"]);
    assert_eq!(board.raise(alert("x", Severity::Low), NOW), Raised::Known);
    assert!(board.over("x", NOW).is_some() && board.over("x", NOW).is_none());
    assert!(board.over("nothing", NOW).is_none());
    assert_eq!(taken(&mut board, "a"), ["-x"]);
    assert_eq!(taken(&mut board, "b"), ["+y"], "what is not grave enough is not told, nor its end");
    assert_eq!((board.open(), board.open_below("y")), (1, vec!["y".to_owned()]));
}

#[test]
fn what_gets_graver_is_told_again_to_those_who_want_to_know() {
    let mut board = board(&[("a", Severity::Low), ("b", Severity::High)]);
    board.raise(alert("x", Severity::Low), NOW);
    assert_eq!(taken(&mut board, "a"), ["+x"]);
    board.raise(alert("x", Severity::High), NOW);
    assert_eq!((taken(&mut board, "a"), taken(&mut board, "b")), (vec!["+x".to_owned()], vec!["+x".to_owned()]));
    board.over("x", NOW);
    assert_eq!((taken(&mut board, "a"), taken(&mut board, "b")), (vec!["-x".to_owned()], vec!["-x".to_owned()]));
}

#[test]
fn what_comes_and_goes_while_a_sink_is_away_is_told_once() {
    let mut board = board(&[("a", Severity::Low)]);
    for _ in 0..3 {
        board.raise(alert("x", Severity::Low), NOW);
        board.over("x", NOW);
    }
    assert_eq!(taken(&mut board, "a"), ["+x", "-x"]);
    board.raise(alert("x", Severity::Low), NOW);
    assert_eq!(taken(&mut board, "a"), ["+x"]);
    board.over("x", NOW);
    board.raise(alert("x", Severity::Low), NOW);
    assert_eq!(taken(&mut board, "a"), [""; 0], "it knows that it is open");
}

#[test]
fn what_a_sink_may_have_heard_is_not_taken_back() {
    let mut board = board(&[("a", Severity::Low)]);
    board.raise(alert("x", Severity::Low), NOW);
    assert_eq!(taken(&mut board, "a"), ["+x"]);
    board.over("x", NOW);
    let over = board.next(&name("a"))[0].clone();
    assert_eq!(board.tried(&name("a"), &over), 1);
    board.raise(alert("x", Severity::Low), NOW);
    assert_eq!(taken(&mut board, "a"), ["-x", "+x"]);
}

#[test]
fn there_is_room_for_so_many_and_the_next_is_turned_away_until_there_is_again() {
    let mut board = board(&[("a", Severity::Low)]);
    for number in 0..MOST {
        assert_eq!(board.raise(alert(&number.to_string(), Severity::Low), NOW), Raised::Begun);
    }
    assert_eq!(board.raise(alert("more", Severity::Low), NOW), Raised::NoRoom { is_first: true });
    assert_eq!(board.raise(alert("more", Severity::Low), NOW), Raised::NoRoom { is_first: false });
    assert_eq!(taken(&mut board, "a").len(), MOST, "none of those that had room is lost");
    board.over("7", NOW);
    assert_eq!(
        board.raise(alert("more", Severity::Low), NOW),
        Raised::NoRoom { is_first: false },
        "it is not told yet"
    );
    assert_eq!(taken(&mut board, "a"), ["-7"]);
    assert_eq!(board.raise(alert("more", Severity::Low), NOW), Raised::Begun);
}

#[test]
fn a_new_sink_is_told_what_is_open_and_one_that_goes_is_forgotten() {
    let mut board = board(&[("a", Severity::Low)]);
    board.raise(alert("x", Severity::Low), NOW);
    board.raise(alert("y", Severity::High), NOW);
    board.over("x", NOW);
    board.settle(&told_to(&[("a", Severity::Low), ("b", Severity::High)]), NOW);
    assert_eq!(taken(&mut board, "b"), ["+y"]);
    board.settle(&told_to(&[("b", Severity::High)]), NOW);
    assert_eq!(taken(&mut board, "a"), [""; 0]);
    assert_eq!(board.take_changes().1.len(), 1, "x is through: nobody is left to be told");
}

#[test]
fn a_sink_that_is_gone_is_told_nothing_until_its_entry_changes() {
    let mut board = board(&[("a", Severity::Low)]);
    board.raise(alert("x", Severity::Low), NOW);
    board.over("x", NOW);
    assert_eq!(board.leave(&name("a")), 2);
    board.raise(alert("y", Severity::Low), NOW);
    board.settle(&told_to(&[("a", Severity::Low)]), NOW);
    assert_eq!(taken(&mut board, "a"), [""; 0]);
    board.settle(&[(name("a"), (Severity::Low, true))].into(), NOW);
    assert_eq!(taken(&mut board, "a"), ["+y"]);
}

#[test]
fn what_was_not_told_before_a_restart_is_told_after_it_with_the_same_id() {
    let mut before = board(&[("a", Severity::Low)]);
    before.raise(alert("x", Severity::Low), NOW);
    before.raise(alert("y", Severity::Low), NOW);
    let first = before.next(&name("a"))[0].clone();
    before.told(&name("a"), &first);
    let (episodes, _) = before.take_changes();
    let written: Vec<Vec<u8>> = episodes.iter().map(|episode| serde_json::to_vec(episode).expect("JSON")).collect();
    let mut after = Board::restore(written.iter().map(|episode| serde_json::from_slice(episode).expect("JSON")));
    after.settle(&[(name("a"), (Severity::Low, true))].into(), NOW);
    assert_eq!(after.next(&name("a")), before.next(&name("a")));
    after.over("x", NOW);
    assert_eq!(taken(&mut after, "a"), ["+y", "-x"]);
}

#[test]
fn texts_are_bounded_and_of_one_line() {
    let long = Alert { summary: "a\nb".to_owned(), description: "ä".repeat(5000), ..alert("x", Severity::Low) };
    let bounded = long.bounded();
    assert_eq!((bounded.summary.as_str(), bounded.description.chars().count()), ("a b", 1500));
}

#[test]
fn alertmanager_is_told_labels_times_and_what_to_do() {
    let mut board = board(&[("a", Severity::Low)]);
    board.raise(alert("x", Severity::High), NOW);
    let runbook = crate::authority::Endpoint::parse("https://wiki.example/countersign/").expect("well-formed");
    let telling = board.next(&name("a"))[0].clone();
    let later = NOW + Duration::from_secs(60);
    let body = |telling: &Telling| -> serde_json::Value {
        serde_json::from_slice(&alertmanager::body([telling], [], "here", Some(&runbook), later)).expect("well-formed")
    };
    assert_eq!(
        body(&telling),
        serde_json::json!([{
            "labels": { "alertname": "CountersignRotationFailing", "severity": "high", "instance": "here", "token": "api" },
            "annotations": {
                "summary": "x is in trouble",
                "description": "Look at it.",
                "runbook_url": "https://wiki.example/countersign/rotation-failing.md",
            },
            "startsAt": "2026-11-22T00:00:00.000Z",
            "endsAt": "2026-11-22T00:05:00.000Z",
        }])
    );
    board.told(&name("a"), &telling);
    board.over("x", later);
    let over = board.next(&name("a"))[0].clone();
    assert_eq!(body(&over)[0]["endsAt"], "2026-11-22T00:01:00.000Z");
}

/// The example of the specification: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
#[test]
fn a_webhook_is_signed_as_the_specification_has_it() {
    let secret = crate::secret::Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let signature = webhook::signature(&secret, id, 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signature.expect("a signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    for bad in ["whsec_", "whsec_c2hvcnQ=", "not base64 at all, but long enough for a key"] {
        let secret = crate::secret::Secret::new(bad);
        assert!(webhook::signature(&secret, id, 0, b"").is_err(), "{bad}");
    }
}

#[test]
fn what_finds_no_room_is_counted_once_for_each_sink_that_would_have_been_told() {
    let (folder, metrics) = (tempfile::tempdir().expect("a folder"), Metrics::new().expect("no failure"));
    let store = Arc::new(Store::open(folder.path(), None).expect("opened"));
    let alerts = Alerts::open(store, Arc::new(crate::clock::SystemClock), &metrics).expect("opened");
    let sink = |text, severity| Settings { name: name(text), severity, kind: Kind::Log, runbooks: None };
    let sinks = prepare(&[sink("all", Severity::Low), sink("grave", Severity::High)]).expect("opened");
    alerts.settle(sinks, &Tasks::new(), &crate::fetch::scripted::fetcher());
    for number in 0..=MOST {
        alerts.raise(alert(&number.to_string(), Severity::Low));
    }
    alerts.raise(alert(&MOST.to_string(), Severity::Low));
    let count = |sink, outcome| alerts.shared.figures.of(&name(sink), outcome).get();
    assert_eq!((count("all", DELIVERED), count("all", DROPPED)), (MOST as u64, 1));
    assert_eq!((count("grave", DELIVERED), count("grave", DROPPED)), (0, 0));
    assert_eq!(alerts.shared.figures.open.get(), i64::try_from(MOST).expect("well-formed"));
}
