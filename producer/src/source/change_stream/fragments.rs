//! Events that the server has split (`$changeStreamSplitLargeEvent`), because they are larger than
//! 16 MB. The fields of the event are distributed over its fragments, and no field is split.

use oplog_relay_core::document::{Document, DocumentBuilder, Malformed};

use super::event::Fragment;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// The fragments of an event that have arrived.
#[derive(Debug, Default)]
pub struct Fragments {
    /// The fields of the fragments, without their tokens.
    fields: Vec<u8>,
    /// The number of the last fragment; 0 if there is none.
    last: i64,
}

impl Fragments {
    /// Adds a fragment. Returns the whole event, with the token of its last fragment, when that
    /// arrives.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if a fragment is missing or damaged.
    pub fn add(
        &mut self,
        document: Document<'_>,
        fragment: Fragment,
    ) -> Result<Option<Vec<u8>>, ProducerError> {
        let Fragment { number, of } = fragment;
        if number != self.last + 1 || number > of {
            let last = self.last;
            return Err(EntryFault::FragmentMissing { number, of, last }.into());
        }
        self.last = number;
        let mut event = Vec::new();
        let joined = self.join(document, number == of, &mut event);
        match joined.map_err(ProducerError::undecodable)? {
            true => {
                *self = Self::default();
                Ok(Some(event))
            }
            false => Ok(None),
        }
    }

    /// Forgets the fragments of an event that the stream will send again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns true if fragments of an event have arrived, but not all of them.
    #[must_use]
    pub const fn are_incomplete(&self) -> bool {
        self.last > 0
    }

    fn join(
        &mut self,
        document: Document<'_>,
        is_last: bool,
        event: &mut Vec<u8>,
    ) -> Result<bool, Malformed> {
        let mut fields = DocumentBuilder::start(event);
        for element in self.elements() {
            fields.element(element?);
        }
        for element in document.elements() {
            let element = element?;
            let is_own = matches!(element.name, b"_id" | b"splitEvent");
            if !is_own || (is_last && element.name == b"_id") {
                fields.element(element);
            }
        }
        fields.finish();
        if !is_last {
            self.fields = std::mem::take(event);
        }
        Ok(is_last)
    }

    fn elements(&self) -> oplog_relay_core::document::Elements<'_> {
        let fields = Document::new(&self.fields);
        // Before the first fragment there are no bytes.
        fields.unwrap_or(Document::EMPTY).elements()
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn fragment(number: i64, of: i64, fields: bson::Document) -> Vec<u8> {
        let mut fragment = doc! {
            "_id": { "_data": format!("82{number:02}") },
            "splitEvent": { "fragment": number, "of": of },
        };
        fragment.extend(fields);
        fragment.to_vec().unwrap()
    }

    fn add(
        fragments: &mut Fragments,
        number: i64,
        fields: bson::Document,
    ) -> Result<Option<bson::Document>, ProducerError> {
        let bytes = fragment(number, 3, fields);
        let document = Document::new(&bytes).unwrap();
        let added = fragments.add(document, Fragment { number, of: 3 })?;
        Ok(added.map(|event| bson::Document::from_reader(event.as_slice()).unwrap()))
    }

    #[test]
    fn fragments_become_one_event_with_the_last_token() {
        let mut fragments = Fragments::default();
        for _ in 0..2 {
            assert_eq!(
                add(&mut fragments, 1, doc! { "operationType": "update" }).unwrap(),
                None
            );
            assert!(fragments.are_incomplete());
            assert_eq!(
                add(&mut fragments, 2, doc! { "fullDocument": { "a": 1 } }).unwrap(),
                None
            );
            let whole = add(&mut fragments, 3, doc! { "updateDescription": { "b": 2 } }).unwrap();
            let expected = doc! {
                "operationType": "update", "fullDocument": { "a": 1 },
                "_id": { "_data": "8203" }, "updateDescription": { "b": 2 },
            };
            assert_eq!(whole, Some(expected));
            assert!(!fragments.are_incomplete());
        }
    }

    #[test]
    fn a_missing_fragment_is_an_error() {
        let mut fragments = Fragments::default();
        assert!(add(&mut fragments, 2, doc! {}).is_err());
        let mut fragments = Fragments::default();
        add(&mut fragments, 1, doc! {}).unwrap();
        assert!(add(&mut fragments, 3, doc! {}).is_err());
    }
}
