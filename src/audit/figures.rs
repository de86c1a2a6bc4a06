//! How long things take, and how long generations live: computed from the records of the trail, as they are written or from a
//! folder of them.
//!
//! ```text
//! record ─▶ Told ─▶ Figures ─▶ Measured { figure, at, took } ─┬─▶ histograms: since the start
//!                                                            └─▶ Weeks: of the trail
//! ```
//!
//! Invariant: what is shown of the time since the start and of the weeks before it is of the same records, read in the same way.
//! What the trail does not tell is not measured.

mod reading;
mod told;
mod weeks;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

pub use self::reading::Reading;
pub use self::told::Told;
use self::told::What;
pub use self::weeks::{Week, Weeks};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Figure {
    /// From an access request to its approval.
    Decision,
    /// From the approval to the first generation.
    Generation,
    /// From the first generation to the first request that its upstream accepted.
    Use,
    /// From the beginning of a misuse to what answers it: a quarantine, a revocation, a replacement, a hold on its client.
    Detect,
    /// From the quarantine or revocation of a token to a generation that may be used again; where a generation was replaced first,
    /// from the alarm until the replaced one is void at its issuer.
    Replace,
    /// From a generation's issue until it is void: at its issuer, or by its expiry.
    Lifetime,
}

impl Figure {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "time_to_decision",
            Self::Generation => "time_to_generation",
            Self::Use => "time_to_use",
            Self::Detect => "time_to_detect",
            Self::Replace => "time_to_replace",
            Self::Lifetime => "token_lifetime",
        }
    }
}

/// One figure of one thing that happened. Times are since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    pub figure: Figure,
    /// When it was over.
    pub at: Duration,
    pub took: Duration,
}

/// What has begun and is not over, as far as the records seen so far tell.
#[derive(Default)]
pub struct Figures {
    /// Access requests that are not decided, by id.
    asked: HashMap<String, Duration>,
    tokens: HashMap<String, Token>,
    /// Generations that may be good at their issuer, by token and fingerprint.
    out: BTreeMap<(String, String), Out>,
    /// None of them runs out before that.
    next_end: Duration,
}

/// What is known of one token.
#[derive(Default)]
struct Token {
    /// It was granted then, and has no generation yet.
    granted: Option<Duration>,
    /// Its first generation came then, and has not been used yet.
    provisioned: Option<Duration>,
    /// The last generation.
    live: Option<Live>,
    restrained: Option<Restrained>,
    /// The fingerprint of the generation that a drill or an answer to misuse replaces, and when that began.
    alarm: Option<(String, Duration)>,
}

struct Live {
    /// Of this process: the next one counts anew.
    number: u64,
    fingerprint: String,
    expires: Duration,
}

#[derive(Clone, Copy)]
struct Restrained {
    at: Duration,
    was_revoked: bool,
    /// Somebody has let it in again.
    is_released: bool,
}

struct Out {
    issued: Duration,
    expires: Duration,
}

/// Access requests and generations that are remembered, at most.
const MOST: usize = 8192;

impl Figures {
    /// Takes the next record, and says what it is the end of.
    pub fn see(&mut self, told: &Told) -> Vec<Measured> {
        let mut measured = self.pass(told.time);
        let at = told.time;
        let mut add = |figure, since: Duration| {
            // A clock that was set back measures nothing.
            measured.extend(at.checked_sub(since).map(|took| Measured { figure, at, took }));
        };
        match &told.what {
            // A process takes nothing over but what it is told by this trail and its state: generations are not in either.
            // Whoever shows the records knows it before.
            What::NotDone { .. } | What::AccessMeasured(_) => {}
            What::Start {} => self.tokens.values_mut().for_each(Token::start),
            What::TokenRequested { request } => {
                if self.asked.len() < MOST {
                    // One that stricter rules judge again was asked before.
                    self.asked.entry(request.clone()).or_insert(at);
                }
            }
            What::AccessGranted { request, token } => {
                if let Some(asked) = self.asked.remove(request) {
                    add(Figure::Decision, asked);
                }
                let token = self.token(token);
                if !token.has_usable(at) {
                    token.granted = Some(at);
                    token.provisioned = None;
                }
            }
            What::AccessDenied { request } | What::AccessEnded { request } => drop(self.asked.remove(request)),
            What::TokenIssued { token, generation, fingerprint, expires }
            | What::TokenRotated { token, generation, fingerprint, expires, .. } => {
                let is_by_others = matches!(&told.what, What::TokenRotated { cause, .. } if cause == "changed");
                let state = self.token(token);
                let live = Live { number: *generation, fingerprint: fingerprint.clone(), expires: *expires };
                let before = state.live.replace(live).map(|before| before.fingerprint);
                if let Some(granted) = state.granted.take() {
                    add(Figure::Generation, granted);
                    state.provisioned = Some(at);
                }
                if let Some(restrained) = state.restrained.take_if(|restrained| restrained.is_released) {
                    add(Figure::Replace, restrained.at);
                }
                if let Some(before) = before.filter(|before| is_by_others && before != fingerprint) {
                    // Whoever changed a value that is only found here has taken the old one away.
                    measured.extend(self.ends(token, &before, at));
                }
                self.goes_out(token, fingerprint, at, *expires);
            }
            What::TokenProlonged { token, expires } => self.prolonged(token, *expires),
            What::TokenRolledBack { token, generation, fingerprint, expires } => {
                let live = Live { number: *generation, fingerprint: fingerprint.clone(), expires: *expires };
                self.token(token).live = Some(live);
                self.goes_out(token, fingerprint, at, *expires);
            }
            What::TokenFirstUsed { token } => {
                if let Some(provisioned) = self.token(token).provisioned.take() {
                    add(Figure::Use, provisioned);
                }
            }
            What::TokenExpired { token, .. } | What::TokenRetired { token, .. } => {
                if let Some(live) = self.token(token).live.take() {
                    measured.extend(self.ends(token, &live.fingerprint, at));
                }
            }
            What::TokenQuarantined { token, since } | What::TokenRevoked { token, since } => {
                if let Some(since) = since {
                    add(Figure::Detect, *since);
                }
                let was_revoked = matches!(told.what, What::TokenRevoked { .. });
                let state = self.token(token);
                // What is taken away twice was taken away the first time.
                let at = state.restrained.map_or(at, |before| if before.is_released { at } else { before.at });
                state.restrained = Some(Restrained { at, was_revoked, is_released: false });
            }
            What::TokenReleased { token } => {
                let state = self.token(token);
                // The same generation once more is no replacement.
                let goes_on = state.has_usable(at);
                let keep = state.restrained.filter(|restrained| restrained.was_revoked || !goes_on);
                state.restrained = keep.map(|restrained| Restrained { is_released: true, ..restrained });
            }
            What::GenerationRevoked { token, fingerprint, outcome } => {
                let alarm = self.token(token).alarm.take_if(|(replaced, _)| replaced == fingerprint);
                if outcome == "success" || outcome == "expired" {
                    if let Some((_, since)) = alarm {
                        add(Figure::Replace, since);
                    }
                    measured.extend(self.ends(token, fingerprint, at));
                }
            }
            What::ClientHeld { since } => add(Figure::Detect, *since),
            What::DrillStarted { token, generation } | What::ReplacementStarted { token, generation, .. } => {
                if let What::ReplacementStarted { since: Some(since), .. } = &told.what {
                    add(Figure::Detect, *since);
                }
                let state = self.token(token);
                let replaced = state.live.as_ref().filter(|live| live.number == *generation);
                state.alarm = replaced.map(|live| (live.fingerprint.clone(), at));
            }
            What::DrillFinished { token, generation } | What::ReplacementFinished { token, generation } => {
                if generation.is_none() {
                    self.token(token).alarm = None;
                }
            }
        }
        measured
    }

    /// Generations that have run out by now.
    pub fn pass(&mut self, now: Duration) -> Vec<Measured> {
        let mut measured = Vec::new();
        if now < self.next_end {
            return measured;
        }
        self.out.retain(|_, out| {
            let is_over = out.expires <= now;
            if is_over {
                measured.extend(out.until(out.expires));
            }
            !is_over
        });
        self.next_end = self.out.values().map(|out| out.expires).min().unwrap_or(Duration::MAX);
        measured
    }

    fn token(&mut self, name: &str) -> &mut Token {
        self.tokens.entry(name.to_owned()).or_default()
    }

    /// A value that was found again has been out all the while.
    fn goes_out(&mut self, token: &str, fingerprint: &str, issued: Duration, expires: Duration) {
        if self.out.len() < MOST && expires > issued {
            let key = (token.to_owned(), fingerprint.to_owned());
            let out = self.out.entry(key).or_insert(Out { issued, expires });
            self.next_end = self.next_end.min(out.expires);
        }
    }

    /// The live generation ends later than was said.
    fn prolonged(&mut self, token: &str, expires: Duration) {
        let Some(live) = self.token(token).live.as_mut() else { return };
        live.expires = expires;
        let key = (token.to_owned(), live.fingerprint.clone());
        if let Some(out) = self.out.get_mut(&key) {
            out.expires = expires;
        }
    }

    fn ends(&mut self, token: &str, fingerprint: &str, at: Duration) -> Option<Measured> {
        self.out.remove(&(token.to_owned(), fingerprint.to_owned()))?.until(at)
    }
}

impl Token {
    fn has_usable(&self, now: Duration) -> bool {
        self.live.as_ref().is_some_and(|live| live.expires > now)
    }

    /// Another process has it now.
    fn start(&mut self) {
        let live = self.live.take().map(|live| live.fingerprint);
        // A drill that was cut off before it replaced anything is over.
        self.alarm.take_if(|(replaced, _)| live.as_ref() == Some(replaced));
    }
}

impl Out {
    fn until(&self, at: Duration) -> Option<Measured> {
        let took = at.checked_sub(self.issued)?;
        Some(Measured { figure: Figure::Lifetime, at, took })
    }
}

#[cfg(test)]
mod tests;
