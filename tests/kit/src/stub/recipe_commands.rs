//! The commands among the generated entries: new collections and unique indexes, alternately.

use super::entry::{GROUP, Recipe};

/// The place, within each group of entries, of the entry that goes to the newest collection.
const PLACE_OF_NEW: u64 = 3;

/// A command of a generated oplog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Creates a collection, which receives one in ten entries from then on.
    Create,
    /// Creates a unique index on the first collection, which needs a barrier.
    CreateUniqueIndex,
}

impl Recipe {
    /// Returns the command that entry `number` is; `None` if it is a write.
    #[must_use]
    pub fn command(&self, number: u64) -> Option<Command> {
        let every = self.command_every?;
        if number == 0 || !number.is_multiple_of(every) {
            return None;
        }
        match (number / every).is_multiple_of(2) {
            true => Some(Command::CreateUniqueIndex),
            false => Some(Command::Create),
        }
    }

    /// Returns the number of the collection that a command created and to which entry `number`
    /// belongs; `None` for an entry of the collections that exist from the start.
    #[must_use]
    pub fn new_collection(&self, number: u64) -> Option<u64> {
        // Every other command creates a collection, the first one included.
        let created = (number / self.command_every?).div_ceil(2);
        let belongs = match self.command(number) {
            Some(command) => command == Command::Create,
            None => created > 0 && number % GROUP == PLACE_OF_NEW,
        };
        belongs.then(|| self.collections - 1 + created)
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::document::Document;
    use oplog_relay_core::entry::Entry;

    use super::*;
    use crate::stub::{Oplog, Shape};

    #[test]
    fn commands_alternate_and_new_collections_receive_entries() {
        let recipe = Recipe {
            command_every: Some(100),
            ..Recipe::new(500, Shape::Inserts)
        };
        let oplog = Oplog::make(recipe);
        let of = |number| {
            let bytes = oplog.entry(number).expect("an entry");
            Entry::parse(Document::new(bytes).expect("a document")).expect("an entry")
        };
        let name = |number| of(number).ns.to_owned();
        assert_eq!(recipe.command(0), None);
        assert_eq!(recipe.command(100), Some(Command::Create));
        assert_eq!(recipe.command(200), Some(Command::CreateUniqueIndex));
        assert_eq!(
            (name(93), name(100)),
            ("bench.orders".into(), "bench.$cmd".into())
        );
        assert_eq!(
            (name(102), name(103)),
            ("bench.orders".into(), "bench.orders1".into())
        );
        assert_eq!(
            (name(293), name(303)),
            ("bench.orders1".into(), "bench.orders2".into())
        );
        assert_eq!(of(100).ui, of(103).ui);
        assert_eq!(of(200).ui, of(1).ui);
        assert_ne!(of(303).ui, of(103).ui);
    }
}
