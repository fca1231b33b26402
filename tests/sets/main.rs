//! Golden oplogs of a real server through real Kafka, eight partitions and one or three consumer
//! processes, into a target that holds all that the server held.

mod carry;

use anyhow::Result;

use carry::Carried;

#[test]
fn every_form_of_document_and_update() -> Result<()> {
    Carried::new("crud-types")?.expect_with(&[1, 3])?;
    Carried::new("updates")?.expect_with(&[1, 3])
}

#[test]
fn collections_views_indexes_renames_and_drops() -> Result<()> {
    Carried::new("ddl")?.expect_with(&[1, 3])
}

#[test]
fn unique_values_that_move_between_documents() -> Result<()> {
    Carried::new("unique-indexes")?.expect_with(&[1, 3])
}
