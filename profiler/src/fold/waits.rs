//! Arranging stacks of waits.

use crate::model::{
    frame::{Frame, FrameKind},
    stacks::{StackId, Stacks},
};

/// The stacks without the frames of the switch to another task itself, which are the same for every
/// wait and partly our own: they end where the kernel decides to wait, with the marker of the state
/// behind that.
#[must_use]
pub fn without_switch(stacks: &Stacks<Frame>) -> Stacks<Frame> {
    let mut shown = Stacks::new(stacks.width());
    for (id, values) in stacks.iter() {
        let frames = stacks.root_first(id);
        let end = end(&frames);
        let mut stack = StackId::ROOT;
        for (depth, frame) in frames.into_iter().enumerate() {
            if depth < end || frame.kind != FrameKind::Kernel {
                stack = shown.push(stack, frame);
            }
        }
        for (metric, value) in values.iter().enumerate() {
            shown.add(stack, metric, *value);
        }
    }
    shown
}

/// The last frame of a stack before the switch.
#[must_use]
pub fn leaf(stacks: &Stacks<Frame>, stack: StackId) -> Option<&Frame> {
    let frames = stacks.root_first(stack);
    frames[..end(&frames)].last().copied()
}

/// Where the switch begins.
fn end(frames: &[&Frame]) -> usize {
    let is_switch = |frame: &&Frame| frame.kind == FrameKind::Kernel && is_switch(&frame.name);
    frames.iter().position(is_switch).unwrap_or(frames.len())
}

/// Whether a function only switches, at once or with a time limit: `schedule`, `schedule_timeout`,
/// and `__schedule`, which compilers may have split (`__schedule.constprop.0`). Of a task that waits
/// already the kernel does not tell these at all.
fn is_switch(name: &str) -> bool {
    let name = name.strip_prefix("__").unwrap_or(name);
    let rest = name.strip_prefix("schedule");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']) && rest != "_work")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_goes_and_the_state_stays() {
        let mut stacks = Stacks::new(1);
        for switch in ["__schedule", "__schedule.constprop.0"] {
            let id = stacks.intern(&[
                Frame::symbol("app", FrameKind::Process),
                Frame::symbol("__schedule", FrameKind::Native),
                Frame::symbol("pipe_read", FrameKind::Kernel),
                Frame::symbol("schedule", FrameKind::Kernel),
                Frame::symbol(switch, FrameKind::Kernel),
                Frame::symbol("__traceiter_sched_switch", FrameKind::Kernel),
                Frame::placeholder("[sleeping]", FrameKind::Marker),
            ]);
            stacks.add(id, 0, 5);
        }
        let shown = without_switch(&stacks);
        let names: Vec<_> = shown
            .iter()
            .map(|(id, values)| {
                let names: Vec<&str> = shown.root_first(id).iter().map(|f| &*f.name).collect();
                (names.join(" "), values[0])
            })
            .collect();
        assert_eq!(names, [("app __schedule pipe_read [sleeping]".to_owned(), 10)]);
    }

    #[test]
    fn other_functions_are_no_switch() {
        assert!(!is_switch("io_schedule") && !is_switch("schedule_work"));
        assert!(is_switch("schedule_hrtimeout_range") && is_switch("schedule_timeout"));
    }
}
