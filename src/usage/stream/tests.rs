use std::rc::Rc;

use http::{Method, StatusCode};

use super::super::{Metrics, Observer, UsageGuard};
use super::*;
use crate::clock::SystemClock;
use crate::metrics::Metrics as Registry;

struct Scene {
    registry: Registry,
    metrics: Metrics,
    observer: Rc<Observer>,
    cell: Arc<Cell>,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::new().expect("metrics");
        let metrics = Metrics::register(&registry).expect("metrics");
        let (route, token) = ("github".parse().expect("a name"), "github".parse().expect("a name"));
        let cell = Arc::new(metrics.cell(&route, "api.github.com", &ClientName::implicit(), Some(&token)));
        let observer = Rc::new(Observer::new(metrics.clone(), false));
        Self { registry, metrics, observer, cell }
    }

    fn guard(&self, path: &str) -> UsageGuard {
        let mut guard = UsageGuard::new(&self.observer, &Method::GET);
        guard.of(&self.cell);
        guard.judged(path, Some(RuleMark::of("GET /**")));
        guard
    }

    fn request(&self, path: &str) {
        let mut guard = self.guard(path);
        guard.attached(7, SystemClock.now());
        guard.answered(StatusCode::OK);
        guard.downloaded(10);
        guard.complete();
    }

    fn read(&self) -> Seen {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut readers: Vec<Box<dyn Reader>> = vec![Box::new(Notes(seen.clone()))];
        while self.metrics.stream().read(&SystemClock, &mut readers) {}
        drop(readers);
        Arc::into_inner(seen).expect("nobody else has it").into_inner().expect("no panic")
    }
}

#[derive(Default)]
struct Seen {
    paths: Vec<String>,
    lost: u64,
}

struct Notes(Arc<Mutex<Seen>>);

impl Reader for Notes {
    fn read(&mut self, news: &News<'_>) {
        self.0.lock().expect("no panic").paths.extend(news.uses().map(|used| used.path.to_owned()));
    }

    fn lost(&mut self, count: u64) {
        self.0.lock().expect("no panic").lost += count;
    }
}

#[test]
fn each_request_is_told_once_in_the_order_in_which_they_ended() {
    let scene = Scene::new();
    let paths: Vec<String> = (0..2 * FULL + 3).map(|number| format!("/repos/{number}")).collect();
    let slow = scene.guard("/slow");
    paths.iter().for_each(|path| scene.request(path));
    drop(slow);
    assert_eq!(scene.read().paths, paths[..2 * FULL], "two batches were full");
    scene.observer.hand_over(SystemClock.now());
    let rest = scene.read().paths;
    assert_eq!((&rest[..3], &*rest[3]), (&paths[2 * FULL..], "/slow"));
    scene.observer.hand_over(SystemClock.now());
    assert!(scene.read().paths.is_empty(), "and not again");
}

#[test]
fn a_use_says_what_was_done_with_which_token() {
    let scene = Scene::new();
    scene.request("/repos/a");
    drop(scene.guard("/repos/b"));
    let mut refused = UsageGuard::new(&scene.observer, &Method::DELETE);
    refused.of(&scene.cell);
    refused.refused(StatusCode::FORBIDDEN, "path_denied");
    drop(refused);
    drop(UsageGuard::unread(&scene.observer));
    scene.observer.hand_over(SystemClock.now());
    struct Look;
    impl Reader for Look {
        fn read(&mut self, news: &News<'_>) {
            let uses: Vec<&Use<'_>> = news.uses().collect();
            let [used, gone, refused] = uses[..] else { panic!("what found no route is not told: {uses:?}") };
            assert_eq!((used.token.map(TokenName::as_str), used.generation), (Some("github"), Some(7)));
            assert_eq!((used.route.as_str(), used.host, used.client.as_str()), ("github", "api.github.com", "local"));
            assert_eq!((used.method, used.path, used.status, used.outcome), ("GET", "/repos/a", 200, "ok"));
            assert_eq!((used.rule, used.response_bytes, used.complete), (Some(RuleMark::of("GET /**")), 10, true));
            let ago = SystemClock.now().wall.saturating_sub(gone.at);
            assert!(ago < Duration::from_secs(60), "{ago:?}");
            assert_eq!((gone.token, gone.outcome, gone.complete), (None, "aborted", false));
            assert_eq!((refused.path, refused.reason), ("", Some("path_denied")));
        }

        fn lost(&mut self, count: u64) {
            panic!("{count} were lost");
        }
    }
    assert!(scene.metrics.stream().read(&SystemClock, &mut [Box::new(Look)]));
}

#[test]
fn a_burst_leaves_little_memory_behind() {
    let scene = Scene::new();
    (0..MOST_WAITING * FULL).for_each(|_| scene.request("/x"));
    scene.read();
    assert_eq!(scene.metrics.stream().lock().spare.len(), SPARE_BATCHES);
}

#[test]
fn what_nobody_reads_is_bounded_and_counted() {
    let scene = Scene::new();
    let room = MOST_WAITING * FULL;
    for _ in 0..room + 2 * FULL {
        scene.request("/x");
    }
    let scrape = scene.registry.scrape();
    assert!(scrape.contains(&format!("countersign_usage_events_lost_total {}", 2 * FULL)), "{scrape}");
    let seen = scene.read();
    assert_eq!((seen.paths.len(), seen.lost), (room, 2 * FULL as u64));
}

#[test]
fn memory_comes_back_to_the_worker() {
    let scene = Scene::new();
    for _ in 0..3 {
        (0..FULL).for_each(|_| scene.request("/repos/rust-lang/rust"));
        scene.read();
    }
    let collector = &scene.observer.collector;
    assert!(collector.batch.borrow().entries.capacity() >= FULL, "this batch was full before");
    assert_eq!(collector.texts.borrow().len(), 1, "one request at a time needs one text");
}

#[test]
fn a_worker_that_ends_hands_over_the_rest() {
    let scene = Scene::new();
    scene.request("/last");
    let Scene { observer, metrics, .. } = scene;
    drop(observer);
    assert_eq!(metrics.stream().lock().waiting.len(), 1);
}
