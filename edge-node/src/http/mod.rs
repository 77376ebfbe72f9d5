//! The console, metrics and the status over HTTP/1.1: small, bounded, read-only but for the
//! mirror's pause and resume.
//!
//! Does not compress, does not read bodies, speaks no TLS. Who needs that puts a proxy in front.

mod metrics;
mod status;

use crate::driver::Handle;
use crate::serve::Bridge;
use async_net::{TcpListener, TcpStream};
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use log::{debug, warn};
use smol::{LocalExecutor, Timer};
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A page that refreshes itself needs one connection; scrapers and tools a few more.
const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
const IDLE: Duration = Duration::from_secs(30);

const CONSOLE: &str = include_str!("console.html");

/// What the pages show.
pub struct State {
    node: Handle,
    bridge: Rc<Bridge>,
    started: Instant,
    connections: Cell<usize>,
}

struct Response {
    code: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl State {
    pub fn new(node: Handle, bridge: Rc<Bridge>) -> Rc<State> {
        Rc::new(State { node, bridge, started: Instant::now(), connections: Cell::new(0) })
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, state: Rc<State>, executor: Rc<LocalExecutor<'static>>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("http: cannot accept a connection: {error}");
                Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        if state.connections.get() >= CONNECTIONS_MAX {
            debug!("http: {peer} refused: {CONNECTIONS_MAX} connections are open");
            continue;
        }
        state.connections.set(state.connections.get() + 1);
        let state = state.clone();
        let connection = async move {
            if let Err(error) = answer_all(stream, &state).await {
                debug!("http: {peer}: {error}");
            }
            state.connections.set(state.connections.get() - 1);
        };
        executor.spawn(connection).detach();
    }
}

/// One connection: requests one after the other.
async fn answer_all(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        let request = async { read_request(&mut stream, &mut head).await };
        let timeout = async {
            Timer::after(IDLE).await;
            Ok(Request::Gone)
        };
        let (response, keep, body) = match request.or(timeout).await? {
            Request::Gone => return Ok(()),
            Request::Bad(code) => (text(code, ""), false, true),
            Request::Whole { method, path, keep } => {
                (respond(state, &method, &path), keep, method != "HEAD")
            }
        };
        let written = async { stream.write_all(&response.encode(keep, body)).await };
        let timeout = async {
            Timer::after(IDLE).await;
            Err(ErrorKind::TimedOut.into())
        };
        written.or(timeout).await?;
        if !keep {
            return stream.close().await;
        }
    }
}

enum Request {
    Whole { method: String, path: String, keep: bool },
    Bad(u16),
    Gone,
}

/// Reads one head; what came after it stays in `buffer` for the next.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Request> {
    loop {
        if let Some(request) = parse(buffer) {
            return Ok(request);
        }
        if buffer.len() >= HEAD_BYTES_MAX {
            return Ok(Request::Bad(431));
        }
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await? {
            0 => return Ok(Request::Gone),
            read => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Takes a whole head off the buffer; `None` while it is not whole.
fn parse(buffer: &mut Vec<u8>) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(Request::Bad(400)),
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).unwrap_or("").trim()
    };
    let has_body =
        !matches!(header("content-length"), "" | "0") || !header("transfer-encoding").is_empty();
    if has_body {
        return Some(Request::Bad(413));
    }
    let keep = match request.version {
        Some(1) => !header("connection").eq_ignore_ascii_case("close"),
        _ => header("connection").eq_ignore_ascii_case("keep-alive"),
    };
    let path = request.path.unwrap_or("/");
    let path = path.split(['?', '#']).next().unwrap_or(path).to_string();
    let method = request.method.unwrap_or("").to_string();
    buffer.drain(..len);
    Some(Request::Whole { method, path, keep })
}

fn respond(state: &State, method: &str, path: &str) -> Response {
    match (method, path) {
        ("GET" | "HEAD", _) => {}
        ("POST", _) => return post(state, path),
        _ => return text(405, "only GET, HEAD and POST are served here\n"),
    }
    match path {
        "/" => Response {
            code: 200,
            content_type: "text/html; charset=utf-8",
            body: CONSOLE.as_bytes().to_vec(),
        },
        "/metrics" => Response {
            code: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics::render(&status::Status::of(state)).into_bytes(),
        },
        "/healthz" => text(200, "alive\n"),
        "/readyz" if state.node.is_serving() => text(200, "serving\n"),
        "/readyz" => text(503, "not serving yet, or no more\n"),
        "/api/v1/status" => json(&status::Status::of(state)),
        "/api/v1/mirror" => json(&state.bridge.mirror_status()),
        _ => text(404, "there are /, /metrics, /healthz, /readyz and /api/v1/status\n"),
    }
}

/// `/api/v1/mirror/NAME/pause` and `/resume`.
fn post(state: &State, path: &str) -> Response {
    let Some(rest) = path.strip_prefix("/api/v1/mirror/") else { return text(404, "") };
    let known = match rest.rsplit_once('/') {
        Some((name, "pause")) => state.bridge.pause_mirror(name, true),
        Some((name, "resume")) => state.bridge.pause_mirror(name, false),
        _ => return text(404, ""),
    };
    if known { text(200, "done\n") } else { text(404, "there is no mirror of that name\n") }
}

fn text(code: u16, body: &str) -> Response {
    Response { code, content_type: "text/plain; charset=utf-8", body: body.as_bytes().to_vec() }
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => Response { code: 200, content_type: "application/json", body },
        Err(error) => text(500, &format!("{error}\n")),
    }
}

impl Response {
    fn encode(&self, keep: bool, with_body: bool) -> Vec<u8> {
        let reason = match self.code {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let connection = if keep { "keep-alive" } else { "close" };
        let mut out = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Connection: {connection}\r\n\r\n",
            self.code,
            self.content_type,
            self.body.len(),
        )
        .into_bytes();
        if with_body {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_one_by_one_and_bad_ones_are_answered() {
        let mut buffer = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.0\r\n".to_vec();
        let first = parse(&mut buffer);
        let Some(Request::Whole { method, path, keep: true }) = first else { panic!() };
        assert_eq!((method.as_str(), path.as_str()), ("GET", "/a"));
        assert!(parse(&mut buffer).is_none());
        buffer.extend_from_slice(b"\r\n");
        assert!(matches!(parse(&mut buffer), Some(Request::Whole { keep: false, .. })));
        assert!(buffer.is_empty());
        let mut body = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        assert!(matches!(parse(&mut body), Some(Request::Bad(413))));
        assert!(matches!(parse(&mut b"\x16\x03\x01\0\r\n".to_vec()), Some(Request::Bad(400))));
    }
}
