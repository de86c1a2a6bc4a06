//! The issuer of a continuous integration: it publishes its keys as OpenID Connect Discovery has it, and signs what its jobs
//! show.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign::clock::{Clock, SystemClock};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct Ci {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

struct State {
    /// The newest last: it signs.
    keys: Vec<CiKey>,
    /// The paths that were asked for.
    asked: Vec<String>,
    is_down: bool,
    /// What it says of itself, if not what is right.
    told: Option<Value>,
}

/// A key of an issuer, under a name of its own.
#[derive(Clone)]
pub struct CiKey {
    name: String,
    key: EncodingKey,
}

impl CiKey {
    pub fn new(name: &str) -> Self {
        let pem = KeyPair::generate().expect("a key").serialize_pem();
        Self { name: name.to_owned(), key: EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key") }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.name.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
    }

    /// The public half, as it is published.
    pub fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a public half");
        jwk.common.key_id = Some(self.name.clone());
        serde_json::to_value(jwk).expect("JSON")
    }
}

impl Ci {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let state = State { keys: vec![CiKey::new("first")], asked: Vec::new(), is_down: false, told: None };
        let state = Arc::new(Mutex::new(state));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state.clone()));
        Self { address, state, _serving: serving }
    }

    /// What its tokens have in `iss`.
    pub fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client's `jwt`.
    pub fn jwt(&self, subject: &str) -> String {
        format!(r#"jwt = {{ issuer = "{}", audience = "countersign", subject = "{subject}" }}"#, self.name())
    }

    /// What a job of this subject is, for five minutes.
    pub fn claims(&self, subject: &str) -> Value {
        let now = SystemClock.now().wall.as_secs();
        json!({ "iss": self.name(), "aud": "countersign", "sub": subject, "iat": now, "nbf": now, "exp": now + 300 })
    }

    /// Such claims, with others in their place.
    pub fn claims_with(&self, subject: &str, others: Value) -> Value {
        let mut claims = self.claims(subject);
        let others = others.as_object().expect("an object").clone();
        claims.as_object_mut().expect("an object").extend(others);
        claims
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.lock().keys.last().expect("a key").sign(claims)
    }

    /// What a job of this subject shows.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }

    /// The key that signs now.
    pub fn key(&self) -> CiKey {
        self.lock().keys.last().expect("a key").clone()
    }

    /// Publishes these keys, and no others.
    pub fn publish(&self, keys: Vec<CiKey>) {
        self.lock().keys = keys;
    }

    /// Whether it hangs up on everybody.
    pub fn is_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Says this of itself.
    pub fn tells(&self, told: Value) {
        self.lock().told = Some(told);
    }

    /// How often its keys were asked for.
    pub fn asked_for_keys(&self) -> usize {
        self.lock().asked.iter().filter(|path| *path == "/keys").count()
    }

    /// How often it was asked for anything.
    pub fn asked(&self) -> usize {
        self.lock().asked.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let own = format!("http://{}", listener.local_addr().expect("an address"));
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        connections.spawn(exchange(tcp, own.clone(), state.clone()));
    }
}

async fn exchange(mut tcp: TcpStream, own: String, state: Arc<Mutex<State>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(tcp.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    let head = String::from_utf8(head).expect("text");
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    let body = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(path.clone());
        if state.is_down {
            return;
        }
        match path.as_str() {
            "/.well-known/openid-configuration" => {
                let right = json!({ "issuer": own, "jwks_uri": format!("{own}/keys") });
                state.told.clone().unwrap_or(right)
            }
            _ => json!({ "keys": state.keys.iter().map(CiKey::published).collect::<Vec<_>>() }),
        }
    };
    let body = body.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // The caller may have seen enough.
    let _ = tcp.write_all(answer.as_bytes()).await;
}
