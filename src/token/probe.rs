//! The probe: one `GET` with a generation, to a URL of the API that says whether it takes it.
//!
//! | the API's answer | verdict |
//! |---|---|
//! | 401, or 403 without `Retry-After` | refused |
//! | 429, 5xx, 403 with `Retry-After`; none in time, or no connection | unanswered |
//! | any other | passed: a redirect is not followed, and a 404 is no word on the token |
//!
//! Invariants: the generation goes to the probe's own URL only, in its placement, on a connection whose certificate is verified.
//! Of the answer nothing but the head is read.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::placement::{Placed, Placement};
use crate::authority::Endpoint;
use crate::clock::Moment;
use crate::fetch::{Call, FetchError, Fetcher, Head, Remote, RemoteError};
use crate::sigv4::{self, Form, Payload, Signable};
use crate::tls;

/// The longest that a probe may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// `rotation.probe`, and the `tls` of the route that leads there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub url: Endpoint,
    pub tls: tls::Settings,
    /// How often the live generation is tried there, too.
    pub every: Option<Duration>,
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
}

impl Probe {
    /// # Errors
    /// When the URL cannot be called.
    pub fn new(settings: &Settings, placement: Placement, fetcher: Arc<Fetcher>) -> Result<Self, RemoteError> {
        Ok(Self { remote: Remote::new(settings.url.clone(), &settings.tls)?, fetcher, placement })
    }

    /// Tries a generation, as it stands in its placement.
    pub(super) async fn run(&self, value: &Placed, now: Moment) -> Probed {
        let Some((headers, query)) = self.carrying(value, now) else {
            let detail = "the probe was not sent: it cannot be signed".to_owned();
            return Probed { verdict: Verdict::Unanswered, detail };
        };
        match timeout(TIME_LIMIT, self.ask(headers, query)).await {
            Ok(Ok(head)) => {
                let status = head.status;
                Probed { verdict: judge(&head), detail: format!("the API answered the probe with {}", status.as_u16()) }
            }
            Ok(Err(error)) => unanswered(error.to_string()),
            Err(_) => unanswered(format!("no answer within {} s", TIME_LIMIT.as_secs())),
        }
    }

    /// The headers, or the query, of a request that carries a generation, or is signed with it.
    fn carrying<'v>(&self, value: &'v Placed, now: Moment) -> Option<(HeaderMap, Option<&'v HeaderValue>)> {
        let (mut headers, mut query) = (HeaderMap::new(), None);
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
            (_, Placed::Keys(_)) | (Placement::SigV4(_), Placed::Value(_)) => return None,
        }
        Some((headers, query))
    }

    async fn ask(&self, headers: HeaderMap, query: Option<&HeaderValue>) -> Result<Head, FetchError> {
        let call = Call { method: Method::GET, remote: &self.remote, headers, body: Zeroizing::default() };
        self.fetcher.look(call, query).await
    }
}

fn unanswered(why: String) -> Probed {
    Probed { verdict: Verdict::Unanswered, detail: format!("the API did not answer the probe: {why}") }
}

fn judge(head: &Head) -> Verdict {
    match head.status {
        StatusCode::UNAUTHORIZED => Verdict::Refused,
        // Some limit rates by 403.
        StatusCode::FORBIDDEN if head.headers.contains_key(RETRY_AFTER) => Verdict::Unanswered,
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
        tried_with(&Secret::new("tok+1"), placement, answer).await
    }

    async fn tried_with(secret: &Secret, placement: Placement, answer: &str) -> (Verdict, String) {
        let server = Scripted::start().await;
        let settings = Settings { url: server.endpoint(), tls: tls::Settings::default(), every: None };
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
        let (verdict, request) = tried_with(&keys, Placement::SigV4(place), answer).await;
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
        let settings = Settings { url: server.endpoint(), tls: tls::Settings::default(), every: None };
        drop(server);
        let probe = Probe::new(&settings, Placement::bearer(), fetcher()).expect("a probe");
        let probed = probe.run(&Placed::Value(HeaderValue::from_static("Bearer x")), START).await;
        assert_eq!(probed.verdict, Verdict::Unanswered);
        assert!(probed.detail.starts_with("the API did not answer the probe: "), "{}", probed.detail);
    }
}
