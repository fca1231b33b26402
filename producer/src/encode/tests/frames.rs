//! Sizes of the buffers that frames keep.

use super::*;

/// Returns an insert of the given number of bytes.
fn large(seconds: u32, ns: &str, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    let ts = Timestamp::new(seconds, 1);
    entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    entry.int32("v", 2).str("op", "i").str("ns", ns);
    entry.nested("o", kind::DOCUMENT, |o| {
        o.int32("_id", 1).str("text", &"x".repeat(bytes));
    });
    entry.finish();
    out
}

/// Returns the largest number of bytes of the buffers while several collections have a frame of a
/// megabyte each, one after the other.
fn kept_after(collections: u32) -> usize {
    let mut encoder = encoder(Format::Raw);
    let mut most = 0;
    for number in 1..=collections {
        let entry = large(number, &format!("shop.c{number}"), 1 << 20);
        let chunk = encode(&mut encoder, &[entry]).unwrap();
        assert!(chunk.arena.len() > 1 << 20);
        most = most.max(encoder.frames.capacity());
    }
    most
}

#[test]
fn buffers_of_frames_are_bounded_however_many_collections_had_a_large_one() {
    assert!(kept_after(8) >= 8 << 20, "buffers are reused");
    let kept = kept_after(300);
    assert!(kept <= 3 * FRAMES_BYTES, "{kept}");
}

/// Buffers that are filled repeatedly stay even if too much is kept.
#[test]
fn buffers_that_each_chunk_fills_stay() {
    let mut encoder = encoder(Format::Raw);
    let entries = (0..40).map(|number| large(1, &format!("shop.c{number}"), 1 << 20));
    let mut entries: Vec<_> = entries.collect();
    // Chunks are closed explicitly, so that all of these are in one.
    let mut seconds = 0;
    let mut turn = |encoder: &mut Encoder, entries: &[Vec<u8>]| {
        let mut chunk = Chunk::default();
        for entry in entries {
            seconds += 1;
            let mut entry = entry.clone();
            let ts = Timestamp::new(seconds, 1).to_le_bytes();
            entry[8..16].copy_from_slice(&ts);
            let entry = encoder.read_entry(Document::new(&entry).unwrap()).unwrap();
            let nothing = &mut |_: &mut Chunk| Ok(());
            encoder.encode_entry(&entry, &mut chunk, nothing).unwrap();
        }
        encoder.complete(&mut chunk);
        encoder.frames.capacity()
    };
    let all = turn(&mut encoder, &entries);
    assert!(all > 2 * FRAMES_BYTES, "{all}");
    assert_eq!(turn(&mut encoder, &entries), all);
    assert_eq!(turn(&mut encoder, &entries), all);
    entries.truncate(10);
    let ten = turn(&mut encoder, &entries);
    assert!(ten >= 10 << 20 && ten < all / 2, "{ten}");
    assert_eq!(turn(&mut encoder, &entries), ten);
}
