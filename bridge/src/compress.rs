//! The four codecs of Kafka's record batches, each with a cap on what comes out.
//!
//! A hostile batch of a few bytes may claim or expand to gigabytes, so nothing is allocated by a
//! claimed size and every decoder stops at the caller's limit. Records sections are small (a batch
//! has at most 2 MiB), so whole buffers are simpler than streams and cost no more.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use weir_core::batch::Codec;

/// The most that one records section may have when decompressed, in bytes, for callers with no
/// limit of their own. Text compresses tenfold and a batch has at most 2 MiB, so honest batches
/// stay below.
pub const SECTION_BYTES_MAX: usize = 32 << 20;

/// zstd's level for produced batches and the link: the default of the library and of Kafka.
const ZSTD_LEVEL: i32 = 3;

/// The largest zstd window that is decoded: 8 MiB, which RFC 8878 asks every decoder to support.
/// The window is allocated by what the frame claims; the library alone would take 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What the Java library xerial-snappy writes in front of its blocks; librdkafka and Java expect
/// it.
const XERIAL_HEADER: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC_BYTES: usize = 8;
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Snappy's longest copy is 64 bytes from 3, so a section cannot honestly claim more than that.
const SNAPPY_RATIO_MAX: usize = 22;

/// Why a records section could not be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecompressError {
    /// More than the limit comes out.
    TooLarge { bytes_max: usize },
    /// The bytes are not what the codec writes.
    Corrupt(Codec),
}

impl fmt::Display for DecompressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecompressError::TooLarge { bytes_max } => {
                write!(f, "the batch decompresses to more than {bytes_max} bytes")
            }
            DecompressError::Corrupt(codec) => write!(f, "the batch is not valid {codec:?}"),
        }
    }
}

impl std::error::Error for DecompressError {}

/// The records section as it was before compression, at most `bytes_max` of it.
pub fn decompress(
    codec: Codec,
    section: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, DecompressError> {
    let corrupt = |_| DecompressError::Corrupt(codec);
    match codec {
        Codec::None if section.len() <= bytes_max => Ok(section.to_vec()),
        Codec::None => Err(DecompressError::TooLarge { bytes_max }),
        Codec::Gzip => read_all(MultiGzDecoder::new(section), codec, bytes_max),
        Codec::Snappy => snappy(section, bytes_max),
        Codec::Lz4 => read_all(FrameDecoder::new(section), codec, bytes_max),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(section).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            read_all(decoder, codec, bytes_max)
        }
    }
}

/// Compresses a records section for a batch with `codec` in its attributes.
pub fn compress(codec: Codec, section: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(section.to_vec()),
        Codec::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(section)?;
            encoder.finish()
        }
        Codec::Snappy => snappy_blocks(section),
        Codec::Lz4 => {
            // Java reads independent blocks only, which is what the encoder writes by default.
            let frame = FrameInfo::new().block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(section)?;
            Ok(encoder.finish()?)
        }
        Codec::Zstd => zstd::bulk::compress(section, ZSTD_LEVEL),
    }
}

fn read_all(
    decoder: impl Read,
    codec: Codec,
    bytes_max: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    let limit = (bytes_max as u64).saturating_add(1);
    decoder.take(limit).read_to_end(&mut out).map_err(|_| DecompressError::Corrupt(codec))?;
    if out.len() > bytes_max {
        return Err(DecompressError::TooLarge { bytes_max });
    }
    Ok(out)
}

/// Xerial's blocks when their magic stands in front, one raw block otherwise (librdkafka, Go
/// clients).
fn snappy(section: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    if !section.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_BYTES]) {
        snappy_block(section, &mut out, bytes_max)?;
        return Ok(out);
    }
    let corrupt = DecompressError::Corrupt(Codec::Snappy);
    let mut rest = section.get(XERIAL_HEADER.len()..).ok_or(corrupt)?;
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or(corrupt)?;
        let len = u32::from_be_bytes(*len) as usize;
        let block = after.get(..len).ok_or(corrupt)?;
        snappy_block(block, &mut out, bytes_max)?;
        rest = &after[len..];
    }
    Ok(out)
}

fn snappy_block(block: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), DecompressError> {
    let corrupt = DecompressError::Corrupt(Codec::Snappy);
    let len = snap::raw::decompress_len(block).map_err(|_| corrupt)?;
    if len > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(corrupt);
    }
    if len > bytes_max.saturating_sub(out.len()) {
        return Err(DecompressError::TooLarge { bytes_max });
    }
    let at = out.len();
    out.resize(at + len, 0);
    let written =
        snap::raw::Decoder::new().decompress(block, &mut out[at..]).map_err(|_| corrupt)?;
    out.truncate(at + written);
    Ok(())
}

fn snappy_blocks(section: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for chunk in section.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(chunk).map_err(io::Error::other)?;
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"temperature=21.5;"[i % 17] ^ (i / 4096) as u8).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in CODECS {
            for len in [0, 1, 17, 40_000, 300_000] {
                let section = text(len);
                let packed = compress(codec, &section).unwrap();
                assert_eq!(decompress(codec, &packed, len).unwrap(), section, "{codec:?} {len}");
            }
        }
    }

    #[test]
    fn a_section_that_expands_beyond_the_limit_is_refused() {
        for codec in CODECS {
            let packed = compress(codec, &vec![0; 4 << 20]).unwrap();
            let refused = Err(DecompressError::TooLarge { bytes_max: 1 << 20 });
            assert_eq!(decompress(codec, &packed, 1 << 20), refused, "{codec:?}");
        }
    }

    #[test]
    fn prefixes_and_bit_flips_never_panic() {
        for codec in CODECS {
            let packed = compress(codec, &text(5_000)).unwrap();
            for cut in 0..packed.len() {
                let _ = decompress(codec, &packed[..cut], 1 << 16);
            }
            for bit in 0..packed.len() * 8 {
                let mut flipped = packed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = decompress(codec, &flipped, 1 << 16);
            }
        }
    }

    #[test]
    fn a_raw_snappy_block_is_read_and_its_claimed_size_is_not_believed() {
        let section = text(1_000);
        let raw = snap::raw::Encoder::new().compress_vec(&section).unwrap();
        assert_eq!(decompress(Codec::Snappy, &raw, 1_000).unwrap(), section);
        let claims_a_gigabyte = [0xff, 0xff, 0xff, 0xff, 0x03, 0x00];
        assert_eq!(
            decompress(Codec::Snappy, &claims_a_gigabyte, usize::MAX),
            Err(DecompressError::Corrupt(Codec::Snappy))
        );
    }
}
