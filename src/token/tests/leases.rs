//! A token whose issuer renews what it gave, takes it back, and takes its time: the test plays it.

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::clock::ManualClock;
use crate::token::source::{Prolonging, Revoking};

/// What the issuer is asked.
enum Asked {
    Obtain(oneshot::Sender<Result<Issued, Failure>>),
    Prolong(String, oneshot::Sender<Result<Option<Moment>, Failure>>),
    Revoke(String),
}

struct Lessor {
    asks: mpsc::Sender<Asked>,
    /// Whether what it gives ends only when it is told so.
    lasts: bool,
}

impl Source for Lessor {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(async {
            let (answer, answered) = oneshot::channel();
            self.asks.send(Asked::Obtain(answer)).await.expect("the test looks");
            answered.await.unwrap_or_else(|_| Err(Failure::transient(Reason::CutOff, "nobody answers")))
        })
    }

    fn prolong<'a>(&'a self, value: &'a Secret) -> Prolonging<'a> {
        Box::pin(async {
            let (answer, answered) = oneshot::channel();
            self.asks.send(Asked::Prolong(text(value), answer)).await.expect("the test looks");
            answered.await.unwrap_or_else(|_| Err(Failure::transient(Reason::CutOff, "nobody answers")))
        })
    }

    fn kind(&self) -> &'static str {
        "lessor"
    }

    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_millis(1), recheck: PATIENCE }
    }

    fn revokes(&self) -> bool {
        true
    }

    fn lasts(&self) -> bool {
        self.lasts
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        Box::pin(async {
            // The test may have seen enough.
            let _ = self.asks.send(Asked::Revoke(text(value))).await;
            Ok(())
        })
    }
}

fn text(secret: &Secret) -> String {
    secret.header_value("", "").map_or("unfit".to_owned(), |value| value.to_str().expect("ASCII").to_owned())
}

struct Lease {
    scene: Scene,
    clock: Arc<ManualClock>,
    asked: mpsc::Receiver<Asked>,
}

impl Lease {
    /// With a first generation, `tok-1`, that lives for an hour.
    async fn start(mode: Mode) -> Self {
        Self::of(mode, false).await
    }

    async fn of(mode: Mode, lasts: bool) -> Self {
        let (sender, asked) = mpsc::channel(16);
        let clock = Arc::new(ManualClock::default());
        let settings = settings_of_a_token();
        let overlap = Duration::from_secs(1);
        let settings = Settings { rotation: Rotation { mode, overlap, ..settings.rotation }, ..settings };
        let scene = Scene::living(Box::new(Lessor { asks: sender, lasts }), settings, Gate::Open, clock.clone());
        let mut lease = Self { scene, clock, asked };
        lease.obtained("tok-1", 3600).await;
        lease.scene.token.reader.ready(&*lease.clock, PATIENCE).await.expect("a first generation");
        lease
    }

    async fn next(&mut self) -> Asked {
        let asked = tokio::time::timeout(4 * PATIENCE, self.asked.recv()).await;
        asked.expect("the issuer is asked in time").expect("there is a token")
    }

    /// The next that brings something, whatever is void meanwhile.
    async fn next_call(&mut self) -> Asked {
        loop {
            match self.next().await {
                Asked::Revoke(_) => {}
                call => return call,
            }
        }
    }

    /// Answers a call for a generation.
    async fn obtained(&mut self, value: &str, life: u64) {
        let Asked::Obtain(answer) = self.next_call().await else { panic!("a generation is asked for") };
        let _ = answer.send(self.issued(value, life));
    }

    fn issued(&self, value: &str, life: u64) -> Result<Issued, Failure> {
        Ok(Issued { expires: Some(self.clock.now().after(Duration::from_secs(life))), ..issued(value)? })
    }

    /// Waits for the call that renews the live generation when its time has come.
    async fn renewal(&mut self) -> (String, oneshot::Sender<Result<Option<Moment>, Failure>>) {
        self.clock.advance(Duration::from_secs(2600));
        // The supervisor looks at the clock when something comes.
        self.scene.token.control.restate().await;
        match self.next().await {
            Asked::Prolong(value, answer) => (value, answer),
            Asked::Obtain(_) | Asked::Revoke(_) => panic!("a renewal is asked for"),
        }
    }

    async fn revoked(&mut self) -> String {
        match self.next().await {
            Asked::Revoke(value) => value,
            Asked::Obtain(_) | Asked::Prolong(..) => panic!("the issuer is told of a void generation"),
        }
    }

    fn held(&self) -> Option<Absent> {
        self.scene.token.reader.get(self.clock.now()).err()
    }
}

#[tokio::test]
async fn a_renewal_holds_no_request_and_what_makes_the_generation_void_does() {
    let mut lease = Lease::start(Mode::Exclusive).await;
    let (value, answer) = lease.renewal().await;
    assert_eq!((value.as_str(), lease.held()), ("tok-1", None));
    let _ = answer.send(Ok(None));
    let Asked::Obtain(answer) = lease.next().await else { panic!("another one") };
    assert_eq!(lease.held(), Some(Absent::Held));
    let _ = answer.send(lease.issued("tok-2", 3600));
    assert_eq!(lease.scene.token.reader.ready(&*lease.clock, PATIENCE).await, Ok(()));
    lease.scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn requests_are_not_held_for_longer_than_the_bound_however_long_the_issuer_takes() {
    let mut lease = Lease::start(Mode::Exclusive).await;
    let (reader, control) = (lease.scene.token.reader.clone(), lease.scene.token.control.clone());
    let (rotated, ()) = tokio::join!(control.rotate(), async {
        let Asked::Obtain(answer) = lease.next().await else { panic!("a generation is asked for") };
        assert_eq!(lease.held(), Some(Absent::Held));
        let began = tokio::time::Instant::now();
        assert_eq!(reader.ready(&*lease.clock, 2 * PATIENCE).await, Ok(()), "they go on with what there is");
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(1), "by the clock that the test moves");
        let _ = answer.send(lease.issued("tok-2", 3600));
    });
    assert_eq!(rotated, Ok(2));
    lease.scene.finish().await;
}

#[tokio::test]
async fn a_rejection_or_a_wish_for_another_during_a_renewal_is_not_forgotten() {
    for rejects in [true, false] {
        let mut lease = Lease::start(Mode::Overlap).await;
        let (_, answer) = lease.renewal().await;
        let (reader, control) = (lease.scene.token.reader.clone(), lease.scene.token.control.clone());
        let clock = lease.clock.clone();
        let wanting = async {
            match rejects {
                true => reader.rejected(1) && reader.newer_than(1, &*clock, 4 * PATIENCE).await,
                false => control.rotate().await == Ok(2),
            }
        };
        let (got, ()) = tokio::join!(wanting, async {
            let _ = answer.send(Ok(Some(lease.clock.now().after(Duration::from_secs(3600)))));
            lease.obtained("tok-2", 3600).await;
        });
        assert!(got, "{rejects}");
        assert!(lease.scene.finish().await.contains("token_prolonged"));
    }
}

#[tokio::test]
async fn what_nobody_ever_uses_is_void_at_its_issuer() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let control = lease.scene.token.control.clone();
    let (rotated, told) = tokio::join!(control.rotate(), async {
        lease.obtained("tok-2", 10).await;
        lease.revoked().await
    });
    assert_eq!((rotated, told.as_str()), (Err(RotateError::Issuer("worse")), "tok-2"));
    lease.clock.advance(Duration::from_secs(120));
    let (rotated, told) = tokio::join!(control.rotate(), async {
        lease.obtained("not\nfit", 3600).await;
        lease.revoked().await
    });
    assert_eq!((rotated, told.as_str()), (Err(RotateError::Issuer("token_charset")), "unfit"));
    lease.scene.finish().await;
}

#[tokio::test]
async fn what_comes_after_the_end_of_a_token_is_void_at_its_issuer() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let control = lease.scene.token.control.clone();
    let (rotated, ()) = tokio::join!(control.rotate(), async {
        let Asked::Obtain(answer) = lease.next().await else { panic!("a generation is asked for") };
        control.retire().await;
        let _ = answer.send(lease.issued("tok-2", 3600));
        let mut told = [lease.revoked().await, lease.revoked().await];
        told.sort();
        assert_eq!(told, ["tok-1", "tok-2"]);
    });
    assert_eq!(rotated, Err(RotateError::Retired));
    lease.scene.finish().await;
}

#[tokio::test]
async fn refusals_of_a_generation_that_is_not_live_take_nothing_back() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let control = lease.scene.token.control.clone();
    let (rotated, ()) = tokio::join!(control.rotate(), lease.obtained("tok-2", 3600));
    assert_eq!(rotated, Ok(2));
    assert!(control.roll_back(Refusals { generation: 1, refused: 10, answered: 10, clients: 2 }));
    control.retire().await;
    let mut told = [lease.revoked().await, lease.revoked().await];
    told.sort();
    assert_eq!(told, ["tok-1", "tok-2"], "the one before is void all the same");
    lease.scene.finish().await;
}

const CLOSED: &str = "00112233aabbccdd";

#[tokio::test]
async fn what_comes_as_the_gate_closes_is_void_at_its_issuer_whichever_is_seen_first() {
    let mut lease = Lease::start(Mode::Exclusive).await;
    let mut live = "tok-1".to_owned();
    for round in 0..20 {
        let (_, answer) = lease.renewal().await;
        let _ = answer.send(Ok(None));
        let Asked::Obtain(answer) = lease.next().await else { panic!("another one") };
        let late = format!("late-{round}");
        let _ = answer.send(lease.issued(&late, 3600));
        lease.scene.token.stand_behind(Gate::Denied(CLOSED.parse().expect("an id")));
        let mut told = [lease.revoked().await, lease.revoked().await];
        told.sort();
        assert_eq!(told, [late, live]);
        lease.scene.token.stand_behind(Gate::Open);
        live = format!("tok-{round}");
        lease.obtained(&live, 3600).await;
        while lease.held().is_some() {
            tokio::task::yield_now().await;
        }
    }
    lease.scene.finish().await;
}

#[tokio::test]
async fn what_an_issuer_gives_to_a_token_that_is_gone_is_void_there() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let (_, answer) = lease.renewal().await;
    let _ = answer.send(Ok(None));
    let Asked::Obtain(answer) = lease.next().await else { panic!("another one") };
    let issued = lease.issued("tok-2", 3600);
    let Lease { scene, mut asked, .. } = lease;
    let Scene { token, tasks, _telling, .. } = scene;
    drop(token);
    let ends = tasks.at_rest();
    tokio::select! {
        () = ends => panic!("the process may not end before that is known"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    let _ = answer.send(issued);
    let told = tokio::time::timeout(PATIENCE, asked.recv()).await.expect("in time");
    assert!(matches!(told, Some(Asked::Revoke(value)) if value == "tok-2"));
    tasks.at_rest().await;
}

#[tokio::test]
async fn a_generation_that_may_have_been_renewed_is_void_after_its_old_end_too() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let (_, answer) = lease.renewal().await;
    // The issuer has renewed it by now, and nobody hears of it.
    lease.clock.advance(Duration::from_secs(1100));
    lease.scene.token.control.retire().await;
    assert_eq!(lease.revoked().await, "tok-1");
    drop(answer);
    lease.scene.finish().await;
}

#[tokio::test]
async fn a_generation_that_was_not_renewed_ends_when_it_was_said_to() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let (_, answer) = lease.renewal().await;
    drop(answer);
    while lease.scene.token.reader.look().2 == slot::Standing::Asking {
        tokio::task::yield_now().await;
    }
    lease.clock.advance(Duration::from_secs(1100));
    assert!(lease.held().is_some(), "whatever its issuer may say of it");
    lease.scene.finish().await;
}

#[tokio::test]
async fn nobody_waits_for_what_a_401_during_a_renewal_brings_later() {
    let mut lease = Lease::start(Mode::Overlap).await;
    let reader = lease.scene.token.reader.clone();
    // Each refresh that a 401 brings puts the next one off for longer.
    for generation in 1..8 {
        reader.succeeded(generation);
        assert!(reader.rejected(generation));
        lease.clock.advance(Duration::from_secs(60));
        lease.scene.token.control.restate().await;
        lease.obtained(&format!("again-{generation}"), if generation < 7 { 3600 } else { 20 }).await;
        while reader.get(lease.clock.now()).is_ok_and(|usable| usable.generation().number == generation) {
            tokio::task::yield_now().await;
        }
        assert!(lease.held().is_none());
    }
    reader.succeeded(8);
    lease.clock.advance(Duration::from_secs(14));
    lease.scene.token.control.restate().await;
    let Asked::Prolong(_, answer) = lease.next_call().await else { panic!("a renewal is asked for") };
    assert!(reader.rejected(8), "another one may come of the call that is under way");
    lease.scene.token.control.restate().await;
    let clock = lease.clock.clone();
    let _ = answer.send(Ok(Some(clock.now().after(Duration::from_secs(20)))));
    let waiting = reader.newer_than(8, &*clock, 4 * PATIENCE);
    let newer = tokio::time::timeout(Duration::from_secs(2), waiting).await;
    assert_eq!(newer, Ok(false), "it is to come, and not for a while");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_ends_no_later_hold() {
    let mut lease = Lease::start(Mode::Exclusive).await;
    let (_, answer) = lease.renewal().await;
    let _ = answer.send(Ok(None));
    let Asked::Obtain(first) = lease.next().await else { panic!("another one") };
    lease.scene.token.stand_behind(Gate::Denied(CLOSED.parse().expect("an id")));
    assert_eq!(lease.revoked().await, "tok-1");
    lease.scene.token.stand_behind(Gate::Open);
    lease.obtained("tok-2", 3600).await;
    let reader = lease.scene.token.reader.clone();
    while lease.held().is_some() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (_, answer) = lease.renewal().await;
    let _ = answer.send(Ok(None));
    let Asked::Obtain(second) = lease.next().await else { panic!("another one") };
    assert_eq!(lease.held(), Some(Absent::Held));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(lease.held(), Some(Absent::Held), "the first call has taken long, and this one has not");
    let _ = second.send(lease.issued("tok-3", 3600));
    assert_eq!(reader.ready(&*lease.clock, PATIENCE).await, Ok(()));
    let _ = first.send(lease.issued("tok-late", 3600));
    while lease.revoked().await != "tok-late" {}
    lease.scene.finish().await;
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_voided_even_when_its_use_has_run_out() {
    let mut lease = Lease::of(Mode::Overlap, true).await;
    lease.clock.advance(Duration::from_secs(4000));
    lease.scene.token.control.restate().await;
    lease.obtained("tok-2", 3600).await;
    lease.scene.token.reader.ready(&*lease.clock, PATIENCE).await.expect("a generation");
    lease.clock.advance(Duration::from_secs(2));
    assert_eq!(lease.revoked().await, "tok-1");
}
