//! The handle of those who may act on a token's life: the request path has none.

use tokio::sync::{mpsc, oneshot};

/// What a supervisor is told to do.
pub(super) enum Command {
    Rotate(oneshot::Sender<Result<u64, RotateError>>),
    Retire(oneshot::Sender<()>),
    StepDown,
    Restate,
}

/// Acts on one token.
#[derive(Clone)]
pub struct Control(mpsc::Sender<Command>);

/// Why a rotation did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the issuer gave no new generation: {0}")]
    Issuer(&'static str),
    #[error("the issuer gave the generation that is live already")]
    Unchanged,
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

    /// Ends this token's supervisor in favour of another one of the same name. The generation is taken out of use and wiped.
    pub async fn step_down(&self) {
        // One that is gone has stepped down.
        let _ = self.0.send(Command::StepDown).await;
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
