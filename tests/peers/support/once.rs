//! An issuer whose refresh tokens are good once. It gives another with each answer, and remembers which it has seen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub struct Once {
    pub address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
}

/// What it knows.
#[derive(Default)]
struct Ledger {
    /// The one that is good.
    good: String,
    made: u64,
    /// Refresh tokens that were shown when they were good no more.
    shown_again: Vec<String>,
    /// How often it has issued an access token.
    issued: u64,
}

impl Ledger {
    fn make(&mut self) -> String {
        self.made += 1;
        self.good = format!("refresh-{}", self.made);
        self.good.clone()
    }
}

impl Once {
    /// It answers for as long as the tests run.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let ledger = Arc::<Mutex<Ledger>>::default();
        let own = ledger.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who asks may have been killed.
                let _ = answer(stream, &own);
            }
        });
        Self { address, ledger }
    }

    /// Somebody signs in: what that gives is good, and nothing from before.
    pub fn sign_in(&self) -> String {
        lock(&self.ledger).make()
    }

    pub fn shown_again(&self) -> Vec<String> {
        lock(&self.ledger).shown_again.clone()
    }

    pub fn issued(&self) -> u64 {
        lock(&self.ledger).issued
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut stream: TcpStream, ledger: &Mutex<Ledger>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let form = body(&mut stream)?;
    let shown = form.split('&').find_map(|pair| pair.strip_prefix("refresh_token="));
    let (status, answer) = {
        let mut ledger = lock(ledger);
        match shown {
            Some(shown) if shown == ledger.good => {
                let refresh_token = ledger.make();
                ledger.issued += 1;
                let (access_token, token_type) = (format!("access-{}", ledger.issued), "Bearer");
                let members = serde_json::json!({ "access_token": access_token, "token_type": token_type, "expires_in": 3600, "refresh_token": refresh_token });
                ("200 OK", members)
            }
            // It is told of a void access token.
            None => ("200 OK", serde_json::json!({})),
            Some(shown) => {
                let shown = shown.to_owned();
                ledger.shown_again.push(shown);
                ("400 Bad Request", serde_json::json!({ "error": "invalid_grant" }))
            }
        }
    };
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.as_bytes())
}

fn body(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(body.to_owned());
            }
        }
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..read]);
    }
}
