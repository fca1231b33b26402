//! Cycles in a graph: its strongly connected components of more than one node.

/// Finds the cycles by Tarjan's algorithm. `edges` contains the successors of each node.
pub(crate) fn cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        edges,
        numbers: vec![None; edges.len()],
        lowest: vec![0; edges.len()],
        open: Vec::new(),
        next: 0,
        found: Vec::new(),
    };
    for node in 0..edges.len() {
        if search.numbers.get(node) == Some(&None) {
            search.visit(node);
        }
    }
    search.found
}

struct Search<'e> {
    edges: &'e [Vec<usize>],
    /// The order in which the nodes were reached.
    numbers: Vec<Option<usize>>,
    /// The lowest number that each node can reach through open nodes.
    lowest: Vec<usize>,
    /// Nodes whose component is not complete.
    open: Vec<usize>,
    next: usize,
    found: Vec<Vec<usize>>,
}

#[allow(
    clippy::indexing_slicing,
    reason = "nodes are indices of `edges`, and `numbers` and `lowest` have its length"
)]
impl Search<'_> {
    fn visit(&mut self, node: usize) {
        let number = self.next;
        self.numbers[node] = Some(number);
        self.lowest[node] = number;
        self.next += 1;
        self.open.push(node);
        let edges = self.edges;
        for &to in &edges[node] {
            match self.numbers[to] {
                None => {
                    self.visit(to);
                    self.lowest[node] = self.lowest[node].min(self.lowest[to]);
                }
                Some(number) if self.open.contains(&to) => {
                    self.lowest[node] = self.lowest[node].min(number);
                }
                Some(_) => {}
            }
        }
        if self.lowest[node] == number {
            let begin = self.open.iter().position(|open| *open == node).unwrap_or(0);
            let component = self.open.split_off(begin);
            if component.len() > 1 {
                self.found.push(component);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_reach_each_other_are_a_cycle() {
        let edges = [vec![1], vec![2, 3], vec![1], vec![4], vec![]];
        assert_eq!(cycles(&edges), [vec![1, 2]]);
        assert_eq!(cycles(&[vec![1], vec![]]), [[0_usize; 0]; 0]);
    }
}
