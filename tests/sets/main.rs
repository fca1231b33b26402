//! Oplogs through real Kafka, eight partitions and one or several consumer processes, into a
//! target that holds all that a server holds.

mod carry;
mod ddl;
mod dead_letters;
mod disk;
mod idle;
mod kills;
mod lives;
mod made;
mod memory;
mod oversize;
mod position;
mod resets;
mod routing;
mod subscription;
mod topics;

use anyhow::Result;
use oplog_relay_tests::model::{Model, ModelServer, Scenario};

use carry::Carried;

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
    // A user's own applyOps has $inc and $push.
    let whole = Carried::new("transactions", "whole")?;
    whole.with(&["--unrepeatable=apply"]).expect_with(&[1, 3])?;
    Carried::new("transactions-prepared", "prepared")?.expect_with(&[1, 3])
}

#[test]
fn a_users_own_updates_stop_or_become_dead_letters() -> Result<()> {
    let carried = Carried::new("transactions", "twice")?;
    let target = ModelServer::start(Model::default())?;
    let told = (6, "--unrepeatable apply");
    carried.topics.refused(&target, "twice", &[], told)?;
    let flags = ["--unrepeatable=dead-letter"];
    carried
        .topics
        .replay(&target, "twice", 3, &flags)
        .map(drop)?;
    let mut state = target.model().state();
    state.retain(|ns, _| !ns.starts_with(carry::CATALOG) && ns != "transactions_a.plain");
    let scenario = Scenario::new("transactions").without("transactions_a.plain");
    scenario.expect(&state)
}

#[test]
fn a_random_mix_of_everything() -> Result<()> {
    Carried::new("workload-a", "mix")?.expect_with(&[1, 3])
}

#[test]
fn a_random_mix_over_a_copy_that_was_made_meanwhile() -> Result<()> {
    // Here a field is unset and set again: over a newer copy its place may be another one.
    let carried = Carried::new("workload-b", "copy")?.loose("wl_b_3.fo");
    carried.expect_from(&Scenario::new("workload-b").initial()?, &[1, 3])
}
