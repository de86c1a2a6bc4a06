use std::rc::Rc;

use http::{Method, StatusCode};
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::metrics::Metrics as Registry;
use crate::name::ClientName;
use crate::usage::{Metrics, Observer, RuleMark, UsageGuard};

const DAY: Duration = Duration::from_secs(86_400);
const WINDOW: Duration = Duration::from_secs(30 * 86_400);

struct Scene {
    metrics: Metrics,
    clock: ManualClock,
    books: Arc<Books>,
}

impl Scene {
    fn new(books: Books) -> Self {
        let metrics = Metrics::register(&Registry::new().expect("metrics")).expect("metrics");
        Self { metrics, clock: ManualClock::default(), books: Arc::new(books) }
    }

    fn request(&self, token: &str, route: &str, path: &str) {
        let (token, route) = (name(token), route.parse().expect("a name"));
        let cell = Arc::new(self.metrics.cell(&route, "api.example.com", &ClientName::implicit(), Some(&token)));
        let observer = Rc::new(Observer::new(self.metrics.clone(), false));
        let mut guard = UsageGuard::new(&observer, &Method::GET);
        guard.of(&cell);
        guard.judged(path, Some(RuleMark::of("GET /**")));
        guard.attached(1, self.clock.now());
        guard.answered(StatusCode::OK);
        guard.complete();
        drop(guard);
        drop(observer);
        assert!(self.metrics.stream().read(&self.clock, &mut [Box::new(Pen(self.books.clone()))]));
    }

    fn templates(&self, token: &str, route: &str) -> Vec<String> {
        self.books.read(&name(token), |books| {
            let ways = books.iter().filter(|(own, _)| own.as_str() == route).flat_map(|(_, book)| book.ways());
            ways.map(|(template, way)| format!("{} {template} {}", way.method, way.uses)).collect()
        })
    }

    fn turn(&self) -> Vec<Page> {
        self.books.turn(self.clock.now().wall, WINDOW)
    }
}

fn name(text: &str) -> TokenName {
    text.parse().expect("a name")
}

fn store() -> (TempDir, Store) {
    let folder = TempDir::new().expect("a temporary folder");
    let store = Store::open(folder.path(), None).expect("a store");
    (folder, store)
}

#[test]
fn what_was_written_is_there_after_a_restart_and_goes_on() {
    let (_folder, store) = store();
    let scene = Scene::new(Books::default());
    scene.request("github", "api", "/users/1");
    scene.request("github", "api", "/users/2");
    scene.request("other", "api", "/x");
    write(&store, &scene.turn());
    assert_eq!(scene.turn().len(), 0, "nothing has changed since");
    let (books, refused) = Books::open(&store).expect("readable");
    assert_eq!(refused.len(), 0);
    let again = Scene::new(books);
    assert_eq!(again.templates("github", "api"), ["GET /users/* 2"]);
    again.request("github", "api", "/users/3");
    let pages = again.turn();
    assert_eq!((pages.len(), pages[0].written), (1, 2), "and what has not changed is not written");
    write(&store, &pages);
    let (books, _) = Books::open(&store).expect("readable");
    assert_eq!(Scene::new(books).templates("github", "api"), ["GET /users/* 3"]);
}

#[test]
fn what_was_edited_is_not_used_and_the_rest_is() {
    let (folder, store) = store();
    let scene = Scene::new(Books::default());
    scene.request("github", "api", "/a");
    scene.request("other", "api", "/b");
    write(&store, &scene.turn());
    let path = folder.path().join("sealed/book-github.api.sealed");
    let mut sealed = std::fs::read(&path).expect("there");
    *sealed.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, sealed).expect("written");
    let (books, refused) = Books::open(&store).expect("readable");
    assert_eq!(refused.len(), 1);
    let again = Scene::new(books);
    assert_eq!((again.templates("github", "api"), again.templates("other", "api").len()), (vec![], 1));
}

#[test]
fn what_no_book_says_is_refused_by_name() {
    let (_folder, store) = store();
    for name in ["github.api", "nameless"] {
        store.write(Label { kind: KIND, name }, 1, b"{}").expect("written");
    }
    let (_, refused) = Books::open(&store).expect("readable");
    assert_eq!(refused.len(), 2);
}

#[test]
fn only_what_is_used_in_a_new_way_or_after_a_pause_is_news() {
    let scene = Scene::new(Books::default());
    let news = |path: &str| {
        scene.request("github", "api", path);
        scene.books.news()
    };
    assert_eq!([news("/users/1"), news("/users/2"), news("/repos"), news("/users/3")], [1, 1, 2, 2]);
    scene.clock.advance(DAY);
    assert_eq!([news("/repos"), news("/repos")], [3, 3]);
}

#[test]
fn what_is_long_over_is_forgotten_also_on_the_disk() {
    let (folder, store) = store();
    let scene = Scene::new(Books::default());
    scene.request("gone", "api", "/a");
    scene.request("github", "api", "/old");
    write(&store, &scene.turn());
    scene.clock.advance(89 * DAY);
    scene.request("github", "api", "/new");
    scene.clock.advance(2 * DAY);
    scene.request("github", "api", "/new");
    write(&store, &scene.turn());
    assert_eq!(scene.templates("github", "api"), ["GET /new 2"]);
    assert!(!folder.path().join("sealed/book-gone.api.sealed").exists());
    assert!(scene.templates("gone", "api").is_empty());
}

#[test]
fn there_are_only_so_many_books() {
    let scene = Scene::new(Books::default());
    for number in 0..MOST + 3 {
        scene.request(&format!("t{number}"), "api", "/a");
        if number == 2 {
            scene.clock.advance(DAY);
        }
    }
    scene.turn();
    assert_eq!(scene.books.lock().len(), MOST);
    assert!(scene.templates("t0", "api").is_empty(), "the oldest went");
}
