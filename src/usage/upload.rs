//! How far a request's body has come, and whether anybody still wants it.

use std::cell::Cell;
use std::task::Waker;

/// How far the request's body has come; shared by the guard and the body, which travels with the upstream connection.
#[derive(Default)]
pub struct Upload {
    pub bytes: Cell<u64>,
    /// The last byte has been handed on.
    pub finished: Cell<bool>,
    /// Why there will be no last byte.
    pub failure: Cell<Option<UploadFailure>>,
    /// The whole answer has come before the last byte: nobody wants the rest.
    is_answered: Cell<bool>,
    /// Who waits for more of the body.
    waiting: Cell<Option<Waker>>,
}

impl Upload {
    pub fn is_answered(&self) -> bool {
        self.is_answered.get()
    }

    /// Tells whoever waits for more of the body that nobody wants it.
    pub fn answered(&self) {
        self.is_answered.set(true);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    pub fn wait(&self, waker: &Waker) {
        self.waiting.set(Some(waker.clone()));
    }
}

/// Why a request's body does not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadFailure {
    /// The client's connection ended.
    Gone,
    Malformed,
    /// No progress in time.
    Idle,
    /// It is longer than its route allows.
    TooLarge,
}
