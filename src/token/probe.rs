//! The probe: one `GET` with a generation, to a URL of the API that says whether it takes it.
//!
//! | the API's answer | verdict |
//! |---|---|
//! | 401, or 403 without `Retry-After` | refused |
//! | 429, 5xx, 403 with `Retry-After`; none in time, or no connection | unanswered |
//! | any other | passed: a redirect is not followed, and a 404 is no word on the token |
//!
//! Two things about an API change that: one that answers 403 where a token may merely not do this (`forbidden = "passed"`), and one
//! that says in the body of a 200 whether it takes a token (`ok`).
//!
//! Invariants: the generation goes to the probe's own URL only, in its placement, on a connection whose certificate is verified.
//! Of the answer nothing but the head is read, and what `ok` points at.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::placement::{Placed, Placement};
use crate::authority::Endpoint;
use crate::clock::Moment;
use crate::dpop;
use crate::fetch::{Answer, Call, FetchError, Fetcher, Head, Remote, RemoteError};
use crate::hmac;
use crate::sigv4::{self, Form, Payload, Signable};
use crate::tls;

/// The longest that a probe may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// `rotation.probe`, and the `tls` of the route that leads there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub url: Endpoint,
    pub tls: tls::Settings,
    /// What the API wants besides.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether a 403 says only that the token is for something else.
    pub forbidden_passes: bool,
    /// Where the JSON of a 2xx says `true` if the token is taken, as a JSON pointer (RFC 6901).
    pub ok: Option<String>,
    /// How often the live generation is tried there, too.
    pub every: Option<Duration>,
}

impl Settings {
    pub fn new(url: Endpoint) -> Self {
        let tls = tls::Settings::default();
        Self { url, tls, headers: Vec::new(), forbidden_passes: false, ok: None, every: None }
    }
}

/// What an API says of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Passed,
    Refused,
    Unanswered,
}

impl Verdict {
    pub(super) const ALL: [Self; 3] = [Self::Passed, Self::Refused, Self::Unanswered];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A verdict, and what it is made of.
pub(super) struct Probed {
    pub verdict: Verdict,
    /// A sentence for an operator, without bytes of the answer.
    pub detail: String,
}

/// Tries generations of one token.
pub struct Probe {
    remote: Remote,
    fetcher: Arc<Fetcher>,
    placement: Placement,
    settings: Settings,
}

impl Probe {
    /// # Errors
    /// When the URL cannot be called.
    pub fn new(settings: &Settings, placement: Placement, fetcher: Arc<Fetcher>) -> Result<Self, RemoteError> {
        let remote = Remote::new(settings.url.clone(), &settings.tls)?;
        Ok(Self { remote, fetcher, placement, settings: settings.clone() })
    }

    /// Tries a generation, as it stands in its placement.
    pub(super) async fn run(&self, value: &Placed, now: Moment) -> Probed {
        match value.bound() {
            // The first answer may only say what the proof has to hold.
            Some(bound) if !bound.knows(self.remote.endpoint()) => {
                let probed = self.try_once(value, now).await;
                let has_learned = bound.knows(self.remote.endpoint()) && probed.verdict == Verdict::Refused;
                if has_learned { self.try_once(value, now).await } else { probed }
            }
            _ => self.try_once(value, now).await,
        }
    }

    async fn try_once(&self, value: &Placed, now: Moment) -> Probed {
        let Some((headers, query)) = self.carrying(value, now) else {
            let detail = "the probe was not sent: it cannot be signed".to_owned();
            return Probed { verdict: Verdict::Unanswered, detail };
        };
        match timeout(TIME_LIMIT, self.ask(headers, query)).await {
            Ok(Ok((head, word))) => {
                let status = head.status.as_u16();
                if let Some(bound) = value.bound() {
                    bound.heard(self.remote.endpoint(), head.headers.get(dpop::NONCE));
                }
                let (verdict, further) = match judge(&head, self.settings.forbidden_passes) {
                    Verdict::Passed if !head.status.is_success() => (Verdict::Passed, ""),
                    Verdict::Passed => said(word),
                    other => (other, ""),
                };
                Probed { verdict, detail: format!("the API answered the probe with {status}{further}") }
            }
            Ok(Err(error)) => unanswered(error.to_string()),
            Err(_) => unanswered(format!("no answer within {} s", TIME_LIMIT.as_secs())),
        }
    }

    /// The headers, or the query, of a request that carries a generation, or is signed with it.
    fn carrying<'v>(&self, value: &'v Placed, now: Moment) -> Option<(HeaderMap, Option<&'v HeaderValue>)> {
        let (mut headers, mut query) = (HeaderMap::new(), None);
        headers.extend(self.settings.headers.iter().cloned());
        match (&self.placement, value) {
            (Placement::Header { name, .. }, Placed::Value(value)) => {
                headers.insert(name.clone(), value.clone());
            }
            (Placement::Basic { .. }, Placed::Value(value)) => {
                headers.insert(AUTHORIZATION, value.clone());
            }
            (Placement::Cookie { .. }, Placed::Value(value)) => {
                headers.insert(COOKIE, value.clone());
            }
            (Placement::Query { .. }, Placed::Value(value)) => query = Some(value),
            (Placement::SigV4(place), Placed::Keys(keys)) => {
                let Endpoint { scheme, authority, path } = self.remote.endpoint();
                let request = Signable {
                    method: "GET",
                    host: &authority.to_header(*scheme),
                    path,
                    query: None,
                    headers: &[],
                    payload: &Payload::of(b""),
                    form: Form::Header,
                    at: now.wall,
                };
                headers.extend(sigv4::signed(&request, place.scope(&authority.host)?, keys).ok()?.headers);
            }
            (Placement::Dpop, Placed::Bound(bound)) => {
                let endpoint = self.remote.endpoint();
                headers.extend(dpop::headers(bound, bound.proof("GET", endpoint, &endpoint.path, now)?));
            }
            (Placement::Hmac(recipe), Placed::Key(key)) => {
                let Endpoint { scheme, authority, path } = self.remote.endpoint();
                let host = authority.to_header(*scheme);
                let request = hmac::Signable { method: "GET", host: &host, path, query: None, body: b"", at: now.wall };
                headers.extend(recipe.sign(key, &request).ok()?);
            }
            (_, Placed::Keys(_) | Placed::Key(_) | Placed::Bound(_))
            | (Placement::Dpop | Placement::SigV4(_) | Placement::Hmac(_), Placed::Value(_)) => {
                return None;
            }
        }
        Some((headers, query))
    }

    /// The head of the answer, and what stands where `ok` points: nothing where nobody asks.
    async fn ask(&self, headers: HeaderMap, query: Option<&HeaderValue>) -> Result<(Head, Word), FetchError> {
        let call = Call { method: Method::GET, remote: &self.remote, headers, body: Zeroizing::default() };
        let Some(pointer) = &self.settings.ok else {
            return Ok((self.fetcher.look(call, query).await?, Word::NotAsked));
        };
        let Answer { status, headers, body } = self.fetcher.send_asking(call, query).await?;
        let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let ok = json.as_ref().and_then(|json| json.pointer(pointer)?.as_bool());
        Ok((Head { status, headers }, ok.map_or(Word::Nothing, Word::Said)))
    }
}

/// What the body of an answer says of the generation.
enum Word {
    NotAsked,
    Nothing,
    Said(bool),
}

fn said(word: Word) -> (Verdict, &'static str) {
    match word {
        Word::NotAsked | Word::Said(true) => (Verdict::Passed, ""),
        Word::Said(false) => (Verdict::Refused, ", and says in it that it does not take the token"),
        Word::Nothing => (Verdict::Unanswered, ", and does not say whether it takes the token"),
    }
}

fn unanswered(why: String) -> Probed {
    Probed { verdict: Verdict::Unanswered, detail: format!("the API did not answer the probe: {why}") }
}

fn judge(head: &Head, forbidden_passes: bool) -> Verdict {
    match head.status {
        StatusCode::UNAUTHORIZED => Verdict::Refused,
        // Some limit rates by 403.
        StatusCode::FORBIDDEN if head.headers.contains_key(RETRY_AFTER) => Verdict::Unanswered,
        StatusCode::FORBIDDEN if forbidden_passes => Verdict::Passed,
        StatusCode::FORBIDDEN => Verdict::Refused,
        StatusCode::TOO_MANY_REQUESTS => Verdict::Unanswered,
        status if status.is_server_error() => Verdict::Unanswered,
        _ => Verdict::Passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::scripted::{Scripted, fetcher};
    use crate::secret::Secret;

    const START: Moment = Moment { boot: Duration::ZERO, wall: Duration::from_secs(1_767_225_600) };

    async fn tried(placement: Placement, answer: &str) -> (Verdict, String) {
        tried_with(&Secret::new("tok+1"), placement, answer, |_| {}).await
    }

    async fn tried_with(
        secret: &Secret,
        placement: Placement,
        answer: &str,
        quirks: impl Fn(&mut Settings),
    ) -> (Verdict, String) {
        let server = Scripted::start().await;
        let mut settings = Settings::new(server.endpoint());
        quirks(&mut settings);
        let value = placement.carry(secret).expect("fits");
        let probe = Probe::new(&settings, placement, fetcher()).expect("a probe");
        let (probed, request) = tokio::join!(probe.run(&value, START), server.answer(answer));
        (probed.verdict, request)
    }

    #[tokio::test]
    async fn keys_of_aws_sign_it() {
        let place = sigv4::Place { region: Some("eu-west-1".to_owned()), service: Some("s3".to_owned()) };
        let keys = Secret::of_aws(b"AKID", b"secret", Some(b"session")).expect("keys");
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let (verdict, request) = tried_with(&keys, Placement::SigV4(place), answer, |_| {}).await;
        assert_eq!(verdict, Verdict::Passed);
        let signature = "authorization: AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/s3/aws4_request, ";
        assert!(request.contains(signature) && request.contains("x-amz-security-token: session\r\n"), "{request}");
        assert!(!request.contains("secret"), "{request}");
    }

    #[tokio::test]
    async fn only_401_and_403_refuse() {
        for (status, verdict) in [
            ("200 OK", Verdict::Passed),
            ("204 None", Verdict::Passed),
            ("302 Found\r\nlocation: /login", Verdict::Passed),
            ("404 Not Found", Verdict::Passed),
            ("405 No", Verdict::Passed),
            ("401 Unauthorized", Verdict::Refused),
            ("403 Forbidden", Verdict::Refused),
            ("403 Slow down\r\nretry-after: 60", Verdict::Unanswered),
            ("429 Slow down", Verdict::Unanswered),
            ("500 Oh", Verdict::Unanswered),
            ("503 Later", Verdict::Unanswered),
        ] {
            // What the body would be is not waited for.
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 10000000\r\n\r\nsome");
            assert_eq!(tried(Placement::bearer(), &answer).await.0, verdict, "{status}");
        }
        assert_eq!(tried(Placement::bearer(), "no HTTP").await.0, Verdict::Unanswered);
    }

    #[tokio::test]
    async fn a_403_refuses_no_token_of_an_api_that_means_something_else_by_it() {
        let secret = Secret::new("tok");
        for (status, verdict) in [("403 Forbidden", Verdict::Passed), ("401 Unauthorized", Verdict::Refused)] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let quirk = |settings: &mut Settings| settings.forbidden_passes = true;
            assert_eq!(tried_with(&secret, Placement::bearer(), &answer, quirk).await.0, verdict, "{status}");
        }
    }

    #[tokio::test]
    async fn an_api_may_say_in_the_body_whether_it_takes_a_token() {
        let secret = Secret::new("tok");
        for (status, body, verdict) in [
            ("200 OK", r#"{"ok":true}"#, Verdict::Passed),
            ("200 OK", r#"{"ok":false,"error":"invalid_auth"}"#, Verdict::Refused),
            ("200 OK", r#"{"ok":"true"}"#, Verdict::Unanswered),
            ("200 OK", "{}", Verdict::Unanswered),
            ("200 OK", "<html>", Verdict::Unanswered),
            ("401 No", r#"{"ok":true}"#, Verdict::Refused),
            ("429 Later", r#"{"ok":false}"#, Verdict::Unanswered),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let quirk = |settings: &mut Settings| settings.ok = Some("/ok".to_owned());
            let (found, _) = tried_with(&secret, Placement::bearer(), &answer, quirk).await;
            assert_eq!(found, verdict, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn the_api_gets_the_headers_that_it_wants_beside_the_generation() {
        let placement = Placement::Header {
            name: HeaderName::from_static("x-api-key"),
            before: String::new(),
            after: String::new(),
        };
        let quirk = |settings: &mut Settings| {
            let version = (HeaderName::from_static("x-version"), HeaderValue::from_static("2023-06-01"));
            settings.headers = vec![version];
        };
        let (verdict, request) = tried_with(&Secret::new("tok"), placement, "HTTP/1.1 200 OK\r\n\r\n", quirk).await;
        assert_eq!(verdict, Verdict::Passed);
        assert!(request.contains("x-version: 2023-06-01\r\nx-api-key: tok\r\n"), "{request}");
    }

    #[tokio::test]
    async fn the_generation_stands_where_requests_have_it() {
        let session = "session".to_owned();
        for (placement, written) in [
            (Placement::bearer(), "GET /token HTTP/1.1\r\nauthorization: Bearer tok+1\r\n"),
            (Placement::Basic { user: "u".to_owned() }, "GET /token HTTP/1.1\r\nauthorization: Basic dTp0b2srMQ==\r\n"),
            (Placement::Cookie { name: session.clone() }, "GET /token HTTP/1.1\r\ncookie: session=tok+1\r\n"),
            (Placement::Query { name: session }, "GET /token?session=tok%2B1 HTTP/1.1\r\n"),
        ] {
            let (verdict, request) = tried(placement, "HTTP/1.1 200 OK\r\n\r\n").await;
            assert!(request.starts_with(written), "{request}");
            assert_eq!((verdict, request.matches("tok").count() <= 2), (Verdict::Passed, true));
        }
    }

    #[tokio::test]
    async fn an_api_that_is_not_there_says_nothing() {
        let server = Scripted::start().await;
        let settings = Settings::new(server.endpoint());
        drop(server);
        let probe = Probe::new(&settings, Placement::bearer(), fetcher()).expect("a probe");
        let probed = probe.run(&Placed::Value(HeaderValue::from_static("Bearer x")), START).await;
        assert_eq!(probed.verdict, Verdict::Unanswered);
        assert!(probed.detail.starts_with("the API did not answer the probe: "), "{}", probed.detail);
    }
}
