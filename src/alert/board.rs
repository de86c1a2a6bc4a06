//! What is open, and what each sink is still to be told of it. Pure: the caller brings the time.
//!
//! A sink that is away while an alert begins, ends and begins again is told in the end that it has begun, once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Alert, Severity};
use crate::name::SinkName;

/// The most alerts that are open, or not told yet.
pub const MOST: usize = 1000;

/// See the module.
#[derive(Default)]
pub struct Board {
    episodes: BTreeMap<String, Episode>,
    /// Those who are told, and how grave it has to be.
    sinks: BTreeMap<SinkName, Severity>,
    /// Those who do not want to be told any more.
    left: BTreeSet<SinkName>,
    /// How many tellings there have been.
    count: u64,
    /// Keys for which there was no room, so that each is said once.
    turned_away: BTreeSet<String>,
    /// Episodes that are through, and lie on the disk still.
    gone: Vec<String>,
}

/// An alert from its beginning until every sink knows that it is over.
#[derive(Clone, Serialize, Deserialize)]
pub struct Episode {
    /// As it lies on the disk.
    pub id: String,
    alert: Alert,
    ended: Option<Duration>,
    /// What sinks are still to be told. One that is here, with nothing, knows all of it.
    waiting: BTreeMap<SinkName, VecDeque<Telling>>,
    /// How often it was written.
    #[serde(skip)]
    written: u64,
    #[serde(skip)]
    is_changed: bool,
}

/// One thing that a sink is to be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Telling {
    /// Their order.
    pub number: u64,
    /// The same however often it is tried.
    pub id: String,
    pub alert: Alert,
    /// When it was over, if that is what there is to tell.
    pub ended: Option<Duration>,
    /// When it was to be told first.
    pub since: Duration,
    #[serde(skip)]
    attempts: u32,
}

/// What became of an alert that was raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Raised {
    Begun,
    /// It is open already.
    Known,
    NoRoom {
        is_first: bool,
    },
}

impl Board {
    /// With what was open or not told before.
    pub fn restore(episodes: impl IntoIterator<Item = Episode>) -> Self {
        let episodes: BTreeMap<String, Episode> =
            episodes.into_iter().map(|episode| (episode.alert.key.clone(), episode)).collect();
        let tellings = episodes.values().flat_map(|episode| episode.waiting.values().flatten());
        let count = tellings.map(|telling| telling.number).max().unwrap_or(0);
        Self { episodes, count, ..Self::default() }
    }

    pub fn raise(&mut self, alert: Alert, now: Duration) -> Raised {
        let has_room = self.episodes.len() < MOST;
        let episode = match self.episodes.get_mut(&alert.key) {
            Some(open) if open.ended.is_none() && alert.severity <= open.alert.severity => return Raised::Known,
            Some(episode) => episode,
            None if has_room => self.episodes.entry(alert.key.clone()).or_insert_with(|| Episode::new(&alert)),
            None => {
                let is_first = self.turned_away.len() < MOST && self.turned_away.insert(alert.key);
                return Raised::NoRoom { is_first };
            }
        };
        self.turned_away.remove(&alert.key);
        let is_graver = episode.ended.is_none() || alert.severity > episode.alert.severity;
        let started = if episode.ended.is_none() { episode.alert.started } else { alert.started };
        episode.alert = Alert { started, ..alert };
        episode.ended = None;
        episode.is_changed = true;
        for (sink, least) in &self.sinks {
            if episode.alert.severity >= *least {
                episode.begin(sink, is_graver, &mut self.count, now);
            }
        }
        Raised::Begun
    }

    /// The alert, and when it ended, if it was open.
    pub fn over(&mut self, key: &str, now: Duration) -> Option<(Alert, Duration)> {
        self.turned_away.remove(key);
        let episode = self.episodes.get_mut(key).filter(|episode| episode.ended.is_none())?;
        let ended = now.max(episode.alert.started);
        let alert = episode.alert.clone();
        episode.ended = Some(ended);
        episode.is_changed = true;
        let sinks: Vec<SinkName> = episode.waiting.keys().cloned().collect();
        for sink in sinks {
            let telling = Telling::new(&alert, Some(ended), &mut self.count, now);
            episode.waiting.entry(sink).or_default().push_back(telling);
        }
        self.let_go(key);
        Some((alert, ended))
    }

    /// These sinks are told from now on, of what is as grave as this; those that are new, of what is open.
    pub fn settle(&mut self, sinks: &BTreeMap<SinkName, (Severity, bool)>, now: Duration) {
        self.left.retain(|name| sinks.get(name).is_some_and(|(_, is_new)| !is_new));
        let stays = sinks.iter().filter(|(name, _)| !self.left.contains(*name));
        let sinks: BTreeMap<&SinkName, (Severity, bool)> = stays.map(|(name, how)| (name, *how)).collect();
        for episode in self.episodes.values_mut() {
            let before = episode.waiting.len();
            episode.waiting.retain(|name, _| sinks.contains_key(name));
            episode.is_changed |= episode.waiting.len() != before;
            for (&name, &(least, is_new)) in &sinks {
                let is_told = episode.waiting.contains_key(name) && !(is_new && self.sinks.contains_key(name));
                if episode.ended.is_none() && episode.alert.severity >= least && !is_told {
                    episode.begin(name, true, &mut self.count, now);
                    episode.is_changed = true;
                }
            }
        }
        self.sinks = sinks.into_iter().map(|(name, (least, _))| (name.clone(), least)).collect();
        let keys: Vec<String> = self.episodes.keys().cloned().collect();
        keys.iter().for_each(|key| self.let_go(key));
    }

    /// A sink does not want to be told any more. How much it was not told.
    pub fn leave(&mut self, sink: &SinkName) -> u64 {
        let waiting = self.episodes.values().filter_map(|episode| episode.waiting.get(sink));
        let left_out = waiting.map(|waiting| waiting.len() as u64).sum();
        self.left.insert(sink.clone());
        let sinks = self.sinks.iter().map(|(name, least)| (name.clone(), (*least, false))).collect();
        self.settle(&sinks, Duration::ZERO);
        left_out
    }

    /// The first thing that a sink is to be told of each alert, in order.
    pub fn next<'b>(&'b self, sink: &SinkName) -> Vec<&'b Telling> {
        let first = |episode: &'b Episode| episode.waiting.get(sink)?.front();
        let mut next: Vec<&Telling> = self.episodes.values().filter_map(first).collect();
        next.sort_by_key(|telling| telling.number);
        next
    }

    /// Open alerts that a sink knows of.
    pub fn known<'b>(&'b self, sink: &'b SinkName) -> impl Iterator<Item = &'b Alert> {
        let open = self.episodes.values().filter(|episode| episode.ended.is_none());
        open.filter(|episode| episode.waiting.get(sink).is_some_and(VecDeque::is_empty)).map(|episode| &episode.alert)
    }

    /// A telling is tried. How often it has been.
    pub fn tried(&mut self, sink: &SinkName, telling: &Telling) -> u32 {
        let waiting = self.episodes.get_mut(&telling.alert.key).and_then(|episode| episode.waiting.get_mut(sink));
        let first = waiting.and_then(VecDeque::front_mut).filter(|first| first.number == telling.number);
        first.map_or(0, |first| {
            first.attempts += 1;
            first.attempts
        })
    }

    /// A telling is through: the sink knows it, or never will.
    pub fn told(&mut self, sink: &SinkName, telling: &Telling) {
        let Some(episode) = self.episodes.get_mut(&telling.alert.key) else { return };
        let Some(waiting) = episode.waiting.get_mut(sink) else { return };
        if waiting.front().is_some_and(|first| first.number == telling.number) {
            waiting.pop_front();
            episode.is_changed = true;
            self.let_go(&telling.alert.key);
        }
    }

    pub fn open_below(&self, prefix: &str) -> Vec<String> {
        let below = self.episodes.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        below.filter(|(_, episode)| episode.ended.is_none()).map(|(key, _)| key.clone()).collect()
    }

    /// How many alerts are open.
    pub fn open(&self) -> i64 {
        let open = self.episodes.values().filter(|episode| episode.ended.is_none()).count();
        i64::try_from(open).unwrap_or(i64::MAX)
    }

    /// What is to be written: episodes that changed, and the names of those that are through.
    pub fn take_changes(&mut self) -> (Vec<Episode>, Vec<String>) {
        let mut changed = Vec::new();
        for episode in self.episodes.values_mut().filter(|episode| episode.is_changed) {
            episode.is_changed = false;
            episode.written += 1;
            changed.push(episode.clone());
        }
        (changed, std::mem::take(&mut self.gone))
    }

    /// Some of that could not be written.
    pub fn give_back(&mut self, changed: &[Episode], gone: Vec<String>) {
        for episode in changed {
            if let Some(own) = self.episodes.get_mut(&episode.alert.key).filter(|own| own.id == episode.id) {
                own.is_changed = true;
            }
        }
        self.gone.extend(gone);
    }

    /// Forgets what is over and told to everybody.
    fn let_go(&mut self, key: &str) {
        let is_through =
            |episode: &Episode| episode.ended.is_some() && episode.waiting.values().all(VecDeque::is_empty);
        if self.episodes.get(key).is_some_and(is_through)
            && let Some(episode) = self.episodes.remove(key)
        {
            self.gone.push(episode.id);
        }
    }
}

impl Episode {
    fn new(alert: &Alert) -> Self {
        let (alert, waiting) = (alert.clone(), BTreeMap::new());
        Self { id: new_id(), alert, ended: None, waiting, written: 0, is_changed: true }
    }

    #[must_use]
    pub fn written_so_often(self, written: u64) -> Self {
        Self { written, ..self }
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Has a sink told that it has begun; `is_graver` or new to it, so that it is told even if it knows.
    fn begin(&mut self, sink: &SinkName, is_graver: bool, count: &mut u64, now: Duration) {
        let waiting = self.waiting.entry(sink.clone()).or_default();
        let took_back = waiting.pop_back_if(|last| last.attempts == 0 && last.ended.is_some()).is_some();
        let is_next = waiting.pop_back_if(|last| last.attempts == 0 && last.ended.is_none()).is_some();
        if is_next || is_graver || !took_back {
            waiting.push_back(Telling::new(&self.alert, None, count, now));
        }
    }
}

impl Telling {
    fn new(alert: &Alert, ended: Option<Duration>, count: &mut u64, now: Duration) -> Self {
        *count += 1;
        Self { number: *count, id: new_id(), alert: alert.clone(), ended, since: now, attempts: 0 }
    }
}

/// Random enough that no two are alike.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
