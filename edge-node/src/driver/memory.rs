//! Connections of the bridge: Kafka frames over channels, no socket and no copy.

use super::{Route, Shared};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use smol::LocalExecutor;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use weir_bridge::{LocalNode, MemoryConnection};
use weir_core::limits::REQUESTS_IN_FLIGHT_MAX;
use weir_core::node::Input;
use weir_core::types::{ConnId, NodeId};
use weir_core::wire::Frame;

/// Opens connections from any thread.
#[derive(Debug)]
pub struct Port {
    node: NodeId,
    opened: Sender<Opened>,
}

/// The node's side of a new connection.
#[derive(Debug)]
pub struct Opened {
    requests: Receiver<Bytes>,
    replies: Sender<Frame>,
}

impl Port {
    pub fn new(node: NodeId) -> (Port, Receiver<Opened>) {
        let (opened, opens) = async_channel::unbounded();
        (Port { node, opened }, opens)
    }
}

impl LocalNode for Port {
    fn connect(&self) -> MemoryConnection {
        let (requests, requests_in) = async_channel::bounded(REQUESTS_IN_FLIGHT_MAX);
        // Replies are bounded by the requests in flight.
        let (replies_out, replies) = async_channel::unbounded();
        // When the node is gone the other ends are dropped here, and the connection is seen as
        // closed.
        let _ = self.opened.try_send(Opened { requests: requests_in, replies: replies_out });
        MemoryConnection { requests, replies }
    }

    fn node(&self) -> NodeId {
        self.node
    }
}

pub struct Memory {
    replies: Sender<Frame>,
    in_flight: RefCell<VecDeque<u32>>,
    waker: RefCell<Option<Waker>>,
}

impl Memory {
    pub fn answered(&self, reply: Option<Frame>) -> usize {
        if let Some(frame) = reply {
            // The bridge may have hung up; its Closed is on the way then.
            let _ = self.replies.try_send(frame);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        let bytes = self.in_flight.borrow_mut().pop_front();
        bytes.expect("the node answers a request once") as usize
    }

    pub fn close(&self) {
        self.replies.close();
    }

    async fn run(self: Rc<Self>, id: ConnId, requests: Receiver<Bytes>, shared: Rc<Shared>) {
        while let Ok(frame) = requests.recv().await {
            shared.budget.take(frame.len());
            self.in_flight.borrow_mut().push_back(frame.len() as u32);
            shared.inbox.push(Input::Request { conn: id, frame });
            poll_fn(|cx| {
                if self.in_flight.borrow().len() < REQUESTS_IN_FLIGHT_MAX {
                    return Poll::Ready(());
                }
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            if self.replies.is_closed() {
                break;
            }
        }
        let held: u32 = self.in_flight.take().iter().sum();
        shared.budget.release(held as usize);
        shared.routes.borrow_mut().remove(&id);
        shared.inbox.push(Input::Closed { conn: id });
    }
}

/// Serves connections as they are opened, until every [`Port`] is gone.
pub async fn serve(
    opens: Receiver<Opened>,
    executor: Rc<LocalExecutor<'static>>,
    shared: Rc<Shared>,
) {
    while let Ok(Opened { requests, replies }) = opens.recv().await {
        let id = shared.next_conn();
        let memory =
            Rc::new(Memory { replies, in_flight: RefCell::default(), waker: RefCell::default() });
        shared.routes.borrow_mut().insert(id, Route::Memory(memory.clone()));
        executor.spawn(memory.run(id, requests, shared.clone())).detach();
    }
}
