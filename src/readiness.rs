//! Ready when everything that readiness waits for says so: each required token's slot, and that nothing drains.
//!
//! It is asked, not told: a token that expires takes the proxy out of ready at that moment, without any timer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

/// One thing that readiness waits for.
pub struct Condition {
    /// As `/readyz?verbose` names it.
    pub name: String,
    pub holds: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Whether requests will be served.
#[derive(Default)]
pub struct Readiness {
    conditions: ArcSwap<Vec<Condition>>,
    draining: AtomicBool,
    has_been_ready: AtomicBool,
}

impl Readiness {
    /// What to wait for from now on. Before the first call nothing is ready.
    pub fn wait_for(&self, mut conditions: Vec<Condition>) {
        conditions.push(Condition { name: "started".into(), holds: Box::new(|| true) });
        self.conditions.store(conditions.into());
    }

    /// Never ready again.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        let conditions = self.conditions.load();
        let ready = !self.draining.load(Ordering::Acquire)
            && !conditions.is_empty()
            && conditions.iter().all(|condition| (condition.holds)());
        if ready {
            self.has_been_ready.store(true, Ordering::Release);
        }
        ready
    }

    /// What it waits for, by name.
    pub fn missing(&self) -> String {
        if self.draining.load(Ordering::Acquire) {
            return "draining".to_owned();
        }
        let conditions = self.conditions.load();
        let missing = conditions.iter().filter(|condition| !(condition.holds)());
        let names: Vec<&str> = missing.map(|condition| &*condition.name).collect();
        if conditions.is_empty() { "starting".to_owned() } else { names.join(", ") }
    }

    pub fn has_been_ready(&self) -> bool {
        self.has_been_ready.load(Ordering::Acquire) || self.is_ready()
    }
}

/// Each condition on a line, as `[+]name ok` or `[-]name not yet`.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.draining.load(Ordering::Acquire) {
            return f.write_str("[-]draining");
        }
        let conditions = self.conditions.load();
        if conditions.is_empty() {
            return f.write_str("[-]starting");
        }
        for (at, condition) in conditions.iter().enumerate() {
            let (mark, word) = if (condition.holds)() { ('+', "ok") } else { ('-', "not yet") };
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}[{mark}]{} {word}", condition.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn ready_when_every_condition_holds_and_nothing_drains() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready(), "before anything was said");
        assert_eq!(readiness.missing(), "starting");
        let token = Arc::new(AtomicBool::new(false));
        let seen = token.clone();
        let holds = Box::new(move || seen.load(Ordering::SeqCst));
        readiness.wait_for(vec![Condition { name: "token github".into(), holds }]);
        assert!(!readiness.is_ready());
        assert!(!readiness.has_been_ready());
        assert_eq!(readiness.to_string(), "[-]token github not yet\n[+]started ok");
        assert_eq!(readiness.missing(), "token github");
        token.store(true, Ordering::SeqCst);
        assert!(readiness.is_ready());
        assert_eq!(readiness.missing(), "");
        token.store(false, Ordering::SeqCst);
        assert!(!readiness.is_ready());
        assert!(readiness.has_been_ready(), "the start is over, whatever comes later");
        token.store(true, Ordering::SeqCst);
        readiness.drain();
        assert!(!readiness.is_ready());
    }
}
