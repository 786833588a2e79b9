//! Stacks as a tree of labelled nodes with own and total values, in a stable order.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{
    frame::{Frame, FrameKind},
    stacks::Stacks,
};

/// What a node is called, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The text that frames are merged by.
    pub text: Arc<str>,
    /// What kind of code the first frame of this text is.
    pub kind: FrameKind,
    /// Whether that frame was inlined.
    pub inlined: bool,
    /// Whether its name is a symbol's.
    pub symbol: bool,
}

/// One node: a frame called from its parent.
#[derive(Clone, Debug)]
pub struct Node {
    /// Index into [`Tree::labels`]; the root has none.
    label: u32,
    /// The value of stacks that end here.
    pub own: u64,
    /// `own` and the totals of all children; it saturates.
    pub total: u64,
    /// Indexes of the children, by label text.
    pub children: Vec<u32>,
}

/// A tree of stacks; node 0 is the root, which stands for everything.
#[derive(Clone, Debug)]
pub struct Tree {
    labels: Vec<Label>,
    nodes: Vec<Node>,
}

impl Tree {
    /// The tree of one metric. Frames of equal `text` are one node, whatever else differs (source
    /// file, line, module).
    #[must_use]
    pub fn new(stacks: &Stacks<Frame>, metric: usize, text: impl Fn(&Frame) -> String) -> Self {
        let mut labels = Vec::new();
        let mut numbers: FxHashMap<Arc<str>, u32> = FxHashMap::default();
        let numbered: Stacks<u32> = stacks.map(|frame| {
            let text: Arc<str> = text(frame).into();
            let number = *numbers.entry(text.clone()).or_insert_with(|| {
                let Frame { kind, inlined, symbol, .. } = *frame;
                labels.push(Label { text, kind, inlined, symbol });
                index(labels.len() - 1)
            });
            vec![number]
        });
        let mut tree = Self { labels, nodes: vec![Node::new(u32::MAX)] };
        tree.grow(&numbered, metric);
        tree.finish();
        tree
    }

    fn grow(&mut self, stacks: &Stacks<u32>, metric: usize) {
        let mut children: FxHashMap<(u32, u32), u32> = FxHashMap::default();
        for (id, values) in stacks.iter().filter(|(_, values)| values[metric] > 0) {
            let mut at = 0;
            for label in stacks.root_first(id) {
                at = *children.entry((at, *label)).or_insert_with(|| {
                    let child = index(self.nodes.len());
                    self.nodes.push(Node::new(*label));
                    self.nodes[at as usize].children.push(child);
                    child
                });
            }
            let node = &mut self.nodes[at as usize];
            node.own = node.own.saturating_add(values[metric]);
        }
    }

    /// Sums totals (a child's index is always above its parent's) and sorts children.
    fn finish(&mut self) {
        for at in (0..self.nodes.len()).rev() {
            let node = &self.nodes[at];
            let below = node.children.iter().map(|child| self.nodes[*child as usize].total);
            let total = below.fold(node.own, u64::saturating_add);
            let mut children = std::mem::take(&mut self.nodes[at].children);
            children.sort_by(|a, b| self.text_of(*a).cmp(self.text_of(*b)));
            self.nodes[at].total = total;
            self.nodes[at].children = children;
        }
    }

    fn text_of(&self, node: u32) -> &str {
        let label = self.nodes[node as usize].label;
        &self.labels[label as usize].text
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.nodes[0]
    }

    /// A node by its index, as [`Node::children`] holds them.
    #[must_use]
    pub fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    /// The label of a node; none for the root.
    #[must_use]
    pub fn label(&self, node: &Node) -> Option<&Label> {
        self.labels.get(node.label as usize)
    }

    /// Every label of the tree.
    #[must_use]
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }
}

impl Node {
    fn new(label: u32) -> Self {
        Self { label, own: 0, total: 0, children: Vec::new() }
    }
}

/// An index of labels or nodes.
fn index(len: usize) -> u32 {
    // SANITY: a tree has no more nodes than the stacks it is made from, which hold below 2^32.
    #[expect(clippy::expect_used, reason = "bounded by the stacks' own numbering")]
    u32::try_from(len).expect("fewer than 2^32 nodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_one_name_are_one_node_and_totals_add_up() {
        let mut stacks = Stacks::new(1);
        let mut at_line = Frame::symbol("work", FrameKind::Native);
        at_line.line = Some(3);
        for (leaf, count) in [
            (at_line, 2),
            (Frame::symbol("work", FrameKind::Native), 3),
            (Frame::symbol("idle", FrameKind::Native), 1),
        ] {
            let id = stacks.intern(&[Frame::symbol("app", FrameKind::Process), leaf]);
            stacks.add(id, 0, count);
        }
        let tree = Tree::new(&stacks, 0, |frame| frame.name.to_string());
        assert_eq!(tree.root().total, 6);
        let app = tree.node(tree.root().children[0]);
        let below: Vec<_> = app
            .children
            .iter()
            .map(|child| tree.node(*child))
            .map(|node| (&*tree.label(node).unwrap().text, node.own, node.total))
            .collect();
        assert_eq!(below, [("idle", 1, 1), ("work", 5, 5)]);
    }
}
