//! Notices that upstreams refuse a generation which has just gone live, and has the one before take its place again.
//!
//! ```text
//!  stream of uses ─▶ Judge: answers by token, generation and client ─▶ token.control.roll_back
//! ```
//!
//! | what must be so | why |
//! |---|---|
//! | at least 5 answers 401 or 403 to the new generation, and they are half of its answers or more | one odd answer says nothing |
//! | of two clients; 10, where one client alone has used the generation before | no app decides for the others |
//! | of at least 5 answers to the generation before a tenth at most were such | what was refused before is not the rotation's doing |
//! | not half of at least 3 answers of the same host to what carried another token, or none, since the new one is live | a host in trouble refuses everything |
//!
//! Only answers that judge a request count: not 429, not 5xx, not what broke off.
//!
//! Invariant: what is remembered is bounded by the tokens, clients and hosts of the config.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::mpsc;

use super::house::House;
use crate::name::{ClientName, TokenName};
use crate::token::Refusals;
use crate::usage::{News, Reader, Use};

const LEAST: u64 = 5;
const LEAST_OF_ONE: u64 = 10;
const LEAST_OF_OTHERS: u64 = 3;

/// Roll-backs that wait to be carried out. What finds no room is asked for again with the next refusal.
const MOST_WAITING: usize = 64;

/// What has to be rolled back, on its way.
pub(super) type Verdicts = mpsc::Receiver<(TokenName, Refusals)>;

/// Reads uses, and says what has to be rolled back.
pub(super) fn eyes() -> (Box<dyn Reader>, Verdicts) {
    let (told, verdicts) = mpsc::channel(MOST_WAITING);
    (Box::new(Eyes { judge: Judge::default(), told }), verdicts)
}

impl House {
    /// Carries roll-backs out.
    pub(super) async fn roll_back(self: Arc<Self>, mut verdicts: Verdicts) {
        while let Some((name, refusals)) = verdicts.recv().await {
            if let Some(token) = self.tokens().get(&name) {
                let Refusals { generation, refused, answered, clients } = refusals;
                tracing::warn!(token = %name, generation, refused, answered, clients, "upstreams refuse a new generation");
                // One that is busy is told again with the next refusal.
                token.control.roll_back(refusals);
            }
        }
        std::future::pending::<()>().await;
    }
}

struct Eyes {
    judge: Judge,
    told: mpsc::Sender<(TokenName, Refusals)>,
}

impl Reader for Eyes {
    fn read(&mut self, news: &News<'_>) {
        let mut uses = news.uses().peekable();
        while let Some(used) = uses.next() {
            let mut count = 1;
            // Nearly all answers are good, and where there are many, many are alike.
            while is_good(used) && uses.next_if(|next| is_good(next) && next.is_alike(used)).is_some() {
                count += 1;
            }
            if let Some(verdict) = self.judge.add(used, count) {
                // Full: see `MOST_WAITING`.
                let _ = self.told.try_send(verdict);
            }
        }
    }

    fn lost(&mut self, _count: u64) {}
}

/// Answers, and how many of them were 401 or 403.
#[derive(Clone, Copy, Default, Debug)]
struct Answers {
    all: u64,
    refused: u64,
}

impl Answers {
    fn add(&mut self, count: u64, is_refusal: bool) {
        self.all += count;
        self.refused += if is_refusal { count } else { 0 };
    }

    fn without(self, some: Self) -> Self {
        Self { all: self.all.saturating_sub(some.all), refused: self.refused.saturating_sub(some.refused) }
    }

    fn mostly_refused(self) -> bool {
        self.refused * 2 >= self.all
    }

    fn hardly_refused(self) -> bool {
        self.all >= LEAST && self.refused * 10 <= self.all
    }
}

/// By host. Each use is looked up in it, and hosts are the config's: nobody chooses them to collide.
type Hosts<V> = HashMap<Box<str>, V, RandomState>;

/// The answers of a host, seen from one token.
#[derive(Clone, Copy, Default)]
struct Since {
    /// To all requests, before this generation was live.
    then: Answers,
    /// To requests with this token, since it is.
    own: Answers,
}

/// What is known of one token.
#[derive(Default)]
struct Known {
    generation: u64,
    now: Answers,
    /// Who has got answers to this generation, and who 401 or 403.
    clients: HashSet<ClientName, RandomState>,
    refused: HashSet<ClientName, RandomState>,
    hosts: Hosts<Since>,
    /// Of the last generation that upstreams took, and who used it.
    before: Answers,
    clients_before: usize,
}

impl Known {
    fn follows(&mut self, generation: u64, hosts: &Hosts<Answers>) {
        let mut next = Self { generation, before: self.before, clients_before: self.clients_before, ..Self::default() };
        if self.now.hardly_refused() {
            (next.before, next.clients_before) = (self.now, self.clients.len());
        }
        next.hosts = std::mem::take(&mut self.hosts);
        for (host, since) in &mut next.hosts {
            *since = Since { then: hosts.get(host).copied().unwrap_or_default(), ..Since::default() };
        }
        *self = next;
    }

    /// Whether upstreams refuse this generation, where a host has given so many answers that are not to requests with it.
    fn is_refused(&self, others: Answers) -> bool {
        let least = if self.refused.len() >= 2 { LEAST } else { LEAST_OF_ONE };
        let by_enough = self.refused.len() >= 2 || self.clients_before <= 1;
        let host_is_well = others.all < LEAST_OF_OTHERS || !others.mostly_refused();
        let rises = self.now.refused >= least && self.now.mostly_refused() && self.before.hardly_refused();
        rises && by_enough && host_is_well
    }
}

/// Whether it is an upstream's no to what was attached.
fn is_refusal(used: &Use<'_>) -> bool {
    used.reason.is_none() && matches!(used.status, 401 | 403)
}

/// Whether it is an upstream's yes to what was attached, whatever it says of the rest.
fn is_good(used: &Use<'_>) -> bool {
    used.reason.is_none() && (100..500).contains(&used.status) && !matches!(used.status, 401 | 403 | 429)
}

#[derive(Default)]
struct Judge {
    tokens: HashMap<TokenName, Known, RandomState>,
    hosts: Hosts<Answers>,
}

impl Judge {
    /// Takes so many uses that are alike; what they say of their generation, if upstreams refuse that.
    fn add(&mut self, used: &Use<'_>, count: u64) -> Option<(TokenName, Refusals)> {
        let is_refusal = is_refusal(used);
        if !is_refusal && !is_good(used) {
            return None;
        }
        let Some((token, generation)) = used.token.zip(used.generation) else {
            at(&mut self.hosts, used.host, Answers::default()).add(count, is_refusal);
            return None;
        };
        if !self.tokens.contains_key(token) {
            self.tokens.insert(token.clone(), Known::default());
        }
        let known = self.tokens.get_mut(token)?;
        if generation > known.generation {
            known.follows(generation, &self.hosts);
        }
        let all = at(&mut self.hosts, used.host, Answers::default());
        let since = at(&mut known.hosts, used.host, Since { then: *all, ..Since::default() });
        all.add(count, is_refusal);
        since.own.add(count, is_refusal);
        let others = all.without(since.then).without(since.own);
        if generation < known.generation {
            // It was sent before the new one was live.
            return None;
        }
        known.now.add(count, is_refusal);
        if !known.clients.contains(used.client) {
            known.clients.insert(used.client.clone());
        }
        if !is_refusal {
            return None;
        }
        if !known.refused.contains(used.client) {
            known.refused.insert(used.client.clone());
        }
        let Answers { all: answered, refused } = known.now;
        let refusals = Refusals { generation, refused, answered, clients: known.refused.len() };
        known.is_refused(others).then(|| (token.clone(), refusals))
    }
}

/// What is known of a host, whose name is copied once.
fn at<'h, V>(hosts: &'h mut Hosts<V>, host: &str, first: V) -> &'h mut V {
    if !hosts.contains_key(host) {
        hosts.insert(host.into(), first);
    }
    hosts.get_mut(host).expect("it has just been put there")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::metrics::Metrics as Registry;
    use crate::name::RouteName;
    use crate::usage::{self, Observer, UsageGuard};

    /// The judge, and names to speak to it with.
    struct World {
        judge: Judge,
        route: RouteName,
        host: &'static str,
    }

    impl World {
        fn new() -> Self {
            Self { judge: Judge::default(), route: "api".parse().expect("a name"), host: "api.example.com" }
        }

        fn answer(&mut self, token: Option<(&str, u64)>, client: &str, status: u16) -> Option<Refusals> {
            let name: Option<TokenName> = token.map(|(name, _)| name.parse().expect("a name"));
            let client: ClientName = client.parse().expect("a name");
            let used = Use {
                at: Duration::ZERO,
                route_token: None,
                shadowed: false,
                token: name.as_ref(),
                generation: token.map(|(_, generation)| generation),
                client: &client,
                route: &self.route,
                host: self.host,
                method: "GET",
                path: "/",
                rule: None,
                status,
                outcome: "ok",
                reason: None,
                request_bytes: 0,
                response_bytes: 0,
                fresh: [0; 2],
                duration: Duration::ZERO,
                complete: true,
                is_over: true,
            };
            self.judge.add(&used, 1).map(|(_, refusals)| refusals)
        }

        /// So many answers of this kind; whether the last one brings a roll-back about.
        fn answers(&mut self, count: u64, generation: u64, client: &str, status: u16) -> bool {
            let each: Vec<bool> =
                (0..count).map(|_| self.answer(Some(("t", generation)), client, status).is_some()).collect();
            each.last().copied().unwrap_or_default()
        }
    }

    /// Two clients have used the first generation without trouble.
    fn used_by_two() -> World {
        let mut world = World::new();
        world.answers(50, 1, "one", 200);
        world.answers(50, 1, "two", 200);
        world
    }

    #[test]
    fn refusals_of_two_clients_bring_the_generation_before_back() {
        for status in [401, 403] {
            let mut world = used_by_two();
            assert!(!world.answers(4, 2, "one", status));
            let refusals = world.answer(Some(("t", 2)), "two", status).expect("a roll-back");
            assert_eq!(refusals, Refusals { generation: 2, refused: 5, answered: 5, clients: 2 });
        }
    }

    #[test]
    fn many_that_are_alike_count_as_many() {
        let metrics = usage::Metrics::register(&Registry::new().expect("metrics")).expect("metrics");
        let (route, token) = ("api".parse().expect("a name"), "t".parse().expect("a name"));
        let observer = Rc::new(Observer::new(metrics.clone(), false));
        let cells = ["one", "two"].map(|client| {
            let client = client.parse().expect("a name");
            Arc::new(metrics.cell(&route, "api.example.com", &client, Some(&token)))
        });
        let answer = |client: usize, generation, status| {
            let mut guard = UsageGuard::new(&observer, &Method::GET);
            guard.of(&cells[client]);
            guard.attached(generation, SystemClock.now());
            guard.answered(status);
            guard.complete();
        };
        (0..20).for_each(|number| answer(number / 10, 1, StatusCode::OK));
        answer(1, 2, StatusCode::OK);
        (0..5).for_each(|number| answer(number % 2, 2, StatusCode::FORBIDDEN));
        observer.hand_over(SystemClock.now());
        let (eyes, mut verdicts) = eyes();
        assert!(metrics.stream().read(&SystemClock, &mut [eyes]));
        let (_, refusals) = verdicts.try_recv().expect("a roll-back");
        assert_eq!(refusals, Refusals { generation: 2, refused: 5, answered: 6, clients: 2 });
    }

    #[test]
    fn one_client_does_not_decide_for_the_others() {
        let mut world = used_by_two();
        assert!(!world.answers(1000, 2, "one", 403));
    }

    #[test]
    fn where_there_is_one_client_its_word_counts_when_it_has_said_it_more_often() {
        let mut world = World::new();
        world.answers(50, 1, "one", 200);
        assert!(!world.answers(9, 2, "one", 401));
        assert!(world.answers(1, 2, "one", 401));
    }

    #[test]
    fn a_few_refusals_among_good_answers_are_none_of_the_rotations_doing() {
        let mut world = used_by_two();
        world.answers(20, 2, "one", 200);
        assert!(!world.answers(10, 2, "one", 403) && !world.answers(9, 2, "two", 403));
    }

    #[test]
    fn what_was_refused_before_is_no_reason_and_neither_is_a_first_generation() {
        let mut world = World::new();
        world.answers(50, 1, "one", 403);
        world.answers(50, 1, "two", 200);
        assert!(!world.answers(50, 2, "one", 403) && !world.answers(50, 2, "two", 403));
        let mut world = World::new();
        assert!(!world.answers(50, 1, "one", 403) && !world.answers(50, 1, "two", 403));
    }

    #[test]
    fn a_host_that_refuses_everybody_is_no_reason() {
        for other in [None, Some(("other", 7))] {
            let mut world = used_by_two();
            world.answers(1, 2, "one", 403);
            for _ in 0..3 {
                world.answer(other, "one", 403);
            }
            assert!(!world.answers(50, 2, "one", 403) && !world.answers(50, 2, "two", 403), "{other:?}");
        }
    }

    #[test]
    fn a_host_that_refused_everybody_long_ago_hides_nothing() {
        let mut world = used_by_two();
        for _ in 0..50 {
            world.answer(None, "one", 403);
        }
        assert!(!world.answers(4, 2, "one", 403));
        assert!(world.answers(1, 2, "two", 403));
    }

    #[test]
    fn of_each_token_only_its_own_hosts_are_remembered() {
        let mut world = World::new();
        for token in ["a", "b", "c"] {
            world.host = token;
            for generation in 1..=3 {
                world.answer(Some((token, generation)), "one", 200);
            }
        }
        assert!(world.judge.tokens.values().all(|known| known.hosts.len() == 1));
    }

    #[test]
    fn answers_that_judge_nothing_do_not_count() {
        let mut world = used_by_two();
        for status in [429, 500, 503, 0] {
            assert!(!world.answers(20, 2, "one", status) && !world.answers(20, 2, "two", status));
        }
        assert!(!world.answers(4, 2, "one", 401));
        assert!(world.answers(1, 2, "two", 401), "and do not hide those that do");
    }

    #[test]
    fn what_a_401_brought_is_judged_by_the_generation_that_was_taken_last() {
        let mut world = used_by_two();
        world.answers(2, 2, "one", 401);
        world.answers(4, 3, "one", 401);
        assert!(world.answers(1, 3, "two", 401));
    }

    #[test]
    fn late_answers_to_the_generation_before_are_not_the_new_ones() {
        let mut world = used_by_two();
        world.answers(1, 2, "one", 200);
        assert!(!world.answers(20, 1, "one", 401) && !world.answers(20, 1, "two", 401));
    }
}
