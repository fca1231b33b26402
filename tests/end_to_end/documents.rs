//! The documentation, checked against the programs: the help of each command, metrics, exit codes,
//! flags, links and paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oplog_consumer::dead_letter::Reason;
use oplog_producer::encode::chunk::Chunk;
use oplog_producer::oplog_window::OplogWindow;
use oplog_producer::telemetry::oplog_window::KnownWindow;
use oplog_relay_core::command::{self, Treatment};
use oplog_relay_core::position::Timestamp;
use oplog_relay_kit::services::Program;
use oplog_relay_runtime::exit::ExitCode;
use prometheus::Registry;

/// The environment variable that makes the tests write the pages instead of comparing them.
const REFRESH: &str = "OPLOG_RELAY_REFRESH_DOCUMENTS";
const LIMIT: Duration = Duration::from_secs(20);

const CONFIGURATION: &str = "docs/configuration.md";
const ERRORS: &str = "docs/errors.md";
const METRICS: &str = "docs/metrics.md";
const REPLAY: &str = "docs/replay.md";
const COMMANDS: [(&str, &[&str]); 2] = [
    (
        "oplog-producer",
        &[
            "run",
            "inspect",
            "full-sync",
            "position show",
            "position list",
            "position set",
            "position import",
            "health",
        ],
    ),
    (
        "oplog-consumer",
        &[
            "replay",
            "emit",
            "verify",
            "audit",
            "cutover",
            "dead-letters",
            "health",
        ],
    ),
];

/// Flags of Kafka's tools, of mongod and mongodump, of cargo and of the tests' own programs, and
/// the flag that every program has.
const FOREIGN_FLAGS: [&str; 30] = [
    "--add",
    "--all-topics",
    "--allow-principal",
    "--alter",
    "--bins",
    "--bootstrap-server",
    "--cases",
    "--consumer-property",
    "--describe",
    "--execute",
    "--ignored",
    "--isolation-level",
    "--json",
    "--no-deps",
    "--open",
    "--operation",
    "--oplog",
    "--quick",
    "--release",
    "--replSet",
    "--reset-offsets",
    "--resource-pattern-type",
    "--some-name",
    "--svg",
    "--test",
    "--to-datetime",
    "--topic",
    "--transactional-id",
    "--version",
    "--workspace",
];

fn root() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(tests.parent().context("no parent")?.to_owned())
}

/// Returns the paths of the documents of the project, from its root.
fn documents() -> Result<Vec<String>> {
    let mut found: Vec<String> = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ]
    .map(str::to_owned)
    .to_vec();
    found.push("examples/README.md".to_owned());
    found.push("tests/README.md".to_owned());
    found.push("tests/hard_cases.md".to_owned());
    for entry in fs::read_dir(root()?.join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name)
            .extension()
            .is_some_and(|kind| kind == "md")
        {
            found.push(format!("docs/{name}"));
        }
    }
    Ok(found)
}

fn read(document: &str) -> Result<String> {
    fs::read_to_string(root()?.join(document)).context(document.to_owned())
}

/// Returns a section of a page: a heading and the output of a program.
fn section(heading: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let mut run = Program::start(program, arguments, &[])?;
    let code = run.wait(LIMIT)?;
    ensure!(code == 0, "{program} {arguments:?} ended with {code}");
    let printed = run.stdout_text()?;
    Ok(format!(
        "\n## {heading}\n\n```text\n{}\n```\n",
        printed.trim_end()
    ))
}

/// Compares the sections at the end of a page with the expected ones, or writes them.
fn check_sections(path: &str, sections: &str) -> Result<()> {
    let page = read(path)?;
    let first = sections.lines().nth(1).context("no section")?;
    let introduction = page.split(first).next().unwrap_or_default();
    let expected = format!("{}\n{sections}", introduction.trim_end());
    if std::env::var_os(REFRESH).is_some() {
        fs::write(root()?.join(path), &expected)?;
    } else if let Some((shown, printed)) = first_difference(&page, &expected) {
        bail!(
            "{path} has {shown:?} where the program prints {printed:?}: run this test with \
             {REFRESH}=1 to write the page"
        );
    }
    Ok(())
}

/// Returns the section with the metrics of a program.
fn section_of_metrics(program: &str, registry: &Registry) -> String {
    let rows = registry.gather().into_iter().map(|family| {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        format!("| `{}` | {kind} | {} |\n", family.name(), family.help())
    });
    let rows: String = rows.collect();
    format!("\n## Metrics of {program}\n\n| name | type | meaning |\n| --- | --- | --- |\n{rows}")
}

/// Checks that the help text of each metric names its labels and their values.
fn check_labels(registry: &Registry) -> Result<()> {
    for family in registry.gather() {
        let (name, help) = (family.name(), family.help());
        let is_in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_named = |text: &str| {
            help.split(|c: char| !is_in_word(c))
                .any(|word| word == text)
        };
        for metric in family.get_metric() {
            for label in metric.get_label() {
                let (label, value) = (label.name(), label.value());
                ensure!(is_named(label), "{name}: no label {label} in {help:?}");
                let is_version = name.ends_with("_build_info");
                ensure!(
                    is_version || is_named(value),
                    "{name}: no {label} {value} in {help:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn the_page_of_the_metrics_has_all_of_them() -> Result<()> {
    let producer = oplog_producer::telemetry::metrics::Metrics::new()?;
    let consumer = oplog_consumer::telemetry::metrics::Metrics::new()?;
    // A metric with a label exists from its first value on.
    producer.failed("source");
    producer.sent(&Chunk::default(), 0);
    let window = OplogWindow {
        oldest: Timestamp::new(1, 1),
        newest: Timestamp::new(9, 1),
    };
    producer.set_oplog_window(Some(KnownWindow {
        window,
        position: Some(window.newest),
        lost_in: None,
    }));
    consumer.count_error("commit");
    for reason in Reason::ALL {
        consumer.count_dead_letter(reason);
    }
    check_labels(&producer.registry)?;
    check_labels(&consumer.registry)?;
    let programs = [
        ("oplog-producer", &producer.registry),
        ("oplog-consumer", &consumer.registry),
    ];
    let sections = programs.map(|(program, registry)| section_of_metrics(program, registry));
    check_sections(METRICS, &sections.concat())
}

/// Returns the effect of a command on a replay.
const fn effect(treatment: Treatment) -> &'static str {
    match treatment {
        Treatment::Barrier => {
            "runs after all earlier and before all later writes of its collections"
        }
        Treatment::Build => "runs after all earlier writes of its collections",
        Treatment::Inline => {
            "runs in the order of partition 0, or behind a barrier if an index can refuse documents"
        }
        Treatment::Ignore => "has no effect",
        Treatment::Stop => "stops the replay",
    }
}

#[test]
fn the_page_of_a_replay_has_all_commands() -> Result<()> {
    let rows = command::COMMANDS.iter().map(|known| {
        let effect = effect(known.treatment);
        format!("| `{}` | {effect} | {} |\n", known.name, known.reason)
    });
    let rows: String = rows.collect();
    let section = format!(
        "\n## Commands of the oplog\n\n\
         A command that stops the replay ends it with exit code 6, and so does a command that is not in this \
         table. With `--dead-letter command` it becomes a dead letter, and the replay continues without it. \
         The producer splits the commands of transactions (`applyOps`, `commitTransaction`, \
         `abortTransaction`) into operations.\n\n\
         | command | in a replay | reason |\n| --- | --- | --- |\n{rows}"
    );
    check_sections(REPLAY, &section)
}

#[test]
fn the_page_of_the_configuration_shows_the_help_of_each_command() -> Result<()> {
    let mut sections = String::new();
    for (program, commands) in COMMANDS {
        for command in commands {
            let heading = format!("{program} {command}");
            let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
            sections.push_str(&section(&heading, program, &words)?);
        }
    }
    check_sections(CONFIGURATION, &sections)
}

#[test]
fn the_page_of_errors_shows_what_a_replay_does_about_each_code() -> Result<()> {
    let heading = "Error codes of a target";
    let arguments = ["replay", "--help-errors"];
    check_sections(ERRORS, &section(heading, "oplog-consumer", &arguments)?)
}

#[test]
fn the_page_of_errors_names_every_exit_code() -> Result<()> {
    let page = read(ERRORS)?;
    for code in ExitCode::ALL {
        let number = code.code().to_string();
        let is_row = |line: &&str| {
            let cell = line
                .strip_prefix("| ")
                .and_then(|rest| rest.split(" |").next());
            cell.is_some_and(|cell| cell.split(", ").any(|named| named == number))
        };
        ensure!(
            page.lines().any(|line| is_row(&line)),
            "{ERRORS} has no row for {code}"
        );
    }
    Ok(())
}

fn first_difference<'a>(page: &'a str, expected: &'a str) -> Option<(&'a str, &'a str)> {
    let pad = std::iter::repeat("(nothing)");
    let most = page.lines().count().max(expected.lines().count());
    let lines = page.lines().chain(pad.clone());
    lines
        .zip(expected.lines().chain(pad))
        .take(most)
        .find(|(shown, given)| shown != given)
}

/// Returns all `--flag`s of a text.
fn flags(text: &str) -> BTreeSet<String> {
    let is_in_flag = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c: char| !is_in_flag(c))
        .filter(|word| word.starts_with("--") && word.len() > 3)
        .filter(|word| word.as_bytes()[2].is_ascii_lowercase())
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

#[test]
fn every_flag_that_a_document_names_exists() -> Result<()> {
    let mut known: BTreeSet<String> = FOREIGN_FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    known.extend(flags(&read(CONFIGURATION)?));
    for document in documents()? {
        let unknown: Vec<_> = flags(&read(&document)?)
            .difference(&known)
            .cloned()
            .collect();
        ensure!(
            unknown.is_empty(),
            "{document} names unknown flags {unknown:?}"
        );
    }
    Ok(())
}

/// Returns the anchor that a heading has in rendered Markdown.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

/// Returns the targets of the links `[…](target)` in a text, except web addresses.
fn links(text: &str) -> Vec<&str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn every_link_of_a_document_leads_somewhere() -> Result<()> {
    for document in documents()? {
        let text = read(&document)?;
        for link in links(&text) {
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let folder = root()?.join(&document);
            let folder = folder.parent().context("no parent")?.to_owned();
            let target = match path {
                "" => root()?.join(&document),
                path => folder.join(path),
            };
            ensure!(target.exists(), "{document}: {link} does not exist");
            if !place.is_empty() {
                let text = fs::read_to_string(&target)?;
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut headings = headings.map(|line| anchor(line.trim_start_matches('#')));
                ensure!(
                    headings.any(|heading| heading == place),
                    "{document}: no heading {link}"
                );
            }
        }
    }
    Ok(())
}

/// Returns the paths that a text in backticks names: `a/{b,c}.rs` names two.
fn paths(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return vec![text.to_owned()];
    };
    let (among, after) = rest.split_once('}').unwrap_or((rest, ""));
    among
        .split(',')
        .map(|one| format!("{before}{one}{after}"))
        .collect()
}

#[test]
fn every_path_that_the_page_of_the_tests_names_exists() -> Result<()> {
    let page = read("tests/README.md")?;
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let named = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    // The others are commands, functions and environment variables.
    let is_path = |text: &&str| {
        let is_variable = text.starts_with("OPLOG_RELAY_");
        !text.contains(' ') && !text.contains("::") && !is_variable
    };
    let mut count = 0;
    for path in named.filter(is_path).flat_map(paths) {
        let places = ["tests", ".", "producer/src", "consumer/src"];
        let exists = places
            .iter()
            .any(|place| root().is_ok_and(|root| root.join(place).join(&path).exists()));
        let is_command = ["verify", "audit", "cutover"].contains(&path.as_str());
        ensure!(
            exists || is_command,
            "tests/README.md: {path} does not exist"
        );
        count += 1;
    }
    ensure!(count > 40, "only {count} paths");
    Ok(())
}
