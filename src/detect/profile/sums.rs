//! What is summed over a minute, an hour, a day, and the most that it was.

use crate::detect::baseline::Ceiling;
use crate::detect::memory::Kept;

/// What is summed over a time.
#[derive(Clone, Copy, Default)]
pub struct Sums<T = f32> {
    pub requests: T,
    /// Refusals and what was not found, by their weight.
    pub errors: T,
    pub downloaded: T,
    pub uploaded: T,
    pub deletions: T,
    pub new_places: T,
}

impl Sums {
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.downloaded += other.downloaded;
        self.uploaded += other.uploaded;
        self.deletions += other.deletions;
        self.new_places += other.new_places;
    }
}

impl Sums<Ceiling> {
    pub fn saw(&mut self, sums: &Sums, learned: bool) {
        self.requests.saw(sums.requests.into(), learned);
        self.errors.saw(sums.errors.into(), learned);
        self.downloaded.saw(sums.downloaded.into(), learned);
        self.uploaded.saw(sums.uploaded.into(), learned);
        self.deletions.saw(sums.deletions.into(), learned);
        self.new_places.saw(sums.new_places.into(), learned);
    }

    pub fn day_ends(&mut self) {
        let all = [
            &mut self.requests,
            &mut self.errors,
            &mut self.downloaded,
            &mut self.uploaded,
            &mut self.deletions,
            &mut self.new_places,
        ];
        all.into_iter().for_each(Ceiling::day_ends);
    }
}

/// The most at such a time, which comes again after so many days.
pub fn settle(most: &mut f32, figure: f32, learned: bool, days: u64) {
    let mut ceiling = Ceiling::of(*most);
    (0..days.clamp(1, 7)).for_each(|_| ceiling.day_ends());
    ceiling.saw(figure.into(), learned);
    *most = ceiling.most() as f32;
}

impl<T: Kept> Kept for Sums<T> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { requests, errors, downloaded, uploaded, deletions, new_places } = self;
        [requests, errors, downloaded, uploaded, deletions, new_places].into_iter().for_each(|sum| sum.put(out));
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let [requests, errors, downloaded, uploaded, deletions, new_places] = <[T; 6]>::take(left)?;
        Some(Self { requests, errors, downloaded, uploaded, deletions, new_places })
    }
}
