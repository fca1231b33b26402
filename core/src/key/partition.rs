//! The partition of a key, as Kafka's Java clients choose it.

/// Returns the partition of a key in a topic with this number of partitions. The key is hashed by
/// murmur2 as in Kafka's default partitioner, so the topics are co-partitioned with topics of Java
/// clients that have the same number of partitions. The result has at most 31 bits. Returns zero if
/// `partitions` is zero.
#[must_use]
pub fn partition_for(key: &[u8], partitions: u32) -> u32 {
    // Java clears the sign bit before the modulo.
    (murmur2(key) & 0x7fff_ffff)
        .checked_rem(partitions)
        .unwrap_or_default()
}

/// Computes the hash `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java hashes arrays, whose length is an int. A key is far shorter.
    let mut hash = SEED ^ u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        mixed ^= mixed >> R;
        hash = hash.wrapping_mul(M) ^ mixed.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_match_the_vectors_of_kafka() {
        // The vectors are from UtilsTest.testMurmur2 of Apache Kafka.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn zero_partitions_do_not_panic() {
        assert_eq!(partition_for(b"key", 0), 0);
        assert_eq!(partition_for(b"key", 1), 0);
    }
}
