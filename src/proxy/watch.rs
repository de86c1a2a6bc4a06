//! What a worker knows of each client connection: whether it rests between two requests, is in the middle of a head, has
//! requests under way, or does not take its answers. One coarse look a second closes what rests too long; no timer is set
//! for a request.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::body::{BodyError, ResponseBody};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between two requests.
    Idle,
    /// Some of a head has come.
    Head,
    /// A request is under way.
    Busy,
}

/// One connection's state, shared by its socket, its requests and the worker. It counts its turns from phase to phase
/// instead of reading a clock at each: the look reads one for all.
pub struct Watch {
    /// Several requests may be under way at once, and frames come in between.
    http2: Cell<bool>,
    phase: Cell<Phase>,
    turns: Cell<u64>,
    /// Requests under way.
    requests: Cell<u32>,
    /// There has been one.
    served: Cell<bool>,
    /// Of these, the ones whose last piece of answer has not been asked to be followed by another.
    untaken: Cell<u32>,
    /// An answer broke off.
    broken: Cell<bool>,
    /// The socket does not take what is written.
    stalled: Cell<bool>,
    /// Frames that carry nothing, since the last look.
    idle_frames: Cell<u64>,
    /// Bytes that were written since the last look.
    written: Cell<u64>,
    /// The turn that the last look found, and when it was found first.
    found: Cell<(u64, Instant)>,
    close: Notify,
    late: Cell<Option<Late>>,
    /// The process is about to end.
    draining: Cell<bool>,
    /// Who waits for word of the end.
    attending: Cell<Option<Waker>>,
}

/// What the worker's look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// It may have begun a request this very moment, which is then answered.
    Idle,
    Head,
    /// It goes without another word.
    Stalled,
    /// It had rested longest when another wanted its room.
    Evicted,
    /// What it was let in by is good no more.
    Outdated,
}

impl Late {
    /// As the metric calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "slow_head",
            Self::Stalled => "stalled",
            Self::Evicted => "evicted",
            Self::Outdated => "outdated",
        }
    }
}

/// So many frames that carry nothing may come in a second, and one more for each [`BYTES_PER_FRAME`] bytes that we send:
/// a client that reads much has to give us much room.
const IDLE_FRAMES: u64 = 1000;

const BYTES_PER_FRAME: u64 = 512;

impl Watch {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            http2: Cell::new(false),
            phase: Cell::new(Phase::Idle),
            turns: Cell::new(0),
            requests: Cell::new(0),
            served: Cell::new(false),
            untaken: Cell::new(0),
            broken: Cell::new(false),
            stalled: Cell::new(false),
            idle_frames: Cell::new(0),
            written: Cell::new(0),
            found: Cell::new((0, Instant::now())),
            close: Notify::new(),
            late: Cell::new(None),
            draining: Cell::new(false),
            attending: Cell::new(None),
        })
    }

    /// From now on frames come, and a request's head is h2's to wait for.
    pub fn speaks_http2(&self) {
        self.http2.set(true);
        self.turn(Phase::Idle);
    }

    /// Looks at the connection: whether it has rested for longer than it may, give or take the time between two looks.
    pub fn look(&self, now: Instant, limits: &Limits) -> Option<Late> {
        self.idle_frames.set(0);
        self.written.set(0);
        let (turn, since) = self.found.get();
        if turn != self.turns.get() {
            self.found.set((self.turns.get(), now));
            return None;
        }
        let late = self.lateness(now.saturating_duration_since(since), limits);
        // It has been told so.
        late.filter(|late| self.late.get() != Some(*late))
    }

    fn lateness(&self, rested: Duration, limits: &Limits) -> Option<Late> {
        let none_is_taken = self.http2.get() && self.requests.get() > 0 && self.untaken.get() == self.requests.get();
        match self.phase.get() {
            _ if self.stalled.get() || none_is_taken => (rested > limits.body_timeout).then_some(Late::Stalled),
            // A client that does not answer our goodbye either.
            Phase::Idle if matches!(self.late.get(), Some(Late::Idle | Late::Outdated)) => {
                (rested > limits.idle_timeout + limits.header_timeout).then_some(Late::Stalled)
            }
            Phase::Idle => (rested > limits.idle_timeout).then_some(Late::Idle),
            Phase::Head => (rested > limits.header_timeout).then_some(Late::Head),
            Phase::Busy => None,
        }
    }

    /// How readily it is let go of for another, if it has nothing to do: first who has never asked for anything, and of
    /// these who has rested longest, as far as the looks could tell.
    pub fn rests(&self) -> Option<(bool, Instant)> {
        let (turn, since) = self.found.get();
        let since = if turn == self.turns.get() { since } else { Instant::now() };
        let rests = self.phase.get() != Phase::Busy && self.late.get().is_none();
        rests.then_some((self.served.get(), since))
    }

    /// Tells the connection to end.
    pub fn close(&self, late: Late) {
        self.late.set(Some(late));
        self.close.notify_one();
        self.wake();
    }

    /// Tells the connection to end when what is under way is over.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(attending) = self.attending.take() {
            attending.wake();
        }
    }

    /// Has the task woken when the connection is told to end.
    pub fn attend(&self, context: &mut Context<'_>) {
        let attending = self.attending.take().filter(|waker| waker.will_wake(context.waker()));
        self.attending.set(Some(attending.unwrap_or_else(|| context.waker().clone())));
    }

    /// Whether the connection is to end once nothing is under way.
    pub fn is_told_to_end(&self) -> bool {
        self.draining.get() || self.late.get().is_some_and(|late| late != Late::Head)
    }

    /// Whether the connection is to end without another word.
    pub fn is_cut_off(&self) -> bool {
        match self.late.get() {
            Some(Late::Stalled) => true,
            // It may have begun a request after it was chosen, which is answered.
            Some(Late::Evicted) => !self.is_busy(),
            Some(Late::Idle | Late::Head | Late::Outdated) | None => false,
        }
    }

    /// An answer is on its way. It counts as broken off unless it is said to be whole.
    pub fn answers(self: &Rc<Self>) -> Unfinished {
        Unfinished(Some(self.clone()))
    }

    /// Resolves when the connection is to end, and says why.
    pub async fn closed(&self) -> Late {
        self.close.notified().await;
        self.late.get().unwrap_or(Late::Stalled)
    }

    /// Whether the head that is being read has taken too long.
    pub fn head_is_late(&self) -> bool {
        self.late.get() == Some(Late::Head) && self.phase.get() == Phase::Head
    }

    /// A request is under way until the returned guard is dropped.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.served.set(true);
        // Its head was late, and is whole all the same.
        if self.late.get() == Some(Late::Head) {
            self.late.set(None);
        }
        self.turn(Phase::Busy);
        Busy { watch: self.clone(), untaken: false }
    }

    pub fn is_busy(&self) -> bool {
        self.requests.get() > 0
    }

    /// Whether an answer broke off, or is still under way.
    pub fn is_broken_off(&self) -> bool {
        self.broken.get() || self.is_busy()
    }

    /// Bytes have come.
    pub fn received(&self) {
        if self.phase.get() == Phase::Idle && !self.http2.get() {
            self.turn(Phase::Head);
        }
    }

    /// Frames have come that carry nothing. Whether they are more than a second may bring.
    pub fn received_idle_frames(&self, frames: u64) -> bool {
        self.idle_frames.set(self.idle_frames.get() + frames);
        self.is_flooded()
    }

    pub fn is_flooded(&self) -> bool {
        self.idle_frames.get() > IDLE_FRAMES + self.written.get() / BYTES_PER_FRAME
    }

    /// Notes whether the client takes what is written.
    pub fn written<E>(&self, written: Poll<Result<usize, E>>) -> Poll<Result<usize, E>> {
        if self.stalled.get() != written.is_pending() {
            self.stalled.set(written.is_pending());
            self.turn(self.phase.get());
        }
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written.set(self.written.get() + *bytes as u64);
        }
        written
    }

    fn turn(&self, phase: Phase) {
        self.phase.set(phase);
        self.turns.set(self.turns.get() + 1);
    }
}

/// An answer that is not whole, if it is dropped.
pub struct Unfinished(Option<Rc<Watch>>);

impl Unfinished {
    pub fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            watch.broken.set(true);
        }
    }
}

/// One request under way, until dropped.
pub struct Busy {
    watch: Rc<Watch>,
    untaken: bool,
}

impl Busy {
    /// A piece of the answer has been handed over (`true`), or the next one is asked for.
    fn hand_over(&mut self, untaken: bool) {
        if self.untaken != untaken {
            self.untaken = untaken;
            let all = &self.watch.untaken;
            all.set(if untaken { all.get() + 1 } else { all.get() - 1 });
            self.watch.turn(Phase::Busy);
        }
    }
}

impl Busy {
    /// Another one of the same connection.
    pub fn another(&self) -> Self {
        self.watch.busy()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.hand_over(false);
        let left = self.watch.requests.get() - 1;
        self.watch.requests.set(left);
        self.watch.turn(if left == 0 { Phase::Idle } else { Phase::Busy });
    }
}

/// An answer's body, under way until it is dropped.
pub struct Watched {
    body: ResponseBody,
    busy: Busy,
}

impl Watched {
    pub fn new(body: ResponseBody, busy: Busy) -> Self {
        Self { body, busy }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, busy } = &mut *self;
        busy.hand_over(false);
        let polled = Pin::new(body).poll_frame(context);
        busy.hand_over(matches!(polled, Poll::Ready(Some(Ok(_)))));
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            busy.watch.broken.set(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
