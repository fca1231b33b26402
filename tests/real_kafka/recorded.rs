//! Every recorded oplog through Kafka: to its end by one consumer and by three, again from its
//! start, and again from its middle. Each time the target must end in the state of the recorded
//! server.
//!
//! There is a test for each oplog, in one format. All formats with all numbers of consumers take
//! half an hour: `cargo test --workspace --test real_kafka -- --ignored combination`.

use anyhow::Result;
use oplog_relay_kit::model::{Agreement, Scenario, Version};

use crate::carry::{Carried, Form};

/// A collection that a user's own `applyOps` updates with operators that are not idempotent, such
/// as `$inc`.
const BY_A_USER: &str = "transactions_a.plain";

/// The number of concurrent processes of each replay: the first one, the one from the start, and
/// the one from the middle.
const ALTERNATING: [usize; 3] = [1, 3, 1];
const MOSTLY_THREE: [usize; 3] = [3, 1, 3];

/// A recorded oplog.
#[derive(Debug, Clone, Copy)]
struct Set {
    version: Version,
    name: &'static str,
}

impl Set {
    const fn of_4_2(name: &'static str) -> Set {
        let version = Version::V4_2;
        Set { version, name }
    }

    const fn of_5_0(name: &'static str) -> Set {
        let version = Version::V5_0;
        Set { version, name }
    }

    /// Returns true if its updates are logged as `$set` and `$unset`. These do not record where in
    /// the document a field is, so applied to a newer document they may leave it in another place.
    fn has_modifiers(self) -> bool {
        self.version < Version::V5_0 || self.name == "fcv-switch"
    }

    /// Returns true if the recording began when the collections already had documents.
    fn begins_with_documents(self) -> bool {
        self.name == "workload-b"
    }

    /// Returns the required agreement of a replay into a target that is ahead. `begins_within` is
    /// true if the replay begins after documents were inserted.
    fn again(self, begins_within: bool) -> Agreement {
        if self.has_modifiers() && begins_within {
            Agreement::Fields
        } else {
            Agreement::Bytes
        }
    }

    /// Returns the prefix of its topics: 32 characters at most.
    fn prefix(self, form: Form, processes: usize) -> String {
        let version = if self.version == Version::V4_2 { 4 } else { 5 };
        let form = match form {
            Form::Raw => "raw",
            Form::Bson => "bson",
            Form::CanonicalJson => "json",
        };
        format!("{}-{version}{form}{processes}", self.name)
    }

    fn expect(self, form: Form, processes: [usize; 3]) -> Result<()> {
        let [first, second, third] = processes;
        let scenario = Scenario::recorded_by(self.version, self.name).within_the_applier()?;
        let mut carried = Carried::recorded(scenario.clone(), &self.prefix(form, first), form)?;
        if self.begins_with_documents() {
            carried = carried.over(scenario.initial()?);
        }
        if self.name == "transactions" {
            let carried_as_is = carried.with(&["--unrepeatable=apply"]);
            carried = carried_as_is.unrepeatable(BY_A_USER);
        }
        let replayed = carried.first(first)?;
        replayed.rewound(second, self.again(self.begins_with_documents()))?;
        replayed.rewound_to_middle(third, self.again(true))?;
        if second != first {
            carried.first(second)?;
        }
        Ok(())
    }
}

/// All recorded oplogs.
const SETS: [Set; 24] = [
    Set::of_4_2("big-documents"),
    Set::of_4_2("crud-types"),
    Set::of_4_2("ddl"),
    Set::of_4_2("transactions"),
    Set::of_4_2("transactions-prepared"),
    Set::of_4_2("unique-indexes"),
    Set::of_4_2("updates"),
    Set::of_4_2("workload-a"),
    Set::of_4_2("workload-b"),
    Set::of_5_0("array-truncation"),
    Set::of_5_0("big-documents"),
    Set::of_5_0("crud-types"),
    Set::of_5_0("ddl"),
    Set::of_5_0("ddl-5"),
    Set::of_5_0("fcv-switch"),
    Set::of_5_0("lookalike-entries"),
    Set::of_5_0("pipeline-updates"),
    Set::of_5_0("timeseries"),
    Set::of_5_0("transactions"),
    Set::of_5_0("transactions-prepared"),
    Set::of_5_0("unique-indexes"),
    Set::of_5_0("updates"),
    Set::of_5_0("workload-a"),
    Set::of_5_0("workload-b"),
];

#[test]
fn big_documents_of_4_2() -> Result<()> {
    Set::of_4_2("big-documents").expect(Form::Raw, ALTERNATING)
}

#[test]
fn crud_types_of_4_2() -> Result<()> {
    Set::of_4_2("crud-types").expect(Form::CanonicalJson, MOSTLY_THREE)
}

#[test]
fn ddl_of_4_2() -> Result<()> {
    Set::of_4_2("ddl").expect(Form::Bson, ALTERNATING)
}

#[test]
fn transactions_of_4_2() -> Result<()> {
    Set::of_4_2("transactions").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
fn transactions_prepared_of_4_2() -> Result<()> {
    Set::of_4_2("transactions-prepared").expect(Form::CanonicalJson, ALTERNATING)
}

#[test]
fn unique_indexes_of_4_2() -> Result<()> {
    Set::of_4_2("unique-indexes").expect(Form::Bson, MOSTLY_THREE)
}

#[test]
fn updates_of_4_2() -> Result<()> {
    Set::of_4_2("updates").expect(Form::Raw, ALTERNATING)
}

#[test]
fn workload_a_of_4_2() -> Result<()> {
    Set::of_4_2("workload-a").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
fn workload_b_of_4_2() -> Result<()> {
    Set::of_4_2("workload-b").expect(Form::Bson, ALTERNATING)
}

#[test]
fn array_truncation_of_5_0() -> Result<()> {
    Set::of_5_0("array-truncation").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
fn big_documents_of_5_0() -> Result<()> {
    Set::of_5_0("big-documents").expect(Form::CanonicalJson, MOSTLY_THREE)
}

#[test]
fn crud_types_of_5_0() -> Result<()> {
    Set::of_5_0("crud-types").expect(Form::Raw, ALTERNATING)
}

#[test]
fn ddl_of_5_0() -> Result<()> {
    Set::of_5_0("ddl").expect(Form::CanonicalJson, MOSTLY_THREE)
}

#[test]
fn ddl_5_of_5_0() -> Result<()> {
    Set::of_5_0("ddl-5").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
fn fcv_switch_of_5_0() -> Result<()> {
    Set::of_5_0("fcv-switch").expect(Form::Bson, ALTERNATING)
}

#[test]
fn lookalike_entries_of_5_0() -> Result<()> {
    Set::of_5_0("lookalike-entries").expect(Form::CanonicalJson, ALTERNATING)
}

#[test]
fn pipeline_updates_of_5_0() -> Result<()> {
    Set::of_5_0("pipeline-updates").expect(Form::Raw, ALTERNATING)
}

#[test]
fn timeseries_of_5_0() -> Result<()> {
    Set::of_5_0("timeseries").expect(Form::Bson, MOSTLY_THREE)
}

#[test]
fn transactions_of_5_0() -> Result<()> {
    Set::of_5_0("transactions").expect(Form::CanonicalJson, ALTERNATING)
}

#[test]
fn transactions_prepared_of_5_0() -> Result<()> {
    Set::of_5_0("transactions-prepared").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
fn unique_indexes_of_5_0() -> Result<()> {
    Set::of_5_0("unique-indexes").expect(Form::CanonicalJson, ALTERNATING)
}

#[test]
fn updates_of_5_0() -> Result<()> {
    Set::of_5_0("updates").expect(Form::Bson, MOSTLY_THREE)
}

#[test]
fn workload_a_of_5_0() -> Result<()> {
    Set::of_5_0("workload-a").expect(Form::Bson, ALTERNATING)
}

#[test]
fn workload_b_of_5_0() -> Result<()> {
    Set::of_5_0("workload-b").expect(Form::Raw, MOSTLY_THREE)
}

#[test]
#[ignore = "takes half an hour; the other tests cover every format and number of consumers"]
fn every_combination() -> Result<()> {
    let mut failures = Vec::new();
    for set in SETS {
        for form in Form::ALL {
            for count in [1, 3] {
                let outcome = set.expect(form, [count; 3]);
                let combination = format!("{set:?} as {form:?} by {count}");
                match outcome {
                    Ok(()) => eprintln!("{combination}: equal"),
                    Err(error) => failures.push(format!("{combination}: {error:#}")),
                }
            }
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
