//! What keeps a token from being used before its request is approved, and after it is denied. While the gate is closed
//! nothing is asked of the issuer, nothing is published, and requests are told at once which request waits for whom.

use std::ops::ControlFlow;

use tokio::sync::{mpsc, watch};

use super::control::{Command, NotReleased, RotateError};
use super::revocation;
use super::slot::Standing;
use super::supervisor::Supervisor;
use crate::access::request::RequestId;
use crate::audit::Event;

/// Whether a token may be provisioned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    Open,
    /// The request for it waits for approval.
    Pending(RequestId),
    /// The request for it was denied.
    Denied(RequestId),
}

/// How a gate stands, as the supervisor sees it: one that was closed and opened again is not one that stayed open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub gate: Gate,
    /// How often it was closed.
    pub closings: u64,
}

impl Turn {
    pub(super) fn first(gate: Gate) -> Self {
        Self { gate, closings: 0 }
    }

    pub(super) fn next(self, gate: Gate) -> Self {
        Self { gate, closings: self.closings + u64::from(gate != Gate::Open) }
    }
}

impl Gate {
    /// What requests are told; `None` of an open gate.
    pub(super) fn standing(self) -> Option<Standing> {
        match self {
            Self::Open => None,
            Self::Pending(request) => Some(Standing::Unapproved(request)),
            Self::Denied(request) => Some(Standing::Denied(request)),
        }
    }
}

impl Supervisor {
    /// Waits until the gate is open. Breaks when the token's life ends before that.
    pub(super) async fn let_in(
        &self,
        gate: &mut watch::Receiver<Turn>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> ControlFlow<()> {
        loop {
            let now = gate.borrow_and_update().gate;
            let Some(closed) = now.standing() else { break };
            self.slot.withdraw(Some(closed));
            self.leave_cold();
            self.metrics.barred(now);
            tokio::select! {
                changed = gate.changed() => if changed.is_err() {
                    self.slot.withdraw(Some(Standing::Retired));
                    return ControlFlow::Break(());
                },
                command = commands.recv() => self.commanded_outside(command, now)?,
            }
        }
        self.slot.stand(Standing::Asking);
        ControlFlow::Continue(())
    }

    fn commanded_outside(&self, command: Option<Command>, now: Gate) -> ControlFlow<()> {
        match command {
            Some(Command::Rotate(done)) => {
                // Whoever asked may have gone.
                let _ = done.send(Err(RotateError::NotApproved));
                ControlFlow::Continue(())
            }
            // Nothing is live.
            Some(Command::RollBack(_) | Command::ForgetFormer) => ControlFlow::Continue(()),
            Some(Command::Restate) => {
                self.metrics.begin();
                self.metrics.barred(now);
                ControlFlow::Continue(())
            }
            Some(Command::Restrain(restraint, order, done)) => {
                // When the gate opens, it begins under this.
                self.note_restraint(restraint, order);
                let _ = done.send(());
                ControlFlow::Continue(())
            }
            Some(Command::Release(done)) => {
                let _ = done.send(self.forget_restraint().ok_or(NotReleased::Unrestrained));
                ControlFlow::Continue(())
            }
            Some(Command::Retire(done)) => {
                self.slot.withdraw(Some(Standing::Retired));
                let _ = done.send(());
                ControlFlow::Break(())
            }
            Some(Command::StepDown(_, done)) => {
                self.slot.withdraw(Some(Standing::Followed));
                let _ = done.send(());
                ControlFlow::Break(())
            }
            None => {
                self.slot.withdraw(Some(Standing::Retired));
                ControlFlow::Break(())
            }
        }
    }

    /// The gate was closed on a token in use: its generation is taken out of use and wiped.
    pub(super) fn bar(&self, gate: Gate) {
        let Some(closed) = gate.standing() else { return };
        let live = self.slot.live().map(|live| live.number);
        self.slot.withdraw(Some(closed));
        self.metrics.barred(gate);
        if let Some(generation) = live {
            let token = self.settings.name.clone();
            tracing::info!(%token, generation, "retired: its grant was taken away");
            self.parts.recorder.note(Event::TokenRetired { token, generation });
        }
        self.void_all(revocation::Cause::Retired);
    }
}

/// Resolves when the gate has been closed more than so often. One that nobody can move any more stays as it is.
pub(super) async fn closed(gate: &mut watch::Receiver<Turn>, closings: u64) -> Gate {
    match gate.wait_for(|turn| turn.closings != closings).await.map(|turn| turn.gate) {
        Ok(gate) => gate,
        Err(_) => std::future::pending().await,
    }
}
