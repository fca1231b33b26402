//! Oplogs through real Kafka, eight partitions and one or several consumer processes, into a
//! target that holds all that a server holds.

mod carry;
mod kills;
mod lives;
mod made;
mod memory;
mod oversize;
mod resets;
mod routing;
mod topics;

use anyhow::Result;
use oplog_relay_tests::model::Scenario;

use carry::{Carried, Except};

#[test]
fn every_form_of_document_and_update() -> Result<()> {
    Carried::new("crud-types", "types")?.expect_with(&[1, 3])?;
    Carried::new("updates", "updates")?.expect_with(&[1, 3])
}

#[test]
fn collections_views_indexes_renames_and_drops() -> Result<()> {
    Carried::new("ddl", "ddl")?.expect_with(&[1, 3])
}

#[test]
fn unique_values_that_move_between_documents() -> Result<()> {
    Carried::new("unique-indexes", "unique")?.expect_with(&[1, 3])
}

#[test]
fn documents_of_16_megabytes() -> Result<()> {
    Carried::new("big-documents", "big")?.expect_with(&[1])
}

#[test]
fn transactions_of_every_shape() -> Result<()> {
    // A user's own applyOps updates this one by $inc, $push and upserts: a replay stops there.
    let by_a_user = Except::LeftOut("transactions_a.plain");
    Carried::except("transactions", "whole", Some(by_a_user))?.expect_with(&[1, 3])?;
    Carried::new("transactions-prepared", "prepared")?.expect_with(&[1, 3])
}

#[test]
fn a_random_mix_of_everything() -> Result<()> {
    Carried::new("workload-a", "mix")?.expect_with(&[1, 3])
}

#[test]
fn a_random_mix_over_a_copy_that_was_made_meanwhile() -> Result<()> {
    // Here a field is unset and set again: over a newer copy its place may be another one.
    let loose = Except::Loose("wl_b_3.fo");
    let carried = Carried::except("workload-b", "copy", Some(loose))?;
    carried.expect_from(&Scenario::new("workload-b").initial()?, &[1, 3])
}
