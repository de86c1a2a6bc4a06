//! What belongs to one cause: an anomaly that is told when it begins, again with each new fact and each other signal of a client,
//! and when it has become graver.

use crate::detect::anomaly::{Finding, Severity, Signal};
use crate::detect::baseline::{DAY, HOUR, OUT_OF_ORDER};
use crate::detect::memory::kept;

/// An anomaly that signals of the same cause still join.
pub struct Open {
    pub since: u64,
    pub severity: Severity,
    pub findings: Vec<Finding>,
}

impl Open {
    /// What goes on is one cause, but is told anew each day.
    pub fn lasts(&self, now: u64, goes_on: bool) -> bool {
        let seconds = if goes_on { DAY } else { HOUR };
        now + OUT_OF_ORDER >= self.since && now < self.since + seconds
    }

    /// What a restart need not tell again. A phantom key where it cannot be is told once more rather than not at all.
    pub fn kept(&self) -> Self {
        let findings = self.findings.iter().filter(|finding| finding.signal != Signal::Tripwire).cloned();
        Self { findings: findings.collect(), ..*self }
    }

    /// Whether something is among them that is not known yet: a fact, or the first figure of a signal of a client. Of the figures
    /// of both the gravest is kept, and of all the gravest few.
    pub fn add(&mut self, found: impl Iterator<Item = Finding>) -> bool {
        let mut fresh = Vec::new();
        for finding in found {
            let mut all = self.findings.iter_mut().chain(&mut fresh);
            match all.find(|old| finding.repeats(old) || finding.is_figure_of(old)) {
                Some(known) if finding.gravity(known).is_ge() => *known = finding,
                Some(_) => {}
                None => fresh.push(finding),
            }
        }
        let all = std::mem::take(&mut self.findings).into_iter().chain(fresh.iter().cloned());
        let (mut figures, mut facts): (Vec<Finding>, Vec<Finding>) = all.partition(|finding| !finding.is_fact);
        for (findings, most) in [(&mut figures, MOST_FIGURES), (&mut facts, MOST_FACTS)] {
            findings.sort_by(|one, other| other.gravity(one));
            findings.truncate(most);
        }
        self.findings = figures;
        self.findings.append(&mut facts);
        fresh.iter().any(|fresh| self.findings.contains(fresh))
    }
}

kept!(Open { since, severity, findings });

/// Facts of one anomaly, and figures.
pub const MOST_FACTS: usize = 16;
pub const MOST_FIGURES: usize = 64;
