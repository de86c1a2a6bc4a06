use super::*;
use crate::clock::{Clock as _, SystemClock};

struct Scene {
    folder: tempfile::TempDir,
    tasks: Tasks,
    resting: Arc<Resting>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resting = resting(&folder, true);
        Self { folder, tasks: resting.tasks.clone(), resting }
    }

    fn rest(&self, terms: &str) -> Rest {
        self.resting.of(&name(), origin(terms))
    }

    /// What a next run finds, once the disk has everything.
    async fn left(&self) -> (Vec<Rested>, Vec<Refused>) {
        self.tasks.at_rest().await;
        resting(&self.folder, true).open().expect("readable")
    }
}

fn resting(folder: &tempfile::TempDir, is_on: bool) -> Arc<Resting> {
    let registry = Registry::new().expect("metrics");
    let store = Arc::new(Store::open(folder.path(), None).expect("a store"));
    Resting::new(store, Tasks::new(), &registry, is_on).expect("a new registry")
}

fn name() -> TokenName {
    "api".parse().expect("a name")
}

fn origin(terms: &str) -> Origin {
    Origin { source: "ab".to_owned(), terms: terms.to_owned() }
}

fn put(rest: &Rest, number: u64, value: &str, life: Duration) {
    let (secret, issued) = (Secret::new(value), SystemClock.now());
    rest.put(&Laid {
        number,
        secret: &secret,
        void_by: &secret,
        issued,
        expires: issued.after(life),
        good_until: issued.after(life),
        granted: Some(&["read".to_owned()]),
        revokes: true,
        key: None,
    });
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_was_put_last_is_found_and_says_when_it_ends() {
    let scene = Scene::new();
    let rest = scene.rest("t");
    for number in 1..=50 {
        put(&rest, number, &format!("tok-{number}"), HOUR);
    }
    let (rested, refused) = scene.left().await;
    let [found] = &rested[..] else { panic!("one, not {}", rested.len()) };
    assert_eq!((found.number, refused.len(), found.granted()), (50, 0, Some(&["read".to_owned()][..])));
    assert!(found.secret().same_as(&Secret::new("tok-50")));
    let now = SystemClock.now();
    let (issued, expires) = rest.times(found, now).expect("it is good");
    let left = expires.remaining(now);
    assert!(issued.reached(now) && left <= HOUR && left > HOUR - Duration::from_secs(60), "{left:?}");
    assert!(rest.take_over(found) && !scene.rest("others").take_over(found), "an edited grant is another one");
}

#[tokio::test]
async fn it_is_as_old_as_the_stricter_clock_says() {
    let scene = Scene::new();
    let rest = scene.rest("t");
    put(&rest, 1, "tok", HOUR);
    let (rested, _) = scene.left().await;
    let (found, now) = (&rested[0], SystemClock.now());
    assert_eq!(rest.times(found, now.after(HOUR)), None);
    let boot_only = Moment { boot: now.boot + HOUR, ..now };
    assert_eq!(rest.times(found, boot_only), None, "the wall clock was set back");
    assert_eq!(rest.times(found, Moment { wall: now.wall - HOUR, ..now }), None, "it was issued in the future");
    let started_again = Moment { boot: Duration::ZERO, ..now };
    let (issued, expires) = rest.times(found, started_again).expect("the boot clock began anew");
    assert_eq!(issued.boot, Duration::ZERO);
    assert!(expires.remaining(started_again) > HOUR - Duration::from_secs(60));
}

#[tokio::test]
async fn what_is_scrubbed_is_gone_when_that_returns_and_does_not_come_back() {
    let scene = Scene::new();
    let rest = scene.rest("t");
    for number in 1..=20 {
        put(&rest, number, "tok", HOUR);
        scene.resting.scrub(&name()).await.expect("the disk does it");
        assert!(resting(&scene.folder, true).open().expect("readable").0.is_empty(), "{number}");
    }
    assert!(scene.left().await.0.is_empty());
}

#[tokio::test]
async fn whoever_has_been_followed_scrubs_nothing_of_its_successor() {
    let scene = Scene::new();
    let (old, new) = (scene.rest("t"), scene.rest("t"));
    put(&old, 1, "old", HOUR);
    put(&new, 2, "new", HOUR);
    old.scrub();
    assert_eq!(scene.left().await.0.len(), 1);
    new.scrub();
    assert_eq!(scene.left().await.0.len(), 0);
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_by_name_and_stays_where_it_is() {
    let scene = Scene::new();
    put(&scene.rest("t"), 1, "tok", HOUR);
    scene.tasks.at_rest().await;
    let path = scene.folder.path().join("sealed/generation-api.sealed");
    let mut bytes = std::fs::read(&path).expect("it is there");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let (rested, refused) = scene.left().await;
    assert_eq!((rested.len(), refused.len()), (0, 1));
    assert_eq!((&refused[0].path, std::fs::read(&path).ok()), (&path, Some(bytes)));
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_said_and_leaves_no_older_generation() {
    let scene = Scene::new();
    let rest = scene.rest("t");
    put(&rest, 1, "tok-1", HOUR);
    scene.tasks.at_rest().await;
    // In the place of what is not finished yet nothing can be written.
    std::fs::create_dir(scene.folder.path().join("sealed/generation-api.new")).expect("made");
    put(&rest, 2, "tok-2", HOUR);
    assert!(scene.left().await.0.is_empty());
    assert_eq!(scene.resting.degraded.with_label_values(&["api"]).get(), 1);
    std::fs::remove_dir(scene.folder.path().join("sealed/generation-api.new")).expect("removed");
    put(&rest, 3, "tok-3", HOUR);
    assert_eq!(scene.left().await.0.len(), 1);
    assert_eq!(scene.resting.degraded.with_label_values(&["api"]).get(), 0);
}
