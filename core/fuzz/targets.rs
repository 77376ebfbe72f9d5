//! What the fuzz targets do with bytes. A plain test (`core/tests/wire_golden/fuzz.rs`) runs the
//! same on mutations of golden bytes, so that it is exercised without nightly.
//!
//! Besides "no panic" each has a law: what was decoded and encoded again decodes to the same.
#![allow(dead_code, reason = "each target uses one of them")]

use bytes::Bytes;
use weir_core::batch::{self, Codec, HEADER_BYTES, Header, Producers};
use weir_core::bytes::Reader;
use weir_core::wire::{AnyRequest, AnyResponse, ApiKey, Writer, decode_request_header};

/// A request frame without its size. Says whether it was a request.
pub fn request(bytes: &[u8]) -> bool {
    let Ok((header, mut reader)) = decode_request_header(&Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    let Some(key) = ApiKey::from_code(header.api_key) else { return false };
    let version = header.api_version;
    let Ok(request) = AnyRequest::decode(key, version, &mut reader) else { return false };
    let mut writer = Writer::default();
    request.encode(&mut writer, version);
    let again = AnyRequest::decode(key, version, &mut Reader::new(writer.into_vec().into()));
    assert_eq!(again, Ok(request));
    true
}

/// A response: its API, its version, and the message.
pub fn response(bytes: &[u8]) -> bool {
    let [key, version, message @ ..] = bytes else { return false };
    let Some(key) = ApiKey::from_code(i16::from(*key)) else { return false };
    let version = i16::from(*version);
    let mut reader = Reader::new(Bytes::copy_from_slice(message));
    let Ok(response) = AnyResponse::decode(key, version, &mut reader) else { return false };
    let mut writer = Writer::default();
    response.encode(&mut writer, version);
    let again = AnyResponse::decode(key, version, &mut Reader::new(writer.into_vec().into()));
    assert_eq!(again, Ok(response));
    true
}

/// Record batches one after the other, as a leader judges and stamps them. Says whether the first
/// one would be appended.
pub fn record_batch(bytes: &[u8]) -> bool {
    let mut left = Bytes::copy_from_slice(bytes);
    while let Some(Ok((header, batch))) = batch::next_batch(&mut left) {
        assert_eq!(header.batch_bytes as usize, batch.len());
    }

    // A random checksum is never right, so the first batch is judged without it, and given one.
    let Ok(header) = Header::parse(bytes) else { return false };
    let mut batch = bytes[..header.batch_bytes as usize].to_vec();
    let produced = batch::check_produced(&header, &batch);
    let records = batch::records(&batch[HEADER_BYTES..], header.records_count);
    let read = records.map_while(Result::ok).count();
    assert!(read <= batch.len(), "a record has at least one byte");
    if produced.is_ok() && header.codec() == Some(Codec::None) {
        assert_eq!(read, header.records_count as usize);
    }

    batch::stamp_max_timestamp(&mut batch, header.max_timestamp);
    let stamped = batch::next_batch(&mut Bytes::from(batch));
    assert!(stamped.is_some_and(|stamped| stamped.is_ok()), "the checksum is right now");

    let mut producers = Producers::default();
    if produced.is_ok() && producers.check(&header).is_ok() {
        producers.apply(&header, header.base_offset);
    }
    produced.is_ok()
}
