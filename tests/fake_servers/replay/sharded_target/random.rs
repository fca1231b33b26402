//! Random histories, in random batches, with restarts and stretches that are applied again.

use super::*;

/// A random number generator (xorshift). A failure can be reproduced by its seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Returns a history that a source could have: documents are inserted before they are updated.
fn history(numbers: &mut Numbers, length: usize) -> Vec<(&'static str, i32, String)> {
    let mut exists = [false; 6];
    let mut log = Vec::new();
    while log.len() < length {
        let id = usize::try_from(numbers.below(6)).expect("a small number");
        let (k, x) = (numbers.below(4), numbers.below(100));
        let kind = numbers.below(8);
        let number = i32::try_from(id).expect("a small number");
        let entry = match (exists[id], kind) {
            (false, _) => {
                exists[id] = true;
                let k = if kind == 0 {
                    String::new()
                } else {
                    format!(r#","k":{k}"#)
                };
                ("i", format!(r#"{{"_id":{id}{k},"o":{{"k":{x}}}}}"#))
            }
            (true, 0) => {
                exists[id] = false;
                ("d", format!(r#"{{"_id":{id}}}"#))
            }
            (true, 1) => (
                "u",
                format!(r#"{{"_id":{id},"k":{k},"o":{{"k":{k}}},"x":{x}}}"#),
            ),
            (true, 2) => ("u", format!(r#"{{"$v":1,"$set":{{"k":{k}}}}}"#)),
            (true, 3) => (
                "u",
                format!(r#"{{"$v":2,"diff":{{"u":{{"k":{k},"x":{x}}}}}}}"#),
            ),
            (true, 4) => ("u", format!(r#"{{"$v":1,"$set":{{"o.k":{k},"y":{x}}}}}"#)),
            (true, 5) => ("u", r#"{"$v":1,"$unset":{"k":true}}"#.to_owned()),
            (true, 6) => ("u", format!(r#"{{"$v":2,"diff":{{"i":{{"n{x}":{x}}}}}}}"#)),
            (true, _) => ("u", format!(r#"{{"$v":1,"$set":{{"x":{x}}}}}"#)),
        };
        log.push((entry.0, number, entry.1));
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_with_restarts_ends_with_each_document_once() -> Result<()> {
    for seed in 1..=40_u64 {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let log = history(&mut numbers, 60);
        let log: Vec<(&str, i32, &str)> = log
            .iter()
            .map(|(op, id, o)| (*op, *id, o.as_str()))
            .collect();
        let key = KEYS[usize::try_from(numbers.below(5))?];
        // Applying entries again may change the order of fields, so both targets get the same batches.
        let replica_set = Scene::new("count").await?;
        let mut scene = sharded(Version::V6_0, key, &[]).await?;
        if seed % 3 == 0 {
            scene.server.model().refuse_transactions();
        }
        let mut at = 0;
        while at < log.len() {
            let end = log.len().min(at + 1 + usize::try_from(numbers.below(12))?);
            scene.rewind(u32::try_from(at)?);
            scene.done(&log[at..end]).await?;
            replica_set.rewind(u32::try_from(at)?);
            replica_set.done(&log[at..end]).await?;
            assert_eq!(
                scene.documents()?,
                replica_set.documents()?,
                "seed {seed}, {key}, {at}"
            );
            at = end;
            if numbers.below(4) == 0 {
                // The group continues at an earlier offset.
                at -= usize::try_from(numbers.below(10))?.min(at);
                scene = another(&scene).await?;
            }
        }
    }
    Ok(())
}
