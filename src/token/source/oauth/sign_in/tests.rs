use super::super::{Auth, Client, Grant};
use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::tls;

const REDIRECT: &str = "http://127.0.0.1:5/callback";

fn sign_in(server: &Scripted) -> SignIn {
    let settings = OAuthSettings {
        kind: "refresh_token",
        grant: Grant::RefreshToken,
        issuer: Issuer::At(server.endpoint()),
        revocation_url: None,
        dpop: None,
        client: Some(Client { id: "the app".to_owned(), auth: Auth::Nothing }),
        scope: vec!["a:read".to_owned()],
        audience: Vec::new(),
        resource: Vec::new(),
        extra: vec![("access_type".to_owned(), "offline".to_owned())],
        headers: Vec::new(),
        tls: tls::Settings::default(),
    };
    let at = |path: &str| Some(Endpoint { path: path.to_owned(), ..server.endpoint() });
    let scope = vec!["offline_access".to_owned()];
    let urls = Settings { device_authorization_url: at("/device"), authorization_url: at("/authorize"), scope };
    SignIn::new(settings, urls, fetcher(), Arc::new(ManualClock::default())).expect("well-formed")
}

fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The prompt that comes of an answer of the device endpoint, and what it was asked.
async fn prompted(answer: &str) -> (Result<Prompt, Failure>, String) {
    let server = Scripted::start().await;
    let sign_in = sign_in(&server);
    tokio::join!(sign_in.prompt(), server.answer(json("200 OK", answer)))
}

#[tokio::test]
async fn a_device_asks_for_its_scopes_and_tells_where_to_type_what() {
    let told = r#"{"device_code":"canary","user_code":"ABCD-EFGH","verification_uri":"https://a.example/d",
        "verification_uri_complete":"https://a.example/d?c=ABCD-EFGH","expires_in":600,"interval":2}"#;
    let (prompt, request) = prompted(told).await;
    let prompt = prompt.expect("a prompt");
    assert_eq!((prompt.url.as_str(), prompt.code.as_str()), ("https://a.example/d", "ABCD-EFGH"));
    assert_eq!(prompt.complete.as_deref(), Some("https://a.example/d?c=ABCD-EFGH"));
    assert_eq!(prompt.polling.interval, Duration::from_secs(2));
    assert!(request.starts_with("POST /device HTTP/1.1\r\n"), "{request}");
    assert!(
        request.ends_with("\r\n\r\nscope=a%3Aread+offline_access&access_type=offline&client_id=the+app"),
        "{request}"
    );
}

#[tokio::test]
async fn what_nobody_could_type_or_open_is_shown_to_nobody() {
    let told = |code: &str, url: &str| {
        format!(r#"{{"device_code":"canary","user_code":"{code}","verification_uri":"{url}","expires_in":600}}"#)
    };
    for bad in [
        told("", "https://a.example"),
        told("\\u001b[2J", "https://a.example"),
        told(&"A".repeat(65), "https://a.example"),
        told("A", "http://a.example"),
        told("A", "http://127.0.0.1.a.example/d"),
        told("A", "http://127.0.0.1@a.example/d"),
        told("A", "https://"),
        told("A", "javascript:alert(1)"),
        "{}".to_owned(),
    ] {
        let failure = prompted(&bad).await.0.err().expect("no prompt");
        assert_eq!(failure.reason, Reason::Malformed, "{bad}");
        assert!(!failure.detail.contains("canary"), "{failure}");
    }
}

#[test]
fn the_issuer_says_how_often_it_is_asked() {
    let ends = ManualClock::default().now();
    let mut polling = Polling { interval: Duration::from_secs(5), ends };
    assert_eq!(polling.follow(Some("authorization_pending"), false), Next::Again);
    assert_eq!(polling.interval, Duration::from_secs(5));
    assert_eq!(polling.follow(Some("slow_down"), false), Next::Again);
    assert_eq!(polling.interval, Duration::from_secs(10));
    assert_eq!(polling.follow(None, true), Next::Again, "it is down");
    assert_eq!(polling.interval, Duration::from_secs(15));
    (0..20).for_each(|_| polling.slower());
    assert_eq!(polling.interval, SLOWEST);
    for error in ["access_denied", "expired_token", "invalid_grant"] {
        assert_eq!(polling.follow(Some(error), false), Next::Over, "{error}");
    }
    assert_eq!(polling.follow(None, false), Next::Over, "it has answered");
}

async fn visit() -> (Visit, std::collections::BTreeMap<String, String>) {
    let server = Scripted::start().await;
    let visit = sign_in(&server).visit(REDIRECT).await.expect("a visit");
    let (url, query) = visit.url.split_once('?').expect("a query");
    assert_eq!(url, Endpoint { path: "/authorize".to_owned(), ..server.endpoint() }.to_string());
    let fields = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    (visit, fields)
}

#[tokio::test]
async fn a_browser_is_sent_with_the_hash_of_a_verifier_that_stays_here() {
    let (visit, fields) = visit().await;
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, visit.verifier.as_bytes()));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "the app"),
        ("redirect_uri", REDIRECT),
        ("scope", "a:read offline_access"),
        ("access_type", "offline"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
        ("state", visit.state.as_str()),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!visit.url.contains(visit.verifier.as_str()) && visit.verifier.len() == 43);
}

#[tokio::test]
async fn only_the_browser_of_this_sign_in_and_this_issuer_brings_a_code() {
    let (visit, _) = visit().await;
    let named = Visit { issuer: Some("https://a.example".to_owned()), ..visit.clone() };
    let strict = Visit { names_itself: true, ..named.clone() };
    let state = &visit.state;
    let brought = |visit: &Visit, query: &str| match visit.returned(&query.replace("STATE", state)) {
        Returned::Stranger => "stranger".to_owned(),
        Returned::Code(code) => format!("code {}", code.as_str()),
        Returned::Failed(failure) => failure.reason.as_str().to_owned(),
    };
    for (visit, query, expected) in [
        (&visit, "code=abc&state=STATE", "code abc"),
        (&visit, "code=abc&state=other", "stranger"),
        (&visit, "code=abc", "stranger"),
        (&visit, "code=abc&state=STATE&state=STATE", "stranger"),
        (&visit, "error=access_denied&state=STATE", "access_denied"),
        (&visit, "error=server_error&error_description=x&state=STATE", "issuer_error"),
        (&visit, "error=access_denied", "stranger"),
        (&visit, "code=abc&error=access_denied&state=STATE", "malformed"),
        (&visit, "code=abc&code=def&state=STATE", "malformed"),
        (&visit, "state=STATE", "malformed"),
        (&named, "code=abc&state=STATE&iss=https%3A%2F%2Fa.example", "code abc"),
        (&named, "code=abc&state=STATE&iss=https%3A%2F%2Fb.example", "invalid_grant"),
        (&named, "code=abc&state=STATE", "code abc"),
        (&strict, "code=abc&state=STATE", "invalid_grant"),
    ] {
        assert_eq!(brought(visit, query), expected, "{query}");
    }
}

#[tokio::test]
async fn a_code_is_shown_with_its_verifier_and_must_bring_a_refresh_token() {
    let server = Scripted::start().await;
    let sign_in = sign_in(&server);
    let visit = sign_in.visit(REDIRECT).await.expect("a visit");
    let code = Zeroizing::new("the code".to_owned());
    let good = r#"{"access_token":"at","token_type":"Bearer","expires_in":60,"refresh_token":"rt"}"#;
    let (redeemed, request) = tokio::join!(sign_in.redeem(&visit, &code), server.answer(json("200 OK", good)));
    assert_eq!(redeemed.expect("a refresh token").as_str(), "rt");
    let verifier = visit.verifier.as_str();
    let redirect = "redirect_uri=http%3A%2F%2F127.0.0.1%3A5%2Fcallback";
    let form = format!("grant_type=authorization_code&code=the+code&code_verifier={verifier}&{redirect}&");
    assert!(request.contains(&form) && !request.contains("scope="), "{request}");

    for (answer, reason) in [
        (json("200 OK", r#"{"access_token":"at","token_type":"Bearer","expires_in":60}"#), Reason::TokenMissing),
        (json("200 OK", &good.replace("60,", "60,\"scope\":\"b\",")), Reason::Scope),
        (json("400 No", r#"{"error":"invalid_grant","error_description":"not the code"}"#), Reason::InvalidGrant),
    ] {
        let (redeemed, _) = tokio::join!(sign_in.redeem(&visit, &code), server.answer(&answer));
        let failure = redeemed.expect_err("no refresh token");
        assert_eq!(failure.reason, reason);
        assert!(!failure.detail.contains("the code"), "{failure}");
    }
}
