use super::*;
use crate::token::Mode;
use crate::token::probe::Verdict;
use proptest::prelude::*;

pub(super) const START: Moment = Moment { boot: Duration::from_secs(1_000), wall: Duration::from_secs(1_700_000_000) };
pub(super) const DOWN: Fault = Fault { reason: Reason::Connect, class: Class::Transient { retry_after: None } };
const NO: Fault = Fault { reason: Reason::InvalidClient, class: Class::Refused };

pub(super) fn plan() -> Plan {
    Plan {
        rotation: Rotation {
            overlap: secs(30),
            shorten: false,
            mode: Mode::Overlap,
            at: 0.7,
            jitter: 0.1,
            skew: Duration::from_secs(30),
            max_life: Duration::from_secs(3600),
        },
        grant_ends: START.wall + Duration::from_secs(86_400),
        pace: Duration::from_secs(1),
        recheck: Duration::from_secs(2),
        required: false,
        is_probed: false,
    }
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn offer(now: Moment, life: u64) -> Input {
    Input::Answered(Ok(Offer { expires: Some(now.after(secs(life))), unchanged: false, void: false, longer: None }))
}

/// A life that has just received a first generation of `life` seconds.
pub(super) fn active(life: u64) -> Lifecycle {
    let mut machine = Lifecycle::new(plan(), 0, START);
    assert_eq!(machine.step(Input::Timer, START, 0.0), [Effect::Call]);
    let effects = machine.step(offer(START, life), START, 0.0);
    assert!(matches!(effects[..], [Effect::Publish { replaces: None, .. }]), "{effects:?}");
    machine
}

#[test]
fn a_generation_is_replaced_at_seven_tenths_of_its_life() {
    let mut machine = active(100);
    assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(70)).boot);
    assert_eq!(machine.step(Input::Timer, START.after(secs(69)), 0.0), []);
    let then = START.after(secs(70));
    assert_eq!(machine.step(Input::Timer, then, 0.0), [Effect::Call]);
    let effects = machine.step(offer(then, 100), then, 0.0);
    assert!(matches!(
        effects[..],
        [Effect::Publish { live: Live { number: 2, .. }, replaces: Some(1), cause: Cause::Due }]
    ));
}

#[test]
fn jitter_only_brings_the_replacement_forward() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    machine.step(Input::Timer, START, 0.0);
    machine.step(offer(START, 100), START, 1.0);
    assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(60)).boot);
}

#[test]
fn the_skew_is_at_most_a_tenth_of_the_life() {
    let Phase::Active(short) = active(100).phase() else { panic!("active") };
    assert_eq!(short.usable_until, START.after(secs(90)));
    let Phase::Active(long) = active(1000).phase() else { panic!("active") };
    assert_eq!(long.usable_until, START.after(secs(970)));
}

#[test]
fn a_failed_rotation_keeps_the_live_generation_until_its_expiry() {
    let mut machine = active(100);
    let mut now = START.after(secs(70));
    machine.step(Input::Timer, now, 0.0);
    machine.step(Input::Answered(Err(DOWN)), now, 0.0);
    assert!(matches!(machine.phase(), Phase::Active(live) if live.number == 1));
    now = START.after(secs(90));
    let effects = machine.step(Input::Timer, now, 0.0);
    assert!(effects.contains(&Effect::Expire { number: 1 }), "{effects:?}");
    assert!(matches!(machine.phase(), Phase::Expired(_)));
}

#[test]
fn for_want_of_a_sign_in_nobody_is_asked_until_there_has_been_one() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    machine.step(Input::Timer, START, 0.0);
    let fault = Fault { reason: Reason::InvalidGrant, class: Class::Reauthenticate };
    machine.step(Input::Answered(Err(fault)), START, 0.0);
    let later = START.after(secs(60));
    for input in [Input::Timer, Input::Demand] {
        assert_eq!(machine.step(input, later, 0.0), [], "{input:?}");
    }
    assert_eq!(machine.step(Input::Changed, later, 0.0), [Effect::Call]);
}

#[test]
fn what_has_expired_does_not_come_back_as_a_new_generation() {
    let mut machine = active(100);
    let mut now = START.after(secs(91));
    machine.step(Input::Timer, now, 0.0);
    let same = Input::Answered(Ok(Offer {
        expires: Some(START.after(secs(100))),
        unchanged: true,
        void: false,
        longer: None,
    }));
    let effects = machine.step(same, now, 0.0);
    assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Expired, .. }, .. }]));
    now = machine.wake_at().expect("wakes");
    assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
}

#[test]
fn a_wall_clock_set_back_does_not_make_new_generations_worse() {
    let mut machine = active(3000);
    let back = Moment { boot: START.boot + secs(2100), wall: START.wall - secs(3600) };
    machine.step(Input::Timer, back, 0.0);
    let effects = machine.step(offer(back, 3000), back, 0.0);
    assert!(matches!(effects[..], [Effect::Publish { .. }]), "{effects:?}");
}

#[test]
fn a_late_share_of_the_life_still_leaves_time_for_the_call() {
    let rotation = Rotation { at: 0.95, jitter: 0.0, ..plan().rotation };
    let mut machine = Lifecycle::new(Plan { rotation, ..plan() }, 0, START);
    machine.step(Input::Timer, START, 0.0);
    machine.step(offer(START, 60), START, 0.0);
    let Phase::Active(live) = machine.phase() else { panic!("active") };
    assert!(machine.wake_at().expect("wakes").boot + secs(1) < live.usable_until.boot);
}

#[test]
fn a_life_of_less_than_a_second_does_not_hurry_the_calls() {
    let mut machine = active(1);
    let now = START.after(Duration::from_millis(900));
    assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Expire { number: 1 }]);
    assert_eq!(machine.step(Input::Timer, START.after(secs(1)), 0.0), [Effect::Call]);
}

#[test]
fn a_required_token_is_asked_for_every_five_seconds_until_its_first_generation() {
    let mut machine = Lifecycle::new(Plan { required: true, ..plan() }, 0, START);
    let mut now = START;
    for _ in 0..8 {
        machine.step(Input::Timer, now, 1.0);
        machine.step(Input::Answered(Err(DOWN)), now, 1.0);
        let next = machine.wake_at().expect("wakes");
        assert!(next.boot - now.boot <= secs(5));
        now = next;
    }
}

#[test]
fn demand_brings_the_next_attempt_to_five_seconds_after_the_last() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    let mut now = START;
    for _ in 0..8 {
        now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 1.0);
        machine.step(Input::Answered(Err(DOWN)), now, 1.0);
    }
    let asked = now.after(secs(2));
    machine.step(Input::Demand, asked, 1.0);
    assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(5)).boot);
}

#[test]
fn an_issuers_retry_after_holds_whoever_asks() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    machine.step(Input::Timer, START, 0.0);
    let busy = Fault { class: Class::Transient { retry_after: Some(secs(40)) }, ..DOWN };
    machine.step(Input::Answered(Err(busy)), START, 0.0);
    machine.step(Input::Demand, START.after(secs(10)), 0.0);
    assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(40)).boot);
}

#[test]
fn demand_shows_that_a_clock_has_jumped() {
    let mut machine = active(3600);
    let now = START.after(secs(10));
    assert!(machine.heeds_demand(now));
    assert_eq!(machine.step(Input::Demand, now, 0.0), [], "nobody should ask for what is there");
    let jumped = Moment { boot: now.boot, wall: now.wall + secs(3600) };
    assert_eq!(
        machine.step(Input::Demand, jumped, 0.0),
        [Effect::Sooner { retry_at: START.after(secs(1)) }, Effect::Expire { number: 1 }, Effect::Call]
    );
    assert!(!machine.heeds_demand(jumped), "the call is in flight");
}

#[test]
fn a_plain_no_is_not_hurried_by_demand() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    let mut now = START;
    for _ in 0..8 {
        now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 1.0);
        machine.step(Input::Answered(Err(NO)), now, 1.0);
    }
    machine.step(Input::Demand, now.after(secs(1)), 1.0);
    assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(60)).boot);
}

#[test]
fn a_worse_token_never_replaces_a_good_one() {
    let mut machine = active(100);
    let now = START.after(secs(70));
    machine.step(Input::Timer, now, 0.0);
    let effects = machine.step(offer(now, 5), now, 0.0);
    assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Worse, .. }, .. }]));
    assert!(matches!(machine.phase(), Phase::Active(live) if live.number == 1));
}

#[test]
fn the_same_bytes_are_no_rotation() {
    let mut machine = active(100);
    let now = START.after(secs(70));
    machine.step(Input::Timer, now, 0.0);
    let same = Offer { expires: Some(START.after(secs(100))), unchanged: true, void: false, longer: None };
    assert_eq!(machine.step(Input::Answered(Ok(same)), now, 0.0), [Effect::Unchanged]);
    assert!(machine.wake_at().expect("wakes").boot > now.boot);
}

#[test]
fn a_grant_that_ended_retires_its_token_for_good() {
    let mut machine = active(100);
    let end = Moment { boot: START.boot, wall: START.wall + secs(86_400) };
    assert_eq!(machine.step(Input::Timer, end, 0.0), [Effect::Retire { number: 1 }]);
    assert_eq!(machine.wake_at(), None);
    assert_eq!(machine.step(Input::Rotate, end, 0.0), []);
    assert_eq!(machine.step(offer(end, 100), end, 0.0), []);
}

#[test]
fn a_generation_never_outlives_its_grant_or_the_longest_life() {
    let Phase::Active(live) = active(1_000_000).phase() else { panic!("active") };
    assert_eq!(live.expires, START.after(secs(3600)));
    let mut machine = Lifecycle::new(Plan { grant_ends: START.wall + secs(50), ..plan() }, 0, START);
    machine.step(Input::Timer, START, 0.0);
    machine.step(offer(START, 100), START, 0.0);
    assert!(matches!(machine.phase(), Phase::Active(live) if live.expires == START.after(secs(50))));
}

#[test]
fn a_static_value_is_asked_for_again_and_lives_as_long_as_its_grant() {
    let mut machine = Lifecycle::new(plan(), 0, START);
    machine.step(Input::Timer, START, 0.0);
    machine.step(Input::Answered(Ok(Offer { expires: None, unchanged: false, void: false, longer: None })), START, 0.0);
    assert!(matches!(machine.phase(), Phase::Active(live) if live.expires.wall == plan().grant_ends));
    assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(2)).boot);
}

#[test]
fn a_source_that_has_something_else_is_asked_at_once_and_no_faster_than_its_pace() {
    let mut machine = active(1000);
    let now = START.after(secs(10));
    assert_eq!(machine.step(Input::Changed, now, 0.0), [Effect::Call]);
    let same = Offer { expires: Some(START.after(secs(1000))), unchanged: true, void: false, longer: None };
    machine.step(Input::Answered(Ok(same)), now, 0.0);
    assert_eq!(machine.step(Input::Changed, now, 0.0), []);
    assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(1)).boot);
}

#[test]
fn what_is_quarantined_comes_back_with_what_it_had() {
    let mut machine = active(1000);
    let now = START.after(secs(10));
    assert_eq!(machine.step(Input::Quarantine, now, 0.0), [Effect::Quarantine]);
    assert_eq!(machine.step(Input::Quarantine, now, 0.0), [], "it is already");
    for input in [Input::Timer, Input::Demand, Input::Rotate, Input::Changed, Input::Rejected { generation: 1 }] {
        assert_eq!(machine.step(input, START.after(secs(750)), 0.0), [], "{input:?}");
    }
    let effects = machine.step(Input::Release, START.after(secs(760)), 0.0);
    assert!(matches!(effects[..], [Effect::Resume { live: Live { number: 1, .. } }, Effect::Call]), "{effects:?}");
    assert!(matches!(machine.phase(), Phase::Active(Live { number: 1, .. })));
}

#[test]
fn what_ran_out_in_quarantine_is_provisioned_anew() {
    let mut machine = active(100);
    machine.step(Input::Quarantine, START.after(secs(10)), 0.0);
    let now = START.after(secs(95));
    assert_eq!(machine.step(Input::Timer, now, 0.0), []);
    assert_eq!(machine.step(Input::Release, now, 0.0), [Effect::Reprovision, Effect::Call]);
    let effects = machine.step(offer(now, 100), now, 0.0);
    assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, replaces: Some(1), .. }]));
}

#[test]
fn a_revoked_generation_never_comes_back() {
    let mut machine = active(1000);
    let now = START.after(secs(10));
    assert_eq!(machine.step(Input::Revoke, now, 0.0), [Effect::Revoke]);
    assert_eq!(machine.step(Input::Quarantine, now, 0.0), [], "a quarantine takes nothing from it");
    assert_eq!(machine.phase(), Phase::Revoked);
    assert_eq!(machine.step(Input::Release, now, 0.0), [Effect::Reprovision, Effect::Call]);
    let same = Offer { expires: Some(START.after(secs(1000))), unchanged: true, void: true, longer: None };
    let effects = machine.step(Input::Answered(Ok(same)), now, 0.0);
    assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Revoked, .. }, .. }]));
    assert_eq!(machine.phase(), Phase::Provisioning);
}

#[test]
fn an_answer_that_was_on_its_way_is_discarded() {
    for restrain in [Input::Quarantine, Input::Revoke] {
        let mut machine = active(100);
        let now = START.after(secs(70));
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        machine.step(restrain, now, 0.0);
        machine.step(Input::Release, now, 0.0);
        assert_eq!(machine.step(offer(now, 100), now, 0.0), [Effect::Discard], "{restrain:?}");
        let next = now.after(secs(1));
        assert_eq!(machine.step(Input::Timer, next, 0.0), [Effect::Call], "and another one is asked for");
        assert!(matches!(machine.step(offer(next, 100), next, 0.0)[..], [Effect::Publish { .. }]));
    }
}

#[test]
fn a_restraint_outlives_a_restart_and_its_grant_does_not() {
    for restraint in [Restraint::Quarantined, Restraint::Revoked] {
        let mut machine = Lifecycle::restrained(restraint, plan(), 4, START);
        assert_eq!(machine.step(Input::Timer, START.after(secs(60)), 0.0), []);
        let effects = machine.step(Input::Release, START.after(secs(60)), 0.0);
        assert_eq!(effects, [Effect::Reprovision, Effect::Call]);
        let mut machine = Lifecycle::restrained(restraint, plan(), 4, START);
        let end = Moment { boot: START.boot, wall: START.wall + secs(86_400) };
        assert_eq!(machine.step(Input::Timer, end, 0.0), [Effect::Retire { number: 4 }]);
    }
}

#[test]
fn a_year_of_rotations_takes_no_time() {
    let mut machine = Lifecycle::new(Plan { grant_ends: START.wall + secs(400 * 86_400), ..plan() }, 0, START);
    let mut now = START;
    let mut published = 0;
    while now.boot < START.boot + secs(365 * 86_400) {
        now = machine.wake_at().expect("wakes");
        if machine.step(Input::Timer, now, 0.5) == [Effect::Call] {
            published += usize::from(matches!(machine.step(offer(now, 3600), now, 0.5)[..], [Effect::Publish { .. }]));
        }
    }
    assert!(published > 13_000, "{published}");
}

fn inputs() -> impl Strategy<Value = (Input, u64, f64)> {
    let expires = (0u64..5_000).prop_map(|s| Offer {
        expires: Some(START.after(secs(s))),
        unchanged: false,
        void: false,
        longer: None,
    });
    let faults = prop_oneof![
        Just(DOWN),
        Just(NO),
        (0u64..700).prop_map(|s| Fault { class: Class::Transient { retry_after: Some(secs(s)) }, ..DOWN }),
    ];
    let input = prop_oneof![
        6 => Just(Input::Timer),
        2 => expires.prop_map(|offer| Input::Answered(Ok(offer))),
        1 => any::<bool>().prop_map(|unchanged| Input::Answered(Ok(Offer { expires: None, unchanged, void: false, longer: None }))),
        2 => faults.prop_map(|fault| Input::Answered(Err(fault))),
        2 => prop_oneof![Just(Verdict::Passed), Just(Verdict::Refused), Just(Verdict::Unanswered)].prop_map(Input::Probed),
        2 => Just(Input::Demand),
        1 => Just(Input::Rotate),
        1 => Just(Input::Changed),
        2 => any::<bool>().prop_map(|live| Input::Rejected { generation: u64::from(live) }),
        1 => Just(Input::Accepted),
        1 => (0u64..4).prop_map(|generation| Input::RollBack { generation }),
        1 => Just(Input::Quarantine),
        1 => Just(Input::Revoke),
        2 => Just(Input::Release),
    ];
    (input, 0u64..40_000, 0.0f64..1.0)
}

#[test]
fn a_thousand_tokens_of_one_end_are_not_replaced_at_once() {
    let mut rng = fastrand::Rng::with_seed(7);
    let plan = Plan { rotation: Rotation { jitter: 0.1, ..plan().rotation }, ..plan() };
    let mut due: Vec<u64> = (0..1000)
        .map(|_| {
            let mut machine = Lifecycle::new(plan, 0, START);
            machine.step(Input::Timer, START, rng.f64());
            machine.step(offer(START, 3600), START, rng.f64());
            machine.wake_at().expect("wakes").remaining(START).as_secs()
        })
        .collect();
    due.sort_unstable();
    assert!(due[0] >= 2159 && due[999] <= 2520, "within a tenth of its life: {} s to {} s", due[0], due[999]);
    assert!(due[999] - due[0] > 330, "{} s to {} s", due[0], due[999]);
    let most = due.chunk_by(|one, other| one == other).map(<[u64]>::len).max();
    assert!(most < Some(15), "{most:?} in one second");
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(
        is_probed: bool,
        moves: bool,
        steps in proptest::collection::vec(inputs(), 1..200),
    ) {
        let plan = Plan { grant_ends: START.wall + secs(4_000), is_probed, ..plan() };
        let machine = Lifecycle::new(plan, 0, START);
        let mut machine = if moves { machine.moving_to(plan) } else { machine };
        let (mut now, mut in_flight, mut last_call, mut last_number) = (START, false, None, 0);
        // Whether an upstream has accepted the token since a 401 had it replaced.
        let mut proven = true;
        // Whether somebody has taken the token out of use, and the last number that was revoked.
        let (mut restrained, mut revoked) = (false, 0);
        // Whether a generation is being tried.
        let mut on_trial = false;
        for (mut input, millis, random) in steps {
            now = now.after(Duration::from_millis(millis));
            if let (Input::Rejected { generation: 1 }, Phase::Active(live)) = (input, machine.phase()) {
                input = Input::Rejected { generation: live.number };
            }
            if let (Input::RollBack { generation: 1.. }, Phase::Active(live)) = (input, machine.phase()) {
                input = Input::RollBack { generation: live.number };
            }
            let before = machine.phase();
            let effects = machine.step(input, now, random);
            if let Input::Answered(_) = input {
                in_flight = false;
            }
            proven |= input == Input::Accepted;
            match input {
                Input::Quarantine => restrained = true,
                Input::Revoke => (restrained, revoked) = (true, last_number),
                Input::Release => restrained = false,
                _ => {}
            }
            if machine.phase() != Phase::Retired {
                prop_assert_eq!(machine.is_restrained(), restrained);
            }
            for effect in &effects {
                match *effect {
                    Effect::Call | Effect::CallNext => {
                        let is_live = matches!(machine.phase(), Phase::Active(_));
                        prop_assert!(is_live || *effect == Effect::Call, "left a source that nothing is live of");
                        prop_assert!(!restrained, "asked for what nobody may use");
                        prop_assert!(!in_flight, "two calls in flight");
                        prop_assert!(!on_trial, "asked while a generation is being tried");
                        if let Some(last) = last_call {
                            prop_assert!(now.boot - last >= plan.pace, "calls too close");
                        }
                        (in_flight, last_call) = (true, Some(now.boot));
                    }
                    Effect::Probe { .. } => {
                        prop_assert!(is_probed && !in_flight && !restrained);
                        on_trial = true;
                    }
                    Effect::Discard => {
                        prop_assert!(on_trial || matches!(input, Input::Answered(_)), "nothing to discard");
                        on_trial = false;
                    }
                    Effect::Prolong { live } => {
                        prop_assert!(!restrained, "prolonged what nobody may use");
                        prop_assert_eq!(live.number, last_number);
                    }
                    Effect::Publish { live, cause, .. } => {
                        prop_assert!(!restrained, "published what nobody may use");
                        prop_assert_eq!(is_probed, on_trial, "live without a trial");
                        prop_assert!(input != Input::Probed(Verdict::Refused), "live against the API's word");
                        on_trial = false;
                        prop_assert!(proven || cause != Cause::Rejected, "a 401 drove the issuer");
                        proven &= cause != Cause::Rejected;
                        prop_assert!(live.number > last_number);
                        prop_assert!(!live.usable_until.reached(now), "published what cannot be used");
                        prop_assert!(live.expires.wall <= plan.grant_ends);
                        last_number = live.number;
                    }
                    Effect::RollBack { live, replaces, restores } => {
                        prop_assert!(!restrained && restores > revoked && restores < replaces);
                        prop_assert!(live.number > last_number && !live.usable_until.reached(now));
                        last_number = live.number;
                    }
                    Effect::Failed { fault, .. } => {
                        // What its API refuses, or what has run out meanwhile, is tried no more.
                        on_trial &= fault.reason == Reason::ProbeUnanswered;
                        if let (Phase::Active(old), Phase::Active(new)) = (before, machine.phase()) {
                            prop_assert_eq!(old, new, "a failure changed the live generation");
                        }
                    }
                    Effect::NotMoved { fault, .. } => {
                        on_trial &= fault.is_none();
                        if let (Phase::Active(old), Phase::Active(new), Some(_)) = (before, machine.phase(), fault) {
                            prop_assert_eq!(old, new, "a failed move changed the live generation");
                        }
                    }
                    Effect::Moved { number } => prop_assert_eq!((number, restrained), (last_number, false)),
                    Effect::Resume { live } => {
                        prop_assert!(!restrained && live.number > revoked, "a revoked one came back");
                    }
                    Effect::Unchanged
                    | Effect::Sooner { .. }
                    | Effect::Expire { .. }
                    | Effect::Quarantine
                    | Effect::Revoke
                    | Effect::Reprovision
                    | Effect::Retire { .. } => {}
                }
            }
            match machine.phase() {
                Phase::Active(live) => prop_assert!(!live.usable_until.reached(now)),
                Phase::Retired => prop_assert_eq!(machine.wake_at(), None),
                Phase::Quarantined(_) | Phase::Revoked => prop_assert!(restrained),
                Phase::Provisioning | Phase::Expired(_) => {
                    prop_assert!(in_flight || machine.wake_at().is_some(), "stuck");
                }
            }
        }
    }
}
