//! SIGTERM and SIGINT as messages, and a signal that must not end us.

use async_channel::Receiver;
use smol::Async;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A write beyond the limit of file sizes shall fail like any other, not kill the process.
pub fn outlive_file_size_limit() -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen).map(drop)
}

/// One message for each signal. The returned future must be run for them to come.
pub fn stop_signals() -> io::Result<(Receiver<()>, impl Future<Output = ()>)> {
    let (read, write) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    let (sender, receiver) = async_channel::unbounded();
    let mut read = Async::new(read)?;
    let forward = async move {
        let mut byte = [0];
        while let Ok(1) = smol::io::AsyncReadExt::read(&mut read, &mut byte).await {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    };
    Ok((receiver, forward))
}
