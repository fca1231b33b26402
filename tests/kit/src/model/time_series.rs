//! Time series as MongoDB 5.0 shows them: a collection of buckets and a view over it.

use bson::{Bson as Value, Document as Bson, doc};

use super::Model;
use super::command::{Answer, Call, done};
use super::failure::Failure;
use super::namespace::{BUCKETS, VIEWS};
use super::options::integer;
use super::version::Version;

/// Granularities, the finest first, with the maximum number of seconds that a bucket spans.
const GRANULARITIES: [(&str, i32); 3] =
    [("seconds", 3600), ("minutes", 86_400), ("hours", 2_592_000)];

impl Model {
    /// Runs `create` with `timeseries`.
    pub(super) fn add_time_series(
        &mut self,
        db: &str,
        name: &str,
        given: &Bson,
    ) -> Result<(), Failure> {
        let buckets = format!("{BUCKETS}{name}");
        if self.collection(db, &buckets).is_some() {
            let message = format!("Collection {db}.{buckets} already exists");
            return Err(Failure::new(48, message));
        }
        let series = completed(given)?;
        let mut options = doc! {
            "validator": validator(series.get_str("timeField").unwrap_or_default()),
            "clusteredIndex": true,
        };
        for (option, value) in given {
            if option != "timeseries" {
                options.insert(option, value.clone());
            }
        }
        options.insert("timeseries", series.clone());
        self.add(db, &buckets, options)?;
        let view = doc! { "viewOn": buckets, "pipeline": pipeline(&series) };
        self.add_view(db, name, &view)
    }

    /// Returns the buckets of a time series; `None` for any other name.
    pub(super) fn buckets_of(&self, db: &str, name: &str) -> Option<String> {
        let view = self.view(db, name)?;
        let on = view.get_str("viewOn").ok()?;
        let is_series = on.starts_with(BUCKETS) && self.collection(db, on).is_some();
        is_series.then(|| on.to_owned())
    }

    /// Runs `collMod` of a time series. A change of the granularity also changes the view; everything else
    /// concerns the buckets.
    pub(super) fn change_time_series(
        &mut self,
        call: Call<'_>,
        buckets: &str,
        mut given: Bson,
    ) -> Answer {
        let (db, name) = (call.db, call.collection()?);
        if let Some(change) = given.remove("timeseries") {
            let change = change.as_document().cloned().unwrap_or_default();
            let series = self.required(db, buckets)?;
            let old = series.options.get_document("timeseries").cloned();
            let mut old = old.unwrap_or_default();
            if let Some(granularity) = change.get("granularity") {
                check_transition(&old, granularity)?;
                old.insert("granularity", granularity.clone());
                old.remove("bucketMaxSpanSeconds");
            }
            let changed = completed(&doc! { "timeseries": old })?;
            series.options.insert("timeseries", changed.clone());
            self.change_view(db, name, &doc! { "pipeline": pipeline(&changed) })?;
        }
        if given.is_empty() {
            return done(doc! {});
        }
        self.change_collection(call, buckets, &given)
    }

    /// Drops a time series by its own name or that of its buckets, even if the view does not exist.
    /// Returns false if there are no buckets.
    pub(super) fn drop_time_series(&mut self, db: &str, name: &str) -> Result<bool, Failure> {
        let series = name.strip_prefix(BUCKETS).unwrap_or(name);
        let buckets = format!("{BUCKETS}{series}");
        if self.collection(db, &buckets).is_none() {
            return Ok(false);
        }
        if self.view(db, series).is_some() {
            self.remove_view(db, series)?;
        }
        self.take(db, &buckets);
        Ok(true)
    }

    /// Runs `applyOps` that replaces the definition of one view.
    pub(super) fn apply_ops(&mut self, call: Call<'_>) -> Answer {
        let only = || Failure::new(238, "the model supports applyOps only to replace one view");
        let operation = call.subject.document()?.first()?.ok_or_else(only)?;
        let operation = operation.document()?;
        let field = |name: &str| operation.get(name)?.ok_or_else(only);
        let ns = format!("{}.{VIEWS}", call.db);
        if field("op")?.str()? != "u" || field("ns")?.str()? != ns {
            return Err(only());
        }
        let (filter, definition) = (field("o2")?.document()?, field("o")?.document()?);
        let views = self.required(call.db, VIEWS)?;
        let found = views.select(filter)?;
        let record = found.first().ok_or_else(only)?;
        views.replace(&ns, *record, definition.as_bytes().to_vec())?;
        done(doc! { "applied": 1, "results": [true] })
    }

    /// Fails with 125 for `system.views` while the database has a time series.
    pub(super) fn check_views_may_go(&self, db: &str, name: &str) -> Result<(), Failure> {
        let is_series = |listed: &Bson| {
            listed
                .get_str("type")
                .is_ok_and(|kind| kind == "timeseries")
        };
        if name == VIEWS && self.version >= Version::V5_0 && self.listed(db).iter().any(is_series) {
            let message = format!(
                "cannot drop collection {db}.{VIEWS} when time-series collections are present."
            );
            return Err(Failure::new(125, message));
        }
        Ok(())
    }
}

/// Returns `timeseries` as `listCollections` shows it.
fn completed(options: &Bson) -> Result<Bson, Failure> {
    let mut series = options
        .get_document("timeseries")
        .cloned()
        .unwrap_or_default();
    if !series.contains_key("timeField") {
        return Err(Failure::missing_field("create.timeseries.timeField"));
    }
    let granularity = series.get_str("granularity").unwrap_or("seconds");
    let known = GRANULARITIES.iter().find(|(name, _)| *name == granularity);
    let Some((granularity, span)) = known else {
        let message = format!("Enumeration value '{granularity}' is not valid");
        return Err(Failure::new(2, message));
    };
    let given = integer(&series, "bucketMaxSpanSeconds");
    if given.is_some_and(|given| given != i64::from(*span)) {
        let message = format!(
            "Timeseries 'bucketMaxSpanSeconds' is not configurable to a value other than the \
             default of {span} for the provided granularity"
        );
        return Err(Failure::new(72, message));
    }
    series.insert("granularity", *granularity);
    series.insert("bucketMaxSpanSeconds", *span);
    Ok(series)
}

/// Checks that a granularity stays the same or becomes the next coarser one.
fn check_transition(old: &Bson, granularity: &Value) -> Result<(), Failure> {
    let place = |name: Option<&str>| {
        GRANULARITIES
            .iter()
            .position(|(known, _)| Some(*known) == name)
    };
    let before = place(old.get_str("granularity").ok()).unwrap_or_default();
    match place(granularity.as_str()) {
        Some(after) if after == before || after == before + 1 => Ok(()),
        _ => Err(Failure::new(
            72,
            "Invalid transition for timeseries.granularity. Can only transition from 'seconds' to \
             'minutes' or 'minutes' to 'hours'.",
        )),
    }
}

fn pipeline(series: &Bson) -> Vec<Bson> {
    let mut stage = Bson::new();
    for field in ["timeField", "metaField", "bucketMaxSpanSeconds"] {
        if let Some(value) = series.get(field) {
            stage.insert(field, value.clone());
        }
    }
    stage.insert("exclude", Vec::<Value>::new());
    vec![doc! { "$_internalUnpackBucket": stage }]
}

fn validator(time_field: &str) -> Bson {
    let dates = doc! {
        "bsonType": "object", "required": [time_field],
        "properties": { time_field: { "bsonType": "date" } },
    };
    let control = doc! {
        "bsonType": "object", "required": ["version", "min", "max"],
        "properties": {
            "version": { "bsonType": "number" },
            "min": dates.clone(),
            "max": dates,
            "closed": { "bsonType": "bool" },
        },
    };
    doc! { "$jsonSchema": {
        "bsonType": "object", "required": ["_id", "control", "data"],
        "properties": {
            "_id": { "bsonType": "objectId" },
            "control": control,
            "data": { "bsonType": "object" },
            "meta": {},
        },
        "additionalProperties": false,
    } }
}
