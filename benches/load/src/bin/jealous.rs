//! An issuer and its API in one: a token is void from the moment in which the next one is issued.
//!
//!     jealous --port 9000 --life 10
//!
//! `POST /token` issues a token that lives for so many seconds, and makes the one before void. `GET /counts` tells the figures.
//! Every other request is answered with 200 when it carries the last token, and with 401 when it does not.

use std::collections::HashMap;
use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};

use load::{Came, Connection, Poller, option};
use serde::Serialize;

#[derive(Default, Serialize)]
struct Counts {
    requests: u64,
    refused: u64,
    issued: u64,
}

struct Issuer {
    counts: Counts,
    life: u64,
    /// The header that is taken.
    taken: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (port, life): (u16, u64) = (option("port"), option("life"));
    let mut issuer = Issuer { counts: Counts::default(), life, taken: String::new() };
    let mut poller = Poller::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    poller.add(&listener, 0)?;
    // No number is used twice.
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut next = 1;
    loop {
        for number in poller.wait(None)? {
            if number == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    let connection = Connection::new(stream)?;
                    poller.add(connection.stream(), next)?;
                    connections.insert(next, connection);
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&number)
                && (connection.read() == Came::End || issuer.serve(connection).is_none())
            {
                connections.remove(&number);
            }
        }
    }
}

impl Issuer {
    /// Answers what has come whole; `None` when the connection is of no more use.
    fn serve(&mut self, connection: &mut Connection) -> Option<()> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            let httparse::Status::Complete(head) = request.parse(connection.received()).ok()? else { return Some(()) };
            let header = |name: &str| {
                let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
                str::from_utf8(header.value).ok()
            };
            let body: usize = header("content-length").map_or(Some(0), |length| length.parse().ok())?;
            if connection.received().len() < head + body {
                return Some(());
            }
            let (status, answer) = match request.path? {
                "/token" => ("200 OK", self.issue()),
                "/counts" => ("200 OK", serde_json::to_string(&self.counts).ok()?),
                _ => (
                    self.judge(header("authorization")),
                    r#"{"object":"ok","id":"0123456789abcdef","data":[1,2,3,4]}"#.to_owned(),
                ),
            };
            connection.forget(head + body);
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
            connection.write((head + &answer).as_bytes()).ok()?;
        }
    }

    fn issue(&mut self) -> String {
        self.counts.issued += 1;
        let (number, life) = (self.counts.issued, self.life);
        self.taken = format!("Bearer token-{number}");
        format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":{life}}}"#)
    }

    fn judge(&mut self, authorization: Option<&str>) -> &'static str {
        self.counts.requests += 1;
        if authorization == Some(self.taken.as_str()) {
            return "200 OK";
        }
        self.counts.refused += 1;
        "401 Unauthorized"
    }
}
