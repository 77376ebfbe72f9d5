//! The disk threads on a real file.

use super::*;
use futures_lite::future::{block_on, poll_fn};

/// Performs operations on a fresh file and returns what they came to, by operation.
fn perform(name: &str, operations: Vec<Io>) -> (Vec<(OpId, IoResult)>, Vec<u8>) {
    let path = std::env::temp_dir().join(format!("weir-disk-{}-{name}", std::process::id()));
    let results = perform_on(&path, operations);
    let content = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    (results, content)
}

/// The same, with a file that stays.
fn perform_on(path: &Path, operations: Vec<Io>) -> Vec<(OpId, IoResult)> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let inbox = Arc::new(Inbox::default());
    let disk = Disk::start(path, file.unwrap(), inbox.clone()).unwrap();
    let (wanted, mut results) = (operations.len(), Vec::new());
    for io in operations {
        let before = results.len();
        disk.submit([io]);
        while results.len() == before {
            let mut inputs = Vec::new();
            block_on(poll_fn(|cx| inbox.poll_take(cx, &mut inputs)));
            results.extend(inputs.into_iter().map(|input| match input {
                Input::Done { op, result } => (op, result),
                other => panic!("{other:?}"),
            }));
        }
    }
    assert_eq!(results.len(), wanted);
    results
}

#[test]
fn what_is_written_beyond_4_gib_is_read_there_and_nowhere_else() {
    let path = std::env::temp_dir().join(format!("weir-disk-{}-far", std::process::id()));
    let (near, far) = (4096, (4 << 30) + 4096);
    let body = Bytes::from_static(b"a commit group");
    let results = perform_on(
        &path,
        vec![
            Io::Zero { op: OpId(1), at: far, len: 64 << 10 },
            Io::Write { op: OpId(2), at: far, bytes: body.clone() },
            Io::Flush { op: OpId(3) },
            Io::Read { op: OpId(4), at: far, len: body.len() as u32, parts: vec![] },
            Io::Read { op: OpId(5), at: near, len: 1, parts: vec![] },
        ],
    );
    assert_eq!(results[3], (OpId(4), IoResult::Read(body)));
    assert_eq!(results[4], (OpId(5), IoResult::Read(Bytes::from_static(b"\0"))));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), far + (64 << 10));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_was_written_is_read_back_and_a_slot_is_zeroed_whole() {
    let (slot, body) = (300 << 10, Bytes::from_static(b"a commit group"));
    let (results, content) = perform(
        "roundtrip",
        vec![
            Io::Zero { op: OpId(1), at: 0, len: slot },
            Io::Write { op: OpId(2), at: 4096, bytes: body.clone() },
            Io::Flush { op: OpId(3) },
            Io::Read { op: OpId(4), at: 4096, len: body.len() as u32, parts: vec![] },
        ],
    );
    assert_eq!(results[0], (OpId(1), IoResult::Done));
    assert_eq!(results[2], (OpId(3), IoResult::Done));
    assert_eq!(results[3], (OpId(4), IoResult::Read(body.clone())));
    assert_eq!(content.len(), slot as usize);
    assert_eq!(content.iter().filter(|byte| **byte != 0).count(), body.len());
}

#[test]
fn the_parts_that_matter_are_read_to_their_places() {
    let body = Bytes::from_static(b"abcdefgh");
    let (results, _) = perform(
        "parts",
        vec![
            Io::Write { op: OpId(1), at: 0, bytes: body },
            Io::Read { op: OpId(2), at: 1, len: 9, parts: vec![0..2, 5..9] },
        ],
    );
    let (OpId(2), IoResult::Read(bytes)) = &results[1] else { panic!("{results:?}") };
    assert_eq!((&bytes[..2], &bytes[5..]), (&b"bc"[..], &b"gh\0\0"[..]));
}

#[test]
fn what_lies_beyond_the_end_reads_as_zeros() {
    let body = Bytes::from_static(b"abc");
    let (results, _) = perform(
        "short",
        vec![
            Io::Write { op: OpId(1), at: 0, bytes: body },
            Io::Read { op: OpId(2), at: 1, len: 4, parts: vec![] },
        ],
    );
    let read = IoResult::Read(Bytes::from_static(b"bc\0\0"));
    assert_eq!(results[1], (OpId(2), read));
}

#[test]
fn batches_are_packed_and_unpacked_with_every_codec_and_never_beyond_the_bound() {
    let mut builder = batch::Builder::new();
    builder.push(7, Some(b"key"), Some(&[b'v'; 100_000]), &[]);
    let plain = Bytes::from(builder.build(None));
    for (number, codec) in (0..).zip([Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]) {
        let pack = Io::Pack { op: OpId(1), batch: plain.clone(), codec };
        let (results, _) = perform(&format!("pack-{number}"), vec![pack]);
        let IoResult::Read(packed) = &results[0].1 else { panic!("{codec:?}") };
        assert_eq!(Header::parse(packed).unwrap().codec(), Some(codec));
        assert!(packed.len() < 10_000);
        let unpack = |bytes_max| {
            let io = Io::Unpack { op: OpId(2), batch: packed.clone(), bytes_max };
            perform(&format!("unpack-{number}"), vec![io]).0.remove(0).1
        };
        assert_eq!(unpack(200_000), IoResult::Read(plain.clone()), "{codec:?}");
        assert_eq!(unpack(99_999), IoResult::Failed, "{codec:?}");
    }
}

#[test]
fn a_write_into_a_slot_that_is_being_zeroed_stays() {
    let body = Bytes::from_static(b"a commit group");
    let path = std::env::temp_dir().join(format!("weir-disk-{}-turn", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let inbox = Arc::new(Inbox::default());
    let disk = Disk::start(&path, file.unwrap(), inbox.clone()).unwrap();
    let at = 1 << 20;
    disk.submit([
        Io::Zero { op: OpId(1), at: 0, len: 4 << 20 },
        Io::Write { op: OpId(2), at, bytes: body.clone() },
        Io::Flush { op: OpId(3) },
    ]);
    let mut inputs = Vec::new();
    while inputs.len() < 3 {
        block_on(poll_fn(|cx| inbox.poll_take(cx, &mut inputs)));
    }
    let content = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(&content[at as usize..][..body.len()], &body[..]);
}
