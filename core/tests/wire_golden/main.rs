//! Bytes of real clients, and of Apache Kafka 4.3.1 that answers them.
//!
//! `golden/*.txt` has a frame a line: request or response, version, who was the client, and the
//! frame in hexadecimal without its size. They were captured between client and broker by a proxy.
#![allow(clippy::unwrap_used)]

mod counting;
mod fuzz;

use bytes::Bytes;
use weir_core::bytes::Reader;
use weir_core::rng::Rng;
use weir_core::wire::consumer_offsets::{self, GroupMetadataValue, Key, OffsetCommitValue};
use weir_core::wire::decode_request_header;
use weir_core::wire::{AnyRequest, AnyResponse, ApiKey, CLIENT, SUPPORTED, Writer};

struct Golden {
    key: ApiKey,
    version: i16,
    is_request: bool,
    client: String,
    bytes: Bytes,
}

fn golden() -> Vec<Golden> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut frames = Vec::new();
    for range in CLIENT {
        let file = format!("{folder}/{}.txt", range.key.name());
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        frames.extend(text.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [side, version, client, bytes] = words[..] else { panic!("{file}: {line}") };
            Golden {
                key: range.key,
                version: version.parse().unwrap(),
                is_request: side == "request",
                client: client.into(),
                bytes: unhex(bytes),
            }
        }));
    }
    frames
}

fn unhex(text: &str) -> Bytes {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// Decodes a frame whole and writes it again, header and all.
fn again(golden: &Golden, bytes: &Bytes) -> Option<Vec<u8>> {
    let (key, version) = (golden.key, golden.version);
    let mut writer = Writer::default();
    if golden.is_request {
        let (header, mut reader) = decode_request_header(bytes).ok()?;
        let head = bytes.len() - reader.remaining();
        let request = AnyRequest::decode(ApiKey::from_code(header.api_key)?, version, &mut reader);
        writer.put(&bytes[..head]);
        request.ok()?.encode(&mut writer, version);
    } else {
        let head = 4 + usize::from(key.has_flexible_response_header(version));
        let mut reader = Reader::new(bytes.clone());
        writer.put(reader.slice(head).ok()?);
        AnyResponse::decode(key, version, &mut reader).ok()?.encode(&mut writer, version);
    }
    Some(writer.into_vec())
}

#[test]
fn what_clients_and_kafka_said_is_read_and_written_back_unchanged() {
    for golden in golden() {
        let what = (golden.key, golden.version, golden.is_request, &golden.client);
        let bytes = again(&golden, &golden.bytes).unwrap_or_else(|| panic!("{what:?} is refused"));
        assert!(bytes == golden.bytes, "{what:?}\n{bytes:02x?}\n{:02x?}", &golden.bytes[..]);
    }
}

#[test]
fn every_version_that_is_served_has_been_heard_from_a_client_and_from_kafka() {
    let heard = golden();
    for range in SUPPORTED {
        for version in range.min.max(0)..=range.max {
            // No client speaks Metadata 0 any more.
            if !range.key.serves(version) || (range.key, version) == (ApiKey::Metadata, 0) {
                continue;
            }
            for is_request in [true, false] {
                let is_heard = |g: &&Golden| {
                    (g.key, g.version, g.is_request) == (range.key, version, is_request)
                };
                assert!(heard.iter().any(|g| is_heard(&g)), "{:?} {version}", range.key);
            }
        }
    }
}

/// Decodes damaged bytes: they may be refused or not, but what is allocated stays in proportion.
fn check_bounded(golden: &Golden, bytes: Bytes, damage: &str) {
    let len = bytes.len();
    let (_, allocated) = counting::allocated(|| again(golden, &bytes));
    assert!(
        allocated <= 1024 + 64 * len,
        "{allocated} bytes for {len} of {:?} {}: {damage}",
        golden.key,
        golden.version,
    );
}

#[test]
fn every_prefix_of_a_frame_is_refused_or_read_within_bounds() {
    for golden in golden() {
        for len in 0..golden.bytes.len() {
            check_bounded(&golden, golden.bytes.slice(..len), "prefix");
        }
    }
}

#[test]
fn a_frame_with_a_bit_flipped_is_refused_or_read_within_bounds() {
    let mut rng = Rng::new(1);
    for golden in golden() {
        for at in 0..golden.bytes.len() {
            let mut bytes = golden.bytes.to_vec();
            bytes[at] ^= 1 << rng.below(8);
            check_bounded(&golden, bytes.into(), &format!("byte {at}"));
        }
    }
}

#[test]
fn kafka_s_own_consumer_offsets_are_read_and_written_back_unchanged() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/__consumer_offsets.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let (mut offsets, mut groups) = (0, 0);
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap();
        let key_bytes = unhex(key);
        let key = Key::decode(key_bytes.clone()).unwrap();
        assert_eq!(key.encode(), key_bytes);
        if value == "-" {
            continue; // A tombstone.
        }
        let value = unhex(value);
        let version = i16::from_be_bytes([value[0], value[1]]);
        let again = match key {
            Key::Offset(_) => {
                offsets += 1;
                let value: OffsetCommitValue =
                    consumer_offsets::decode_value(value.clone()).unwrap();
                consumer_offsets::encode_value(&value, version)
            }
            _ => {
                groups += 1;
                let value: GroupMetadataValue =
                    consumer_offsets::decode_value(value.clone()).unwrap();
                consumer_offsets::encode_value(&value, version)
            }
        };
        assert_eq!(again, value);
    }
    assert!(offsets > 0 && groups > 0);
}
