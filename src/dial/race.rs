//! Happy eyeballs (RFC 8305, section 5): an address that does not answer costs a moment and not the whole timeout.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

use super::{DialError, Stage};

/// How long an attempt is alone before the next one starts beside it (RFC 8305, section 8).
const HEAD_START: Duration = Duration::from_millis(250);

/// The first connection that any of the addresses gives. They are tried in their order: the next one starts when its turn
/// has come, or at once when another has failed. The attempts that are left are dropped, and their sockets closed.
///
/// # Errors
/// The last failure, when all have failed.
pub(super) async fn race<T, F>(addresses: &[SocketAddr], open: impl Fn(SocketAddr) -> F) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut waiting = addresses.iter();
    let mut running = Vec::with_capacity(addresses.len());
    let mut failure = DialError::Timeout(Stage::Connect);
    loop {
        running.extend(waiting.next().map(|address| Box::pin(open(*address))));
        if running.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            biased;
            ended = next(&mut running) => match ended {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => {}
        }
    }
}

/// What the first attempt that ends comes to; it runs no more.
async fn next<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].as_mut().poll(context) {
                drop(running.remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    /// What becomes of an attempt, after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Fate {
        Connects(u64),
        Refuses(u64),
        IsSilent,
    }
    use Fate::{Connects, IsSilent, Refuses};

    /// Which attempt has won, if one has; when each was started, and when all was over, in milliseconds.
    async fn run(fates: &[Fate]) -> (Option<u16>, Vec<u128>, u128) {
        let addresses: Vec<SocketAddr> = (0..).zip(fates).map(|(port, _)| ([192, 0, 2, 1], port).into()).collect();
        let (start, started) = (Instant::now(), RefCell::new(Vec::new()));
        let open = |address: SocketAddr| {
            started.borrow_mut().push(start.elapsed().as_millis());
            let fate = fates[usize::from(address.port())];
            async move {
                match fate {
                    Connects(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Ok(address.port())
                    }
                    Refuses(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Err(DialError::Refused(address))
                    }
                    IsSilent => std::future::pending().await,
                }
            }
        };
        let won = race(&addresses, open).await.ok();
        (won, started.into_inner(), start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_in_time_is_alone() {
        assert_eq!(run(&[Connects(200), Connects(0)]).await, (Some(0), vec![0], 200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second() {
        assert_eq!(run(&[IsSilent, Connects(10)]).await, (Some(1), vec![0, 250], 260));
        assert_eq!(run(&[IsSilent, IsSilent, Connects(10)]).await, (Some(2), vec![0, 250, 500], 510));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_may_still_win() {
        assert_eq!(run(&[Connects(300), Connects(100), Connects(0)]).await, (Some(0), vec![0, 250], 300));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_the_next_address_is_tried_at_once() {
        assert_eq!(run(&[Refuses(10), Refuses(5), Connects(1)]).await, (Some(2), vec![0, 10, 15], 16));
        assert_eq!(run(&[IsSilent, Refuses(10), Connects(1)]).await, (Some(2), vec![0, 250, 260], 261));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_it_is_over() {
        assert_eq!(run(&[Refuses(10), Refuses(20)]).await, (None, vec![0, 10], 30));
        assert_eq!(run(&[Refuses(400), Refuses(20)]).await, (None, vec![0, 250], 400));
        assert_eq!(run(&[]).await, (None, vec![], 0));
    }
}
