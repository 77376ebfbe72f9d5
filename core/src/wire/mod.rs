//! Kafka's protocol: one field list a message gives the struct, its decoder and its encoder.
//!
//! A file a family of APIs, of `message!` lists only; [`schema`] says how they stand on the wire,
//! [`versions`] which versions are spoken, and this file how frames and their headers look. Fields
//! and structs have the names of Kafka's own message schemas, so Kafka's documentation is theirs
//! too.
//!
//! ```text
//! request frame     i32 size; i16 API key, i16 version, i32 correlation id, client id; message
//! response frame    i32 size; i32 correlation id; message
//! ```
//!
//! In flexible versions (KIP-482) both headers end with tagged fields; the client id keeps its old
//! two-byte length. A response to ApiVersions never has tagged fields in its header (KIP-511).

pub mod api_versions;
pub mod cluster;
pub mod configs;
pub mod consumer_offsets;
pub mod consumer_protocol;
pub mod fetch;
pub mod group;
pub mod list_offsets;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producers;
pub mod quorum;
pub mod replicas;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod txn;
pub mod versions;
mod writer;

pub use schema::{Message, Records};
pub use versions::{AnyRequest, AnyResponse, ApiKey, CLIENT, SUPPORTED};
pub use writer::Writer;

use crate::bytes::{Reader, Result};
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use schema::{Field, Version};

/// A whole response or request on its way to a socket: pieces to write one after the other. The
/// four bytes of the size stand in front. Record batches are shared with what was read from flash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame(pub Vec<Bytes>);

impl Frame {
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message that asks, and the type of its answer.
pub trait Request: Message {
    const API_KEY: ApiKey;
    type Response: Message;
}

/// What stands in front of each request. The key and the version are as the client claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// The API, if this is a version of it that we serve. Else the answer is UNSUPPORTED_VERSION:
    /// for ApiVersions [`encode_unsupported_api_versions`], for all others the end of the
    /// connection, as Kafka does it, because nobody knows what an answer in that version would
    /// look like.
    pub fn served_api(&self) -> Option<ApiKey> {
        ApiKey::from_code(self.api_key).filter(|key| key.serves(self.api_version))
    }
}

/// Reads the header of a request frame without its size; the reader stands at the message then.
pub fn decode_request_header(frame: &Bytes) -> Result<(RequestHeader, Reader)> {
    let mut reader = Reader::new(frame.clone());
    let api_key = reader.i16()?;
    let api_version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let client_id = Field::read(&mut reader, Version { number: 1, flexible: false })?;
    if ApiKey::from_code(api_key).is_some_and(|key| key.is_flexible(api_version)) {
        schema::read_tagged(&mut reader, |_, _| Ok(()))?;
    }
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, reader))
}

pub fn encode_request<R: Request>(
    request: &R,
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Frame {
    let mut writer = Writer::frame();
    writer.put(&(R::API_KEY as i16).to_be_bytes());
    writer.put(&api_version.to_be_bytes());
    writer.put(&correlation_id.to_be_bytes());
    let client_id = client_id.map(String::from);
    client_id.write(&mut writer, Version { number: 1, flexible: false });
    if R::API_KEY.is_flexible(api_version) {
        writer.uvarint(0);
    }
    request.encode(&mut writer, api_version);
    writer.into_frame()
}

pub fn encode_response<M: Message>(
    response: &M,
    api_key: ApiKey,
    api_version: i16,
    correlation_id: i32,
) -> Frame {
    let mut writer = Writer::frame();
    writer.put(&correlation_id.to_be_bytes());
    if api_key.has_flexible_response_header(api_version) {
        writer.uvarint(0);
    }
    response.encode(&mut writer, api_version);
    writer.into_frame()
}

/// The answer to ApiVersions in a version that we do not speak: version 0 with our range, after
/// which the client comes back with a version of it (KIP-511). franz-go opens with a version from
/// the future.
pub fn encode_unsupported_api_versions(correlation_id: i32) -> Frame {
    let response = api_versions::supported(ErrorCode::UNSUPPORTED_VERSION);
    encode_response(&response, ApiKey::ApiVersions, 0, correlation_id)
}

/// Reads a whole response frame without its size: the correlation id and the message.
pub fn decode_response<R: Request>(frame: &Bytes, api_version: i16) -> Result<(i32, R::Response)> {
    let mut reader = Reader::new(frame.clone());
    let correlation_id = reader.i32()?;
    if R::API_KEY.has_flexible_response_header(api_version) {
        schema::read_tagged(&mut reader, |_, _| Ok(()))?;
    }
    let mut version = api_version;
    if R::API_KEY == ApiKey::ApiVersions
        && reader.clone().i16()? == ErrorCode::UNSUPPORTED_VERSION.0
    {
        version = 0;
    }
    let response = R::Response::decode(&mut reader, version)?;
    reader.finish()?;
    Ok((correlation_id, response))
}
