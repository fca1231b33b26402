//! Benchmarks of the steps of the work per entry: `cargo bench -p oplog-relay-bench [name]`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oplog_relay_bench::pieces::{ENTRIES, Piece};

fn pieces(criterion: &mut Criterion) {
    for mut piece in Piece::all() {
        let (what, entries) = piece.name.split_once('/').expect("what/entries");
        let mut group = criterion.benchmark_group(what);
        group.throughput(Throughput::Elements(ENTRIES));
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter(|| piece.pass());
        });
        group.finish();
    }
}

criterion_group!(benches, pieces);
criterion_main!(benches);
