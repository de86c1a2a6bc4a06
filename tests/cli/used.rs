//! What the trail tells of the use of tokens when the proxy was killed in the middle of it.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Place, until};

/// So many requests are under way at a time.
const CONNECTIONS: usize = 3;

/// The trail says that so much may be missing, at most.
const SECONDS_WORTH: Duration = Duration::from_secs(1);

/// An API that writes down when each request came.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Vec<Timestamp>>>);

impl Api {
    fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let own = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let own = own.clone();
                std::thread::spawn(move || own.serve(&stream.expect("a connection")));
            }
        });
        address
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while head(&mut reader).is_some() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Timestamp::now());
            let mut writer = stream;
            if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                break;
            }
        }
    }

    fn came(&self) -> Vec<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The first line of a head; `None` if the other end has gone.
fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut first = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return first;
        }
        first.get_or_insert(line);
    }
}

/// Asks again and again, until there is nobody to ask.
fn client(proxy: SocketAddr) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let stream = TcpStream::connect(proxy).expect("connects");
        let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
        while writer.write_all(b"GET /api/things/7 HTTP/1.1\r\nHost: localhost\r\n\r\n").is_ok() {
            let Some(status) = head(&mut reader) else { break };
            assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
            if reader.read_exact(&mut [0; 2]).is_err() {
                break;
            }
        }
    })
}

/// The sum of `requests`.
fn requests<'r>(of: impl IntoIterator<Item = &'r Value>) -> usize {
    let numbers = of.into_iter().map(|each| each["requests"].as_u64().expect("a number"));
    usize::try_from(numbers.sum::<u64>()).expect("not so many")
}

fn in_journal(place: &Place) -> usize {
    let journal = std::fs::read(place.path("state/audit/usage.journal")).unwrap_or_default();
    let journal: Value = serde_json::from_slice(&journal).unwrap_or_default();
    requests(journal["used"].as_array().into_iter().flatten())
}

#[test]
fn what_a_killed_proxy_has_let_pass_is_told_but_for_the_gap_that_is_told() {
    let api = Api::default();
    let place = Place::new("");
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    place.write_config(&config.replace(&place.upstream.to_string(), &api.start().to_string()));
    place.write("token", "the-token");
    let mut proxy = place.start();
    place.run(&["wait"]).ok();
    let clients = [(); CONNECTIONS].map(|()| client(place.proxy));
    until("the journal tells of some of it", || (in_journal(&place) > 100).then_some(()));
    let before = api.came().len();
    // In the middle of a second of it, whichever.
    until("there is more than the journal tells", || (api.came().len() > before + 50).then_some(()));
    proxy.signal(Signal::KILL);
    proxy.ended();
    for client in clients {
        client.join().expect("no answer but 200");
    }
    let came = api.came();

    let _again = place.start();
    place.run(&["wait"]).ok();
    let shown = |event: &str| -> Vec<Value> {
        let lines = place.run(&["audit", "show", "--json", "--event", event]).ok();
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let gap = until("the trail tells of the gap", || shown("usage_gap").pop());
    let used = shown("usage");
    assert!(used.iter().any(|record| record["recovered"] == true), "{used:?}");
    let told = requests(&used);
    let from: Timestamp = gap["from"].as_str().and_then(|time| time.parse().ok()).expect("a time");
    let in_the_gap = came.iter().filter(|time| **time > from - SECONDS_WORTH).count();
    // Those that were under way when it ended were never counted.
    assert!(told <= came.len(), "{told} are told of {}", came.len());
    assert!(
        came.len() - told <= in_the_gap + CONNECTIONS,
        "{told} are told of {}, and {in_the_gap} came in the gap from {from}",
        came.len()
    );
    assert!(told > 100, "{told}");
}
