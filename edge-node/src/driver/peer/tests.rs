//! Gateways on loopback: who is connected with whom, and what ends that.

use super::link::{QUEUE_BYTES_MAX, read_frame, write_frame};
use super::*;
use bytes::Bytes;
use futures_lite::AsyncReadExt;
use std::future::poll_fn;
use weir_core::limits::FRAME_BYTES_MAX;
use weir_core::wire::Frame;

const SECRET: &[u8] = b"thirty-two bytes of good secret!";
const CLUSTER: [u8; 16] = [9; 16];
/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Short waits, and a silence that no test comes near to by chance.
const TIMES: Times = Times {
    dial_again: [Duration::from_millis(5), Duration::from_millis(20)],
    step_max: Duration::from_secs(3),
    ping_every: Duration::from_millis(20),
    silence_max: Duration::from_secs(10),
};

/// A gateway whose node is this test.
struct Gateway {
    node: NodeId,
    address: String,
    peers: Rc<Peers>,
    inbox: Arc<Inbox>,
    budget: Rc<Budget>,
    unread: RefCell<Vec<Input>>,
    /// What the node was told of connections, in order: true is up.
    heard: RefCell<Vec<(i32, bool)>>,
    messages: RefCell<Vec<Message>>,
    level: Cell<u16>,
}

/// One that is not joined yet.
struct Plan {
    node: i32,
    secret: &'static [u8],
    voters: Vec<i32>,
    times: Times,
}

impl Plan {
    fn new(node: i32, voters: &[i32]) -> Plan {
        Plan { node, secret: SECRET, voters: voters.into(), times: TIMES }
    }

    async fn make(self, executor: &Rc<LocalExecutor<'static>>) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let settings = Settings {
            node: NodeId(self.node),
            secret: self.secret.into(),
            // Where they are, the site says.
            voters: self.voters.iter().map(|id| (NodeId(*id), "127.0.0.1:1".into())).collect(),
            listener,
            times: self.times,
        };
        let (inbox, budget) = (Arc::new(Inbox::default()), Rc::new(Budget::new(1 << 20)));
        Gateway {
            node: NodeId(self.node),
            address,
            peers: Peers::new(settings, inbox.clone(), budget.clone(), executor.clone()),
            inbox,
            budget,
            unread: RefCell::default(),
            heard: RefCell::default(),
            messages: RefCell::default(),
            level: Cell::new(1),
        }
    }
}

impl Gateway {
    /// Shows itself to these, with an incarnation of this number.
    fn join(&self, others: &[&Gateway], incarnation: u8) {
        let addresses = others.iter().map(|other| (other.node, other.address.clone())).collect();
        self.peers.set_site(Site {
            addresses,
            cluster: Some(CLUSTER),
            directory: [self.node.0 as u8; 16],
            incarnation: [incarnation; 16],
            level: self.level.get(),
        });
        self.peers.join();
    }

    /// What the driver does: takes all inputs, and opens a connection before the node hears of it.
    fn take(&self, inputs: &mut Vec<Input>) {
        for input in inputs.drain(..) {
            match input {
                Input::PeerUp { node, .. } => {
                    self.peers.open(node);
                    self.heard.borrow_mut().push((node.0, true));
                }
                Input::PeerDown { node } => self.heard.borrow_mut().push((node.0, false)),
                Input::Peer { message, .. } => self.messages.borrow_mut().push(message),
                other => panic!("{other:?}"),
            }
        }
        self.peers.taken();
    }

    /// Runs the gateway until this holds.
    async fn until(&self, holds: impl Fn(&Gateway) -> bool) {
        let work = async {
            while !holds(self) {
                let mut inputs = self.unread.take();
                poll_fn(|cx| self.inbox.poll_take(cx, &mut inputs)).await;
                self.take(&mut inputs);
            }
        };
        let late = async {
            Timer::after(LIMIT).await;
            panic!("gateway {} heard only {:?}", self.node.0, self.heard.borrow());
        };
        smol::future::or(work, late).await;
    }

    fn heard(&self) -> Vec<(i32, bool)> {
        self.heard.borrow().clone()
    }

    fn is_up(&self, node: i32) -> bool {
        self.heard.borrow().iter().rfind(|(of, _)| *of == node).is_some_and(|(_, up)| *up)
    }

    fn said(&self, words: &str) -> bool {
        self.peers.said.borrow().iter().any(|sentence| sentence.contains(words))
    }
}

fn run(test: impl AsyncFn(&Rc<LocalExecutor<'static>>)) {
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(test(&executor)));
}

/// Waits for what no input tells.
async fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "it never came to that");
        Timer::after(Duration::from_millis(2)).await;
    }
}

fn quorum(text: &'static str) -> Message {
    Message::Quorum(Bytes::from_static(text.as_bytes()))
}

/// A peer of node 2 that this test speaks for byte by byte.
async fn stranger(gateway: &Gateway, incarnation: u8) -> TcpStream {
    of_version(gateway, incarnation, weir_core::peer::VERSION).await.unwrap()
}

async fn of_version(gateway: &Gateway, incarnation: u8, version: u16) -> Result<TcpStream, String> {
    let mut hello = Hello::new(NodeId(2), [2; 16], [incarnation; 16], [incarnation; 32]);
    (hello.cluster, hello.version) = (Some(CLUSTER), version);
    let handshake = Handshake::dial(SECRET, hello, Some(gateway.node));
    Ok(greet::dial(&gateway.address, handshake, TIMES.step_max).await?.0)
}

#[test]
fn messages_go_both_ways_in_their_order_and_large_ones_whole() {
    run(async |executor| {
        let one = Plan::new(1, &[1, 2]).make(executor).await;
        let two = Plan::new(2, &[1, 2]).make(executor).await;
        one.join(&[&two], 1);
        two.join(&[&one], 1);
        one.until(|it| it.is_up(2)).await;
        two.until(|it| it.is_up(1)).await;
        let large = Bytes::from(vec![7; FRAME_BYTES_MAX]);
        let small = Bytes::from_static(b"after it");
        one.peers.send(NodeId(2), Message::Records(small.clone(), vec![large.clone()]));
        one.peers.send(NodeId(2), Message::Records(small.clone(), vec![]));
        two.peers.send(NodeId(1), quorum("answer"));
        two.until(|it| it.messages.borrow().len() == 2).await;
        one.until(|it| it.messages.borrow().len() == 1).await;
        let first = Message::Records(small.clone(), vec![large]);
        assert!(two.messages.borrow()[0] == first);
        assert_eq!(two.messages.borrow()[1], Message::Records(small, vec![]));
        assert_eq!(one.messages.borrow()[0], quorum("answer"));
        assert_eq!((one.budget.used(), two.budget.used()), (0, 0));
        until(|| one.peers.queued_bytes() == 0).await;
    });
}

#[test]
fn a_gateway_with_another_secret_is_refused_by_both() {
    run(async |executor| {
        let one = Plan::new(1, &[1, 2]).make(executor).await;
        let wrong = Plan { secret: b"another, just as good a secret..", ..Plan::new(2, &[1, 2]) };
        let two = wrong.make(executor).await;
        one.join(&[&two], 1);
        two.join(&[&one], 1);
        until(|| one.said("different secrets") && two.said("different secrets")).await;
        assert_eq!(one.peers.voters(), (vec![NodeId(1)], vec![NodeId(2)]));
        assert_eq!((one.heard(), two.heard()), (vec![], vec![]));
    });
}

#[test]
fn one_connection_stays_when_both_have_dialed() {
    run(async |executor| {
        // Neither is a voter of the other's list, so both dial.
        let one = Plan::new(1, &[3]).make(executor).await;
        let two = Plan::new(2, &[3]).make(executor).await;
        one.join(&[&two], 1);
        two.join(&[&one], 1);
        for round in 0..20 {
            one.until(|it| it.is_up(2)).await;
            two.until(|it| it.is_up(1)).await;
            one.peers.send(NodeId(2), quorum("there"));
            two.peers.send(NodeId(1), quorum("and back"));
            // One that was not the last may have taken them with it.
            Timer::after(Duration::from_millis(10)).await;
            one.take(&mut take_all(&one));
            two.take(&mut take_all(&two));
            let settled = !one.messages.take().is_empty() && !two.messages.take().is_empty();
            if settled && round > 2 {
                break;
            }
        }
        let before = (one.heard(), two.heard());
        Timer::after(10 * TIMES.dial_again[1]).await;
        one.take(&mut take_all(&one));
        two.take(&mut take_all(&two));
        assert_eq!((one.heard(), two.heard()), before);
        assert!(one.is_up(2) && two.is_up(1), "{before:?}");
    });
}

/// What waits in the inbox, without waiting for it.
fn take_all(gateway: &Gateway) -> Vec<Input> {
    let mut inputs = Vec::new();
    let _ = gateway.inbox.poll_take(&mut noop(), &mut inputs);
    inputs
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}

#[test]
fn a_peer_that_has_started_anew_takes_its_old_connections_place() {
    run(async |executor| {
        let one = Plan::new(3, &[2, 3]).make(executor).await;
        one.join(&[], 1);
        let old = stranger(&one, 1).await;
        one.until(|it| it.is_up(2)).await;
        write_frame(&old, quorum("old").encode()).await.unwrap();
        one.until(|it| it.messages.borrow().len() == 1).await;
        let new = stranger(&one, 2).await;
        one.until(|it| it.heard().len() == 3).await;
        assert_eq!(one.heard(), [(2, true), (2, false), (2, true)]);
        // All that it still had to say were pings.
        let (mut old, mut rest) = (old, Vec::new());
        old.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len() % 9, 0);
        one.peers.send(NodeId(2), quorum("to the new one"));
        let mut heard = read_frame(&new, 1 << 10, |_| ()).await.unwrap();
        while heard.0 == weir_core::peer::Kind::Ping {
            heard = read_frame(&new, 1 << 10, |_| ()).await.unwrap();
        }
        assert_eq!(heard.1, Bytes::from_static(b"to the new one"));
    });
}

#[test]
fn a_peer_that_says_nothing_is_down_and_one_that_is_slow_is_not() {
    run(async |executor| {
        let times = Times { silence_max: Duration::from_millis(200), ..TIMES };
        let one = Plan { times, ..Plan::new(3, &[2, 3]) }.make(executor).await;
        one.join(&[], 1);
        let peer = stranger(&one, 1).await;
        one.until(|it| it.is_up(2)).await;
        // Bytes of one frame, each a sign of life.
        let frame = Message::Quorum(Bytes::from_static(&[1; 20])).encode();
        for byte in frame.0.iter().flatten() {
            write_frame(&peer, Frame(vec![Bytes::copy_from_slice(&[*byte])])).await.unwrap();
            Timer::after(Duration::from_millis(15)).await;
        }
        one.until(|it| it.messages.borrow().len() == 1).await;
        assert_eq!(one.heard(), [(2, true)]);
        one.until(|it| !it.is_up(2)).await;
        assert_eq!(one.budget.used(), 0);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_let_go_and_one_that_sends_damage_too() {
    run(async |executor| {
        let one = Plan::new(3, &[2, 3]).make(executor).await;
        one.join(&[], 1);
        let peer = stranger(&one, 1).await;
        one.until(|it| it.is_up(2)).await;
        let records = Bytes::from(vec![1; 8 << 20]);
        let mut most = 0;
        while one.peers.links.borrow().values().all(|link| link.queue.is_open()) {
            one.peers.send(NodeId(2), Message::Records(Bytes::new(), vec![records.clone()]));
            most = most.max(one.peers.queued_bytes());
        }
        assert!(most <= QUEUE_BYTES_MAX, "{most}");
        one.until(|it| !it.is_up(2)).await;
        drop(peer);

        let peer = stranger(&one, 2).await;
        one.until(|it| it.is_up(2)).await;
        let mut frame = quorum("whole").encode();
        frame.0.push(Bytes::from_static(b"x"));
        let whole: Vec<u8> = frame.0.iter().flatten().copied().collect();
        let mut damaged = whole.clone();
        damaged[12] ^= 1;
        write_frame(&peer, Frame(vec![damaged.into()])).await.unwrap();
        one.until(|it| !it.is_up(2)).await;
        assert!(one.messages.borrow().is_empty());
    });
}

#[test]
fn a_gateway_that_is_not_one_of_the_site_any_more_is_let_go() {
    run(async |executor| {
        let one = Plan::new(1, &[1]).make(executor).await;
        let two = Plan::new(2, &[1]).make(executor).await;
        one.join(&[&two], 1);
        two.join(&[&one], 1);
        one.until(|it| it.is_up(2)).await;
        one.join(&[], 1);
        // It may come again by itself, as gateways do that are new.
        one.until(|it| it.heard().contains(&(2, false))).await;
        assert!(one.peers.known.borrow().is_empty());
    });
}

#[test]
fn an_older_release_is_let_go_when_the_cluster_is_above_it() {
    run(async |executor| {
        let one = Plan::new(3, &[2, 3]).make(executor).await;
        one.join(&[], 1);
        let _old = of_version(&one, 1, 1).await.unwrap();
        one.until(|it| it.is_up(2)).await;
        one.level.set(2);
        one.join(&[], 1);
        one.until(|it| !it.is_up(2)).await;
        let why = of_version(&one, 1, 1).await.err().unwrap();
        assert!(why.contains("gateway 3 speaks versions 2 to 2"), "{why}");
        let _new = of_version(&one, 2, 2).await.unwrap();
        one.until(|it| it.is_up(2)).await;
    });
}
