//! Key compaction, as Kafka's own tools see it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;
use weir_tests::kafka::{script, tool};
use weir_tests::tools::{run, run_with_input};
use weir_tests::{Broker, kafka, wait_for};

/// The gateway looks for something to compact each ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn kafkas_log_compaction_tester_passes_whatever_the_codec() {
    let broker = Broker::started("compaction-tester");
    let servers = broker.bootstrap();
    let test = |codec| {
        let mut command = script();
        command.args(["tool", "log-compaction-tester", "--bootstrap-server", &servers]);
        command.args(["--messages", "60000", "--topics", "2", "--percent-deletes", "10"]);
        let said = run(command.args(["--sleep", "15", "--compression-type", codec])).success();
        assert!(said.contains(" 0 mismatches"), "{codec}: {said}");
        let reduction = said.split_once("data consumed (").unwrap().1;
        let reduction: f64 = reduction.split_once('%').unwrap().0.parse().unwrap();
        assert!(reduction > 50.0, "{codec}: {said}");
    };
    std::thread::scope(|scope| {
        for codec in ["none", "zstd"] {
            scope.spawn(move || test(codec));
        }
    });
}

#[test]
fn kafka_configs_changes_the_policy_while_the_gateway_runs() {
    let broker = Broker::started("compaction-configs");
    let servers = broker.bootstrap();
    let ask =
        |name: &str, args: &[&str]| tool(name, &[&["--bootstrap-server", &servers], args].concat());
    ask("topics", &["--create", "--topic", "t"]).success();
    let produce = |prefix: &str, count: usize| {
        let lines: String = (0..count).map(|i| format!("k{}:{prefix}{i:060}\n", i % 10)).collect();
        let mut command = kafka::script();
        command.args(["tool", "console-producer", "--bootstrap-server", &servers, "--topic", "t"]);
        command.args(["--property", "parse.key=true", "--property", "key.separator=:"]);
        run_with_input(&mut command, lines.as_bytes()).success();
    };
    produce("old", 5_000);
    let alter = |configs: &str| {
        let topic = ["--alter", "--entity-type", "topics", "--entity-name", "t"];
        ask("configs", &[&topic[..], &["--add-config", configs]].concat())
    };
    for (wrong, why) in [
        ("cleanup.policy=remove", "String must be one of: compact, delete"),
        ("min.compaction.lag.ms=10,max.compaction.lag.ms=5", "conflict topic config setting"),
    ] {
        let said = alter(wrong);
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains(why) || said.stdout.contains(why), "{said:?}");
    }
    alter("cleanup.policy=[compact,delete],min.cleanable.dirty.ratio=0.01").success();
    produce("new", 10);
    let described =
        ask("configs", &["--describe", "--entity-type", "topics", "--entity-name", "t"]);
    assert!(described.success().contains("cleanup.policy=compact,delete"));
    let read =
        || run(weir_tests::tools::command("kcat -q -C -e -o beginning -t t -b").arg(&servers));
    // What was last is what is left, but for the newest batch before.
    wait_for("the topic to be compacted", LIMIT, || {
        (read().success().lines().count() < 500).then_some(())
    });
    let left = read().success();
    let last: Vec<&str> = left.lines().rev().take(10).collect();
    assert!(last.iter().all(|line| line.starts_with("new")), "{left}");
    let keyless = {
        let mut command = kafka::script();
        command.args(["tool", "console-producer", "--bootstrap-server", &servers, "--topic", "t"]);
        command.args(["--producer-property", "compression.type=lz4"]);
        run_with_input(&mut command, b"no key\n")
    };
    assert!(keyless.stderr.contains("InvalidRecord"), "{keyless:?}");
}
