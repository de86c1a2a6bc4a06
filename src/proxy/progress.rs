//! Waiting that has no end as long as something moves.

use std::pin::Pin;
use std::time::Duration;

/// How often it is looked for, at least.
const LOOK: Duration = Duration::from_secs(10);

/// Waits for `work`; `None` when `progress` has stood still for as long as `idle`.
pub async fn while_there_is_progress<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    idle: Duration,
    mut progress: impl FnMut() -> u64,
) -> Option<T> {
    let (mut seen, mut still) = (progress(), Duration::ZERO);
    loop {
        let look = LOOK.min(idle.saturating_sub(still));
        if let Ok(done) = tokio::time::timeout(look, &mut work).await {
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
        let before = tokio::time::Instant::now();
        assert!(while_there_is_progress(pin!(work), Duration::from_secs(10), || said.get()).await.is_none());
        assert!((40..=60).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_now_and_then_and_rests_for_no_longer_than_it_may() {
        let looks = Cell::new(0);
        let progress = || {
            looks.set(looks.get() + 1);
            7
        };
        let before = tokio::time::Instant::now();
        let never = pin!(std::future::pending::<()>());
        assert!(while_there_is_progress(never, Duration::from_secs(34), progress).await.is_none());
        assert_eq!((before.elapsed().as_secs(), looks.get()), (34, 5));
    }
}
