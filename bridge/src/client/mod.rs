//! Our Kafka client: what the bridge and the command line speak to the local node or to any Kafka.
//!
//! ```text
//! Client         brokers, metadata, leader routing, retries     request, produce, fetch, topics, …
//! Connection     one broker: pipelined requests, time-outs     TCP, or in memory to the local node
//! Transaction    a transactional producer on top of a client
//! Consumer       a member of a consumer group on top of a client
//! ```
//!
//! Everything has a time-out and a bound: a broker that does not answer is given up with its
//! connection, and no more is read into memory than has really arrived. Plain TCP only; no TLS and
//! no SASL yet.

mod admin;
mod assignor;
mod connection;
mod consumer;
mod error;
mod fetch;
mod group;
mod metadata;
mod produce;
mod records;
mod transaction;
mod versions;

pub use admin::NewTopic;
pub(crate) use connection::without_size;
pub use consumer::{Consumer, ConsumerSettings, Polled};
pub use error::{Error, ErrorKind, Result};
pub(crate) use fetch::join_all;
pub use fetch::{EARLIEST, FetchFrom, FetchLimits, Fetched, LATEST, OffsetAt};
pub use group::CommittedOffset;
pub use metadata::{Cluster, Partition, Topic};
pub use produce::{Acks, Produced, ToPartition};
pub(crate) use records::record_timestamp;
pub use records::{Batch, Batches, OwnedRecord, decode_records, open_section};
pub use transaction::{Transaction, TransactionalId};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use weir_core::error::ErrorCode;
use weir_core::wire::Request;
use weir_core::wire::group::FindCoordinatorRequest;

use crate::{LocalNode, MemoryConnection};
use connection::{Address, Connection, ConnectionSettings};
use metadata::MetadataCache;

/// Where a cluster is found first.
#[derive(Clone)]
pub enum Bootstrap {
    /// The node in the same process; other nodes of its cluster over TCP.
    Local(Arc<dyn LocalNode>),
    /// `host:port` of some brokers.
    Tcp(Vec<String>),
}

#[derive(Clone)]
pub struct Settings {
    pub bootstrap: Bootstrap,
    /// What brokers show in their logs and quotas.
    pub client_id: String,
    pub connect_timeout: Duration,
    /// How long a broker may take for an answer, beyond the time that the request itself allows
    /// it.
    pub request_timeout: Duration,
    /// How long retriable errors are retried before they are returned.
    pub retry_for: Duration,
    /// Connections that were idle longer are opened anew.
    pub idle_max: Duration,
}

impl Settings {
    pub fn new(bootstrap: Bootstrap, client_id: &str) -> Settings {
        Settings {
            bootstrap,
            client_id: client_id.to_string(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(30),
            idle_max: Duration::from_secs(240),
        }
    }
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker<'a> {
    /// Whoever is connected.
    Any,
    Controller,
    Node(i32),
    Leader(&'a str, i32),
    /// The coordinator of a consumer group.
    Group(&'a str),
    /// The coordinator of a transactional id.
    Transaction(&'a str),
}

/// A client of one cluster. Cheap to clone; clones share connections and metadata.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<String, Arc<Slot>>,
    /// Which bootstrap address is tried next.
    bootstrap_next: usize,
    metadata: MetadataCache,
    coordinators: BTreeMap<(CoordinatorKind, String), i32>,
}

/// A connection to one address, opened when it is needed. Held locked while it is opened, so that
/// requests of one moment share it.
type Slot = smol::lock::Mutex<Option<Arc<Connection>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

/// The pause before the first repetition; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Client {
    pub fn new(settings: Settings) -> Client {
        Client { inner: Arc::new(Inner { settings, state: Mutex::default() }) }
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Sends one request once. The caller looks at the error codes inside the answer.
    pub async fn request<R: Request>(&self, to: Broker<'_>, request: &R) -> Result<R::Response> {
        self.request_held(to, request, Duration::ZERO).await
    }

    /// The same for a request that the broker may hold back, such as a Fetch with its
    /// `max_wait_ms`.
    pub async fn request_held<R: Request>(
        &self,
        to: Broker<'_>,
        request: &R,
        held: Duration,
    ) -> Result<R::Response> {
        let connection = self.connection(to).await?;
        let response = connection.request(request, held).await;
        if response.is_err() {
            self.forget(to);
        }
        response
    }

    /// A connection of its own to another node of the cluster, for whoever writes the frames. It
    /// lives as long as its task.
    pub(crate) async fn frames(&self, node: i32) -> Result<(MemoryConnection, smol::Task<()>)> {
        let address = self.node_address(node).await?;
        connection::open_frames(&address, self.inner.settings.connect_timeout).await
    }

    /// Repeats `attempt` while it fails with what may pass, with growing pauses, for `retry_for`.
    /// What is known of `to` is learnt anew in between.
    pub async fn retry<T>(
        &self,
        to: Broker<'_>,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut pause = RETRY_PAUSE;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.is_retriable() || start.elapsed() + pause > self.inner.settings.retry_for {
                return Err(error);
            }
            log::debug!("trying again: {error}");
            if error.code() != Some(ErrorCode::CONCURRENT_TRANSACTIONS) {
                self.forget(to);
            }
            smol::Timer::after(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Drops what was believed about a broker that answered otherwise.
    pub fn forget(&self, to: Broker<'_>) {
        let mut state = self.state();
        match to {
            Broker::Any | Broker::Node(_) | Broker::Controller => state.metadata.expire(),
            Broker::Leader(topic, _) => state.metadata.forget_topic(topic),
            Broker::Group(group) => {
                state.coordinators.remove(&(CoordinatorKind::Group, group.to_string()));
            }
            Broker::Transaction(id) => {
                state.coordinators.remove(&(CoordinatorKind::Transaction, id.to_string()));
            }
        }
    }

    /// Ends every connection; the next request opens new ones.
    pub fn disconnect(&self) {
        self.state().slots.clear();
    }

    async fn connection(&self, to: Broker<'_>) -> Result<Arc<Connection>> {
        let node = match to {
            Broker::Any => return self.any_connection().await,
            Broker::Node(node) => node,
            Broker::Controller => self.controller().await?,
            Broker::Leader(topic, partition) => self.leader(topic, partition).await?,
            Broker::Group(group) => self.coordinator(CoordinatorKind::Group, group).await?,
            Broker::Transaction(id) => self.coordinator(CoordinatorKind::Transaction, id).await?,
        };
        if let Bootstrap::Local(local) = &self.inner.settings.bootstrap
            && local.node().0 == node
        {
            return self.connect(&Address::Local(local.clone())).await;
        }
        let address = self.node_address(node).await?;
        self.connect(&Address::Tcp(address)).await
    }

    /// The local node, a broker that is connected already, or the next bootstrap address that
    /// answers.
    async fn any_connection(&self) -> Result<Arc<Connection>> {
        let addresses = match &self.inner.settings.bootstrap {
            Bootstrap::Local(node) => return self.connect(&Address::Local(node.clone())).await,
            Bootstrap::Tcp(addresses) => addresses,
        };
        let slots: Vec<Arc<Slot>> = self.state().slots.values().cloned().collect();
        for slot in slots {
            if let Some(connection) = slot.try_lock().as_deref().and_then(Option::as_ref)
                && connection.is_usable(self.inner.settings.idle_max)
            {
                return Ok(connection.clone());
            }
        }
        let mut failure = Error::new(ErrorKind::Network, "no bootstrap address is configured");
        let known = self.state().metadata.addresses();
        for _ in 0..addresses.len() {
            let next = {
                let mut state = self.state();
                state.bootstrap_next = state.bootstrap_next.wrapping_add(1);
                addresses[state.bootstrap_next.wrapping_sub(1) % addresses.len()].clone()
            };
            match self.connect(&Address::Tcp(next)).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        for address in known.into_iter().filter(|known| !addresses.contains(known)) {
            if let Ok(connection) = self.connect(&Address::Tcp(address)).await {
                return Ok(connection);
            }
        }
        Err(failure)
    }

    async fn connect(&self, address: &Address) -> Result<Arc<Connection>> {
        let key = match address {
            Address::Local(_) => String::new(),
            Address::Tcp(address) => address.clone(),
        };
        let slot = self.state().slots.entry(key).or_default().clone();
        let mut slot = slot.lock().await;
        let settings = &self.inner.settings;
        if let Some(connection) = slot.as_ref()
            && connection.is_usable(settings.idle_max)
        {
            return Ok(connection.clone());
        }
        *slot = None;
        let connection_settings = ConnectionSettings {
            client_id: settings.client_id.clone(),
            connect_timeout: settings.connect_timeout,
            request_timeout: settings.request_timeout,
        };
        let connection = Arc::new(Connection::open(address, &connection_settings).await?);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn coordinator(&self, kind: CoordinatorKind, key: &str) -> Result<i32> {
        let entry = (kind, key.to_string());
        if let Some(node) = self.state().coordinators.get(&entry) {
            return Ok(*node);
        }
        let request = FindCoordinatorRequest {
            key: key.to_string(),
            key_type: kind as i8,
            ..Default::default()
        };
        let connection = self.any_connection().await?;
        let response = connection.request(&request, Duration::ZERO).await?;
        Error::check(response.error_code, || format!("finding the coordinator of {key}"))?;
        let address = format!("{}:{}", response.host, response.port);
        let mut state = self.state();
        state.metadata.learn_address(response.node_id, address);
        state.coordinators.insert(entry, response.node_id);
        Ok(response.node_id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half changed by a panic.
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
