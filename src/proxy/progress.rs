//! Waiting that has no end as long as something moves.

use std::pin::Pin;
use std::time::Duration;

use super::rounds::{ROUND, Rounds, SHORT};

/// How often it is looked for, at least.
const LOOK: Duration = Duration::from_secs(10);

/// Waits for `work`; `None` when `progress` has stood still for as long as `idle`, or a round more.
pub async fn while_there_is_progress<T>(
    rounds: &Rounds,
    mut work: Pin<&mut impl Future<Output = T>>,
    idle: Duration,
    mut progress: impl FnMut() -> u64,
) -> Option<T> {
    // The round in which the first look begins may be nearly over.
    let idle = if idle < SHORT { idle } else { idle.saturating_add(ROUND) };
    let (mut seen, mut still) = (progress(), Duration::ZERO);
    loop {
        let look = LOOK.min(idle.saturating_sub(still));
        if let Some(done) = rounds.within(look, work.as_mut()).await {
            return Some(done);
        }
        let now = progress();
        still = if now == seen { still + look } else { Duration::ZERO };
        seen = now;
        if still >= idle {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    /// Waits while the rounds go on, and says how long in seconds.
    async fn waited(waiting: impl AsyncFnOnce(&Rounds)) -> u64 {
        let (rounds, before) = (Rounds::default(), tokio::time::Instant::now());
        let turns = async {
            let mut interval = tokio::time::interval(ROUND);
            loop {
                interval.tick().await;
                rounds.turn();
            }
        };
        tokio::select! {
            () = waiting(&rounds) => before.elapsed().as_secs(),
            () = turns => unreachable!("they have no end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_lasts_as_long_as_anything_moves() {
        let said = Cell::new(0);
        let work = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                said.set(said.get() + 1);
            }
            std::future::pending::<()>().await;
        };
        let waited = waited(async |rounds| {
            let idle = Duration::from_secs(10);
            assert!(while_there_is_progress(rounds, pin!(work), idle, || said.get()).await.is_none());
        });
        let waited = waited.await;
        assert!((40..=62).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_now_and_then_and_rests_for_no_longer_than_it_may() {
        let looks = Cell::new(0);
        let progress = || {
            looks.set(looks.get() + 1);
            7
        };
        let waited = waited(async |rounds| {
            let never = pin!(std::future::pending::<()>());
            assert!(while_there_is_progress(rounds, never, Duration::from_secs(34), progress).await.is_none());
        });
        let waited = waited.await;
        assert!((34..=35).contains(&waited), "{waited}");
        assert_eq!(looks.get(), 5);
    }
}
