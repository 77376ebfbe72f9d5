//! What a frame looks like, and what bad bytes do. Every message is compared with other
//! implementations, and with bytes of real clients, in the tests outside of this crate.
#![allow(clippy::unwrap_used)]

use super::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use super::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use super::metadata::MetadataRequest;
use super::produce::ProduceRequest;
use super::*;
use crate::bytes::Malformed;
use alloc::vec;

fn one_piece(frame: &Frame) -> Bytes {
    let mut all = Vec::new();
    frame.0.iter().for_each(|piece| all.extend_from_slice(piece));
    all.into()
}

/// What a peer gets: the frame without its size.
fn received(frame: &Frame) -> Bytes {
    let bytes = one_piece(frame);
    assert_eq!(bytes.len() - 4, u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize);
    bytes.slice(4..)
}

#[test]
fn a_request_of_a_flexible_version_has_tags_in_header_and_message() {
    let request = ApiVersionsRequest {
        client_software_name: "weir".into(),
        client_software_version: "1".into(),
    };
    let frame = encode_request(&request, 3, 7, Some("me"));
    let want = b"\0\x12\0\x03\0\0\0\x07\0\x02me\0\x05weir\x021\0";
    assert_eq!(&received(&frame)[..], want);

    let (header, mut reader) = decode_request_header(&received(&frame)).unwrap();
    assert_eq!(header.served_api(), Some(ApiKey::ApiVersions));
    assert_eq!((header.correlation_id, header.client_id.as_deref()), (7, Some("me")));
    let decoded = AnyRequest::decode(ApiKey::ApiVersions, 3, &mut reader);
    assert_eq!(decoded, Ok(AnyRequest::ApiVersions(request)));
}

#[test]
fn an_api_versions_request_from_the_future_is_answered_in_version_0() {
    let frame = encode_request(&ApiVersionsRequest::default(), 99, 5, None);
    let (header, _) = decode_request_header(&received(&frame)).unwrap();
    assert_eq!((header.api_version, header.served_api()), (99, None));

    let answer = received(&encode_unsupported_api_versions(header.correlation_id));
    let (id, response) = decode_response::<ApiVersionsRequest>(&answer, 4).unwrap();
    assert_eq!((id, response.error_code), (5, ErrorCode::UNSUPPORTED_VERSION));
    let produce = &response.api_keys[0];
    assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 13));
    assert!(!ApiKey::Produce.serves(2) && ApiKey::Produce.serves(3));
    assert!(response.api_keys.iter().all(|api| api.api_key != ApiKey::EndTxn as i16));
}

#[test]
fn records_of_a_response_share_the_buffer_that_they_were_read_into() {
    let batches = vec![Bytes::from(vec![1; 5000]), Bytes::from(vec![2; 7000])];
    let partition = PartitionData { records: batches.clone().into(), ..PartitionData::default() };
    let topic = FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
    let response = FetchResponse { responses: vec![topic], ..Default::default() };
    for version in 4..=18 {
        let frame = encode_response(&response, ApiKey::Fetch, version, 1);
        for batch in &batches {
            assert!(frame.0.iter().any(|piece| piece.as_ptr() == batch.as_ptr()));
        }
        let bytes = received(&frame);
        let (_, decoded) = decode_response::<fetch::FetchRequest>(&bytes, version).unwrap();
        let records = &decoded.responses[0].partitions[0].records;
        assert_eq!(records.len(), 12_000);
        assert!(bytes.as_ptr_range().contains(&records.pieces()[0].as_ptr()));
    }
}

#[test]
fn null_stands_only_where_its_version_allows_it() {
    let decode = |version, bytes: &'static [u8]| {
        MetadataRequest::decode(&mut Reader::new(bytes.into()), version)
    };
    assert_eq!(decode(0, b"\xff\xff\xff\xff"), Err(Malformed));
    assert_eq!(decode(1, b"\xff\xff\xff\xff").unwrap().topics, None);
    assert_eq!(decode(1, b"\xff\xff\xff\xfe"), Err(Malformed));

    let mut writer = Writer::default();
    MetadataRequest::default().encode(&mut writer, 0);
    assert_eq!(writer.into_vec(), [0; 4]);
}

#[test]
fn unknown_tags_are_skipped_and_known_ones_must_fill_their_size() {
    let decode = |bytes: &'static [u8]| {
        let mut reader = Reader::new(bytes.into());
        let response = ApiVersionsResponse::decode(&mut reader, 3)?;
        reader.finish()?;
        Ok(response)
    };
    let response = decode(b"\0\0\x01\0\0\0\0\x02\x01\x08\0\0\0\0\0\0\0\x09\x63\x02hi").unwrap();
    assert_eq!(response.finalized_features_epoch, 9);
    assert_eq!(decode(b"\0\0\x01\0\0\0\0\x01\x01\x09\0\0\0\0\0\0\0\x09\0"), Err(Malformed));
    assert_eq!(decode(b"\0\0\x01\0\0\0\0\x01\x63\x7f"), Err(Malformed));
}

#[test]
fn claims_of_what_is_not_there_are_malformed() {
    let decode = |version, bytes: &[u8]| {
        AnyRequest::decode(
            ApiKey::Produce,
            version,
            &mut Reader::new(Bytes::copy_from_slice(bytes)),
        )
    };
    assert!(decode(3, b"\xff\xff\0\x01\0\0\0\0\0\0\0\0").is_ok());
    assert_eq!(decode(3, b"\xff\xff\0\x01\0\0\0\0\x7f\xff\xff\xff\0"), Err(Malformed));
    assert_eq!(decode(2, b"\xff\xff\0\x01\0\0\0\0\0\0\0\0"), Err(Malformed));
}

#[test]
fn a_metadata_request_of_librdkafka_for_all_topics_has_three_bytes_too_many() {
    // Captured from confluent-kafka 2.16.0, which writes the count of topics as before version 9.
    let frame = b"\0\x03\0\x0d\0\0\0\x04\0\x07rdkafka\0\0\0\0\0\x01\0\0";
    let (header, mut reader) = decode_request_header(&Bytes::from_static(frame)).unwrap();
    let request = AnyRequest::decode(ApiKey::Metadata, header.api_version, &mut reader);
    let all = MetadataRequest { allow_auto_topic_creation: false, ..MetadataRequest::default() };
    assert_eq!(request, Ok(AnyRequest::Metadata(all)));
}

#[test]
fn arrays_of_one_message_share_a_bound_on_their_memory() {
    // An empty name is one byte on the wire and 24 bytes and more in memory.
    let decode = |names: usize| {
        let mut bytes = Vec::new();
        crate::bytes::put_uvarint(&mut bytes, names as u32 + 1);
        bytes.resize(bytes.len() + names, 1);
        bytes.extend_from_slice(&[0, 0]);
        AnyRequest::decode(ApiKey::DescribeGroups, 6, &mut Reader::new(bytes.into()))
    };
    let most = crate::limits::DECODED_BYTES_MAX / size_of::<String>();
    assert!(decode(most).is_ok());
    assert_eq!(decode(most + 1), Err(Malformed));
}

#[test]
fn a_string_that_an_old_version_cannot_carry_is_cut() {
    let long = "é".repeat(20_000);
    let frame = encode_request(&ProduceRequest::default(), 3, 1, Some(&long));
    let (header, _) = decode_request_header(&received(&frame)).unwrap();
    assert_eq!(header.client_id.unwrap().len(), 32_766);
}
