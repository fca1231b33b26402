//! Every recorded set through Kafka: to its end by one consumer and by three, again from the
//! beginning, and again from its middle, each time to the state that its server had.
//!
//! A test for each set, in one format. All formats with all
//! numbers of consumers take an hour: `cargo test --workspace --test sets -- --ignored combination`.

use anyhow::Result;
use oplog_relay_tests::model::{Agreement, Scenario, Version};

use crate::carry::{Carried, Form};

/// A user's own `applyOps` with operators that cannot be repeated, like `$inc`.
const BY_A_USER: &str = "transactions_a.plain";

/// By how many processes at once a set is replayed: first, from its beginning, from its middle.
const ALTERNATING: [usize; 3] = [1, 3, 1];
const MOSTLY_THREE: [usize; 3] = [3, 1, 3];

/// A recorded set.
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

    /// Its updates are logged as `$set` and `$unset`, which do not say where a field that comes back
    /// stands among the others: over a newer document it may stand elsewhere.
    fn has_modifiers(self) -> bool {
        self.version < Version::V5_0 || self.name == "fcv-switch"
    }

    /// It begins within the lives of its documents.
    fn has_beginning(self) -> bool {
        self.name == "workload-b"
    }

    fn again(self, begins_within: bool) -> Agreement {
        if self.has_modifiers() && begins_within {
            Agreement::Fields
        } else {
            Agreement::Bytes
        }
    }

    /// Of its topics: 32 characters at most.
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
        if self.has_beginning() {
            carried = carried.over(scenario.initial()?);
        }
        if self.name == "transactions" {
            let carried_as_is = carried.with(&["--unrepeatable=apply"]);
            carried = carried_as_is.unrepeatable(BY_A_USER);
        }
        let replayed = carried.first(first)?;
        replayed.rewound(second, self.again(self.has_beginning()))?;
        replayed.rewound_to_middle(third, self.again(true))?;
        if second != first {
            carried.first(second)?;
        }
        Ok(())
    }
}

/// The test of a set.
macro_rules! sets {
    ($($test:ident: $of:ident($name:literal), $form:ident, $processes:ident;)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            Set::$of($name).expect(Form::$form, $processes)
        })*

        const SETS: &[Set] = &[$(Set::$of($name)),*];
    };
}

sets! {
    big_documents_of_4_2: of_4_2("big-documents"), Raw, ALTERNATING;
    crud_types_of_4_2: of_4_2("crud-types"), CanonicalJson, MOSTLY_THREE;
    ddl_of_4_2: of_4_2("ddl"), Bson, ALTERNATING;
    transactions_of_4_2: of_4_2("transactions"), Raw, MOSTLY_THREE;
    transactions_prepared_of_4_2: of_4_2("transactions-prepared"), CanonicalJson, ALTERNATING;
    unique_indexes_of_4_2: of_4_2("unique-indexes"), Bson, MOSTLY_THREE;
    updates_of_4_2: of_4_2("updates"), Raw, ALTERNATING;
    workload_a_of_4_2: of_4_2("workload-a"), Raw, MOSTLY_THREE;
    workload_b_of_4_2: of_4_2("workload-b"), Bson, ALTERNATING;
    array_truncation_of_5_0: of_5_0("array-truncation"), Raw, MOSTLY_THREE;
    big_documents_of_5_0: of_5_0("big-documents"), CanonicalJson, MOSTLY_THREE;
    crud_types_of_5_0: of_5_0("crud-types"), Raw, ALTERNATING;
    ddl_of_5_0: of_5_0("ddl"), CanonicalJson, MOSTLY_THREE;
    ddl_5_of_5_0: of_5_0("ddl-5"), Raw, MOSTLY_THREE;
    fcv_switch_of_5_0: of_5_0("fcv-switch"), Bson, ALTERNATING;
    lookalike_entries_of_5_0: of_5_0("lookalike-entries"), CanonicalJson, ALTERNATING;
    pipeline_updates_of_5_0: of_5_0("pipeline-updates"), Raw, ALTERNATING;
    timeseries_of_5_0: of_5_0("timeseries"), Bson, MOSTLY_THREE;
    transactions_of_5_0: of_5_0("transactions"), CanonicalJson, ALTERNATING;
    transactions_prepared_of_5_0: of_5_0("transactions-prepared"), Raw, MOSTLY_THREE;
    unique_indexes_of_5_0: of_5_0("unique-indexes"), CanonicalJson, ALTERNATING;
    updates_of_5_0: of_5_0("updates"), Bson, MOSTLY_THREE;
    workload_a_of_5_0: of_5_0("workload-a"), Bson, ALTERNATING;
    workload_b_of_5_0: of_5_0("workload-b"), Raw, MOSTLY_THREE;
}

#[test]
#[ignore = "takes an hour; the tests of the sets cover every format and number of consumers"]
fn every_combination() -> Result<()> {
    let mut failures = Vec::new();
    for set in SETS {
        for form in Form::ALL {
            for count in [1, 3] {
                let outcome = set.expect(form, [count; 3]);
                let told = format!("{set:?} as {form:?} by {count}");
                match outcome {
                    Ok(()) => eprintln!("{told}: equal"),
                    Err(error) => failures.push(format!("{told}: {error:#}")),
                }
            }
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
