//! What the steps of a request cost one by one, without sockets: `cargo bench --bench steps`.
//!
//! They tell which step a change made dearer. What a whole request costs is measured beside other proxies, as
//! `benches/README.md` says.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use countersign::authority::{Authority, Scheme};
use countersign::clock::{Clock, SystemClock};
use countersign::identity::{Clients, Peer, Proof};
use countersign::metrics::Metrics;
use countersign::name::{ClientName, RouteName, TokenName};
use countersign::path::{Form, query_is_clean};
use countersign::policy::rule::{Allow, Rule, Rules};
use countersign::proxy::{BaseUrl, Fields, Head, Target, rebuild_request, rebuild_response};
use countersign::usage::{self, Observer, UsageGuard};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

fn judging(bench: &mut Criterion) {
    let rules = Rules {
        form: Form::Strict,
        allow: Allow::These(vec![
            Rule::parse("POST /repos/*/*/issues", Form::Strict).expect("a rule"),
            Rule::parse("GET /repos/**", Form::Strict).expect("a rule"),
        ]),
        deny: vec![Rule::parse("* /repos/*/*/keys/**", Form::Strict).expect("a rule")],
        minting: Vec::new(),
    };
    bench.bench_function("path: canonical already", |b| {
        b.iter(|| Form::Strict.canonical(black_box("/repos/octo/hello/releases/latest")));
    });
    bench.bench_function("path: with escapes", |b| {
        b.iter(|| Form::Strict.canonical(black_box("/repos/octo/caf%c3%a9/%72eleases")));
    });
    bench.bench_function("query: clean", |b| {
        b.iter(|| query_is_clean(black_box("per_page=100&page=2&sort=updated&direction=desc")));
    });
    let path = Form::Strict.canonical("/repos/octo/hello/releases/latest").expect("a path");
    bench.bench_function("rules: three", |b| b.iter(|| rules.judge(black_box(&Method::GET), black_box(&path))));
    bench.bench_function("authority", |b| b.iter(|| Authority::parse(black_box("api.github.com:443"), 443)));
}

fn head() -> Fields {
    let mut headers = Fields::new();
    headers.insert(HOST, HeaderValue::from_static("localhost:8080"));
    headers.insert(USER_AGENT, HeaderValue::from_static("python-requests/2.32"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_static("0123456789abcdef"));
    headers
}

fn heads(bench: &mut Criterion) {
    let upstream = HeaderValue::from_static("api.github.com");
    bench.bench_function("head: rebuilt", |b| {
        b.iter_batched_ref(
            head,
            |head| rebuild_request(head, upstream.clone(), Some(&[AUTHORIZATION])),
            BatchSize::SmallInput,
        );
    });
    let mut answer = Fields::new();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from_static("59"));
    answer.insert(LOCATION, HeaderValue::from_static("https://api.github.com/repos/octo/hello"));
    bench.bench_function("answer: rebuilt", |b| {
        b.iter_batched_ref(
            || answer.clone(),
            |head| rebuild_response(head, Some(&[AUTHORIZATION])),
            BatchSize::SmallInput,
        );
    });
    let endpoint = countersign::authority::Endpoint::parse("https://api.github.com").expect("a URL");
    let base = BaseUrl { scheme: Scheme::Http, upstream: &endpoint, host: "localhost:8080", prefix: Some("github") };
    bench.bench_function("answer: a link turned back", |b| {
        b.iter_batched_ref(|| answer.clone(), |head| base.turn_back(head), BatchSize::SmallInput);
    });
    let line = Head {
        method: Method::GET,
        uri: Uri::from_static("/github/repos/octo/hello?page=2"),
        version: Version::HTTP_11,
    };
    let headers = head();
    bench.bench_function("target: by prefix", |b| {
        b.iter(|| Target::of(black_box(&line), black_box(&headers), Some(8080), |_| false, |_| false).is_ok());
    });
}

fn accounts(bench: &mut Criterion) {
    let metrics = usage::Metrics::register(&Metrics::new().expect("metrics")).expect("metrics");
    let route: RouteName = "github".parse().expect("a name");
    let token: TokenName = "github".parse().expect("a name");
    let cell = Arc::new(metrics.cell(&route, "api.github.com", &ClientName::implicit(), Some(&token)));
    let observer = Rc::new(Observer::new(metrics, false));
    let now = SystemClock.now();
    bench.bench_function("usage: one request", |b| {
        b.iter(|| {
            let mut guard = UsageGuard::new(&observer, &Method::GET);
            guard.of(&cell);
            guard.waits();
            guard.resumes();
            guard.attached(1, now);
            guard.answered(StatusCode::OK);
            guard.downloaded(60);
            guard.complete();
        });
    });
    bench.bench_function("clock: both", |b| b.iter(|| SystemClock.now()));
    let clients = Clients::new(Vec::new(), 0);
    let peer = Peer { uid: Some(0), ..Peer::default() };
    bench.bench_function("identity: by uid", |b| b.iter(|| clients.identify(black_box(&peer), Proof::default())));
}

criterion_group!(steps, judging, heads, accounts);
criterion_main!(steps);
