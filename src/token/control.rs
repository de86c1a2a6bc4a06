//! The handle of those who may act on a token's life: the request path has none.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::lifecycle::Restraint;
use super::revocation::Cause;

/// What a supervisor is told to do.
pub(super) enum Command {
    Rotate(oneshot::Sender<Result<u64, RotateError>>),
    Retire(oneshot::Sender<()>),
    Restrain(Restraint, Order, oneshot::Sender<()>),
    Release(oneshot::Sender<Result<(), NotReleased>>),
    StepDown(Cause, oneshot::Sender<()>),
    Restate,
    RollBack(Refusals),
    ForgetFormer,
}

/// Acts on one token.
#[derive(Clone)]
pub struct Control(mpsc::Sender<Command>);

/// What upstreams say of a generation that has just taken another's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusals {
    pub generation: u64,
    /// Answers 401 and 403 to it.
    pub refused: u64,
    /// All answers to it.
    pub answered: u64,
    /// Whose requests were refused.
    pub clients: usize,
}

/// Who wants something taken away, and why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Order {
    pub by: String,
    pub reason: String,
    /// When that began for which it is taken away, since the Unix epoch; `None` where nobody says.
    pub since: Option<Duration>,
}

/// The token's grant has ended: there is nothing to take away, or to let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the token's grant has ended")]
pub struct Gone;

/// Why a token was not let in again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotReleased {
    #[error("the token is neither quarantined nor revoked, and nothing of it is held back from anybody")]
    Unrestrained,
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// Why a rotation did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the issuer gave no new generation: {0}")]
    Issuer(&'static str),
    #[error("the issuer gave the generation that is live already")]
    Unchanged,
    #[error("the token is quarantined or revoked")]
    Restrained,
    #[error("the token's grant has ended")]
    Retired,
    #[error("the token's request is not approved")]
    NotApproved,
}

/// Both ends of a token's commands.
pub(super) fn channel() -> (Control, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(16);
    (Control(sender), receiver)
}

impl Control {
    /// Asks the issuer for a new generation now, and returns its number once it is live. A call that is in flight already
    /// counts: two callers at once cause one.
    ///
    /// # Errors
    /// When the issuer gives none; the live generation stays.
    pub async fn rotate(&self) -> Result<u64, RotateError> {
        let (done, outcome) = oneshot::channel();
        self.0.send(Command::Rotate(done)).await.map_err(|_| RotateError::Retired)?;
        outcome.await.unwrap_or(Err(RotateError::Retired))
    }

    /// Takes the token out of use until it is [released](Self::release). From when this returns on, no reader of the slot
    /// gets a generation; requests that have one already are the [barrier](crate::barrier)'s.
    ///
    /// # Errors
    /// When the grant has ended.
    pub async fn restrain(&self, restraint: Restraint, order: Order) -> Result<(), Gone> {
        let (done, outcome) = oneshot::channel();
        self.0.send(Command::Restrain(restraint, order, done)).await.map_err(|_| Gone)?;
        outcome.await.map_err(|_| Gone)
    }

    /// Lets the token in again: with the generation that a quarantine kept, or with a new one.
    ///
    /// # Errors
    /// When there is nothing to let in.
    pub async fn release(&self) -> Result<(), NotReleased> {
        let (done, outcome) = oneshot::channel();
        self.0.send(Command::Release(done)).await.map_err(|_| Gone)?;
        outcome.await.map_err(|_| Gone)?
    }

    /// Has the generation before this one take its place again, where it may. Returns whether that was heard.
    pub fn roll_back(&self, refusals: Refusals) -> bool {
        self.0.try_send(Command::RollBack(refusals)).is_ok()
    }

    /// The generation before the live one does not come back, whatever upstreams say of the live one.
    pub async fn forget_former(&self) {
        // One that is gone has nothing to forget.
        let _ = self.0.send(Command::ForgetFormer).await;
    }

    /// Ends this token's supervisor in favour of another one of the same name. From when this returns on, no reader of the slot
    /// gets its generation, and the issuer is told of it as `cause` says.
    pub async fn step_down(&self, cause: Cause) {
        let (done, outcome) = oneshot::channel();
        if self.0.send(Command::StepDown(cause, done)).await.is_ok() {
            // One that is gone has stepped down.
            let _ = outcome.await;
        }
    }

    /// Has the metrics say again how this token stands, after one that was to follow it did not.
    pub async fn restate(&self) {
        // One that is gone has nothing to say.
        let _ = self.0.send(Command::Restate).await;
    }

    /// Ends the token's life here: its generation is taken out of use and wiped. Returns when it is done.
    pub async fn retire(&self) {
        let (done, outcome) = oneshot::channel();
        if self.0.send(Command::Retire(done)).await.is_ok() {
            // A supervisor that is gone has nothing left to retire.
            let _ = outcome.await;
        }
    }
}
