//! A random sample of a stream whose length is not known (Vitter's algorithm R). Performs no
//! I/O.

use std::hash::{BuildHasher, RandomState};

/// Decides for each item whether it is put into the sample, and at which place.
#[derive(Debug)]
pub(super) struct Draw {
    size: u64,
    seen: u64,
    /// The source of randomness, seeded by the standard library.
    random: RandomState,
}

impl Draw {
    /// Creates a draw of the given size.
    pub(super) fn new(size: u32) -> Self {
        Self {
            size: u64::from(size),
            seen: 0,
            random: RandomState::new(),
        }
    }

    /// Returns the place of the next item in the sample, or `None` if it is not in the sample.
    pub(super) fn next(&mut self) -> Option<usize> {
        let number = self.seen;
        self.seen += 1;
        let place = if number < self.size {
            number
        } else {
            self.random.hash_one(number) % self.seen
        };
        (place < self.size).then(|| usize::try_from(place).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_have_the_same_chance() {
        let mut hits = [0_u32; 2];
        for _ in 0..200 {
            let mut draw = Draw::new(10);
            let mut kept = [0_usize; 10];
            for item in 0..100 {
                if let Some(place) = draw.next() {
                    kept[place] = item;
                }
            }
            for item in kept {
                hits[usize::from(item >= 50)] += 1;
            }
        }
        assert_eq!(hits[0] + hits[1], 2000);
        assert!(hits[0].abs_diff(hits[1]) < 400, "{hits:?}");
    }
}
