//! The configuration layers below the command line (environment and file), and how they are passed to
//! clap.
//!
//! Both layers become defaults of the flags, which yields the right precedence. Their values are
//! checked here first, each with the parser of its flag, so that every invalid value is reported with
//! its location. clap itself would stop at the first one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, ValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Parser};

use super::fault::{ConfigError, Faults};
use super::suggest;

/// The heading of flags that only the command line can set, because they are meant for one run. In a
/// file or an environment that programs share they would become permanent.
pub const COMMAND_LINE_ONLY: &str = "Only on the command line";

/// The prefix of this project's environment variables.
const ENV_PREFIX: &str = "OPLOG_";
/// The prefix of variables for the project's own tests.
const TEST_PREFIX: &str = "OPLOG_RELAY_";
/// The key whose list may contain tables: the sources, each with settings of its own.
const SOURCE: &str = "source";
/// The flag that names the configuration file.
const CONFIG: &str = "config";

/// Reads flags, environment and file into the program's arguments.
///
/// `ignored` lists variables with this project's prefix that belong to other programs.
///
/// # Errors
/// [`ConfigError`] with every fault of the layers, or with clap's message about the command line
/// (including help and version).
pub fn parse_layered<T: Parser>(ignored: &[&str]) -> Result<T, ConfigError> {
    parse_layered_from(std::env::args_os(), std::env::vars_os(), ignored)
}

/// Reads the arguments like [`parse_layered`], from a given command line (program name first) and
/// environment.
///
/// # Errors
/// [`ConfigError`] as in [`parse_layered`].
pub fn parse_layered_from<T: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString>>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    ignored: &[&str],
) -> Result<T, ConfigError> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut faults = Faults::new();
    let command = with_config_flag(T::command());
    let known = known_keys(&command);
    let env = read_env(env, &known, ignored, &mut faults);
    let file = match config_path(&args, &env) {
        Some(path) => read_file(&path, &known, &mut faults),
        None => Layer::default(),
    };
    let mut command = overlay(command, &args, &[env, file], &mut faults);
    let parsed = command
        .try_get_matches_from_mut(args)
        .and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    match parsed {
        Err(error) if !error.use_stderr() => return Err(ConfigError::Usage(Box::new(error))),
        Err(error) if faults.is_empty() => {
            return Err(ConfigError::Usage(Box::new(error.format(&mut command))));
        }
        Err(error) => faults.add("command line", message(&error)),
        Ok(parsed) => return faults.finish().map(|()| parsed),
    }
    Err(ConfigError::Faults(faults.found().to_vec()))
}

/// The values of a layer by key, each with its location for messages.
#[derive(Default)]
struct Layer {
    values: BTreeMap<String, (String, Given)>,
}

/// A value in the form in which its layer provides it.
enum Given {
    One(String),
    Many(Vec<String>),
    /// A text, which is split into lines if the flag accepts a list.
    Lines(String),
}

impl Given {
    /// Returns the flag's values, or the reason why the flag does not accept them.
    fn values(&self, arg: &Arg) -> Result<Vec<String>, String> {
        let raw: Vec<&str> = match self {
            Self::One(value) => vec![value],
            Self::Many(values) if is_list(arg) => values.iter().map(String::as_str).collect(),
            Self::Many(_) => return Err("takes one value, not a list".to_owned()),
            // An object may be spread over several lines.
            Self::Lines(text) if is_list(arg) && is_one_object(text) => vec![text],
            Self::Lines(text) if is_list(arg) => text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect(),
            Self::Lines(text) => vec![text],
        };
        let Some(delimiter) = arg.get_value_delimiter() else {
            return Ok(raw.into_iter().map(str::to_owned).collect());
        };
        Ok(raw
            .into_iter()
            .flat_map(|value| value.split(delimiter))
            .map(str::to_owned)
            .collect())
    }
}

/// Returns true for the text of one JSON object.
fn is_one_object(text: &str) -> bool {
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(text);
    object.is_ok()
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
        || arg
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1)
        || arg.get_value_delimiter().is_some()
}

fn with_config_flag(command: Command) -> Command {
    if command
        .get_arguments()
        .any(|arg| arg.get_long() == Some(CONFIG))
    {
        return command;
    }
    let arg = Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .global(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Reads settings from this TOML file; its keys are the flags, with underscores");
    command.arg(arg)
}

/// Returns the key of a flag in the configuration file. Positional arguments have no key, nor do flags
/// under the heading [`COMMAND_LINE_ONLY`].
fn key_of(arg: &Arg) -> Option<String> {
    if arg.get_help_heading() == Some(COMMAND_LINE_ONLY) {
        return None;
    }
    match arg.get_long() {
        None | Some("help" | "version") => None,
        Some(long) => Some(long.replace('-', "_")),
    }
}

fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase())
}

/// Returns the keys of all flags of all subcommands, because they share one file and one
/// environment.
fn known_keys(command: &Command) -> Vec<String> {
    let mut keys: Vec<String> = command.get_arguments().filter_map(key_of).collect();
    for subcommand in command.get_subcommands() {
        keys.extend(known_keys(subcommand));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn read_env(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    known: &[String],
    ignored: &[&str],
    faults: &mut Faults,
) -> Layer {
    let names: BTreeMap<String, &String> = known.iter().map(|key| (env_name(key), key)).collect();
    let mut layer = Layer::default();
    for (name, value) in env {
        let name = name.to_string_lossy().into_owned();
        let foreign = !name.starts_with(ENV_PREFIX)
            || name.starts_with(TEST_PREFIX)
            || ignored.contains(&name.as_str());
        // Compose files and shells use an empty variable for "not set".
        if foreign || value.is_empty() {
            continue;
        }
        let Some(key) = names.get(&name) else {
            let hint = suggest::hint(&name, names.keys().map(String::as_str));
            faults.add(name, format!("no flag corresponds to this variable{hint}"));
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                layer
                    .values
                    .insert((*key).clone(), (name, Given::Lines(value)));
            }
            Err(_) => faults.add(name, "the value is not UTF-8"),
        }
    }
    layer
}

/// Returns the path of the configuration file, before the arguments are parsed: the last one on the
/// command line, otherwise that of the environment variable.
fn config_path(args: &[OsString], env: &Layer) -> Option<PathBuf> {
    let mut path = None;
    let mut args = args.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--config" {
            path = args.next().map(PathBuf::from);
        } else if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            path = Some(PathBuf::from(value));
        }
    }
    path.or_else(|| match env.values.get(CONFIG) {
        Some((_, Given::Lines(value))) => Some(PathBuf::from(value)),
        _ => None,
    })
}

fn read_file(path: &Path, known: &[String], faults: &mut Faults) -> Layer {
    let mut layer = Layer::default();
    let place = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            faults.add(place, format!("cannot be read: {error}"));
            return layer;
        }
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // The parser's full message quotes the line, which may contain a secret.
            let line = error.span().map_or(0, |span| line_of(&text, span.start));
            faults.add(format!("{place}, line {line}"), error.message());
            return layer;
        }
    };
    for (key, value) in table {
        let place = format!("{place}, {key}");
        if key == CONFIG {
            faults.add(place, "a configuration file cannot name another one");
        } else if !known.contains(&key) {
            let hint = suggest::hint(&key, known.iter().map(String::as_str));
            faults.add(place, format!("no flag corresponds to this key{hint}"));
        } else if let Some(given) = faults.take_or(&place, given(&key, value)) {
            layer.values.insert(key, (place, given));
        }
    }
    layer
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

fn given(key: &str, value: toml::Value) -> Result<Given, String> {
    match value {
        toml::Value::Array(values) => {
            let element = if key == SOURCE { element } else { scalar };
            let texts: Option<Vec<String>> = values.into_iter().map(element).collect();
            texts
                .map(Given::Many)
                .ok_or_else(|| "a list can contain only plain values".to_owned())
        }
        value => scalar(value)
            .map(Given::One)
            .ok_or_else(|| "tables are not supported".to_owned()),
    }
}

/// Returns the text of an element of the list of sources: a table as a JSON object, which the flag
/// parses.
fn element(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::Table(table) => serde_json::to_string(&table).ok(),
        value => scalar(value),
    }
}

fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Datetime(time) => Some(time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

/// Applies the layers to the flags of the command and of its active subcommand.
fn overlay(
    mut command: Command,
    args: &[OsString],
    layers: &[Layer],
    faults: &mut Faults,
) -> Command {
    let names: Vec<&OsStr> = args.iter().skip(1).map(OsString::as_os_str).collect();
    let used = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .find(|name| names.iter().any(|arg| *arg == name.as_str()));
    command = command.mut_args(|arg| layered(arg, layers, faults));
    match used {
        None => command,
        Some(name) => {
            command.mut_subcommand(name, |subcommand| overlay(subcommand, args, layers, faults))
        }
    }
}

/// Returns a flag with the highest-priority value of the layers as its default.
fn layered(arg: Arg, layers: &[Layer], faults: &mut Faults) -> Arg {
    let Some(key) = key_of(&arg) else { return arg };
    let arg = with_env_help(with_switch_value(arg), &env_name(&key));
    let Some((place, given)) = layers.iter().find_map(|layer| layer.values.get(&key)) else {
        return arg;
    };
    let values = given.values(&arg).and_then(|values| {
        check(&arg, &values)?;
        Ok(values)
    });
    // The flag counts as set even if its value is invalid, because the fault of the value is more
    // useful than the message that the flag is missing.
    let arg = arg.required(false).hide_default_value(true);
    match faults.take_or(place, values) {
        Some(values) if !values.is_empty() => arg.default_values(values),
        _ => arg,
    }
}

/// Makes a switch accept `=true` and `=false`, so that the command line can override the file.
fn with_switch_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("true|false")
        .value_parser(BoolishValueParser::new())
        .hide_possible_values(true)
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
}

fn with_env_help(arg: Arg, name: &str) -> Arg {
    let with_name = |help: &clap::builder::StyledStr| format!("{help} [env: {name}]");
    let long = arg.get_long_help().map(with_name);
    let short = arg
        .get_help()
        .map_or_else(|| format!("[env: {name}]"), with_name);
    match long {
        Some(long) => arg.help(short).long_help(long),
        None => arg.help(short),
    }
}

/// Runs the flag's parser on each value.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    let parser: ValueParser = arg.get_value_parser().clone();
    let flag = Arg::new("value")
        .long("value")
        .value_parser(parser)
        .allow_hyphen_values(true);
    let command = Command::new("check").no_binary_name(true).arg(flag);
    for value in values {
        command
            .clone()
            .try_get_matches_from([format!("--value={value}")])
            .map_err(refusal)?;
    }
    Ok(())
}

/// Returns the reason why a parser refused a value, without the value, which may be a secret.
#[allow(
    clippy::needless_pass_by_value,
    reason = "map_err requires this signature"
)]
fn refusal(error: clap::Error) -> String {
    if let Some(source) = std::error::Error::source(&error) {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("expected one of: {}", valid.join(", "))
        }
        _ => "the value is not accepted".to_owned(),
    }
}

/// Returns clap's message on one line, without the advice that follows it.
fn message(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests;
