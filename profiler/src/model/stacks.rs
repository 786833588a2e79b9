//! Interned stacks: a prefix tree of frames from the root down, with values where stacks end.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// A node of the prefix tree; [`StackId::ROOT`] is the empty stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(u32);

impl StackId {
    /// The empty stack.
    pub const ROOT: Self = Self(0);
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: StackId,
    frame: u32,
}

/// Stacks of frames `F`, each with `width` values (one a metric).
#[derive(Clone, Debug)]
pub struct Stacks<F> {
    frames: Vec<F>,
    frame_numbers: FxHashMap<F, u32>,
    nodes: Vec<Node>,
    children: FxHashMap<(StackId, u32), StackId>,
    values: Vec<u64>,
    width: usize,
}

impl<F: Clone + Eq + Hash> Stacks<F> {
    /// No stacks yet, for `width` metrics (at least one).
    #[must_use]
    pub fn new(width: usize) -> Self {
        let width = width.max(1);
        Self {
            frames: Vec::new(),
            frame_numbers: FxHashMap::default(),
            nodes: vec![Node { parent: StackId::ROOT, frame: u32::MAX }],
            children: FxHashMap::default(),
            values: vec![0; width],
            width,
        }
    }

    /// As [`Self::push`]; None: the tree has no such stack yet, and `most` nodes or more.
    pub fn push_within(&mut self, parent: StackId, frame: &F, most: usize) -> Option<StackId> {
        // The root is no node of a stack.
        if self.nodes.len() <= most {
            return Some(self.push(parent, frame));
        }
        let number = self.frame_numbers.get(frame)?;
        self.children.get(&(parent, *number)).copied()
    }

    /// The stack that is `parent` with `frame` called from it.
    pub fn push(&mut self, parent: StackId, frame: &F) -> StackId {
        let number = match self.frame_numbers.get(frame) {
            Some(number) => *number,
            None => {
                let number = next(self.frames.len());
                self.frames.push(frame.clone());
                self.frame_numbers.insert(frame.clone(), number);
                number
            }
        };
        if let Some(id) = self.children.get(&(parent, number)) {
            return *id;
        }
        let id = StackId(next(self.nodes.len()));
        self.nodes.push(Node { parent, frame: number });
        self.children.insert((parent, number), id);
        self.values.resize(self.values.len() + self.width, 0);
        id
    }

    /// The stack of these frames, from the root down.
    pub fn intern<'a>(&mut self, frames: impl IntoIterator<Item = &'a F>) -> StackId
    where
        F: 'a,
    {
        frames.into_iter().fold(StackId::ROOT, |stack, frame| self.push(stack, frame))
    }

    /// Adds to one metric of a stack; sums saturate.
    pub fn add(&mut self, stack: StackId, metric: usize, value: u64) {
        let index = stack.0 as usize * self.width + metric;
        self.values[index] = self.values[index].saturating_add(value);
    }

    /// The values of the stack itself, callees not included.
    #[must_use]
    pub fn values(&self, stack: StackId) -> &[u64] {
        let start = stack.0 as usize * self.width;
        &self.values[start..start + self.width]
    }

    /// Number of metrics.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Every stack that has a value, with its values.
    pub fn iter(&self) -> impl Iterator<Item = (StackId, &[u64])> {
        (0..self.nodes.len())
            .map(|index| StackId(next(index)))
            .map(|id| (id, self.values(id)))
            .filter(|(_, values)| values.iter().any(|value| *value > 0))
    }

    /// The frames of a stack, from the leaf up to the root.
    pub fn leaf_first(&self, stack: StackId) -> impl Iterator<Item = &F> {
        let mut at = stack;
        std::iter::from_fn(move || {
            if at == StackId::ROOT {
                return None;
            }
            let node = self.nodes[at.0 as usize];
            at = node.parent;
            Some(&self.frames[node.frame as usize])
        })
    }

    /// The frames of a stack, from the root down to the leaf.
    #[must_use]
    pub fn root_first(&self, stack: StackId) -> Vec<&F> {
        let mut frames: Vec<&F> = self.leaf_first(stack).collect();
        frames.reverse();
        frames
    }

    /// Every distinct frame, in the order of its first appearance.
    #[must_use]
    pub fn frames(&self) -> &[F] {
        &self.frames
    }

    /// How many nodes the tree has: distinct stacks, with those that others begin with.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many distinct stacks have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nothing has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|value| *value == 0)
    }

    /// Sum of one metric over all stacks; it saturates.
    #[must_use]
    pub fn total(&self, metric: usize) -> u64 {
        self.values
            .iter()
            .skip(metric)
            .step_by(self.width)
            .fold(0, |sum: u64, value| sum.saturating_add(*value))
    }

    /// The same stacks with each frame replaced by any number of others (root side first). A
    /// stack's values move with it, and stacks that become equal are added up.
    pub fn map<G: Clone + Eq + Hash>(&self, expand: impl FnMut(&F) -> Vec<G>) -> Stacks<G> {
        self.map_marked(&mut [], expand)
    }

    /// As [`Self::map`]; each of `marks` becomes what it is among the new stacks.
    pub fn map_marked<G: Clone + Eq + Hash>(
        &self,
        marks: &mut [StackId],
        mut expand: impl FnMut(&F) -> Vec<G>,
    ) -> Stacks<G> {
        let expanded: Vec<Vec<G>> = self.frames.iter().map(&mut expand).collect();
        let mut mapped = Stacks::new(self.width);
        let mut ids = Vec::with_capacity(self.nodes.len());
        ids.push(StackId::ROOT);
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            let parent = ids[node.parent.0 as usize];
            let id = expanded[node.frame as usize]
                .iter()
                .fold(parent, |stack, frame| mapped.push(stack, frame));
            for (metric, value) in self.values(StackId(next(index))).iter().enumerate() {
                mapped.add(id, metric, *value);
            }
            ids.push(id);
        }
        for mark in marks {
            *mark = ids[mark.0 as usize];
        }
        mapped
    }
}

/// The number of the next frame or node.
fn next(len: usize) -> u32 {
    // SANITY: 2^32 interned frames would need hundreds of gigabytes first.
    #[expect(clippy::expect_used, reason = "memory runs out long before")]
    u32::try_from(len).expect("fewer than 2^32 interned frames")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_share_a_node() {
        let mut stacks = Stacks::new(1);
        let a = stacks.intern(&["main", "work", "leaf"]);
        let b = stacks.intern(&["main", "work", "leaf"]);
        assert_eq!(a, b);
        stacks.add(a, 0, 2);
        stacks.add(b, 0, 3);
        assert_eq!(stacks.total(0), 5);
        assert_eq!(stacks.root_first(a), [&"main", &"work", &"leaf"]);
        assert_eq!(stacks.len(), 1);
    }

    #[test]
    fn a_full_tree_takes_no_new_stacks() {
        let mut stacks = Stacks::new(1);
        let mut push = |parent, frame| stacks.push_within(parent, &frame, 2);
        let main = push(StackId::ROOT, "main").unwrap();
        let leaf = push(main, "leaf").unwrap();
        assert_eq!(push(main, "other"), None);
        assert_eq!(push(leaf, "main"), None);
        assert_eq!(push(main, "leaf"), Some(leaf));
        assert_eq!(stacks.push_within(StackId::ROOT, &"lost", 3), Some(StackId(3)));
    }

    #[test]
    fn map_expands_merges_and_drops_frames() {
        let mut stacks = Stacks::new(1);
        let a = stacks.intern(&[1, 2]);
        let b = stacks.intern(&[1, 3]);
        stacks.add(a, 0, 1);
        stacks.add(b, 0, 1);
        let mapped = stacks.map(|n| if *n == 1 { vec!["x", "y"] } else { vec![] });
        let all: Vec<_> = mapped.iter().map(|(id, v)| (mapped.root_first(id), v[0])).collect();
        assert_eq!(all, [(vec![&"x", &"y"], 2)]);
    }

    #[test]
    fn sums_saturate() {
        let mut stacks = Stacks::new(1);
        let a = stacks.intern(&["a"]);
        stacks.add(a, 0, u64::MAX);
        stacks.add(a, 0, 5);
        assert_eq!(stacks.total(0), u64::MAX);
    }
}
