//! A token and what upstreams say of it: the supervisor beside a source that answers as it is told.

use std::sync::atomic::AtomicUsize;

use tempfile::TempDir;

use super::source::{Failure, Issued, Obtaining, Pace, Reason};
use super::*;
use crate::audit::{self, OnFailure};
use crate::clock::SystemClock;
use crate::secret::Secret;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a source answers to its n-th call, from 1.
type Script = fn(usize) -> Result<Issued, Failure>;

struct Scripted {
    script: Script,
    calls: Arc<AtomicUsize>,
}

impl Source for Scripted {
    fn obtain(&self) -> Obtaining<'_> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(std::future::ready((self.script)(call)))
    }

    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_millis(1), recheck: PATIENCE }
    }
}

mod leases;

struct Scene {
    token: Token,
    calls: Arc<AtomicUsize>,
    trail: audit::Thread,
    folder: TempDir,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    _telling: Task,
}

impl Scene {
    async fn of(script: Script) -> Self {
        let scene = Self::behind(Gate::Open, script);
        scene.token.reader.ready(&*scene.clock, PATIENCE).await.expect("a first generation");
        scene
    }

    fn behind(gate: Gate, script: Script) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let source = Scripted { script, calls: calls.clone() };
        Self { calls, ..Self::living(Box::new(source), settings_of_a_token(), gate, Arc::new(SystemClock)) }
    }

    fn living(source: Box<dyn Source>, settings: Settings, gate: Gate, clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = crate::metrics::Metrics::new().expect("metrics");
        let (dir, key) = (folder.path().to_owned(), folder.path().join("audit.key"));
        let kept = audit::Settings {
            dir,
            key,
            on_failure: OnFailure::Continue,
            usage: audit::Usage::RollUp,
            export: Vec::new(),
        };
        let metrics = audit::Metrics::register(registry.registry()).expect("a new registry");
        let (recorder, trail) = audit::open(&kept, clock.clone(), metrics).expect("a new trail");
        let store = Arc::new(crate::store::Store::open(folder.path(), None).expect("a store"));
        let tasks = Tasks::new();
        let resting = rest::Resting::new(store.clone(), tasks.clone(), &registry, true).expect("a new registry");
        let origin = rest::Origin { source: "ab".to_owned(), terms: String::new() };
        let revoker = Revoker::new(&registry, clock.clone(), recorder.clone(), store.clone(), tasks.clone());
        let (revoker, tellings) = revoker.expect("a new registry");
        let telling = tasks.essential("revocations", revoker.clone().run(tellings));
        let parts = Parts {
            clock: clock.clone(),
            revoker,
            recorder,
            fingerprinter: Arc::new(Fingerprinter::new(&[0; 32])),
            metrics: Metrics::register(&registry).expect("a new registry"),
            rest: resting.of(&settings.name, origin),
            source_reference: "ab".to_owned(),
            moves: moved::Moves::open(store, tasks.clone()).expect("a store").0,
            next: None,
            probe: None,
        };
        let prepared = Prepared::new(settings, source, parts, None, None);
        let token = prepared.behind(gate).begin(&tasks);
        Self { token, calls: Arc::default(), trail, folder, clock, tasks, _telling: telling }
    }

    /// As a request does whose answer is 401: returns whether a newer generation is there now.
    async fn rejected(&self, generation: u64) -> bool {
        let reader = &self.token.reader;
        reader.rejected(generation) && reader.newer_than(generation, &*self.clock, PATIENCE).await
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The trail, once nothing is written to it any more.
    async fn finish(self) -> String {
        self.token.control.retire().await;
        self.trail.finish().expect("all is written");
        let segment = std::fs::read_dir(self.folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
        segment
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("trail-"))
            .map(|entry| String::from_utf8_lossy(&std::fs::read(entry.path()).expect("readable")).into_owned())
            .collect()
    }
}

fn settings_of_a_token() -> Settings {
    Settings {
        name: "api".parse().expect("a name"),
        owner: "team".into(),
        reason: "a test".into(),
        scopes: vec!["read".into()],
        grant_ends: Duration::from_secs(32_503_680_000),
        hosts: Vec::new(),
        required: true,
        placement: Placement::bearer(),
        rotation: Rotation {
            at: 0.7,
            jitter: 0.1,
            skew: Duration::from_secs(30),
            max_life: Duration::from_secs(3600),
            overlap: Duration::from_secs(30),
            shorten: false,
            mode: Mode::Overlap,
        },
        probe: None,
        retire_unused: None,
        retire_after: None,
        next_source: None,
        source: source::Settings::Env { name: "UNUSED".into() },
    }
}

fn issued(value: &str) -> Result<Issued, Failure> {
    let expires = Some(SystemClock.now().after(Duration::from_secs(3600)));
    Ok(Issued { secret: Secret::new(value), expires, assumed: false, granted: None, void_by: None, version: None })
}

#[tokio::test]
async fn a_401_brings_one_new_generation_and_the_trail_says_why() {
    let scene = Scene::of(|call| issued(&format!("tok-{call}"))).await;
    let mut newer = 0;
    for _ in 0..50 {
        newer += usize::from(scene.rejected(1).await);
    }
    assert_eq!((newer, scene.calls()), (50, 2));
    assert!(!scene.rejected(2).await, "what a 401 brought is rejected too: that is no reason for a third");
    assert_eq!(scene.calls(), 2);
    let trail = scene.finish().await;
    assert!(
        trail.contains(r#""event":"token_rotated","token":"api","generation":2,"replaces":1,"cause":"rejected""#),
        "{trail}"
    );
}

#[tokio::test]
async fn a_source_that_gives_the_same_again_is_asked_once() {
    let scene = Scene::of(|_| issued("always")).await;
    for _ in 0..3 {
        assert!(!scene.rejected(1).await);
    }
    assert_eq!(scene.calls(), 2);
    assert!(!scene.finish().await.contains("token_rotated"));
}

#[tokio::test]
async fn nobody_waits_for_a_token_that_another_has_followed() {
    let scene = Scene::of(|call| issued(&format!("tok-{call}"))).await;
    let reader = &scene.token.reader;
    scene.token.control.step_down(revocation::Cause::Replaced).await;
    assert!(!reader.is_published(), "nobody gets it from when this has returned on");
    let asking = async {
        assert!(!reader.rejected(1));
        assert!(!reader.newer_than(1, &*scene.clock, Duration::MAX).await);
        reader.ready(&*scene.clock, Duration::MAX).await
    };
    let absent = tokio::time::timeout(PATIENCE, asking).await.expect("it is answered at once");
    assert_eq!(absent, Err(Absent::Expired { retry_after: Some(Duration::ZERO) }));
    scene.finish().await;
}

#[tokio::test]
async fn nobody_waits_for_an_issuer_that_fails() {
    let scene = Scene::of(|call| match call {
        1 => issued("tok-1"),
        _ => Err(Failure::refused(Reason::InvalidClient, "no")),
    })
    .await;
    assert!(!scene.rejected(1).await);
    assert!(scene.token.reader.is_usable(scene.clock.now()), "a 401 takes nothing out of use");
    scene.finish().await;
}

#[tokio::test]
async fn a_token_behind_a_closed_gate_is_not_asked_for_and_is_taken_out_when_it_closes() {
    let id = "00112233aabbccdd".parse().expect("an id");
    let scene = Scene::behind(Gate::Pending(id), |call| issued(&format!("tok-{call}")));
    let reader = &scene.token.reader;
    assert_eq!(reader.ready(&*scene.clock, Duration::MAX).await, Err(Absent::Unapproved(id)), "at once");
    assert_eq!(scene.token.control.rotate().await, Err(RotateError::NotApproved));
    assert_eq!(scene.calls(), 0);
    scene.token.stand_behind(Gate::Open);
    while reader.ready(&*scene.clock, PATIENCE).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.get(scene.clock.now()).map(|usable| usable.generation().number).ok(), Some(1));
    scene.token.stand_behind(Gate::Denied(id));
    while reader.is_published() {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.get(scene.clock.now()).err(), Some(Absent::Denied(id)));
    scene.token.stand_behind(Gate::Open);
    while reader.ready(&*scene.clock, PATIENCE).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.get(scene.clock.now()).map(|usable| usable.generation().number).ok(), Some(2), "numbers go on");
    assert!(scene.finish().await.contains(r#""event":"token_retired","token":"api","generation":1"#));
}
