//! The life of a token against a hostile world: an issuer that fails, hangs and forbids, upstreams that reject good tokens
//! and void live ones, clocks that jump. A year of it passes in seconds, and the same seed gives the same year.
//!
//! ```text
//!  world ── time, answers, requests ──▶ Lifecycle ── effects ──▶ Observed (what must hold, whatever happens)
//! ```
//!
//! A failure names its seed: `COUNTERSIGN_SIMULATION_SEED=<seed> cargo test --test simulation` plays that one day again.

use std::time::Duration;

use countersign::clock::Moment;
use countersign::token::lifecycle::{Cause, Effect, Fault, Input, Lifecycle, Live, Offer, Phase, Plan};
use countersign::token::probe::Verdict;
use countersign::token::source::{Class, Reason};
use countersign::token::{Mode, Rotation};
use fastrand::Rng;

const DAYS: u64 = 365;
const DAY: Duration = Duration::from_secs(86_400);
/// At most so long after the last call the next is made, if requests want a generation: the longest that an issuer is back
/// without being asked.
const RECOVERY: Duration = Duration::from_secs(5);
const BETWEEN_REQUESTS: Duration = Duration::from_millis(500);
/// A day has far fewer: a life that takes more goes round in circles.
const MOST_EVENTS: u32 = 1_000_000;
/// The longest sleep of a supervisor, and so the longest time for which nobody sees that a clock has jumped.
const UNNOTICED: Duration = Duration::from_secs(5);
/// `shorten` tries no life that is shorter than this, where a longer one is given.
const SHORTEST_THAT_IS_TRIED: Duration = Duration::from_secs(300);
const LATEST_TIMER: Duration = Duration::from_millis(20);

#[test]
fn whatever_the_world_does_the_life_of_a_token_keeps_its_promises() {
    if let Ok(seed) = std::env::var("COUNTERSIGN_SIMULATION_SEED") {
        let seed = seed.parse().expect("a number");
        println!("{:?}", Day::new(seed).pass());
        return;
    }
    let first = fastrand::u64(..u64::MAX - DAYS);
    println!("seeds from {first}");
    let mut total = Tally::default();
    for seed in first..first + DAYS {
        let day = std::panic::catch_unwind(|| Day::new(seed).pass());
        let Ok(tally) = day else { panic!("see above; play it again with COUNTERSIGN_SIMULATION_SEED={seed}") };
        total.add(tally);
    }
    println!("{total:?}");
    // A world in which nothing happens proves nothing.
    for (what, count) in [
        ("generations", total.generations),
        ("requests served", total.served),
        ("requests refused", total.refused),
        ("failed calls", total.failures),
        ("refreshes after a 401", total.provoked),
        ("recoveries", total.recoveries),
        ("ends of grants", total.retired),
        ("generations that a probe refused", total.dropped),
        ("probes without an answer", total.untold),
        ("roll-backs", total.rolled_back),
        ("generations with a shorter life", total.shortened),
        ("renewals", total.renewed),
        ("renewals that were of no use", total.useless),
    ] {
        assert!(count > 20, "{count} {what} in a year");
    }
}

/// What happened.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    generations: u64,
    served: u64,
    refused: u64,
    failures: u64,
    provoked: u64,
    recoveries: u64,
    retired: u64,
    dropped: u64,
    untold: u64,
    rolled_back: u64,
    shortened: u64,
    renewed: u64,
    useless: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.generations += other.generations;
        self.served += other.served;
        self.refused += other.refused;
        self.failures += other.failures;
        self.provoked += other.provoked;
        self.recoveries += other.recoveries;
        self.retired += other.retired;
        self.dropped += other.dropped;
        self.untold += other.untold;
        self.rolled_back += other.rolled_back;
        self.shortened += other.shortened;
        self.renewed += other.renewed;
        self.useless += other.useless;
    }
}

/// How the issuer is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Issuer {
    Well,
    /// Answers, and badly.
    Failing(Class),
    /// Does not answer within its time limit.
    Hanging,
}

/// An answer that is on its way.
struct Pending {
    comes: Duration,
    answer: Result<Offer, Fault>,
    /// When what was minted ends, by true time.
    ends: Duration,
}

/// One token's day.
struct Day {
    rng: Rng,
    /// A world without trouble: no request may fail.
    calm: bool,
    life: Lifecycle,
    seen: Observed,
    /// The true time, which is also that of the boot clock.
    time: Duration,
    wall: Duration,
    /// When the supervisor's timer fires.
    timer: Duration,
    next_request: Duration,
    next_event: Duration,
    issuer: Issuer,
    issuer_returns: Duration,
    pending: Option<Pending>,
    /// A probe that is on its way: when its answer comes, and what it says.
    probing: Option<(Duration, Verdict)>,
    /// Upstreams take no generation up to this one.
    voided: u64,
    /// Upstreams answer 401 to all until then.
    storm_until: Duration,
    /// How often an upstream answers 401 to a good token.
    moody: f64,
    /// How long what the issuer gives lives; in the end it varies.
    usual_life: Duration,
    /// Whether the issuer renews what it has given.
    renews: bool,
}

impl Day {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let calm = rng.u8(..8) == 0;
        let wall = Duration::from_secs(1_700_000_000);
        let exclusive = rng.u8(..4) == 0;
        let plan = Plan {
            rotation: Rotation {
                at: rng.u64(10..95) as f64 / 100.0,
                jitter: rng.u64(..10) as f64 / 100.0,
                skew: Duration::from_secs(rng.u64(..60)),
                max_life: Duration::from_secs(rng.u64(20..7200)),
                overlap: Duration::from_secs(30),
                shorten: rng.bool(),
                mode: if exclusive { Mode::Exclusive } else { Mode::Overlap },
            },
            grant_ends: wall + if rng.bool() { DAY * 400 } else { DAY * rng.u32(20..100) / 100 },
            pace: Duration::from_secs(1),
            recheck: Duration::from_secs(60),
            required: rng.bool(),
            is_probed: !exclusive && rng.bool(),
        };
        let start = Moment { boot: Duration::from_secs(100), wall };
        Self {
            calm,
            life: Lifecycle::new(plan, 0, start),
            seen: Observed::new(plan),
            time: start.boot,
            wall,
            timer: start.boot,
            next_request: start.boot,
            next_event: start.boot + Duration::from_secs(rng.u64(..3600)),
            issuer: Issuer::Well,
            issuer_returns: Duration::ZERO,
            pending: None,
            probing: None,
            voided: 0,
            storm_until: Duration::ZERO,
            moody: if calm || rng.bool() { 0.0 } else { 0.02 },
            usual_life: Duration::from_secs(rng.u64(30..7200)),
            renews: rng.u8(..3) == 0,
            rng,
        }
    }

    fn pass(mut self) -> Tally {
        let end = self.time + DAY;
        for event in 0.. {
            if self.time >= end || self.life.phase() == Phase::Retired {
                break;
            }
            assert!(event < MOST_EVENTS, "round in circles");
            let answer = self.pending.as_ref().map_or(Duration::MAX, |pending| pending.comes);
            let probe = self.probing.map_or(Duration::MAX, |(comes, _)| comes);
            let next = answer.min(probe).min(self.timer).min(self.next_request).min(self.next_event);
            self.wall += next.saturating_sub(self.time);
            self.time = self.time.max(next);
            if next == answer {
                self.answer_comes();
            } else if next == probe {
                self.probe_comes();
            } else if next == self.next_request {
                self.request();
            } else if next == self.next_event {
                self.something_happens();
            } else {
                self.step(Input::Timer);
            }
            self.seen.look(&self.life, self.now(), self.pending.is_some() || self.probing.is_some());
        }
        let quiet = self.seen.tally.refused == 0 && self.seen.tally.failures == 0;
        assert!(!self.calm || quiet, "{:?} in a world without trouble", self.seen.tally);
        self.seen.tally
    }

    fn now(&self) -> Moment {
        Moment { boot: self.time, wall: self.wall }
    }

    fn step(&mut self, input: Input) {
        let (now, random) = (self.now(), self.rng.f64());
        let before = self.life.phase();
        for effect in self.life.step(input, now, random) {
            self.seen.effect(effect, input, before, now);
            match effect {
                Effect::Call => self.ask(),
                Effect::Probe { .. } => self.probe(),
                // Nobody waits for it any more.
                Effect::Publish { .. } | Effect::Discard => self.probing = None,
                _ => {}
            }
        }
        let late = LATEST_TIMER.mul_f64(self.rng.f64());
        let wake = self.life.wake_at().map_or(Duration::MAX, |wake| self.time + wake.remaining(now));
        self.timer = wake.saturating_add(late);
    }

    fn ask(&mut self) {
        assert!(self.pending.is_none(), "two calls in flight");
        let transient = Class::Transient { retry_after: None };
        let quick = Duration::from_millis(self.rng.u64(1..200));
        let asked = self.now();
        let (takes, answer, life) = match self.issuer {
            Issuer::Hanging => (Duration::from_secs(10), Err((Reason::Timeout, transient)), Duration::ZERO),
            Issuer::Failing(class) => (quick, Err((Reason::Status, class)), Duration::ZERO),
            Issuer::Well => {
                let odd = !self.calm && self.rng.u8(..20) == 0;
                let longer = (self.renews && self.life.may_prolong()).then_some(self.seen.number);
                let life = if odd { Duration::from_secs(self.rng.u64(..60)) } else { self.usual_life };
                let slow = !self.calm && self.rng.u8(..20) == 0;
                let takes = if slow { quick * 40 } else { quick };
                (
                    takes,
                    Ok(Offer { expires: Some(asked.after(life)), unchanged: longer.is_some(), void: false, longer }),
                    life,
                )
            }
        };
        let answer = answer.map_err(|(reason, class)| Fault { reason, class });
        self.pending = Some(Pending { comes: self.time + takes, answer, ends: self.time + life });
    }

    fn probe(&mut self) {
        assert!(self.probing.is_none() && self.pending.is_none(), "two of them in flight");
        let quick = Duration::from_millis(self.rng.u64(1..200));
        let (takes, verdict) = match self.rng.u8(..20) {
            0 if !self.calm => (quick, Verdict::Refused),
            1..4 if !self.calm => (Duration::from_secs(5), Verdict::Unanswered),
            _ => (quick, Verdict::Passed),
        };
        self.probing = Some((self.time + takes, verdict));
    }

    fn probe_comes(&mut self) {
        let Some((_, verdict)) = self.probing.take() else { return };
        self.seen.verdict = Some(verdict);
        self.seen.tally.untold += u64::from(verdict == Verdict::Unanswered);
        self.step(Input::Probed(verdict));
    }

    fn answer_comes(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        self.seen.ends = pending.ends;
        self.seen.longer = pending.answer.ok().and_then(|offer| offer.longer);
        self.step(Input::Answered(pending.answer));
    }

    /// As a request finds the slot, and what its upstream says.
    fn request(&mut self) {
        let now = self.now();
        let usable = self.seen.usable(now);
        let trouble = usable.is_none() || self.voided > 0;
        let pause = if trouble { BETWEEN_REQUESTS } else { Duration::from_secs(120) };
        self.next_request = self.time + pause.mul_f64(self.rng.f64());
        match usable {
            Some(live) => {
                self.seen.served(now);
                if !self.calm && self.rng.u8(..25) == 0 {
                    return self.step(Input::RollBack { generation: live.number });
                }
                let stormy = self.time < self.storm_until;
                if stormy || live.number <= self.voided || self.rng.f64() < self.moody {
                    self.rejected(live.number);
                } else {
                    self.voided = 0;
                    self.seen.proven = true;
                    self.step(Input::Accepted);
                }
            }
            None => {
                self.seen.refused(now);
                if self.life.heeds_demand(now) {
                    self.step(Input::Demand);
                }
            }
        }
    }

    fn rejected(&mut self, generation: u64) {
        // What is due anyway is not the doing of this 401.
        self.step(Input::Timer);
        let counts = self.seen.proven && !self.seen.rejected && !self.life.has_failed();
        let first_in_a_row = self.seen.provoked_in_a_row == 0;
        self.seen.rejected |= self.seen.proven;
        self.step(Input::Rejected { generation });
        assert!(
            !counts || !first_in_a_row || self.life.expects_answer(self.now()),
            "a 401 that counts changes nothing"
        );
    }

    fn something_happens(&mut self) {
        if self.issuer != Issuer::Well && self.time >= self.issuer_returns {
            self.issuer = Issuer::Well;
            // A call that began before has to end first.
            let free = self.pending.as_ref().map_or(self.time, |pending| pending.comes);
            self.seen.well_since = Some(free);
        } else if !self.calm {
            match self.rng.u8(..6) {
                0..=2 => self.issuer_fails(),
                3 => self.voided = self.seen.number,
                4 => self.storm_until = self.time + Duration::from_secs(self.rng.u64(1..600)),
                _ => self.a_clock_jumps(),
            }
        }
        let wait = self.time + Duration::from_secs(self.rng.u64(1..7200));
        self.next_event = if self.issuer == Issuer::Well { wait } else { self.issuer_returns };
        if self.calm && self.rng.u8(..4) == 0 {
            self.step(Input::Rotate);
        }
    }

    fn issuer_fails(&mut self) {
        let told = Duration::from_secs(self.rng.u64(1..300));
        self.issuer = match self.rng.u8(..5) {
            0 => Issuer::Hanging,
            1 => Issuer::Failing(Class::Refused),
            2 => Issuer::Failing(Class::Transient { retry_after: Some(told) }),
            _ => Issuer::Failing(Class::Transient { retry_after: None }),
        };
        self.issuer_returns = self.time + Duration::from_secs(self.rng.u64(1..900));
        self.seen.well_since = None;
    }

    /// The wall clock is set; the supervisor sees it when it wakes next.
    fn a_clock_jumps(&mut self) {
        let by = Duration::from_millis(self.rng.u64(..7_200_000));
        let ahead = self.rng.bool();
        self.wall = if ahead { self.wall + by } else { self.wall - by };
        let noticed = UNNOTICED.mul_f64(self.rng.f64());
        self.timer = self.timer.min(self.time + noticed);
        self.seen.excused_until = self.time + noticed;
        self.seen.jumped += by;
    }
}

/// What the outside has seen, and what must hold of it.
struct Observed {
    plan: Plan,
    tally: Tally,
    number: u64,
    /// What the slot holds.
    published: Option<Live>,
    /// When the answer that came last ends, and when the published generation does, by true time.
    ends: Duration,
    published_ends: Duration,
    /// The generation that the answer which came last is a longer life of.
    longer: Option<u64>,
    /// What the published generation replaced, when that was, and when that one ends by true time.
    former: Option<(Live, Moment, Duration)>,
    /// What the last probe of what is being tried has said.
    verdict: Option<Verdict>,
    last_call: Option<Moment>,
    /// The issuer wants nothing to come before.
    told: Option<Moment>,
    /// Until then nobody is late: the issuer wanted nothing, or a clock's jump had not been seen.
    excused_until: Duration,
    /// When the issuer was last being asked.
    free_since: Duration,
    /// Whether an upstream has accepted the token since a 401 had it replaced.
    proven: bool,
    /// Whether a 401 to the live generation has counted, and the calls that this began.
    rejected: bool,
    provoked_calls: u32,
    provoked_in_a_row: u32,
    last_provoked: Option<Moment>,
    /// From when on the issuer answers.
    well_since: Option<Duration>,
    /// Since when requests have asked for a generation in vain.
    wanted_since: Option<Duration>,
    /// By how much the wall clock was set since the last call.
    jumped: Duration,
}

impl Observed {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            tally: Tally::default(),
            number: 0,
            published: None,
            ends: Duration::ZERO,
            published_ends: Duration::ZERO,
            longer: None,
            former: None,
            verdict: None,
            last_call: None,
            told: None,
            excused_until: Duration::ZERO,
            free_since: Duration::ZERO,
            proven: true,
            rejected: false,
            provoked_calls: 0,
            provoked_in_a_row: 0,
            last_provoked: None,
            well_since: Some(Duration::ZERO),
            wanted_since: None,
            jumped: Duration::ZERO,
        }
    }

    fn effect(&mut self, effect: Effect, input: Input, before: Phase, now: Moment) {
        match effect {
            Effect::Call => {
                self.verdict = None;
                self.called(input, now);
            }
            Effect::Probe { number } => {
                assert!(self.plan.is_probed && number == self.number + 1);
                assert!(matches!(self.verdict, None | Some(Verdict::Unanswered)), "tried again after a word");
            }
            Effect::Discard => assert!(self.plan.is_probed),
            Effect::Publish { live, replaces, cause } => {
                assert_eq!(replaces, (self.number > 0).then_some(self.number));
                self.publish(live, cause, now);
            }
            Effect::RollBack { live, replaces, restores } => self.rolled_back(live, replaces, restores, now),
            Effect::Failed { fault, attempt, retry_at } => self.failed(fault, attempt, retry_at, now),
            Effect::Expire { number } => {
                assert_eq!((number, Some(before)), (self.number, self.published.take().map(Phase::Active)));
            }
            Effect::Retire { .. } => {
                assert!(now.wall >= self.plan.grant_ends);
                self.tally.retired += 1;
                self.published = None;
            }
            Effect::Prolong { live } => self.prolonged(live, now),
            Effect::Unchanged => {
                assert!(self.longer.is_some(), "this issuer never gives the same twice");
                self.tally.useless += 1;
            }
            Effect::Quarantine | Effect::Revoke | Effect::Resume { .. } | Effect::Reprovision => {
                panic!("nobody takes anything out of use")
            }
            Effect::CallNext | Effect::NotMoved { .. } | Effect::Moved { .. } => {
                panic!("there is no source to move to")
            }
            Effect::Sooner { .. } => {}
        }
    }

    fn called(&mut self, input: Input, now: Moment) {
        if let Some(last) = self.last_call {
            assert!(last.after(self.plan.pace).reached(now), "asked twice within a second");
        }
        assert!(self.told.is_none_or(|told| told.reached(now)), "asked before the issuer wanted it");
        self.last_call = Some(now);
        self.jumped = Duration::ZERO;
        if let Input::Rejected { .. } = input {
            self.provoked_calls += 1;
            assert!(self.provoked_calls <= 1, "two calls for one generation after 401");
            assert!(self.proven, "a 401 drove the issuer");
        }
    }

    fn publish(&mut self, live: Live, cause: Cause, now: Moment) {
        assert!(live.number > self.number, "numbers rise");
        assert!(self.verdict != Some(Verdict::Refused), "live against the API's word");
        let at_last = self.published.is_none_or(|old| old.usable_until.remaining(now) < Duration::from_secs(70));
        let passed = self.verdict == Some(Verdict::Passed);
        assert!(!self.plan.is_probed || passed || at_last, "live without a word, and without need");
        assert!(!live.usable_until.reached(now), "published what cannot be used");
        assert!(live.expires.wall <= self.plan.grant_ends, "outlives its grant");
        self.lives_as_long_as_it_may(live, now);
        if cause == Cause::Rejected {
            assert!(self.proven, "a 401 drove the issuer");
            let spacing = backoff(self.provoked_in_a_row);
            let spaced = self.last_provoked.is_none_or(|last| last.after(spacing).reached(now));
            assert!(self.provoked_in_a_row == 0 || spaced, "a 401 drove the issuer too fast");
            self.provoked_in_a_row += 1;
            self.last_provoked = Some(now);
            self.tally.provoked += 1;
        } else {
            self.provoked_in_a_row = 0;
        }
        if cause != Cause::Rejected {
            self.former = self.published.map(|old| (old, now, self.published_ends));
        }
        self.proven &= !self.rejected;
        self.rejected = false;
        self.number = live.number;
        self.published = Some(live);
        self.published_ends = self.ends;
        self.provoked_calls = 0;
        self.told = None;
        self.tally.recoveries += u64::from(self.wanted_since.take().is_some());
        self.tally.generations += 1;
    }

    /// Of what the issuer gives and the config allows, `shorten` leaves some out, but never so much that the rest is too short.
    fn lives_as_long_as_it_may(&mut self, live: Live, now: Moment) {
        let life = live.expires.remaining(live.issued);
        let until_the_grant_ends = self.plan.grant_ends.saturating_sub(now.wall);
        let allowed = self.ends.saturating_sub(live.issued.boot).min(self.plan.rotation.max_life);
        assert!(life <= allowed, "{life:?} of {allowed:?}");
        let least = if self.plan.rotation.shorten { allowed.min(SHORTEST_THAT_IS_TRIED) } else { allowed };
        // A clock that has jumped may have taken some of it.
        let may_be_less = least.min(until_the_grant_ends).saturating_sub(self.jumped);
        assert!(life >= may_be_less, "{life:?} of {allowed:?}, and {may_be_less:?} at least");
        self.tally.shortened += u64::from(life < allowed.min(until_the_grant_ends).saturating_sub(self.jumped));
    }

    /// The same one lives longer: by what its issuer said just now, and never for more than the config allows.
    fn prolonged(&mut self, live: Live, now: Moment) {
        let before = self.published.expect("what is live is prolonged");
        assert_eq!((self.longer, live.number, live.issued), (Some(before.number), before.number, before.issued));
        assert!(live.expires.remaining(now) > before.expires.remaining(now), "it lives no longer");
        assert!(live.usable_until.remaining(now) <= live.expires.remaining(now));
        let most = live.issued.boot + self.plan.rotation.max_life;
        assert!(live.expires.boot <= self.ends.min(most), "longer than its issuer or the config lets it");
        assert!(live.expires.wall <= self.plan.grant_ends, "outlives its grant");
        self.published = Some(live);
        self.published_ends = self.ends;
        self.told = None;
        self.tally.renewed += 1;
    }

    fn rolled_back(&mut self, live: Live, replaces: u64, restores: u64, now: Moment) {
        let (former, replaced_at, ends) = self.former.take().expect("there is something to go back to, once");
        assert_eq!((former.number, self.number), (restores, replaces));
        assert_eq!((former.expires, former.usable_until), (live.expires, live.usable_until), "it lives no longer");
        assert_eq!(self.plan.rotation.mode, Mode::Overlap, "its issuer has made it void");
        assert!(live.number > self.number && !live.usable_until.reached(now));
        assert!(!replaced_at.after(self.plan.rotation.overlap).reached(now), "its issuer may have been told");
        self.number = live.number;
        self.published = Some(live);
        self.published_ends = ends;
        self.tally.rolled_back += 1;
    }

    fn failed(&mut self, fault: Fault, attempt: u32, retry_at: Moment, now: Moment) {
        let wait = retry_at.remaining(now);
        match fault.class {
            Class::Transient { retry_after: Some(told) } => assert!(wait >= told, "the issuer wanted {told:?}"),
            Class::Refused => assert!(wait >= backoff(attempt)),
            Class::Transient { retry_after: None } => {
                let least =
                    if self.plan.required && self.number == 0 { Duration::from_secs(1) } else { backoff(attempt) };
                assert!((least..=Duration::from_secs(60)).contains(&wait), "attempt {attempt}: {wait:?}");
            }
            Class::Reauthenticate => panic!("this issuer never wants a human"),
        }
        self.told = match fault.class {
            Class::Transient { retry_after } => retry_after.map(|told| now.after(told)),
            Class::Refused | Class::Reauthenticate => Some(retry_at),
        };
        self.tally.failures += 1;
        self.tally.dropped += u64::from(fault.reason == Reason::Probe);
    }

    fn served(&mut self, now: Moment) {
        assert!(now.boot < self.published_ends, "sent a token that its issuer calls expired");
        assert!(now.wall < self.plan.grant_ends, "sent a token after the end of its grant");
        self.tally.served += 1;
    }

    fn refused(&mut self, now: Moment) {
        self.wanted_since.get_or_insert(now.boot);
        self.tally.refused += u64::from(self.number > 0);
    }

    /// What a request would get.
    fn usable(&self, now: Moment) -> Option<Live> {
        self.published.filter(|live| !live.usable_until.reached(now))
    }

    /// Looks at what must hold between two events.
    fn look(&mut self, life: &Lifecycle, now: Moment, in_flight: bool) {
        if life.phase() == Phase::Retired {
            return assert_eq!(life.wake_at(), None);
        }
        assert!(in_flight || life.wake_at().is_some(), "stuck");
        if self.told.is_some_and(|told| !told.reached(now)) {
            self.excused_until = self.excused_until.max(now.boot);
        }
        if self.usable(now).is_some() {
            self.wanted_since = None;
        }
        if in_flight {
            self.free_since = now.boot;
        } else if let (Some(well), Some(wanted)) = (self.well_since, self.wanted_since) {
            let soonest = self.last_call.map_or(Duration::ZERO, |last| last.boot + RECOVERY);
            let by = soonest.max(well).max(wanted).max(self.free_since).max(self.excused_until);
            let late = now.boot.saturating_sub(by);
            assert!(late <= BETWEEN_REQUESTS + LATEST_TIMER, "the issuer is back, and is asked {late:?} too late");
        }
    }
}

/// The least wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    let full = Duration::from_secs(60).min(Duration::from_secs(1) * 2u32.saturating_pow(failures.saturating_sub(1)));
    full.mul_f64(0.75).max(Duration::from_secs(1).min(full))
}
