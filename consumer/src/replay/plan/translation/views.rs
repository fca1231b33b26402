//! Translates writes to `system.views` of an oplog into commands for a target.

use oplog_relay_core::document::{Document, Malformed, kind};
use oplog_relay_core::entry::{Entry, Operation};

use super::{Action, run, with_name, without_version};
use crate::replay::plan::PlanFault;

/// Translates a write to `system.views`. The view over a time series is created with the series.
pub(crate) fn view(entry: &Entry<'_>, name: &str) -> Result<Action, PlanFault> {
    if entry.operation == Operation::Delete {
        // The entry does not distinguish a view from a time series, so the target is queried later.
        let view = name.to_owned();
        return Ok(Action::DropView { view });
    }
    if unpacks_buckets(entry.o)? {
        if entry.operation == Operation::Insert {
            return Ok(Action::Nothing);
        }
        let definition = entry.o.as_bytes().to_vec();
        return Ok(Action::ChangeSeriesView { definition });
    }
    let definition = |command: &'static str| {
        with_name(command, name, |out| {
            for field in entry.o.elements() {
                let field = field?;
                match field.name {
                    b"_id" => {}
                    // The collation of a view cannot be changed.
                    b"collation" if command == "collMod" => {}
                    b"collation" if field.kind == kind::DOCUMENT => {
                        out.document("collation", Document::new(&without_version(field)?)?);
                    }
                    _ => {
                        out.element(field);
                    }
                }
            }
            Ok(())
        })
    };
    let modify = definition("collMod")?;
    if entry.operation == Operation::Update {
        return Ok(run(modify, &[]));
    }
    Ok(Action::Run {
        command: definition("create")?,
        accept: &[],
        // If the view exists, with the same or an older definition, it is modified.
        otherwise: Some(modify),
    })
}

/// Returns true if the view is the one over the buckets of a time series.
fn unpacks_buckets(view: Document<'_>) -> Result<bool, Malformed> {
    let Some(pipeline) = view.get("pipeline")? else {
        return Ok(false);
    };
    let Some(stage) = pipeline.document()?.first()? else {
        return Ok(false);
    };
    let stage = stage.document()?.first()?;
    Ok(stage.is_some_and(|stage| stage.name.starts_with(b"$_internalUnpackBucket")))
}
