//! A site of real gateways, each in a network of its own, and what befalls it.

use crate::network::{End, Network};
use crate::tools::{self, command, run};
use crate::{Gateway, folder, free_port, release_binary, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a site may take to be whole again: recovery of a log, an election, catching up.
pub const WHOLE: Duration = Duration::from_secs(60);

/// Gateways are numbered from 1 up, which are their node ids, too.
#[derive(Debug)]
pub struct Site {
    gateways: Vec<Gateway>,
    /// Those that hold partitions.
    pub brokers: Vec<usize>,
    pub network: Network,
    folder: PathBuf,
}

/// One partition, as a gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    pub leader: usize,
    pub replicas: Vec<usize>,
    pub isr: Vec<usize>,
}

impl Site {
    /// Not started yet. All of them vote and hold partitions.
    pub fn new(name: &str, count: usize) -> Site {
        Site::of(name, count, 0)
    }

    /// Two data gateways, and a third that only votes.
    pub fn with_witness(name: &str) -> Site {
        Site::of(name, 3, 1)
    }

    fn of(name: &str, count: usize, witnesses: usize) -> Site {
        let (network, folder) = (Network::new(count), folder(name));
        let peers: Vec<String> = (1..=count)
            .map(|number| format!("{}:{}", network.address(End::Gateway(number)), free_port()))
            .collect();
        let voters: Vec<String> = (1..).zip(&peers).map(|(id, at)| format!("{id}@{at}")).collect();
        let gateway = |number: usize| {
            let is_broker = number <= count - witnesses;
            let roles = if is_broker { r#"["broker", "voter"]"# } else { r#"["voter"]"# };
            let secret = folder.join(format!("secret-{number}"));
            write_secret(&secret, SECRET);
            let text = format!(
                "[node]\nid = {number}\nroles = {roles}\nrack = \"rack{number}\"\n\
                 [cluster]\nvoters = {voters:?}\nsecret_file = {secret:?}\n\
                 [peer]\nlisten = {:?}\n",
                peers[number - 1]
            );
            let mut program = network.enter(number);
            program.push(release_binary().into());
            Gateway::new(&format!("{name}-{number}"))
                .on_host(&network.address(End::Gateway(number)))
                .emulated(program)
                .config(&text)
                .set("kafka.num_partitions=2")
        };
        let gateways = (1..=count).map(gateway).collect();
        Site { gateways, brokers: (1..=count - witnesses).collect(), network, folder }
    }

    /// Starts all at once, and waits until all serve.
    pub fn started(mut self) -> Site {
        self.start_all();
        self
    }

    pub fn count(&self) -> usize {
        self.gateways.len()
    }

    pub fn gateway(&mut self, number: usize) -> &mut Gateway {
        &mut self.gateways[number - 1]
    }

    /// The addresses of all that hold partitions.
    pub fn bootstrap(&self) -> String {
        let addresses = self.brokers.iter().map(|number| self.gateways[number - 1].bootstrap());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Starts whoever does not run, and waits until all serve.
    pub fn start_all(&mut self) {
        let idle = self.gateways.iter_mut().filter(|gateway| !gateway.is_running());
        idle.for_each(Gateway::launch);
        for gateway in &mut self.gateways {
            gateway.try_serve(WHOLE).unwrap_or_else(|why| panic!("{why}"));
        }
    }

    /// `kill -9` of one.
    pub fn kill(&mut self, number: usize) {
        self.gateway(number).kill();
    }

    /// `kill -9` of all as nearly at once as it goes.
    pub fn kill_all(&mut self) {
        for gateway in self.gateways.iter().filter(|gateway| gateway.is_running()) {
            tools::signal(gateway.pid(), "STOP");
        }
        self.gateways.iter_mut().for_each(Gateway::kill);
    }

    /// It does nothing until it is thawed, and its connections stay open.
    pub fn freeze(&mut self, number: usize) {
        tools::signal(self.gateway(number).pid(), "STOP");
    }

    pub fn thaw(&mut self, number: usize) {
        tools::signal(self.gateway(number).pid(), "CONT");
    }

    /// From its next start on; `None`: the site's own.
    pub fn set_secret(&mut self, number: usize, secret: Option<&str>) {
        let path = self.folder.join(format!("secret-{number}"));
        write_secret(&path, secret.unwrap_or(SECRET));
    }

    /// Takes away everything that it has on flash, as if its card was replaced.
    pub fn wipe(&mut self, number: usize) {
        assert!(!self.gateway(number).is_running());
        fs::remove_dir_all(self.gateway(number).data()).unwrap();
    }

    /// Creates a topic that `min_insync` replicas have to confirm.
    pub fn create(&self, topic: &str, partitions: usize, replicas: usize, min_insync: usize) {
        let said = self.try_create(topic, partitions, replicas, min_insync);
        assert_eq!(said, "created", "{topic}");
        wait_for("a new topic is in sync", WHOLE, || {
            self.is_in_sync(topic, replicas).then_some(())
        });
    }

    /// The same; gives `created` or `refused` and the name of an error code.
    pub fn try_create(
        &self,
        topic: &str,
        partitions: usize,
        replicas: usize,
        min_insync: usize,
    ) -> String {
        let mut client = tools::python("site.py");
        client.args(["create", &self.bootstrap(), topic]);
        client.args([partitions.to_string(), replicas.to_string()]);
        client.arg(format!("min.insync.replicas={min_insync}"));
        run(&mut client).success().trim().into()
    }

    /// A command of the binary, such as `topic list`, by whichever gateway answers.
    pub fn weir(&self, line: &str) -> tools::Output {
        let mut command = command(&format!("{} {line}", release_binary().display()));
        run(command.env("WEIR_BOOTSTRAP", self.bootstrap()))
    }

    /// What clients are told of a topic's partitions; `None` if nobody answers.
    pub fn partitions(&self, topic: &str) -> Option<Vec<PartitionView>> {
        let list = format!("kcat -b {} -L -J -m 5 -t {topic}", self.bootstrap());
        let output = run(&mut command(&list));
        let value: Value = serde_json::from_str(&output.stdout).ok()?;
        let found = value["topics"].as_array()?.iter().find(|found| found["topic"] == topic)?;
        let number = |value: &Value| value.as_i64().and_then(|number| usize::try_from(number).ok());
        let ids = |value: &Value| {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|replica| number(&replica["id"]))
                .collect()
        };
        let mut partitions = found["partitions"].as_array()?.clone();
        partitions.sort_by_key(|partition| partition["partition"].as_i64());
        let view = |partition: &Value| {
            Some(PartitionView {
                leader: number(&partition["leader"])?,
                replicas: ids(&partition["replicas"]),
                isr: ids(&partition["isrs"]),
            })
        };
        partitions.iter().map(view).collect()
    }

    /// Whether each partition of the topic has a leader, and so many replicas in sync.
    pub fn is_in_sync(&self, topic: &str, replicas: usize) -> bool {
        self.partitions(topic).is_some_and(|partitions| {
            !partitions.is_empty() && partitions.iter().all(|view| view.isr.len() == replicas)
        })
    }

    pub fn leader(&self, topic: &str, partition: usize) -> Option<usize> {
        Some(self.partitions(topic)?.get(partition)?.leader)
    }

    /// All links, all gateways, and all replicas of these topics in sync.
    pub fn make_whole(&mut self, topics: &[(&str, usize)]) {
        self.network.heal();
        self.start_all();
        for (topic, replicas) in topics {
            wait_for(&format!("{topic} is in sync again"), WHOLE, || {
                self.is_in_sync(topic, *replicas).then_some(())
            });
        }
    }
}

const SECRET: &str = "the same on each gateway of this site";

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Drop for Site {
    fn drop(&mut self) {
        // What was frozen ends by SIGKILL all the same.
        self.gateways.iter_mut().for_each(Gateway::kill);
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}
