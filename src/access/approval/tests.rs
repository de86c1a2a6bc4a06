use std::collections::BTreeSet;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::super::request::tests::{edits, standing};
use super::super::risk::Level;
use super::*;

const NOW: Duration = Duration::from_secs(1_799_000_000);

fn case(request: Request, decision: Decision) -> Case {
    let risk = Risk { level: Level::Low, factors: Vec::new() };
    Case::new(request, risk, Judgement { decision, by: "rule r".into() }, NOW)
}

fn ask(required: u32, role: Role) -> Decision {
    Decision::Ask(Quorum { required: NonZeroU32::new(required).expect("some"), role })
}

fn voter(name: &str) -> Voter<'_> {
    Voter { name, groups: &[], role: Some(Role::Approver), may_deny: true, is_told_apart: true }
}

fn submitted(name: &str, group: &str) -> Request {
    let requester = Requester::Operator { groups: BTreeSet::from([group.to_owned()]), name: name.into() };
    Request { nonce: Some("1".into()), requester, until: Until::For(Duration::from_secs(1800)), ..standing() }
}

#[test]
fn the_rules_decide_at_once_or_leave_it_to_people() {
    assert!(case(standing(), Decision::Approve).is_granted());
    assert_eq!(case(standing(), ask(1, Role::Approver)).state, State::Pending);
    assert!(matches!(case(standing(), Decision::Deny).state, State::Denied { .. }));
    let permanent = Request { until: Until::Permanent, ..standing() };
    assert_eq!(case(permanent, Decision::Approve).state, State::Pending, "whatever a rule said");
    let past = Request { until: Until::At(NOW), ..standing() };
    for decision in [Decision::Approve, ask(1, Role::Approver)] {
        assert_eq!(case(past.clone(), decision).state, State::Ended { cause: Ending::Expired, at: NOW });
    }
}

#[test]
fn who_may_approve_is_a_table() {
    let groups = ["team@example.com".to_owned()];
    let friends = ["friends".to_owned()];
    let plain = || standing();
    let of_bob = || submitted("bob", "friends");
    let allowed = |request: Request, voter: Voter<'_>| {
        let mut case = case(request, ask(1, Role::Approver));
        let digest = case.digest;
        case.approve(&voter, digest, "looked at it", NOW)
    };
    let alice = voter("alice");
    assert_eq!(allowed(plain(), alice), Ok(Progress::Granted));
    assert_eq!(allowed(of_bob(), alice), Ok(Progress::Granted));
    let table = [
        (plain(), Voter { role: None, ..alice }, NotAllowed::Role("alice".into(), Role::Approver)),
        (plain(), Voter { is_told_apart: false, ..alice }, NotAllowed::NotToldApart("alice".into())),
        (plain(), Voter { groups: &groups, ..alice }, NotAllowed::Group("alice".into(), groups[0].clone())),
        (plain(), voter("team@example.com"), NotAllowed::Own("team@example.com".into())),
        (of_bob(), voter("bob"), NotAllowed::Own("bob".into())),
        (of_bob(), Voter { groups: &friends, ..alice }, NotAllowed::Group("alice".into(), friends[0].clone())),
    ];
    for (request, voter, expected) in table {
        let admin = Voter { role: voter.role.map(|_| Role::Admin), ..voter };
        assert_eq!(allowed(request.clone(), voter), Err(expected.clone()));
        assert_eq!(allowed(request, admin), Err(expected), "not even an admin");
    }
    let mut for_admins = case(standing(), ask(1, Role::Admin));
    let digest = for_admins.digest;
    let refused = for_admins.approve(&alice, digest, "yes", NOW);
    assert_eq!(refused, Err(NotAllowed::Role("alice".into(), Role::Admin)));
    let admin = Voter { role: Some(Role::Admin), ..alice };
    assert_eq!(for_admins.approve(&admin, digest, " ", NOW), Err(NotAllowed::NoReason));
    assert_eq!(for_admins.approve(&admin, digest, "yes", NOW), Ok(Progress::Granted));
}

#[test]
fn an_approval_is_of_exactly_one_request() {
    for (what, edited) in edits() {
        let mut case = case(standing(), ask(1, Role::Approver));
        let refused = case.approve(&voter("alice"), edited.digest(), "yes", NOW);
        assert_eq!(refused, Err(NotAllowed::Edited(edited.digest(), case.digest)), "{what}");
        assert_eq!(case.state, State::Pending);
    }
}

#[test]
fn two_approvals_are_of_two_people_within_a_week() {
    let mut case = case(standing(), ask(2, Role::Approver));
    let digest = case.digest;
    assert_eq!(case.approve(&voter("alice"), digest, "yes", NOW), Ok(Progress::Missing(1)));
    assert_eq!(case.approve(&voter("alice"), digest, "yes", NOW), Err(NotAllowed::Twice("alice".into())));
    let later = NOW + COUNTS_FOR;
    assert_eq!(case.approve(&voter("bob"), digest, "yes", later), Ok(Progress::Missing(1)), "hers has lapsed");
    assert_eq!(case.approve(&voter("alice"), digest, "again", later), Ok(Progress::Granted));
    assert!(matches!(&case.state, State::Granted { by, .. } if by == "bob, alice"));
    assert!(matches!(case.approve(&voter("carol"), digest, "yes", later), Err(NotAllowed::Decided(_))), "used up");
}

#[test]
fn a_grant_ends_at_its_date_and_an_approval_does_not_bring_it_back() {
    let mut case = case(submitted("bob", "b"), ask(1, Role::Approver));
    let digest = case.digest;
    case.approve(&voter("alice"), digest, "yes", NOW).expect("counts");
    let end = NOW + Duration::from_secs(1800);
    assert_eq!(case.ends_at(), Some(end), "from its approval on");
    case.pass(end);
    assert_eq!(case.state, State::Ended { cause: Ending::Expired, at: end });
    assert!(matches!(case.approve(&voter("alice"), digest, "yes", end), Err(NotAllowed::Decided(_))));
}

#[test]
fn what_nobody_answers_ends() {
    let mut waiting = case(submitted("bob", "b"), ask(1, Role::Approver));
    waiting.pass(NOW + COUNTS_FOR);
    assert!(matches!(waiting.state, State::Ended { cause: Ending::Unanswered, .. }));
    let mut standing = case(standing(), ask(1, Role::Approver));
    standing.pass(NOW + COUNTS_FOR);
    assert_eq!(standing.state, State::Pending, "the config still asks");
}

#[test]
fn a_denial_takes_away_what_was_granted_and_the_requester_may_take_it_back() {
    let mut granted = case(submitted("bob", "b"), Decision::Approve);
    let nobody = Voter { may_deny: false, ..voter("carol") };
    assert_eq!(granted.deny(&nobody, "no", NOW), Err(NotAllowed::Role("carol".into(), Role::Approver)));
    assert_eq!(granted.deny(&voter("alice"), "", NOW), Err(NotAllowed::NoReason));
    granted.deny(&Voter { may_deny: false, ..voter("bob") }, "done early", NOW).expect("his own");
    assert!(matches!(&granted.state, State::Denied { by, .. } if by == "bob"));
    let digest = granted.digest;
    assert!(matches!(granted.approve(&voter("alice"), digest, "yes", NOW), Err(NotAllowed::Decided(_))));
}

#[test]
fn a_signed_approval_ends_the_grant_with_itself() {
    let mut case = case(standing(), ask(2, Role::Approver));
    let (digest, end) = (case.digest, NOW + Duration::from_secs(60));
    assert_eq!(case.approve_signed(&voter("alice"), digest, NOW, NOW).err(), Some(NotAllowed::Past(standing().until)));
    case.approve_signed(&voter("alice"), digest, end, NOW).expect("counts");
    case.approve(&voter("bob"), digest, "yes", NOW).expect("counts");
    assert_eq!(case.ends_at(), Some(end));
}

const NAMES: [&str; 5] = ["alice", "bob", "carol", "team@example.com", "dave"];
const GROUPS: [&str; 3] = ["team@example.com", "friends", "others"];

#[derive(Clone, Debug)]
struct Somebody {
    name: &'static str,
    groups: Vec<String>,
    role: Option<Role>,
    is_told_apart: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Approve { right: bool, signed: Option<u64> },
    Deny,
    Pass,
}

fn somebody() -> impl Strategy<Value = Somebody> {
    let groups = proptest::sample::subsequence(GROUPS.to_vec(), 0..=2);
    let role = prop_oneof![Just(None), Just(Some(Role::Approver)), Just(Some(Role::Admin))];
    (proptest::sample::select(NAMES.to_vec()), groups, role, any::<bool>()).prop_map(
        |(name, groups, role, is_told_apart)| {
            let groups = groups.into_iter().map(str::to_owned).collect();
            Somebody { name, groups, role, is_told_apart }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let signed = proptest::option::of(0u64..900_000);
    prop_oneof![
        8 => (prop::bool::weighted(0.9), signed).prop_map(|(right, signed)| Step::Approve { right, signed }),
        1 => Just(Step::Deny),
        2 => Just(Step::Pass),
    ]
}

/// Whether this is somebody whose word counts for the request, put in other words than the machine's.
fn counts(somebody: &Somebody, request: &Request, role: Role) -> bool {
    let mut theirs = vec![request.owner.clone()];
    if let Requester::Operator { groups, name } = &request.requester {
        theirs.push(name.clone());
        theirs.extend(groups.iter().cloned());
    }
    let is_one = theirs.iter().any(|name| name == somebody.name || somebody.groups.contains(name));
    let of_role = match role {
        Role::Approver => somebody.role.is_some(),
        Role::Admin => somebody.role == Some(Role::Admin),
    };
    of_role && somebody.is_told_apart && !is_one
}

proptest! {
    /// Whoever tries whatever in whatever order: what asks is granted only by enough people whose word counts.
    #[test]
    fn there_is_no_way_to_a_grant_without_the_approvals(
        standing_one in any::<bool>(),
        permanent in any::<bool>(),
        decision in prop_oneof![
            1 => Just(Decision::Approve),
            6 => (1u32..4, any::<bool>()).prop_map(|(n, admin)| ask(n, if admin { Role::Admin } else { Role::Approver })),
            1 => Just(Decision::Deny),
        ],
        steps in proptest::collection::vec((somebody(), step(), 0u64..200_000), 0..40),
    ) {
        let mut request = if standing_one { standing() } else { submitted("bob", "friends") };
        if permanent {
            request.until = Until::Permanent;
        }
        let mut case = case(request.clone(), decision);
        let quorum = case.quorum();
        // The words that were given and still count: whose, when, until when.
        let mut given: Vec<(&str, Duration)> = Vec::new();
        let mut now = NOW;
        prop_assert!(!case.is_granted() || (decision == Decision::Approve && !permanent));
        for (somebody, step, seconds) in steps {
            now += Duration::from_secs(seconds);
            let before = case.is_granted();
            let Somebody { name, groups, role, is_told_apart } = &somebody;
            let voter = Voter { name, groups, role: *role, may_deny: role.is_some(), is_told_apart: *is_told_apart };
            match step {
                Step::Approve { right, signed } => {
                    let digest = if right { case.digest } else { edits()[0].1.digest() };
                    let until = signed.map(|length| now + Duration::from_secs(length));
                    let outcome = match until {
                        Some(until) => case.approve_signed(&voter, digest, until, now),
                        None => case.approve(&voter, digest, "a reason", now),
                    };
                    given.retain(|(_, until)| now < *until);
                    if right && counts(&somebody, &request, quorum.role) && !given.iter().any(|(by, _)| by == name) {
                        given.push((*name, until.unwrap_or(now + COUNTS_FOR)));
                    } else {
                        prop_assert!(outcome.is_err(), "{name} counted");
                    }
                }
                Step::Deny => {
                    let _ = case.deny(&voter, "a reason", now);
                }
                Step::Pass => case.pass(now),
            }
            if case.is_granted() && !before {
                prop_assert!(decision != Decision::Deny);
                given.retain(|(_, until)| now < *until);
                prop_assert!(given.len() >= quorum.required.get() as usize, "{given:?} of {quorum:?}");
            }
            if let State::Granted { until: Some(end), .. } = case.state {
                case.pass(now);
                prop_assert!(now < end || !case.is_granted());
            }
        }
    }
}
