//! Arranging a profile: which frames are shown, and the tree that pictures are drawn from.

pub mod tree;
pub mod waits;

use crate::model::{
    frame::{Frame, FrameKind},
    stacks::Stacks,
};

/// Which side of the system-call boundary is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// User and kernel frames.
    #[default]
    Both,
    /// User frames only.
    User,
    /// Kernel frames only.
    Kernel,
}

/// What is shown of a profile. Nothing loses its weight: frames go, their values move to the frame
/// below, and the process stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// User frames, kernel frames or both.
    pub side: Side,
    /// Whether inlined calls are frames of their own.
    pub inlined: bool,
}

impl Default for View {
    fn default() -> Self {
        Self { side: Side::Both, inlined: true }
    }
}

impl View {
    /// The stacks as this view shows them.
    #[must_use]
    pub fn apply(&self, stacks: &Stacks<Frame>) -> Stacks<Frame> {
        stacks.map(|frame| if self.shows(frame) { vec![frame.clone()] } else { Vec::new() })
    }

    fn shows(&self, frame: &Frame) -> bool {
        if frame.inlined && !self.inlined {
            return false;
        }
        match (frame.kind, self.side) {
            (FrameKind::Process | FrameKind::Thread, _) | (_, Side::Both) => true,
            (FrameKind::Kernel, side) => side == Side::Kernel,
            // Only user stacks are cut short: without them the mark means nothing.
            (FrameKind::Marker, Side::Kernel) => !frame.name.starts_with("[truncated"),
            (_, side) => side == Side::User,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stacks<Frame> {
        let mut inlined = Frame::symbol("small", FrameKind::Native);
        inlined.inlined = true;
        let mut stacks = Stacks::new(1);
        let id = stacks.intern(&[
            Frame::symbol("app", FrameKind::Process),
            Frame::placeholder("[truncated: too deep]", FrameKind::Marker),
            Frame::symbol("main", FrameKind::Native),
            inlined,
            Frame::symbol("vfs_read", FrameKind::Kernel),
        ]);
        stacks.add(id, 0, 3);
        let lost = stacks.intern(&[
            Frame::symbol("app", FrameKind::Process),
            Frame::placeholder("[lost: ring buffer full]", FrameKind::Marker),
        ]);
        stacks.add(lost, 0, 2);
        stacks
    }

    fn shown(view: View) -> Vec<(String, u64)> {
        let stacks = view.apply(&sample());
        stacks
            .iter()
            .map(|(id, values)| {
                let names: Vec<&str> = stacks.root_first(id).iter().map(|f| &*f.name).collect();
                (names.join(" > "), values[0])
            })
            .collect()
    }

    #[test]
    fn a_side_keeps_the_process_and_every_value() {
        assert_eq!(
            shown(View { side: Side::User, inlined: true }),
            [
                ("app > [truncated: too deep] > main > small".to_owned(), 3),
                ("app > [lost: ring buffer full]".to_owned(), 2)
            ]
        );
        assert_eq!(
            shown(View { side: Side::Kernel, inlined: true }),
            [("app > vfs_read".to_owned(), 3), ("app > [lost: ring buffer full]".to_owned(), 2)]
        );
    }

    #[test]
    fn inlined_calls_can_be_left_out() {
        let all = shown(View { side: Side::Both, inlined: false });
        assert_eq!(all[0].0, "app > [truncated: too deep] > main > vfs_read");
    }
}
