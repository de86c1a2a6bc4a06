use proptest::prelude::*;

use super::super::request::tests::{edits, standing};
use super::super::request::{Requester, Until};
use super::super::rule::{Decision, Quorum, Role};
use super::*;

const NOW: Duration = Duration::from_secs(1_799_000_000);

fn policy(decision: Decision) -> Policy {
    Policy { rules: Vec::new(), default: Some(decision), quorum: Quorum::default() }
}

fn asking() -> Policy {
    policy(Decision::Ask(Quorum::default()))
}

fn alice() -> Voter<'static> {
    Voter { name: "alice", groups: &[], role: Some(Role::Approver), may_deny: true, is_told_apart: true }
}

fn token() -> TokenName {
    standing().token
}

fn edited() -> Request {
    Request { reason: "reads and writes releases".into(), ..standing() }
}

fn submitted(nonce: &str) -> Request {
    let requester = Requester::Operator { groups: BTreeSet::new(), name: "bob".into() };
    Request { nonce: Some(nonce.into()), requester, until: Until::For(Duration::from_secs(60)), ..standing() }
}

fn approve(register: &mut Register, request: &Request) {
    let digest = request.digest();
    register.approve(digest.id(), &alice(), digest, "yes", NOW).expect("counts");
}

/// What happened, without whom it happened to.
fn told(register: &mut Register) -> Vec<(RequestId, &'static str)> {
    let name = |what: &What| match what {
        What::Asked => "asked",
        What::Judged => "judged",
        What::Approved { .. } => "approved",
        What::Granted => "granted",
        What::Denied => "denied",
        What::Ended => "ended",
        What::Forgotten => "forgotten",
    };
    register.take_steps().iter().map(|step| (step.id, name(&step.what))).collect()
}

#[test]
fn an_edited_request_is_a_new_one_and_the_old_grant_lives_until_it_is_decided() {
    let mut register = Register::default();
    let old = register.ask(standing(), &policy(Decision::Approve), NOW);
    assert_eq!(told(&mut register), [(old, "asked"), (old, "granted")]);
    let new = register.ask(edited(), &asking(), NOW);
    assert_eq!(told(&mut register), [(new, "asked")]);
    let entitlement = register.entitlement(&token());
    assert_eq!(entitlement.standing.expect("granted").request, standing());
    assert_eq!(entitlement.asked.expect("asked").state, State::Pending);
    approve(&mut register, &edited());
    assert_eq!(told(&mut register), [(new, "approved"), (new, "granted"), (old, "ended")]);
    assert_eq!(register.entitlement(&token()).standing.expect("granted").request, edited());
}

#[test]
fn a_denied_edit_leaves_the_old_grant_to_its_date() {
    let mut register = Register::default();
    register.ask(standing(), &policy(Decision::Approve), NOW);
    let new = register.ask(edited(), &asking(), NOW);
    register.deny(new, &alice(), "no", NOW).expect("counts");
    assert!(register.entitlement(&token()).standing.is_some());
    register.pass(Duration::from_secs(1_800_000_000));
    assert!(register.entitlement(&token()).standing.is_none());
}

#[test]
fn what_was_granted_before_is_asked_again_after_another_took_its_place() {
    let mut register = Register::default();
    let first = register.ask(standing(), &asking(), NOW);
    approve(&mut register, &standing());
    register.ask(edited(), &asking(), NOW);
    approve(&mut register, &edited());
    told(&mut register);
    assert_eq!(register.ask(standing(), &asking(), NOW), first, "the same text has the same name");
    assert_eq!(told(&mut register), [(first, "asked")], "its approval was used up");
    assert_eq!(register.entitlement(&token()).standing.expect("granted").request, edited());
}

#[test]
fn going_back_to_what_is_still_granted_asks_nobody() {
    let mut register = Register::default();
    let old = register.ask(standing(), &policy(Decision::Approve), NOW);
    let new = register.ask(edited(), &asking(), NOW);
    told(&mut register);
    assert_eq!(register.ask(standing(), &asking(), NOW), old);
    assert_eq!(told(&mut register), [(new, "ended")]);
    let refused = register.approve(new, &alice(), edited().digest(), "late", NOW);
    assert!(matches!(refused, Err(NotDecided::NotAllowed(NotAllowed::Decided(_)))));
}

#[test]
fn stricter_rules_reach_what_waits_and_others_grant_nothing() {
    let two_admins = Quorum { required: 2.try_into().expect("not zero"), role: Role::Admin };
    let mut register = Register::default();
    let own = register.ask(standing(), &asking(), NOW);
    let other = register.submit(submitted("1"), &asking(), None, NOW).expect("taken");
    told(&mut register);
    let again = |register: &mut Register, decision: Decision| {
        register.ask(standing(), &policy(decision), NOW);
        register.judge_again(&policy(decision), |_, _| None, NOW);
        told(register)
    };
    assert_eq!(again(&mut register, Decision::Approve), [], "people are asked still");
    assert_eq!(again(&mut register, Decision::Ask(Quorum::default())), []);
    let mut both = again(&mut register, Decision::Ask(two_admins));
    both.sort();
    let mut expected = [(own, "judged"), (other, "judged")];
    expected.sort();
    assert_eq!(both, expected);
    assert_eq!(again(&mut register, Decision::Ask(Quorum::default())), [], "nothing gets easier");
    let refused = register.approve(own, &alice(), standing().digest(), "yes", NOW);
    assert_eq!(refused, Err(NotDecided::NotAllowed(NotAllowed::Role("alice".into(), Role::Admin))));
    let root = Voter { role: Some(Role::Admin), ..alice() };
    let progress = register.approve(own, &root, standing().digest(), "yes", NOW);
    assert_eq!(progress, Ok(Progress::Missing(1)));
    told(&mut register);
    assert!(again(&mut register, Decision::Deny).contains(&(own, "denied")));
    assert_eq!(register.pending(), 0);
}

#[test]
fn what_less_strict_rules_made_of_it_does_not_count() {
    let with = |required: u32, role: Role| {
        policy(Decision::Ask(Quorum { required: required.try_into().expect("not zero"), role }))
    };
    let mut register = Register::default();
    let id = register.ask(standing(), &with(2, Role::Approver), NOW);
    approve(&mut register, &standing());
    register.judge_again(&with(2, Role::Admin), |_, _| None, NOW);
    let root = Voter { name: "root", role: Some(Role::Admin), ..alice() };
    let progress = register.approve(id, &root, standing().digest(), "yes", NOW);
    assert_eq!(progress, Ok(Progress::Missing(1)), "an approver's word is none of an admin");
}

#[test]
fn a_restart_asks_nobody_again() {
    let mut register = Register::default();
    register.ask(standing(), &asking(), NOW);
    approve(&mut register, &standing());
    let mut again = Register::restore(register.cases().map(|(_, case)| case.clone()));
    let id = again.ask(standing(), &asking(), NOW);
    assert_eq!((again.take_steps(), again.case(id).map(Case::is_granted)), (Vec::new(), Some(true)));
}

#[test]
fn a_token_that_left_the_config_has_no_grants() {
    let mut register = Register::default();
    let id = register.ask(standing(), &policy(Decision::Approve), NOW);
    let other = register.submit(submitted("1"), &policy(Decision::Approve), None, NOW).expect("taken");
    told(&mut register);
    register.keep_only(&BTreeSet::new(), NOW);
    let mut ended = told(&mut register);
    ended.sort();
    let mut expected = [(id, "ended"), (other, "ended")];
    expected.sort();
    assert_eq!(ended, expected);
    register.ask(standing(), &asking(), NOW);
    assert!(register.entitlement(&token()).standing.is_none(), "it is asked anew");
}

#[test]
fn submitted_grants_stand_beside_the_standing_one_and_end() {
    let mut register = Register::default();
    register.ask(standing(), &policy(Decision::Approve), NOW);
    let (one, two) = (submitted("1"), submitted("2"));
    register.submit(two.clone(), &asking(), None, NOW).expect("taken");
    register.submit(one.clone(), &asking(), None, NOW).expect("taken");
    assert_eq!((register.entitlement(&token()).submitted.len(), register.pending()), (0, 2));
    approve(&mut register, &two);
    let digest = one.digest();
    register.approve(digest.id(), &alice(), digest, "yes", NOW + Duration::from_secs(1)).expect("counts");
    let requests: Vec<&Request> = register.entitlement(&token()).submitted.iter().map(|case| &case.request).collect();
    assert_eq!(requests, [&two, &one], "in the order of their grants");
    register.pass(NOW + Duration::from_secs(60));
    assert_eq!(register.entitlement(&token()).submitted.len(), 1);
    assert!(register.entitlement(&token()).standing.is_some());
}

#[test]
fn nobody_fills_the_register() {
    let mut register = Register::default();
    for nonce in 0..MOST_WAITING {
        register.submit(submitted(&nonce.to_string()), &asking(), None, NOW).expect("taken");
    }
    let refused = register.submit(submitted("more"), &asking(), None, NOW);
    assert_eq!(refused, Err(NotTaken::Requester("bob".into())));
    for nonce in 0..2 * MOST_OVER {
        let requester = Requester::Operator { groups: BTreeSet::new(), name: "carol".into() };
        let request = Request { requester, ..submitted(&nonce.to_string()) };
        register.submit(request, &policy(Decision::Deny), None, NOW).expect("taken");
    }
    register.pass(NOW);
    assert_eq!(register.cases().count(), MOST_OVER + MOST_WAITING);
}

proptest! {
    /// Whatever the config asks for, in whatever order, and whoever approves what: a standing grant is one at a time, and
    /// of a request that was approved since it was last asked.
    #[test]
    fn no_standing_grant_is_there_without_its_own_approval(steps in proptest::collection::vec((0usize..6, 0u8..4), 1..60)) {
        let requests: Vec<Request> = edits().into_iter().map(|(_, request)| request)
            .filter(|request| request.token == token() && !request.is_submitted()).take(6).collect();
        let mut register = Register::default();
        let mut approved: BTreeSet<RequestId> = BTreeSet::new();
        for (at, what) in steps {
            let request = &requests[at];
            let digest = request.digest();
            match what {
                0 | 1 => drop(register.ask(request.clone(), &asking(), NOW)),
                2 => {
                    if register.approve(digest.id(), &alice(), digest, "yes", NOW).is_ok() {
                        approved.insert(digest.id());
                    }
                }
                _ => {
                    if register.deny(digest.id(), &alice(), "no", NOW).is_ok() {
                        approved.remove(&digest.id());
                    }
                }
            }
            for step in register.take_steps() {
                if step.what == What::Ended {
                    approved.remove(&step.id);
                }
            }
            let granted: Vec<RequestId> = register.cases().filter(|(_, case)| case.is_granted()).map(|(id, _)| id).collect();
            prop_assert!(granted.len() <= 1, "{granted:?}");
            prop_assert!(granted.iter().all(|id| approved.contains(id)), "{granted:?} of {approved:?}");
            let standing = register.entitlement(&token()).standing.map(|case| case.digest.id());
            prop_assert_eq!(standing, granted.first().copied());
        }
    }
}
