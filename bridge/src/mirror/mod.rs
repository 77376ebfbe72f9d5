//! The mirror: topics of this cluster to a central Kafka, each record once and in order.
//!
//! ```text
//! Reader     the source: fetches, finds gaps, packs for the link (Rebatcher)     load
//! Writer     the target: a transaction with a load and the positions behind it   committed
//! Session    both, from fencing to the first error
//! Running    a route: session after session, with waits in between
//! ```
//!
//! Outbound only. A transaction on the target holds the records *and* the source positions,
//! committed as offsets of group `weir.<cluster>.<route>`, which is the transactional id, too. A
//! session starts with InitProducerId, which fences whoever had the route before and ends what it
//! left open, and then reads the positions back: so it does not matter what was lost on the way, an
//! answer, a process, or the target's memory of producers. Errors have one way out: the next
//! session.
//!
//! Why one transactional id for a route and none for each partition (2026-11): a transaction costs
//! four round trips and the coordinator two writes whatever it holds, so on a metered link all
//! partitions share one. Why the id does not name the gateway: whichever gateway of a cluster runs
//! the route fences the one before it, which is what keeps records single when a route moves.
//!
//! All gateways of a site have the same routes, and the first of those that serve runs them; the
//! others wait. When it dies, the next one fences it and goes on at the positions on the target.
//! Why not each its part (2026-11): the link to the target is what is scarce, and one transaction
//! for all partitions is the cheapest on it. Two that both believe to be first, for as long as one
//! of them is cut off from its site, fence each other; nothing is there twice, but both are slow.
//!
//! Why the positions stand under the *target's* topic names: Kafka 4 refuses offsets of topics that
//! it does not have (UNKNOWN_TOPIC_OR_PARTITION). The partition is the same on both sides, and the
//! name is the source's behind the prefix. Who deletes a topic on the target deletes its positions
//! with it: it is mirrored anew from the start.
//!
//! Not yet: TLS and SASL to the target, copying topic configs.

mod backoff;
mod budget;
mod gap;
mod position;
mod reader;
mod rebatch;
mod recover;
mod route;
mod session;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod writer;

pub use gap::GAP;
pub use rebatch::{
    HEADER_CLUSTER, HEADER_OFFSET, HEADER_PARTITION, HEADER_TIMESTAMP, HEADER_TOPIC,
};
pub use settings::{Route, StartAt, TopicFilter};
pub use status::{Handle, PartitionStatus, RouteStatus, State, Status, UnknownRoute};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use futures_lite::FutureExt;

use crate::client::{Bootstrap, Client, Settings, join_all};
use budget::Turns;
use route::Running;
use status::RouteHandle;

/// How long a transaction that is under way may take when the mirror is stopped. One that does not
/// end is ended by the next start, or by the target after a minute.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Mirrors every route until `stop` gets a message or is closed. An error is a wrong section, as a
/// sentence. Packing batches takes the caller's thread: give it one of its own.
pub async fn run(
    routes: Vec<Route>,
    source: Bootstrap,
    handle: Handle,
    stop: Receiver<()>,
) -> Result<(), String> {
    let (turns, stopping) = (Turns::default(), Stopping::default());
    let mut running = Vec::new();
    for settings in routes {
        settings.check()?;
        let filter = settings.filter()?;
        let status = RouteStatus {
            name: settings.name.clone(),
            target: settings.bootstrap.clone(),
            priority: settings.priority,
            ..RouteStatus::default()
        };
        // A connection of its own for each: a fetch that waits holds up what comes behind it.
        let source = Client::new(Settings {
            retry_for: Duration::from_secs(5),
            ..Settings::new(source.clone(), "weir-mirror")
        });
        let shared = Shared {
            handle: handle.register(status),
            turns: turns.clone(),
            stopping: stopping.clone(),
        };
        running.push(Running::new(settings, filter, source, shared));
    }
    let routes = async {
        join_all(running.into_iter().map(Running::run)).await;
        std::future::pending::<()>().await;
    };
    let stopped = async {
        let _ = stop.recv().await;
        stopping.wanted.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while stopping.committing.load(Ordering::Relaxed) > 0 && start.elapsed() < STOP_WITHIN {
            smol::Timer::after(Duration::from_millis(10)).await;
        }
    };
    routes.or(stopped).await;
    Ok(())
}

/// What a stop has to know: whether it is wanted, and how many transactions are under way.
#[derive(Clone, Debug, Default)]
struct Stopping {
    wanted: Arc<AtomicBool>,
    committing: Arc<AtomicUsize>,
}

/// What routes share with the others and with their observers.
struct Shared {
    handle: RouteHandle,
    turns: Turns,
    stopping: Stopping,
}
