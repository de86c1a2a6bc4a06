//! `check --policy`: the access requests of a config, judged by its rules as `run` would judge them on a new installation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::approval::{Case, State};
use crate::access::register::Register;
use crate::app;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;

/// What the rules say.
pub struct Verdict {
    register: Register,
    refused: BTreeMap<PathBuf, String>,
    now: Duration,
}

impl Verdict {
    pub fn of(config: &Config) -> Self {
        let now = SystemClock.now().wall;
        let (register, refused) = app::judge(config, now);
        Self { register, refused, now }
    }

    /// A line for each token, for people.
    pub fn lines(&self) -> Vec<String> {
        self.cases().into_iter().map(line).collect()
    }

    /// Why the config would not work as it is.
    pub fn problems(&self) -> Vec<String> {
        let undecided = self.cases().into_iter().filter(|case| !self.passes(case));
        let refused = self.refused.iter().map(|(file, why)| format!("signed grant {}: {why}", file.display()));
        undecided.map(line).chain(refused).collect()
    }

    /// One that has ended was granted once, and is warned of already.
    fn passes(&self, case: &Case) -> bool {
        case.is_granted() || case.request.until.end(self.now).is_some_and(|end| end <= self.now)
    }

    fn cases(&self) -> Vec<&Case> {
        let mut cases: Vec<&Case> = self.register.cases().map(|(_, case)| case).collect();
        cases.sort_by_key(|case| &case.request.token);
        cases
    }
}

fn line(case: &Case) -> String {
    let (token, by, id) = (&case.request.token, &case.judgement.by, case.digest.id());
    let outcome = match &case.state {
        State::Granted { by, .. } => format!("is approved by {by}"),
        State::Pending => {
            let (given, quorum) = (case.approvals.len(), case.quorum());
            let role = quorum.role;
            format!("needs approval, {given} of {} given (role {role}), because of {by}", quorum.required)
        }
        State::Denied { .. } => format!("is denied by {by}"),
        State::Ended { cause, .. } => format!("is {}", cause.as_str()),
    };
    format!("token {token} {outcome}; request {id}, digest {}; risk {}", case.digest, case.risk)
}
