//! Kafka bytes that no well-behaved client sends: the answer or the end of one connection, nothing
//! more.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use weir_tests::Gateway;
use weir_tests::tools::{command, rss_kib, run, run_with_input};

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A request header v1 with correlation id 7 and client id "x", then a body.
fn request(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = api.to_be_bytes().to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 7, 0, 1, b'x']);
    bytes.extend_from_slice(body);
    frame(&bytes)
}

/// The one answer to a request, its size included.
fn answer(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut size = [0; 4];
    stream.read_exact(&mut size).unwrap();
    let mut body = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut body).unwrap();
    [&size[..], &body].concat()
}

/// Everything that comes back until the broker closes; who closes first may get nothing at all.
fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_with_the_range() {
    let gateway = Gateway::started("api-versions");
    let answer = answer(gateway.kafka_port, &request(18, 99, b"\0\0\0\0"));
    // Size, correlation id, error 35, then an array of (API, least, greatest) as in version 0.
    assert_eq!(answer[4..10], [0, 0, 0, 7, 0, 35]);
    let count = u32::from_be_bytes(answer[10..14].try_into().unwrap()) as usize;
    assert_eq!(answer.len(), 14 + count * 6);
    assert!(answer[14..].chunks(6).any(|row| row[..2] == [0, 18] && row[4..6] == [0, 4]));
}

#[test]
fn malformed_requests_end_their_connection_and_nothing_else() {
    let gateway = Gateway::started("bytes");
    let before = rss_kib(gateway.pid());
    let port = gateway.kafka_port;
    let huge_array = request(3, 1, &[0x7f, 0xff, 0xff, 0xff]);
    for (what, bytes) in [
        ("an empty frame", frame(b"")),
        ("a negative size", vec![0xff; 8]),
        ("2 GB claimed", vec![0x7f, 0xff, 0xff, 0xff, 0, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("an unknown API", request(999, 0, b"")),
        ("an old version", request(0, 0, b"")),
        ("a future version", request(1, 99, b"")),
        ("two billion topics", huge_array),
        ("a cut body", request(0, 8, &[0xff, 0xff, 0xff])),
        ("half a frame", request(3, 1, b"\0\0\0\0")[..6].to_vec()),
    ] {
        let answer = exchange(port, &bytes);
        assert!(answer.len() < 4096, "{what}: {} bytes came back", answer.len());
    }
    let grown = rss_kib(gateway.pid()).saturating_sub(before);
    assert!(grown < 8 * 1024, "memory grew by {grown} KiB");
    let produce = format!("kcat -b {} -P -t t", gateway.bootstrap());
    run_with_input(&mut command(&produce), b"still here\n").success();
    let consume = format!("kcat -b {} -C -t t -o beginning -e -q", gateway.bootstrap());
    assert_eq!(run(&mut command(&consume)).success(), "still here\n");
}

/// Produce version 3 with one batch for partition 0 of topic `t`, `acks=all`.
fn produce(records: &[u8]) -> Vec<u8> {
    let mut body = vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0x27, 0x10, 0, 0, 0, 1, 0, 1, b't'];
    body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend_from_slice(&(records.len() as u32).to_be_bytes());
    body.extend_from_slice(records);
    request(0, 3, &body)
}

#[test]
fn bad_batches_get_the_code_that_names_the_fault() {
    let gateway = Gateway::started("batches");
    let seed = format!("kcat -b {} -P -t t -p 0", gateway.bootstrap());
    run_with_input(&mut command(&seed), b"x\n").success();
    let code = |batch: &[u8]| {
        let answer = answer(gateway.kafka_port, &produce(batch));
        // Size, correlation id, one topic "t", one partition 0, then the code.
        assert_eq!(answer[8..23], [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0], "{answer:?}");
        i16::from_be_bytes([answer[23], answer[24]])
    };
    let mut corrupt = vec![0; 61 + 8];
    corrupt[8..12].copy_from_slice(&57u32.to_be_bytes());
    corrupt[16] = 2;
    corrupt[60] = 1;
    assert_eq!(code(&corrupt), 2, "CORRUPT_MESSAGE");
    let mut old = corrupt.clone();
    old[16] = 1;
    assert_eq!(code(&old), 87, "INVALID_RECORD for magic 1, as Kafka answers");
    let consume = format!("kcat -b {} -C -t t -o beginning -e -q", gateway.bootstrap());
    assert_eq!(run(&mut command(&consume)).success(), "x\n");
}
