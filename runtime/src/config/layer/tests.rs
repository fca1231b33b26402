use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::*;
use crate::config::{Secret, parse_duration};
use crate::exit::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "relay", version = "1.2.3")]
struct Relay {
    #[arg(long, global = true, default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    command: Run,
}

#[derive(Debug, Subcommand)]
enum Run {
    Replay(Replay),
    Status {
        #[arg(long)]
        group: Option<String>,
        #[arg(long, help_heading = COMMAND_LINE_ONLY)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct Replay {
    /// Where to.
    #[arg(long)]
    target: Secret,
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    #[arg(long, value_parser = parse_duration, default_value = "10s")]
    wait: Duration,
    #[arg(long)]
    dry_run: bool,
    #[arg(long = "kafka-option")]
    kafka_options: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    #[arg(long)]
    policy: Option<Policy>,
}

#[derive(Debug, Clone, PartialEq, ValueEnum)]
enum Policy {
    Stop,
    Count,
}

fn parse(args: &str, env: &[(&str, &str)]) -> Result<Relay, ConfigError> {
    let args = std::iter::once("relay").chain(args.split_whitespace());
    let env = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    parse_layered_from(args, env, &["OPLOG_NEIGHBOUR"])
}

fn replay(args: &str, env: &[(&str, &str)]) -> Replay {
    match parse(args, env).unwrap().command {
        Run::Replay(replay) => replay,
        Run::Status { .. } => panic!("another subcommand"),
    }
}

/// A file in the temporary directory that is removed with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("oplog-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn flag(&self) -> String {
        format!("--config {}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

#[test]
fn defaults_apply_where_nothing_is_given() {
    let replay = replay("replay --target t", &[("HOME", "/root")]);
    assert_eq!(
        (replay.partitions, replay.wait),
        (4, Duration::from_secs(10))
    );
    assert!(!replay.dry_run);
    assert!(replay.kafka_options.is_empty());
    assert_eq!(replay.policy, None);
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let file = File::new(
        "layers",
        "target = \"from file\"\npartitions = 8\nwait = \"1m\"\ndry_run = true\n\
         kafka_option = [\"a=b,c\", \"d=e\"]\nnamespaces = [\"x.y\"]\npolicy = \"stop\"\n\
         log_level = \"warn\"\ngroup = \"g\"\n",
    );
    let args = format!("{} replay", file.flag());
    let from_file = replay(&args, &[]);
    assert_eq!(from_file.target.expose(), "from file");
    assert_eq!(
        (from_file.partitions, from_file.wait),
        (8, Duration::from_secs(60))
    );
    assert!(from_file.dry_run);
    assert_eq!(from_file.kafka_options, ["a=b,c", "d=e"]);
    assert_eq!(from_file.policy, Some(Policy::Stop));
    assert_eq!(parse(&args, &[]).unwrap().log_level, "warn");

    let env = [
        ("OPLOG_PARTITIONS", "16"),
        ("OPLOG_DRY_RUN", "0"),
        ("OPLOG_KAFKA_OPTION", "f=g\nh=i,j\n"),
        ("OPLOG_NAMESPACES", "a.b,c.d"),
        ("OPLOG_WAIT", ""),
        ("OPLOG_POLICY", "count"),
    ];
    let from_env = replay(&args, &env);
    assert_eq!(
        (from_env.partitions, from_env.wait),
        (16, Duration::from_secs(60))
    );
    assert!(!from_env.dry_run);
    assert_eq!(from_env.kafka_options, ["f=g", "h=i,j"]);
    assert_eq!(from_env.namespaces, ["a.b", "c.d"]);
    assert_eq!(from_env.policy, Some(Policy::Count));

    let flags = "--partitions 2 --dry-run --kafka-option k=l --log-level debug --policy=stop";
    let from_flags = replay(&format!("{args} {flags}"), &env);
    assert_eq!(from_flags.partitions, 2);
    assert!(from_flags.dry_run);
    assert_eq!(from_flags.kafka_options, ["k=l"]);
    assert_eq!(from_flags.policy, Some(Policy::Stop));
    let log_level = parse(&format!("{args} {flags}"), &env).unwrap().log_level;
    assert_eq!(log_level, "debug");
}

#[derive(Debug, Parser)]
struct Sources {
    #[arg(long)]
    source: Vec<String>,
}

#[test]
fn a_source_may_be_a_table_or_an_object_of_several_lines() {
    let sources = |args: &[&str], env: &[(&str, &str)]| {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        parse_layered_from::<Sources>(args, env, &[])
            .unwrap()
            .source
    };
    let file = File::new(
        "tables",
        "[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n",
    );
    let path = file.0.to_str().unwrap();
    let tables = [r#"{"name":"a"}"#, r#"{"name":"b"}"#];
    assert_eq!(sources(&["relay", "--config", path], &[]), tables);
    let object = "{\n\"name\": \"a\"\n}";
    assert_eq!(sources(&["relay"], &[("OPLOG_SOURCE", object)]), [object]);
    let lines = sources(&["relay"], &[("OPLOG_SOURCE", "a=x\nb=y\n")]);
    assert_eq!(lines, ["a=x", "b=y"]);
}

#[test]
fn the_command_line_can_unset_a_switch_of_the_file() {
    let file = File::new("switch", "dry_run = true\ntarget = \"t\"");
    assert!(!replay(&format!("replay {} --dry-run=false", file.flag()), &[]).dry_run);
    assert!(replay("replay --target t --dry-run", &[]).dry_run);
}

#[test]
fn the_environment_names_the_file_and_the_flag_wins() {
    let one = File::new("one", "target = \"one\"");
    let two = File::new("two", "target = \"two\"");
    let path = one.0.to_str().unwrap();
    assert_eq!(
        replay("replay", &[("OPLOG_CONFIG", path)]).target.expose(),
        "one"
    );
    let args = format!("replay --config={}", two.0.display());
    assert_eq!(
        replay(&args, &[("OPLOG_CONFIG", path)]).target.expose(),
        "two"
    );
}

#[test]
fn every_fault_is_reported_with_its_place_and_without_its_value() {
    let file = File::new(
        "faults",
        "partitons = 8\nwait = \"hunter2\"\npolicy = [\"stop\"]\nconfig = \"x\"\n[kafka]\na = 1\n",
    );
    let env = [
        ("OPLOG_PARTITIONS", "hunter2"),
        ("OPLOG_GRUOP", "g"),
        ("OPLOG_RELAY_TEST", "1"),
        ("OPLOG_NEIGHBOUR", "1"),
    ];
    let error = parse(&format!("replay {}", file.flag()), &env).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let text = error.to_string().replace(file.0.to_str().unwrap(), "FILE");
    insta::assert_snapshot!(text, @r"
    OPLOG_GRUOP: no flag corresponds to this variable (did you mean OPLOG_GROUP?)
    FILE, config: a configuration file cannot name another one
    FILE, kafka: no flag corresponds to this key
    FILE, partitons: no flag corresponds to this key (did you mean partitions?)
    OPLOG_PARTITIONS: invalid digit found in string
    FILE, wait: expected a duration such as 500ms, 10s or 1h30m
    FILE, policy: takes one value, not a list
    command line: the following required arguments were not provided: --target <TARGET>
    ");
}

#[test]
fn a_key_of_another_subcommand_is_ignored() {
    let file = File::new("other", "target = \"t\"\ngroup = \"g\"\nwait = \"never\"");
    match parse(&format!("status {}", file.flag()), &[])
        .unwrap()
        .command
    {
        Run::Status { group, .. } => assert_eq!(group.as_deref(), Some("g")),
        Run::Replay(_) => panic!("another subcommand"),
    }
}

#[test]
fn an_invalid_file_is_reported_with_the_line_but_without_its_content() {
    let file = File::new("broken", "target = \"t\"\nwait = hunter2\n");
    let text = parse(&format!("replay {}", file.flag()), &[])
        .unwrap_err()
        .to_string();
    assert!(text.contains(", line 2: "), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let text = parse("status --config /nowhere/x.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("/nowhere/x.toml: cannot be read: "),
        "{text}"
    );
}

#[test]
fn help_is_shown_despite_faults_with_variable_names_and_without_values() {
    let env = [("OPLOG_TARGET", "hunter2"), ("OPLOG_NONE", "x")];
    let error = parse("replay --help", &env).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Done);
    let text = error.to_string();
    assert!(text.contains("Where to [env: OPLOG_TARGET]"), "{text}");
    assert!(text.contains("[env: OPLOG_DRY_RUN]"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn mistakes_on_the_command_line_are_reported_by_clap() {
    let error = parse("replay --target t --no-such-flag", &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Usage(_)));
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let error = parse("replay", &[]).unwrap_err();
    assert!(error.to_string().contains("--target"), "{error}");
}

#[test]
fn a_flag_for_one_run_is_not_taken_from_the_file_or_the_environment() {
    let forced = parse("status --force", &[]).unwrap().command;
    assert!(matches!(forced, Run::Status { force: true, .. }));
    let file = File::new("force", "force = true");
    for refused in [
        parse("status", &[("OPLOG_FORCE", "true")]),
        parse(&format!("status {}", file.flag()), &[]),
    ] {
        assert!(matches!(refused, Err(ConfigError::Faults(_))));
    }
}
