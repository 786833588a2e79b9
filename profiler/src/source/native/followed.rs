//! Walks through code that was made at run time and does not keep to frame pointers. The kernel hands
//! them up where they come to such code; here it is followed to where it returns.

use profiler_ebpf::{
    walk::{Env, Walk},
    wire::{FRAME_ADDRESS, Outcome, Rule},
};
use rustc_hash::FxHashMap;

use super::{
    code::Code,
    frames::code_address,
    regions::{Region, region_at},
};
use crate::{
    model::{loss::Truncation, profile::ModuleKind},
    source::native::modules::Rows,
    unwind::{ends_in_call, frame_at, ways_out},
};

/// The most places whose ways out are remembered.
const MAX_PLACES: usize = 1 << 16;

/// The ways out of places in code, as they were when they were followed.
#[derive(Debug, Default)]
pub struct Followed {
    places: FxHashMap<(u32, u64), Box<[Rule]>>,
}

impl Followed {
    /// Makes one step out of code that was made at run time: by the first of its ways that leads to
    /// behind a call, else to other such code, else by frame pointer. The last of the ways is by where
    /// the code begins.
    pub fn step<E: Env>(&mut self, walk: &mut Walk, env: &mut E, code: &Code<'_>) -> Outcome {
        let place = (code.pid, walk.registers.ip);
        if let Some(ways) = self.places.get(&place)
            && try_ways(ways, walk, env, code)
        {
            return Outcome::Walking;
        }
        // What it was before may not be there any more.
        let mut read = |page| code.made_page(page);
        let mut ways = ways_out(walk.registers.ip, &mut read);
        ways.extend(frame_at(walk.registers.ip, &mut read));
        if try_ways(&ways, walk, env, code) {
            if self.places.len() < MAX_PLACES {
                self.places.insert(place, ways.into());
            }
            return Outcome::Walking;
        }
        walk.step_by(env, &Rule::NONE)
    }
}

/// Goes the first of these ways that may be the true one, if there is one.
fn try_ways<E: Env>(ways: &[Rule], walk: &mut Walk, env: &mut E, code: &Code<'_>) -> bool {
    let registers = walk.registers;
    // HotSpot's interpreter jumps to what it calls, with a return address that it has put there.
    for arrives in [Code::is_behind_call, Code::is_in_followed] {
        for way in ways {
            if walk.step_by(env, way) == Outcome::Walking && arrives(code, walk) {
                return true;
            }
            walk.registers = registers;
        }
    }
    false
}

impl Code<'_> {
    /// Whether a walk stands behind a call.
    fn is_behind_call(&self, walk: &Walk) -> bool {
        let before = walk.registers.ip.checked_sub(8).and_then(|before| self.word(before));
        before.is_some_and(|before| ends_in_call(before.to_le_bytes()))
    }

    fn is_in_followed(&self, walk: &Walk) -> bool {
        self.is_followed(walk.frame())
    }

    /// Whether the code at a frame was made at run time, and is followed.
    pub fn is_followed(&self, frame: u64) -> bool {
        let region = region_at(self.regions, code_address(frame).lookup());
        region.is_some_and(|region| matches!(self.modules.rows(region.module), Rows::Followed))
    }

    /// The code that was made at run time and that a walk went astray in, if it did: the region of the
    /// last frame that lies in one, or of the one before.
    pub fn lost_in(&self, frames: &[u64], cause: Option<Truncation>) -> Option<&Region> {
        let astray = matches!(
            cause?,
            Truncation::NoFramePointer
                | Truncation::UnknownMapping
                | Truncation::UnreadableStack
                | Truncation::StackNotAdvancing
        );
        let last = frames.iter().rev().take(2).filter(|_| astray);
        let mut regions = last.filter_map(|frame| {
            region_at(self.regions, code_address(frame & FRAME_ADDRESS).lookup())
        });
        regions.find(|region| {
            let module = self.modules.module(region.module);
            matches!(module.kind, ModuleKind::Anonymous { .. })
        })
    }
}
