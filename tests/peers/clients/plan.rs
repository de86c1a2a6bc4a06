//! The steps that each client takes, and what each must come to: by what the client says, by what the upstream got, and by what
//! passed between the client and the proxy.

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::echo::{ANSWER, EVENTS, SIZED, Seen};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Get,
    Json,
    Upload,
    Large,
    Events,
    Head,
    NoContent,
    NotModified,
    Redirect,
    RedirectPath,
    KeepAlive,
    Denied,
    Message,
    Binary,
    Stream,
    Status,
    Ping,
    Close,
    Clone,
    Push,
}

/// What a client of HTTP does.
pub const HTTP: &[Step] = &[
    Step::Get,
    Step::Json,
    Step::Upload,
    Step::Large,
    Step::Events,
    Step::Head,
    Step::NoContent,
    Step::NotModified,
    Step::Redirect,
    Step::RedirectPath,
    Step::KeepAlive,
    Step::Denied,
];

/// What a client of gRPC does.
pub const GRPC: &[Step] =
    &[Step::Message, Step::Binary, Step::Stream, Step::Events, Step::Status, Step::KeepAlive, Step::Denied];

/// What a client of WebSockets does.
pub const WEB_SOCKET: &[Step] = &[Step::Message, Step::Binary, Step::Events, Step::Ping, Step::Close, Step::Denied];

/// What git does.
pub const GIT: &[Step] = &[Step::Clone, Step::Push, Step::Denied];

const TEXT: &str = "zażółć gęślą jaźń";

/// Of 16 KiB each.
const PIECES: usize = 64;

/// On one connection.
const REQUESTS: usize = 5;

/// What a program says that a step came to.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub struct Said {
    status: Option<u16>,
    /// `Content-Length`
    length: Option<String>,
    bytes: usize,
    text: String,
    sha256: String,
    events: Vec<u32>,
    /// `Content-Type`
    r#type: Option<String>,
    reason: Option<String>,
    /// The status of a call.
    code: Option<String>,
    /// The version of HTTP that was spoken, where only the client knows.
    pub http: Option<String>,
    /// Whether a ping was.
    answered: bool,
    /// The client has no such thing.
    cannot: Option<String>,
    /// The kind of what went wrong.
    error: Option<String>,
}

/// What was seen of a step from outside of the client.
pub struct Observed<'a> {
    /// The requests that reached the upstream.
    pub seen: Vec<Seen>,
    /// The connections that the client opened.
    pub connections: usize,
    /// How often the proxy refused.
    pub refused: u64,
    /// Whether a stream was not read while it came.
    pub late: bool,
    /// The SHA-256 of what the upstream serves as `large`.
    pub large: &'a str,
}

impl Step {
    /// What the programs know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Json => "json",
            Self::Upload => "upload",
            Self::Large => "large",
            Self::Events => "events",
            Self::Head => "head",
            Self::NoContent => "no_content",
            Self::NotModified => "not_modified",
            Self::Redirect => "redirect",
            Self::RedirectPath => "redirect_path",
            Self::KeepAlive => "keep_alive",
            Self::Denied => "denied",
            Self::Message => "message",
            Self::Binary => "binary",
            Self::Stream => "stream",
            Self::Status => "status",
            Self::Ping => "ping",
            Self::Close => "close",
            Self::Clone => "clone",
            Self::Push => "push",
        }
    }

    /// What readers know it by.
    pub fn title(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Json => "JSON",
            Self::Upload => "upload",
            Self::Large => "download",
            Self::Events => "events",
            Self::Head => "HEAD",
            Self::NoContent => "204",
            Self::NotModified => "304",
            Self::Redirect => "redirect",
            Self::RedirectPath => "redirect to a path",
            Self::KeepAlive => "keep-alive",
            Self::Denied => "refusal",
            Self::Message => "message",
            Self::Binary => "mebibyte",
            Self::Stream => "stream",
            Self::Status => "status",
            Self::Ping => "ping",
            Self::Close => "close",
            Self::Clone => "clone",
            Self::Push => "push",
        }
    }

    /// What was looked at, for the reader.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Get => "a GET whose query has an escaped space arrives as it was sent",
            Self::Json => "a POST with a JSON body of known length arrives whole",
            Self::Upload => "a POST of a mebibyte arrives whole: streamed, without its length, where the client can",
            Self::Large => "five mebibytes come down intact",
            Self::Events => "of a stream of events each is read before the next is sent",
            Self::Head => "HEAD is answered with the length of what is not sent",
            Self::NoContent => "204 ends with its head",
            Self::NotModified => "304 ends with its head",
            Self::Redirect => "a redirect to a whole URL of the upstream's leads through the proxy again",
            Self::RedirectPath => "so does one to a path",
            Self::KeepAlive => "five requests in a row share a connection, or two",
            Self::Denied => "the proxy's own refusal is read as what it is, and not asked for again",
            Self::Message => "a message comes back as it went",
            Self::Binary => "so does one of a mebibyte",
            Self::Stream => "a stream of messages goes up whole",
            Self::Status => "the status that a call ends with, its text and its trailers come through",
            Self::Ping => "a ping is answered",
            Self::Close => "the code and the reason of a close come through",
            Self::Clone => "a clone has what was in the repository: a mebibyte",
            Self::Push => "another clone has a mebibyte that was pushed",
        }
    }

    /// The line that a program gets.
    pub fn line(self) -> Value {
        match self {
            Self::Json | Self::Events => json!({ "step": self.name(), "body": body() }),
            Self::Message => json!({ "step": self.name(), "text": TEXT }),
            Self::Upload | Self::Binary | Self::Stream | Self::Push => json!({ "step": self.name(), "pieces": PIECES }),
            Self::KeepAlive => json!({ "step": self.name(), "requests": REQUESTS }),
            _ => json!({ "step": self.name() }),
        }
    }

    /// # Errors
    /// Why the step came to something else than it must.
    pub fn judge(self, said: &Said, observed: &Observed<'_>) -> Result<(), String> {
        if let Some(cannot) = &said.cannot {
            return Err(cannot.clone());
        }
        if let Some(error) = &said.error {
            return Err(format!("fails with {error}"));
        }
        match self {
            Self::Get | Self::Json | Self::Upload => self.judge_arrival(said, one(&observed.seen)?),
            Self::Large => expect(said.sha256 == observed.large, &format!("{} bytes came, or others", said.bytes)),
            Self::Events => {
                expect(said.events.iter().copied().eq(1..=EVENTS), &format!("events {:?} came", said.events))?;
                expect(!observed.late, "hands a stream over at its end")
            }
            Self::Head => {
                let whole = said.length.as_deref() == Some(&SIZED.to_string()) && said.bytes == 0;
                expect(said.status == Some(200) && whole, &format!("{}, length {:?}", said.as_status(), said.length))
            }
            Self::NoContent => expect(said.status == Some(204) && said.bytes == 0, &said.as_status()),
            Self::NotModified => expect(said.status == Some(304) && said.bytes == 0, &said.as_status()),
            Self::Redirect | Self::RedirectPath => {
                said.answered()?;
                let landed = observed.seen.last().is_some_and(|seen| seen.target.ends_with("/landed"));
                expect(landed && observed.seen.len() == 2, "does not land where it was led")
            }
            Self::KeepAlive => judge_keep_alive(observed),
            Self::Denied => judge_denied(said, observed),
            Self::Message => expect(said.text == TEXT, "another text came back"),
            Self::Binary | Self::Stream | Self::Clone | Self::Push => {
                expect(said.sha256 == sha256(content().as_bytes()), "other bytes arrived")
            }
            Self::Status => {
                let whole = said.code.as_deref() == Some("NOT_FOUND") && said.text == "no such thing: zażółć";
                expect(whole && said.reason.as_deref() == Some("came"), &format!("{:?} {:?}", said.code, said.text))
            }
            Self::Ping => expect(said.answered, "the ping was not answered"),
            Self::Close => expect(said.status == Some(4001) && said.text == "that is all", &said.as_status()),
        }
    }

    fn judge_arrival(self, said: &Said, seen: &Seen) -> Result<(), String> {
        expect(said.status == Some(200), &said.as_status())?;
        match self {
            Self::Get => {
                said.answered()?;
                expect(seen.has_query_value("a b"), "the query is not the one that was sent")
            }
            Self::Json => expect(holds_json(seen.unwrapped()), "the body is not the one that was sent"),
            _ => judge_upload(seen),
        }
    }
}

impl Said {
    fn answered(&self) -> Result<(), String> {
        let told = serde_json::from_str(&self.text).unwrap_or(Value::Null);
        let expected: Value = serde_json::from_str(ANSWER).expect("JSON");
        expect(self.status == Some(200) && told == expected, &self.as_status())
    }

    fn as_status(&self) -> String {
        match self.status {
            Some(status) => format!("gets {status}"),
            None => "gets no answer".to_owned(),
        }
    }
}

impl Seen {
    /// The body; SDKs of AWS send it over TLS in chunks with a checksum behind them, of which this is the first.
    fn unwrapped(&self) -> &[u8] {
        let length =
            self.headers.get("x-amz-decoded-content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        let wrapped = length.zip(self.body.windows(2).position(|end| end == b"\r\n"));
        wrapped.and_then(|(length, line): (usize, _)| self.body.get(line + 2..)?.get(..length)).unwrap_or(&self.body)
    }

    fn has_query_value(&self, expected: &str) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value == expected)
    }
}

fn judge_upload(seen: &Seen) -> Result<(), String> {
    let content = content();
    let kind = seen.headers.get("content-type").map_or(&b""[..], |value| value.as_bytes());
    if kind == b"text/plain" {
        expect(seen.body == content, "the body is not the one that was sent")?;
        return expect(!seen.headers.contains_key("content-length"), "reads a stream to its end before it sends it");
    }
    // SDKs wrap it.
    let found = seen.body.windows(content.len()).any(|window| window == content.as_bytes());
    expect(found, "the body is not the one that was sent")
}

fn judge_keep_alive(observed: &Observed<'_>) -> Result<(), String> {
    expect(observed.seen.len() == REQUESTS, &format!("{} requests arrived", observed.seen.len()))?;
    // One more is opened where an answer's end is noticed a moment late.
    expect(observed.connections <= 2, &format!("opens {} connections for {REQUESTS} requests", observed.connections))
}

fn judge_denied(said: &Said, observed: &Observed<'_>) -> Result<(), String> {
    let problem = said.r#type.as_deref().is_some_and(|kind| kind.starts_with("application/problem+json"));
    let by_http = said.status == Some(403) && problem && said.reason.as_deref() == Some("path_denied");
    let by_grpc = said.code.as_deref() == Some("PERMISSION_DENIED");
    // It shows its user the status and no more.
    let by_git = said.code.as_deref() == Some("The requested URL returned error: 403");
    expect(
        by_http || by_grpc || by_git,
        &format!("{}, reason {:?}, code {:?}", said.as_status(), said.reason, said.code),
    )?;
    expect(observed.seen.is_empty(), "a refused request reached the upstream")?;
    expect(observed.refused == 1, &format!("asks {} times for what it is refused", observed.refused))
}

/// What the programs send: it tells its place.
fn content() -> String {
    (0..PIECES).map(|number| format!("{number:015}\n").repeat(1024)).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn one(seen: &[Seen]) -> Result<&Seen, String> {
    match seen {
        [one] => Ok(one),
        _ => Err(format!("{} requests arrived", seen.len())),
    }
}

/// SDKs add to it.
fn holds_json(bytes: &[u8]) -> bool {
    let Ok(Value::Object(received)) = serde_json::from_slice(bytes) else { return false };
    body().as_object().expect("an object").iter().all(|(name, value)| received.get(name) == Some(value))
}

/// One that an SDK for language models takes, too.
fn body() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": TEXT }] })
}

fn expect(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
