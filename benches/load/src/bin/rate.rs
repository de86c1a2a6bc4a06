//! An open loop: requests are due at a fixed rate, evenly spaced, whether or not earlier ones have been answered.
//!
//!     rate --port 8080 --path /bench/ --connections 64 --rate 20000 --seconds 5
//!
//! Prints one JSON object. `p50`, `p99`, `p999` and `most` are microseconds from the moment a request was due; those that
//! begin with `sent_` from the moment it was written, which leaves out how long it waited for a free connection.

use std::collections::VecDeque;
use std::error::Error;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use load::{Came, Connection, Poller, option};
use serde_json::json;

/// How long the last answers may take.
const GRACE: Duration = Duration::from_secs(5);

struct Slot {
    connection: Connection,
    /// When the request that is under way was due, and when it was written.
    asked: Option<(Instant, Instant)>,
}

struct Load {
    port: u16,
    request: Vec<u8>,
    poller: Poller,
    slots: Vec<Slot>,
    free: VecDeque<usize>,
    from_due: Vec<u64>,
    from_sent: Vec<u64>,
    failed: u64,
    /// Requests that were due while each connection waited for an answer.
    blocked: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (rate, seconds): (f64, f64) = (option("rate"), option("seconds"));
    let mut load = Load::new(option("port"), &option::<String>("path"), option("connections"))?;
    let took = load.run(rate, seconds)?;
    println!("{}", load.figures(took));
    Ok(())
}

impl Load {
    fn new(port: u16, path: &str, connections: usize) -> Result<Self, Box<dyn Error>> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: rate\r\nAccept: */*\r\n\r\n");
        let poller = Poller::new()?;
        let mut slots = Vec::with_capacity(connections);
        for number in 0..connections {
            slots.push(Slot { connection: connect(&poller, port, number)?, asked: None });
        }
        Ok(Self {
            port,
            request: request.into_bytes(),
            poller,
            slots,
            free: (0..connections).collect(),
            from_due: Vec::new(),
            from_sent: Vec::new(),
            failed: 0,
            blocked: 0,
        })
    }

    fn run(&mut self, rate: f64, seconds: f64) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        let gap = Duration::from_secs_f64(1.0 / rate);
        let end = start + Duration::from_secs_f64(seconds);
        let mut due = start;
        while due < end || self.free.len() < self.slots.len() {
            let now = Instant::now();
            if now > end + GRACE {
                self.failed += (self.slots.len() - self.free.len()) as u64;
                break;
            }
            while due < end && due <= now {
                let Some(number) = self.free.pop_front() else {
                    self.blocked += 1;
                    break;
                };
                self.ask(number, due)?;
                due += gap;
            }
            // Nothing can be sent without a free connection, and only an answer frees one.
            let wait =
                if due < end && !self.free.is_empty() { due.saturating_duration_since(Instant::now()) } else { GRACE };
            for number in self.poller.wait(Some(wait))? {
                self.take(number)?;
            }
        }
        Ok(start.elapsed())
    }

    fn ask(&mut self, number: usize, due: Instant) -> Result<(), Box<dyn Error>> {
        let slot = &mut self.slots[number];
        slot.asked = Some((due, Instant::now()));
        if slot.connection.write(&self.request).is_err() {
            self.lost(number)?;
        }
        Ok(())
    }

    fn take(&mut self, number: usize) -> Result<(), Box<dyn Error>> {
        let slot = &mut self.slots[number];
        if slot.connection.read() == Came::End {
            return self.lost(number);
        }
        let Some((length, status)) = answer(slot.connection.received()) else { return Ok(()) };
        slot.connection.forget(length);
        if let Some((due, sent)) = slot.asked.take() {
            let now = Instant::now();
            self.from_due.push(microseconds(now - due));
            self.from_sent.push(microseconds(now - sent));
            self.failed += u64::from(status != 200);
            self.free.push_back(number);
        }
        Ok(())
    }

    /// The connection has ended: what was asked on it failed, and another takes its place.
    fn lost(&mut self, number: usize) -> Result<(), Box<dyn Error>> {
        let slot = &mut self.slots[number];
        if slot.asked.take().is_some() {
            self.failed += 1;
            self.free.push_back(number);
        }
        slot.connection = connect(&self.poller, self.port, number)?;
        Ok(())
    }

    fn figures(&mut self, took: Duration) -> serde_json::Value {
        self.from_due.sort_unstable();
        self.from_sent.sort_unstable();
        let (due, sent) = (&self.from_due, &self.from_sent);
        json!({
            "requests": due.len(), "rate": due.len() as f64 / took.as_secs_f64(),
            "failed": self.failed, "blocked": self.blocked,
            "p50": share(due, 500), "p99": share(due, 990), "p999": share(due, 999), "most": share(due, 1000),
            "sent_p50": share(sent, 500), "sent_p99": share(sent, 990), "sent_p999": share(sent, 999),
        })
    }
}

fn connect(poller: &Poller, port: u16, number: usize) -> Result<Connection, Box<dyn Error>> {
    let connection = Connection::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)?;
    poller.add(connection.stream(), number)?;
    Ok(connection)
}

/// Length and status of an answer that is complete.
fn answer(received: &[u8]) -> Option<(usize, u16)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received).ok()? else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body: usize = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0);
    (received.len() >= head + body).then_some((head + body, response.code?))
}

/// What so many of a thousand did not exceed.
fn share(sorted: &[u64], of_thousand: usize) -> u64 {
    let place = (sorted.len() * of_thousand / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0)
}

fn microseconds(span: Duration) -> u64 {
    span.as_micros().try_into().unwrap_or(u64::MAX)
}
