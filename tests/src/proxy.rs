//! A TCP link that a test can cut, or turn into a black hole: nothing is refused, nothing answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Forwards 127.0.0.1:`port` to another port of the loopback address until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    open: Mutex<Vec<TcpStream>>,
    black_hole: AtomicBool,
    stop: AtomicBool,
}

impl Proxy {
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            open: Mutex::default(),
            black_hole: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                accept(&accepting, client);
            }
        });
        Proxy { port, shared }
    }

    /// Ends every connection of this moment; new ones are let in.
    pub fn cut(&self) -> usize {
        let streams: Vec<_> = self.shared.open.lock().unwrap().drain(..).collect();
        for stream in &streams {
            stream.shutdown(Shutdown::Both).ok();
        }
        streams.len() / 2
    }

    /// While set, bytes are swallowed in both directions and connections stay open.
    pub fn black_hole(&self, on: bool) {
        self.shared.black_hole.store(on, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target)) else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (Ok(c), Ok(s)) = (client.try_clone(), server.try_clone()) else { return };
    shared.open.lock().unwrap().extend([c, s]);
    for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
        let (Ok(from), Ok(to), shared) = (from, to, shared.clone()) else { return };
        thread::spawn(move || forward(&shared, from, to));
    }
}

fn forward(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 64 << 10];
    let mut lost = false;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        // A stream with a hole in it must never go on: what follows would be garbage.
        lost |= shared.black_hole.load(Ordering::Relaxed);
        if !lost && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    while lost && shared.black_hole.load(Ordering::Relaxed) && !shared.stop.load(Ordering::Relaxed)
    {
        thread::sleep(Duration::from_millis(20));
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
