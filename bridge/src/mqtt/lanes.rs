//! Carries the ingest's requests to those who lead the partitions, and their answers back: over
//! memory to the node in this process, over TCP to other gateways of the site.
//!
//! A gateway by itself has the one lane, and no other task than that.

use super::clock;
use super::net::Net;
use crate::ingest::topics;
use crate::{LocalNode, MemoryConnection};
use futures_lite::future;
use smol::Timer;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_core::types::NodeId;

/// Before a connection that has ended is opened anew.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a lane to another gateway is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl Net {
    /// The lane to the node in this process, over a new connection whenever one ends.
    pub async fn local_lane(self: Rc<Net>, lane: usize, local: Arc<dyn LocalNode>) {
        loop {
            let connection = local.connect();
            self.carry(lane, &connection).await;
            self.disconnected(lane);
            Timer::after(PAUSE).await;
        }
    }

    /// Begins the lanes to gateways that have none yet.
    pub fn start_lanes(self: &Rc<Net>) {
        let hub = self.hub.borrow();
        let begun = self.lanes.borrow().len();
        for (lane, node) in hub.ingest.lanes().enumerate().skip(begun) {
            self.lanes.borrow_mut().push(Rc::default());
            if node != hub.ingest.node() {
                self.executor.spawn(self.clone().lane(lane, node)).detach();
            }
        }
    }

    /// A lane to another gateway: connected while there is something to send, and then until the
    /// connection ends.
    async fn lane(self: Rc<Net>, lane: usize, node: NodeId) {
        let signal = self.lanes.borrow()[lane].clone();
        loop {
            while !self.hub.borrow().ingest.has_request(lane) {
                signal.wait().await;
            }
            let serve = async {
                match self.client.frames(node.0).await {
                    Ok((connection, _task)) => self.carry(lane, &connection).await,
                    Err(error) => log::debug!("mqtt: {error}"),
                }
            };
            future::or(serve, self.look_at(lane)).await;
            self.disconnected(lane);
            Timer::after(PAUSE).await;
        }
    }

    /// Until either direction ends.
    async fn carry(&self, lane: usize, connection: &MemoryConnection) {
        future::or(self.send_requests(lane, connection), self.take_replies(lane, connection)).await;
    }

    fn disconnected(&self, lane: usize) {
        self.hub.borrow_mut().ingest.disconnected(lane, Instant::now());
        self.settle();
    }

    async fn send_requests(&self, lane: usize, connection: &MemoryConnection) {
        let signal = self.lanes.borrow()[lane].clone();
        loop {
            let (request, deadline) = {
                let mut hub = self.hub.borrow_mut();
                let clock = clock();
                hub.flush_sessions(clock);
                hub.ingest.resume(clock.now);
                for (other, signal) in self.lanes.borrow().iter().enumerate() {
                    if other != lane && hub.ingest.has_request(other) {
                        signal.notify();
                    }
                }
                (hub.ingest.request(lane, clock.now), hub.ingest.deadline())
            };
            match request {
                Some(request) => {
                    if connection.requests.send(request).await.is_err() {
                        return;
                    }
                }
                None => signal.wait_until(deadline).await,
            }
        }
    }

    async fn take_replies(&self, lane: usize, connection: &MemoryConnection) {
        while let Ok(first) = connection.replies.recv().await {
            let clock = clock();
            let mut hub = self.hub.borrow_mut();
            let mut next = Some(first);
            while let Some(frame) = next {
                if hub.reply(lane, frame, clock).is_err() {
                    log::error!("mqtt: the node answered something that was not asked");
                    return;
                }
                next = connection.replies.try_recv().ok();
            }
            drop(hub);
            self.settle();
        }
    }

    /// Until the lane is to be given up.
    async fn look_at(&self, lane: usize) {
        loop {
            Timer::after(LOOK).await;
            let given_up = self.hub.borrow_mut().ingest.look_at(lane, Instant::now());
            self.settle();
            if given_up {
                return;
            }
        }
    }

    /// Learns who leads what was sent to the wrong one, for ever.
    pub async fn seek_leaders(self: Rc<Net>) {
        loop {
            let sought = self.hub.borrow_mut().ingest.take_sought();
            if sought.is_empty() {
                self.seek.wait().await;
                continue;
            }
            for (topic, leaders) in topics::leaders(&self.client, sought).await {
                self.hub.borrow_mut().ingest.found(topic, &leaders, Instant::now());
            }
            self.start_lanes();
            self.settle();
        }
    }
}
