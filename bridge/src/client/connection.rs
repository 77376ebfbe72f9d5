//! One connection to one broker: requests pipelined by correlation id, over TCP or in memory.
//!
//! A task of its own writes and reads; it ends, and every waiting request with it, when either
//! direction fails or when one request had no answer in time: a link that hangs is given up as a
//! whole.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_net::TcpStream;
use bytes::Bytes;
use futures_lite::io::BufReader;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use rustix::net::sockopt;
use weir_core::error::ErrorCode;
use weir_core::limits::{FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};
use weir_core::wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use weir_core::wire::{Frame, Request, decode_response, encode_request};

use super::error::{Error, ErrorKind, Result};
use super::versions::Versions;
use crate::{LocalNode, MemoryConnection};

/// Where a broker is reached.
#[derive(Clone)]
pub(super) enum Address {
    Local(Arc<dyn LocalNode>),
    /// `host:port`.
    Tcp(String),
}

/// What a connection needs to know of the client's settings.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSettings {
    pub client_id: String,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// For messages.
    broker: String,
    client_id: String,
    outgoing: Sender<Outgoing>,
    /// Never carries anything: closing it ends the task, even one whose write hangs.
    stop: Sender<()>,
    versions: Versions,
    correlation_id: AtomicI32,
    opened: Instant,
    /// Milliseconds after `opened` at which the last request was made.
    used_ms: AtomicU64,
    request_timeout: Duration,
    _task: smol::Task<()>,
}

#[derive(Debug)]
struct Outgoing {
    correlation_id: i32,
    frame: Frame,
    reply: Sender<Bytes>,
}

/// Requests that wait for their answer; dropping an entry's sender tells the caller that none will
/// come.
type Pending = Arc<Mutex<BTreeMap<i32, Sender<Bytes>>>>;

impl Connection {
    /// Connects and learns which versions the broker speaks.
    pub async fn open(address: &Address, settings: &ConnectionSettings) -> Result<Connection> {
        let (sender, receiver) = async_channel::bounded(REQUESTS_IN_FLIGHT_MAX);
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let stopped = async move {
            let _ = stopped.recv().await;
            Ok(())
        };
        let (broker, task) = match address {
            Address::Local(node) => {
                let run = run_memory(node.connect(), receiver, stopped);
                ("the local node".to_string(), smol::spawn(run))
            }
            Address::Tcp(address) => {
                let stream = connect(address, settings.connect_timeout).await?;
                let run = run_tcp(address.clone(), stream, receiver, stopped);
                (address.clone(), smol::spawn(run))
            }
        };
        let mut connection = Connection {
            broker,
            client_id: settings.client_id.clone(),
            outgoing: sender,
            stop,
            versions: Versions::default(),
            correlation_id: AtomicI32::new(0),
            opened: Instant::now(),
            used_ms: AtomicU64::new(0),
            request_timeout: settings.request_timeout,
            _task: task,
        };
        connection.versions = connection.negotiate().await?;
        Ok(connection)
    }

    /// Whether a request may be put on it. One that was idle for long is not trusted: routers
    /// forget silent connections without telling, and a new one costs less than the time-out.
    pub fn is_usable(&self, idle_max: Duration) -> bool {
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        !self.outgoing.is_closed() && self.opened.elapsed().saturating_sub(used) < idle_max
    }

    /// Sends a request and waits for its answer: `extra` is how long the broker may hold it back.
    pub async fn request<R: Request>(&self, request: &R, extra: Duration) -> Result<R::Response> {
        let version = self
            .versions
            .pick(R::API_KEY)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, self.context::<R>()))?;
        self.request_in(version, request, extra).await
    }

    async fn request_in<R: Request>(
        &self,
        version: i16,
        request: &R,
        extra: Duration,
    ) -> Result<R::Response> {
        self.touch();
        let correlation_id = self.correlation_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode_request(request, version, correlation_id, Some(&self.client_id));
        let (reply, answer) = async_channel::bounded(1);
        let exchange = async {
            let outgoing = Outgoing { correlation_id, frame, reply };
            self.outgoing.send(outgoing).await.map_err(|_| self.lost::<R>())?;
            answer.recv().await.map_err(|_| self.lost::<R>())
        };
        let timeout = async {
            smol::Timer::after(self.request_timeout + extra).await;
            // Nobody can tell a hung link from a slow one; what else waits here is given up, too.
            self.close();
            Err(Error::new(ErrorKind::TimedOut, self.context::<R>()))
        };
        let bytes = exchange.or(timeout).await?;
        self.touch();
        let malformed = |_| {
            self.close();
            Error::new(ErrorKind::Malformed, self.context::<R>())
        };
        decode_response::<R>(&bytes, version).map(|(_, response)| response).map_err(malformed)
    }

    /// ApiVersions in a version that names us, and once more in the oldest if the broker has not
    /// that.
    async fn negotiate(&self) -> Result<Versions> {
        let request = ApiVersionsRequest {
            client_software_name: "weir".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let mut response: ApiVersionsResponse =
            self.request_in(3, &request, Duration::ZERO).await?;
        if response.error_code == ErrorCode::UNSUPPORTED_VERSION {
            response = self.request_in(0, &request, Duration::ZERO).await?;
        }
        Error::check(response.error_code, || self.context::<ApiVersionsRequest>())?;
        Ok(Versions::new(&response.api_keys))
    }

    fn close(&self) {
        self.outgoing.close();
        self.stop.close();
    }

    fn touch(&self) {
        self.used_ms.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn context<R: Request>(&self) -> String {
        format!("{} to {}", R::API_KEY.name(), self.broker)
    }

    fn lost<R: Request>(&self) -> Error {
        Error::new(ErrorKind::Network, format!("{}: the connection was lost", self.context::<R>()))
    }
}

/// A TCP connection whose user writes and reads the frames. It ends with the task.
///
/// However it ends, what was not sent is dropped (a linger of 0): else the kernel of a process that
/// was killed would go on trying for minutes, and what arrives late is taken for new.
pub(super) async fn open_frames(
    address: &str,
    timeout: Duration,
) -> Result<(MemoryConnection, smol::Task<()>)> {
    let stream = connect(address, timeout).await?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
        .map_err(|e| Error::new(ErrorKind::Network, format!("connecting to {address}: {e}")))?;
    let (requests, outgoing) = async_channel::bounded::<Bytes>(REQUESTS_IN_FLIGHT_MAX);
    // Replies are bounded by the requests in flight.
    let (incoming, replies) = async_channel::unbounded();
    let mut writer = stream.clone();
    let write = async move {
        while let Ok(request) = outgoing.recv().await {
            let size = (request.len() as u32).to_be_bytes();
            let frame = Frame(vec![Bytes::copy_from_slice(&size), request]);
            write_frame(&mut writer, &frame).await?;
        }
        Ok(())
    };
    let read = async move {
        let mut reader = BufReader::new(stream);
        loop {
            let frame = read_frame(&mut reader).await?;
            let _ = incoming.try_send(Frame(vec![frame]));
        }
    };
    let address = address.to_string();
    let task = smol::spawn(async move {
        let ended: Ended = write.or(read).await;
        if let Err(e) = ended {
            log::debug!("connection to {address} ended: {e}");
        }
    });
    Ok((MemoryConnection { requests, replies }, task))
}

async fn connect(address: &str, timeout: Duration) -> Result<TcpStream> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Network, format!("no connection to {address}: {e}"))
    };
    let connect = async {
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    };
    let timeout = async {
        smol::Timer::after(timeout).await;
        Err(Error::new(ErrorKind::TimedOut, format!("connecting to {address}")))
    };
    connect.or(timeout).await
}

type Ended = std::io::Result<()>;

async fn run_tcp(
    address: String,
    stream: TcpStream,
    outgoing: Receiver<Outgoing>,
    stopped: impl Future<Output = Ended>,
) {
    let pending = Pending::default();
    let mut writer = stream.clone();
    let write = async {
        while let Some(frame) = next_frame(&outgoing, &pending).await {
            write_frame(&mut writer, &frame).await?;
        }
        Ok(())
    };
    let read = async {
        let mut reader = BufReader::new(stream);
        loop {
            deliver(&pending, read_frame(&mut reader).await?.split_off(4))?;
        }
    };
    let ended: Ended = write.or(read).or(stopped).await;
    if let Err(e) = ended {
        log::debug!("connection to {address} ended: {e}");
    }
    outgoing.close();
}

async fn run_memory(
    connection: MemoryConnection,
    outgoing: Receiver<Outgoing>,
    stopped: impl Future<Output = Ended>,
) {
    let pending = Pending::default();
    let write = async {
        while let Some(frame) = next_frame(&outgoing, &pending).await {
            let sent = connection.requests.send(without_size(frame)).await;
            sent.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    };
    let read = async {
        while let Ok(frame) = connection.replies.recv().await {
            deliver(&pending, without_size(frame))?;
        }
        Ok(())
    };
    let _ = write.or(read).or(stopped).await;
    outgoing.close();
}

/// The next request to be written; who waits for it is remembered first.
async fn next_frame(outgoing: &Receiver<Outgoing>, pending: &Pending) -> Option<Frame> {
    let Outgoing { correlation_id, frame, reply } = outgoing.recv().await.ok()?;
    pending.lock().unwrap_or_else(|e| e.into_inner()).insert(correlation_id, reply);
    Some(frame)
}

fn deliver(pending: &Pending, body: Bytes) -> std::io::Result<()> {
    let id = body.first_chunk::<4>().map(|id| i32::from_be_bytes(*id));
    let reply = id.and_then(|id| pending.lock().unwrap_or_else(|e| e.into_inner()).remove(&id));
    let reply = reply.ok_or_else(|| std::io::Error::other("an answer that nobody asked for"))?;
    // Whoever asked may have gone meanwhile.
    let _ = reply.try_send(body);
    Ok(())
}

/// The next frame, with its size in front.
async fn read_frame(reader: &mut BufReader<TcpStream>) -> std::io::Result<Bytes> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).await?;
    let size = u32::from_be_bytes(bytes) as usize;
    if size > FRAME_BYTES_MAX {
        return Err(std::io::Error::other(format!("a response of {size} bytes")));
    }
    // Grows with what arrives, never by what is claimed.
    let mut frame = bytes.to_vec();
    reader.take(size as u64).read_to_end(&mut frame).await?;
    if frame.len() - bytes.len() < size {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame.into())
}

async fn write_frame(writer: &mut TcpStream, frame: &Frame) -> std::io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = frame.0.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let written = writer.write_vectored(rest).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

/// A frame in one piece, as the in-memory connection and the decoder take it.
pub(crate) fn without_size(frame: Frame) -> Bytes {
    match frame.0.as_slice() {
        [one] if one.len() >= 4 => one.slice(4..),
        pieces => Bytes::from(pieces.concat()).split_off(4.min(frame.len())),
    }
}
