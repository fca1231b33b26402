//! Kafka's own authorizer, with exactly the rights that docs/kafka.md lists.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Kafka, KafkaOptions, Program};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::made::{BEGIN, Made};
use crate::oversize::state;
use crate::topics::LIMIT;

/// The rights: each with user, operation, resource, pattern and name, for the prefix `cdc`, the
/// source `rs0`, and groups with the names of their users.
const RIGHTS: &[&str] = &[
    // `oplog-producer run`
    "producer Create Topic prefixed cdc.",
    "producer DescribeConfigs Topic prefixed cdc.",
    "producer Write Topic prefixed cdc.",
    "producer Create Topic prefixed __cdc.",
    "producer DescribeConfigs Topic prefixed __cdc.",
    "producer Write Topic prefixed __cdc.",
    "producer Read Topic prefixed __cdc.",
    "producer Write TransactionalId prefixed cdc.",
    // `oplog-producer full-sync`
    "requester Write Topic prefixed __cdc.state.",
    // `oplog-producer position show`
    "viewer Read Topic prefixed __cdc.",
    // `oplog-producer position set`
    "mover Read Topic prefixed __cdc.",
    "mover Write Topic prefixed __cdc.",
    "mover Write TransactionalId prefixed cdc.",
    // `oplog-consumer replay`, and its `--dead-letter`
    "replayer Read Topic prefixed cdc.",
    "replayer Read Topic prefixed __cdc.",
    "replayer Read Group literal replayer",
    "replayer Create Topic literal __replayer.dead-letters",
    "replayer Write Topic literal __replayer.dead-letters",
    // `oplog-consumer emit`
    "emitter Read Topic prefixed cdc.",
    "emitter Read Topic prefixed __cdc.",
    "emitter Read Group literal emitter",
    // `oplog-consumer dead-letters`
    "lister Read Topic literal __replayer.dead-letters",
    // `oplog-consumer audit`
    "auditor Read Topic prefixed cdc.",
    "auditor Read Topic prefixed __cdc.",
    // `oplog-consumer verify` with `--brokers`
    "verifier Describe Topic prefixed cdc.",
    "verifier Read Topic prefixed __cdc.",
    "verifier Describe Group literal replayer",
    // Users who lack one of the rights.
    "describer Describe Topic prefixed __few.",
    "writer Create Topic prefixed __few.",
    "writer Write Topic prefixed __few.",
    "writer DescribeConfigs Topic prefixed __few.",
    "writer Create Topic prefixed few.",
    "loner Read Topic prefixed cdc.",
    "loner Read Topic prefixed __cdc.",
    "half Read Topic prefixed cdc.s.a",
    "half Read Topic prefixed __cdc.",
    "half Read Group literal half",
];
const USERS: [&str; 14] = [
    "producer",
    "requester",
    "viewer",
    "mover",
    "replayer",
    "emitter",
    "lister",
    "auditor",
    "verifier",
    "nobody",
    "describer",
    "writer",
    "loner",
    "half",
];

/// A cluster whose users have those rights and no others.
struct Guarded {
    kafka: Arc<Kafka>,
    oplog: tempfile::TempDir,
    made: Made,
}

impl Guarded {
    fn start() -> Result<Guarded> {
        let options = KafkaOptions {
            users: USERS.map(str::to_owned).to_vec(),
            ..KafkaOptions::default()
        };
        let kafka = Arc::new(Kafka::start(&options)?);
        let rights: Vec<String> = RIGHTS.iter().map(|right| (*right).to_owned()).collect();
        kafka.grant(&rights)?;
        let mut made = Made::default();
        made.create("s.a", 1)?;
        for id in 0..50 {
            made.insert("s.a", 1, id)?;
        }
        made.rename("s.a", 1, "s.b")?;
        for id in 0..50 {
            made.set("s.b", 1, id, doc! { "n": id })?;
        }
        let oplog = tempfile::tempdir()?;
        std::fs::write(oplog.path().join("oplog.bson"), made.oplog()?)?;
        Ok(Guarded { kafka, oplog, made })
    }

    /// Runs a program as a user; returns its exit code and all of its output.
    fn run(&self, program: &str, user: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let password = user;
        self.run_with(program, user, password, arguments)
    }

    fn run_with(
        &self,
        program: &str,
        user: &str,
        password: &str,
        arguments: &[&str],
    ) -> Result<(i32, String)> {
        let mut words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        words.push(format!("--brokers={}", self.kafka.sasl_brokers()?));
        for option in [
            "security.protocol=SASL_PLAINTEXT",
            "sasl.mechanism=PLAIN",
            &format!("sasl.username={user}"),
            &format!("sasl.password={password}"),
        ] {
            words.push(format!("--kafka-option={option}"));
        }
        let mut program = Program::start(program, words, &[])?;
        let code = program.wait(LIMIT)?;
        let said = program.stdout_text()? + &program.stderr_text()?;
        Ok((code, said))
    }

    fn produce(&self, user: &str, prefix: &str) -> Result<(i32, String)> {
        let source = self.oplog.path().join("oplog.bson");
        let source = format!("--source={}", source.display());
        let prefix = format!("--topic-prefix={prefix}");
        let common = [
            "run",
            "--http=off",
            "--start=oldest",
            "--source-name=rs0",
            &source,
            &prefix,
        ];
        self.run("oplog-producer", user, &common)
    }

    /// Replays or emits as a member of a group that has the user's name.
    fn consume(&self, user: &str, command: &str, more: &[&str]) -> Result<(i32, String)> {
        let group = format!("--group={user}");
        let common = [
            command,
            "--http=off",
            "--topic-prefix=cdc",
            "--until-caught-up",
            &group,
        ];
        self.run("oplog-consumer", user, &[&common, more].concat())
    }

    /// Appends a record that is not an entry to a topic.
    fn spoil(&self, topic: &str) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.brokers())
            .create()?;
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0);
        let sent = producer.send(record.payload(b"no entry"));
        sent.map_err(|(error, _)| error)?;
        producer.flush(LIMIT)?;
        Ok(())
    }
}

fn expect(what: &str, code: i32, part: &str, (ended, said): (i32, String)) -> Result<()> {
    ensure!(
        ended == code && said.contains(part),
        "{what} ended with {ended}: {said}"
    );
    Ok(())
}

#[test]
fn the_documented_rights_are_enough_and_a_missing_one_is_named() -> Result<()> {
    let guarded = Guarded::start()?;
    expect("run", 0, "done", guarded.produce("producer", "cdc")?)?;
    let request = [
        "full-sync",
        "--topic-prefix=cdc",
        "--source-name=rs0",
        "--namespaces=s.b",
    ];
    let requested = guarded.run("oplog-producer", "requester", &request)?;
    expect("full-sync", 0, "", requested)?;
    let audit = ["audit", "--topic-prefix=cdc"];
    let audited = guarded.run("oplog-consumer", "auditor", &audit)?;
    expect("audit", 0, "", audited)?;
    let emitted = guarded.consume("emitter", "emit", &["--to=stdout"])?;
    expect("emit", 0, "clusterTime", emitted)?;

    let target = ModelServer::start(Model::default())?;
    let to = format!("--target={}", target.uri());
    guarded.spoil("cdc.s.b")?;
    let flags = [to.as_str(), "--dead-letter=undecodable"];
    let replayed = guarded.consume("replayer", "replay", &flags)?;
    expect("replay", 0, "dead letter", replayed)?;
    let expected = guarded.made.expected()?;
    ensure!(state(&target) == expected.state());
    let list = ["dead-letters", "--group=replayer"];
    let listed = guarded.run("oplog-consumer", "lister", &list)?;
    expect("dead-letters", 0, "cdc.s.b", listed)?;
    let source = ModelServer::start(Model::default())?;
    let verify = [
        "verify",
        "--topic-prefix=cdc",
        "--group=replayer",
        "--source-name=rs0",
        "--patience=1s",
        &format!("--source={}", source.uri()),
        &to,
    ];
    // The source is empty and the target has documents, so the comparison may report differences.
    let (code, said) = guarded.run("oplog-consumer", "verifier", &verify)?;
    ensure!(
        [0, 7].contains(&code) && !said.contains("uthoriz"),
        "{code}: {said}"
    );

    let few = |user| guarded.produce(user, "few");
    let position = "__few.position.rs0";
    let right = format!("needs the right Describe on topic {position}");
    expect("no right", 1, &right, few("nobody")?)?;
    let right = format!("needs the right Create on topic {position}");
    expect("no Create", 1, &right, few("describer")?)?;
    let right = "needs the right Write on the transactional id few.rs0";
    expect("no transactional id", 1, right, few("writer")?)?;
    let right = "needs the right Read on the group";
    let emitted = guarded.consume("loner", "emit", &["--to=stdout"])?;
    expect("no group", 1, right, emitted)?;
    let target = ModelServer::start(Model::default())?;
    let to = format!("--target={}", target.uri());
    let right = "does not have the rights Describe and Read on topic cdc.s.b";
    let replayed = guarded.consume("half", "replay", &[&to])?;
    expect("a hidden topic", 1, right, replayed)?;
    positions_need_only_the_internal_topics(&guarded)?;
    a_refused_login_is_not_a_dead_broker(&guarded)
}

fn positions_need_only_the_internal_topics(guarded: &Guarded) -> Result<()> {
    let of = ["--topic-prefix=cdc", "--source-name=rs0"];
    let show = [&["position", "show"], &of[..]].concat();
    let shown = guarded.run("oplog-producer", "viewer", &show)?;
    expect("position show", 0, "prefix cdc", shown)?;
    let to = format!("--to={BEGIN}:1");
    let set = [&["position", "set", "--term=1", "--fence", &to], &of[..]].concat();
    let refused = guarded.run("oplog-producer", "viewer", &set)?;
    let right = "needs the right Write on the transactional id cdc.rs0";
    expect("position set without a right", 1, right, refused)?;
    let moved = guarded.run("oplog-producer", "mover", &set)?;
    expect("position set", 0, "sent again", moved)
}

fn a_refused_login_is_not_a_dead_broker(guarded: &Guarded) -> Result<()> {
    let source = guarded.oplog.path().join("oplog.bson");
    let source = format!("--source={}", source.display());
    let attempts: [(&str, &[&str]); 4] = [
        (
            "oplog-producer",
            &[
                "run",
                "--http=off",
                "--source-name=rs0",
                "--topic-prefix=cdc",
                &source,
            ],
        ),
        (
            "oplog-consumer",
            &[
                "emit",
                "--http=off",
                "--topic-prefix=cdc",
                "--group=emitter",
                "--to=stdout",
            ],
        ),
        ("oplog-consumer", &["audit", "--topic-prefix=cdc"]),
        ("oplog-consumer", &["dead-letters", "--group=emitter"]),
    ];
    for (program, arguments) in attempts {
        let ended = guarded.run_with(program, "emitter", "not-the-password", arguments)?;
        ensure!(
            !ended.1.contains("not-the-password"),
            "the password was shown"
        );
        expect(arguments[0], 1, "refuses the credentials", ended)?;
    }
    Ok(())
}
