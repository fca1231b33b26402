//! Both programs with a real broker. Most sources are dumps, most topics have eight partitions, and
//! most targets are fake mongods.

mod absent_topics;
mod avro;
mod carry;
mod change_streams;
mod ddl;
mod dead_letters;
mod disk;
mod envelopes;
mod examples;
mod foreign_input;
mod foreign_readers;
mod full_documents;
mod held_moves;
mod idle;
mod incarnations;
mod instances;
mod kafka_tools;
mod kills;
mod large_documents;
mod made;
mod markers;
mod memory;
mod moved_positions;
mod new_topics;
mod oldest_kafka;
mod out;
mod oversize;
mod position;
mod quotas;
mod recorded;
mod resets;
mod rights;
mod routing;
mod several_sources;
mod stalls;
mod starts;
mod subscription;
mod topics;

use anyhow::Result;
use oplog_relay_kit::model::{Model, ModelServer, Scenario};

use carry::Carried;

#[test]
fn a_users_own_updates_stop_or_become_dead_letters() -> Result<()> {
    let carried = Carried::new("transactions", "twice")?;
    let target = ModelServer::start(Model::default())?;
    let refusal = (6, "--unrepeatable apply");
    carried.topics.refused(&target, "twice", &[], refusal)?;
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
