//! Arranging stacks of waits.

use crate::model::{
    frame::{Frame, FrameKind},
    stacks::{StackId, Stacks},
};

/// The stacks as they are shown. The frames of the switch to another task itself are left out, which
/// are the same for every wait and partly our own: a wait ends where the kernel decides to wait, with
/// the marker of the state behind that. Who ended it comes behind, leaf first, so that the two ends
/// of a waking meet.
#[must_use]
pub fn arrange(stacks: &Stacks<Frame>, woken: &str) -> Stacks<Frame> {
    let mut shown = Stacks::new(stacks.width());
    for (id, values) in stacks.iter() {
        let frames = stacks.root_first(id);
        let is_woken = |frame: &&Frame| frame.kind == FrameKind::Marker && *frame.name == *woken;
        let middle = frames.iter().position(is_woken).unwrap_or(frames.len());
        let (wait, waker) = frames.split_at(middle);
        let end = end(wait);
        let mut stack = StackId::ROOT;
        for (depth, frame) in wait.iter().copied().enumerate() {
            if depth < end || frame.kind != FrameKind::Kernel {
                stack = shown.push(stack, frame);
            }
        }
        if let Some((marker, waker)) = waker.split_first() {
            stack = shown.push(stack, marker);
            for frame in waker_frames(waker) {
                stack = shown.push(stack, &frame);
            }
        }
        for (metric, value) in values.iter().enumerate() {
            shown.add(stack, metric, *value);
        }
    }
    shown
}

/// The frames of who ended a wait, leaf first: from the kernel's function that wakes on. What an
/// interrupt wakes, nobody does who was running then.
fn waker_frames(frames: &[&Frame]) -> Vec<Frame> {
    let is_kernel = |frame: &&&Frame| frame.kind == FrameKind::Kernel;
    let kernel = |wanted: fn(&str) -> bool| {
        frames.iter().rposition(|frame| is_kernel(&frame) && wanted(&frame.name))
    };
    let wakes = |name: &str| name.split('.').next() == Some("try_to_wake_up");
    let end = kernel(wakes).map_or(frames.len(), |at| at + 1);
    let interrupt = kernel(is_interrupt).filter(|at| *at < end);
    let root = interrupt.map(|_| Frame::placeholder("[interrupt]", FrameKind::Marker));
    let own = frames[interrupt.unwrap_or(0)..end].iter().rev().map(|frame| (*frame).clone());
    own.chain(root).collect()
}

/// Whether the kernel enters an interrupt by a function (arch/x86/include/asm/idtentry.h).
fn is_interrupt(name: &str) -> bool {
    name.starts_with("asm_sysvec_") || name == "asm_common_interrupt"
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
        let expected = [("app __schedule pipe_read [sleeping]".to_owned(), 10)];
        assert_eq!(arranged(&stacks), expected);
    }

    fn arranged(stacks: &Stacks<Frame>) -> Vec<(String, u64)> {
        let shown = arrange(stacks, "[woken by]");
        let of = |(id, values): (StackId, &[u64])| {
            let names: Vec<&str> = shown.root_first(id).iter().map(|f| &*f.name).collect();
            (names.join(" "), values[0])
        };
        shown.iter().map(of).collect()
    }

    #[test]
    fn who_ended_a_wait_comes_leaf_first() {
        let kernel = |name: &str| Frame::symbol(name, FrameKind::Kernel);
        let wait = [
            Frame::symbol("app", FrameKind::Process),
            kernel("pipe_read"),
            kernel("schedule"),
            Frame::placeholder("[sleeping]", FrameKind::Marker),
            Frame::placeholder("[woken by]", FrameKind::Marker),
            Frame::symbol("other", FrameKind::Thread),
            Frame::symbol("main", FrameKind::Native),
        ];
        let by_task = ["pipe_write", "try_to_wake_up", "__traceiter_sched_waking"].map(kernel);
        let by_interrupt = [
            "schedule",
            "asm_sysvec_apic_timer_interrupt",
            "hrtimer_wakeup",
            "try_to_wake_up.isra.0",
        ]
        .map(kernel);
        let mut stacks = Stacks::new(1);
        for waker in [&by_task[..], &by_interrupt] {
            let id = stacks.intern(wait.iter().chain(waker));
            stacks.add(id, 0, 5);
        }
        // A function of the program's own of that name is no interrupt.
        let own = Frame::symbol("asm_common_interrupt", FrameKind::Native);
        let id = stacks.intern(wait.iter().chain([&own]));
        stacks.add(id, 0, 5);
        let expected = [
            "try_to_wake_up pipe_write main other",
            "try_to_wake_up.isra.0 hrtimer_wakeup asm_sysvec_apic_timer_interrupt [interrupt]",
            "asm_common_interrupt main other",
        ];
        let expected =
            expected.map(|waker| (format!("app pipe_read [sleeping] [woken by] {waker}"), 5));
        assert_eq!(arranged(&stacks), expected);
    }

    #[test]
    fn other_functions_are_no_switch() {
        assert!(!is_switch("io_schedule") && !is_switch("schedule_work"));
        assert!(is_switch("schedule_hrtimeout_range") && is_switch("schedule_timeout"));
    }
}
