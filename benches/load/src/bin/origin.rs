//! An origin that judges the token of each request: a JWT whose claims are looked at, and whose signature is not.
//!
//!     origin --port 9000 --addresses 20
//!
//! It listens on 127.0.0.1, 127.0.0.2 and so on.
//!
//! - missing: the request carries no JWT.
//! - stale: its `exp` is past by our clock. As a JWT says whole seconds, one that ends in this second has ended.
//! - superseded: a newer JWT of the same `sub` was first seen more than a second ago.
//!
//! Each of these is answered with 409, which no proxy tries again; all others with 200. `GET /counts` tells the figures.

use std::collections::HashMap;
use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use load::{Came, Connection, Poller, option};
use serde::{Deserialize, Serialize};

/// A request that was written before the newer token came may still be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

#[derive(Default, Serialize)]
struct Counts {
    requests: u64,
    missing: u64,
    stale: u64,
    superseded: u64,
    tokens: usize,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

/// A token as it was seen first.
struct Seen {
    sub: String,
    exp: u64,
    /// Among those of its `sub`.
    number: u64,
}

/// The newest token of a `sub`.
struct Newest {
    number: u64,
    since: Instant,
}

#[derive(Default)]
struct Judge {
    counts: Counts,
    seen: HashMap<String, Seen>,
    newest: HashMap<String, Newest>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (port, addresses): (u16, u8) = (option("port"), option("addresses"));
    let mut poller = Poller::new()?;
    let mut listeners = Vec::new();
    for last in 1..=addresses {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port))?;
        listener.set_nonblocking(true)?;
        poller.add(&listener, listeners.len())?;
        listeners.push(listener);
    }
    // Connections are numbered after the listeners, and no number is used twice.
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut next = listeners.len();
    let mut judge = Judge::default();
    loop {
        for number in poller.wait(None)? {
            if let Some(listener) = listeners.get(number) {
                while let Ok((stream, _)) = listener.accept() {
                    let connection = Connection::new(stream)?;
                    poller.add(connection.stream(), next)?;
                    connections.insert(next, connection);
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&number)
                && (connection.read() == Came::End || serve(connection, &mut judge).is_none())
            {
                connections.remove(&number);
            }
        }
    }
}

/// Answers what has come whole; `None` when the connection is of no more use.
fn serve(connection: &mut Connection, judge: &mut Judge) -> Option<()> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = request.parse(connection.received()).ok()? else { return Some(()) };
        let (status, body) = if request.path == Some("/counts") {
            judge.counts.tokens = judge.seen.len();
            ("200 OK", serde_json::to_string(&judge.counts).ok()?)
        } else {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
            let status = judge.judge(header.and_then(|header| str::from_utf8(header.value).ok()));
            (status, r#"{"object":"ok","id":"0123456789abcdef","data":[1,2,3,4]}"#.to_owned())
        };
        connection.forget(length);
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        connection.write((head + &body).as_bytes()).ok()?;
    }
}

impl Judge {
    /// The status that the bearer of this header gets.
    fn judge(&mut self, authorization: Option<&str>) -> &'static str {
        self.counts.requests += 1;
        let Some(token) = authorization.and_then(|value| value.strip_prefix("Bearer ")) else { return self.missing() };
        if !self.seen.contains_key(token) {
            let Some(claims) = claims(token) else { return self.missing() };
            let number = self.newest.get(&claims.sub).map_or(1, |newest| newest.number + 1);
            self.newest.insert(claims.sub.clone(), Newest { number, since: Instant::now() });
            self.seen.insert(token.to_owned(), Seen { sub: claims.sub, exp: claims.exp, number });
        }
        let seen = &self.seen[token];
        let newest = &self.newest[&seen.sub];
        if seen.exp <= now() {
            self.counts.stale += 1;
            return REFUSED;
        }
        if seen.number < newest.number && newest.since.elapsed() > ON_ITS_WAY {
            self.counts.superseded += 1;
            return REFUSED;
        }
        "200 OK"
    }

    fn missing(&mut self) -> &'static str {
        self.counts.missing += 1;
        REFUSED
    }
}

fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const REFUSED: &str = "409 Conflict";
