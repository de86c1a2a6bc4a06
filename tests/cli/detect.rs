//! `detect`: series and recorded use, judged on the command line.

use crate::support::Place;

fn series(rows: usize) -> String {
    let rows = (0..rows).map(|row| {
        let value = if row == 900 { 500.0 } else { 50.0 + (row % 7) as f64 };
        format!("2026-11-{:02} {:02}:{:02}:00,{value}\n", 1 + row / 288, row / 12 % 24, row % 12 * 5)
    });
    std::iter::once("timestamp,value\n".to_owned()).chain(rows).collect()
}

#[test]
fn each_row_of_a_series_gets_a_score_that_tells_the_unusual_ones() {
    let place = Place::empty();
    place.write("series.csv", &series(1000));
    let ended = place.run(&["detect", "score", "--series", "series.csv"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], "timestamp,value,anomaly_score");
    assert_eq!(lines.len(), 1001);
    let score = |line: &str| line.rsplit(',').next().and_then(|score| score.parse().ok()).unwrap_or(f64::NAN);
    let unusual: Vec<&str> = lines[1..].iter().copied().filter(|line| score(line) >= 0.5).collect();
    assert_eq!(unusual.len(), 1, "{unusual:?}");
    assert!(unusual[0].starts_with("2026-11-04 03:00:00,500,"), "{unusual:?}");
}

#[test]
fn a_score_follows_from_how_rare_the_sizes_of_a_row_are() {
    let place = Place::empty();
    place.write("series.csv", &series(1000));
    let plain = place.run(&["detect", "score", "--series", "series.csv"]).ok();
    let sizes = place.run(&["detect", "score", "--series", "series.csv", "--sizes"]).ok();
    let cells = |line: &str| line.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
    let names = cells(sizes.lines().next().expect("a header"));
    assert_eq!((names.len(), names[2].as_str(), names[20].as_str()), (21, "above", "anomaly_score"));
    for (plain, sizes) in plain.lines().zip(sizes.lines()) {
        let (plain, sizes) = (cells(plain), cells(sizes));
        assert_eq!((&plain[..2], &plain[2]), (&sizes[..2], &sizes[20]));
    }
    let unusual = cells(sizes.lines().nth(901).expect("a row"));
    let above: f64 = unusual[2].parse().expect("a number");
    assert!(above > 2.9, "five hundred lies far above fifty: {above}");
}

#[test]
fn times_that_are_doubled_missing_or_written_otherwise_are_no_trouble() {
    let place = Place::empty();
    let text = "timestamp,value\r\n2026-11-01 00:00:00,1\r\n2026-11-01 00:00:00,2\n2026-10-31T23:00:00Z,-3e2\n\n\
                2026-11-01 00:05:00.250,4\n1793491200,5\n";
    place.write("series.csv", text);
    let ended = place.run(&["detect", "score", "--series", "series.csv"]);
    assert_eq!((ended.code, ended.out.lines().count()), (0, 6), "{}{}", ended.out, ended.err);
}

#[test]
fn a_row_that_cannot_be_read_is_named_by_its_line() {
    let place = Place::empty();
    for (text, said) in [
        ("timestamp,value\n2026-11-01 00:00:00,1\nyesterday,2\n", "series.csv: line 3: `yesterday` is no time"),
        ("timestamp,value\n2026-11-01 00:00:00,many\n", "series.csv: line 2: `many` is no number"),
        ("timestamp,value\n2026-11-01 00:00:00,NaN\n", "series.csv: line 2: `NaN` is no number"),
        ("timestamp,value\n2026-11-01 00:00:00\n", "series.csv: line 2: there is no comma"),
        ("2026-11-01 00:00:00,1\n", "series.csv: line 1: it is not the header"),
    ] {
        place.write("series.csv", text);
        let ended = place.run(&["detect", "score", "--series", "series.csv"]);
        assert_eq!(ended.code, 1, "{text}");
        assert!(ended.err.contains(said), "{}", ended.err);
    }
    let ended = place.run(&["detect", "score", "--series", "absent.csv"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("absent.csv"), "{}", ended.err);
}

/// Ten days of an app that asks every ten minutes, and then deletes.
fn use_of(token: &str) -> String {
    let line = |turn: u64, method: &str| {
        let time =
            jiff::Timestamp::from_second(1_788_739_200 + i64::try_from(turn).expect("a turn") * 600).expect("a time");
        format!(
            "{{\"time\":\"{time}\",\"token\":\"{token}\",\"client\":\"app\",\"route\":\"api\",\"host\":\"127.0.0.1\",\"method\":\"{method}\",\
             \"path\":\"/things/{turn}\",\"status\":200,\"request_bytes\":0,\"response_bytes\":10,\"duration_ms\":4.1}}\n"
        )
    };
    (0..1440).map(|turn| line(turn, "GET")).chain([line(1440, "DELETE")]).collect()
}

#[test]
fn recorded_use_is_judged_as_live_use_would_be() {
    let place = Place::new("");
    place.write("events.jsonl", &(use_of("api") + &use_of("elsewhere")));
    let told = place.run(&["detect", "backtest", "--events", "events.jsonl"]).ok();
    let told: Vec<serde_json::Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!told.is_empty());
    let deletion = told.iter().find(|line| line["signal"] == "new_method").expect("the deletion is told");
    assert_eq!(deletion["token"], "api");
    assert_eq!(deletion["time"], "2026-09-17T00:00:00.000Z");
    assert_eq!(deletion["response"], "alert");
    assert_eq!(deletion["evidence"]["signals"]["new_method"], "first DELETE in 1440 requests");
    assert!(deletion["score"].as_f64().is_some_and(|score| (0.5..=1.0).contains(&score)));
    let summary = place.run(&["detect", "backtest", "--events", "events.jsonl", "--summary"]).ok();
    assert!(summary.contains(r#""day":"2026-09-17""#) && summary.contains(r#""signal":"new_method""#), "{summary}");
    let config = ["detect", "backtest", "--events", "events.jsonl", "--config", "countersign.toml"];
    assert!(!place.run(&config).ok().contains("elsewhere"), "a token that the config does not have");
}

#[test]
fn recorded_use_is_answered_as_the_config_would_have_it() {
    let told = |detect: &str, more: &[&str]| {
        let place = Place::new(&format!("\n[detect]\nmode = \"respond\"\n{detect}\n"));
        place.write("events.jsonl", &use_of("api"));
        let backtest = ["detect", "backtest", "--events", "events.jsonl", "--config", "countersign.toml"];
        place.run(&[&backtest[..], more].concat()).ok()
    };
    let deletion = |told: String| -> serde_json::Value {
        let line = told.lines().find(|line| line.contains("first DELETE")).expect("the deletion is told").to_owned();
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(deletion(told("", &[]))["response"], "alert");
    assert_eq!(deletion(told("respond = { new_method = \"throttle\" }", &[]))["response"], "throttle");
    let exempt =
        "exempt = [{ token = \"api\", signals = [\"new_method\"], until = \"2099-12-31\", reason = \"cleaning up\" }]";
    assert_eq!(deletion(told(exempt, &[]))["response"], "exempt");
    assert!(told("", &["--summary"]).contains("new_method"));
    assert!(!told(exempt, &["--summary"]).contains("new_method"));
}

#[test]
fn an_event_that_cannot_be_read_is_named_by_its_line() {
    let place = Place::empty();
    place.write("events.jsonl", "{\"time\":\"2026-11-22T10:00:00Z\",\"token\":\"a\"}\n\n{\"time\":\"noon\"}\n");
    let said = place.run(&["detect", "backtest", "--events", "events.jsonl"]).failed(1);
    assert!(said.contains("events.jsonl: line 3: "), "{said}");
}
