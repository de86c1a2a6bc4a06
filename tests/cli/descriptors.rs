//! A proxy that has few file descriptors: who comes too late is told so, and the rest goes on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{Place, until};

/// What the process may have open; a part of it is nobody's but telemetry's, the issuers' and the trail's.
const FILES: usize = 120;

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // Who is turned away may be so before all of it is written.
    let _ = stream.write_all(head.as_bytes());
    stream
}

fn answered(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn a_full_house_can_still_be_scraped() {
    let place = Place::new("");
    place.write("token", "the-token");
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" run"), env!("CARGO_BIN_EXE_countersign")]);
    limited.env("COUNTERSIGN_CONFIG", place.path("countersign.toml")).env("HOME", place.path(""));
    let proxy = place.spawn(&mut limited);
    until("it is ready", || place.run(&["wait", "--timeout", "100ms"]).code.eq(&0).then_some(()));
    let warning = "there is room for fewer connections than the limit";
    until("the log says so", || proxy.log().contains(warning).then_some(()));

    // The upstream takes connections and never answers, so that each request keeps what it has.
    let held: Vec<TcpStream> = (0..FILES).map(|_| ask(place.proxy, "/api/things/x")).collect();
    let refused = until("some are refused", || {
        let metrics = answered(ask(place.telemetry, "/metrics"));
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        let line = metrics.lines().find(|line| line.starts_with("countersign_refused_total{reason=\"overloaded\"}"));
        let count: f64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0);
        (count > 0.0).then_some(count)
    });
    assert!(refused < FILES as f64, "not everybody was refused");
    assert!(answered(ask(place.telemetry, "/livez")).starts_with("HTTP/1.1 200"));
    // Some who come now may still find a place that another has just left.
    let mut later = Vec::new();
    let told = until("who comes now is told", || {
        let stream = ask(place.proxy, "/api/things/x");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
        let answer = answered(stream.try_clone().expect("a socket"));
        later.push(stream);
        (!answer.is_empty()).then_some(answer)
    });
    assert!(told.contains("\"reason\":\"overloaded\""), "{told}");
    drop((held, later));
    assert!(!proxy.log().contains("os error 24"), "no descriptor was missing: {}", proxy.log());
}
