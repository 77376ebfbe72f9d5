//! What the mirror is doing, for console, metrics and `weir mirror status`; and its pause and
//! resume.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

/// A snapshot of every route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub routes: Vec<RouteStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    pub name: String,
    pub state: State,
    /// Bootstrap addresses of the target.
    pub target: Vec<String>,
    /// The target's cluster id, once it was heard.
    pub target_cluster: Option<String>,
    /// The transactional id, which is also the group that holds the positions.
    pub transactional_id: String,
    pub priority: i32,
    pub partitions: Vec<PartitionStatus>,
    /// Since the start of the process.
    pub records: u64,
    /// Bytes of batches as they went over the link, since the start.
    pub bytes: u64,
    pub transactions: u64,
    /// Gap markers written since the start.
    pub gaps: u64,
    /// Records left out because they come from the target or from here.
    pub loops: u64,
    /// Times that the link had to be set up anew after an error.
    pub failures: u64,
    /// Over the last seconds.
    pub records_per_second: f64,
    pub bytes_per_second: f64,
    /// The sum over the partitions.
    pub lag: i64,
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Before the first transaction: connecting, fencing, reading back the position.
    #[default]
    Connecting,
    Streaming,
    /// The next attempt comes after `retry_ms`, or at once when resumed.
    BackingOff {
        reason: String,
        retry_ms: u64,
    },
    Paused,
    /// Another gateway of the site runs the route.
    Standby,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub target_topic: String,
    /// The next source offset to be mirrored, as the target has it committed.
    pub source_position: i64,
    /// The source's last stable offset when it was last heard.
    pub source_end: i64,
    pub lag: i64,
    /// The offset on the target after the last record that was mirrored; -1 before the first one.
    pub target_offset: i64,
    pub gaps: u64,
    pub last_error: Option<String>,
}

/// The handle that the mirror and its observers share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Handle(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    routes: Vec<RouteStatus>,
    controls: Vec<Control>,
}

#[derive(Debug)]
struct Control {
    paused: bool,
    /// Holds one message when something changed: wakes the route from a wait.
    wake: (async_channel::Sender<()>, async_channel::Receiver<()>),
}

/// No such route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRoute;

impl Handle {
    pub fn new() -> Handle {
        Handle::default()
    }

    pub fn snapshot(&self) -> Status {
        Status { routes: self.lock().routes.clone() }
    }

    /// Stops a route after its transaction; its position stays.
    pub fn pause(&self, route: &str) -> Result<(), UnknownRoute> {
        self.set_paused(route, true)
    }

    /// Lets a paused route go on, and ends the wait of one that backs off.
    pub fn resume(&self, route: &str) -> Result<(), UnknownRoute> {
        self.set_paused(route, false)
    }

    fn set_paused(&self, route: &str, paused: bool) -> Result<(), UnknownRoute> {
        let mut shared = self.lock();
        let index = shared.routes.iter().position(|r| r.name == route).ok_or(UnknownRoute)?;
        let control = &mut shared.controls[index];
        control.paused = paused;
        let _ = control.wake.0.try_send(());
        Ok(())
    }

    /// Makes room for a route; its index is what the other functions take.
    pub(crate) fn register(&self, status: RouteStatus) -> RouteHandle {
        let mut shared = self.lock();
        let wake = async_channel::bounded(1);
        shared.routes.push(status);
        shared.controls.push(Control { paused: false, wake });
        RouteHandle { handle: self.clone(), index: shared.routes.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere while the lock was held leaves plain numbers behind, which are still
        // readable.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One route's own row.
#[derive(Clone, Debug)]
pub(crate) struct RouteHandle {
    handle: Handle,
    index: usize,
}

impl RouteHandle {
    pub fn update(&self, change: impl FnOnce(&mut RouteStatus)) {
        change(&mut self.handle.lock().routes[self.index]);
    }

    pub fn paused(&self) -> bool {
        self.handle.lock().controls[self.index].paused
    }

    /// Resolves when pause or resume was called.
    pub async fn woken(&self) {
        let wake = self.handle.lock().controls[self.index].wake.1.clone();
        let _ = wake.recv().await;
    }
}
