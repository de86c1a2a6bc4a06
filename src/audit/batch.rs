//! Records that are written together, and those who wait for them.
//!
//! Invariant: bytes that were numbered and encoded do not change, however often they must be written: a reader may meet them
//! twice, and knows them by that.

use std::time::Duration;

use super::event::{Event, Record};
use super::figures::Told;
use super::frame::{self, TooLong};
use super::metrics::Metrics;
use super::queue::{Job, Ticket, Waiter};
use super::tree::Hash;

/// See the module.
pub struct Batch {
    first_seq: u64,
    frames: Vec<u8>,
    /// The event of each record.
    names: Vec<&'static str>,
    /// What stands for each record in the tree.
    leaves: Vec<Hash>,
    /// Those that figures are made of.
    told: Vec<Told>,
    waiters: Vec<Waiter>,
    /// The last of the jobs that are in here.
    pub ticket: Ticket,
}

impl Batch {
    pub fn new(first_seq: u64) -> Self {
        Self {
            first_seq,
            frames: Vec::new(),
            names: Vec::new(),
            leaves: Vec::new(),
            told: Vec::new(),
            waiters: Vec::new(),
            ticket: Ticket::default(),
        }
    }

    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.names.len() as u64
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// # Errors
    /// When the record is too long; then its waiter comes back.
    pub fn add(&mut self, job: Job) -> Result<(), (Option<Waiter>, TooLong)> {
        match self.add_event(job.time, &job.event) {
            Ok(()) => {
                self.waiters.extend(job.waiter);
                Ok(())
            }
            Err(error) => Err((job.waiter, error)),
        }
    }

    /// # Errors
    /// When the record is too long.
    pub fn add_event(&mut self, time: Duration, event: &Event) -> Result<(), TooLong> {
        let record = Record { version: frame::VERSION, seq: self.next_seq(), time, event };
        let json = serde_json::to_vec(&record).expect("events are plain data with text keys");
        frame::encode(&json, &mut self.frames)?;
        self.leaves.push(Hash::of_leaf(&json));
        self.names.push(event.name());
        self.told.extend(Told::read(&json));
        Ok(())
    }

    /// All records are durable.
    pub fn acknowledge(self, metrics: &Metrics) {
        for name in self.names {
            metrics.records.with_label_values(&[name]).inc();
        }
        for waiter in self.waiters {
            waiter.answer(Ok(()));
        }
    }
}
