//! The leases of a role, as the vault lists them: those that nobody here has are ghosts.

use std::time::Duration;

use super::dynamic::Lease;
use crate::token::source::{Failure, Ghost, Ghosts, IsOurs};
use crate::vault::{Ask, Error, Vault, object};

/// Ghosts whose times are asked for, one call each. The others are counted.
const MOST_TOLD: usize = 32;

/// The leases below `path` that are not ours.
///
/// # Errors
/// When the vault does not tell.
pub async fn ghosts(vault: &Vault, path: &str, is_ours: &IsOurs) -> Result<Ghosts, Failure> {
    let listing = format!("sys/leases/lookup/{path}?list=true");
    let answer = match vault.ask(Ask::get(&listing)).await {
        Ok(answer) => answer,
        Err(Error::Nothing(_)) => return Ok(Ghosts::default()),
        Err(error) => return Err(error.into()),
    };
    let keys = answer.data["keys"].as_array().ok_or_else(|| Error::Malformed(listing.clone()))?;
    let ids = keys.iter().filter_map(|key| key.as_str()).filter(|key| !key.ends_with('/'));
    let mut ghosts = Ghosts::default();
    for id in ids.map(|key| format!("{path}/{key}")) {
        if is_ours(&Lease::Id(id.clone()).kept()) {
            continue;
        }
        if ghosts.told.len() == MOST_TOLD {
            ghosts.count += 1;
        } else if let Some(ghost) = told(vault, id).await? {
            ghosts.count += 1;
            ghosts.told.push(ghost);
        }
    }
    Ok(ghosts)
}

/// `None` of one that has ended meanwhile. Where the vault does not let us ask for its times, it is told without.
async fn told(vault: &Vault, id: String) -> Result<Option<Ghost>, Failure> {
    let answer = match vault.ask(Ask::post("sys/leases/lookup", &object(&[("lease_id", &id)]))).await {
        Ok(answer) => answer,
        Err(error) if error.is_ended() => return Ok(None),
        Err(error) if error.is_refusal() => return Ok(Some(Ghost { id, issued: None, expires: None })),
        Err(error) => return Err(error.into()),
    };
    let time = |name: &str| {
        let time = answer.data[name].as_str()?.parse::<jiff::Timestamp>().ok()?;
        u64::try_from(time.as_second()).ok().map(Duration::from_secs)
    };
    Ok(Some(Ghost { issued: time("issue_time"), expires: time("expire_time"), id }))
}
