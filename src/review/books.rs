//! The books of all tokens: written by a reader of the stream of uses, kept in the state folder, off the request path.
//!
//! ```text
//!  Stream ─▶ Pen ─▶ Books ──each minute, and at the end──▶ sealed records, one for each token and route
//!                     └▶ report
//! ```
//!
//! Invariants: what is kept is bounded by the config, by the number of books and by what one keeps; a book that cannot be
//! read or written is said, and nothing else depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::book::Book;
use crate::name::{RouteName, TokenName};
use crate::seal::Label;
use crate::store::{Refused, Store, StoreError};
use crate::usage::{News, Reader, Use};

/// As the store knows them.
const KIND: &str = "book";

/// Between the names of a token and of a route: neither holds it.
const BETWEEN: char = '.';

/// Books that are kept; of more, those go that were used last the longest ago.
const MOST: usize = 1000;

/// What is forgotten: what was last done longer ago than this, and longer than two windows of review.
const REMEMBERED: Duration = Duration::from_secs(90 * 86_400);

/// See the module.
#[derive(Default)]
pub struct Books {
    kept: Mutex<BTreeMap<TokenName, BTreeMap<RouteName, Kept>>>,
    /// How often something was used in a new way.
    news: AtomicU64,
}

#[derive(Default)]
struct Kept {
    book: Book,
    /// How often it was written.
    written: u64,
    is_changed: bool,
}

/// Writes what is used into the books.
pub struct Pen(pub Arc<Books>);

impl Reader for Pen {
    fn read(&mut self, news: &News<'_>) {
        let mut books = self.0.lock();
        let mut uses = news.uses().peekable();
        while let Some(used) = uses.next() {
            let Some(token) = used.token else { continue };
            if !books.get(token).is_some_and(|routes| routes.contains_key(used.route)) {
                books.entry(token.clone()).or_default().entry(used.route.clone()).or_default();
            }
            let kept = books.get_mut(token).and_then(|routes| routes.get_mut(used.route)).expect("it is there by now");
            let mut is_news = kept.note(used);
            // Where much is used, much of it goes into one book.
            while let Some(next) = uses.next_if(|next| next.is_alike(used)) {
                is_news |= kept.note(next);
            }
            self.0.news.fetch_add(u64::from(is_news), Ordering::Relaxed);
        }
    }

    /// The metric tells of it; a book says when something was used, and not how often it was not seen.
    fn lost(&mut self, _: u64) {}
}

impl Kept {
    /// Returns whether this is a new way of use.
    fn note(&mut self, used: &Use<'_>) -> bool {
        self.is_changed = true;
        self.book.note(used)
    }
}

/// A book as it is to be written.
pub struct Page {
    name: String,
    written: u64,
    content: Option<Vec<u8>>,
}

impl Books {
    /// What was kept, and the records that are not used. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: &Store) -> Result<(Self, Vec<Refused>), StoreError> {
        let (records, mut refused) = store.read(KIND)?;
        let books = Self::default();
        for record in records {
            let names = record.name.split_once(BETWEEN);
            let names = names.and_then(|(token, route)| Some((token.parse().ok()?, route.parse().ok()?)));
            let (Some((token, route)), Ok(book)) = (names, serde_json::from_slice(&record.content)) else {
                refused.push(store.refuse(Label { kind: KIND, name: &record.name }));
                continue;
            };
            let kept = Kept { book, written: record.generation, is_changed: false };
            books.lock().entry(token).or_default().insert(route, kept);
        }
        Ok((books, refused))
    }

    /// Rises whenever something is used in a way that is new, or that was not for a while.
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Relaxed)
    }

    /// Looks at what this token was used for, by route.
    pub fn read<T>(&self, token: &TokenName, look: impl FnOnce(&BTreeMap<&RouteName, &Book>) -> T) -> T {
        let books = self.lock();
        let routes = books.get(token).into_iter().flatten();
        look(&routes.map(|(route, kept)| (route, &kept.book)).collect())
    }

    /// Forgets what is over, and tells what is to be written: what has changed since the last time.
    pub fn turn(&self, now: Duration, window: Duration) -> Vec<Page> {
        let before = now.saturating_sub(REMEMBERED.max(2 * window)).as_secs();
        let mut pages = Vec::new();
        let mut books = self.lock();
        let gone = over(&books, before);
        for (token, routes) in books.iter_mut() {
            routes.retain(|route, kept| {
                let name = format!("{token}{BETWEEN}{route}");
                if gone.contains(&(token.clone(), route.clone())) {
                    pages.push(Page { name, written: 0, content: None });
                    return false;
                }
                if std::mem::take(&mut kept.is_changed) {
                    kept.book.forget(before);
                    kept.written += 1;
                    let content = serde_json::to_vec(&kept.book).ok();
                    pages.extend(content.map(|json| Page { name, written: kept.written, content: Some(json) }));
                }
                true
            });
        }
        books.retain(|_, routes| !routes.is_empty());
        pages
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenName, BTreeMap<RouteName, Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Books that nothing is to be kept of.
fn over(books: &BTreeMap<TokenName, BTreeMap<RouteName, Kept>>, before: u64) -> BTreeSet<(TokenName, RouteName)> {
    let each = books.iter().flat_map(|(token, routes)| routes.iter().map(move |(route, kept)| (token, route, kept)));
    let mut all: Vec<_> = each.map(|(token, route, kept)| (kept.book.last().unwrap_or(0), token, route)).collect();
    all.sort_unstable_by(|one, other| other.cmp(one));
    let kept = all.iter().take(MOST).take_while(|(last, ..)| *last >= before).count();
    all.into_iter().skip(kept).map(|(_, token, route)| (token.clone(), route.clone())).collect()
}

/// Writes pages. Those that cannot be written are said; the next change writes them again. Blocks.
pub fn write(store: &Store, pages: &[Page]) {
    for Page { name, written, content } in pages {
        let label = Label { kind: KIND, name };
        let done = match content {
            Some(content) => store.write(label, *written, content),
            None => store.remove(label),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a book of uses could not be kept: a restart would not know what it says");
        }
    }
}

#[cfg(test)]
mod tests;
