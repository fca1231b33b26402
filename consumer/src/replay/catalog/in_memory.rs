//! The part of the catalog that a member holds in memory: the current names of collections, and the
//! commands since the oldest entry that it may still apply. The rest stays on the target, and is
//! read when an older entry arrives, for example after the offsets of the group were reset.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::doc;
use futures_util::TryStreamExt;
use oplog_relay_core::position::{EntryId, Timestamp};

use super::{Catalog, Incarnations, Ran, read, unreadable};
use crate::replay::catalog::incarnations::{AFTER_ALL, Reading};

/// Interval between two prunings. A pruning releases the commands that are older than every entry
/// that was looked up since the previous one.
const PRUNED_EVERY: Duration = Duration::from_secs(600);
/// A lookup also reads the commands of this many seconds before its entry, because other partitions
/// may lag further behind.
const MARGIN_SECONDS: u32 = 86_400;

/// The catalog in memory, by source.
#[derive(Debug, Default)]
pub(crate) struct CatalogInMemory {
    sources: Mutex<BTreeMap<String, Source>>,
    /// Lock that is held while the catalog is read from the target.
    read_lock: tokio::sync::Mutex<()>,
    /// Commands that ran while the catalog was being read; `None` at other times.
    ran_during_read: Mutex<Option<Vec<Noted>>>,
}

/// A command that ran, with its source.
#[derive(Debug)]
struct Noted {
    source: String,
    ran: Ran,
}

/// The catalog of one source in memory.
#[derive(Debug)]
struct Source {
    incarnations: Arc<Incarnations>,
    /// The oldest entry that was looked up since the last pruning.
    oldest: Option<EntryId>,
    /// Time of the last pruning.
    pruned: Instant,
}

impl Source {
    fn new(incarnations: Incarnations) -> Self {
        Self {
            incarnations: Arc::new(incarnations),
            oldest: None,
            pruned: Instant::now(),
        }
    }

    /// Returns the incarnations for an entry, or `None` if not all commands since its time are
    /// held. Prunes the commands first if that is due.
    fn look_up(&mut self, id: EntryId, now: Instant) -> Option<Arc<Incarnations>> {
        let oldest = self.oldest.map_or(id, |oldest| oldest.min(id));
        self.oldest = Some(oldest);
        if now.saturating_duration_since(self.pruned) >= PRUNED_EVERY {
            if self.incarnations.reaches(oldest) {
                self.incarnations = Arc::new(self.incarnations.pruned(oldest));
            }
            self.oldest = Some(id);
            self.pruned = now;
        }
        self.incarnations
            .reaches(id)
            .then(|| Arc::clone(&self.incarnations))
    }
}

impl CatalogInMemory {
    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ran_during_read(&self) -> MutexGuard<'_, Option<Vec<Noted>>> {
        self.ran_during_read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn incarnations(&self, source: &str) -> Arc<Incarnations> {
        let sources = self.sources();
        let held = sources
            .get(source)
            .map(|held| Arc::clone(&held.incarnations));
        held.unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sources().is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.sources()
            .values()
            .map(|held| held.incarnations.held())
            .sum()
    }

    pub(crate) fn forget(&self, source: &str, id: EntryId) {
        if let Some(held) = self.sources().get_mut(source) {
            Arc::make_mut(&mut held.incarnations).forget(id);
        }
    }

    fn look_up(&self, source: &str, id: EntryId) -> Option<Arc<Incarnations>> {
        let mut sources = self.sources();
        match sources.get_mut(source) {
            Some(held) => held.look_up(id, Instant::now()),
            None => Some(Arc::default()),
        }
    }

    /// Records a command that ran. Returns false if it is older than the commands that are held.
    pub(crate) fn take(&self, source: &str, ran: Ran) -> bool {
        if let Some(noted) = self.ran_during_read().as_mut() {
            noted.push(Noted {
                source: source.to_owned(),
                ran: ran.clone(),
            });
        }
        let mut sources = self.sources();
        let held = sources.entry(source.to_owned());
        let held = held.or_insert_with(|| Source::new(Incarnations::default()));
        Arc::make_mut(&mut held.incarnations).take(ran)
    }

    /// Returns, for each source, the position from which commands are held. A source of which all
    /// commands are held is left out.
    fn held_from(&self) -> BTreeMap<String, EntryId> {
        let sources = self.sources();
        let begins = sources
            .iter()
            .filter_map(|(source, held)| Some((source.clone(), held.incarnations.from()?)));
        begins.collect()
    }

    /// Replaces the catalog in memory with the one that was read. Returns a command that ran during
    /// the read, if it is older than the commands that were read.
    fn replace(&self, read: BTreeMap<String, Reading>) -> Option<Noted> {
        let mut sources = self.sources();
        let mut older = None;
        let mut read: BTreeMap<String, Incarnations> = read
            .into_iter()
            .map(|(source, reading)| (source, reading.finish()))
            .collect();
        for noted in self.ran_during_read().take().unwrap_or_default() {
            let incarnations = read.entry(noted.source.clone()).or_default();
            if !incarnations.take(noted.ran.clone()) {
                older = Some(noted);
            }
        }
        for (source, incarnations) in read {
            match sources.get_mut(&source) {
                Some(held) => held.incarnations = Arc::new(incarnations),
                None => drop(sources.insert(source, Source::new(incarnations))),
            }
        }
        older
    }
}

/// Returns the position from which commands are read for a lookup of `id`.
const fn before(id: EntryId) -> EntryId {
    let seconds = id.ts.seconds.saturating_sub(MARGIN_SECONDS);
    EntryId {
        ts: Timestamp::new(seconds, 0),
        ord: 0,
    }
}

/// An entry of a source, back to which the catalog is read.
#[derive(Debug, Clone, Copy)]
struct Reach<'r> {
    source: &'r str,
    id: EntryId,
}

impl Catalog {
    /// Returns the incarnations of a source's collections, valid for an entry and all later ones.
    /// Reads them from the target if the entry is older than the commands that are held.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn incarnations_at(
        &self,
        source: &str,
        id: EntryId,
    ) -> mongodb::error::Result<Arc<Incarnations>> {
        loop {
            if let Some(incarnations) = self.in_memory.look_up(source, id) {
                return Ok(incarnations);
            }
            let guard = self.in_memory.read_lock.lock().await;
            // Another task may have read the catalog while this one waited for the lock.
            if self.in_memory.look_up(source, id).is_none() {
                self.read(Some(Reach { source, id })).await?;
            }
            drop(guard);
        }
    }

    /// Reads the catalog from the target again.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn reload(&self) -> mongodb::error::Result<()> {
        let _guard = self.in_memory.read_lock.lock().await;
        self.read(None).await
    }

    /// Reads the catalog again, because a command that ran is older than the commands that are held.
    pub(crate) async fn reload_from(
        &self,
        source: &str,
        id: EntryId,
    ) -> mongodb::error::Result<()> {
        let _guard = self.in_memory.read_lock.lock().await;
        self.read(Some(Reach { source, id })).await
    }

    /// Reads the catalog, back to the given entry if one is given. The caller holds `read_lock`.
    async fn read(&self, reaching: Option<Reach<'_>>) -> mongodb::error::Result<()> {
        let mut begins = self.in_memory.held_from();
        let mut reach = |source: String, id: EntryId| {
            let begin = begins.entry(source).or_insert(AFTER_ALL);
            *begin = before(id).min(*begin);
            begins.clone()
        };
        let mut wanted = match reaching {
            Some(Reach { source, id }) => reach(source.to_owned(), id),
            None => self.in_memory.held_from(),
        };
        while let Some(older) = self.read_from(&wanted).await? {
            wanted = reach(older.source, older.ran.id);
        }
        Ok(())
    }

    /// Reads the catalog, and holds the commands of each source from the given position. Returns a
    /// command that ran during the read, if it is older than that position.
    async fn read_from(
        &self,
        begins: &BTreeMap<String, EntryId>,
    ) -> mongodb::error::Result<Option<Noted>> {
        *self.in_memory.ran_during_read() = Some(Vec::new());
        let begins = begins.iter();
        let mut readings: BTreeMap<String, Reading> = begins
            .map(|(source, from)| (source.clone(), Reading::new(*from)))
            .collect();
        let fields = doc! {
            "source": 1, "ts": 1, "ord": 1, "change": 1, "ns": 1, "to": 1, "ui": 1, "offset": 1,
        };
        let done = doc! { "group": &self.group, "done": true };
        let mut found = self.notes.find(done).projection(fields).await?;
        while let Some(note) = found.try_next().await? {
            let (source, ran) = read(&note).ok_or_else(|| unreadable(&note))?;
            let reading = readings.entry(source);
            reading.or_insert_with(|| Reading::new(AFTER_ALL)).take(ran);
        }
        Ok(self.in_memory.replace(readings))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Change;
    use super::*;
    use crate::replay::catalog::at;

    fn dropped(seconds: u32) -> Ran {
        Ran {
            id: at(seconds),
            ns: format!("s.{seconds}"),
            ui: None,
            change: Change::Dropped,
            offset: None,
        }
    }

    #[test]
    fn pruning_releases_commands_older_than_every_looked_up_entry() {
        let begun = Instant::now();
        let mut source = Source::new(Incarnations::default());
        source.pruned = begun;
        let held = |source: &Source| source.incarnations.held();
        for seconds in 1..=100 {
            assert!(Arc::make_mut(&mut source.incarnations).take(dropped(seconds)));
        }
        // Each command is held once by identity and once as the end of a name.
        assert!(source.look_up(at(40), begun).is_some());
        assert!(source.look_up(at(90), begun).is_some());
        assert_eq!(held(&source), 200);
        // One partition lags: the commands that it still needs stay.
        let later = begun + PRUNED_EVERY;
        assert!(source.look_up(at(95), later).is_some());
        assert_eq!(held(&source), 122);
        assert!(source.look_up(at(40), later).is_some());
        // Simulates an interval in which no entry that old was looked up.
        let last = later + PRUNED_EVERY;
        source.oldest = Some(at(95));
        assert!(source.look_up(at(101), last).is_some());
        assert_eq!(held(&source), 12);
        assert!(source.look_up(at(94), last).is_none());
        // The failed lookup counts as well, so this pruning releases nothing.
        assert!(source.look_up(at(101), last + PRUNED_EVERY).is_some());
        assert_eq!(held(&source), 12);
    }

    #[test]
    fn commands_that_run_while_the_catalog_is_read_are_not_lost() {
        let held = CatalogInMemory::default();
        assert!(held.take("rs0", dropped(5)));
        *held.ran_during_read() = Some(Vec::new());
        assert!(held.take("rs0", dropped(7)));
        let mut reading = Reading::new(at(6));
        reading.take(dropped(5));
        let read = |reading| BTreeMap::from([("rs0".to_owned(), reading)]);
        assert!(held.replace(read(reading)).is_none());
        let incarnations = held.incarnations("rs0");
        assert!(
            incarnations.is_done(at(7))
                && incarnations.has_ended("s.7")
                && !incarnations.is_done(at(5))
        );
        // A command older than what was read is reported, so that the catalog is read again.
        *held.ran_during_read() = Some(Vec::new());
        assert!(!held.take("rs0", dropped(4)));
        let older = held.replace(read(Reading::new(at(6)))).unwrap();
        assert_eq!(older.ran, dropped(4));
        assert_eq!(
            held.held_from(),
            BTreeMap::from([("rs0".to_owned(), at(6))])
        );
    }
}
