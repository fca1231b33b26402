//! The memory that documents of 16 MB need.

use anyhow::Result;

use super::case::Case;
use super::options::Options;
use super::scene::Scene;
use super::verdict::{MOST_MIB_LARGE, at_most};
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

const PREFIX: &str = "large";

/// Sends large documents to Kafka, to a target and to JSON, and reports the peak memory of each.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = options.partitions.first().copied().unwrap_or(1);
    let recipe = Recipe::new(options.large_entries, Shape::Large);
    let source = StubProcess::start(&recipe, Flow::Past)?;
    let mut lines = vec![format!(
        "{} documents of 16 MB, {partitions} partitions",
        recipe.entries
    )];
    for case in [Case::Bson, Case::ReplayInserts, Case::EmitBson] {
        let mut place = scene.place(&source, PREFIX, partitions, recipe.entries);
        place.group = case.name().to_owned();
        let measured = scene.run(case, &place, source.id())?;
        eprintln!(
            "{} of 16 MB documents in {:.2?}",
            case.name(),
            measured.total
        );
        let what = format!("{}, peak", case.name());
        lines.push(at_most(&what, measured.peak_mib(), MOST_MIB_LARGE, "MiB"));
    }
    scene.remove(PREFIX)?;
    Ok(lines.join("\n"))
}
