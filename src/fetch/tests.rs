use http::header::ACCEPT;
use tokio::io::AsyncWriteExt;

use super::scripted::{Scripted, fetcher};
use super::*;

fn call<'a>(remote: &'a Remote, body: &str) -> Call<'a> {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    Call { method: Method::POST, remote, headers, body: Zeroizing::new(body.into()) }
}

/// What comes of a call that is answered with `answer`, and the request.
async fn exchange(answer: impl AsRef<[u8]>) -> (Result<Answer, FetchError>, String) {
    let (server, fetcher) = (Scripted::start().await, fetcher());
    let remote = server.remote();
    tokio::join!(fetcher.send(call(&remote, "a=b")), server.answer(answer))
}

fn sized(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
}

#[tokio::test]
async fn a_call_is_one_plain_exchange() {
    let (answer, request) = exchange("HTTP/1.1 201 Created\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}").await;
    let answer = answer.expect("no failure");
    assert_eq!(
        (answer.status, &answer.headers["x-a"], &answer.body[..]),
        (StatusCode::CREATED, &HeaderValue::from_static("b"), &b"{}"[..])
    );
    let (head, body) = request.split_once("\r\n\r\n").expect("two parts");
    assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\nconnection: close"), "{head}");
    assert!(head.contains(concat!("\r\nuser-agent: countersign/", env!("CARGO_PKG_VERSION"))), "{head}");
    assert_eq!(body, "a=b");
}

#[tokio::test]
async fn the_caller_cannot_reframe_its_request() {
    let (server, fetcher) = (Scripted::start().await, fetcher());
    let remote = server.remote();
    let mut call = call(&remote, "a=b");
    call.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
    call.headers.insert(HOST, HeaderValue::from_static("evil.example"));
    let (_, request) = tokio::join!(fetcher.send(call), server.answer(sized(0)));
    assert!(request.contains("\r\ncontent-length: 3\r\n"), "{request}");
    assert!(!request.contains("chunked") && !request.contains("evil"), "{request}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (answer, _) =
        exchange("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.expect("no failure").status, StatusCode::FOUND);
}

#[tokio::test]
async fn a_body_of_64_kib_is_taken_and_one_byte_more_is_not() {
    assert_eq!(exchange(sized(MAX_BODY)).await.0.expect("no failure").body.len(), MAX_BODY);
    assert!(matches!(exchange(sized(MAX_BODY + 1)).await.0, Err(FetchError::BodyTooLarge)));
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n{}\r\n0\r\n\r\n", "x".repeat(65537));
    assert!(matches!(exchange(chunked).await.0, Err(FetchError::BodyTooLarge)));
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1 << 20));
    assert!(matches!(exchange(endless).await.0, Err(FetchError::BodyTooLarge)));
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let head = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(MAX_HEAD));
    assert!(matches!(exchange(head).await.0, Err(FetchError::HeadTooLarge)));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(200));
    assert!(matches!(exchange(many).await.0, Err(FetchError::HeadTooLarge)));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_answer() {
    for cut in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"a\"",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a",
    ] {
        assert!(matches!(exchange(cut).await.0, Err(FetchError::CutOff)), "{cut:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused_without_being_repeated() {
    for odd in ["SSH-2.0-canary\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n"] {
        match exchange(odd).await.0 {
            Err(error @ FetchError::NotHttp(_)) => assert!(!error.to_string().contains("canary"), "{error}"),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn a_slow_answer_is_given_up_after_ten_seconds() {
    let (server, fetcher) = (Scripted::start().await, fetcher());
    let remote = server.remote();
    let started = tokio::time::Instant::now();
    let (result, _tcp) = tokio::join!(fetcher.send(call(&remote, "")), async {
        let (_, mut tcp) = server.request().await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nslow").await.expect("writes");
        // From here on the clock runs ahead whenever there is nothing to do.
        tokio::time::pause();
        tcp
    });
    assert!(matches!(result, Err(FetchError::Timeout)));
    assert_eq!(started.elapsed().as_secs(), TOTAL.as_secs());
}

#[tokio::test]
async fn a_prohibited_address_is_not_called() {
    let server = Scripted::start().await;
    let strict = Fetcher::new(Arc::new(Dialer::new(crate::dial::Destinations::default(), Vec::new())));
    let result = strict.send(call(&server.remote(), "")).await;
    assert!(matches!(result, Err(FetchError::Dial(DialError::Prohibited(_)))));
}
