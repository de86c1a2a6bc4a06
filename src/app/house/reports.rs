//! What operators are told of the use of tokens, and the review of it.

use std::sync::Arc;
use std::time::Duration;

use super::House;
use crate::admin::reports::Reports;
use crate::admin::{NotDone, Pending};
use crate::name::OperatorName;
use crate::policy::rule::Allow;
use crate::review::{Facts, Life, Reach, Report};
use crate::route::Table;
use crate::token::{NEVER, State, Token};

/// Between two looks at how tokens stand, and after how many of them the books are kept.
const LOOK: Duration = Duration::from_secs(5);
const LOOKS_A_MINUTE: u32 = 12;

/// How long the end waits for the books.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

impl House {
    /// Looks after the books and the schedule of reviews, for ever.
    pub(in crate::app) async fn review(&self) {
        let mut tick = tokio::time::interval(LOOK);
        for look in 1_u32.. {
            tick.tick().await;
            self.ground.review.look(self.facts());
            if look % LOOKS_A_MINUTE == 0 {
                self.ground.review.keep().await;
            }
        }
    }

    /// Requests have ended: keeps the rest.
    pub(in crate::app) async fn keep_books(&self) {
        if tokio::time::timeout(KEEP_WITHIN, self.ground.review.keep()).await.is_err() {
            tracing::warn!("the disk is slow: what tokens were used for in the last minute may be lost");
        }
    }

    fn facts(&self) -> Vec<Facts> {
        let table = self.tables.load_full();
        self.tokens().values().map(|token| self.facts_of(token, &table)).collect()
    }

    fn facts_of(&self, token: &Token, table: &Arc<Table>) -> Facts {
        let (settings, look) = (&token.settings, token.look(self.ground.clock.now()));
        let routes = table.routes().iter();
        let carrying = routes.filter(|route| route.token.as_ref().is_some_and(|own| own.name == settings.name));
        Facts {
            name: settings.name.clone(),
            owner: settings.owner.clone(),
            reason: settings.reason.clone(),
            scopes: settings.scopes.clone(),
            state: look.state.as_str(),
            is_active: look.state == State::Active,
            source: token.source_kind(),
            is_static: !token.source().mints(),
            known_since: self.ground.review.known_since(&settings.name),
            grant_ends: (settings.grant_ends != NEVER).then_some(settings.grant_ends),
            generation: look.generation.map(|generation| Life {
                number: generation.number,
                issued: generation.issued.wall,
                expires: generation.expires.wall,
            }),
            max_life: settings.rotation.max_life,
            ghosts: self.ghosts.of(&settings.name),
            routes: carrying
                .map(|route| Reach {
                    name: route.name.clone(),
                    allow: match route.allow() {
                        Allow::Any => None,
                        Allow::These(rules) => Some(rules.iter().map(ToString::to_string).collect()),
                    },
                })
                .collect(),
        }
    }
}

impl Reports for House {
    fn report(&self) -> Report {
        self.ground.review.report(&self.facts())
    }

    fn reviewed(&self, by: OperatorName, reason: String) -> Pending<'_, Result<(), NotDone>> {
        Box::pin(async { Ok(self.ground.review.reviewed(by, reason).await?) })
    }
}
