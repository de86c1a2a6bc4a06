//! Records that are written together, and those who wait for them.
//!
//! Invariant: bytes that were numbered and encoded do not change, however often they must be written: a reader may meet them
//! twice, and knows them by that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::Recorded;
use super::event::{Event, Record};
use super::figures::Told;
use super::frame::{self, TooLong};
use super::metrics::Metrics;
use super::queue::Job;
use super::tree::Hash;
use super::waiter::Waiter;

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
    /// With the numbers of the records for which each waits.
    waiters: Vec<(Range<u64>, Waiter)>,
    /// Records that their waiters have given up.
    given_up: BTreeSet<u64>,
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
            given_up: BTreeSet::new(),
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

    /// What counts.
    pub fn told(&self) -> impl Iterator<Item = &Told> {
        self.told.iter().filter(|told| !self.given_up.contains(&told.seq))
    }

    /// # Errors
    /// When a record is too long: then none of the job's is in here, and its waiter comes back.
    pub fn add(&mut self, job: Job) -> Result<(), (Option<Waiter>, TooLong)> {
        let (first, records, frames, told) = (self.next_seq(), self.len(), self.frames.len(), self.told.len());
        for event in std::iter::once(&job.event).chain(&job.further) {
            if let Err(error) = self.add_event(job.time, event) {
                self.frames.truncate(frames);
                self.told.truncate(told);
                self.leaves.truncate(records);
                self.names.truncate(records);
                return Err((job.waiter, error));
            }
        }
        self.waiters.extend(job.waiter.map(|waiter| (first..self.next_seq(), waiter)));
        Ok(())
    }

    /// Records whose waiters have given up since this was last asked: they will be in the trail, and did not happen.
    pub fn given_up(&mut self) -> Vec<u64> {
        self.part_with(Waiter::has_given_up)
    }

    /// All records are durable. Tells for which of them that comes too late; whoever waits for the others is still to be told.
    pub fn settle(&mut self) -> Vec<u64> {
        self.part_with(|waiter| !waiter.settle())
    }

    fn part_with(&mut self, is_gone: impl Fn(&Waiter) -> bool) -> Vec<u64> {
        let gone = self.waiters.extract_if(.., |(_, waiter)| is_gone(waiter));
        let gone: Vec<u64> = gone.flat_map(|(records, _)| records).collect();
        self.given_up.extend(&gone);
        gone
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

    /// Tells those who wait for what was settled.
    pub fn acknowledge(self, metrics: &Metrics) {
        for name in self.names {
            metrics.records.with_label_values(&[name]).inc();
        }
        for (records, waiter) in self.waiters {
            waiter.answer(Ok(Recorded(records)));
        }
    }
}
