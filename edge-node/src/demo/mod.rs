//! `weir demo`: simulated sensors over real MQTT connections, a consumer group of two, and the
//! proof that every acknowledged reading was read.

mod gateway;
mod ledger;
mod sensor;
mod view;

use crate::cli::{DemoArgs, Failure, HttpTarget, Outcome};
use gateway::{Addresses, Gateway};
use ledger::Ledger;
use sensor::Sensor;
use smol::{LocalExecutor, Task, Timer};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use view::View;
use weir_bridge::client::{
    Bootstrap, Broker, Client, Consumer, ConsumerSettings, LATEST, NewTopic, OwnedRecord, Settings,
};
use weir_core::error::ErrorCode;
use weir_core::wire::group::DeleteGroupsRequest;

const MEMBERS: usize = 2;
const TOPIC: &str = "sensors";
/// How long the group may take to divide the topic, and at the end to read what is left.
const PATIENCE: Duration = Duration::from_secs(20);

/// What sensors, members and the view share.
pub struct World {
    started: Instant,
    sensors: usize,
    ledger: Ledger,
    members: Vec<Member>,
    flash: Option<Flash>,
    hint: String,
    /// Sensors publish no more; members read what is left.
    ending: bool,
    /// Everything is read: members leave their group.
    leaving: bool,
    /// Why the demo cannot go on.
    failure: Option<String>,
}

#[derive(Default)]
struct Member {
    partitions: Vec<i32>,
    read: u64,
}

struct Flash {
    written_bytes: u64,
    payload_bytes: u64,
    flushes: u64,
    flush_ms_last: f64,
    free_bytes: u64,
}

pub fn command(args: DemoArgs) -> Outcome {
    let (gateway, addresses) = match (&args.bootstrap, &args.mqtt) {
        (Some(kafka), Some(mqtt)) => {
            let (kafka, mqtt) = (kafka.clone(), mqtt.clone());
            (None, Addresses { kafka, mqtt, http: args.http.clone() })
        }
        _ => {
            let (gateway, addresses) = Gateway::start()?;
            (Some(gateway), addresses)
        }
    };
    let executor = Rc::new(LocalExecutor::new());
    let folder = gateway.as_ref().map(Gateway::folder);
    let demo = executor.run(run(&args, &addresses, folder, executor.clone()));
    smol::block_on(demo)
}

async fn run(
    args: &DemoArgs,
    addresses: &Addresses,
    folder: Option<String>,
    executor: Rc<LocalExecutor<'static>>,
) -> Outcome {
    let run = format!("demo-{}", std::process::id());
    let world = Rc::new(RefCell::new(World {
        started: Instant::now(),
        sensors: args.sensors as usize,
        ledger: Ledger::new(args.sensors as usize),
        members: (0..MEMBERS).map(|_| Member::default()).collect(),
        flash: None,
        hint: format!("weir consume {TOPIC} --key --bootstrap {}", addresses.kafka),
        ending: false,
        leaving: false,
        failure: None,
    }));
    create_topic(addresses).await?;
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let member = member(number, addresses.kafka.clone(), run.clone(), world.clone());
        members.push(executor.spawn(member));
    }
    until(PATIENCE, &world, |world| world.members.iter().all(|m| !m.partitions.is_empty())).await?;

    world.borrow_mut().started = Instant::now();
    let period = Duration::from_secs_f64(1.0 / args.rate.clamp(0.001, 10_000.0));
    let mut sensors = Vec::new();
    for number in 0..args.sensors as usize {
        let (broker, world) = (addresses.mqtt.clone(), world.clone());
        let sensor = Sensor::new(number, broker, run.clone(), period, world);
        sensors.push(executor.spawn(sensor.run()));
    }
    let mut view = View::new();
    let flash = executor.spawn(watch_flash(addresses.http.clone(), world.clone()));
    let show = async {
        let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        while end.is_none_or(|end| Instant::now() < end) && world.borrow().failure.is_none() {
            Timer::after(view.interval()).await;
            view.draw(&world.borrow());
        }
    };
    // An interrupt ends the show, and what was promised is still counted.
    show_until_interrupted(show).await?;
    world.borrow_mut().ending = true;
    drop(flash);
    let finished = async {
        for sensor in sensors {
            sensor.await;
        }
    };
    let limit = async {
        Timer::after(PATIENCE).await;
    };
    smol::future::or(finished, limit).await;
    let read = until(PATIENCE, &world, |world| world.ledger.missing() == 0).await;
    leave(members, addresses, &run, &world).await;
    view.end(&world.borrow(), folder.as_deref());
    read?;
    match world.borrow().ledger.acked {
        0 => Err(Failure::Failed("nothing was acknowledged".into())),
        _ => Ok(()),
    }
}

/// Ends the members, and the group with them, so that a gateway that goes on forgets the demo.
async fn leave(
    members: Vec<Task<()>>,
    addresses: &Addresses,
    group: &str,
    world: &Rc<RefCell<World>>,
) {
    world.borrow_mut().leaving = true;
    let left = async {
        for member in members {
            member.await;
        }
        forget_group(addresses, group).await;
    };
    let limit = async {
        Timer::after(Duration::from_secs(3)).await;
    };
    smol::future::or(left, limit).await;
}

/// Runs until it is done or a signal comes.
async fn show_until_interrupted(show: impl Future<Output = ()>) -> Outcome {
    let (signals, forward) = crate::signals::stop_signals()
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let interrupted = async {
        let _ = signals.recv().await;
    };
    smol::future::or(show, smol::future::or(interrupted, forward)).await;
    Ok(())
}

/// Waits for something of the world, with a limit.
async fn until(
    limit: Duration,
    world: &Rc<RefCell<World>>,
    reached: impl Fn(&World) -> bool,
) -> Outcome {
    let end = Instant::now() + limit;
    loop {
        if let Some(failure) = &world.borrow().failure {
            return Err(Failure::Failed(failure.clone()));
        }
        if reached(&world.borrow()) {
            return Ok(());
        }
        if Instant::now() > end {
            let missing = world.borrow().ledger.missing();
            return Err(Failure::Failed(match missing {
                0 => "the consumer group did not get its partitions in time".into(),
                missing => format!("{missing} acknowledged readings were not read"),
            }));
        }
        Timer::after(Duration::from_millis(20)).await;
    }
}

fn client(kafka: &str, name: &str) -> Client {
    Client::new(Settings::new(Bootstrap::Tcp(vec![kafka.to_string()]), name))
}

async fn create_topic(addresses: &Addresses) -> Outcome {
    let topic =
        NewTopic { name: TOPIC.into(), partitions: 4, replication_factor: -1, configs: Vec::new() };
    match client(&addresses.kafka, "weir-demo").create_topic(&topic).await {
        Err(error) if error.code() != Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
            Err(Failure::Failed(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// One member of the group; it has a connection of its own, as another process would.
async fn member(number: usize, kafka: String, run: String, world: Rc<RefCell<World>>) {
    let mut settings = ConsumerSettings { reset_to: LATEST, ..ConsumerSettings::default() };
    settings.limits.max_wait = Duration::from_millis(250);
    settings.heartbeat_interval = Duration::from_millis(500);
    let client = client(&kafka, &format!("weir-demo-{}", number + 1));
    let mut consumer = Consumer::in_group(client, &run, vec![TOPIC.into()], settings);
    let prefix = format!("{run}/sensor");
    while !world.borrow().leaving {
        let polled = match consumer.poll().await {
            Ok(polled) => polled,
            Err(error) => {
                world.borrow_mut().failure = Some(format!("member {}: {error}", number + 1));
                return;
            }
        };
        let now = Instant::now();
        {
            let mut world = world.borrow_mut();
            let positions = consumer.positions().iter().map(|from| from.partition);
            world.members[number].partitions = positions.collect();
            world.members[number].partitions.sort_unstable();
            for record in polled.iter().flat_map(|polled| &polled.records) {
                take(&mut world, number, record, &prefix, now);
            }
        }
        if !polled.is_empty()
            && let Err(error) = consumer.commit().await
        {
            log::debug!("member {}: {error}", number + 1);
        }
    }
    if let Err(error) = consumer.close().await {
        log::debug!("member {}: {error}", number + 1);
    }
}

async fn forget_group(addresses: &Addresses, group: &str) {
    let request = DeleteGroupsRequest { groups_names: vec![group.to_string()] };
    let client = client(&addresses.kafka, "weir-demo");
    if let Err(error) = client.request(Broker::Group(group), &request).await {
        log::debug!("deleting group {group}: {error}");
    }
}

fn take(world: &mut World, member: usize, record: &OwnedRecord, prefix: &str, now: Instant) {
    let key = record.key.as_deref().unwrap_or_default();
    if !key.starts_with(prefix.as_bytes()) {
        return;
    }
    let value = record.value.as_deref().unwrap_or_default();
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(value) else { return };
    let (Some(sensor), Some(number)) = (value["sensor"].as_u64(), value["number"].as_u64()) else {
        return;
    };
    world.members[member].read += 1;
    world.ledger.read(sensor as usize, number, now);
    let key = String::from_utf8_lossy(key);
    world.ledger.last = format!("{key}: {} °C", value["celsius"]);
}

/// Looks at what is on flash.
async fn watch_flash(http: Option<String>, world: Rc<RefCell<World>>) {
    let Some(http) = http else { return };
    loop {
        let target = HttpTarget { http: Some(http.clone()), json: false };
        if let Ok(status) = smol::unblock(move || target.status()).await {
            let log = &status["log"];
            let number = |name: &str| log[name].as_u64().unwrap_or(0);
            world.borrow_mut().flash = Some(Flash {
                written_bytes: number("written_bytes"),
                payload_bytes: number("payload_bytes"),
                flushes: number("flushes"),
                flush_ms_last: number("flush_ns_last") as f64 / 1e6,
                free_bytes: number("slots_free") * number("slot_bytes"),
            });
        }
        Timer::after(Duration::from_secs(1)).await;
    }
}
