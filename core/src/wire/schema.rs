//! The schema: how each type stands on the wire, and the [`message!`] macro that makes a struct,
//! its default, its decoder and its encoder of one field list.
//!
//! ```text
//! type           versions before the flexible ones   flexible versions (KIP-482)
//! bool, integers big-endian                          the same
//! String         i16 length, -1 is null              uvarint length + 1, 0 is null
//! Bytes, Records i32 length, -1 is null              uvarint length + 1, 0 is null
//! Vec<T>         i32 count, -1 is null               uvarint count + 1, 0 is null
//! Option<struct> i8, -1 is null, 1 is not            the same
//! struct         its fields                          its fields, then its tagged fields
//! tagged fields  none                                uvarint count; each: tag, size, value
//! ```
//!
//! A field that a version lacks decodes to its default and is left out when that version is
//! encoded, whatever it holds. (Kafka's own encoder throws for some of these; here the caller knows
//! the version.) Nullable fields default to `None`. A tagged field is written when it is not its
//! default; unknown ones are skipped. Schemas do not nest in themselves, so decoding has a fixed
//! depth.

use super::Writer;
use crate::bytes::{Malformed, Reader, Result};
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The version of the message that is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: i16,
    pub flexible: bool,
}

/// A value inside a message.
pub trait Field: Sized {
    fn read(reader: &mut Reader, version: Version) -> Result<Self>;
    fn write(&self, writer: &mut Writer, version: Version);
}

/// A value that may be null on the wire. The default methods are those of structs.
pub trait Nullable: Field {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>> {
        match reader.i8()? {
            -1 => Ok(None),
            1 => Self::read(reader, version).map(Some),
            _ => Err(Malformed),
        }
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.put(&[if value.is_some() { 1 } else { 0xff }]);
        if let Some(value) = value {
            value.write(writer, version);
        }
    }
}

/// A whole message: what a request or response frame holds after its header, or a stored value.
pub trait Message: Field + Default {
    /// The first flexible version; `i16::MAX` when there is none.
    const FLEXIBLE: i16;

    /// Reads the message and leaves what follows it: callers end with [`Reader::finish`].
    fn decode(reader: &mut Reader, version: i16) -> Result<Self> {
        Self::read(reader, Version { number: version, flexible: version >= Self::FLEXIBLE })
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        self.write(writer, Version { number: version, flexible: version >= Self::FLEXIBLE });
    }
}

/// Record batches inside a message, which pass through as they came: zero or one piece after
/// decoding, any number when a response is put together. Encoding shares the pieces' buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records(pub Option<Vec<Bytes>>);

impl Records {
    pub const NULL: Records = Records(None);

    pub fn pieces(&self) -> &[Bytes] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// Bytes of all pieces together.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }
}

/// Empty and not null: so do brokers answer a partition without records.
impl Default for Records {
    fn default() -> Records {
        Records(Some(Vec::new()))
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records(Some(Vec::from([bytes])))
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(pieces: Vec<Bytes>) -> Records {
        Records(Some(pieces))
    }
}

impl Field for Records {
    fn read(reader: &mut Reader, version: Version) -> Result<Records> {
        let bytes = Option::<Bytes>::read(reader, version)?;
        Ok(Records(
            bytes.map(|bytes| if bytes.is_empty() { Vec::new() } else { Vec::from([bytes]) }),
        ))
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        write_len(self.0.as_ref().map(|_| self.len()), writer, version);
        for piece in self.pieces() {
            writer.share(piece);
        }
    }
}

macro_rules! integers {
    ($($type:ident),*) => {$(
        impl Field for $type {
            fn read(reader: &mut Reader, _: Version) -> Result<$type> {
                reader.$type()
            }

            fn write(&self, writer: &mut Writer, _: Version) {
                writer.put(&self.to_be_bytes());
            }
        }
    )*};
}

integers!(i8, i16, u16, i32, i64);

impl Field for f64 {
    fn read(reader: &mut Reader, _: Version) -> Result<f64> {
        reader.f64()
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.put(&self.to_be_bytes());
    }
}

impl Field for bool {
    fn read(reader: &mut Reader, _: Version) -> Result<bool> {
        Ok(reader.u8()? != 0)
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.put(&[u8::from(*self)]);
    }
}

impl Field for ErrorCode {
    fn read(reader: &mut Reader, _: Version) -> Result<ErrorCode> {
        reader.i16().map(ErrorCode)
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.put(&self.0.to_be_bytes());
    }
}

impl Field for TopicId {
    fn read(reader: &mut Reader, _: Version) -> Result<TopicId> {
        let raw = reader.slice(16)?;
        Ok(TopicId(raw.try_into().expect("the slice has the id's size")))
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.put(&self.0);
    }
}

impl<T: Nullable> Field for Option<T> {
    fn read(reader: &mut Reader, version: Version) -> Result<Option<T>> {
        T::read_nullable(reader, version)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        T::write_nullable(self.as_ref(), writer, version);
    }
}

/// Types whose length or count stands in front, where null has a length of its own.
macro_rules! with_length {
    ($type:ty $(, $generic:ident)?) => {
        impl $(<$generic: Field>)? Field for $type {
            fn read(reader: &mut Reader, version: Version) -> Result<Self> {
                Self::read_nullable(reader, version)?.ok_or(Malformed)
            }

            fn write(&self, writer: &mut Writer, version: Version) {
                Self::write_nullable(Some(self), writer, version);
            }
        }
    };
}

with_length!(String);
with_length!(Bytes);
with_length!(Vec<T>, T);

impl Nullable for String {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<String>> {
        let len = if version.flexible {
            reader.uvarint()?.checked_sub(1)
        } else {
            non_negative(i32::from(reader.i16()?))?
        };
        len.map(|len| reader.string(len as usize)).transpose()
    }

    /// A string that the version's length cannot express is cut at its 32,767th byte.
    fn write_nullable(value: Option<&String>, writer: &mut Writer, version: Version) {
        let Some(value) = value else {
            return if version.flexible { writer.uvarint(0) } else { writer.put(&[0xff; 2]) };
        };
        if version.flexible {
            write_len(Some(value.len()), writer, version);
            return writer.put(value.as_bytes());
        }
        let mut end = value.len().min(i16::MAX as usize);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        writer.put(&(end as i16).to_be_bytes());
        writer.put(&value.as_bytes()[..end]);
    }
}

impl Nullable for Bytes {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Bytes>> {
        let len = read_len(reader, version)?;
        len.map(|len| reader.bytes(len as usize)).transpose()
    }

    fn write_nullable(value: Option<&Bytes>, writer: &mut Writer, version: Version) {
        write_len(value.map(Bytes::len), writer, version);
        if let Some(value) = value {
            writer.share(value);
        }
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Vec<T>>> {
        let Some(count) = read_len(reader, version)? else { return Ok(None) };
        let mut elements = reader.elements(count as usize)?;
        for _ in 0..count {
            elements.push(T::read(reader, version)?);
        }
        Ok(Some(elements))
    }

    fn write_nullable(value: Option<&Vec<T>>, writer: &mut Writer, version: Version) {
        write_len(value.map(Vec::len), writer, version);
        for element in value.into_iter().flatten() {
            element.write(writer, version);
        }
    }
}

fn read_len(reader: &mut Reader, version: Version) -> Result<Option<u32>> {
    if version.flexible {
        Ok(reader.uvarint()?.checked_sub(1))
    } else {
        non_negative(reader.i32()?)
    }
}

/// Only -1 is null; any other negative length is malformed.
fn non_negative(len: i32) -> Result<Option<u32>> {
    if len == -1 { Ok(None) } else { u32::try_from(len).map(Some).map_err(|_| Malformed) }
}

fn write_len(len: Option<usize>, writer: &mut Writer, version: Version) {
    let len = len.map(|len| i32::try_from(len).expect("a frame is far below 2 GiB"));
    match (version.flexible, len) {
        (true, None) => writer.uvarint(0),
        (true, Some(len)) => writer.uvarint(len as u32 + 1),
        (false, len) => writer.put(&len.unwrap_or(-1).to_be_bytes()),
    }
}

/// A field that may be null in some of the versions only.
pub(super) fn read_null_if<T: Nullable>(
    nullable: bool,
    reader: &mut Reader,
    version: Version,
) -> Result<Option<T>> {
    if nullable { T::read_nullable(reader, version) } else { T::read(reader, version).map(Some) }
}

/// Null where it may not be null is written as the empty value.
pub(super) fn write_null_if<T: Nullable + Default>(
    nullable: bool,
    value: &Option<T>,
    writer: &mut Writer,
    version: Version,
) {
    match value {
        None if !nullable => T::default().write(writer, version),
        value => value.write(writer, version),
    }
}

/// Hands each tagged field of a struct to `known`, which ignores the tags that it does not know.
pub(super) fn read_tagged(
    reader: &mut Reader,
    mut known: impl FnMut(u32, &mut Reader) -> Result<()>,
) -> Result<()> {
    for _ in 0..reader.uvarint()? {
        let tag = reader.uvarint()?;
        let size = reader.uvarint()? as usize;
        reader.within(size, |body| known(tag, body))?;
    }
    Ok(())
}

/// The tagged fields of a struct on their way out, in the order of their tags.
#[derive(Default)]
pub(super) struct Tagged {
    count: u32,
    fields: Writer,
}

impl Tagged {
    pub fn put<T: Field + PartialEq>(&mut self, tag: u32, value: &T, default: T, version: Version) {
        if *value == default {
            return;
        }
        let mut body = Writer::default();
        value.write(&mut body, version);
        self.count += 1;
        self.fields.uvarint(tag);
        self.fields.uvarint(u32::try_from(body.len()).expect("a frame is far below 2 GiB"));
        self.fields.append(body);
    }

    pub fn write(self, writer: &mut Writer) {
        writer.uvarint(self.count);
        writer.append(self.fields);
    }
}

/// Makes structs of field lists: `name: Type [versions] = default`.
///
/// Versions may be `[3..]`, `[..=12]`, `[7..=12]`; none means every version that is spoken.
/// `[12.. tag 0]` is a tagged field, `[null 7..]` a nullable one that may be null from version 7
/// only.
macro_rules! message {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $([$($when:tt)+])? $(= $default:expr)?),* $(,)?
    })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: message!(@default $($default)?),)* }
            }
        }

        impl $crate::wire::schema::Field for $name {
            #[allow(unused_variables)]
            fn read(
                reader: &mut $crate::bytes::Reader,
                version: $crate::wire::schema::Version,
            ) -> $crate::bytes::Result<$name> {
                let mut message = $name::default();
                $(message!(@read (reader, version, message.$field) [$($($when)+)?]);)*
                if version.flexible {
                    $crate::wire::schema::read_tagged(reader, |tag, body| {
                        $(message!(
                            @read_tagged (tag, body, version, message.$field) [$($($when)+)?]
                        );)*
                        Ok(())
                    })?;
                }
                Ok(message)
            }

            #[allow(unused_mut)]
            fn write(
                &self,
                writer: &mut $crate::wire::Writer,
                version: $crate::wire::schema::Version,
            ) {
                $(message!(@write (writer, version, self.$field) [$($($when)+)?]);)*
                if version.flexible {
                    let mut tagged = $crate::wire::schema::Tagged::default();
                    $(message!(@write_tagged
                        (tagged, version, self.$field, message!(@default $($default)?))
                        [$($($when)+)?]);)*
                    tagged.write(writer);
                }
            }
        }

        impl $crate::wire::schema::Nullable for $name {}
    )+};

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };

    (@read ($reader:expr, $version:expr, $place:expr) []) => {
        $place = $crate::wire::schema::Field::read($reader, $version)?;
    };
    (@read $to:tt [$first:literal .. tag $tag:literal]) => {};
    (@read ($reader:expr, $version:expr, $place:expr) [null $first:literal ..]) => {
        let nullable = $version.number >= $first;
        $place = $crate::wire::schema::read_null_if(nullable, $reader, $version)?;
    };
    (@read ($reader:expr, $version:expr, $place:expr)
        [..= $last:literal null $first:literal ..]
    ) => {
        if $version.number <= $last {
            message!(@read ($reader, $version, $place) [null $first ..]);
        }
    };
    (@read ($reader:expr, $version:expr, $place:expr) [$($versions:tt)+]) => {
        if ($($versions)+).contains(&$version.number) {
            $place = $crate::wire::schema::Field::read($reader, $version)?;
        }
    };

    (@read_tagged ($tag:expr, $body:expr, $version:expr, $place:expr)
        [$first:literal .. tag $known:literal]) => {
        if $tag == $known && $version.number >= $first {
            $place = $crate::wire::schema::Field::read($body, $version)?;
            $body.finish()?;
        }
    };
    (@read_tagged $to:tt [$($other:tt)*]) => {};

    (@write ($writer:expr, $version:expr, $place:expr) []) => {
        $crate::wire::schema::Field::write(&$place, $writer, $version);
    };
    (@write $to:tt [$first:literal .. tag $tag:literal]) => {};
    (@write ($writer:expr, $version:expr, $place:expr) [null $first:literal ..]) => {
        let nullable = $version.number >= $first;
        $crate::wire::schema::write_null_if(nullable, &$place, $writer, $version);
    };
    (@write ($writer:expr, $version:expr, $place:expr)
        [..= $last:literal null $first:literal ..]
    ) => {
        if $version.number <= $last {
            message!(@write ($writer, $version, $place) [null $first ..]);
        }
    };
    (@write ($writer:expr, $version:expr, $place:expr) [$($versions:tt)+]) => {
        if ($($versions)+).contains(&$version.number) {
            $crate::wire::schema::Field::write(&$place, $writer, $version);
        }
    };

    (@write_tagged ($tagged:expr, $version:expr, $place:expr, $default:expr)
        [$first:literal .. tag $tag:literal]) => {
        if $version.number >= $first {
            $tagged.put($tag, &$place, $default, $version);
        }
    };
    (@write_tagged $to:tt [$($other:tt)*]) => {};
}

pub(super) use message;
