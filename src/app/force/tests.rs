use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::access::approval::{COUNTS_FOR, Voter};
use crate::access::register::{Step as Told, What};
use crate::access::rule::{Decision, Policy, Quorum, Role};
use crate::access::submission::Wish;
use crate::config::Environment;

const NOW: Duration = Duration::from_secs(1_799_000_000);

/// What a config says of the token that is edited, and of its route.
#[derive(Clone, Copy)]
struct Written {
    owner: &'static str,
    scopes: &'static str,
    hosts: &'static str,
    ends: &'static str,
    secret: &'static str,
    upstream: &'static str,
    allow: &'static str,
    route: &'static str,
}

const FIRST: Written = Written {
    owner: "team@example.com",
    scopes: r#"["read"]"#,
    hosts: r#"["api.example.com"]"#,
    ends: r#"expires = "2027-06-30""#,
    secret: "env:FIRST",
    upstream: "https://api.example.com",
    allow: r#"["GET /x/**"]"#,
    route: r#"clients = ["app"]"#,
};

/// The first one, and edits of it.
static CONFIGS: LazyLock<Vec<Config>> = LazyLock::new(|| {
    let edits = [
        FIRST,
        Written { scopes: r#"["read", "admin"]"#, ..FIRST },
        Written { owner: "others@example.com", allow: r#"["GET /x/**", "POST /x/**"]"#, ..FIRST },
        Written { secret: "env:SECOND", ..FIRST },
        Written { secret: "env:SECOND", scopes: r#"["read", "admin"]"#, ..FIRST },
        Written { hosts: r#"["api.example.com", "b.example.com"]"#, upstream: "https://b.example.com", ..FIRST },
        Written { ends: "permanent = true", allow: r#""any""#, ..FIRST },
        Written { route: r#"mode = "observe""#, ..FIRST },
    ];
    edits.iter().map(config).collect()
});

fn config(written: &Written) -> Config {
    let Written { owner, scopes, hosts, ends, secret, upstream, allow, route } = written;
    let text = format!(
        r#"
[[client]]
name = "app"
uid = 1000
[[client]]
name = "second"
uid = 1001
[[token]]
name = "edited"
owner = "{owner}"
reason = "the tests need it"
scopes = {scopes}
scopes_on_request = ["write"]
{ends}
hosts = {hosts}
source = {{ kind = "client_credentials", token_url = "https://issuer.example/token", client_id = "ci", client_secret = "{secret}" }}
[[token]]
name = "other"
owner = "team@example.com"
reason = "the tests need it"
scopes = ["other"]
expires = "2027-06-30"
hosts = ["c.example.com"]
source = {{ kind = "client_credentials", token_url = "https://issuer.example/token", client_id = "other", client_secret = "env:OTHER" }}
[[route]]
name = "edited"
upstream = "{upstream}"
token = "edited"
allow = {allow}
{route}
[[route]]
name = "other"
upstream = "https://c.example.com"
token = "other"
allow = ["GET /**"]
"#
    );
    let environment = Environment { home: Some("/home/you".into()), ..Environment::default() };
    Config::parse(&text, "test.toml", Path::new("/"), &environment).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Those who may approve something, each with its groups.
const PEOPLE: [(&str, &str); 4] =
    [("alice", "security"), ("carol", "security"), ("bob", "friends"), ("owner", "team@example.com")];

/// Who submits.
const REQUESTER: &str = "bob";

#[derive(Clone, Debug)]
enum Step {
    /// The config is edited.
    Ask(usize),
    Approve {
        case: usize,
        who: usize,
        signed: bool,
    },
    Deny {
        case: usize,
    },
    Submit {
        wider: bool,
    },
    /// The rules are others from now on.
    JudgeAgain {
        required: u32,
        denies: bool,
    },
    Pass {
        hours: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..CONFIGS.len()).prop_map(Step::Ask),
        5 => (0..20usize, 0..PEOPLE.len(), any::<bool>())
            .prop_map(|(case, who, signed)| Step::Approve { case, who, signed }),
        1 => (0..20usize).prop_map(|case| Step::Deny { case }),
        2 => any::<bool>().prop_map(|wider| Step::Submit { wider }),
        1 => (1..3u32, 0..8u8).prop_map(|(required, denies)| Step::JudgeAgain { required, denies: denies == 0 }),
        1 => (1..80u64).prop_map(|hours| Step::Pass { hours }),
    ];
    proptest::collection::vec(step, 1..50)
}

/// The desk without its disk, beside what the outside knows of it.
struct World {
    register: Register,
    config: &'static Config,
    sources: Sources,
    policy: Policy,
    now: Duration,
    nonce: u32,
    /// Who has approved what, and when, since it was last asked.
    approved: BTreeMap<RequestId, Vec<(&'static str, Duration)>>,
    /// By how many people it has to be.
    needs: BTreeMap<RequestId, u32>,
}

fn policy(required: u32, denies: bool) -> Policy {
    let quorum = Quorum { required: required.try_into().expect("not zero"), role: Role::Approver };
    let default = if denies { Decision::Deny } else { Decision::Ask(quorum) };
    Policy { rules: Vec::new(), default: Some(default), quorum }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            register: Register::default(),
            config: &CONFIGS[0],
            sources: Sources::new(),
            policy: policy(1, false),
            now: NOW,
            nonce: 0,
            approved: BTreeMap::new(),
            needs: BTreeMap::new(),
        };
        world.ask();
        world
    }

    fn take(&mut self, step: &Step) {
        let ids: Vec<RequestId> = self.register.cases().map(|(id, _)| id).collect();
        match *step {
            Step::Ask(config) => {
                self.config = &CONFIGS[config];
                self.ask();
            }
            Step::Approve { case, who, signed } => self.approve(ids[case % ids.len()], who, signed),
            Step::Deny { case } => {
                let guard = Voter { name: "guard", groups: &[], role: None, may_deny: true, is_told_apart: true };
                // It may be over.
                let _ = self.register.deny(ids[case % ids.len()], &guard, "no", self.now);
            }
            Step::Submit { wider } => self.submit(wider),
            Step::JudgeAgain { required, denies } => {
                self.policy = policy(required, denies);
                self.ask();
            }
            Step::Pass { hours } => {
                self.now += Duration::from_secs(hours * 3600);
                self.register.pass(self.now);
            }
        }
        self.follow();
    }

    /// As a start or a reload asks.
    fn ask(&mut self) {
        self.register.pass(self.now);
        for request in requests(self.config) {
            self.register.ask(request, &self.policy, self.now);
        }
        let tokens = self.config.tokens.iter().map(|token| token.name.clone()).collect();
        self.register.keep_only(&tokens, self.now);
        let beyond =
            |request: &Request, is_granted| definition(self.config, &request.token)?.beyond(request, is_granted);
        self.register.judge_again(&self.policy, beyond, self.now);
        for token in &self.config.tokens {
            self.sources.extend(KnownSource::all_of(token, &self.config.terms[&token.name]));
        }
        self.follow();
        for (id, case) in self.register.cases().filter(|(_, case)| case.state == State::Pending) {
            let needs = self.needs.entry(id).or_default();
            *needs = case.quorum().required.get().max(*needs).max(self.policy.quorum.required.get());
        }
    }

    fn approve(&mut self, id: RequestId, who: usize, signed: bool) {
        let (name, group) = PEOPLE[who];
        let groups = [group.to_owned()];
        let role = Some(Role::Approver);
        let voter = Voter { name, groups: &groups, role, may_deny: true, is_told_apart: true };
        let digest = self.register.case(id).expect("a case").digest;
        let taken = if signed {
            self.register.approve_signed(digest, &voter, self.now + Duration::from_secs(86_400), self.now)
        } else {
            self.register.approve(id, &voter, digest, "yes", self.now)
        };
        let request = &self.register.case(id).expect("a case").request;
        let own = request.owner == group || (request.is_submitted() && name == REQUESTER);
        assert!(taken.is_err() || !own, "{name} has approved its own");
        if taken.is_ok() {
            self.approved.entry(id).or_default().push((name, self.now));
        }
    }

    fn submit(&mut self, wider: bool) {
        let token: TokenName = "edited".parse().expect("a name");
        let definition = definition(self.config, &token).expect("it is in the config");
        let mut scopes = definition.standing.scopes.clone();
        scopes.extend(wider.then(|| "write".to_owned()));
        let allow = if wider { vec![] } else { vec![(None, "POST /x/1".to_owned())] };
        let lasts = Duration::from_secs(3 * 86_400);
        let wish = Wish { token: token.clone(), scopes: Some(scopes), allow, lasts, reason: "a hotfix".to_owned() };
        let groups = BTreeSet::from(["friends".to_owned()]);
        let requester = Requester::Operator { groups, name: REQUESTER.to_owned() };
        let is_granted = self.register.entitlement(&token).standing.is_some();
        self.nonce += 1;
        let rule = |route: &RouteName, rule: &str| judge_rule(self.config, route, rule);
        let request =
            wish.request(requester, self.nonce.to_string(), &definition, is_granted, rule).expect("a good wish");
        let beyond = definition.beyond(&request, is_granted);
        // There may be too many that wait.
        let _ = self.register.submit(request, &self.policy, beyond, self.now);
    }

    /// Each grant that was told of has the approvals that the rules want.
    fn follow(&mut self) {
        for Told { id, what } in self.register.take_steps() {
            match what {
                What::Asked => {
                    self.approved.remove(&id);
                    self.needs.insert(id, self.policy.quorum.required.get());
                }
                What::Granted => {
                    let counts = |at: Duration| self.now < at + COUNTS_FOR;
                    let by = self.approved.get(&id).into_iter().flatten().filter(|(_, at)| counts(*at));
                    let people: BTreeSet<&str> = by.map(|(name, _)| *name).collect();
                    assert!(people.len() >= self.needs[&id] as usize, "{id} is granted by {people:?} alone");
                }
                What::Judged | What::Approved { .. } | What::Denied | What::Ended | What::Forgotten => {}
            }
        }
    }

    /// Nothing is in force that no granted request holds; how many tokens can be used.
    fn look(&self) -> usize {
        let mut usable = 0;
        let on_top = on_top(&self.register, self.now, &BTreeSet::new());
        let force = in_force(self.config, &self.register, &self.sources, &on_top);
        for token in &force.config.tokens {
            // What has ended is retired at its date.
            if !force.is_open(&token.name) || token.grant_ends <= self.now {
                continue;
            }
            let granted =
                self.register.cases().filter(|(_, case)| case.request.token == token.name && case.is_granted());
            let granted: Vec<&Request> = granted
                .filter(|(id, case)| !case.request.is_submitted() || on_top.contains(id))
                .map(|(_, case)| &case.request)
                .collect();
            assert!(force.is_granted(&token.name, &self.register) && !granted.is_empty(), "{} is open", token.name);
            let scopes: BTreeSet<String> = token.scopes.iter().cloned().collect();
            assert!(granted.iter().any(|request| request.scopes == scopes), "{scopes:?} of {}", token.name);
            let asked: BTreeSet<String> =
                token.source.clone().asked_scopes().expect("OAuth asks").iter().cloned().collect();
            assert_eq!(asked, scopes, "what the issuer of {} is asked for", token.name);
            let hosts = token.hosts.iter().map(ToString::to_string);
            for host in hosts {
                assert!(granted.iter().any(|request| request.hosts.contains(&host)), "{host} of {}", token.name);
            }
            let source = &force.config.terms[&token.name].source;
            assert!(granted.iter().any(|request| request.source.settings == *source), "the source of {}", token.name);
            for route in force.config.routes.iter().filter(|route| route.token.as_ref() == Some(&token.name)) {
                if !force.barred.contains_key(&route.name) {
                    is_held(route, &granted);
                }
            }
            usable += 1;
        }
        usable
    }
}

/// Whether all that a route lets pass stands in what is granted of it.
fn is_held(route: &route::Settings, granted: &[&Request]) {
    let now = reach(route);
    let of_route = || granted.iter().filter_map(|request| request.routes.get(&route.name));
    let holds = |what: &dyn Fn(&Reach) -> bool| of_route().any(|reach| reach.upstream == now.upstream && what(reach));
    let name = &route.name;
    match &now.allow {
        Allow::Any => assert!(holds(&|reach| reach.allow.is_any()), "anything passes {name}"),
        Allow::These(rules) => {
            for rule in rules {
                assert!(holds(&|reach| !reach.adds(rule)), "{rule} passes {name}");
            }
        }
    }
    let named = |client: &String| holds(&|reach| reach.clients.as_ref().is_none_or(|all| all.contains(client)));
    match &now.clients {
        None => assert!(holds(&|reach| reach.clients.is_none()), "all clients pass {name}"),
        Some(clients) => assert!(clients.iter().all(named), "{clients:?} pass {name}"),
    }
    assert!(!now.observe || holds(&|reach| reach.observe), "{name} only observes");
}

#[test]
fn an_old_source_asks_for_what_was_granted_and_not_for_another_edit_of_it() {
    let mut world = World::new();
    let of_edited = |world: &World| {
        let mut cases = world.register.cases();
        cases.find_map(|(id, case)| (case.request.token.as_str() == "edited").then_some(id)).expect("a case")
    };
    let id = of_edited(&world);
    world.approve(id, 0, false);
    world.follow();
    // Wider scopes of the same source, which nobody approves; then another source.
    for edit in [1, 3] {
        world.take(&Step::Ask(edit));
        assert_eq!(world.look(), 1, "it goes on");
    }
}

#[test]
fn a_token_with_nothing_but_a_grant_on_top_is_held_to_that() {
    let mut world = World::new();
    world.take(&Step::Submit { wider: true });
    let submitted = world.register.cases().find_map(|(id, case)| case.request.is_submitted().then_some(id));
    world.approve(submitted.expect("a case"), 0, false);
    world.follow();
    for edit in 0..CONFIGS.len() {
        world.take(&Step::Ask(edit));
        assert_eq!(world.look(), 1, "it goes on");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the config asks for, whoever submits, approves, signs and denies what, and however the rules change.
    #[test]
    fn nothing_is_in_force_that_no_granted_request_holds(steps in steps()) {
        let mut world = World::new();
        world.look();
        for step in &steps {
            world.take(step);
            world.look();
        }
    }
}
