//! Cuts a stream of bytes into Kafka frames: four bytes of size, then as many bytes.
//!
//! The buffer grows as bytes arrive and never by what a size claims. Between frames nothing is
//! kept, so an idle connection costs no buffer.

use bytes::Bytes;
use weir_core::limits::FRAME_BYTES_MAX;

const SIZE_BYTES: usize = 4;

#[derive(Debug, Default)]
pub struct FrameReader {
    /// The unfinished frame, size bytes included.
    partial: Vec<u8>,
}

/// The peer claims a frame that no request can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSize {
    pub claimed: [u8; SIZE_BYTES],
}

impl FrameReader {
    /// Bytes of the unfinished frame that are held.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Takes the next bytes of the stream; hands each finished frame on, without its size bytes.
    pub fn feed(&mut self, mut chunk: &[u8], mut frame: impl FnMut(Bytes)) -> Result<(), BadSize> {
        if !self.partial.is_empty() {
            chunk = self.finish(chunk, &mut frame)?;
        }
        while let Some((claimed, rest)) = chunk.split_first_chunk() {
            let len = frame_len(*claimed)?;
            let Some((body, after)) = rest.split_at_checked(len) else { break };
            frame(Bytes::copy_from_slice(body));
            chunk = after;
        }
        self.partial.extend_from_slice(chunk);
        Ok(())
    }

    /// Adds to the unfinished frame as much as belongs to it, and returns the rest.
    fn finish<'a>(
        &mut self,
        chunk: &'a [u8],
        frame: &mut impl FnMut(Bytes),
    ) -> Result<&'a [u8], BadSize> {
        let mut rest = chunk;
        if self.partial.len() < SIZE_BYTES {
            rest = self.append(rest, SIZE_BYTES);
        }
        let Some(claimed) = self.partial.first_chunk() else { return Ok(rest) };
        let whole = SIZE_BYTES + frame_len(*claimed)?;
        rest = self.append(rest, whole);
        if self.partial.len() == whole {
            let bytes = Bytes::from(std::mem::take(&mut self.partial));
            frame(bytes.slice(SIZE_BYTES..));
        }
        Ok(rest)
    }

    fn append<'a>(&mut self, chunk: &'a [u8], whole: usize) -> &'a [u8] {
        let (mine, rest) = chunk.split_at(chunk.len().min(whole - self.partial.len()));
        if self.partial.capacity() - self.partial.len() < mine.len() {
            // Doubling by what has arrived, but never beyond what the frame can need.
            let wanted = (2 * self.partial.len()).max(self.partial.len() + mine.len()).min(whole);
            self.partial.reserve_exact(wanted - self.partial.len());
        }
        self.partial.extend_from_slice(mine);
        rest
    }
}

fn frame_len(claimed: [u8; SIZE_BYTES]) -> Result<usize, BadSize> {
    match usize::try_from(i32::from_be_bytes(claimed)) {
        Ok(len) if len <= FRAME_BYTES_MAX => Ok(len),
        _ => Err(BadSize { claimed }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stream(frames: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            out.extend_from_slice(&(frame.len() as i32).to_be_bytes());
            out.extend_from_slice(frame);
        }
        out
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let frames: [&[u8]; 5] = [b"one", b"", b"three is longer", b"4", &[7; 300]];
        let bytes = stream(&frames);
        for step in 1..=bytes.len() {
            let (mut reader, mut found) = (FrameReader::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                reader.feed(chunk, |frame| found.push(frame)).unwrap();
            }
            assert_eq!(found, frames, "chunks of {step} bytes");
            assert_eq!(reader.partial_bytes(), 0);
        }
    }

    #[test]
    fn a_claimed_size_allocates_nothing() {
        let mut reader = FrameReader::default();
        let claim = (FRAME_BYTES_MAX as i32).to_be_bytes();
        reader.feed(&claim, |_| panic!("no frame")).unwrap();
        reader.feed(&[1; 100], |_| panic!("no frame")).unwrap();
        assert!(reader.partial.capacity() < 1000);
    }

    #[test]
    fn a_size_beyond_the_limit_or_below_zero_is_refused() {
        for claimed in [*b"GET ", [0xff; 4], (FRAME_BYTES_MAX as i32 + 1).to_be_bytes()] {
            for step in [1, 4] {
                let mut reader = FrameReader::default();
                let fed: Result<(), BadSize> =
                    claimed.chunks(step).try_for_each(|chunk| reader.feed(chunk, |_| ()));
                assert_eq!(fed, Err(BadSize { claimed }));
            }
        }
    }
}
