//! Waiting that has no end as long as something moves.

use std::pin::Pin;
use std::time::Duration;

/// Waits for `work`; `None` when `progress` has stood still for as long as `idle`.
pub async fn while_there_is_progress<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    idle: Duration,
    progress: impl Fn() -> u64,
) -> Option<T> {
    let mut seen = progress();
    loop {
        match tokio::time::timeout(idle, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if progress() == seen => return None,
            Err(_) => seen = progress(),
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
}
