//! Jobs that call the admin API: known by the same token, and by the same rules, as when they send requests.

use std::borrow::Cow;

use super::House;
use crate::admin::Bearer;
use crate::identity::job::Refused;
use crate::identity::{Peer, Proof};
use crate::operator::{Job, Operator};

impl House {
    pub(super) async fn job_of(&self, token: &[u8], peer: &Peer) -> Bearer {
        let table = self.tables.load_full();
        let Some(jobs) = &table.jobs else { return Bearer::OfAKey };
        let Some(shown) = jobs.meant(Cow::Borrowed(token)) else { return Bearer::OfAKey };
        let known = jobs.verify(&shown, table.acquire_timeout).await.and_then(|job| {
            let client = table
                .clients
                .identify(peer, Proof { job: Some(&job), ..Proof::default() })
                .map_err(|_| Refused::Subject)?;
            let (subject, ends) = (job.subject.clone(), job.ends.wall);
            Ok(Operator::of_job(table.clients.name(client), Job { subject, ends }))
        });
        match known {
            Ok(operator) => Bearer::Job(operator),
            Err(why) => {
                jobs.office().refused(why, peer.uid);
                Bearer::Nobody
            }
        }
    }
}
