//! What one token was used for on one route: by which client, with which method, for paths of which template, under which
//! allow rule, when first and when last.

use serde::{Deserialize, Serialize};

use super::template::{Learned, Templates};
use crate::name::ClientName;
use crate::usage::{RuleMark, Use};

/// See the module.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct Book {
    templates: Templates<Ways>,
    #[serde(default)]
    pub spans: Spans,
}

/// In how many ways a template was used.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
struct Ways(Vec<Way>);

/// One of them. Times are seconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Way {
    pub client: ClientName,
    pub method: String,
    /// `None` where anything passed.
    pub rule: Option<RuleMark>,
    pub uses: u64,
    /// Of these, how many had an answer that is no error.
    pub ok: u64,
    pub first: u64,
    pub last: u64,
}

/// For how long generations are used, from the first request that carries one to the last.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Spans {
    /// The generation in use: its number, first and last use.
    #[serde(skip)]
    current: Option<(u64, u64, u64)>,
    pub generations: u64,
    pub longest: u64,
}

impl Book {
    /// Writes a use down. One whose path is not known was refused before it got anywhere.
    pub fn note(&mut self, used: &Use<'_>) {
        let at = used.at.as_secs();
        if let Some(generation) = used.generation {
            self.spans.note(generation, at);
        }
        if !used.path.is_empty() {
            self.templates.learn(used.path, |ways| ways.note(used, at));
        }
    }

    /// Each way, with its template.
    pub fn ways(&self) -> impl Iterator<Item = (String, &Way)> {
        let all = self.templates.all().into_iter();
        all.flat_map(|(template, ways)| ways.0.iter().map(move |way| (template.clone(), way)))
    }

    pub fn last(&self) -> Option<u64> {
        self.ways().map(|(_, way)| way.last).max()
    }

    /// Forgets what was last done before then.
    pub fn forget(&mut self, before: u64) {
        self.templates.retain(&mut |ways| {
            ways.0.retain(|way| way.last >= before);
            !ways.0.is_empty()
        });
    }
}

impl Ways {
    fn note(&mut self, used: &Use<'_>, at: u64) {
        let ok = u64::from(used.outcome == "ok");
        let known = |way: &&mut Way| {
            way.rule == used.rule && way.method == used.method && way.client.as_str() == used.client.as_str()
        };
        match self.0.iter_mut().find(known) {
            Some(way) => {
                way.uses += 1;
                way.ok += ok;
                way.first = way.first.min(at);
                way.last = way.last.max(at);
            }
            None => self.0.push(Way {
                client: used.client.clone(),
                method: used.method.to_owned(),
                rule: used.rule,
                uses: 1,
                ok,
                first: at,
                last: at,
            }),
        }
    }
}

impl Learned for Ways {
    fn absorb(&mut self, other: Self) {
        for way in other.0 {
            let same = |own: &&mut Way| own.rule == way.rule && own.method == way.method && own.client == way.client;
            match self.0.iter_mut().find(same) {
                Some(own) => {
                    own.uses += way.uses;
                    own.ok += way.ok;
                    own.first = own.first.min(way.first);
                    own.last = own.last.max(way.last);
                }
                None => self.0.push(way),
            }
        }
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

impl Spans {
    #[cfg(test)]
    pub fn seen(generations: u64, longest: u64) -> Self {
        Self { current: None, generations, longest }
    }

    fn note(&mut self, generation: u64, at: u64) {
        match &mut self.current {
            Some((number, first, last)) if *number == generation => {
                (*first, *last) = ((*first).min(at), (*last).max(at));
                self.longest = self.longest.max(*last - *first);
            }
            // A request that carries the one before may end later than the first that carries the next.
            Some((number, ..)) if *number > generation && *number - generation == 1 => {}
            _ => {
                self.current = Some((generation, at, at));
                self.generations += 1;
            }
        }
    }
}
