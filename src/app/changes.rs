//! What services announce of their own end, told to people: each date once.
//!
//! ```text
//!  answers of upstreams and issuers ─▶ Announcements ─▶ trail, log, metric, alert ─▶ sealed state
//!                         not heard for 30 days, or not in the config ─▶ forgotten, and the alert is over
//! ```
//!
//! Invariant: whatever a service says, and however often, it is told once an hour at most; and a restart tells nothing again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::house::House;
use super::keep::{Keeping, OpenError};
use crate::alert::{Alert, Severity};
use crate::announced::{Announcement, Announcements, Party, When};
use crate::audit::{Event, time_text};
use crate::metrics::Metrics;
use crate::store::{Record, Store};
use crate::tasks::{Task, Tasks};

/// As the store knows it: one record.
const KIND: &str = "change";
const NAME: &str = "announced";

/// How the keys of these alerts begin.
const KEYS: &str = "change/";

/// How often it is looked whether something is over, or near.
const LOOK: Duration = Duration::from_secs(10);

/// How soon after one announcement another one of the same party is told.
const BETWEEN: Duration = Duration::from_secs(3600);

/// A party that has not announced anything for so long does not any more.
const FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);

/// How long ahead of an end it is grave.
const NEAR: Duration = Duration::from_secs(30 * 86_400);

/// What was told. Its task alone has it.
pub(super) struct Changes {
    announcements: Arc<Announcements>,
    keeping: Keeping,
    figure: IntGaugeVec,
    known: BTreeMap<Party, Known>,
    /// What is not told yet.
    waiting: BTreeMap<Party, Announcement>,
    is_changed: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Known {
    party: Party,
    announcement: Announcement,
    /// When it was told, and when its party was last heard; since the Unix epoch.
    told: Duration,
    heard: Duration,
}

impl Changes {
    /// Takes up what was told before. Blocks.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(announcements: Arc<Announcements>, store: Arc<Store>, metrics: &Metrics) -> Result<Self, OpenError> {
        let figure = metrics.gauges(
            "service_change_timestamp_seconds",
            "From when on a service, the upstream of a route or an issuer by its URL, is no longer to be used (deprecation) or \
             does not answer any more (sunset), as it announces, as Unix time; 0 where it does not say when.",
            &["route", "issuer", "change"],
        )?;
        let (records, _) = store.read(KIND)?;
        let all = |Record { content, .. }: Record| serde_json::from_slice::<Vec<Known>>(&content).unwrap_or_default();
        let known: BTreeMap<Party, Known> =
            records.into_iter().flat_map(all).map(|known| (known.party.clone(), known)).collect();
        let waiting = BTreeMap::new();
        let keeping = Keeping::new(store, KIND);
        let changes = Self { announcements, keeping, figure, known, waiting, is_changed: false };
        changes.known.values().for_each(|known| changes.count(known));
        Ok(changes)
    }

    /// Tells what comes, for ever.
    pub fn watch(mut self, tasks: &Tasks, house: Arc<House>) -> Task {
        tasks.essential("changes", async move {
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let announcements = self.announcements.clone();
            loop {
                tokio::select! {
                    () = announcements.arrived() => {}
                    _ = tick.tick() => self.look(&house),
                }
                self.waiting.extend(announcements.take());
                self.tell_all(&house);
                self.keep().await;
            }
        })
    }

    fn tell_all(&mut self, house: &House) {
        let now = house.ground.clock.now().wall;
        for (party, announcement) in std::mem::take(&mut self.waiting) {
            let before = self.known.get(&party);
            if before.is_some_and(|known| known.announcement.is_of_the_same_dates(&announcement)) {
                continue;
            }
            if before.is_some_and(|known| now < known.told + BETWEEN) {
                self.waiting.insert(party, announcement);
                continue;
            }
            self.forget(&party);
            let known = Known { party: party.clone(), announcement, told: now, heard: now };
            self.count(&known);
            known.tell(house);
            self.known.insert(party, known);
            self.is_changed = true;
        }
    }

    /// Has alerts follow what is known: they get graver, and end.
    fn look(&mut self, house: &House) {
        let now = house.ground.clock.now().wall;
        let table = house.table();
        for known in self.known.values_mut() {
            if self.announcements.was_heard(&known.party) {
                // What a restart may forget of that is a day.
                self.is_changed |= now > known.heard + Duration::from_secs(86_400);
                known.heard = now;
            }
        }
        let is_gone = |known: &Known| {
            let has_route = match &known.party {
                Party::Route(route) => table.routes().iter().any(|own| own.name == *route),
                Party::Issuer(_) => true,
            };
            !has_route || now >= known.heard + FORGOTTEN
        };
        let gone: Vec<Party> =
            self.known.values().filter(|known| is_gone(known)).map(|known| known.party.clone()).collect();
        for party in gone {
            tracing::info!(service = %party, "the service does not announce its end any more");
            self.forget(&party);
        }
        self.known.values().for_each(|known| known.alert(house, now));
        let held: Vec<String> = self.known.values().map(Known::key).collect();
        let alerts = &house.ground.alerts;
        alerts.open_below(KEYS).iter().filter(|key| !held.contains(key)).for_each(|key| alerts.over(key));
    }

    fn forget(&mut self, party: &Party) {
        if let Some(known) = self.known.remove(party) {
            self.is_changed = true;
            for (change, _) in known.announcement.changes() {
                // A family that never had the series says so.
                let _ = self.figure.remove_label_values(&known.labels(change));
            }
        }
    }

    fn count(&self, known: &Known) {
        for (change, when) in known.announcement.changes() {
            let at = when.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
            self.figure.with_label_values(&known.labels(change)).set(at);
        }
    }

    async fn keep(&mut self) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        let all: Vec<&Known> = self.known.values().collect();
        if let Err(error) = self.keeping.keep(NAME, (!all.is_empty()).then_some(&all)).await {
            tracing::warn!(%error, "what services announce is not kept: a restart would tell it again");
            self.is_changed = true;
        }
    }
}

impl Known {
    fn tell(&self, house: &House) {
        for (change, at) in self.announcement.changes() {
            let (service, date) = (&self.party, at.map(time_text));
            let link = self.announcement.link.clone();
            tracing::warn!(%service, change, date, link, "a service announces its end");
            house.ground.recorder.note(match &self.party {
                Party::Route(route) => Event::UpstreamChange { route: route.clone(), change, at, link },
                Party::Issuer(issuer) => Event::IssuerChange { issuer: issuer.clone(), change, at, link },
            });
        }
        self.alert(house, self.told);
    }

    fn alert(&self, house: &House, now: Duration) {
        let Announcement { deprecation, sunset, link } = &self.announcement;
        let severity = match sunset {
            Some(When::At(end)) if *end <= now + NEAR => Severity::High,
            Some(_) => Severity::Medium,
            None => Severity::Low,
        };
        let (service, route) = match &self.party {
            Party::Route(route) => (format!("The API of route {route}"), Some(route.clone())),
            Party::Issuer(url) => (url.clone(), None),
        };
        let at = |when: &When| match when {
            When::At(at) => format!(" from {} on", time_text(*at)),
            When::Undated => String::new(),
        };
        let said = [
            sunset.as_ref().map(|when| format!("it does not answer any more{}", at(when))),
            deprecation.as_ref().map(|when| format!("it is not to be used any more{}", at(when))),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let link = link.as_ref().map(|link| format!(" Read {link}.")).unwrap_or_default();
        house.ground.alerts.raise(Alert {
            key: self.key(),
            name: "CountersignServiceEnding".to_owned(),
            severity,
            token: None,
            route,
            client: None,
            summary: format!("{service} announces its end"),
            description: format!("Its answers say: {}.{link} Move what uses it before that.", said.join("; ")),
            started: self.told,
        });
    }

    fn key(&self) -> String {
        match &self.party {
            Party::Route(route) => format!("{KEYS}route/{route}"),
            Party::Issuer(url) => format!("{KEYS}issuer/{url}"),
        }
    }

    fn labels<'k>(&'k self, change: &'static str) -> [&'k str; 3] {
        match &self.party {
            Party::Route(route) => [route.as_str(), "", change],
            Party::Issuer(url) => ["", url, change],
        }
    }
}

impl Announcement {
    /// Each by its name, and when.
    fn changes(&self) -> impl Iterator<Item = (&'static str, Option<Duration>)> {
        let at = |when: When| match when {
            When::At(at) => Some(at),
            When::Undated => None,
        };
        let both = [("deprecation", self.deprecation), ("sunset", self.sunset)];
        both.into_iter().filter_map(move |(change, when)| Some((change, at(when?))))
    }

    fn is_of_the_same_dates(&self, other: &Self) -> bool {
        (self.deprecation, self.sunset) == (other.deprecation, other.sunset)
    }
}
