//! The handshake over a socket: what is said and when is [`weir_core::peer::handshake`]'s.

use super::link::{read_frame, write_frame};
use async_net::TcpStream;
use smol::Timer;
use std::io::{self, ErrorKind};
use std::time::Duration;
use weir_core::peer::HANDSHAKE_BYTES_MAX;
use weir_core::peer::handshake::{Handshake, Hello, Step};
use weir_core::wire::Frame;

/// Connects to a peer; an error is a sentence.
pub async fn dial(
    address: &str,
    (handshake, first): (Handshake, Frame),
    step_max: Duration,
) -> Result<(TcpStream, Hello), String> {
    let connected = within(step_max, TcpStream::connect(address)).await;
    let stream = connected.map_err(|error| format!("cannot be reached: {error}"))?;
    let peer = greet(&stream, handshake, Some(first), step_max).await?;
    Ok((stream, peer))
}

/// Hears a peer out that has connected.
pub async fn listen(
    stream: &TcpStream,
    handshake: Handshake,
    step_max: Duration,
) -> Result<Hello, String> {
    greet(stream, handshake, None, step_max).await
}

async fn greet(
    stream: &TcpStream,
    mut handshake: Handshake,
    first: Option<Frame>,
    step_max: Duration,
) -> Result<Hello, String> {
    let broken = |error: io::Error| format!("the connection broke while greeting: {error}");
    stream.set_nodelay(true).map_err(broken)?;
    let mut say = first;
    loop {
        if let Some(frame) = say.take() {
            within(step_max, write_frame(stream, frame)).await.map_err(broken)?;
        }
        let heard = read_frame(stream, HANDSHAKE_BYTES_MAX, |_| ());
        let (kind, payload) = within(step_max, heard).await.map_err(broken)?;
        match handshake.on_frame(kind, &payload) {
            Step::Send(frame) => say = Some(frame),
            Step::Done { send, peer } => {
                if let Some(frame) = send {
                    within(step_max, write_frame(stream, frame)).await.map_err(broken)?;
                }
                return Ok(peer);
            }
            Step::Refused { send, why } => {
                if let Some(frame) = send {
                    // Whether the peer hears it is its own affair.
                    let _ = within(step_max, write_frame(stream, frame)).await;
                }
                return Err(why);
            }
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        Timer::after(limit).await;
        Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"))
    };
    smol::future::or(work, late).await
}
