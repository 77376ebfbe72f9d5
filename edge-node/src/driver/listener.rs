//! Accepts Kafka clients.

use super::socket::Socket;
use super::{Route, Shared};
use async_net::TcpListener;
use log::{debug, warn};
use smol::{LocalExecutor, Timer};
use std::rc::Rc;
use std::time::Duration;
use weir_core::node::Input;

/// Accepts until dropped. `connections_max` counts clients, not the bridge's connections in memory.
pub async fn accept(
    listener: TcpListener,
    connections_max: usize,
    executor: Rc<LocalExecutor<'static>>,
    shared: Rc<Shared>,
) {
    let mut said_at = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors or memory, or the client is gone already: none lasts
                // long.
                warn!("kafka: cannot accept a connection: {error}");
                Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        if shared.sockets.get() >= connections_max {
            // A flood of clients must not become a flood of log lines.
            if said_at.is_none_or(|at| shared.seconds.get() >= at + 10) {
                said_at = Some(shared.seconds.get());
                warn!(
                    "kafka: {peer} refused: {connections_max} connections are open, which is \
                     kafka.connections_max"
                );
            }
            continue;
        }
        if let Err(error) = stream.set_nodelay(true) {
            debug!("{peer}: {error}");
            continue;
        }
        let socket = Socket::new(shared.next_conn(), peer, stream, shared.seconds.get());
        debug!("{peer}: connected");
        shared.sockets.set(shared.sockets.get() + 1);
        shared.routes.borrow_mut().insert(socket.id, Route::Socket(socket.clone()));
        shared.inbox.push(Input::Opened { conn: socket.id, host: peer.ip().to_string() });
        executor.spawn(socket.run(shared.clone())).detach();
    }
}
